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

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch import TransformedDistribution  # pyright: ignore
from torch import Tensor, nn

from pplvae.vae import flows
from pplvae.vae.distributions import DiagonalGaussian, StandardGaussian, limited
from pplvae.validation import Array, as_points, check_one_of, check_whole

if TYPE_CHECKING:
    from pplvae.vae.likelihoods import Likelihood
    from pplvae.vae.model import VAE

BLOCK = 2**24  # numbers drawn at once
MARGIN = 0.01  # of a feature's range: how near its ends a pseudo-input starts


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


class VampPrior(Prior):
    """The average of the VAE's own guide over K learned pseudo-inputs.

    Each feature of a pseudo-input stays in the range of the data's: it is low + (high − low)
    sigmoid(v) with v learned. The range is kept in the weights.

    Pseudo-inputs are no data: they leave the running averages of the encoder's batch norms as they
    are, and are normalized by them, in training too.

    Args:
        latent_dim: The latent dimension L.
        num_components: How many pseudo-inputs, K.
        data: Points as the guide sees them, shape (N, D), with N ≥ K: rows drawn from them by the
            global generator are where the pseudo-inputs start. Give K = N rows to choose them.
        data_dim: In place of data, D: the start is then random.
        limits: With data_dim, the least and the largest number in x; where None they are 0 and 1,
            for a likelihood of nothing else.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        latent_dim: int,
        num_components: int = 100,
        *,
        data: Array | None = None,
        data_dim: int | None = None,
        limits: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_whole("latent_dim", latent_dim, 1)
        check_whole("num_components", num_components, 1)
        if (data is None) == (data_dim is None):
            raise ValueError(
                "data must be given to a VampPrior, or else data_dim, got "
                + ("neither" if data is None else "both")
            )
        if limits is not None and data is not None:
            raise ValueError(f"limits must be None where data are given, got {limits}")
        low, high, rows = (
            _anywhere(num_components, data_dim or 0, (0.0, 1.0) if limits is None else limits)
            if data is None
            else _among(as_points(data, name="data"), num_components)
        )
        self.known = data is not None or limits is not None
        share = ((rows - low) / (high - low)).nan_to_num(0.5)  # 0 / 0 where all data are equal
        self.free = nn.Parameter(share.clamp(MARGIN, 1 - MARGIN).logit())
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())
        # In a tuple, so that it is no part of this module.
        self._owner: tuple[VAE, ...] = ()

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, shape (K, D)."""
        return self.low + (self.high - self.low) * self.free.sigmoid()

    def attach(self, vae: "VAE") -> None:
        """Take the VAE, for its q(z | x).

        Raises:
            ValueError: If another VAE has been taken, which would lose its prior; or the encoder
                takes points of another size, the guide's law has a density of its own draws only,
                or the data's range is not known.
        """
        if self._owner:
            raise ValueError(
                "prior must be a VampPrior of this VAE's own, got that of another VAE"
            )
        if not self.known and not _has_unit_range(vae.likelihood, self.free.shape[1]):
            raise ValueError(
                "limits, or data, must be given to a VampPrior where x need not be in [0, 1], got "
                f"neither for {type(vae.likelihood).__name__}"
            )
        self._owner = (vae,)
        try:
            self._check_guide(vae)
        except ValueError:
            self._owner = ()
            raise

    @torch.no_grad()
    def _check_guide(self, vae: "VAE") -> None:
        """Refuse an encoder of another dimension, and a guide without a density of any z."""
        from pplvae.vae.model import evaluating

        try:
            with evaluating(vae.encoder):
                law = vae.q(self.pseudo_inputs[:1])
        except RuntimeError as error:
            raise ValueError(
                "data of a VampPrior must have as many columns as the encoder takes, got "
                f"{self.free.shape[1]}, which it cannot take"
            ) from error
        if hasattr(law, "log_prob_slowly"):
            raise ValueError(
                "posterior must have a density of any z for a VampPrior, which averages it over "
                f"pseudo-inputs, got {type(vae.posterior).__name__}, which has one of its own "
                "draws only: use DiagonalNormal or FullNormal"
            )

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape (L,).

        Raises:
            ValueError: If no VAE has been made with this prior, so that there is no guide.
        """
        if not self._owner:
            raise ValueError("prior must be given to a VAE before it is a law, got no guide")
        (vae,) = self._owner
        with _averages_at_rest(vae.encoder):
            law = vae.q(self.pseudo_inputs)
        return Mixture(law, self.low.new_zeros(len(self.free)))

    def config(self) -> dict[str, Any]:
        """Return the keywords, besides `latent_dim`, that build this prior again."""
        limits = [self.low.min().item(), self.high.max().item()] if self.known else None
        sizes = {"num_components": self.free.shape[0], "data_dim": self.free.shape[1]}
        return {**sizes, "limits": limits}


def _anywhere(
    num_rows: int, data_dim: int, limits: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same range of each feature, and rows drawn from all of it."""
    check_whole("data_dim", data_dim, 1)
    if len(limits) != 2 or not -math.inf < limits[0] <= limits[1] < math.inf:
        raise ValueError(f"limits must be the least number and the largest, got {limits}")
    low, high = (torch.full((data_dim,), float(limit)) for limit in limits)
    return low, high, low + (high - low) * torch.rand(num_rows, data_dim)


def _among(data: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least and largest of each feature, and rows drawn without replacement."""
    check_whole("num_components", num_rows, 1, len(data), context=f"for {len(data)} points")
    return data.amin(0), data.amax(0), data[torch.randperm(len(data))[:num_rows].to(data.device)]


def _has_unit_range(likelihood: "Likelihood", data_dim: int) -> bool:
    """Return whether the likelihood refuses what is outside [0, 1]."""
    try:
        likelihood.check(torch.full((1, data_dim), 2.0))
    except ValueError:
        return True
    return False


@contextmanager
def _averages_at_rest(module: nn.Module) -> Iterator[None]:
    """Use the running averages of norms in the block, as evaluation does, and leave them."""
    parts = [
        part
        for part in module.modules()
        if part.training and getattr(part, "running_mean", None) is not None
    ]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part in parts:
            part.training = True


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


PRIORS: dict[str, type[Prior]] = {
    "standard_normal": StandardNormal,
    "mixture": MixtureOfGaussians,
    "vamp": VampPrior,
    "flow": FlowPrior,
}


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
