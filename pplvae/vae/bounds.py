"""How well a VAE explains data: bounds on log p(x), in nats.

    ELBO(x) = E_{q(z|x)} [log p(x | z)] − KL(q(z | x) ‖ p(z)) = log p(x) − KL(q(z|x) ‖ p(z|x))

The first term is the reconstruction, the second the price of the code.

Reference:
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; Lecture 5 (28/10/2024)
"""

import math
from dataclasses import dataclass, field

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from pplvae import randomness
from pplvae.vae.model import VAE, evaluating
from pplvae.validation import Array, check_whole


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound of N points.

    Attributes:
        value: Its mean, in nats per point.
        standard_error: Of that mean over the points and the draws, in nats per point.
        reconstruction: The mean of E_q log p(x | z), in nats per point.
        kl: The mean of KL(q(z | x) ‖ p(z)), in nats per point.
        per_point: The bound of each point, in nats, shape (N,).
    """

    value: float
    standard_error: float
    reconstruction: float
    kl: float
    per_point: Tensor = field(repr=False)


@torch.no_grad()
def elbo(
    vae: VAE, x: Array, *, num_samples: int = 10, batch_size: int = 1000, seed: int | None = None
) -> Elbo:
    """Return the ELBO of each point, by draws of z, the KL in closed form where it has one.

    Where it has none, as for a mixture prior, it is the mean of log q(z | x) − log p(z) over the
    same draws. Dropout and the like are switched off.

    Args:
        vae: The VAE.
        x: Points, shape (N, D).
        num_samples: Draws of z for each point.
        batch_size: Points evaluated at once.
        seed: Start of the draws.

    Raises:
        ValueError: If a number is not a positive whole one, or the likelihood cannot have
            produced `x`.
    """
    check_whole("num_samples", num_samples, 1)
    check_whole("batch_size", batch_size, 1)
    x = vae.points(x)
    vae.likelihood.check(x)
    with evaluating(vae), randomness.scope(seed):
        parts = [_terms(vae, batch, num_samples) for batch in x.split(batch_size)]
    reconstruction, kl = (torch.cat(part) for part in zip(*parts, strict=True))
    bound = reconstruction - kl
    return Elbo(
        value=bound.mean().item(),
        standard_error=bound.std().item() / math.sqrt(len(bound)) if len(bound) > 1 else math.nan,
        reconstruction=reconstruction.mean().item(),
        kl=kl.mean().item(),
        per_point=bound,
    )


def _terms(vae: VAE, x: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """Return E_q log p(x | z), shape (B,), and KL(q ‖ p), shape (B,)."""
    x = vae.likelihood.prepare(x)
    q, prior = vae.q(x), vae.prior()
    exact_kl = _closed_form_kl(q, prior)
    log_likelihood, log_ratio = torch.zeros(2, len(x), dtype=x.dtype, device=x.device)
    for _ in range(num_samples):
        z = q.rsample()
        log_likelihood += vae.p(z).log_prob(x)
        if exact_kl is None:
            log_ratio += q.log_prob(z) - prior.log_prob(z)
    return log_likelihood / num_samples, log_ratio / num_samples if exact_kl is None else exact_kl


def _closed_form_kl(q: TorchDistribution, prior: TorchDistribution) -> Tensor | None:
    """Return KL(q ‖ p), shape (B,), or None where torch and Pyro know no formula."""
    try:
        return kl_divergence(q, prior.expand(q.batch_shape))
    except NotImplementedError:
        return None
