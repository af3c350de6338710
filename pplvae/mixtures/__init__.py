"""Gaussian mixtures: one model, one file per way of fitting it."""

from pplvae.mixtures import em, gibbs, nuts, selection, svi
from pplvae.mixtures.distribution import MixtureOfNormals
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.model import model
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.mixtures.relabel import relabel

__all__ = [
    "GaussianMixture", "MixtureOfNormals", "MixturePosterior", "NormalInverseWishart", "em",
    "gibbs", "model", "nuts", "relabel", "selection", "svi",
]  # fmt: skip
