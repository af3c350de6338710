"""Approximate posteriors q(z | x): what the encoder's output says of a code.

    diagonal:  z = m + s ε
    full:      z = m + C ε,  C lower triangular with a positive diagonal
    iaf:       z = (T_n ∘ … ∘ T_1)(m + s ε),  T_j autoregressive maps that see a context h

with ε ~ Normal(0, I), and m, log s, C and h from the encoder. The last bends the normal as far as
its networks can; a draw and its own log q cost one pass each.

Reference:
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; Kingma et al. (2016), Improved
    variational inference with inverse autoregressive flow, https://arxiv.org/abs/1606.04934
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from pyro.distributions.torch import TransformedDistribution  # pyright: ignore
from torch import Tensor, nn
from torch.distributions import register_kl
from torch.quasirandom import SobolEngine

from pplvae.vae import flows
from pplvae.vae.distributions import DiagonalGaussian, limited
from pplvae.vae.priors import Prior
from pplvae.validation import check_one_of

NUM_FIXED = 128  # points of noise that stand for all of it in the mean of a flow


class Posterior(nn.Module):
    """A law of z given the encoder's output. A subclass has `forward` and `outputs`."""

    @classmethod
    def sized(cls, latent_dim: int) -> "Posterior":
        """Return one of this kind, with its defaults, for L latent dimensions."""
        return cls()

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


class FullNormal(Posterior):
    """The guide Normal(m, C Cᵀ) on z.

    The encoder gives m, the logarithm of C's diagonal, and what is below it row by row.
    """

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return q(z | x), event shape (L,), for the output, shape (…, L + L (L + 1) / 2).

        Raises:
            ValueError: If the output has another size.
        """
        size = (math.isqrt(9 + 8 * output.shape[-1]) - 3) // 2
        if self.outputs(size) != output.shape[-1] or size == 0:
            raise ValueError(
                "the encoder must give L + L (L + 1) / 2 numbers for a full covariance, got "
                f"{output.shape[-1]}"
            )
        loc, log_diagonal, below = output.split([size, size, size * (size - 1) // 2], dim=-1)
        rows, columns = torch.tril_indices(size, size, -1, device=output.device)
        scale_tril = limited(log_diagonal).exp().diag_embed()
        scale_tril[..., rows, columns] = below
        return MultivariateNormal(loc, scale_tril=scale_tril)

    def outputs(self, latent_dim: int) -> int:
        """Return L + L (L + 1) / 2."""
        return latent_dim + latent_dim * (latent_dim + 1) // 2


@register_kl(MultivariateNormal, DiagonalGaussian)
def _kl(q: MultivariateNormal, p: DiagonalGaussian) -> Tensor:
    """KL = Σ_l [log s_l − log C_ll + ½ ((C Cᵀ)_ll + (m_l − μ_l)²) / s_l² − ½], p's μ and s."""
    spread = q.scale_tril.square().sum(-1) + (q.loc - p.loc).square()
    log_ratio = p.log_scale - q.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    return (log_ratio + 0.5 * (spread * (-2 * p.log_scale).exp() - 1)).sum(-1)


class InverseAutoregressive(Posterior):
    """The guide of inverse autoregressive flow, from m, log s and a context side by side.

    Args:
        latent_dim: The latent dimension L, at least 2.
        num_layers: How many autoregressive maps follow the normal.
        context_dim: Numbers, besides m and log s, by which the encoder steers all maps.
        hidden_dims: Sizes of the hidden layers of each map's network, each at least L; one of
            max(64, 2 L) where None.
        reverse: Whether every second map takes the coordinates from last to first, so that each
            depends on all others. With False the whole map is triangular: each coordinate, given
            those before it, is normal.
    """

    def __init__(
        self,
        latent_dim: int,
        num_layers: int = 2,
        context_dim: int = 16,
        hidden_dims: Sequence[int] | None = None,
        *,
        reverse: bool = True,
    ) -> None:
        super().__init__()
        sizes = [max(64, 2 * latent_dim)] if hidden_dims is None else hidden_dims
        self.networks = flows.masked(
            latent_dim, num_layers=num_layers, context_dim=context_dim, hidden_dims=sizes,
            reverse=reverse,
        )  # fmt: skip
        self.latent_dim, self.context_dim = int(latent_dim), int(context_dim)
        self.hidden_dims, self.reverse = [int(size) for size in sizes], bool(reverse)

    @classmethod
    def sized(cls, latent_dim: int) -> Posterior:
        """Return one with its defaults for L latent dimensions."""
        return cls(latent_dim)

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return q(z | x), event shape (L,), for the output, shape (…, 2 L + context_dim).

        Raises:
            ValueError: If the output has another size.
        """
        if output.shape[-1] != self.outputs(self.latent_dim):
            raise ValueError(
                f"the encoder must give {self.outputs(self.latent_dim)} numbers, 2 L + "
                f"context_dim, got {output.shape[-1]}"
            )
        sizes = [self.latent_dim, self.latent_dim, self.context_dim]
        loc, log_scale, context = output.split(sizes, dim=-1)
        maps = [flows.Autoregressive(network, context) for network in self.networks]  # type: ignore[arg-type]
        return Bent(DiagonalGaussian(loc, limited(log_scale)), maps)

    def outputs(self, latent_dim: int) -> int:
        """Return 2 L + context_dim.

        Raises:
            ValueError: If the flow is one of another dimension.
        """
        if latent_dim != self.latent_dim:
            raise ValueError(f"latent_dim must be the flow's {self.latent_dim}, got {latent_dim}")
        return 2 * latent_dim + self.context_dim

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this posterior again."""
        return {
            "latent_dim": self.latent_dim,
            "num_layers": len(self.networks),
            "context_dim": self.context_dim,
            "hidden_dims": self.hidden_dims,
            "reverse": self.reverse,
        }


class Bent(TransformedDistribution):
    """A normal bent by autoregressive maps: log q is known of the draw last made, and quick.

    Args:
        base_distribution: The normal, batch shape (…), event shape (L,).
        transforms: The maps, first to last.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q in nats, shape (…), of the value that was just drawn.

        Raises:
            ValueError: If it is another one, or was drawn without the gradient that is wanted.
        """
        if not self.transforms[-1].carried(value):
            raise ValueError(
                "value must be the very tensor that an inverse autoregressive flow drew last, got "
                f"another, whose log q takes {self.event_shape[0]} passes through each map. As a "
                "prior use FlowPrior; in a VampPrior, or for the gradients stl, dreg, score and "
                "baseline, DiagonalNormal or FullNormal; for the number alone `log_prob_slowly`"
            )
        if torch.is_grad_enabled() and not value.requires_grad and self._learns():
            raise ValueError(
                "value must have been drawn with a gradient, by rsample, for log q of an inverse "
                "autoregressive flow to have one: use a reparameterized gradient"
            )
        return super().log_prob(value)

    @torch.no_grad()
    def log_prob_slowly(self, value: Tensor) -> Tensor:
        """Return log q in nats, shape (…), of any value, without a gradient, by L passes a map."""
        return self._anew().log_prob(value)

    @property
    def mean(self) -> Tensor:
        """The mean, shape (…, L), over 128 fixed points of noise, even ones: it has no formula."""
        loc, anew = self.base_dist.loc, self._anew()
        even = SobolEngine(loc.shape[-1], scramble=True, seed=0).draw(NUM_FIXED)
        noise = torch.special.ndtri(even.clamp(1e-6, 1 - 1e-6)).to(loc)
        draws = (flows.push(anew, row.expand(loc.shape))[0] for row in noise)
        return reduce(torch.add, draws) / NUM_FIXED

    def _anew(self) -> TransformedDistribution:
        """Return the same law with maps that remember nothing, and leave ours as they are."""
        return TransformedDistribution(self.base_dist, [t.anew() for t in self.transforms])

    def _learns(self) -> bool:
        """Return whether the encoder's output or a map's weights want a gradient."""
        weights = (weight for t in self.transforms for weight in t.parameters())
        return self.base_dist.loc.requires_grad or any(w.requires_grad for w in weights)


POSTERIORS: dict[str, type[Posterior]] = {
    "diagonal": DiagonalNormal,
    "full": FullNormal,
    "iaf": InverseAutoregressive,
}


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


def as_posterior(
    posterior: str | Callable[[Tensor], TorchDistribution], latent_dim: int | None = None
) -> Posterior:
    """Return a posterior, the name of one, or a function of the output, as a posterior.

    Raises:
        ValueError: If it is none of these, or a prior.
    """
    if isinstance(posterior, str):
        check_one_of("posterior", posterior, POSTERIORS)
        return POSTERIORS[posterior].sized(latent_dim or 0)
    if isinstance(posterior, Prior):
        raise ValueError(
            f"posterior must be a law given x, got the prior {type(posterior).__name__}"
            "; a FlowPrior draws by one pass for each latent dimension: use InverseAutoregressive"
        )
    if isinstance(posterior, type) or not callable(posterior):
        raise ValueError(f"posterior must be a name, an instance or a function, got {posterior}")
    return posterior if isinstance(posterior, Posterior) else Given(posterior)
