"""The dimension in one call: several estimators on one neighbor graph, and what to make of them.

Without noise the nearest neighbors know best. Then the answer is DANCo's, or, where only distances
are known, that of calibrated TwoNN, and the interval is TwoNN's 95 %, widened so that it
holds both. Noise shows in Gride's answers for farther and farther neighbors: for points of a
d-ball they all mean the same d once calibrated, but noise of width σ fills all D dimensions at
scales up to σ. Where the nearest neighbors so mean many more dimensions than the eighth, the
answer is the adaptive scale's, which looks beyond the noise.

Reference:
    Lecture 5 (28/10/2024); Eckmann & Ruelle (1992), Fundamental limitations for estimating
    dimensions, https://doi.org/10.1016/0167-2789(92)90023-G, for the number of points
"""

import math
import warnings
from dataclasses import dataclass, field

from pplvae.intrinsic_dimension import (
    calibration,
    danco,
    gride,
    predictive,
    scales,
    spectrum,
    twonn,
)
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.validation import check_whole

LEAST_POINTS = 64
NOISE = 1.5  # how many times the eighth neighbor's dimension the nearest one's is under noise
FALL = 1.2  # beyond which the dimension depends on the scale, noise or not
DISAGREEMENT = 1.25  # between estimators that are otherwise trusted
LEAST_P = 0.005  # of the predictive check
OF_THE_SCALE = 0.03  # of d, the standard error that the choice of the scale adds under noise


@dataclass(frozen=True, eq=False)
class Estimate:
    """What all estimators say, and the answer made of it.

    Attributes:
        dimension: The answer.
        interval: How sure it is: from the least to the greatest that TwoNN's 95 %, calibrated and
            not, and DANCo allow, since whether the data have an edge is not known; or that of the
            adaptive scale, widened by 3 % of d for the choice of the scale.
        method: Whose answer it is, "DANCo", "TwoNN, calibrated" or "adaptive scale".
        scale: At what length it holds, in units of x: the mean distance of the farthest neighbor
            that was asked.
        warnings: What a reader should know, in plain words. None is raised besides.
        estimates: By estimator, the dimension and the ends of its 95 % interval; nan where it
            gives none.
        graph: The neighbor graph, for further questions.
        profile: The dimension against the scale.
        adaptive: The dimension at each point's own scale.
        posterior: TwoNN's posterior, not calibrated.
        check: Whether TwoNN's law holds.
        pca: The principal components; None where only distances are known.
    """

    dimension: float
    interval: tuple[float, float]
    method: str
    scale: float
    warnings: tuple[str, ...]
    estimates: dict[str, tuple[float, float, float]]
    graph: NeighborGraph = field(repr=False)
    profile: scales.Profile = field(repr=False)
    adaptive: scales.AdaptiveScale = field(repr=False)
    posterior: twonn.GammaPosterior = field(repr=False)
    check: predictive.PredictiveCheck = field(repr=False)
    pca: spectrum.Spectrum | None = field(repr=False)

    def __str__(self) -> str:
        low, high = self.interval
        lines = [
            f"dimension {self.dimension:.3g}, between {low:.3g} and {high:.3g} ({self.method}, "
            f"at lengths of about {self.scale:.3g})"
        ]
        for name, (value, low, high) in self.estimates.items():
            ends = "" if math.isnan(low) else f"  [{low:.2f}, {high:.2f}]"
            lines.append(f"  {name:<22}{value:6.2f}{ends}")
        return "\n".join([*lines, *(f"  ! {said}" for said in self.warnings)])


def estimate(
    x: Data, *, num_neighbors: int | None = None, seed: int | None = 0, progress: bool = True
) -> Estimate:
    """Return the dimension of the data, at which scale it holds, and how sure that is.

    Args:
        x: Points, shape (N, D), with at least 64 distinct ones; or their neighbor graph.
        num_neighbors: The width of the neighbor graph, at least 16, which bounds the scales seen;
            by default the graph's own, or what `neighbors.graph` takes.
        seed: Start of the predictive check's draws.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If there are too few distinct points or neighbors, or the points are on a
            lattice, where nearest neighbors are equally near.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = as_graph(x, num_neighbors, progress=progress)
        check_whole("the number of distinct points", len(graph), LEAST_POINTS)
        check_whole("num_neighbors", graph.num_neighbors, 16)
        _refuse_lattice(graph)
        found = _answers(graph, seed)
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return _judged(graph, found, list(dict.fromkeys(said)))


@dataclass(frozen=True, eq=False)
class _Answers:
    """What the estimators say."""

    posterior: twonn.GammaPosterior
    calibrated: twonn.CalibratedPosterior
    danco: danco.Danco | None
    adaptive: scales.AdaptiveScale
    profile: scales.Profile
    check: predictive.PredictiveCheck
    pca: spectrum.Spectrum | None
    near: float  # the dimension that the nearest neighbors mean, calibrated
    far: float  # and the eighth, against the sixteenth


def _refuse_lattice(graph: NeighborGraph) -> None:
    ties = twonn.tied(graph)
    if ties > 0.5:
        raise ValueError(
            f"x must be continuous, got points on a lattice: {ties:.0%} of them have both nearest "
            "neighbors equally near"
        )


def _answers(graph: NeighborGraph, seed: int | None) -> _Answers:
    posterior = twonn.posterior(graph)
    near, far = (
        calibration.curve(len(graph), f"gride_{n1}").invert(
            gride.maximum_likelihood(graph, n1=n1, n2=2 * n1, inflation=1.0).dimension
        )
        for n1 in (1, 8)
    )
    points = graph.points
    return _Answers(
        posterior=posterior,
        calibrated=twonn.posterior(graph, calibrated=True),
        danco=None if points is None else danco.estimate(graph),
        adaptive=scales.adaptive(graph),
        profile=scales.profile(graph),
        check=predictive.check(graph, posterior, seed=seed),
        pca=None if points is None else spectrum.pca(points.double()),
        near=near,
        far=far,
    )


def _judged(graph: NeighborGraph, found: _Answers, said: list[str]) -> Estimate:
    estimates = _table(found)
    noisy = max(found.near, found.far) > NOISE * min(found.near, found.far)
    if noisy:
        dimension, error = found.adaptive.dimension, found.adaptive.standard_error
        half = 1.96 * math.hypot(error, OF_THE_SCALE * dimension)
        interval = dimension - half, dimension + half
        method, scale = "adaptive scale", found.adaptive.scale
        said.append(_why_not_near(graph, found))
    else:
        dimension, method = found.calibrated.dimension, "TwoNN, calibrated"
        low, high = found.calibrated.interval()
        if found.danco is not None:
            dimension, method = found.danco.dimension, "DANCo"
        plain = found.posterior.interval()
        interval = min(low, dimension, plain[0]), max(high, dimension, plain[1])
        scale = graph.distances[:, 9].mean().item()
    if found.pca is not None:
        interval = interval[0], max(dimension, min(interval[1], float(found.pca.rank)))
    said += _doubts(graph, found, dimension, said, noisy=noisy)
    return Estimate(
        dimension, interval, method, scale, tuple(said), estimates, graph, found.profile,
        found.adaptive, found.posterior, found.check, found.pca,
    )  # fmt: skip


def _why_not_near(graph: NeighborGraph, found: _Answers) -> str:
    """Return why the nearest neighbors are not believed."""
    numbers = (
        f"the nearest neighbors mean {found.near:.1f} dimensions, the eighth {found.far:.1f}: "
    )
    if found.near < found.far:
        return numbers + "near-copies of points, or densely sampled curves"
    if found.pca is not None and found.near > found.pca.rank:
        return numbers + "points equally spaced, as in time series and on grids"
    return numbers + "noise at small scales"


def _table(found: _Answers) -> dict[str, tuple[float, float, float]]:
    table = {
        "TwoNN": (found.posterior.dimension, *found.posterior.interval()),
        "TwoNN, calibrated": (found.calibrated.dimension, *found.calibrated.interval()),
    }
    if found.danco is not None:
        table["DANCo"] = (found.danco.dimension, math.nan, math.nan)
    table["adaptive scale"] = (found.adaptive.dimension, *found.adaptive.interval())
    if found.profile.plateau is not None:
        plateau = found.profile.plateau
        half = 1.96 * plateau.standard_error
        table["Gride, plateau"] = (
            plateau.dimension, plateau.dimension - half, plateau.dimension + half
        )  # fmt: skip
    return table


def _doubts(
    graph: NeighborGraph, found: _Answers, dimension: float, before: list[str], *, noisy: bool
) -> list[str]:
    """Return what else speaks against the answer."""
    said, most = [], 2 * math.log10(len(graph))
    if graph.num_repeats and not any("repeat another" in heard for heard in before):
        said.append(f"{graph.num_repeats} points repeat another and were dropped")
    if not noisy and not found.calibrated.curve.covers(found.posterior.dimension):
        said.append("no ball of so many dimensions was drawn: the calibration is extrapolated")
    if _whole_numbers(graph):
        said.append("all values are whole numbers, as on a lattice: neighbors closer than 1 are "
                    "missing, and estimators for continuous data lean on them")  # fmt: skip
    if dimension > most:
        said.append(f"{len(graph):,} points show at most about {most:.0f} dimensions by "
                    "themselves: the answer leans on what balls of so many show")  # fmt: skip
    if not noisy and found.near > FALL * found.far:
        said.append(f"the dimension falls with the scale, from {found.near:.1f} at the nearest "
                    f"neighbors to {found.far:.1f} at the eighth: see the profile")  # fmt: skip
    if found.danco is not None and not noisy:
        ratio = found.danco.dimension / found.calibrated.dimension
        if max(ratio, 1 / ratio) > DISAGREEMENT:
            said.append(f"estimators disagree: DANCo says {found.danco.dimension:.1f}, calibrated "
                        f"TwoNN {found.calibrated.dimension:.1f}")  # fmt: skip
    if found.check.p_value <= LEAST_P and not noisy:
        said.append(f"the ratios do not follow TwoNN's law (p = {found.check.p_value:.2g}): "
                    "several dimensions in one data set (hidalgo), or uneven density")  # fmt: skip
    if noisy and found.adaptive.capped > 0.5:
        said.append(f"the adaptive scale ends at the graph's {found.adaptive.width} neighbors: "
                    "a wider graph may say less")  # fmt: skip
    if found.pca is not None and dimension > found.pca.rank:
        said.append(f"the data vary in {found.pca.rank} directions only")
    return said


def _whole_numbers(graph: NeighborGraph) -> bool:
    points = graph.points
    return points is not None and bool((points == points.round()).all())
