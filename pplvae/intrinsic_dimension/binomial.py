"""BIDE: the intrinsic dimension, from how many neighbors lie in the inner part of a ball.

Where the density is constant within r_k, the k-th neighbor's distance, the k − 1 nearer ones are
uniform in the ball, and each lies within τ r_k with chance τ^d, 0 < τ < 1:

    n ~ Binomial(k − 1, τ^d),   d = log(Σ n / Σ (k − 1)) / log τ.

The information in n is greatest at τ^d = 0.2032. With a flat prior on p = τ^d, p given the counts
is Beta(1 + Σ n, 1 + Σ (k − 1 − n)). Unlike a ratio's law, which is used up by its one parameter, a
binomial one has a shape to be tested.

Reference:
    Macocco, Glielmo, Grilli & Laio (2023), Intrinsic dimension estimation for discrete metrics,
    https://doi.org/10.1103/PhysRevLett.130.067401; Di Noia et al. (2024), Beyond the noise,
    https://arxiv.org/abs/2405.15132
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pplvae.intrinsic_dimension import dependence, gride
from pplvae.intrinsic_dimension.gamma import check_fraction
from pplvae.intrinsic_dimension.result import OneLine
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.randomness import generator
from pplvae.validation import check_in_range, check_positive, check_whole

OPTIMAL = 0.2032  # τ^d, the root of p exp(2 (1 − p)) = 1
_MOST_ROUNDS = 20  # of finding τ for d and d for τ; 4 are the rule


@dataclass(frozen=True, eq=False, repr=False)
class BinomialFit(OneLine):
    """The dimension that the counts in inner balls give.

    Attributes:
        dimension: The estimate of d, of greatest likelihood.
        standard_error: The posterior standard deviation of d.
        ratio: The inner radius by the outer one, τ.
        counts: The number n of neighbors strictly within τ r_k, shape (N,).
        num_trials: k − 1, shape (N,).
        inflation: The factor f by which shared neighbors widen the variance.
    """

    dimension: float
    standard_error: float
    ratio: float
    counts: Tensor = field(repr=False)
    num_trials: Tensor = field(repr=False)
    inflation: float

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the central interval of d that holds `prob` of the posterior."""
        from scipy.stats import beta

        check_fraction("prob", prob)
        inside, outside = _parts(self.counts, self.num_trials, self.inflation)
        high, low = np.log(beta(inside, outside).interval(prob)) / math.log(self.ratio)
        return float(low), float(high)


@dataclass(frozen=True, repr=False)
class GoodnessOfFit(OneLine):
    """Whether counts follow their binomial law.

    Attributes:
        p_value: The chance of a distance as large, if they do.
        distance: Between the distribution functions, observed and expected, at most (KS).
        num_points: How many points with no neighbor in common it was measured on.
    """

    p_value: float
    distance: float
    num_points: int


def estimate(
    x: Data,
    num_neighbors: int | Tensor = 20,
    *,
    ratio: float | None = None,
    inflation: float | None = None,
    progress: bool = True,
) -> BinomialFit:
    """Return the dimension from the counts in balls that hold k neighbors.

    Args:
        x: Points, shape (N, D); or their neighbor graph.
        num_neighbors: k, from 2; one for all points or, with a graph, shape (N,).
        ratio: τ, in (0, 1); by default 0.2032^(1/d), d and τ found in turn.
        inflation: The factor f by which points that share neighbors widen the variance; by default
            found in the graph. With 1 they count as independent.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If k is out of range, or no neighbor, or every one, lies in an inner ball.
    """
    most = int(num_neighbors.max()) if isinstance(num_neighbors, Tensor) else num_neighbors
    check_whole("num_neighbors", most, 2)
    graph = as_graph(x, most, progress=progress)
    sizes = _sizes(graph, num_neighbors)
    if ratio is not None:
        check_fraction("ratio", ratio)
        return fit(graph, sizes, ratio, inflation=inflation)
    dimension = gride.maximum_likelihood(graph, n1=1, n2=2, inflation=1.0).dimension
    for _ in range(_MOST_ROUNDS):
        before, inner = dimension, OPTIMAL ** (1 / dimension)
        dimension = _dimension(counts(graph, sizes, inner), sizes - 1, inner)
        if abs(dimension / before - 1) < 1e-4:
            break
    return fit(graph, sizes, OPTIMAL ** (1 / dimension), inflation=inflation)


def counts(graph: NeighborGraph, sizes: Tensor, ratio: float) -> Tensor:
    """Return how many neighbors lie strictly within τ r_k of each point, shape (N,).

    Args:
        graph: The neighbor graph.
        sizes: k of each point, shape (N,).
        ratio: τ.
    """
    radii = ratio * graph.distances.gather(1, sizes.unsqueeze(1) - 1)
    return torch.searchsorted(graph.distances.contiguous(), radii).squeeze(1)


def fit(
    graph: NeighborGraph, sizes: Tensor, ratio: float, *, inflation: float | None = None
) -> BinomialFit:
    """Return the dimension at a fixed τ, as `estimate`, k of each point given, shape (N,)."""
    inside, trials = counts(graph, sizes, ratio), sizes - 1
    dimension = _dimension(inside, trials, ratio)
    if inflation is None:
        scores = inside - trials * ratio**dimension
        inflation = dependence.smooth_inflation(scores, graph.indices, sizes)
    check_in_range("inflation", inflation, 1.0)
    alpha, beta = (torch.tensor(part) for part in _parts(inside, trials, inflation))
    variance = torch.polygamma(1, alpha) - torch.polygamma(1, alpha + beta)
    error = variance.sqrt().item() / abs(math.log(ratio))
    return BinomialFit(dimension, error, ratio, inside, trials, inflation)


def goodness_of_fit(
    graph: NeighborGraph,
    dimension: float,
    num_neighbors: int | Tensor = 20,
    *,
    ratio: float | None = None,
    seed: int | None = None,
) -> GoodnessOfFit:
    """Return whether the counts in inner balls follow the binomial law of `dimension`.

    Points that share neighbors have counts that depend on each other, so the test is on as many
    points without common neighbors as a random walk through them finds. A count is spread evenly
    over its step of the distribution function, which makes its place there uniform in [0, 1].

    Args:
        graph: The neighbor graph.
        dimension: d, estimated from many more points than the test is on.
        num_neighbors: k, from 2; one for all points or shape (N,).
        ratio: τ, in (0, 1), by default 0.2032^(1/d).
        seed: Which points are taken, and where in its step a count falls.

    Raises:
        ValueError: If d is not positive, or k or τ is out of range.
    """
    from scipy.stats import binom, kstest

    check_positive("dimension", dimension)
    inner = OPTIMAL ** (1 / dimension) if ratio is None else ratio
    check_fraction("ratio", inner)
    sizes = _sizes(graph, num_neighbors)
    source = generator(seed)
    chosen = _apart(graph, sizes, torch.randperm(len(graph), generator=source))
    found = counts(graph, sizes, inner)[chosen].cpu().numpy()
    law = (sizes[chosen] - 1).cpu().numpy(), inner**dimension
    spread = torch.rand(len(chosen), generator=source, dtype=torch.float64).numpy()
    test = kstest(binom.cdf(found - 1, *law) + spread * binom.pmf(found, *law), "uniform")
    return GoodnessOfFit(float(test.pvalue), float(test.statistic), len(chosen))


def _sizes(graph: NeighborGraph, num_neighbors: int | Tensor) -> Tensor:
    """Return k of each point, shape (N,)."""
    sizes = torch.as_tensor(num_neighbors, device=graph.indices.device)
    if sizes.shape not in ((), (len(graph),)):
        shape = f"({len(graph)},)"
        raise ValueError(
            f"num_neighbors must be one number or of shape {shape}, got {tuple(sizes.shape)}"
        )
    if sizes.is_floating_point():
        raise ValueError(f"num_neighbors must be whole numbers, got {sizes.dtype}")
    for size in (int(sizes.min()), int(sizes.max())):
        check_whole("num_neighbors", size, 2, graph.num_neighbors, context="of the graph")
    return sizes.expand(len(graph))


def _apart(graph: NeighborGraph, sizes: Tensor, order: Tensor) -> list[int]:
    """Return points, taken in order, that with their neighbors have none in common."""
    taken, chosen = np.zeros(len(graph), dtype=bool), []
    indices, ends = graph.indices.cpu().numpy(), sizes.tolist()
    for point in order.tolist():
        members = indices[point, : ends[point]]
        if not (taken[point] or taken[members].any()):
            taken[point] = taken[members] = True
            chosen.append(point)
    return chosen


def _dimension(inside: Tensor, trials: Tensor, ratio: float) -> float:
    part = inside.sum().item() / trials.sum().item()
    if not 0 < part < 1:
        raise ValueError(f"some neighbors, but not all, must lie in the inner balls, got {part:g}")
    return math.log(part) / math.log(ratio)


def _parts(inside: Tensor, trials: Tensor, inflation: float) -> tuple[float, float]:
    """Return the concentrations of p's posterior."""
    within, total = inside.sum().item(), trials.sum().item()
    return 1 + within / inflation, 1 + (total - within) / inflation
