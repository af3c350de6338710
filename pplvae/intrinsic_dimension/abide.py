"""ABIDE: the intrinsic dimension at the scale that suits each point.

Noise makes the smallest scales misleading, a density that varies the larger ones. So each point
takes as many neighbors as show a constant density. The balls of radius r_k(i) about point i, and
of r_k(j) about its (k + 1)-th neighbor j, both hold k points; V is their volume, ∝ r^d. The
likelihood ratio of two densities in them against one is, with Δ = d log(r_k(i) / r_k(j)),

    D_k = −2k [log V_i + log V_j − 2 log(V_i + V_j) + log 4] = 4k log cosh(Δ / 2),

chi-square with one degree of freedom where the density is one. k* is the last of k = 3, 4, …
before D_k is too large. It depends on d, and the estimate of d reads the k* nearest neighbors:
they are found in turn until d stays, which takes 3 to 5 rounds.

D_k compares densities and is blind to shape: on a manifold of even density that bends or closes,
k* runs up to the width of the graph, and d with it (2.27 for 2 on a flat torus of 2500 points in
512 neighbors, where TwoNN says 1.96). `capped` says so, and `binomial.goodness_of_fit` may.

Reference:
    Di Noia, Macocco, Glielmo, Laio & Mira (2024), Beyond the noise: intrinsic dimension estimation
    with optimal neighbourhood identification, https://arxiv.org/abs/2405.15132; Rodriguez et al.
    (2018), Computing the free energy without collective variables, for k*
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.intrinsic_dimension import binomial, dependence, gride, ratio_law
from pplvae.intrinsic_dimension.gamma import check_fraction
from pplvae.intrinsic_dimension.result import Estimated
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.validation import check_one_of, check_positive, check_whole

_MOST_ROUNDS = 30
_LEAST = 4  # neighbors: k* is 2 or 3 then


@dataclass(frozen=True, eq=False, repr=False)
class AdaptiveScale(Estimated):
    """The dimension at each point's own scale.

    Attributes:
        dimension: The estimate of d.
        standard_error: Its standard error, k* given.
        num_neighbors: k* of each point, shape (N,), int64.
        scale: The mean distance of the k*-th neighbor, in units of x.
        converged: Whether d stayed in the last round.
        capped: The part of the points for which the graph was too narrow: their k* is the
            largest it could test, its width less 1.
        width: How many neighbors the graph holds.
        trace: d after each round.
        inflation: The factor f by which shared neighbors widen the variance.
    """

    num_neighbors: Tensor
    scale: float
    converged: bool
    capped: float
    width: int
    trace: tuple[float, ...]
    inflation: float

    def __repr__(self) -> str:
        found = f"d = {self.dimension:.4g} ± {self.standard_error:.2g} at {self.scale:.3g}"
        edge = f", {self.capped:.0%} of k* at the graph's width" if self.capped else ""
        return f"AdaptiveScale({found}{edge}{'' if self.converged else ', not converged'})"


def adaptive(
    x: Data,
    *,
    num_neighbors: int | None = None,
    estimator: str = "gride",
    significance: float = 1e-6,
    tolerance: float = 1e-3,
    progress: bool = True,
) -> AdaptiveScale:
    """Return the dimension from the neighbors within which each point's density is constant.

    Args:
        x: Points, shape (N, D); or their neighbor graph.
        num_neighbors: The width of the neighbor graph, which bounds k*; by default the graph's
            own, or the greatest power of 2 up to N / 4, at least 4, with at most 2^24 entries in
            all.
        estimator: "gride", n₁ = k*/2 and n₂ = k*; or "binomial", the counts in inner balls.
        significance: The chance with which D_k is too large though the density is constant.
        tolerance: By what part of itself d may still change; k* is whole, so d moves in steps.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If the graph has fewer than 4 neighbors, or an argument is out of range.
    """
    check_one_of("estimator", estimator, _ESTIMATORS)
    check_fraction("significance", significance)
    check_positive("tolerance", tolerance)
    graph = as_graph(x, num_neighbors, progress=progress)
    if num_neighbors is None and not isinstance(x, NeighborGraph) and graph.num_neighbors < _LEAST:
        graph = as_graph(x, _LEAST, progress=progress)
    check_whole("num_neighbors", graph.num_neighbors, _LEAST)
    estimate = _ESTIMATORS[estimator]
    trace = [gride.maximum_likelihood(graph, n1=1, n2=2, inflation=1.0).dimension]
    while True:
        sizes = constant_neighbors(graph, trace[-1], significance=significance)
        trace.append(estimate(graph, sizes, trace[-1], 1.0).dimension)
        converged = abs(trace[-1] / trace[-2] - 1) < tolerance
        if converged or len(trace) > _MOST_ROUNDS:
            break
    found = estimate(graph, sizes, trace[-2], None)
    return AdaptiveScale(
        dimension=found.dimension,
        standard_error=found.standard_error,
        num_neighbors=sizes,
        scale=graph.distances.gather(1, sizes.unsqueeze(1) - 1).mean().item(),
        converged=converged,
        capped=sizes.eq(graph.num_neighbors - 1).double().mean().item(),
        width=graph.num_neighbors,
        trace=tuple(trace),
        inflation=found.inflation,
    )


def constant_neighbors(
    graph: NeighborGraph, dimension: float, *, significance: float = 1e-6
) -> Tensor:
    """Return k* of each point, in [2, k − 1] for a graph of k neighbors, shape (N,), int64.

    Args:
        graph: The neighbor graph, k ≥ 4.
        dimension: d, which turns distances into volumes.
        significance: The chance with which D_k is too large though the density is constant.
    """
    from scipy.stats import chi2

    most, rows = float(chi2(1).isf(significance)), torch.arange(len(graph)).to(graph.indices)
    sizes = torch.full_like(rows, graph.num_neighbors - 1)
    for k in range(3, graph.num_neighbors):
        logs = graph.distances[:, k - 1].log()
        reach = 2 * math.acosh(math.exp(most / (4 * k))) / dimension
        passing = (logs[rows] - logs[graph.indices[rows, k]]).abs() <= reach
        sizes[rows[~passing]] = k - 1
        rows = rows[passing]
        if not len(rows):
            break
    return sizes


class _Estimate(NamedTuple):
    """An estimate of d at given k*."""

    dimension: float
    standard_error: float
    inflation: float


def _by_gride(
    graph: NeighborGraph, sizes: Tensor, before: float, inflation: float | None
) -> _Estimate:
    n1 = sizes // 2
    far, near = (
        graph.distances.gather(1, rank.unsqueeze(1) - 1).squeeze(1) for rank in (2 * n1, n1)
    )
    logs = (far / near).log()
    dimension = ratio_law.solve(logs, n1, 2 * n1, count=len(logs) - 1)
    scores, information = ratio_law.score_and_information(logs, dimension, n1, 2 * n1)
    if inflation is None:
        inflation = dependence.smooth_inflation(scores, graph.indices, 2 * n1)
    return _Estimate(dimension, dimension * math.sqrt(inflation / information), inflation)


def _by_counts(
    graph: NeighborGraph, sizes: Tensor, before: float, inflation: float | None
) -> _Estimate:
    found = binomial.fit(graph, sizes, binomial.OPTIMAL ** (1 / before), inflation=inflation)
    return _Estimate(found.dimension, found.standard_error, found.inflation)


_ESTIMATORS = {"gride": _by_gride, "binomial": _by_counts}
