"""The variational autoencoder as a Pyro model and guide: build, fit, judge, look."""

from pplvae.vae import (
    bounds,
    flows,
    likelihoods,
    manifold,
    objectives,
    posteriors,
    priors,
    published,
)
from pplvae.vae.bending import bend
from pplvae.vae.builders import conv, hierarchical, linear, mlp
from pplvae.vae.diagnosis import Diagnosis, diagnose
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.levels import Categorical, DiscretizedLogistic
from pplvae.vae.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian, Likelihood
from pplvae.vae.model import VAE
from pplvae.vae.objectives import ELBO, IWAE, Objective
from pplvae.vae.training import VAEFit, fit

load = VAE.load

__all__ = [
    "ELBO", "IWAE", "VAE", "Bernoulli", "Categorical", "ContinuousBernoulli", "Diagnosis",
    "DiscretizedLogistic", "Gaussian", "HierarchicalVAE", "Likelihood", "Objective", "VAEFit",
    "bend", "bounds", "conv", "diagnose", "fit", "flows", "hierarchical", "likelihoods", "linear",
    "load", "manifold", "mlp", "objectives", "posteriors", "priors", "published",
]  # fmt: skip
