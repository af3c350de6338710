"""Non-parametric density estimates, as plain functions of tensors."""

from pplvae.density import bandwidth, kernel, neighbor
from pplvae.density.histogram import Histogram, histogram

__all__ = ["Histogram", "bandwidth", "histogram", "kernel", "neighbor"]
