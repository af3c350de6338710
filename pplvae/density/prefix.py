"""Sums of compact kernels on a line, without going through the pairs.

The line is cut into cells of half a width. For a point at t and a query at s, both from the center
of the point's cell, a kernel that is a polynomial of the distance comes apart,

    g(|s - t|) = Σ_k c_k σ^k (s - t)^k = Σ_m a_m(s) t^m,
    a_m(s) = (-1)^m Σ_p c_(m+p) σ^(m+p) C(m + p, m) s^p,   σ = 1 for t ≤ s and -1 for t > s,

and the cosine does by cos(α - β) = cos α cos β + sin α sin β. So the sum over the points of a cell
that lie within reach takes only Σ t^m over a run of the sorted points: a difference of two prefix
sums. These are kept in two parts, of which the first adds up without rounding, so that a
difference is as good as a sum of its own, wherever the run stands. The terms of a point may exceed
g itself, and so does their rounding, of the order of Σ_k |c_k| (|s| + |t|)^k units; where a sum is
so small that this could cost digits (a few points, all near the rim), it is taken point by point.

The cost is O((N + M) log N) in place of O(N M).
"""

import math

import numpy as np
import torch
from torch import Tensor

from pplvae.density import sums
from pplvae.density.kernels import RIM, Cosine, Power, Profile
from pplvae.density.sums import Bumps

_LOST = 1e-12  # the rounding allowed, as a share of a sum
_CELL = 0.5  # narrower ones cost more runs, wider ones more digits
_QUERIES = 2**16  # at a time


def log_sums(bumps: Bumps, queries: Tensor, *, progress: bool = False) -> Tensor:
    """Return log Σ_n w_n g(x - x_n), shape (M,), for a compact kernel of one width on a line.

    Args:
        bumps: The kernels, D = 1, without precisions.
        queries: Where to sum, shape (M, 1), in the same coordinates, float64.
        progress: Whether sums taken point by point may show a progress bar.
    """
    line = _Line(bumps)
    ordered, order = queries.squeeze(1).sort()
    found, doubtful = zip(*(line.sums(part) for part in ordered.split(_QUERIES)), strict=True)
    out = torch.empty_like(ordered)
    out[order] = torch.cat(found).log() + line.peak
    again = order[torch.cat(doubtful)]
    if len(again):
        near = _near(bumps.points.squeeze(1), queries[again, 0].sort().values)
        out[again] = sums.tiled(bumps[near], queries[again], progress=progress)
    return out


def _near(points: Tensor, queries: Tensor) -> Tensor:
    """Return which points any of the queries, in order, reaches."""
    first = torch.searchsorted(queries, points - RIM)
    return first < torch.searchsorted(queries, points + RIM, right=True)


class _Line:
    """Points in order, cut into cells, and the prefix sums of their features."""

    def __init__(self, bumps: Bumps) -> None:
        self.points, order = _sorted(bumps)
        self.centers = (self.points / _CELL).floor_().add_(0.5).mul_(_CELL)  # each point's
        _, self.cell_of, counts = self.centers.unique_consecutive(
            return_inverse=True, return_counts=True
        )
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.basis = _basis(bumps.kernel.profile)
        features = self.basis.features(self.points - self.centers)
        if bumps.log_weights is None:
            self.peak = 0.0
        else:
            self.peak = bumps.log_weights.max().item()
            features = features * (bumps.log_weights[order] - self.peak).exp()
        self.prefix = _Prefix(features)

    def sums(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums at queries in order, shape (M,), and which rounding may have hurt."""
        begin = torch.searchsorted(self.points, queries - RIM**0.5)
        end = torch.searchsorted(self.points, queries + RIM**0.5, right=True)
        middle = torch.searchsorted(self.points, queries, right=True)
        total, rounding = torch.zeros_like(queries), torch.zeros_like(queries)
        sides = [(begin, middle, 1), (middle, end, -1)] if self.basis.kinked else [(begin, end, 1)]
        for low, high, side in sides:
            self._add(queries, low, high, side, total, rounding)
        doubtful = total * _LOST < rounding * 4 * torch.finfo(total.dtype).eps
        return total.clamp_(min=0), doubtful & (end > begin)

    def _add(
        self,
        queries: Tensor,
        low: Tensor,
        high: Tensor,
        side: int,
        total: Tensor,
        rounding: Tensor,
    ) -> None:
        """Add the points in [low, high) of each query, a cell at a time."""
        rows = (low < high).nonzero().squeeze(1)
        while len(rows):
            cell = self.cell_of[low[rows]]
            stop = torch.minimum(high[rows], self.starts[cell + 1])
            moments = self.prefix.between(low[rows], stop)
            s = queries[rows] - self.centers[low[rows]]
            total[rows] += (self.basis.coefficients(s, side) * moments).sum(0)
            rounding[rows] += self.basis.rounding(s) * (moments[0] + self.prefix.left_over)
            low = low.index_copy(0, rows, stop)
            rows = rows[stop < high[rows]]


class _Prefix:
    """Prefix sums in two parts, of which the first adds up exactly, shape (2 F, N + 1)."""

    def __init__(self, features: Tensor) -> None:
        grain = 1.5 * 2.0 ** math.ceil(math.log2(features.shape[1] + 1))
        coarse = (features + grain).sub_(grain)  # multiples of one unit that any sum can hold
        count, num = features.shape
        self.table = features.new_empty(2 * count, num + 1)
        self.table[:, 0] = 0
        torch.cumsum(coarse, 1, out=self.table[:count, 1:])
        torch.cumsum(features.sub_(coarse), 1, out=self.table[count:, 1:])
        # What the second part is rounded beside: all there is to points of next to no weight.
        self.left_over = self.table[count:].abs().max()

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        """Return sums over the runs [low, high), shape (F, M)."""
        coarse, fine = (self.table[:, high] - self.table[:, low]).chunk(2)
        return coarse + fine


class _Polynomial:
    """The parts of a polynomial of the distance: powers."""

    def __init__(self, profile: Power) -> None:
        self.profile = profile
        self.terms = profile.polynomial
        self.kinked = profile.a % 2 == 1 and profile.b > 0

    def features(self, t: Tensor) -> Tensor:
        """Return t^m, shape (F, N)."""
        out = t.new_ones(len(self.terms), len(t))
        for m in range(1, len(self.terms)):
            torch.mul(out[m - 1], t, out=out[m])
        return out

    def coefficients(self, s: Tensor, side: int) -> Tensor:
        """Return a_m(s), shape (F, M)."""
        degree = len(self.terms) - 1
        table = torch.zeros(degree + 1, degree + 1, dtype=s.dtype)
        for k, c in enumerate(self.terms):
            for m in range(k + 1):
                table[m, k - m] = (-1) ** m * c * side**k * math.comb(k, m)
        return table.to(s) @ self.features(s)

    def rounding(self, s: Tensor) -> Tensor:
        """Return Σ_k |c_k| (|s| + |t|)^k for the greatest |t|, shape (M,)."""
        return (1 + (s.abs() + 0.5 * _CELL) ** self.profile.a) ** self.profile.b


class _Wave:
    """The parts of the cosine: of an angle with the rim at a right angle."""

    kinked = False

    def features(self, t: Tensor) -> Tensor:
        """Return one, which only counts, cos and sin, shape (3, N)."""
        angle = 0.5 * math.pi * t
        return torch.stack([torch.ones_like(t), angle.cos(), angle.sin()])

    def coefficients(self, s: Tensor, side: int) -> Tensor:
        """Return the weights of the features, shape (3, M), the same on either side."""
        del side
        angle = 0.5 * math.pi * s
        return torch.stack([torch.zeros_like(s), angle.cos(), angle.sin()])

    def rounding(self, s: Tensor) -> Tensor:
        """Return a bound on what is added for one point, shape (M,)."""
        return torch.full_like(s, 2.0)


def _sorted(bumps: Bumps) -> tuple[Tensor, Tensor | None]:
    """Return the points in order, and the order where weights need it."""
    points = bumps.points.squeeze(1)
    if bumps.log_weights is None and not points.is_cuda:  # several times as fast as torch's
        return torch.from_numpy(np.sort(points.numpy())), None
    return points.sort()


def _basis(profile: Profile) -> _Polynomial | _Wave:
    if isinstance(profile, Power):
        return _Polynomial(profile)
    if isinstance(profile, Cosine):
        return _Wave()
    raise ValueError(f"a sum by prefixes must be of a compact kernel, got {profile}")
