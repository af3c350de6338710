"""Priors p(z): what a code is before any data are seen.

    standard_normal:  p(z) = Normal(z; 0, I)
    mixture:          p(z) = Σ_k w_k Normal(z; m_k, diag s_k²)
    vamp:             p(z) = 1/K Σ_k q(z | u_k),  pseudo-inputs u_k learned
    flow:             p(z) = Normal(F(z); 0, I) |det ∂F/∂z|,  F a masked autoregressive flow

The best prior for a guide is its average over the data, 1/N Σ_n q(z | x_n); the last three can
come near it.

Reference:
    Tomczak & Welling (2018), VAE with a VampPrior, https://arxiv.org/abs/1705.07120; Papamakarios,
    Pavlakou & Murray (2017), Masked autoregressive flow, https://arxiv.org/abs/1705.07057
"""

from collections.abc import Callable

from pyro.distributions import TorchDistribution

from pplvae.vae.priors.flow import FlowPrior, Scored
from pplvae.vae.priors.mixture import Mixture, MixtureOfGaussians
from pplvae.vae.priors.prior import Given, Prior, StandardNormal
from pplvae.vae.priors.vamp import VampPrior
from pplvae.validation import check_one_of

__all__ = [
    "PRIORS", "FlowPrior", "Mixture", "MixtureOfGaussians", "Prior", "Scored", "StandardNormal",
    "VampPrior", "as_prior",
]  # fmt: skip

PRIORS: dict[str, type[Prior]] = {
    "standard_normal": StandardNormal,
    "mixture": MixtureOfGaussians,
    "vamp": VampPrior,
    "flow": FlowPrior,
}


def as_prior(prior: str | Callable[[], TorchDistribution], latent_dim: int) -> Prior:
    """Return a prior, the name of one, or a function that gives one, as a prior.

    Raises:
        ValueError: If it is none of these, or a posterior.
    """
    from pplvae.vae.posteriors import Posterior

    if isinstance(prior, str):
        check_one_of("prior", prior, PRIORS)
        return PRIORS[prior](latent_dim)
    if isinstance(prior, Posterior):
        raise ValueError(
            f"prior must be a law without x, got the posterior {type(prior).__name__}"
            "; an InverseAutoregressive has a quick density only of its own draws: use FlowPrior"
        )
    if isinstance(prior, type) or not callable(prior):
        raise ValueError(f"prior must be a name, an instance or a function, got {prior}")
    return prior if isinstance(prior, Prior) else Given(prior)
