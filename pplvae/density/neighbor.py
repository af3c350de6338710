"""Nearest-neighbor density estimates: k points fill the ball that reaches to the k-th.

    p(x) = k / (N V_d r_k^d),   V_d = π^(d/2) / Γ(d/2 + 1)

with r_k the distance from x to its k-th neighbor among N points and V_d the volume of the unit
ball. The error is that of a count, p / √k. Both hold for many neighbors: where the density is
even, the log of the estimate is too high by log k - ψ(k) on average (0.05 for k = 10) and its
standard deviation is √ψ'(k), a little more than 1 / √k.

Reference:
    Loftsgaarden & Quesenberry (1965), A nonparametric estimate of a multivariate density function,
    https://doi.org/10.1214/aoms/1177700079
"""

import math
from dataclasses import dataclass, field

from torch import Tensor

from pplvae.neighbors import Data, NeighborGraph, neighbors
from pplvae.validation import Array, as_points, check_positive, check_whole


@dataclass(frozen=True, eq=False)
class NeighborDensity:
    """A density and how sure it is.

    Attributes:
        log_density: log p at each query, in nats, shape (M,).
        num_neighbors: The k behind it.
    """

    log_density: Tensor = field(repr=False)
    num_neighbors: int

    @property
    def density(self) -> Tensor:
        """The density p, shape (M,); 0 or inf where only its log can be represented."""
        return self.log_density.exp()

    @property
    def error(self) -> Tensor:
        """The standard error p / √k, shape (M,)."""
        return self.density / self.num_neighbors**0.5


def log_density(
    x: Array | None,
    data: Data,
    num_neighbors: int,
    dimension: float | None = None,
    *,
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
        num_neighbors: The count k of neighbors.
        dimension: The dimension d of the volume, by default D; where the data lie on a manifold,
            its dimension, which need not be whole. The density is then per unit of its volume.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        log p in nats, and p with its standard error.

    Raises:
        ValueError: If x and data differ in D, k is not in [1, N] (in [1, N - 1] at the data, and
            no more than a graph holds), the dimension is not positive, or not given where only
            distances are known, or k copies of a point leave no ball.
    """
    x = None if x is data else x
    if isinstance(data, NeighborGraph):
        if x is not None:
            raise ValueError("x must be None where data is a neighbor graph")
        radii, num_rows = _radii(data, num_neighbors), len(data) + data.num_repeats
        num_columns = None if data.points is None else data.points.shape[1]
    else:
        points = as_points(data, name="data", min_points=2 if x is None else 1)
        queries = None if x is None else as_points(x)
        num_rows, num_columns = points.shape
        if queries is not None and queries.shape[1] != num_columns:
            raise ValueError(f"x and data must share D, got {queries.shape[1]} and {num_columns}")
        radii = neighbors(points, num_neighbors, queries, progress=progress).distances[:, -1]
    dimension = num_columns if dimension is None else dimension
    if dimension is None:
        raise ValueError("dimension must be given where only distances are known, got None")
    check_positive("dimension", dimension)
    if (radii == 0).any():
        raise ValueError(
            f"num_neighbors must be more than the copies of a point in data, got {num_neighbors}, "
            f"at distance 0 from {int((radii == 0).sum())} points"
        )
    log_volume = 0.5 * dimension * math.log(math.pi) - math.lgamma(0.5 * dimension + 1)
    log_share = math.log(num_neighbors / (num_rows - (x is None)))
    return NeighborDensity(log_share - log_volume - dimension * radii.log(), num_neighbors)


def _radii(graph: NeighborGraph, num_neighbors: int) -> Tensor:
    """Return the distance from each distinct point to its k-th other row, shape (M,)."""
    context = f"for a graph of {graph.num_neighbors} neighbors"
    check_whole("num_neighbors", num_neighbors, 1, graph.num_neighbors, context=context)
    copies = graph.multiplicities.unsqueeze(1) - 1
    seen = copies + graph.multiplicities[graph.indices[:, :num_neighbors]].cumsum(dim=1)
    place = (seen < num_neighbors).sum(dim=1, keepdim=True)
    radii = graph.distances.gather(1, place).squeeze(1)
    return radii.where(copies.squeeze(1) < num_neighbors, 0.0)
