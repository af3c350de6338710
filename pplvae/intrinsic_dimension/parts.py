"""Do parts of the data differ in dimension? A cheap screen, then Hidalgo.

Where all points have one dimension d and the density is even, T = Σ_{j<k} log(r_k / r_j) is
Gamma(k − 1, d), whose variance is its squared mean over k − 1. Parts of different d add the spread
of their means: a half of 2 and a half of 4 dimensions double the variance at k = 10. Edges, bends
and uneven densities add some as well, and which of these it is the screen cannot tell. Hidalgo,
which asks the nearest two neighbors only, can: it splits the points only where that pays. Of
59 manifolds without parts, 472 samples of 300 to 3000 points, none was split; of 48 with two, 1000
points whose dimensions differ by a factor of 2 or 3, 47 were.
"""

import math
import warnings
from typing import NamedTuple

import torch

from pplvae.intrinsic_dimension import balls, calibration, dependence, hidalgo
from pplvae.neighbors import NeighborGraph, as_graph
from pplvae.randomness import generator

NEIGHBORS = 10  # in T
LEAST_SPREAD = 1.15  # variance of T, in units of the Gamma law's, to be looked into,
LEAST_ERRORS = 2.0  # and how many standard errors above it
MOST_PARTS = 3
COHERENT = 5  # neighbors: with the 3 that tell best how many parts there are, pieces go astray
MOST_POINTS = 4000  # that are split; of more, so many at random
LEAST_SHARE = 0.03  # of a part worth naming


class Part(NamedTuple):
    """A part of the data.

    Attributes:
        share: Of the points, in [0, 1].
        dimension: Calibrated for so many points.
        standard_error: Of its dimension.
    """

    share: float
    dimension: float
    standard_error: float


class Spread(NamedTuple):
    """How much the points' T differ.

    Attributes:
        ratio: Their variance over that of the Gamma law: 1 for one dimension.
        errors: By how many standard errors it exceeds 1.
    """

    ratio: float
    errors: float


def find(graph: NeighborGraph, *, seed: int | None = None) -> tuple[Part, ...]:
    """Return the parts of different dimension, in its order; none where the data have but one.

    Args:
        graph: The neighbor graph, of 10 neighbors or more.
        seed: Which 4000 points are asked, where there are more.
    """
    seen = spread(graph)
    if seen.ratio < LEAST_SPREAD or seen.errors < LEAST_ERRORS:
        return ()
    some = _some(graph, seed)
    if some is None:
        return ()
    number = hidalgo.select(some, MOST_PARTS, progress=False).num_parts
    if number == 1:
        return ()
    best = hidalgo.fit(some, number, num_coherent=COHERENT, progress=False)
    each = zip(*(v.tolist() for v in (best.weights, best.dimensions, best.standard_errors)),
               strict=True)  # fmt: skip
    found = [_part(len(some), *part) for part in each if part[0] >= LEAST_SHARE]
    return tuple(found) if len(found) > 1 else ()


def spread(graph: NeighborGraph) -> Spread:
    """Return how much the T of 10 neighbors differ from point to point."""
    distances = graph.distances[:, :NEIGHBORS]
    totals = (distances[:, -1:] / distances[:, :-1]).log().sum(dim=1)
    squares = (totals / totals.mean() - 1).square()
    excess = (NEIGHBORS - 1) * squares.mean().item() - 1
    inflation = dependence.smooth_inflation(squares, graph.indices, NEIGHBORS)
    variance = squares.var().item() * inflation / len(squares)
    return Spread(1 + excess, excess / ((NEIGHBORS - 1) * math.sqrt(variance)))


def _some(graph: NeighborGraph, seed: int | None) -> NeighborGraph | None:
    """Return a graph of few enough points, None where there are too many without coordinates."""
    if len(graph) <= MOST_POINTS:
        return graph
    if graph.points is None:
        return None
    chosen = torch.randperm(len(graph), generator=generator(seed))[:MOST_POINTS]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # said of all points
        return as_graph(graph.points[chosen.to(graph.points.device)], COHERENT, progress=False)


def _part(num_points: int, share: float, dimension: float, standard_error: float) -> Part:
    curve = calibration.curve(max(balls.LEAST_POINTS, round(share * num_points)))
    return Part(share, *curve.corrected(dimension, standard_error))
