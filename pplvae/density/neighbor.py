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
from dataclasses import dataclass

from torch import Tensor

from pplvae.neighbors import neighbors
from pplvae.validation import Array, as_points, check_positive


@dataclass(frozen=True)
class NeighborDensity:
    """A density and how sure it is.

    Attributes:
        log_density: log p at each query, in nats, shape (M,).
        num_neighbors: The k behind it.
    """

    log_density: Tensor
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
    data: Array,
    num_neighbors: int,
    dimension: float | None = None,
    *,
    progress: bool = True,
) -> NeighborDensity:
    """Return the log of the nearest-neighbor density estimate.

    Where the queries are the data themselves, no point is a neighbor of its own, and N counts the
    others alone: that is the estimate that the others make, as they would for a new point.

    Args:
        x: Where to evaluate, shape (M, D); None, or `data` itself, for the data.
        data: The sample behind the estimate, shape (N, D).
        num_neighbors: The count k of neighbors.
        dimension: The dimension d of the volume, by default D; where the data lie on a manifold,
            its dimension, which need not be whole. The density is then per unit of its volume.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        log p in nats, and p with its standard error.

    Raises:
        ValueError: If x and data differ in D, k is not in [1, N] (in [1, N - 1] at the data), the
            dimension is not positive, or k copies of a point leave no ball.
    """
    queries = None if x is None or x is data else as_points(x)
    points = as_points(data, name="data", min_points=2 if queries is None else 1)
    if queries is not None and queries.shape[1] != points.shape[1]:
        raise ValueError(f"x and data must share D, got {queries.shape[1]} and {points.shape[1]}")
    dimension = points.shape[1] if dimension is None else dimension
    check_positive("dimension", dimension)
    radii = neighbors(points, num_neighbors, queries, progress=progress).distances[:, -1]
    if (radii == 0).any():
        raise ValueError(
            f"num_neighbors must be more than the copies of a point in data, got {num_neighbors}, "
            f"at distance 0 from {int((radii == 0).sum())} points"
        )
    log_volume = 0.5 * dimension * math.log(math.pi) - math.lgamma(0.5 * dimension + 1)
    log_share = math.log(num_neighbors / (len(points) - (queries is None)))
    return NeighborDensity(log_share - log_volume - dimension * radii.log(), num_neighbors)
