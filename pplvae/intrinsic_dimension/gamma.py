"""Gamma laws of a dimension, as every likelihood of exponentials gives, and what rests on them."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pplvae import randomness
from pplvae.intrinsic_dimension.calibration import Curve


@dataclass(frozen=True)
class GammaPosterior:
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

    mean = dimension

    @property
    def standard_error(self) -> float:
        """The posterior standard deviation of d."""
        return math.sqrt(self.concentration) / self.rate

    stddev = standard_error

    @property
    def distribution(self) -> dist.Gamma:
        """The posterior as a Pyro distribution, in double precision."""
        concentration = torch.tensor(self.concentration, dtype=torch.float64)
        return dist.Gamma(concentration, torch.tensor(self.rate, dtype=torch.float64))

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the central interval of d that holds `prob`."""
        from scipy.special import gammaincinv

        check_fraction("prob", prob)
        ends = gammaincinv(self.concentration, [0.5 - prob / 2, 0.5 + prob / 2])
        low, high = (ends / self.rate).tolist()
        return low, high

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"GammaPosterior(d = {self.dimension:.4g}, 95 % in [{low:.4g}, {high:.4g}])"


@dataclass(frozen=True)
class CalibratedPosterior:
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

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the central interval of d that holds `prob`."""
        low, high = self.uncalibrated.interval(prob)
        return self.curve.invert(low), self.curve.invert(high)

    def sample(self, num_samples: int, seed: int | None = None) -> Tensor:
        """Return draws of d, float64, shape (num_samples,)."""
        with randomness.scope(seed):
            return self.curve.invert(self.uncalibrated.distribution.sample((num_samples,)))

    def _even(self) -> Tensor:
        """Return the quantiles in the middles of a thousand equal shares."""
        from scipy.special import gammaincinv

        law, middles = self.uncalibrated, (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        quantiles = gammaincinv(law.concentration, middles.numpy()) / law.rate
        return self.curve.invert(torch.from_numpy(quantiles))

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"CalibratedPosterior(d = {self.dimension:.4g}, 95 % in [{low:.4g}, {high:.4g}])"


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
