"""Approximate posteriors q(z | x): what the encoder's output says of a code."""

from collections.abc import Callable
from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pplvae.vae.distributions import DiagonalGaussian, limited
from pplvae.validation import check_one_of


class Posterior(nn.Module):
    """A law of z given the encoder's output. A subclass has `forward` and `outputs`."""

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return q(z | x), event shape (L,), for the encoder's output, shape (…, outputs)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def outputs(self, latent_dim: int) -> int:
        """Return how many numbers the encoder must give."""
        raise NotImplementedError(f"{type(self).__name__} must define outputs")

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this posterior again."""
        return {}


class DiagonalNormal(Posterior):
    """The guide Normal(m, diag s²) on z, from m and log s side by side."""

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return q(z | x), event shape (L,), for the encoder's output, shape (…, 2 L)."""
        loc, log_scale = output.chunk(2, dim=-1)
        return DiagonalGaussian(loc, limited(log_scale))

    def outputs(self, latent_dim: int) -> int:
        """Return 2 L."""
        return 2 * latent_dim


POSTERIORS: dict[str, type[Posterior]] = {"diagonal": DiagonalNormal}


class Given(Posterior):
    """A function of the encoder's output as a posterior.

    Args:
        law: Maps the encoder's output to a distribution with event shape (L,).
    """

    def __init__(self, law: Callable[[Tensor], TorchDistribution]) -> None:
        super().__init__()
        self.law = law

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return what the function gives."""
        return self.law(output)


def as_posterior(posterior: str | Callable[[Tensor], TorchDistribution]) -> Posterior:
    """Return a posterior, the name of one, or a function of the output, as a posterior.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(posterior, str):
        check_one_of("posterior", posterior, POSTERIORS)
        return POSTERIORS[posterior]()
    if isinstance(posterior, type) or not callable(posterior):
        raise ValueError(f"posterior must be a name, an instance or a function, got {posterior}")
    return posterior if isinstance(posterior, Posterior) else Given(posterior)
