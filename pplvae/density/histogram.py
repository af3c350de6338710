"""Histograms of one variable, with the error of each bar.

With n_j of N points in bin j, of width w_j,

    p_j = n_j / (N w_j),   error_j = p_j / √n_j = √n_j / (N w_j),

the error being that of a Poisson count. An empty bin still sets an upper limit: where λ = 1.841
points are expected, none is seen with probability exp(-λ) = 0.159, that of a normal variable more
than one standard deviation above its mean.

Reference:
    Freedman & Diaconis (1981), On the histogram as a density estimator: L2 theory,
    https://doi.org/10.1007/BF01025868
    Gehrels (1986), Confidence limits for small numbers of events, https://doi.org/10.1086/164079
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pplvae.density.bandwidth import interquartile_range
from pplvae.validation import Array, as_vector, check_one_of, check_whole

EMPTY_LIMIT = -math.log(math.erfc(math.sqrt(0.5)) / 2)  # 1.841
MAX_BINS = 100_000  # what the rule may ask for, unless there are more points


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


def histogram(x: Array, bins: str | int | Array = "fd") -> Histogram:
    """Return the histogram of a sample as a density.

    Bins are closed on the left; the last is closed on both sides. "fd" takes bins of width
    2 IQR N^(-1/3) or a little less, at least 1 for whole numbers. Where the quartiles coincide it
    takes Scott's (24 √π / N)^(1/3) σ instead, with a warning; another warning says when that would
    be more bins than are of use.

    Args:
        x: The sample, shape (N,).
        bins: The rule of Freedman & Diaconis, "fd"; a number of equal bins from the least value to
            the greatest; or the edges, shape (B + 1,), increasing. Points outside given edges are
            in no bin but do count in N, so that the bars stay estimates of the density of x.

    Returns:
        Edges, density, error and counts.

    Raises:
        ValueError: If the bins are not one of these.

    Example:
        >>> histogram(torch.tensor([0.0, 1.0, 1.0, 4.0]), bins=2).density
        tensor([0.3750, 0.1250])
    """
    x = as_vector(x)
    edges = _edges(x, bins).to(x)
    rising = edges.diff() > 0
    if not rising.all():
        first = int((~rising).nonzero()[0])
        raise ValueError(f"bins must be increasing edges, got {edges[first : first + 2].tolist()}")
    inside = x[(x >= edges[0]) & (x <= edges[-1])]
    num_bins = len(edges) - 1
    index = torch.searchsorted(edges, inside, right=True).sub(1).clamp(max=num_bins - 1)
    counts = index.bincount(minlength=num_bins)
    unit = 1 / (len(x) * edges.diff())
    error = torch.where(counts > 0, counts.to(x).sqrt(), EMPTY_LIMIT) * unit
    return Histogram(edges, counts * unit, error, counts)


def _edges(x: Tensor, bins: str | int | Array) -> Tensor:
    """Return the edges, shape (B + 1,), float64 unless they are given."""
    if isinstance(bins, str):
        check_one_of("bins", bins, ["fd"])
        bins = _freedman_diaconis(x)
    if not isinstance(bins, int | np.integer):
        return as_vector(bins, name="bins", min_size=2)
    check_whole("bins", bins, 1)
    low, high = x.min().item(), x.max().item()
    if low == high:  # all in the middle of one unit
        low, high = low - 0.5, high + 0.5
    edges = low + (high - low) / bins * torch.arange(bins + 1, dtype=torch.float64)
    edges[-1] = high
    return edges


def _freedman_diaconis(x: Tensor) -> int:
    """Return how many bins of the rule's width it takes to cover `x`."""
    extent = (x.max() - x.min()).item()
    if extent == 0:
        return 1
    width = 2 * interquartile_range(x).item() * len(x) ** (-1 / 3)
    if width == 0:
        warnings.warn("the quartiles of x coincide: bins are of Scott's width", stacklevel=4)
        width = (24 * math.pi**0.5 / len(x)) ** (1 / 3) * x.double().std(correction=0).item()
    whole = bool((x == x.round()).all())
    resolution = 4 * torch.finfo(x.dtype).eps * x.abs().max().item()
    wanted = extent / max(width, resolution, 1.0 if whole else 0.0)
    most = max(MAX_BINS, len(x))
    if wanted > most:
        warnings.warn(f"{wanted:.3g} bins would cover x: only {most} are made", stacklevel=4)
        return most
    return math.ceil(wanted)
