"""A masked autoregressive flow as the prior: p(z) = Normal(F(z); 0, I) |det ∂F/∂z|.

Reference:
    Papamakarios, Pavlakou & Murray (2017), Masked autoregressive flow,
    https://arxiv.org/abs/1705.07057
"""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch import TransformedDistribution  # pyright: ignore
from torch import Tensor

from pplvae.vae import flows
from pplvae.vae.distributions import DiagonalGaussian
from pplvae.vae.priors.prior import Prior


class FlowPrior(Prior):
    """A masked autoregressive flow: its density takes one pass, a draw L of them.

    Args:
        latent_dim: The latent dimension L, at least 2.
        num_layers: How many autoregressive maps lead from z to noise.
        hidden_dims: Sizes of the hidden layers of each map's network, each at least L; one of
            max(64, 2 L) where None.
        reverse: Whether every second map takes the coordinates from last to first. With False
            the map from noise to z is triangular as a whole.
    """

    zeros: Tensor

    def __init__(
        self,
        latent_dim: int,
        num_layers: int = 2,
        hidden_dims: Sequence[int] | None = None,
        *,
        reverse: bool = True,
    ) -> None:
        super().__init__()
        sizes = [max(64, 2 * latent_dim)] if hidden_dims is None else hidden_dims
        self.networks = flows.masked(
            latent_dim, num_layers=num_layers, context_dim=0, hidden_dims=sizes, reverse=reverse
        )
        self.hidden_dims, self.reverse = [int(size) for size in sizes], bool(reverse)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape (L,)."""
        # Made anew: a map's memory of a point is wrong once its weights have changed.
        maps = [flows.Autoregressive(network).inv for network in self.networks]  # type: ignore[arg-type]
        return Scored(DiagonalGaussian(self.zeros, self.zeros), maps)

    def config(self) -> dict[str, Any]:
        """Return the keywords, besides `latent_dim`, that build this prior again."""
        return {
            "num_layers": len(self.networks),
            "hidden_dims": self.hidden_dims,
            "reverse": self.reverse,
        }


class Scored(TransformedDistribution):
    """A normal seen through the inverses of autoregressive maps: any point's density is quick.

    Args:
        base_distribution: The normal, event shape (L,).
        transforms: The inverse maps, first to last.
    """

    has_rsample = False

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p in nats, shape (…)."""
        # A view: what the maps remember of this tensor may have been made without a gradient.
        return super().log_prob(value.view_as(value))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Refuse: `sample` draws, without a gradient.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "draws of a FlowPrior must not need a gradient, got rsample: it would go back through "
            f"{self.event_shape[0]} passes for each layer. As a posterior use "
            "InverseAutoregressive, whose draws take one; for draws alone `sample`"
        )
