"""Priors p(z): what a code is before any data are seen."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pplvae.vae.distributions import DiagonalGaussian
from pplvae.validation import check_one_of, check_whole


class Prior(nn.Module):
    """A law of z. A subclass has `forward`, and `config` where it can be built by name."""

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape (L,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def attach(self, q: Callable[[Tensor], TorchDistribution]) -> None:
        """Take the VAE's q(z | x), for a prior that is made of it."""

    def config(self) -> dict[str, Any]:
        """Return the keywords, besides `latent_dim`, that build this prior again."""
        return {}


class StandardNormal(Prior):
    """The prior Normal(0, I) on z.

    Args:
        latent_dim: The latent dimension L.
    """

    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_whole("latent_dim", latent_dim, 1)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape (L,)."""
        return DiagonalGaussian(self.zeros, self.zeros)


PRIORS: dict[str, type[Prior]] = {"standard_normal": StandardNormal}


class Given(Prior):
    """A function without arguments as a prior.

    Args:
        law: Gives p(z), event shape (L,).
    """

    def __init__(self, law: Callable[[], TorchDistribution]) -> None:
        super().__init__()
        self.law = law

    def forward(self) -> TorchDistribution:
        """Return what the function gives."""
        return self.law()


def as_prior(prior: str | Callable[[], TorchDistribution], latent_dim: int) -> Prior:
    """Return a prior, the name of one, or a function that gives one, as a prior.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(prior, str):
        check_one_of("prior", prior, PRIORS)
        return PRIORS[prior](latent_dim)
    if isinstance(prior, type) or not callable(prior):
        raise ValueError(f"prior must be a name, an instance or a function, got {prior}")
    return prior if isinstance(prior, Prior) else Given(prior)
