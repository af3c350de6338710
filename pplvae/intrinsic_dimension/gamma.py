"""Gamma laws of a dimension, as every likelihood of exponentials gives, and what rests on them."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from pplvae import randomness
from pplvae.intrinsic_dimension.calibration import Curve
from pplvae.validation import Array, check_in_range

_SHARES = 1000  # whose middles stand for a law


class _Said(Protocol):
    """What a posterior is printed by."""

    @property
    def dimension(self) -> float: ...
    @property
    def standard_error(self) -> float: ...
    def interval(self, prob: float = 0.95) -> tuple[float, float]: ...


class Posterior(ABC):
    """What every posterior of d says beside its `dimension` and `standard_error`."""

    @property
    def mean(self: _Said) -> float:
        """The posterior mean, which `dimension` is."""
        return self.dimension

    @property
    def stddev(self: _Said) -> float:
        """The posterior standard deviation, which `standard_error` is."""
        return self.standard_error

    @abstractmethod
    def _quantile(self, probs: Tensor) -> Tensor:
        """Return the d below which the given parts lie, float64, both shape (P,)."""

    def quantile(self, probs: Array | float) -> Tensor:
        """Return the d below which the given parts of the posterior lie, shape of `probs`.

        Raises:
            ValueError: If a part is not in (0, 1).
        """
        wanted = torch.as_tensor(probs, dtype=torch.float64, device="cpu")
        if not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"probs must be in (0, 1), got {wanted.tolist()}")
        return self._quantile(wanted.flatten()).reshape(wanted.shape)

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the central interval of d that holds `prob`."""
        check_fraction("prob", prob)
        ends = torch.tensor([0.5 - prob / 2, 0.5 + prob / 2], dtype=torch.float64)
        low, high = self._quantile(ends).tolist()
        return low, high

    def sample(self, num_samples: int, seed: int | None = None) -> Tensor:
        """Return draws of d, float64, shape (num_samples,)."""
        source = randomness.generator(seed)
        parts = torch.rand(num_samples, generator=source, dtype=torch.float64)
        return self._quantile(parts.clamp(min=torch.finfo(parts.dtype).tiny))

    def __repr__(self: _Said) -> str:
        low, high = self.interval()
        said = f"d = {self.dimension:.4g}, 95 % in [{low:.4g}, {high:.4g}]"
        return f"{type(self).__name__}({said})"


@dataclass(frozen=True, repr=False)
class GammaPosterior(Posterior):
    """The posterior of d, Gamma(concentration, rate).

    Attributes:
        concentration: Its shape.
        rate: Its rate.
        log_evidence: log p(data) in nats, its log likelihood divided by `inflation`.
        inflation: The factor f by which shared neighbors widen the variance; 1 for independence.
    """

    concentration: float
    rate: float
    log_evidence: float
    inflation: float = 1.0

    @property
    def dimension(self) -> float:
        """The posterior mean of d."""
        return self.concentration / self.rate

    @property
    def standard_error(self) -> float:
        """The posterior standard deviation of d."""
        return math.sqrt(self.concentration) / self.rate

    @property
    def distribution(self) -> dist.Gamma:
        """The posterior as a Pyro distribution, in double precision."""
        concentration = torch.tensor(self.concentration, dtype=torch.float64)
        return dist.Gamma(concentration, torch.tensor(self.rate, dtype=torch.float64))

    def _quantile(self, probs: Tensor) -> Tensor:
        from scipy.special import gammaincinv

        return torch.as_tensor(gammaincinv(self.concentration, probs.numpy()) / self.rate)


@dataclass(frozen=True, repr=False)
class CalibratedPosterior(Posterior):
    """The posterior of d pushed through the inverse of E[estimate | N points of a d-ball].

    Attributes:
        uncalibrated: The posterior as the likelihood gives it.
        curve: The mean estimate of balls.
    """

    uncalibrated: GammaPosterior
    curve: Curve

    @property
    def dimension(self) -> float:
        """The posterior mean of d."""
        return self._even().mean().item()

    @property
    def standard_error(self) -> float:
        """The posterior standard deviation of d."""
        return self._even().std(correction=0).item()

    def _quantile(self, probs: Tensor) -> Tensor:
        return self.curve.invert(self.uncalibrated.quantile(probs))

    def _even(self) -> Tensor:
        """Return the quantiles in the middles of a thousand equal shares."""
        return self._quantile((torch.arange(_SHARES, dtype=torch.float64) + 0.5) / _SHARES)


@dataclass(frozen=True, repr=False)
class MaximumLikelihood:
    """The dimension of greatest likelihood, from ratios of neighbor distances.

    Attributes:
        dimension: The estimate of d.
        standard_error: Its standard error.
        n1: The nearer neighbor's rank.
        n2: The farther neighbor's rank.
        num_ratios: N.
        inflation: The factor f by which shared neighbors widen the variance.
        law: Where d may be, given the ratios: the posterior with a flat prior on log d, exact for
            TwoNN's ratios.
    """

    dimension: float
    standard_error: float
    n1: int
    n2: int
    num_ratios: int
    inflation: float
    law: GammaPosterior | CalibratedPosterior

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of d, exact for independent ratios of TwoNN."""
        return self.law.interval(prob)

    def __repr__(self) -> str:
        ranks = "" if self.n2 == 2 else f" of r_{self.n2} / r_{self.n1}"
        found = f"d = {self.dimension:.4g} ± {self.standard_error:.2g}"
        return f"MaximumLikelihood({found} by {self.num_ratios} ratios{ranks})"


def check_fraction(name: str, value: float) -> None:
    """Refuse a value outside (0, 1).

    Raises:
        ValueError: If it is.
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}")


def check_prior(concentration: float, rate: float) -> None:
    """Refuse what is no Gamma prior on d, but for the flat one on log d, 0 and 0.

    Raises:
        ValueError: If a number is negative, infinite or nan.
    """
    for name, value in (("concentration", concentration), ("rate", rate)):
        check_in_range(name, value, 0.0)
        if math.isinf(value):
            raise ValueError(f"{name} must be finite, got {value}")
