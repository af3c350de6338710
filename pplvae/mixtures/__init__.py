"""Gaussian mixtures: one model, one file per way of fitting it."""

from pplvae.mixtures import em, svi
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.model import model
from pplvae.mixtures.relabel import relabel

__all__ = ["GaussianMixture", "em", "model", "relabel", "svi"]
