"""Inference for any Pyro model; nothing here knows which. One engine is one file."""

from pplvae.infer import exact, laplace, nuts, svi
from pplvae.infer.posterior import Cost, Posterior, load

__all__ = ["Cost", "Posterior", "exact", "laplace", "load", "nuts", "svi"]
