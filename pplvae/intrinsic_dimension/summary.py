"""The dimension in one call: several estimators on one neighbor graph, and what to make of them.

Without noise the nearest neighbors know best. Then the answer is DANCo's, or, where only distances
are known, that of calibrated TwoNN, and the interval is TwoNN's 95 %, widened so that it
holds both. Noise shows in Gride's answers for farther and farther neighbors: for points of a
d-ball they all mean the same d once calibrated, but noise of width σ fills all D dimensions at
scales up to σ. Where the nearest neighbors so mean many more dimensions than the eighth, the
answer is the adaptive scale's, which looks beyond the noise. Where parts of the data differ in
dimension no one number holds: they are named, and the interval reaches over all of them.

Reference:
    Lecture 5 (28/10/2024)
"""

import math
import warnings
from dataclasses import dataclass, field

import torch

from pplvae.intrinsic_dimension import predictive, scales, spectrum
from pplvae.intrinsic_dimension.answers import Answers, ask
from pplvae.intrinsic_dimension.doubts import doubts
from pplvae.intrinsic_dimension.gamma import (
    CalibratedPosterior,
    GammaPosterior,
    check_fraction,
)
from pplvae.intrinsic_dimension.parts import Part
from pplvae.intrinsic_dimension.ratio_law import MOST_TIED
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.validation import check_whole

LEAST_POINTS = 64
OF_THE_SCALE = 0.05  # of d, the standard error that the choice of the scale adds under noise
OF_THE_SHAPE = 0.045  # of d, that of other shapes than balls: the rms of DANCo on 15 manifolds
ADAPTIVE = "adaptive scale"


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """What all estimators say, and the answer made of it.

    Attributes:
        dimension: The answer.
        method: Whose answer it is, "DANCo", "TwoNN, calibrated" or "adaptive scale".
        scale: At what length it holds, in units of x: the mean distance of the farthest neighbor
            that was asked, DANCo's eleventh or TwoNN's second.
        warnings: What a reader should know, in plain words. None is raised besides.
        estimates: By estimator, the dimension and the ends of its 95 % interval; nan where it
            gives none.
        parts: Of different dimension, where the data have such: `hidalgo.fit` says which point is
            of which.
        graph: The neighbor graph, for further questions.
        profile: The dimension against the scale, calibrated.
        adaptive: The dimension at each point's own scale.
        posterior: TwoNN's posterior, not calibrated.
        calibrated: The same, calibrated.
        check: Whether TwoNN's law holds.
        pca: The principal components; None where only distances are known.
    """

    dimension: float
    method: str
    scale: float
    warnings: tuple[str, ...]
    estimates: dict[str, tuple[float, float, float]]
    parts: tuple[Part, ...]
    graph: NeighborGraph = field(repr=False)
    profile: scales.Profile = field(repr=False)
    adaptive: scales.AdaptiveScale = field(repr=False)
    posterior: GammaPosterior = field(repr=False)
    calibrated: CalibratedPosterior = field(repr=False)
    check: predictive.PredictiveCheck = field(repr=False)
    pca: spectrum.Spectrum | None = field(repr=False)

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return between which dimensions the answer lies by about `prob`.

        From the least to the greatest that DANCo, with 4.5 % of d for shapes other than balls, and
        TwoNN's interval, calibrated and not, allow, since whether the data have an edge is not
        known, and the parts; or that of the adaptive scale, with 5 % of d for the choice of the
        scale. No more than the directions in which the data vary. What all estimators miss, as
        noise at every scale asked or thin directions, is not in it.
        """
        check_fraction("prob", prob)
        reach = math.sqrt(2) * torch.special.erfinv(torch.tensor(prob, dtype=torch.float64)).item()
        if self.method == ADAPTIVE:
            error = math.hypot(self.adaptive.standard_error, OF_THE_SCALE * self.dimension)
            ends, errors = [], [(self.dimension, error)]
        else:
            ends = [*self.posterior.interval(prob), *self.calibrated.interval(prob)]
            errors = [(self.dimension, OF_THE_SHAPE * self.dimension)]
            errors += [(part.dimension, part.standard_error) for part in self.parts]
        ends += [d + side * reach * error for d, error in errors for side in (-1, 1)]
        most = math.inf if self.pca is None else float(self.pca.rank)
        return min(self.dimension, *ends), max(self.dimension, min(max(ends), most))

    def __repr__(self) -> str:
        low, high = self.interval()
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
        _check(graph)
        found = ask(graph, seed)
    said = []
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            said.append(str(warning.message))
        else:  # of other packages, not of the data
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return _judged(graph, found, said)


def _check(graph: NeighborGraph) -> None:
    check_whole("the number of distinct points", len(graph), LEAST_POINTS)
    check_whole("num_neighbors", graph.num_neighbors, 16)
    if graph.tied > MOST_TIED:
        raise ValueError(
            f"x must be continuous, got points on a lattice: {graph.tied:.0%} of them have both "
            "nearest neighbors equally near"
        )


def _judged(graph: NeighborGraph, found: Answers, said: list[str]) -> Estimate:
    if found.noisy:
        dimension, method, scale = found.adaptive.dimension, ADAPTIVE, found.adaptive.scale
    else:
        dimension, method, farthest = found.calibrated.dimension, "TwoNN, calibrated", 2
        if found.danco is not None:
            dimension, method, farthest = found.danco.dimension, "DANCo", 11
        scale = graph.distances[:, farthest - 1].mean().item()
    return Estimate(
        dimension=dimension,
        method=method,
        scale=scale,
        warnings=tuple(dict.fromkeys([*said, *doubts(graph, found, dimension)])),
        estimates=_table(found),
        parts=found.parts,
        graph=graph,
        profile=found.profile,
        adaptive=found.adaptive,
        posterior=found.posterior,
        calibrated=found.calibrated,
        check=found.check,
        pca=found.pca,
    )


def _table(found: Answers) -> dict[str, tuple[float, float, float]]:
    table = {
        "TwoNN": (found.posterior.dimension, *found.posterior.interval()),
        "TwoNN, calibrated": (found.calibrated.dimension, *found.calibrated.interval()),
    }
    if found.danco is not None:
        table["DANCo"] = (found.danco.dimension, math.nan, math.nan)
    table[ADAPTIVE] = (found.adaptive.dimension, *found.adaptive.interval())
    if found.profile.plateau is not None:
        plateau = found.profile.plateau
        half = 1.96 * plateau.standard_error
        table["Gride, plateau"] = (
            plateau.dimension, plateau.dimension - half, plateau.dimension + half
        )  # fmt: skip
    return table
