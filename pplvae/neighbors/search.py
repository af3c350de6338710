"""Nearest neighbors, exactly: the common ground of densities and intrinsic dimensions.

In few dimensions a k-d tree (scipy) finds them. Elsewhere one matrix product gives all distances,

    |a - b|² = |a|² + |b|² - 2 a·b,

fast, but blind to distances that are small beside |a|. So the product only selects: less its
largest possible rounding error, γ (|a|² + |b|²), it is a lower bound; the distances of the
selected points are computed again as |a - b| from the original rows; and a row is settled once its
k-th distance is no larger than the bounds of all points left out. Rows that the float32 product
leaves open are taken up in float64, with every point that the bound cannot rule out. The answer is
that of a full sort in float64, in memory of the order of the data.

Reference:
    Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.1: a dot product of n
    terms, summed in any order, errs by at most n u Σ |a_i b_i|, to first order in the roundoff u.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.validation import Array, as_points, check_whole

TREE_MAX_DIM = 8  # up to here the k-d tree wins on a CPU, measured on normal data
_BLOCK_BYTES = 2**27  # what a block of work may take
_SPARE = 8  # candidates beyond k, so that the k-th stands clear of the points left out
_GROUP = 32  # columns that one minimum stands for while candidates are picked


class Neighbors(NamedTuple):
    """The nearest points to each query, nearest first.

    Attributes:
        distances: Shape (M, k), in the units and the dtype of the points.
        indices: Which rows of the points they are, shape (M, k), int64.
    """

    distances: Tensor
    indices: Tensor


def neighbor_distances(x: Array, num_neighbors: int, *, progress: bool = True) -> Tensor:
    """Return the distances from each point to its nearest others, nearest first.

    Args:
        x: Points, shape (N, D), with N ≥ 2.
        num_neighbors: How many neighbors k to keep; the point itself is not one, its copies are.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Distances, shape (N, k), in the units and the dtype of `x`.

    Raises:
        ValueError: If k is not in [1, N - 1].

    Example:
        >>> neighbor_distances(torch.tensor([[0.0], [1.0], [3.0]]), 2)
        tensor([[1., 3.],
                [1., 2.],
                [2., 3.]])
    """
    return neighbors(x, num_neighbors, progress=progress).distances


@torch.no_grad()
def neighbors(
    x: Array, num_neighbors: int, queries: Array | None = None, *, progress: bool = True
) -> Neighbors:
    """Return the nearest points of `x` to each query, or to each of its own points.

    Points at equal distances are listed by index; which of several that tie for the last place
    are listed is left open.

    Args:
        x: Points, shape (N, D).
        num_neighbors: How many neighbors k to keep.
        queries: Where to look from, shape (M, D); by default from the points themselves, none of
            which is then a neighbor of its own (though its copies are).
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Distances and indices, both of shape (M, k).

    Raises:
        ValueError: If k is not in [1, N - 1] (in [1, N] with queries), if the queries have not the
            D of the points, or if the points spread over more than 1e300.
    """
    own = queries is None
    x = as_points(x, min_points=2 if own else 1)
    seekers = x if queries is None else as_points(queries, name="queries")
    if seekers.shape[1] != x.shape[1]:
        raise ValueError(f"x and queries must share D, got {x.shape[1]} and {seekers.shape[1]}")
    context = f"for {len(x)} points"
    check_whole("num_neighbors", num_neighbors, 1, len(x) - own, context=context)
    search = _Search(x, seekers, num_neighbors, own)
    by_tree = x.device.type == "cpu" and x.shape[1] <= TREE_MAX_DIM
    with torch.autocast(x.device.type, enabled=False):  # it would round the products
        found = _by_tree(search) if by_tree else _by_product(search, progress)
    return Neighbors((found.distances * search.scale).to(x.dtype), found.indices)


@dataclass(frozen=True)
class _Search:
    """What is asked, and the coordinates (x - center) / scale it is answered in.

    The center is a value of the data in each column, so columns that do not vary vanish, and a
    median, so an outlier does not push the others off the origin, where bounds are tight. The
    scale is a power of two just above the spread: squares neither overflow nor underflow, and
    division by it is exact.
    """

    x: Tensor
    queries: Tensor
    num_neighbors: int
    own: bool  # whether the queries are the points themselves

    @cached_property
    def center(self) -> Tensor:
        """The median of a thousand points spread over the data, shape (D,), float64."""
        return self.x[:: max(1, len(self.x) // 1000)].double().median(dim=0).values

    @cached_property
    def scale(self) -> float:
        parts = [*_parts(self.x), *([] if self.own else _parts(self.queries))]
        spread = max((part.double() - self.center).abs().max().item() for part in parts)
        if spread > 1e300:
            raise ValueError(f"x must spread over at most 1e300, got {spread:.3g}")
        return 2.0 ** math.frexp(spread)[1]

    @property
    def num_others(self) -> int:
        """How many points a query can have as neighbors."""
        return len(self.x) - self.own

    def centered(self, points: Tensor) -> Tensor:
        return (points.double() - self.center) / self.scale

    def distances(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return |query_row - x_column| / scale, shape (P,), float64, from the original rows."""
        size = max(1, _BLOCK_BYTES // (32 * self.x.shape[1]))
        found = []
        for row, column in zip(rows.split(size), columns.split(size), strict=True):
            difference = self.queries[row].double() - self.x[column]
            found.append(torch.linalg.vector_norm(difference.div_(self.scale), dim=1))
        return torch.cat(found)


class _Bounds:
    """Lower bounds on squared distances, in a search's coordinates, by one matrix product.

    With u the roundoff of the product's dtype, v that of float64, and to first order: coordinates
    are stored to u each, which moves |a - b|² by at most 2u (|a| + |b|)² ≤ 4u (|a|² + |b|²); the
    squared norms are stored to u; the product has D + 2 terms, in all ≤ 2(|a|² + |b|²), so it errs
    by 2(D + 2) u (|a|² + |b|²). In float64, the norms err by D v, and the distances from the
    original rows, which the bounds are held against, by (D + 4) v |a - b|². The sums below leave
    room for higher orders; the slack is for terms lost to underflow.
    """

    def __init__(self, search: _Search, dtype: torch.dtype, num_copies: int) -> None:
        self.search, dim, info = search, search.x.shape[1], torch.finfo(dtype)
        self.shrink = 1 - (2 * dim + 16) * info.eps / 2 - (4 * dim + 32) * 2.0**-53
        self.slack = 16 * (dim + 2) * info.tiny
        num_columns = -(-len(search.x) // _GROUP) * _GROUP
        self.points = search.x.new_zeros((num_columns, dim + 2), dtype=dtype)
        self.points[len(search.x) :, -2] = torch.inf  # fills the last group, is nobody's neighbor
        done = 0
        for part in _parts(search.x):
            self.points[done : done + len(part)] = torch.cat(self._factors(part), dim=1)
            done += len(part)
        block_rows = _BLOCK_BYTES // (num_copies * num_columns * self.points.element_size())
        num_rows = min(max(1, block_rows), len(search.queries))
        self.room = self.points.new_empty((num_rows, num_columns))

    def rows(self, rows: Tensor) -> Tensor:
        """Return the bounds from some queries to all points, shape (B, N up to a whole group)."""
        coordinates, norms, ones = self._factors(self.search.queries[rows])
        factors = torch.cat([-2 * coordinates, ones, norms], dim=1).to(self.points.dtype)
        # In few dimensions, the fresh pages of a new tensor would cost more than the product.
        bounds = torch.mm(factors, self.points.T, out=self.room[: len(rows)])
        if self.search.own:
            bounds[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        return bounds

    def _factors(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centered = self.search.centered(points)
        norms = self.shrink * centered.square().sum(dim=1, keepdim=True) - self.slack
        return centered, norms, torch.ones_like(norms)


def _by_tree(search: _Search) -> Neighbors:
    """Search by a k-d tree, which takes differences of the coordinates, so nothing cancels."""
    from scipy.spatial import KDTree

    points, queries = (
        part.double().div(search.scale).numpy() for part in (search.x, search.queries)
    )
    num = search.num_neighbors + search.own
    found = KDTree(points, balanced_tree=False).query(queries, num, workers=-1)
    distances, indices = (torch.as_tensor(part).view(-1, num) for part in found)
    if search.own:  # not the first column: among its copies a point may stand anywhere, or nowhere
        distances[indices == torch.arange(len(indices)).unsqueeze(1)] = torch.inf
    return _nearest(distances, indices, search.num_neighbors)


def _by_product(search: _Search, progress: bool) -> Neighbors:
    """Search by matrix products: in float32, then in float64 what that leaves open."""
    rows = torch.arange(len(search.queries), device=search.x.device)
    distances = search.x.new_empty((len(rows), search.num_neighbors), dtype=torch.float64)
    indices = torch.empty_like(distances, dtype=torch.int64)
    settled = torch.zeros_like(rows, dtype=torch.bool)
    with tqdm(total=len(rows), desc="neighbors", disable=not progress, delay=3) as bar:
        dtype = torch.float32 if _single_precision_holds() else torch.float64
        bounds = _Bounds(search, dtype, num_copies=2)
        for block in rows.split(len(bounds.room)):
            (distances[block], indices[block]), settled[block] = _nearest_candidates(bounds, block)
            bar.update(int(settled[block].sum()))
        if settled.all():
            return Neighbors(distances, indices)
        bounds = _Bounds(search, torch.float64, num_copies=12)
        for block in rows[~settled].split(len(bounds.room)):
            distances[block], indices[block] = _nearest_within(bounds, block, distances[block, -1])
            bar.update(len(block))
    return Neighbors(distances, indices)


def _single_precision_holds() -> bool:
    """Whether float32 products are float32 all through, not TF32 or bfloat16 inside."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch's answer once its newer switches have been set
        return False


def _nearest_candidates(bounds: _Bounds, rows: Tensor) -> tuple[Neighbors, Tensor]:
    """Return the nearest of the points with the lowest bounds, and which rows that settles."""
    search = bounds.search
    num_candidates = min(search.num_neighbors + _SPARE, search.num_others)
    lowest, columns = _lowest(bounds.rows(rows), num_candidates)
    distances = search.distances(rows.repeat_interleave(num_candidates), columns.flatten())
    found = _nearest(distances.view_as(columns), columns, search.num_neighbors)
    reach = found.distances[:, -1]
    settled = (reach.square() <= lowest[:, -1]) | (reach == 0)
    return found, settled | (num_candidates == search.num_others)


def _nearest_within(bounds: _Bounds, rows: Tensor, reach: Tensor) -> Neighbors:
    """Return the nearest of all points that may be within `reach`, shape (B,), of their query."""
    possible = (bounds.rows(rows) <= reach.square().unsqueeze(1)).nonzero()
    row, column = possible.unbind(dim=1)
    distances = bounds.search.distances(rows[row], column)
    order = distances.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]  # by row, then distance, then index
    counts = row.bincount(minlength=len(rows))
    ranks = torch.arange(bounds.search.num_neighbors, device=rows.device)
    chosen = order[(counts.cumsum(0) - counts).unsqueeze(1) + ranks]
    return Neighbors(distances[chosen], column[chosen])


def _lowest(values: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return the lowest `num` of each row and their columns, ascending.

    `topk` is slow over many columns. The lowest `num` are among the `num` groups of columns with
    the lowest minima: any other group has as many values below its own.
    """
    num_groups = values.shape[1] // _GROUP
    if num_groups <= num:
        return values.topk(num, largest=False)
    minima = values.view(-1, _GROUP, num_groups).amin(dim=1)
    groups = minima.topk(num, largest=False, sorted=False).indices
    strides = num_groups * torch.arange(_GROUP, device=values.device)
    members = (groups.unsqueeze(2) + strides).flatten(start_dim=1)
    lowest = values.gather(1, members).topk(num, largest=False)
    return lowest.values, members.gather(1, lowest.indices)


def _nearest(distances: Tensor, indices: Tensor, num: int) -> Neighbors:
    """Return the `num` nearest of each row, ascending, equal distances by index."""
    indices, order = indices.sort(dim=1)
    distances, nearest = distances.gather(1, order).sort(dim=1, stable=True)
    return Neighbors(distances[:, :num], indices.gather(1, nearest)[:, :num])


def _parts(points: Tensor) -> tuple[Tensor, ...]:
    """Return the points in parts whose float64 copies are small."""
    return points.split(max(1, _BLOCK_BYTES // (32 * points.shape[1])))
