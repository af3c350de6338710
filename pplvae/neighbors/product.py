"""Neighbors by one matrix product of the queries with all points.

    |a - b|² = |a|² + |b|² - 2 a·b

is fast, but blind to distances that are small beside |a|. So the product only selects: less its
largest possible rounding error, γ (|a|² + |b|²), it is a lower bound; the distances of the
selected points are computed again as |a - b| from the original rows; and a row is settled once its
k-th distance is no larger than the bounds of all points left out. Rows that the float32 product
leaves open are taken up in float64, with every point that the bound cannot rule out.

Reference:
    Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.1: a dot product of n
    terms, summed in any order, errs by at most n u Σ |a_i b_i|, to first order in the roundoff u.
"""

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.neighbors.question import Neighbors, Question, in_parts, single_precision_holds
from pplvae.neighbors.selection import GROUP, lowest, nearest, nearest_of_pairs

_BLOCK_BYTES = 2**27  # what a block of work may take
_SPARE = 8  # candidates beyond k, so that the k-th stands clear of the points left out


def search(question: Question, *, progress: bool) -> Neighbors:
    """Search by matrix products: in float32, then in float64 what that leaves open."""
    rows = torch.arange(len(question.queries), device=question.x.device)
    distances = question.x.new_empty((len(rows), question.num_neighbors), dtype=torch.float64)
    indices = torch.empty_like(distances, dtype=torch.int64)
    settled = torch.zeros_like(rows, dtype=torch.bool)
    with tqdm(total=len(rows), desc="neighbors", disable=not progress, delay=3) as bar:
        dtype = torch.float32 if single_precision_holds() else torch.float64
        bounds = _Bounds(question, dtype, num_copies=2)
        for block in rows.split(len(bounds.room)):
            found, settled[block] = _nearest_candidates(question, bounds.rows(block), block)
            distances[block], indices[block] = found
            bar.update(int(settled[block].sum()))
        if settled.all():
            return Neighbors(distances, indices)
        bounds = _Bounds(question, torch.float64, num_copies=12)
        for block in rows[~settled].split(len(bounds.room)):
            lower = bounds.rows(block)
            found, _ = _nearest_candidates(question, lower, block)
            reach = torch.minimum(found.distances[:, -1], distances[block, -1])
            distances[block], indices[block] = _nearest_within(question, lower, block, reach)
            bar.update(len(block))
    return Neighbors(distances, indices)


class _Bounds:
    """Lower bounds on squared distances, in a question's coordinates, by one matrix product.

    With u the roundoff of the product's dtype, v that of float64, and to first order: coordinates
    are stored to u each, which moves |a - b|² by at most 2u (|a| + |b|)² ≤ 4u (|a|² + |b|²); the
    squared norms are stored to u; the product has D + 2 terms, in all ≤ 2(|a|² + |b|²), so it errs
    by 2(D + 2) u (|a|² + |b|²). In float64, the norms err by D v, and the distances from the
    original rows, which the bounds are held against, by (D + 4) v |a - b|². The sums below leave
    room for higher orders; the slack is for terms lost to underflow.
    """

    def __init__(self, question: Question, dtype: torch.dtype, num_copies: int) -> None:
        self.question, dim, info = question, question.x.shape[1], torch.finfo(dtype)
        self.shrink = 1 - (2 * dim + 16) * info.eps / 2 - (4 * dim + 32) * 2.0**-53
        self.slack = 16 * (dim + 2) * info.tiny
        num_columns = -(-len(question.x) // GROUP) * GROUP
        self.points = question.x.new_zeros((num_columns, dim + 2), dtype=dtype)
        # What fills the last group up is nobody's neighbor.
        self.points[len(question.x) :, -2] = torch.inf
        done = 0
        for part in in_parts(question.x):
            self.points[done : done + len(part)] = torch.cat(self._factors(part), dim=1)
            done += len(part)
        block_rows = _BLOCK_BYTES // (num_copies * num_columns * self.points.element_size())
        num_rows = min(max(1, block_rows), len(question.queries))
        self.room = self.points.new_empty((num_rows, num_columns))

    def rows(self, rows: Tensor) -> Tensor:
        """Return the bounds from some queries to all points, shape (B, N up to a whole group)."""
        coordinates, norms, ones = self._factors(self.question.queries[rows])
        factors = torch.cat([-2 * coordinates, ones, norms], dim=1).to(self.points.dtype)
        # In few dimensions, the fresh pages of a new tensor would cost more than the product.
        bounds = torch.mm(factors, self.points.T, out=self.room[: len(rows)])
        if self.question.own:
            bounds[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        return bounds

    def _factors(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centered = self.question.centered(points)
        norms = self.shrink * centered.square().sum(dim=1, keepdim=True) - self.slack
        return centered, norms, torch.ones_like(norms)


def _nearest_candidates(
    question: Question, bounds: Tensor, rows: Tensor
) -> tuple[Neighbors, Tensor]:
    """Return the nearest of the points with the lowest bounds, and which rows that settles."""
    num_candidates = min(question.num_neighbors + _SPARE, question.num_others)
    bounds_kept, columns = lowest(bounds, num_candidates)
    distances = question.distances(rows.repeat_interleave(num_candidates), columns.flatten())
    found = nearest(distances.view_as(columns), columns, question.num_neighbors)
    reach = found.distances[:, -1]
    settled = (reach.square() <= bounds_kept[:, -1]) | (reach == 0)
    return found, settled | (num_candidates == question.num_others)


def _nearest_within(question: Question, bounds: Tensor, rows: Tensor, reach: Tensor) -> Neighbors:
    """Return the nearest of all points that may be within `reach`, shape (B,), of their query."""
    row, column = (bounds <= reach.square().unsqueeze(1)).nonzero().unbind(dim=1)
    distances = question.distances(rows[row], column)
    return nearest_of_pairs(row, column, distances, question.num_neighbors)
