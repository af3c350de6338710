"""k-NN scaling: how fast the number of neighbors grows with the distance.

Within r of a point lie about ρ ω_d r^d others, so that the log of the rank k rises with the log of
the distance to the k-th neighbor, and the slope is the dimension:

    log k ≈ log(ρ ω_d) + d log r_k.

The lecture fits that line. But the volume within r_k is Gamma(k) distributed, not k, and the mean
of its log is the digamma function ψ(k), below log k by 0.58 at k = 1 and 0.05 at k = 10:

    E log r_k = (ψ(k) − log((N − 1) ω_d ρ)) / d.

So log r_k, which has the noise, is regressed on ψ(k), which has none, and the slope is 1 / d; the
points' mean slope gives the pooled d. Against log k it is too steep: d is 17 % too low at k = 10.

Reference:
    Lecture 5 (28/10/2024); Farahmand, Szepesvári and Audibert (2007) for `doubling`
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae.intrinsic_dimension.dependence import smooth_inflation
from pplvae.intrinsic_dimension.result import Estimated
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.validation import check_one_of, check_whole

AGAINST = {"digamma": torch.digamma, "log": torch.log}


@dataclass(frozen=True, eq=False, repr=False)
class Slopes(Estimated):
    """The lines of rank against distance.

    Attributes:
        dimension: d of all points, one over their mean slope.
        standard_error: Its standard error, with shared neighbors counted.
        num_neighbors: k.
        against: What stands for the rank.
        local: d at each point, one over its slope, shape (N,); infinite where all neighbors are
            at one distance. By its mean too high: 1 / slope is convex.
        ranks: ψ(j) or log j for j = 1 … k, shape (k,).
        log_distances: The points' mean of log r_j, in logs of the units of x, shape (k,).
    """

    num_neighbors: int
    against: str
    local: Tensor = field(repr=False)
    ranks: Tensor = field(repr=False)
    log_distances: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Doubling(Estimated):
    """The median of the dimensions that r_2k / r_k gives.

    Attributes:
        dimension: The median.
        standard_error: Its standard error, with shared neighbors counted.
        num_neighbors: k.
        local: log 2 / log(r_2k / r_k) at each point, shape (N,).
    """

    num_neighbors: int
    local: Tensor = field(repr=False)


@torch.no_grad()
def slopes(
    x: Data, num_neighbors: int = 10, *, against: str = "digamma", progress: bool = True
) -> Slopes:
    """Return the slope of rank against distance, in logs, at each point and pooled.

    All ranks weigh the same here. Weighted by their covariance, Cov(log V_j, log V_k) =
    ψ₁(max(j, k)) for the volumes V, the line is `levina_bickel.estimate` exactly, whose variance
    is less: by 1.5 at k = 10 for independent points; by 1.2, 1.5 and 1.8 for those of flat tori
    of 1, 2 and 5 dimensions, which share neighbors.

    Args:
        x: Points, shape (N, D), or their neighbor graph.
        num_neighbors: k, from 2.
        against: "digamma"; or "log", the lecture's log k, which is biased: where d is the truth,
            it gives 0.77 d for k = 5, 0.83 d for k = 10 and 0.88 d for k = 20.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If k is not in [2, N − 1], or all neighbors of all points are at one distance.
    """
    check_one_of("against", against, AGAINST)
    check_whole("num_neighbors", num_neighbors, 2)
    graph = as_graph(x, num_neighbors, progress=progress)
    logs = graph.distances.log()
    ranks = AGAINST[against](torch.arange(1, num_neighbors + 1).to(logs))
    centered = ranks - ranks.mean()
    inverse = ((logs - logs[:, :1]) @ centered / centered.square().sum()).clamp(min=0)
    dimension, error = harmonic_mean(inverse, graph, num_neighbors)
    means = logs.mean(dim=0)
    return Slopes(dimension, error, num_neighbors, against, 1 / inverse, ranks, means)


@torch.no_grad()
def doubling(x: Data, num_neighbors: int = 5, *, progress: bool = True) -> Doubling:
    """Return the median over points of log 2 / log(r_2k / r_k): twice the rank, 2^(1/d) as far.

    (r_k / r_2k)^d ~ Beta(k, k) is symmetric about 1/2, so that the median is d itself: no bias at
    any k. Points of a lesser part of the data, or on a border, do not move it far.

    Args:
        x: Points, shape (N, D), or their neighbor graph.
        num_neighbors: k; 2 k neighbors are needed.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If 2 k is not in [2, N − 1], or most points have all neighbors at one distance.
    """
    check_whole("num_neighbors", num_neighbors, 1)
    k = num_neighbors
    graph = as_graph(x, 2 * k, progress=progress)
    local = math.log(2) / (graph.distances[:, 2 * k - 1] / graph.distances[:, k - 1]).log()
    ordered = local.sort().values
    dimension = (ordered[(len(local) - 1) // 2].item() + ordered[len(local) // 2].item()) / 2
    _check_finite(dimension)
    # The density of u = (r_k / r_2k)^d at 1/2, and du/dd there, log 2 / (2 d).
    log_density = (2 - 2 * k) * math.log(2) + math.lgamma(2 * k) - 2 * math.lgamma(k)
    density = math.exp(log_density) * math.log(2) / (2 * dimension)
    inflation = smooth_inflation((local - dimension).sign(), graph.indices, 2 * k)
    error = math.sqrt(inflation / len(local)) / (2 * density)
    return Doubling(dimension, error, k, local)


def harmonic_mean(inverse: Tensor, graph: NeighborGraph, reach: int) -> tuple[float, float]:
    """Return one over the mean of the points' 1 / d, and its standard error.

    Args:
        inverse: 1 / d at each point, shape (N,).
        graph: The neighbor graph.
        reach: How many neighbors each 1 / d was read from.

    Raises:
        ValueError: If the mean is 0: all neighbors of all points are at one distance.
    """
    mean = inverse.mean().item()
    dimension = 1 / mean if mean > 0 else math.inf
    _check_finite(dimension)
    inflation = smooth_inflation(inverse, graph.indices, reach)
    variance = inverse.var(unbiased=False).item() * inflation / len(inverse)
    return dimension, dimension**2 * math.sqrt(variance)


def _check_finite(dimension: float) -> None:
    if not math.isfinite(dimension):
        raise ValueError("x must not have its neighbors at one distance, got a dimension of inf")
