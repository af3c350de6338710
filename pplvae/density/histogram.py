"""Histograms, with the error of each bar.

With n_j of N points in bin j, of width w_j (area or volume in more dimensions),

    p_j = n_j / (N w_j),   error_j = p_j / √n_j = √n_j / (N w_j),

the error being that of a Poisson count. An empty bin still sets an upper limit: where λ = 1.841
points are expected, none is seen with probability exp(-λ) = 0.159, that of a normal variable more
than one standard deviation above its mean. With weights, n_j is Σ v, its error √Σ v², N the sum of
all v, and the limit that of 1.841 points of weight Σ v² / Σ v.

The lecture writes the error as ∝ p / √n; it is equal.

Reference:
    Gehrels (1986), Confidence limits for small numbers of events, https://doi.org/10.1086/164079
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pplvae.density import bins as rules
from pplvae.density import spread
from pplvae.validation import Array, as_points, as_vector

EMPTY_LIMIT = -math.log(math.erfc(math.sqrt(0.5)) / 2)  # 1.841


@dataclass(frozen=True, eq=False, repr=False)
class Histogram:
    """A density in steps.

    Attributes:
        edges: Where the B bins begin and end, shape (B + 1,), in the units of x.
        density: Density in each bin, shape (B,), per unit of x.
        error: Its standard error, shape (B,); for an empty bin the 84 % upper limit.
        counts: How many points fell in, shape (B,), int64.
    """

    edges: Tensor
    density: Tensor
    error: Tensor
    counts: Tensor

    def __repr__(self) -> str:
        low, high = self.edges[0].item(), self.edges[-1].item()
        total = int(self.counts.sum())
        return f"Histogram({len(self.counts)} bins in [{low:.6g}, {high:.6g}], {total} points)"

    def log_density(self, x: Array) -> Tensor:
        """Return the log density at points x, shape (M,): -inf in empty bins and outside."""
        return _looked_up((self.edges,), self.density, as_vector(x).unsqueeze(1))


@dataclass(frozen=True, eq=False, repr=False)
class JointHistogram:
    """A density of two or three variables in steps.

    Attributes:
        edges: Where the bins of each axis begin and end, shapes (B_1 + 1,), (B_2 + 1,), ...
        density: Density in each bin, shape (B_1, B_2, ...), per unit of volume.
        error: Its standard error, same shape; for an empty bin the 84 % upper limit.
        counts: How many points fell in, same shape, int64.
    """

    edges: tuple[Tensor, ...]
    density: Tensor
    error: Tensor
    counts: Tensor

    def __repr__(self) -> str:
        size = " × ".join(str(n) for n in self.counts.shape)
        return f"JointHistogram({size} bins, {int(self.counts.sum())} points)"

    def log_density(self, x: Array) -> Tensor:
        """Return the log density at points x, (M, D), shape (M,): -inf in empty bins, outside."""
        x = as_points(x)
        if x.shape[1] != len(self.edges):
            raise ValueError(f"x must have {len(self.edges)} columns, got {x.shape[1]}")
        return _looked_up(self.edges, self.density, x)


def histogram(
    x: Array, bins: str | int | Array = "fd", *, weights: Array | None = None
) -> Histogram:
    """Return the histogram of a sample as a density.

    Bins are closed on the left; the last is closed on both sides. "fd" takes bins of width
    2 IQR N^(-1/3) or a little less, at least 1 for whole numbers. Where the quartiles coincide it
    takes Scott's (24 √π / N)^(1/3) σ instead, with a warning. Others say when that would be more
    bins than are of use, and when the last bin, closed on both sides, holds one whole number more
    than its neighbors.

    Args:
        x: The sample, shape (N,).
        bins: The rule of Freedman & Diaconis, "fd", of "scott" or "sturges"; a number of equal
            bins from the least value to the greatest; or the edges, shape (B + 1,), increasing.
            Points outside given edges are in no bin but do count in N, so that the bars stay
            estimates of the density of x.
        weights: Worth of each point, shape (N,).

    Returns:
        Edges, density, error and counts.

    Raises:
        ValueError: If the bins are not one of these.

    Example:
        >>> histogram(torch.tensor([0.0, 1.0, 1.0, 4.0]), bins=2).density
        tensor([0.3750, 0.1250])
    """
    x = as_vector(x)
    shares = spread.normalized(weights, len(x))
    edges = rules.edges(x, bins, shares, 1)
    return Histogram(edges, *_bars(x.unsqueeze(1), (edges,), shares))


def joint_histogram(
    x: Array,
    bins: str | int | Sequence[int | Array] = "fd",
    *,
    weights: Array | None = None,
) -> JointHistogram:
    """Return the histogram of two or three variables as a density.

    Args:
        x: The sample, shape (N, D), D from 1 to 3.
        bins: As for `histogram`, the same for all axes or a sequence with one for each. The rules
            take N^(-1 / (D + 2)) for N^(-1/3).
        weights: Worth of each point, shape (N,).

    Returns:
        Edges, density, error and counts.

    Raises:
        ValueError: If D is not in [1, 3], or the bins are not one of these.
    """
    x = as_points(x)
    dim = x.shape[1]
    if dim > 3:
        raise ValueError(f"x must have 1 to 3 columns, got {dim}")
    shares = spread.normalized(weights, len(x))
    each = [bins] * dim if isinstance(bins, str | int | np.integer) else list(bins)
    if len(each) != dim:
        raise ValueError(f"bins must be one for each of {dim} axes, got {len(each)}")
    edges = tuple(rules.edges(x[:, j], each[j], shares, dim) for j in range(dim))
    return JointHistogram(edges, *_bars(x, edges, shares))


def _bars(
    x: Tensor, edges: tuple[Tensor, ...], shares: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return density, error and counts, shape (B_1, ..., B_D) each."""
    shape = [len(e) - 1 for e in edges]
    index, inside = _index(edges, x)
    counts = index[inside].bincount(minlength=math.prod(shape))
    volume = functools.reduce(lambda v, e: v.unsqueeze(-1) * e.diff(), edges, x.new_ones(()))
    if shares is None:
        mass, error = counts.to(x) / len(x), counts.to(x).sqrt() / len(x)
        limit = EMPTY_LIMIT / len(x)
    else:
        limit = EMPTY_LIMIT * shares.square().sum().item()
        shares, length = shares[inside], len(counts)
        mass = index[inside].bincount(shares, minlength=length)
        error = index[inside].bincount(shares.square(), minlength=length).sqrt()
    error = torch.where(mass > 0, error.to(x), limit)
    density = mass.to(x).reshape(shape) / volume
    return density, error.reshape(shape) / volume, counts.reshape(shape)


def _index(edges: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flat number of each point's bin, and whether it is in one, shape (N,) each."""
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    inside = torch.ones_like(index, dtype=torch.bool)
    for e, column in zip(edges, x.unbind(1), strict=True):
        column = column.contiguous()
        inside &= (column >= e[0]) & (column <= e[-1])
        bin_of = torch.searchsorted(e, column, right=True).sub(1).clamp(0, len(e) - 2)
        index = index * (len(e) - 1) + bin_of
    return index, inside


def _looked_up(edges: tuple[Tensor, ...], density: Tensor, x: Tensor) -> Tensor:
    """Return the log density of each point's bin, shape (M,)."""
    index, inside = _index(edges, x.to(edges[0]))
    return density.flatten()[index].log().where(inside, -math.inf)
