"""Judges of inference: methods side by side, and whether to believe them."""

from pplvae.compare.methods import Comparison, methods

__all__ = ["Comparison", "methods"]
