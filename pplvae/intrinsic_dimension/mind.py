"""MiND: the intrinsic dimension from the nearest neighbor's share of the reach of k + 1.

Of the k neighbors inside r_(k+1), thrown into its ball at random, the nearest is at a share
ρ = r_1 / r_(k+1) of the radius, and ρ^d is the least of k uniform numbers:

    p(ρ | d) = k d ρ^(d − 1) (1 − ρ^d)^(k − 1).

MiND_MLk is the d of greatest likelihood, MiND_MLi the whole number in [1, D]. As ρ^d is
Beta(1, k), this is `gride` with n₁ = 1 and n₂ = k + 1. It reads one ratio of each point where
Levina and Bickel read k − 1: less precise, and DANCo's first step.

Reference:
    Rozza et al. (2012), Novel high intrinsic dimensionality estimators,
    https://doi.org/10.1007/s10994-012-5294-7
"""

import math
from dataclasses import dataclass

import torch

from pplvae.intrinsic_dimension import gride
from pplvae.intrinsic_dimension.result import Estimated
from pplvae.neighbors import Data, as_graph
from pplvae.validation import check_whole


@dataclass(frozen=True, repr=False)
class Mind(Estimated):
    """The dimension of greatest likelihood.

    Attributes:
        dimension: The estimate of d, MiND_MLk.
        standard_error: Its standard error, with shared neighbors counted.
        whole: The most likely whole number, MiND_MLi.
        num_neighbors: k.
    """

    whole: int
    num_neighbors: int


@torch.no_grad()
def estimate(
    x: Data, num_neighbors: int = 10, *, highest: int | None = None, progress: bool = True
) -> Mind:
    """Return the most likely dimension, and the most likely whole one.

    Args:
        x: Points, shape (N, D), or their neighbor graph.
        num_neighbors: k, from 1; k + 1 neighbors are needed.
        highest: The largest whole number to consider, by default D if points are known.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If k + 1 is not in [2, N − 1], or all neighbors of all points are at one
            distance.
    """
    check_whole("num_neighbors", num_neighbors, 1)
    graph = as_graph(x, num_neighbors + 1, progress=progress)
    if highest is None and graph.points is not None:
        highest = graph.points.shape[1]
    if highest is not None:
        check_whole("highest", highest, 1)
    fit = gride.maximum_likelihood(graph, n1=1, n2=num_neighbors + 1, unbiased=False)
    ratios = gride.ratios(graph, 1, num_neighbors + 1)
    # The likelihood has one summit, so the best whole number is beside it, or the nearest allowed.
    most = math.inf if highest is None else highest
    whole_ones = math.floor(fit.dimension), math.ceil(fit.dimension)
    beside = {int(min(max(1, number), most)) for number in whole_ones}
    laws = {d: gride.Gride(ratios.new_tensor(d), 1, num_neighbors + 1) for d in beside}
    whole = max(laws, key=lambda d: laws[d].log_prob(ratios).sum().item())
    return Mind(fit.dimension, fit.standard_error, whole, num_neighbors)
