"""Gaussian mixtures: one model, one file per way of fitting it."""

from pplvae.mixtures import em, svi
from pplvae.mixtures.model import GaussianMixture, model
from pplvae.mixtures.relabel import relabel

__all__ = ["GaussianMixture", "em", "model", "relabel", "svi"]
