"""Deterministic autoencoders, from PCA to the stacked, the denoising and the convolutional."""

from pplvae.autoencoders import convolutional, denoising, linear, probabilistic, stacked
from pplvae.autoencoders.builders import conv, mlp
from pplvae.autoencoders.decomposition import principal_angles
from pplvae.autoencoders.model import Autoencoder
from pplvae.autoencoders.probabilistic import ProbabilisticPCA
from pplvae.autoencoders.training import AutoencoderFit, fit
from pplvae.autoencoders.traversal import traverse

load = Autoencoder.load

__all__ = [
    "Autoencoder", "AutoencoderFit", "ProbabilisticPCA", "conv", "convolutional", "denoising",
    "fit", "linear", "load", "mlp", "principal_angles", "probabilistic", "stacked", "traverse",
]  # fmt: skip
