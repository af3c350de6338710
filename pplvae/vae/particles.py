"""Draws of the latent variables, several for each point, and their log weights.

    w_k = p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)

They come from the Pyro programs themselves, run once for K draws of all B points in a plate around
the data's, so any VAE can be weighed, whatever its latent sites. Everything the bounds and the
objectives say is a function of these numbers.

Reference:
    Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from pplvae.infer.program import sample_sites
from pplvae.infer.score import LosePaths
from pplvae.vae.model import VAE


@dataclass(frozen=True)
class Particles:
    """K draws for each of B points.

    Attributes:
        log_likelihood: log p(x | z) in nats, shape (K, B).
        log_prior: log p(z) in nats, shape (K, B).
        log_q: log q(z | x) in nats, shape (K, B).
        values: The draws of each latent site, shape (K, B, L).
        guides: q of each latent site.
        priors: p of each latent site, given those above it.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    values: dict[str, Tensor]
    guides: dict[str, TorchDistribution]
    priors: dict[str, TorchDistribution]

    @property
    def log_weight(self) -> Tensor:
        """The log of p(x, z) / q(z | x) in nats, shape (K, B)."""
        return self.log_likelihood + self.log_prior - self.log_q


def draw(vae: VAE, x: Tensor, num_particles: int = 1) -> Particles:
    """Return draws from the guide for points as `likelihood.prepare` gives them.

    Args:
        vae: The VAE, in whatever mode it is.
        x: Points, shape (B, D).
        num_particles: Draws K for each.
    """
    values, guides = propose(vae, x, num_particles)
    sites = _run(vae.joint, x, values)
    seen = sites.pop("x")
    return Particles(
        log_likelihood=_log_prob(seen),
        log_prior=sum_of(map(_log_prob, sites.values())),
        log_q=sum_of(law.log_prob(values[name]) for name, law in guides.items()),
        values=values,
        guides=guides,
        priors={name: site["fn"] for name, site in sites.items()},
    )


def propose(
    vae: VAE, x: Tensor, num_particles: int = 1, *, paths: bool = True
) -> tuple[dict[str, Tensor], dict[str, TorchDistribution]]:
    """Return draws from the guide, shape (K, B, L), and the law of each, by latent site.

    Args:
        vae: The VAE, in whatever mode it is.
        x: Points as `likelihood.prepare` gives them, shape (B, D).
        num_particles: Draws K for each.
        paths: Whether the draws have a gradient; else only the laws have, at fixed draws.
    """
    guide = vae.recognition if paths else LosePaths(baseline=False)(vae.recognition)
    with pyro.validation_enabled(False), pyro.plate("particles", num_particles, dim=-2):
        sites = sample_sites(poutine.trace(guide).get_trace(x))
    values = {name: site["value"] for name, site in sites.items()}
    return values, {name: site["fn"] for name, site in sites.items()}


def log_joint(vae: VAE, x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return log p(x, z) in nats, shape (K, B), for given values of the latent sites.

    Args:
        vae: The VAE.
        x: Points as `likelihood.prepare` gives them, shape (B, D).
        values: Of each latent site, shape (K, B, L).
    """
    return sum_of(log_prior_and_likelihood(vae, x, values))


def log_guide(vae: VAE, x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return log q(z | x) in nats, shape (K, B), for given values of the latent sites."""
    return sum_of(map(_log_prob, _run(vae.recognition, x, values).values()))


def _log_prob(site: Any) -> Tensor:
    law, value = site["fn"], site["value"]
    if hasattr(law, "log_prob_slowly") and not torch.is_grad_enabled():
        return law.log_prob_slowly(value)
    return law.log_prob(value)


def log_prior_and_likelihood(
    vae: VAE, x: Tensor, values: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return log p(z) and log p(x | z) in nats, shapes (K, B), for given values."""
    sites = _run(vae.joint, x, values)
    likelihood = _log_prob(sites.pop("x"))
    return sum_of(map(_log_prob, sites.values())), likelihood


def _run(program: Callable[..., None], x: Tensor, values: dict[str, Tensor]) -> dict[str, Any]:
    """Return the sites of a program whose latent ones take these values, by name."""
    size = len(next(iter(values.values())))
    with pyro.validation_enabled(False), pyro.plate("particles", size, dim=-2):
        return sample_sites(poutine.trace(pyro.condition(program, data=values)).get_trace(x))


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of the log densities of all sites, shape (K, B)."""
    return reduce(add, terms)
