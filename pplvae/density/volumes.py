"""The volume of a ball whose dimension is known only by its law.

    log V(r) = d/2 log π - log Γ(d/2 + 1) + d log r

is linear in log r, so its mean and variance over the law of d need nothing but the moments of
v = log V(1) and d: the mean is E v + E d log r, the variance

    Var v + 2 Cov(v, d) log r + Var d (log r)².

All balls share d. Two balls of radii r and s differ by E d log(r / s), to √Var d |log(r / s)|.
"""

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from pplvae.validation import Array, as_tensor, check_positive

NUM_QUANTILES = 512  # of a law: their variance is 0.4 % less than a normal law's


@runtime_checkable
class Law(Protocol):
    """What is known of a dimension, as every answer of `intrinsic_dimension` says it."""

    def interval(self, prob: float, /) -> tuple[float, float]:
        """Return the central interval that holds `prob`."""
        ...


Dimension: TypeAlias = float | Array | Law


@dataclass(frozen=True, eq=False)
class Balls:
    """The law of the dimension of balls.

    Attributes:
        draws: Equally likely dimensions d, shape (S,), float64; one where it is known.
    """

    draws: Tensor

    @property
    def mean(self) -> float:
        """The mean of d."""
        return self.draws.mean().item()

    @property
    def nodes(self) -> list[tuple[float, float]]:
        """Three dimensions and their weights that share the mean and variance of the law."""
        reach = math.sqrt(3) * self.draws.std(correction=0).item()
        if reach == 0:
            return [(self.mean, 1.0)]
        reach = min(reach, 0.999 * self.mean)
        return [(self.mean - reach, 1 / 6), (self.mean, 2 / 3), (self.mean + reach, 1 / 6)]

    def log_volumes(self, log_radii: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the variance of log V(r), of the shape of log r."""
        units = log_unit_volume(self.draws)
        d, v = self.draws - self.draws.mean(), units - units.mean()
        mean = units.mean() + self.draws.mean() * log_radii
        variance = (v * v).mean() + (2 * (v * d).mean() + (d * d).mean() * log_radii) * log_radii
        return mean, variance.clamp(min=0)


def balls(dimension: Dimension | None, num_columns: int | None) -> Balls:
    """Return the balls of a dimension: a number, draws, a law, or the number of columns for None.

    Raises:
        ValueError: If it is none of these, not positive, or None where there are no columns.
    """
    if dimension is None:
        if num_columns is None:
            raise ValueError("dimension must be given where only distances are known, got None")
        dimension = num_columns
    if isinstance(dimension, Law):
        dimension = _quantiles(dimension)
    draws = as_tensor(torch.as_tensor(dimension), name="dimension").double().flatten()
    if not len(draws):
        raise ValueError("dimension must hold at least 1 draw, got none")
    check_positive("dimension", draws if len(draws) > 1 else draws.item())
    return Balls(draws)


def log_unit_volume(dimension: Tensor) -> Tensor:
    """Return the log of the volume of the unit ball."""
    return 0.5 * dimension * math.log(math.pi) - torch.lgamma(0.5 * dimension + 1)


def _quantiles(law: Law) -> Tensor:
    """Return the quantiles in the middles of equal shares, shape (NUM_QUANTILES,)."""
    inner = [(2 * i + 1) / NUM_QUANTILES for i in range(NUM_QUANTILES // 2)]
    return torch.tensor([law.interval(prob) for prob in inner], dtype=torch.float64).flatten()
