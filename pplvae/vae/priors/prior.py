"""A prior p(z), and the plainest ones: Normal(0, I), and a function of the user's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pplvae.vae.distributions import StandardGaussian
from pplvae.validation import check_whole

if TYPE_CHECKING:
    from pplvae.vae.model import VAE


class Prior(nn.Module):
    """A law of z. A subclass has `forward`, and `config` where it can be built by name."""

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape (L,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def attach(self, vae: "VAE") -> None:
        """Take the VAE, whole but for this prior, for a prior that is made of its q(z | x)."""

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
        return StandardGaussian(self.zeros, self.zeros)


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
