"""Sums of kernels over many points, in logs, tile by tile.

Queries and points are put in the order of a space-filling curve and cut into blocks and tiles. The
boxes around them bound what a tile can add to a block; near tiles come first, and the rest is left
out once it could not change a sum by more than 2^-44 of itself. A tile of the Gaussian kernel is
one matrix product, [q, |q|², 1] · [p, -1/2, -|p|²/2], and one `exp2`. Where a sum comes out so
small that terms may have underflown, it is taken again around a running maximum, for exponents e:

    m' = max(m, max_n e_n),   s' = s 2^(m - m') + Σ_n 2^(e_n - m').
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.density.kernels import RIM, Kernel

LOG2_E = 1 / math.log(2)
_BLOCK = 128  # queries at a time
_TILE_FEW, _TILE_MANY = 512, 2048  # points at a time, in up to 4 dimensions and in more
_LARGE = 16  # how many times as many, along either side, where a tile is a launch on a GPU
_CURVE_BITS = 10
_EXPONENT_ERROR = 3e-12  # what a matrix product may lose to cancellation
_NEGLIGIBLE = 44.0  # bits below a sum
_SMALL = 2.0**-900  # sums above have lost nothing to underflow
_NAIVE_SIZE = 2**21  # terms at a time


@dataclass(frozen=True, eq=False)
class Bumps:
    """Kernels on points, in coordinates in which the kernel has unit width.

    Attributes:
        kernel: The kernel.
        points: Where they stand, shape (N, D), float64.
        log_weights: Log of the height of each, shape (N,), or None where all are one.
        precisions: One over the squared width of each, shape (N,), or None where all are one.
    """

    kernel: Kernel
    points: Tensor
    log_weights: Tensor | None = None
    precisions: Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> "Bumps":
        """Return some of them."""
        pick = [
            None if part is None else part[rows] for part in (self.log_weights, self.precisions)
        ]
        return Bumps(self.kernel, self.points[rows], *pick)

    @property
    def no_wider_than(self) -> float:
        """The square of the greatest width."""
        return 1.0 if self.precisions is None else 1 / self.precisions.min().item()


def naive(bumps: Bumps, queries: Tensor) -> Tensor:
    """Return log Σ_n w_n g(x - x_n), shape (M,), term by term: slow, for comparison."""
    rows = max(1, _NAIVE_SIZE // len(bumps.points))
    return torch.cat([log_terms(bumps, part).logsumexp(1) for part in queries.split(rows)])


def log_terms(bumps: Bumps, queries: Tensor) -> Tensor:
    """Return log w_n g(x - x_n), shape (M, N), by plain differences."""
    logs = torch.zeros(len(queries), len(bumps.points), dtype=queries.dtype, device=queries.device)
    for squared in _squared(bumps, queries):
        logs += bumps.kernel.profile.log(squared)
    return logs if bumps.log_weights is None else logs + bumps.log_weights


def tiled(bumps: Bumps, queries: Tensor, *, progress: bool = False) -> Tensor:
    """Return log Σ_n w_n g(x - x_n), shape (M,), in bounded memory.

    Args:
        bumps: The kernels.
        queries: Where to sum, shape (M, D), in the same coordinates, float64.
        progress: Whether a sum of more than a few seconds shows a progress bar.
    """
    size = _LARGE if queries.is_cuda else 1
    tiles = _tiles(bumps, size)
    order = _along_a_curve(queries)
    total = _gaussian if not bumps.kernel.profile.compact else _compact
    out = torch.empty(len(queries), dtype=queries.dtype, device=queries.device)
    blocks = order.split(_BLOCK * size)
    for rows in tqdm(blocks, desc="density", disable=not progress, delay=3):
        out[rows] = total(tiles, queries[rows])
    return out


class _Tile:
    """Some of the bumps and what bounds them."""

    def __init__(self, bumps: Bumps, peak: float) -> None:
        self.bumps, points = bumps, bumps.points
        logs = points.new_zeros(len(points)) if bumps.log_weights is None else bumps.log_weights
        logs = logs - peak
        self.weights = logs.exp()
        self.log2_weights = logs * LOG2_E
        self.low, self.high = points.amin(0), points.amax(0)
        self.width = bumps.no_wider_than
        norms = points.square().sum(1)
        precisions = torch.ones_like(norms) if bumps.precisions is None else bumps.precisions
        self.precision, self.norm = precisions.max(), norms.max()
        half = -0.5 * LOG2_E * precisions
        shared = -2 * half.unsqueeze(1) * points
        self.factors = torch.cat(
            [shared.T, half.unsqueeze(0), (half * norms + self.log2_weights).unsqueeze(0)]
        )


class _Tiles:
    """All tiles, with their bounds side by side."""

    def __init__(self, tiles: list[_Tile], peak: float) -> None:
        self.tiles, self.peak = tiles, peak
        self.low, self.high = (
            torch.stack([getattr(t, n) for t in tiles]) for n in ("low", "high")
        )
        self.precision, self.norm = (
            torch.stack([getattr(t, n) for t in tiles]) for n in ("precision", "norm")
        )
        self.log2_mass = (
            torch.stack([(t.log2_weights / LOG2_E).logsumexp(0) for t in tiles]) * LOG2_E
        )
        self.width = self.low.new_tensor([t.width for t in tiles])
        # A compact kernel that is not 0 is at least ε³, the cube of what 1 - r is rounded to.
        self.product, dim = tiles[0].bumps.kernel.product, self.low.shape[1]
        least = 3 * (dim if self.product else 1) * math.log2(torch.finfo(self.low.dtype).eps)
        lightest = min(t.log2_weights.min().item() for t in tiles)
        self.may_underflow = least + lightest < math.log2(_SMALL)

    def squared_gaps(self, queries: Tensor, *, by_axis: bool = False) -> Tensor:
        """Return least squared distances to the box around some queries, in each tile's widths.

        They are along a straight line or, by axis, the largest along one.
        """
        low, high = queries.amin(0), queries.amax(0)
        squared = torch.maximum(self.low - high, low - self.high).clamp(min=0).square()
        return (squared.amax(1) if by_axis else squared.sum(1)) / self.width


def _tiles(bumps: Bumps, size: int) -> _Tiles:
    peak = 0.0 if bumps.log_weights is None else bumps.log_weights.max().item()
    length = (_TILE_FEW if bumps.points.shape[1] <= 4 else _TILE_MANY) * size
    parts = _along_a_curve(bumps.points).split(length)
    return _Tiles([_Tile(bumps[rows], peak) for rows in parts], peak)


def _compact(tiles: _Tiles, queries: Tensor) -> Tensor:
    """Return log sums over the tiles within reach, shape (B,)."""
    total = queries.new_zeros(len(queries))
    gaps = tiles.squared_gaps(queries, by_axis=tiles.product)
    near = (gaps <= RIM).nonzero().flatten().tolist()
    for i in near:
        tile = tiles.tiles[i]
        values = None
        for squared in _squared(tile.bumps, queries):
            factor = tile.bumps.kernel.profile(squared)
            values = factor if values is None else values.mul_(factor)
        assert values is not None
        total += values @ tile.weights
    out = total.log()
    if tiles.may_underflow and near and (small := total < _SMALL).any():
        parts = [log_terms(tiles.tiles[i].bumps, queries[small]).logsumexp(1) for i in near]
        out[small] = torch.stack(parts).logsumexp(0) - tiles.peak
    return out + tiles.peak


def _gaussian(tiles: _Tiles, queries: Tensor) -> Tensor:
    """Return log sums, shape (B,), over the tiles that matter, the nearest first."""
    bounds = tiles.log2_mass - 0.5 * LOG2_E * tiles.squared_gaps(queries)
    bounds, order = bounds.sort(descending=True)
    rest = [*(LOG2_E * (bounds[1:] / LOG2_E).flip(0).logcumsumexp(0).flip(0)).tolist(), -math.inf]
    left = torch.cat(
        [queries, queries.square().sum(1, keepdim=True), torch.ones_like(queries[:, :1])], dim=1
    )
    exact = _exact(tiles, queries)
    total = queries.new_zeros(len(queries))
    for i, bound in zip(order.tolist(), rest, strict=True):
        total += _exponents(tiles.tiles[i], left, exact=exact[i]).exp2_().sum(1)
        least = total.min().item()
        if least > _SMALL and math.log2(least) > bound + _NEGLIGIBLE:
            break
    out = total.log()
    small = total < _SMALL
    if small.any():
        out[small] = _around_a_maximum(tiles, left[small])
    return out + tiles.peak


def _around_a_maximum(tiles: _Tiles, left: Tensor) -> Tensor:
    """Return log sums for queries far from all points."""
    exact = _exact(tiles, left[:, :-2])
    peak = left.new_full((len(left), 1), torch.finfo(left.dtype).min)
    total = torch.zeros_like(peak)
    for tile, plain in zip(tiles.tiles, exact, strict=True):
        exponents = _exponents(tile, left, exact=plain)
        higher = torch.maximum(peak, exponents.amax(dim=1, keepdim=True))
        total = total * (peak - higher).exp2() + (exponents - higher).exp2().sum(1, keepdim=True)
        peak = higher
    return (total.log() + peak / LOG2_E).squeeze(1)


def _exact(tiles: _Tiles, queries: Tensor) -> list[bool]:
    """Return for each tile whether a product would round too much for these queries."""
    norm = queries.square().sum(1).max()
    rounding = torch.finfo(queries.dtype).eps * tiles.precision * (norm + tiles.norm)
    return (rounding > _EXPONENT_ERROR).tolist()


def _exponents(tile: _Tile, left: Tensor, *, exact: bool) -> Tensor:
    """Return the exponents of two, shape (B, T), of a Gaussian tile."""
    if not exact:
        return left @ tile.factors
    (squared,) = _squared(tile.bumps, left[:, :-2])
    return squared.mul_(-0.5 * LOG2_E).add_(tile.log2_weights)


def _squared(bumps: Bumps, queries: Tensor) -> list[Tensor]:
    """Return squared distances in widths, (B, T) each: one, or for a product one per axis."""
    by_axis = (
        (q.unsqueeze(1) - p).square_()
        for q, p in zip(queries.unbind(1), bumps.points.unbind(1), strict=True)
    )
    if bumps.kernel.product:
        out = list(by_axis)
    elif queries.shape[1] <= 8:
        total = next(by_axis)
        for squared in by_axis:
            total += squared
        out = [total]
    else:
        mode = "donot_use_mm_for_euclid_dist"
        out = [torch.cdist(queries, bumps.points, compute_mode=mode).square_()]
    return out if bumps.precisions is None else [s.mul_(bumps.precisions) for s in out]


def _along_a_curve(points: Tensor) -> Tensor:
    """Return the order of points along a curve that stays near itself (Morton's), by ranks.

    In many dimensions no order keeps boxes small, and the points stay as they are.
    """
    num, dim = points.shape
    if dim == 1:
        return points[:, 0].argsort()
    if dim > 4 or num <= _BLOCK:
        return torch.arange(num, device=points.device)
    places = torch.arange(num, device=points.device) * 2**_CURVE_BITS // num
    code = torch.zeros(num, dtype=torch.int64, device=points.device)
    for axis, column in enumerate(points.unbind(1)):
        ranks = torch.empty_like(places)
        ranks[column.argsort()] = places
        for bit in range(_CURVE_BITS):
            code |= ((ranks >> bit) & 1) << (bit * dim + axis)
    return code.argsort()
