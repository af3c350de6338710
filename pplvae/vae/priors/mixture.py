"""A mixture of Gaussians as the prior: p(z) = Σ_k w_k Normal(z; m_k, diag s_k²)."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pplvae.vae.distributions import DiagonalGaussian, limited
from pplvae.vae.priors.prior import Prior
from pplvae.validation import check_whole

BLOCK = 2**24  # numbers drawn at once


class Mixture(TorchDistribution):
    """A weighted sum of the laws in a batch.

    Args:
        components: The laws, batch shape (K,), event shape (L,).
        logits: The logarithms of their weights, up to a constant, shape (K,).
        batch_shape: Of the mixture.
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    has_rsample = False

    def __init__(
        self,
        components: TorchDistribution,
        logits: Tensor,
        batch_shape: Any = (),
        validate_args: bool | None = None,
    ) -> None:
        self.components, self.logits = components, logits
        super().__init__(torch.Size(batch_shape), components.event_shape, validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the arguments must be."""
        return {"logits": constraints.real_vector}

    @property
    def support(self) -> constraints.Constraint:
        """Where the law lives: real vectors."""
        return constraints.real_vector

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Mixture":
        """Return the same law over a larger batch shape."""
        return Mixture(self.components, self.logits, batch_shape, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log Σ_k w_k p_k(value) in nats, shape (…)."""
        if self._validate_args:
            self._validate_sample(value)
        each = self.components.log_prob(value.unsqueeze(-2)) + self.logits.log_softmax(-1)
        found = each.logsumexp(-1)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws, shape sample_shape + (…, L)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        chosen = torch.multinomial(self.logits.softmax(-1), shape[:-1].numel(), replacement=True)
        rows = max(1, BLOCK // (len(self.logits) * shape[-1]))
        return torch.cat([self._draw(block) for block in chosen.split(rows)]).reshape(shape)

    def _draw(self, chosen: Tensor) -> Tensor:
        """Return one draw of each component named, shape (n, L)."""
        every = self.components.sample(chosen.shape)
        return every[torch.arange(len(chosen), device=chosen.device), chosen]

    @property
    def mean(self) -> Tensor:
        """The mean Σ_k w_k m_k, shape (…, L)."""
        mean = self.logits.softmax(-1) @ self.components.mean
        return mean.expand(self.batch_shape + self.event_shape)


class MixtureOfGaussians(Prior):
    """A mixture of diagonal normals with learned weights, means and scales.

    The means start at draws from Normal(0, I), from the global generator.

    Args:
        latent_dim: The latent dimension L.
        num_components: How many normals, K.
    """

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        check_whole("latent_dim", latent_dim, 1)
        check_whole("num_components", num_components, 1)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.locs = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape (L,)."""
        return Mixture(DiagonalGaussian(self.locs, limited(self.log_scales)), self.logits)

    def config(self) -> dict[str, Any]:
        """Return the keywords, besides `latent_dim`, that build this prior again."""
        return {"num_components": len(self.logits)}
