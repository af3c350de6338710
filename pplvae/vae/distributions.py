"""The normal distribution as networks give it: from its mean and the logarithm of its scale.

    log Normal(z | m, diag s²) = − Σ_l [½ ((z_l − m_l) / s_l)² + log s_l + ½ log 2π]
    z = m + s ε,   ε ~ Normal(0, I)
    KL(q ‖ p) = Σ_l [log (s_p / s_q) + ½ (s_q² + (m_q − m_p)²) / s_p² − ½]

All densities are worked out from log s, which neither overflows nor reaches zero. The scale is s,
the standard deviation, and not s² as one lecture note has it; the ½ of the KL, lost in another,
is there.

Reference:
    Kingma & Welling (2014), appendix B, https://arxiv.org/abs/1312.6114
"""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl

LEAST, LARGEST = -8.0, 8.0


def limited(log_scale: Tensor) -> Tensor:
    """Return log s as it is in [−8, 8] and growing like a logarithm outside.

    A scale that a network predicts then neither overflows nor vanishes in single precision, and
    its gradient never does.
    """
    inside = log_scale.clamp(LEAST, LARGEST)
    outside = log_scale - inside
    return inside + outside.sign() * outside.abs().log1p()


class DiagonalGaussian(TorchDistribution):
    """Independent normals as one event.

    Args:
        loc: The mean m, shape (…, L).
        log_scale: The logarithm of the standard deviation, a shape that broadcasts to m's.
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = loc, log_scale.expand(loc.shape)
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
        return DiagonalGaussian(
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
        nats = (0.5 * scaled * scaled + self.log_scale).sum(-1)
        return -nats - 0.5 * self.event_shape[0] * math.log(2 * math.pi)

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


def kl_by_dimension(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    """Return the KL(q ‖ p) of each dimension, in nats, shape (…, L)."""
    ratio = q.log_scale - p.log_scale
    shift = (q.loc - p.loc) * (-p.log_scale).exp()
    return 0.5 * ((2 * ratio).exp() + shift * shift - 1) - ratio


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _kl(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    return kl_by_dimension(q, p).sum(-1)
