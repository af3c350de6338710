"""Gaussian sums of points over each other, each leaving itself out, with their slopes.

For points in widths of a bandwidth and a factor c that multiplies it, with s_ij = d_ij² / c²,

    S_m(i) = Σ_j≠i w_j s_ij^m exp(-s_ij / 2),   m = 0, 1, 2,

give log p_-i and its first two derivatives by log c: with means E[·] over the terms of S_0,

    d log S_0 = E[s],   d² log S_0 = E[s²] - E[s]² - 2 E[s].

A pair is visited once for both its points.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

LOG2_E = 1 / math.log(2)
_TILE = 512
_ROUNDING = 1e-9  # of s, by the matrix product
_SMALL = 2.0**-900  # sums above have lost nothing to underflow
_ROW_TERMS = 2**20  # at a time


@dataclass(frozen=True, eq=False)
class Score:
    """How well points are explained.

    Attributes:
        value: Mean log density, in nats.
        slope: Its derivative by log c.
        curvature: Its second derivative by log c.
        log_density: Log density at each point, shape (M,).
        stretch: E[s] of each, shape (M,): its squared distance from those that explain it.
    """

    value: float
    slope: float
    curvature: float
    log_density: Tensor
    stretch: Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Points that are to explain others, or one another.

    Attributes:
        points: Where the kernels stand, shape (U, D), float64, in widths, none twice.
        weights: Their shares, shape (U,).
        queries: What they are to explain, shape (M, D), or None for one another.
        query_weights: The shares of the queries, shape (M,); those of the points for None.
    """

    points: Tensor
    weights: Tensor
    queries: Tensor | None
    query_weights: Tensor

    def some(self, num: int) -> "Pairs":
        """Return about `num` of the points, and of the queries, at even steps."""
        points, weights = _thinned(self.points, self.weights, num)
        if self.queries is None:
            return Pairs(points, weights, None, weights)
        return Pairs(points, weights, *_thinned(self.queries, self.query_weights, num))

    def score(self, factor: float, *, progress: bool = False) -> Score:
        """Return the score of a factor c."""
        log_sums, mean, square = self._means(factor, progress)
        dim, w = self.points.shape[1], self.query_weights
        log_density = log_sums - dim * (math.log(factor) + 0.5 * math.log(2 * math.pi))
        if self.queries is None:
            log_density = log_density - (-self.weights).log1p()
        bend = square - mean.square() - 2 * mean
        values = (w @ log_density).item(), (w @ mean).item() - dim, (w @ bend).item()
        return Score(*values, log_density, mean)

    def products(self, factor: float, *, progress: bool = False) -> Tensor:
        """Return Σ_ij w_i u_j of four functions of s, i ≠ j, shape (4,): see `_products`."""
        u = self.weights / (1 - self.weights)
        total = self.points.new_zeros(4)
        side = _Side(self.points / factor)
        for i, j in self._visits(progress):
            s = _squared(side, side, i, j)
            both = 1.0 if i == j else 2.0
            total += both * self._products(s, self.weights[i], self.weights[j], u[j], i == j)
        return total

    def _products(
        self, s: Tensor, w_i: Tensor, w_j: Tensor, u_j: Tensor, diagonal: bool
    ) -> Tensor:
        wide = (s * (-0.25 * LOG2_E)).exp2_()
        if diagonal:
            wide.fill_diagonal_(0)
        narrow = wide.square()
        return torch.stack(
            [w_i @ (t @ v) for t, v in (
                (wide, w_j), (wide * s, w_j), (narrow, u_j), (narrow * s, u_j))]
        )  # fmt: skip

    def _means(self, factor: float, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return log S_0, E[s] and E[s²], shape (M,) each."""
        points = _Side(self.points / factor)
        queries = points if self.queries is None else _Side(self.queries / factor)
        sums = self.points.new_zeros(3, len(queries.points))
        for i, j in self._visits(progress):
            s = _squared(queries, points, i, j)
            terms = (s * (-0.5 * LOG2_E)).exp2_()
            if self.queries is None and i == j:
                terms.fill_diagonal_(0)
            for m in range(3):
                sums[m, i] += terms @ self.weights[j]
                if self.queries is None and i != j:
                    sums[m, j] += self.weights[i] @ terms
                if m < 2:
                    terms.mul_(s)
        log_sums, means = sums[0].log(), sums[1:] / sums[0]
        far = (sums[0] < _SMALL).nonzero().squeeze(1)
        for rows in far.split(max(1, _ROW_TERMS // len(self.points))):
            log_sums[rows], means[:, rows] = self._around_a_maximum(queries, points, rows)
        return log_sums, means[0], means[1]

    def _around_a_maximum(
        self, queries: "_Side", points: "_Side", rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log S_0, shape (R,), and the means, shape (2, R), for points far from all."""
        s = _plain(queries.points[rows], points.points)
        exponents = -0.5 * s + self.weights.log()
        if self.queries is None:
            exponents[torch.arange(len(rows), device=rows.device), rows] = -math.inf
        log_sums = exponents.logsumexp(1)
        shares = (exponents - log_sums.unsqueeze(1)).exp()
        return log_sums, torch.stack([(shares * s).sum(1), (shares * s * s).sum(1)])

    def _visits(self, progress: bool) -> tqdm:
        """Return pairs of slices of queries and of points."""
        columns = _slices(len(self.points))
        if self.queries is not None:
            visits = [(i, j) for i in _slices(len(self.queries)) for j in columns]
        else:
            visits = [(columns[a], columns[b]) for a in range(len(columns)) for b in range(a + 1)]
        return tqdm(visits, desc="bandwidth", disable=not progress, delay=3, leave=False)


class _Side:
    """Points as a factor of the product that gives all squared distances."""

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.norms = points.square().sum(1, keepdim=True)
        one = torch.ones_like(self.norms)
        self.left = torch.cat([-2 * points, self.norms, one], dim=1)
        self.right = torch.cat([points, one, self.norms], dim=1)


def _squared(a: _Side, b: _Side, i: slice, j: slice) -> Tensor:
    """Return squared distances, shape (I, J)."""
    rounding = torch.finfo(a.norms.dtype).eps * (a.norms[i].max() + b.norms[j].max())
    if rounding > _ROUNDING:
        return _plain(a.points[i], b.points[j])
    return a.left[i] @ b.right[j].T


def _plain(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_()


def _slices(num: int) -> list[slice]:
    return [slice(start, min(start + _TILE, num)) for start in range(0, num, _TILE)]


def _thinned(points: Tensor, weights: Tensor, num: int) -> tuple[Tensor, Tensor]:
    step = max(1, len(points) // num)
    kept = weights[::step]
    return points[::step], kept / kept.sum()
