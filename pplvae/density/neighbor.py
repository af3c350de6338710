"""Nearest-neighbor density estimates: k points fill the ball that reaches to the k-th.

    p(x) = k / (N V_d r_k^d),   V_d = π^(d/2) / Γ(d/2 + 1)

with r_k the distance from x to its k-th neighbor among N points and V_d the volume of the unit
ball. The error is that of a count, p / √k. Both hold for many neighbors: where the density is
even, N p V_d r_k^d is Gamma(k), so that the log of the estimate is too high by log k - ψ(k) on
average (0.05 for k = 10) and its standard deviation is √ψ'(k), a little more than 1 / √k. The
unbiased form says so: log p = ψ(k) - log(N V_d r_k^d). (Of p itself (k - 1) / (N V_d r_k^d) is
unbiased.) How many neighbors a point can use, and what to do about a slope: `adaptive`.

It is no density: far away it falls like |x|^-d, and its mass is infinite.

Reference:
    Loftsgaarden & Quesenberry (1965), A nonparametric estimate of a multivariate density function,
    https://doi.org/10.1214/aoms/1177700079
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.density import adaptive
from pplvae.density.volumes import Balls, Dimension, balls, log_unit_volume
from pplvae.neighbors import Data, NeighborGraph, neighbors
from pplvae.validation import Array, as_points, check_one_of, check_whole

METHODS = ("kstar", "pak")


@dataclass(frozen=True, eq=False)
class NeighborDensity:
    """A density and how sure it is.

    Attributes:
        log_density: log p at each query, in nats, shape (M,); its mean over the law of d.
        log_error: Its standard error, in nats, shape (M,), that of d in it.
        num_neighbors: The k behind it, one for all or k* of each, shape (M,).
    """

    log_density: Tensor = field(repr=False)
    log_error: Tensor = field(repr=False)
    num_neighbors: int | Tensor

    @property
    def density(self) -> Tensor:
        """The density p, shape (M,); 0 or inf where only its log can be represented."""
        return self.log_density.exp()

    @property
    def error(self) -> Tensor:
        """The standard error of p, shape (M,): p / √k where d is known and k one number."""
        return self.density * self.log_error

    def __repr__(self) -> str:
        k = self.num_neighbors
        said = f"k = {k}" if isinstance(k, int) else f"k from {int(k.min())} to {int(k.max())}"
        return f"NeighborDensity({len(self.log_density)} points, {said})"


def log_density(
    x: Array | None,
    data: Data,
    num_neighbors: int | str,
    dimension: Dimension | None = None,
    *,
    unbiased: bool = False,
    most_neighbors: int = 100,
    progress: bool = True,
) -> NeighborDensity:
    """Return the log of the nearest-neighbor density estimate.

    Where the queries are the data themselves, no point is a neighbor of its own, and N counts the
    others alone: that is the estimate that the others make, as they would for a new point. Copies
    of it are others: rows that repeat are several observations at one place. A neighbor graph,
    which holds each place once, says how many: where m rows stand, m − 1 are neighbors at 0.

    Args:
        x: Where to evaluate, shape (M, D); None, or `data` itself, for the data.
        data: The sample behind the estimate, shape (N, D); or, with x = None, its neighbor graph,
            which spares the search: the density is then at its M distinct points, in its order.
        num_neighbors: The count k of neighbors; "kstar" for as many around each point as have one
            density by a likelihood-ratio test; "pak" for those with a density that has a slope.
        dimension: The dimension d of the volume, by default D; where the data lie on a manifold,
            its dimension, which need not be whole. The density is then per unit of its volume.
            Where d is not known: draws of it, any shape, or what an estimator of
            `intrinsic_dimension` returns, such as `twonn.posterior(data)`. log p is then a mean
            over d, and its error includes d's, which all points share; k* is that of the mean.
        unbiased: Whether log p is unbiased where the density is even, by ψ(k) in the place of
            log k, with √ψ'(k) for its error; not of "pak".
        most_neighbors: One more than the greatest k* of "kstar" and "pak"; a graph has its own.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        log p in nats, and p, with their standard errors.

    Raises:
        ValueError: If x and data differ in D, k is not in [1, N] (in [1, N - 1] at the data, and
            no more than a graph holds), the dimension is not positive, or not given where only
            distances are known, or k copies of a point leave no ball (one, for k*).
    """
    x = None if x is data else x
    if isinstance(num_neighbors, str):
        check_one_of("num_neighbors", num_neighbors, METHODS)
        if unbiased and num_neighbors == "pak":
            raise ValueError("unbiased must be False for 'pak', got True")
        sight = _sight(x, data, most_neighbors, progress)
        return _adapted(num_neighbors, sight, balls(dimension, sight.num_columns), unbiased)
    radii, num_others, num_columns = _radii(x, data, num_neighbors, progress)
    volumes = balls(dimension, num_columns)
    if (radii == 0).any():
        raise ValueError(
            f"num_neighbors must be more than the copies of a point in data, got {num_neighbors}, "
            f"at distance 0 from {int((radii == 0).sum())} points"
        )
    k = torch.tensor(num_neighbors, dtype=torch.float64, device=radii.device)
    return _of_balls(radii, k, volumes, num_others, unbiased)


class _Sight(NamedTuple):
    """What queries see of the data: distances and indices, (M, K), and those of the data, (N, K).

    And how many points a query can see, and D where it is known.
    """

    distances: Tensor
    indices: Tensor
    others: Tensor
    num_others: int
    num_columns: int | None


def _of_balls(
    radii: Tensor, k: Tensor, volumes: Balls, num_others: int, unbiased: bool
) -> NeighborDensity:
    """Return the density of k points in balls, shape (M,); k one number, shape (), or (M,)."""
    mean, variance = volumes.log_volumes(radii.double().log())
    own = torch.polygamma(1, k) if unbiased else 1 / k
    log_count = torch.digamma(k) if unbiased else k.log()
    found = log_count - math.log(num_others) - mean
    size = int(k) if k.dim() == 0 else k.long()
    return NeighborDensity(found.to(radii), (own + variance).sqrt().to(radii), size)


def _adapted(method: str, sight: _Sight, volumes: Balls, unbiased: bool) -> NeighborDensity:
    sizes = adaptive.sizes(sight.distances, sight.others, sight.indices, volumes.mean)
    if method == "kstar":
        radii = sight.distances.gather(1, sizes.unsqueeze(1) - 1).squeeze(1)
        return _of_balls(radii, sizes.double(), volumes, sight.num_others, unbiased)
    distances, k = sight.distances.double(), sizes.double()
    found = torch.stack(
        [
            adaptive.with_slopes(distances, sizes, d) - log_unit_volume(distances.new_tensor(d))
            for d, _ in volumes.nodes
        ]
    )
    weights = torch.tensor([w for _, w in volumes.nodes]).to(found).unsqueeze(1)
    mean = (weights * found).sum(0)
    variance = (weights * (found - mean).square()).sum(0)
    error = ((4 * k + 2) / (k * (k - 1)) + variance).sqrt()
    mean = mean - math.log(sight.num_others)
    return NeighborDensity(mean.to(sight.distances), error.to(sight.distances), sizes)


def _radii(
    x: Array | None, data: Data, num_neighbors: int, progress: bool
) -> tuple[Tensor, int, int | None]:
    """Return the k-th distances, shape (M,), how many points are seen, and D where it is known."""
    if isinstance(data, NeighborGraph):
        _check_whole_graph(x)
        num_columns = None if data.points is None else data.points.shape[1]
        return _kth(data, num_neighbors), len(data) + data.num_repeats - 1, num_columns
    points, queries = _checked(x, data)
    found = neighbors(points, num_neighbors, queries, progress=progress).distances[:, -1]
    return found, len(points) - (queries is None), points.shape[1]


def _sight(x: Array | None, data: Data, most: int, progress: bool) -> _Sight:
    """Return what the queries see, as far as `most` neighbors or a graph's width.

    Raises:
        ValueError: If fewer than 4 neighbors are to be seen, or points repeat.
    """
    if isinstance(data, NeighborGraph):
        _check_whole_graph(x)
        check_whole("num_neighbors of the graph", data.num_neighbors, 4)
        _check_distinct(data.num_repeats)
        num_columns = None if data.points is None else data.points.shape[1]
        distances = data.distances
        return _Sight(distances, data.indices, distances, len(data) - 1, num_columns)
    points, queries = _checked(x, data)
    check_whole("the number of points in data", len(points), 5)
    check_whole("most_neighbors", most, 4)
    width = min(most, len(points) - 1)
    own = neighbors(points, width, progress=progress)
    seen = own if queries is None else neighbors(points, width, queries, progress=progress)
    _check_distinct(int((own.distances[:, 0] == 0).sum()), int((seen.distances[:, 0] == 0).sum()))
    num_others = len(points) - (queries is None)
    return _Sight(*seen, own.distances, num_others, points.shape[1])


def _checked(x: Array | None, data: Array) -> tuple[Tensor, Tensor | None]:
    points = as_points(data, name="data", min_points=2 if x is None else 1)
    queries = None if x is None else as_points(x)
    if queries is not None and queries.shape[1] != points.shape[1]:
        raise ValueError(f"x and data must share D, got {queries.shape[1]} and {points.shape[1]}")
    return points, queries


def _check_whole_graph(x: Array | None) -> None:
    if x is not None:
        raise ValueError("x must be None where data is a neighbor graph")


def _check_distinct(*numbers: int) -> None:
    if any(numbers):
        raise ValueError(
            f"data and x must hold no point twice where k is adapted, got {max(numbers)} at "
            "distance 0 from another: drop repeats, or give num_neighbors as a number"
        )


def _kth(graph: NeighborGraph, num_neighbors: int) -> Tensor:
    """Return the distance from each distinct point to its k-th other row, shape (M,)."""
    context = f"for a graph of {graph.num_neighbors} neighbors"
    check_whole("num_neighbors", num_neighbors, 1, graph.num_neighbors, context=context)
    copies = graph.multiplicities.unsqueeze(1) - 1
    seen = copies + graph.multiplicities[graph.indices[:, :num_neighbors]].cumsum(dim=1)
    place = (seen < num_neighbors).sum(dim=1, keepdim=True)
    radii = graph.distances.gather(1, place).squeeze(1)
    return radii.where(copies.squeeze(1) < num_neighbors, 0.0)
