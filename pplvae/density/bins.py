"""Where the bins of a histogram begin and end.

In D dimensions a bin is best of width ∝ N^(-1 / (D + 2)) along each axis:

    fd       2 IQR N^(-1 / (D + 2)), Freedman & Diaconis,
    scott    (24 √π / N)^(1/3) σ, and 3.49 σ N^(-1 / (D + 2)) in more dimensions,
    sturges  the range over log₂ N + 1.

Reference:
    Freedman & Diaconis (1981), On the histogram as a density estimator: L2 theory,
    https://doi.org/10.1007/BF01025868
    Scott (1979), On optimal and data-based histograms, https://doi.org/10.1093/biomet/66.3.605
    Sturges (1926), The choice of a class interval, https://doi.org/10.1080/01621459.1926.10502161
"""

import math

import numpy as np
import torch
from torch import Tensor

from pplvae.density import spread
from pplvae.neighbors.caller import warn
from pplvae.validation import Array, as_vector, check_one_of, check_whole

RULES = ("fd", "scott", "sturges")
MAX_BINS = 100_000  # what a rule may ask for, unless there are more points


def edges(x: Tensor, bins: str | int | Array, weights: Tensor | None, dim: int) -> Tensor:
    """Return increasing edges, shape (B + 1,), for one of `dim` columns x, shape (N,).

    Raises:
        ValueError: If the bins are no rule, number of bins, or increasing edges.
    """
    out = _edges(x, bins, weights, dim).to(x)
    rising = out.diff() > 0
    if not rising.all():
        first = int((~rising).nonzero()[0])
        raise ValueError(f"bins must be increasing edges, got {out[first : first + 2].tolist()}")
    return out


def _edges(x: Tensor, bins: str | int | Array, weights: Tensor | None, dim: int) -> Tensor:
    if isinstance(bins, str):
        check_one_of("bins", bins, RULES)
        bins = _count(x, bins, weights, dim)
    if not isinstance(bins, int | np.integer):
        return as_vector(bins, name="bins", min_size=2)
    check_whole("bins", bins, 1)
    low, high = x.min().item(), x.max().item()
    if low == high:  # all in the middle of one unit
        low, high = low - 0.5, high + 0.5
    steps = torch.arange(bins + 1, dtype=torch.float64, device=x.device)
    out = low + (high - low) / bins * steps
    out[-1] = high
    return out


def _count(x: Tensor, rule: str, weights: Tensor | None, dim: int) -> int:
    """Return how many bins of the rule's width it takes to cover `x`."""
    extent = (x.max() - x.min()).item()
    if extent == 0:
        return 1
    width = _width(x, rule, weights, dim)
    whole = bool((x == x.round()).all())
    resolution = 4 * torch.finfo(x.dtype).eps * x.abs().max().item()
    wanted = extent / max(width, resolution, 1.0 if whole else 0.0)
    most = int(max(MAX_BINS, len(x)) ** (1 / dim))
    if wanted > most:
        warn(f"{wanted:.3g} bins would cover x: only {most} are made")
        return most
    number = math.ceil(wanted)
    if whole and extent % number == 0:
        warn(
            f"the last bin of x, closed on both sides, holds {extent / number + 1:.0f} whole "
            f"numbers, the others {extent / number:.0f}: edges at the halves treat all alike"
        )
    return number


def _width(x: Tensor, rule: str, weights: Tensor | None, dim: int) -> float:
    size = spread.effective_size(weights, len(x))
    if rule == "sturges":
        return (x.max() - x.min()).item() / (math.log2(size) + 1)
    column = x.unsqueeze(1)
    if rule == "fd":
        width = 2 * spread.interquartile_range(column, weights).item() * size ** (-1 / (dim + 2))
        if width > 0:
            return width
        warn("the quartiles of x coincide: bins are of Scott's width")
    constant = (24 * math.pi**0.5) ** (1 / 3)
    # numpy's deviation has N degrees of freedom
    deviation = spread.deviation(column, weights).item() * math.sqrt(1 - 1 / size)
    return constant * size ** (-1 / (dim + 2)) * deviation
