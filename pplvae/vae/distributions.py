"""Laws as networks give them: each an event of D numbers, from what does not saturate.

The normal distribution, from its mean and the logarithm of its scale:

    log Normal(z | m, diag s²) = − Σ_l [½ ((z_l − m_l) / s_l)² + log s_l + ½ log 2π]
    z = m + s ε,   ε ~ Normal(0, I)
    KL(q ‖ p) = Σ_l [log (s_p / s_q) + ½ (s_q² + (m_q − m_p)²) / s_p² − ½]

All densities are worked out from log s, which neither overflows nor reaches zero. The scale is s,
the standard deviation, and not s² as one lecture note has it; the ½ of the KL, lost in another,
is there.

The Bernoulli and, for numbers in [0, 1], the continuous Bernoulli, from logits ℓ:

    log Bernoulli(x | ℓ) = Σ_d log sigmoid((2 x_d − 1) ℓ_d)
    log CB(x | ℓ) = Σ_d [ℓ_d (x_d − ½) − log (sinh(ℓ_d / 2) / (ℓ_d / 2))]

They are exact at any ℓ, where those of torch saturate: the second's is wrong there from |ℓ| = 16.

Reference:
    Kingma & Welling (2014), appendix B, https://arxiv.org/abs/1312.6114;
    Loaiza-Ganem & Cunningham (2019), https://arxiv.org/abs/1907.06845
"""

import math
from copy import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from pyro.distributions import Independent, Normal, TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl

LARGEST = 8.0


def limited(log_scale: Tensor) -> Tensor:
    """Return log s as it is in [−8, 8] and growing like a logarithm outside.

    A scale that a network predicts then neither overflows nor vanishes in single precision, and
    its gradient never does.
    """
    return F.hardtanh(log_scale, -LARGEST, LARGEST) + F.softshrink(log_scale, LARGEST).asinh()


class DiagonalGaussian(TorchDistribution):
    """Independent normals as one event.

    Args:
        loc: The mean m, shape (…, L).
        log_scale: The logarithm of the standard deviation, a shape that broadcasts to m's.
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        # A view of the same shape would be one more node on the way of the gradient.
        same = log_scale.shape == loc.shape
        self.loc, self.log_scale = loc, log_scale if same else log_scale.expand(loc.shape)
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the arguments must be."""
        return {"loc": constraints.real_vector, "log_scale": constraints.real_vector}

    @property
    def support(self) -> constraints.Constraint:
        """Where the law lives: real vectors."""
        return constraints.real_vector

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiagonalGaussian":
        """Return the same law over a larger batch shape."""
        shape = torch.Size(batch_shape) + self.event_shape
        if shape == self.loc.shape:
            return self
        return type(self)(
            self.loc.expand(shape), self.log_scale.expand(shape), self._validate_args
        )

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return m + s ε, shape sample_shape + (…, L), differentiable in m and s."""
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)),
            dtype=self.loc.dtype, device=self.loc.device,
        )  # fmt: skip
        return torch.addcmul(self.loc, self.log_scale.exp(), noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log density in nats, shape (…)."""
        if self._validate_args:
            self._validate_sample(value)
        scaled = (value - self.loc) * (-self.log_scale).exp()
        constant = 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        squares = torch.linalg.vecdot(scaled, scaled)
        return torch.sub(-constant - self.log_scale.sum(-1), squares, alpha=0.5)

    @property
    def mean(self) -> Tensor:
        """The mean m, shape (…, L)."""
        return self.loc

    @property
    def stddev(self) -> Tensor:
        """The standard deviation s, shape (…, L)."""
        return self.log_scale.exp()

    @property
    def variance(self) -> Tensor:
        """The variance s², shape (…, L)."""
        return (2 * self.log_scale).exp()

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape (…)."""
        return self.log_scale.sum(-1) + 0.5 * self.event_shape[0] * (1 + math.log(2 * math.pi))


class StandardGaussian(DiagonalGaussian):
    """The normal law of mean 0 and scale 1: a third of the other's time.

    Args:
        loc: Zeros, shape (…, L).
        log_scale: Zeros, shape (…, L).
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log density in nats, shape (…)."""
        if self._validate_args:
            self._validate_sample(value)
        constant = 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        return -0.5 * torch.linalg.vecdot(value, value) - constant


class IsotropicGaussian(DiagonalGaussian):
    """Independent normals with one standard deviation: a third of the other's time.

    Args:
        loc: The mean m, shape (…, L).
        log_scale: The logarithm of the standard deviation, shape ().
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, log_scale, validate_args)
        self.shared = log_scale

    def expand(self, batch_shape: Any, _instance: Any = None) -> "IsotropicGaussian":
        """Return the same law over a larger batch shape."""
        loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        return IsotropicGaussian(loc, self.shared, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log density in nats, shape (…)."""
        if self._validate_args:
            self._validate_sample(value)
        squares = (value - self.loc).square().sum(-1)
        constant = self.event_shape[0] * (self.shared + 0.5 * math.log(2 * math.pi))
        return -0.5 * (-2 * self.shared).exp() * squares - constant


class Independents(TorchDistribution):
    """D independent numbers as one event. A subclass has `support`, `nats`, `draw` and `mean`.

    Args:
        output: What a decoder gives, shape (…, P, D): P parameters of each number.
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    def __init__(self, output: Tensor, validate_args: bool | None = None) -> None:
        self.output = output
        super().__init__(output.shape[:-2], output.shape[-1:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the arguments must be."""
        return {"output": constraints.independent(constraints.real, 2)}

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Return the same law over a larger batch shape."""
        larger = copy(self)
        larger._batch_shape = torch.Size(batch_shape)
        larger.output = self.output.expand(larger._batch_shape + self.output.shape[-2:])
        return larger

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log of the probability or the density, in nats, shape (…).

        Raises:
            ValueError: If the last axis of `value` is not D, or validation finds it impossible.
        """
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"x must have {self.event_shape[0]} columns, got {value.shape[-1]}")
        if self._validate_args:
            self._validate_sample(value)
        return self.nats(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws, shape sample_shape + (…, D)."""
        return self.expand(torch.Size(sample_shape) + self.batch_shape).draw()

    def nats(self, value: Tensor) -> Tensor:
        """Return the log of the probability or the density of what has been checked."""
        raise NotImplementedError(f"{type(self).__name__} must define nats")

    def draw(self) -> Tensor:
        """Return one draw for each of the batch, shape (…, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define draw")


class BernoulliLaw(Independents):
    """Independent zeros and ones, from logits of shape (…, 1, D)."""

    @property
    def support(self) -> constraints.Constraint:
        """Where the law lives: zeros and ones."""
        return constraints.independent(constraints.boolean, 1)

    @property
    def mean(self) -> Tensor:
        """The probability of a one, shape (…, D)."""
        return self.output.squeeze(-2).sigmoid()

    def nats(self, value: Tensor) -> Tensor:
        """Return log probability in nats, shape (…)."""
        return F.logsigmoid((2 * value - 1) * self.output.squeeze(-2)).sum(-1)

    def draw(self) -> Tensor:
        """Return one draw for each of the batch, shape (…, D)."""
        return torch.bernoulli(self.mean)


class ContinuousBernoulliLaw(Independents):
    """Independent numbers in [0, 1] with density in proportion to exp(ℓ x), ℓ of shape (…, 1, D).

    Not the probability of anything between: its mean is sigmoid(ℓ) at ℓ = 0 only.
    """

    SMALL = 0.1  # of |ℓ| / 2, below which series are more exact than the formulas

    @property
    def support(self) -> constraints.Constraint:
        """Where the law lives: the unit interval."""
        return constraints.independent(constraints.unit_interval, 1)

    @property
    def mean(self) -> Tensor:
        """The mean ½ + ½ (coth u − 1 / u) with u = ℓ / 2, shape (…, D)."""
        u = self.output.squeeze(-2) / 2
        small = u.clamp(-self.SMALL, self.SMALL)
        square = small * small
        series = small * (1 / 3 - square * (1 / 45 - square * (2 / 945 - square / 4725)))
        large = torch.where(u.abs() < self.SMALL, self.SMALL, u)
        return 0.5 + 0.5 * torch.where(u.abs() < self.SMALL, series, 1 / large.tanh() - 1 / large)

    def nats(self, value: Tensor) -> Tensor:
        """Return log density in nats, shape (…): a series about ℓ = 0, else −|ℓ| r − log area.

        With r = 1 − x for ℓ > 0 and x for ℓ < 0, and the area (1 − e^{−|ℓ|}) / |ℓ|.
        """
        logits = self.output.squeeze(-2)
        square = (logits / 2).clamp(-self.SMALL, self.SMALL) ** 2
        series = square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))
        slope = logits.abs().clamp(min=2 * self.SMALL)
        area = (-torch.expm1(-slope) / slope).log()
        formula = slope * torch.where(logits > 0, value - 1, -value) - area
        near = logits.abs() < 2 * self.SMALL
        return torch.where(near, logits * (value - 0.5) - series, formula).sum(-1)

    def draw(self) -> Tensor:
        """Return one draw for each of the batch, shape (…, D): the inverse distribution function.

        That of −|ℓ| is x = log(1 + v (e^{−|ℓ|} − 1)) / −|ℓ|, which cannot overflow.
        """
        logits = self.output.squeeze(-2)
        slope = -logits.abs().clamp(min=1e-30)  # v itself comes out where ℓ is zero
        x = torch.log1p(torch.rand_like(slope) * torch.expm1(slope)) / slope
        return torch.where(logits > 0, 1 - x, x).clamp(0, 1)


def as_diagonal(law: TorchDistribution) -> DiagonalGaussian | None:
    """Return a law of independent normals as such, or None where it is another."""
    if isinstance(law, Independent) and isinstance(law.base_dist, Normal):
        return DiagonalGaussian(law.base_dist.loc, law.base_dist.scale.log())
    return law if isinstance(law, DiagonalGaussian) else None


def kl_by_dimension(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    """Return the KL(q ‖ p) of each dimension, in nats, shape (…, L)."""
    ratio = q.log_scale - p.log_scale
    shift = (q.loc - p.loc) * (-p.log_scale).exp()
    return 0.5 * ((2 * ratio).exp() + shift * shift - 1) - ratio


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _kl(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    return kl_by_dimension(q, p).sum(-1)
