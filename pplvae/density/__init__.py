"""Non-parametric density estimates, as plain functions of tensors."""

from pplvae.density import bandwidth, kernel, neighbor
from pplvae.density.histogram import Histogram, JointHistogram, histogram, joint_histogram

__all__ = [
    "Histogram",
    "JointHistogram",
    "bandwidth",
    "histogram",
    "joint_histogram",
    "kernel",
    "neighbor",
]
