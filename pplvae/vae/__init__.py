"""The variational autoencoder as a Pyro model and guide: build, fit, judge, look."""

from pplvae.vae import bounds, likelihoods, manifold
from pplvae.vae.builders import mlp
from pplvae.vae.likelihoods import Bernoulli, Gaussian, Likelihood
from pplvae.vae.model import VAE
from pplvae.vae.training import VAEFit, fit

load = VAE.load

__all__ = [
    "VAE", "Bernoulli", "Gaussian", "Likelihood", "VAEFit", "bounds", "fit", "likelihoods", "load",
    "manifold", "mlp",
]  # fmt: skip
