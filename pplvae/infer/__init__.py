"""Inference for any Pyro model; nothing here knows which. One engine is one file."""

from pplvae.infer import em, exact, importance, laplace, map, nuts, svi
from pplvae.infer.decomposition import decomposition, decomposition_of_draws
from pplvae.infer.lifting import least_absolute_deviations
from pplvae.infer.posterior import Cost, Posterior, load

__all__ = [
    "Cost",
    "Posterior",
    "decomposition",
    "decomposition_of_draws",
    "em",
    "exact",
    "importance",
    "laplace",
    "least_absolute_deviations",
    "load",
    "map",
    "nuts",
    "svi",
]
