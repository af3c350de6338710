"""Calibration: what an estimate means for this many points.

Finitely many points make estimates too low, the more so the higher the dimension: TwoNN calls
2500 points of a 20-dimensional ball 16-dimensional. For any estimator T the mean over N points
uniform in the unit d-ball,

    f_N(d) = E[T | N points of a d-ball],

grows with d, so the calibrated answer is the d with f_N(d) = T, and posterior draws of d are
pushed through the same inverse.

It is right as far as the data resemble a ball: flat, of one dimension, of density about even, with
an edge. It misleads, and is best left off,

- on a closed manifold (sphere, torus), which has no edge: TwoNN's 9.5 on a sphere of dimension 10
  becomes 10.5, and a flat torus needs no calibration at all;
- under noise, which raises the dimension at small scales: that of the noise is calibrated too;
- for estimates at larger scales (decimated data, a farther neighbor), unless N and the estimator
  are those of that scale: curvature there is not what balls have;
- for repeated or whole-number data, several dimensions in one data set, and far beyond d = 100,
  where the curve is extrapolated. (Beyond N = 25,600 it is too, but fairly: eightfold from 3200
  points, TwoNN's is within 0.4 % up to d = 30 and 1.5 % up to 100.)

It changes little and costs nothing where d ≤ 3 or so.

Reference:
    Benkő et al. (2022), Manifold-adaptive dimension estimation revisited,
    https://doi.org/10.7717/peerj-cs.790
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from pplvae.intrinsic_dimension import balls
from pplvae.validation import check_one_of, check_positive, check_whole

ESTIMATORS = (
    "twonn", "twonn_unbiased", "twonn_censored", "twonn_line",
    "gride_1", "gride_2", "gride_4", "gride_8", "levina_bickel",
)  # fmt: skip
_KNOTS = 1025  # of a curve and its inverse, exact at them and to 1e-9 between
_SPAN = 8  # times as many points, over which the decay of the bias is seen


class Answer(Protocol):
    """A result with its dimension."""

    @property
    def dimension(self) -> float:
        """The estimate."""
        ...


Estimator: TypeAlias = Callable[[Tensor], float | Answer]  # of points, shape (N, d)


@dataclass(frozen=True, eq=False)
class Curve:
    """The mean estimate f_N of N points of a d-ball, as a function of d.

    Attributes:
        num_points: N.
        dimensions: The d drawn, shape (M,).
        means: f_N there, shape (M,).
        name: The estimator's name.
    """

    num_points: int
    dimensions: np.ndarray = field(repr=False)
    means: np.ndarray = field(repr=False)
    name: str = "estimator"

    @overload
    def __call__(self, dimension: float) -> float: ...
    @overload
    def __call__(self, dimension: Tensor) -> Tensor: ...
    def __call__(self, dimension: float | Tensor) -> float | Tensor:
        """Return the mean estimate f_N(d), of the shape of d.

        Raises:
            ValueError: If a dimension is not positive and finite.
        """
        dims, means = self._knots
        return _mapped(
            "dimension", dimension, lambda d: np.exp(balls.interpolated(dims, np.log(means), d))
        )

    @overload
    def invert(self, estimate: float) -> float: ...
    @overload
    def invert(self, estimate: Tensor) -> Tensor: ...
    def invert(self, estimate: float | Tensor) -> float | Tensor:
        """Return the calibrated dimension, the d with f_N(d) = estimate, of the same shape.

        Args:
            estimate: One estimate, the end of an interval, or draws of a posterior of any shape.

        Raises:
            ValueError: If an estimate is not positive and finite.
        """
        dims, means = self._knots
        return _mapped(
            "estimate", estimate, lambda t: np.exp(balls.interpolated(means, np.log(dims), t))
        )

    @cached_property
    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        """Dimensions and means so close together that either is a function of the other."""
        dims = np.geomspace(self.dimensions[0], self.dimensions[-1], _KNOTS)
        return dims, np.exp(balls.interpolated(self.dimensions, np.log(self.means), dims))

    def corrected(self, dimension: float, standard_error: float) -> tuple[float, float]:
        """Return an estimate and its standard error, both calibrated.

        Args:
            dimension: The estimate.
            standard_error: Its standard error.

        Raises:
            ValueError: If the estimate is not positive and finite.
        """
        below = self.invert(max(dimension - standard_error, 1e-3 * dimension))
        above = self.invert(dimension + standard_error)
        return self.invert(dimension), (above - below) / 2

    def covers(self, estimate: float) -> bool:
        """Return whether balls so high were drawn; beyond, the curve is extrapolated."""
        return estimate <= self.means[-1]


def curve(
    num_points: int,
    estimator: str | Estimator = "twonn",
    *,
    max_dimension: int = balls.DIMENSIONS[-1],
    progress: bool = True,
) -> Curve:
    """Return the mean estimate of N points of a ball, from the package or by drawing balls.

    Args:
        num_points: N, the number of distinct points behind the estimate.
        estimator: One of `ESTIMATORS`, at once; or any function of points, shape (N, d), that
            returns the dimension or a result that has one. Its balls are drawn, the same ones
            every time, and kept while the process lives: the function by its identity.
        max_dimension: How far to draw, at most 100; of no matter to the named estimators.
        progress: Whether drawing for more than a few seconds shows a progress bar.

    Raises:
        ValueError: If the name is unknown, N is below 25 for a named estimator, or an estimator
            does not grow with the dimension.
    """
    if callable(estimator):
        check_whole("num_points", num_points, 2)
        check_whole("max_dimension", max_dimension, 2, balls.DIMENSIONS[-1])
        return _drawn(_Drawing(estimator, num_points, max_dimension, progress))
    check_one_of("estimator", estimator, ESTIMATORS)
    check_whole(
        "num_points", num_points, balls.LEAST_POINTS, context=f"for the balls of {estimator}"
    )
    table = balls.table()
    means = _means(table, num_points, estimator)
    return Curve(num_points, *_rising(table.dimensions, means), estimator)


def _means(table: balls.Balls, num_points: int, estimator: str) -> np.ndarray:
    """Return f_N of the dimensions in a table, also for more points than it has.

    Beyond, log f_N(d) / d dies away as it does over the table's last eightfold N, and no slower
    than the share of points near the edge, N^(−1/d).
    """
    last, dims = table.num_points[-1], table.dimensions
    if num_points <= last:
        return table.at(num_points, estimator)
    bias, before = (np.log(table.at(n, estimator) / dims) for n in (last, last // _SPAN))
    decay = np.clip(bias / before, 1 / _SPAN, _SPAN ** (-1 / dims))
    return dims * np.exp(bias * decay ** (np.log(num_points / last) / np.log(_SPAN)))


@dataclass(frozen=True)
class _Drawing:
    """What is drawn; whether a bar is shown makes no other one of it."""

    estimator: Estimator
    num_points: int
    max_dimension: int
    progress: bool = field(compare=False)


@lru_cache(maxsize=64)
def _drawn(asked: _Drawing) -> Curve:
    """Return the curve of any estimator, from balls drawn now."""

    def statistics(x: Tensor) -> dict[str, float]:
        answer = asked.estimator(x)
        return {"estimate": answer if isinstance(answer, int | float) else answer.dimension}

    num_points, estimator = asked.num_points, asked.estimator
    drawn = balls.simulate(
        statistics, num_points, max_dimension=asked.max_dimension, progress=asked.progress
    )
    name = getattr(estimator, "__name__", type(estimator).__name__)
    rising = _rising(drawn.dimensions, drawn.at(num_points, "estimate"))
    return Curve(num_points, *rising, name)


def _rising(dimensions: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the dimensions whose mean is above all before: few points stop telling them apart."""
    before = np.concatenate([[0.0], np.maximum.accumulate(means)[:-1]])
    kept = means > before
    if kept.sum() < 2:
        raise ValueError(f"estimator must grow with the dimension, got means {means.tolist()}")
    return dimensions[kept], means[kept]


def _mapped(
    name: str, values: float | Tensor, function: Callable[[np.ndarray], np.ndarray]
) -> float | Tensor:
    """Return a function of positive numbers, a float for a float and a tensor for a tensor."""
    check_positive(name, values)
    if not isinstance(values, Tensor):
        return float(function(np.asarray(float(values))))
    found = np.asarray(function(values.detach().double().cpu().numpy()))
    return torch.from_numpy(found).to(values)
