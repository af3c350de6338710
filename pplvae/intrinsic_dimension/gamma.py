"""A Gamma posterior of a dimension, as every likelihood of exponentials gives."""

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
        from scipy.stats import gamma

        check_fraction("prob", prob)
        low, high = gamma(self.concentration, scale=1 / self.rate).interval(prob)
        return float(low), float(high)

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
        from scipy.stats import gamma

        law = gamma(self.uncalibrated.concentration, scale=1 / self.uncalibrated.rate)
        middles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        return self.curve.invert(torch.from_numpy(law.ppf(middles.numpy())))

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"CalibratedPosterior(d = {self.dimension:.4g}, 95 % in [{low:.4g}, {high:.4g}])"


def check_fraction(name: str, value: float) -> None:
    """Refuse a value outside (0, 1).

    Raises:
        ValueError: If it is.
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}")
