"""The dimension against the length scale.

A thin ribbon is a surface from near and a curve from afar, and noise fills all dimensions, but
only within its width: a dimension holds over a range of scales. Two ways go from small to large.
Gride keeps all points and reads farther neighbors, n₁ = 1, 2, 4, …, n₂ = 2 n₁; decimation keeps
the neighbors and leaves out points, N, N/2, N/4, …. Where neighboring scales agree there is a
plateau, and its dimension is a property of the data; where none do, there is no such number.

`adaptive` lets each point choose its own scale instead: see `abide`.

Reference:
    Lecture 5 (28/10/2024): "a scale-dependent property"; Denti et al. (2022), The generalized
    ratios intrinsic dimension estimator, https://doi.org/10.1038/s41598-022-20991-1; Facco et al.
    (2017), https://doi.org/10.1038/s41598-017-11873-y, for decimation
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pplvae.intrinsic_dimension import gride
from pplvae.intrinsic_dimension.abide import AdaptiveScale, adaptive
from pplvae.intrinsic_dimension.gamma import check_fraction
from pplvae.intrinsic_dimension.result import OneLine
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.randomness import generator
from pplvae.validation import check_in_range, check_one_of, check_whole

__all__ = ["AdaptiveScale", "Plateau", "Profile", "adaptive", "find_plateaus", "profile"]

LEAST_POINTS = 50  # of a decimated subset
AGREEMENT = (
    1.96  # standard errors that two scales of one plateau may differ by, beside a tolerance
)


@dataclass(frozen=True, repr=False)
class Plateau(OneLine):
    """A range of scales over which the dimension stays.

    Attributes:
        dimension: The mean d over it, scales weighted by 1 / (standard error² + tolerance²).
        standard_error: The mean one of its scales, with the spread among them in quadrature.
        scales: The least and the greatest length, in units of x.
        steps: The first of its scales in the profile, and one past the last.
    """

    dimension: float
    standard_error: float
    scales: tuple[float, float]
    steps: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Profile:
    """The dimension at S scales, small to large.

    Attributes:
        plateaus: Where it stays, no two overlapping, that of the widest range of scales first.
        scales: The mean of r_n₁ and r_n₂ over the points, shape (S,), in units of x.
        dimensions: The estimate of d at each, shape (S,).
        standard_errors: Its standard error, shape (S,); nan where it is not known.
        neighbors: n₁, shape (S,).
        sizes: How many points a subset has, shape (S,).
        estimator: What gave the estimates.
    """

    plateaus: tuple[Plateau, ...]
    scales: Tensor = field(repr=False)
    dimensions: Tensor = field(repr=False)
    standard_errors: Tensor = field(repr=False)
    neighbors: Tensor = field(repr=False)
    sizes: Tensor = field(repr=False)
    estimator: str

    @property
    def plateau(self) -> Plateau | None:
        """The plateau of the widest range of scales, None where there is none."""
        return self.plateaus[0] if self.plateaus else None

    @property
    def dimension(self) -> float:
        """The plateau's dimension, nan where there is none."""
        return self.plateau.dimension if self.plateau else math.nan

    @property
    def standard_error(self) -> float:
        """The plateau's standard error, nan where there is none."""
        return self.plateau.standard_error if self.plateau else math.nan

    def interval(self, prob: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the ends of the band that holds d at each scale by `prob`, shapes (S,)."""
        check_fraction("prob", prob)
        reach = math.sqrt(2) * torch.special.erfinv(torch.tensor(prob, dtype=torch.float64))
        relative = reach.item() * self.standard_errors / self.dimensions
        return self.dimensions * (-relative).exp(), self.dimensions * relative.exp()

    def __repr__(self) -> str:
        found = "no plateau"
        if self.plateau:
            low, high = self.plateau.scales
            found = f"d = {self.dimension:.3g} from {low:.3g} to {high:.3g}"
        return f"Profile({self.estimator}, {len(self.scales)} scales: {found})"


class _Step(NamedTuple):
    """One scale of a profile."""

    scale: float
    dimension: float
    standard_error: float
    neighbors: int
    size: int


def profile(
    x: Data,
    estimator: str | Callable[[Tensor], Any] = "gride",
    *,
    num_neighbors: int | None = None,
    num_subsets: int = 8,
    tolerance: float = 0.05,
    least_scales: int = 3,
    calibrated: bool = False,
    seed: int | None = None,
    progress: bool = True,
) -> Profile:
    """Return the dimension against the length scale.

    Scales in a row are a plateau where each two differ by at most 1.96 standard errors of their
    difference, as of independent estimates, and `tolerance` times their mean.

    Args:
        x: Points, shape (N, D); or their neighbor graph, which must hold points for decimation.
        estimator: "gride"; "decimation", of TwoNN on random subsets; or a function of points,
            shape (n, D), to a number or a result with `.dimension` (and `.standard_error`),
            decimated.
        num_neighbors: The width of the neighbor graph and Gride's greatest n₂; by default the
            graph's own, or the greatest power of 2 up to N / 4 with at most 2^24 entries in all.
        num_subsets: How many subsets, at most, decimation averages over at each size; they have
            no point in common.
        tolerance: By how much of the dimension scales of one plateau may differ, errors apart.
        least_scales: How many scales a plateau has at least.
        calibrated: Whether each of Gride's answers is corrected for as many points and neighbors,
            see `calibration`: those of a ball, which fall with the scale by its edge, then stay.
        seed: Which points go into which subset.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If there are too few points for a scale, or an argument is out of range.
    """
    check_in_range("tolerance", tolerance, 0.0)
    check_whole("least_scales", least_scales, 2)
    check_whole("num_subsets", num_subsets, 1)
    if isinstance(estimator, str):
        check_one_of("estimator", estimator, ("gride", "decimation"))
    if calibrated and estimator != "gride":
        raise ValueError(f"estimator must be 'gride' for a calibrated profile, got {estimator!r}")
    if estimator == "gride":
        graph = as_graph(x, num_neighbors, progress=progress)
        check_whole("num_neighbors", graph.num_neighbors, 2)
        name, steps = "gride, calibrated" if calibrated else "gride", _doubled(graph, calibrated)
    else:
        plain = isinstance(estimator, str)
        name = estimator if plain else getattr(estimator, "__name__", repr(estimator))
        graph = as_graph(x, 2, progress=progress)
        steps = _decimated(graph, None if plain else estimator, num_subsets, seed, progress)
    table = [torch.tensor(column) for column in zip(*steps, strict=True)]
    scales, dimensions, errors = (column.double() for column in table[:3])
    plateaus = find_plateaus(scales, dimensions, errors, tolerance, least_scales)
    return Profile(plateaus, scales, dimensions, errors, table[3], table[4], name)


def find_plateaus(
    scales: Tensor,
    dimensions: Tensor,
    standard_errors: Tensor,
    tolerance: float = 0.05,
    least_scales: int = 3,
) -> tuple[Plateau, ...]:
    """Return the plateaus of a profile by the rule of `profile`, the widest range first.

    Args:
        scales: Lengths, rising, shape (S,).
        dimensions: d at each, shape (S,).
        standard_errors: Their standard errors, shape (S,); nan counts as none.
        tolerance: By how much of the dimension scales of one plateau may differ, errors apart.
        least_scales: How many scales a plateau has at least.
    """
    d, errors = dimensions, standard_errors.nan_to_num(0.0)
    room = (
        AGREEMENT * torch.hypot(errors, errors.unsqueeze(1)) + tolerance * (d + d.unsqueeze(1)) / 2
    )
    agree = (d - d.unsqueeze(1)).abs() <= room
    runs = []
    for start in range(len(d)):
        stop = start + 1
        while stop < len(d) and agree[stop, start:stop].all():
            stop += 1
        if stop - start >= least_scales:
            runs.append((start, stop))
    logs, chosen = scales.log(), []
    for start, stop in sorted(runs, key=lambda run: (logs[run[0]] - logs[run[1] - 1]).item()):
        if all(stop <= other[0] or start >= other[1] for other in chosen):
            chosen.append((start, stop))
    return tuple(_plateau(scales, d, errors, tolerance, steps) for steps in chosen)


def _plateau(
    scales: Tensor, dimensions: Tensor, errors: Tensor, tolerance: float, steps: tuple[int, int]
) -> Plateau:
    run = slice(*steps)
    d, errors = dimensions[run], errors[run]
    weights = 1 / (errors.square() + (tolerance * d).square()).clamp(min=1e-30)
    weights = weights / weights.sum()
    mean = weights @ d
    # The scales share their points, so that their errors do not cancel.
    spread = torch.hypot(weights @ errors, (weights @ (d - mean).square()).sqrt())
    ends = scales[run][0].item(), scales[run][-1].item()
    return Plateau(mean.item(), spread.item(), ends, steps)


def _doubled(graph: NeighborGraph, calibrated: bool) -> Iterator[_Step]:
    n1 = 1
    while 2 * n1 <= graph.num_neighbors:
        fit = gride.maximum_likelihood(graph, n1=n1, n2=2 * n1, calibrated=calibrated)
        yield _Step(_scale(graph, n1), fit.dimension, fit.standard_error, n1, len(graph))
        n1 *= 2


def _decimated(
    graph: NeighborGraph,
    estimator: Callable[[Tensor], Any] | None,
    num_subsets: int,
    seed: int | None,
    progress: bool,
) -> Iterator[_Step]:
    points = graph.points
    if points is None:
        raise ValueError("x must hold points to be decimated, got a graph of distances alone")
    order = torch.randperm(len(points), generator=generator(seed)).to(points.device)
    size = len(points)
    while size >= min(LEAST_POINTS, len(points)):
        rows = order.split(size)[: min(len(points) // size, num_subsets)]
        parts = [points[part] for part in rows]
        whole = size == len(points)
        graphs = [graph] if whole else [_of_subset(part, progress) for part in parts]
        if estimator is None:
            fits = [gride.maximum_likelihood(part, n1=1, n2=2) for part in graphs]
        else:
            fits = [estimator(part) for part in parts]
        scale = sum(_scale(part, 1) for part in graphs) / len(graphs)
        yield _Step(scale, *_mean(fits), 1, size)
        size //= 2


def _of_subset(points: Tensor, progress: bool) -> NeighborGraph:
    """Return the graph of some of the points; what it could warn of was said of them all."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return as_graph(points, 2, progress=progress)


def _mean(fits: list[Any]) -> tuple[float, float]:
    """Return the mean of estimates from different points, and its standard error.

    Where the estimator gives none, it is that of the mean of the subsets; nan for one subset.
    """
    dimensions, errors = torch.tensor(
        [
            (getattr(fit, "dimension", fit), getattr(fit, "standard_error", math.nan))
            for fit in fits
        ],
        dtype=torch.float64,
    ).T
    if errors.isnan().any() and len(fits) > 1:
        errors = dimensions.std().expand(len(fits))
    return dimensions.mean().item(), errors.square().sum().sqrt().item() / len(fits)


def _scale(graph: NeighborGraph, n1: int) -> float:
    return graph.distances[:, [n1 - 1, 2 * n1 - 1]].mean().item()
