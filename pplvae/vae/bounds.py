"""How well a VAE explains data: bounds on log p(x), and estimates of it, in nats.

    ELBO(x)   = E_{q(z|x)} [log p(x | z)] − KL(q(z | x) ‖ p(z)) = log p(x) − KL(q(z|x) ‖ p(z|x))
    IWAE_K(x) = E log 1/K Σ_k w_k,   w_k = p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)

The first term of the ELBO is the reconstruction, the second the price of the code. IWAE_1 is the
ELBO, and IWAE_K rises with K to log p(x), which it nears for many draws where the guide misses
nothing that matters.

Where x is discrete, −log p(x) / (D log 2) is a code length in bits per dimension. For a density it
would be none: it changes with the units of x, may be negative, and is nan here.

Reference:
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; Burda, Grosse & Salakhutdinov (2016),
    https://arxiv.org/abs/1509.00519; Lecture 5 (28/10/2024)
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from pplvae import randomness
from pplvae.networks import evaluating
from pplvae.vae import particles
from pplvae.vae.evidence import LogLikelihood, bits_per_dimension, checked, log_likelihood
from pplvae.vae.information import Terms, kl_of, rows, standard_error, terms
from pplvae.vae.model import VAE
from pplvae.validation import Array

__all__ = [
    "Elbo", "Iwae", "LogLikelihood", "Terms", "elbo", "gap", "iwae", "log_likelihood", "terms",
]  # fmt: skip


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound of N points.

    Attributes:
        value: Its mean, in nats per point.
        standard_error: Of that mean over the points and the draws, in nats per point.
        reconstruction: The mean of E_q log p(x | z), in nats per point.
        kl: The mean of KL(q(z | x) ‖ p(z)), in nats per point.
        bits_per_dimension: −value / (D log 2); nan where x is not discrete.
        per_point: The bound of each point, in nats, shape (N,).
    """

    value: float
    standard_error: float
    reconstruction: float
    kl: float
    bits_per_dimension: float
    per_point: Tensor = field(repr=False)


@dataclass(frozen=True)
class Iwae:
    """The importance-weighted bound of N points.

    Attributes:
        value: Its mean, in nats per point.
        standard_error: Of that mean over the points and the draws, in nats per point.
        bits_per_dimension: −value / (D log 2); nan where x is not discrete.
        num_samples: The draws K.
        per_point: log 1/K Σ w of each point, in nats, shape (N,).
    """

    value: float
    standard_error: float
    bits_per_dimension: float
    num_samples: int
    per_point: Tensor = field(repr=False)


@torch.no_grad()
def elbo(
    vae: VAE, x: Array, *, num_samples: int = 10, batch_size: int = 1000, seed: int | None = None
) -> Elbo:
    """Return the ELBO of each point, by draws of z, the KL in closed form where it has one.

    Where it has none, as for a mixture prior or two latent layers, it is the mean of
    log q(z | x) − log p(z) over the same draws. Dropout and the like are switched off.

    Args:
        vae: The VAE.
        x: Points, shape (N, D).
        num_samples: Draws of z for each point.
        batch_size: Points evaluated at once, at most; fewer where memory asks for it.
        seed: Start of the draws.

    Raises:
        ValueError: If a number is not a positive whole one, or the likelihood cannot have
            produced `x`.
    """
    x = checked(vae, x, num_samples=num_samples, batch_size=batch_size)
    size = min(batch_size, max(1, rows(vae, x) // num_samples))
    with evaluating(vae), randomness.scope(seed):
        parts = [_terms(vae, batch, num_samples) for batch in x.split(size)]
    reconstruction, kl = (torch.cat(part) for part in zip(*parts, strict=True))
    bound = reconstruction - kl
    return Elbo(
        value=bound.mean().item(),
        standard_error=standard_error(bound),
        reconstruction=reconstruction.mean().item(),
        kl=kl.mean().item(),
        bits_per_dimension=bits_per_dimension(vae, x, bound),
        per_point=bound,
    )


def iwae(
    vae: VAE,
    x: Array,
    *,
    num_samples: int = 50,
    batch_size: int = 500,
    seed: int | None = None,
    progress: bool = True,
) -> Iwae:
    """Return the importance-weighted bound IWAE_K of each point, K = `num_samples`.

    Args:
        vae: The VAE.
        x: Points, shape (N, D).
        num_samples: Draws K of z for each point.
        batch_size: Points whose weights are held at once, at most.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: As `log_likelihood`.
    """
    options = {"batch_size": batch_size, "seed": seed, "progress": progress}
    found = log_likelihood(vae, x, num_samples=num_samples, **options)
    return Iwae(
        found.value, found.standard_error, found.bits_per_dimension, num_samples, found.per_point
    )


@torch.no_grad()
def gap(
    vae: VAE,
    x: Array,
    posterior: Callable[[Tensor], TorchDistribution],
    *,
    num_samples: int = 1000,
    seed: int | None = None,
) -> Tensor:
    """Return KL(q(z | x) ‖ p(z | x)), by which the ELBO is short of log p(x), shape (N,).

    For models whose posterior is known, such as a linear decoder with Gaussian noise. In closed
    form where torch knows one, otherwise by draws.

    Args:
        vae: A VAE with one latent site.
        x: Points, shape (N, D).
        posterior: Maps x to p(z | x), event shape (L,).
        num_samples: Draws of z for each point, where the KL has no formula.
        seed: Start of the draws.

    Raises:
        ValueError: If a number is not a positive whole one, or the likelihood cannot have
            produced `x`.
    """
    x = checked(vae, x, num_samples=num_samples)
    with evaluating(vae), randomness.scope(seed):
        x = vae.likelihood.prepare(x)
        q, p = vae.q(x), posterior(x)
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            z = q.sample(torch.Size([num_samples]))
            return (q.log_prob(z) - p.log_prob(z)).mean(0)


def _terms(vae: VAE, x: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """Return E_q log p(x | z), shape (B,), and KL(q ‖ p), shape (B,)."""
    draws = particles.draw(vae, vae.likelihood.prepare(x), num_samples)
    return draws.log_likelihood.mean(0), kl_of(draws)
