"""Inference for any Pyro model; nothing here knows which. One engine is one file."""

from pplvae.infer.posterior import Cost, Posterior, load

__all__ = ["Cost", "Posterior", "load"]
