"""Which rows are copies of which: found by a number that equal rows share, then looked at."""

import torch
from torch import Tensor

from pplvae.neighbors.question import in_parts, part_rows

_FACTOR = 0x9E3779B97F4A7C15 - 2**64  # odd, its bits well mixed


def distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first row of each distinct point, in order, and how often it stands there.

    Args:
        x: Points, shape (N, D).

    Returns:
        Row numbers and multiplicities, both of shape (number of distinct points,), int64.
    """
    _, place, counts = _keys(x).unique(return_inverse=True, return_counts=True)
    first = _first(place, counts)
    if len(first) < len(x) and not _are_equal(x, first[place]):
        _, place, counts = torch.unique(x, dim=0, return_inverse=True, return_counts=True)
        first = _first(place, counts)
    rows, order = first.sort()
    return rows, counts[order]


def most_copies(x: Tensor) -> int:
    """Return how often the commonest row stands there, or, rarely, more."""
    return int(_keys(x).unique(return_counts=True)[1].max())


def _keys(x: Tensor) -> Tensor:
    """Return a whole number for each row, the same for equal rows, shape (N,), int64."""
    return torch.cat([_mixed(part.double() + 0.0) for part in in_parts(x)])  # −0 + 0 is 0


def _mixed(rows: Tensor) -> Tensor:
    """Return Σ_j h(bits of column j) f^j of each row, as whole numbers that wrap around."""
    bits = rows.contiguous().view(torch.int64)
    bits = (bits ^ (bits >> 32)) * _FACTOR
    bits = bits ^ (bits >> 29)
    factors = bits.new_full((bits.shape[1],), _FACTOR).cumprod(0)
    return (bits * factors).sum(dim=1)


def _first(place: Tensor, counts: Tensor) -> Tensor:
    """Return the first row at each place."""
    first = torch.full_like(counts, len(place))
    return first.scatter_reduce_(0, place, torch.arange(len(place), device=place.device), "amin")


def _are_equal(x: Tensor, like: Tensor) -> bool:
    """Return whether each row of x equals that of the number given for it."""
    rows = (like != torch.arange(len(x), device=x.device)).nonzero().squeeze(1)
    parts = rows.split(part_rows(x))
    return all(torch.equal(x[part], x[like[part]]) for part in parts)
