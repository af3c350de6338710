"""The width that explains each point best by all the others.

The lecture takes h where Δ(h), a Kullback–Leibler divergence, is least. The divergence from the
truth to the estimate is, but for a constant, minus a mean log density,

    KL(p ‖ p_h) = ∫ p log p - ∫ p log p_h,   ∫ p log p_h ≈ 1/N Σ_i log p_h,-i(x_i),

where p_h,-i is the estimate by all points but the i-th (Habbema; Duin): least divergence is
greatest leave-one-out likelihood. Least squared error has its like,

    ∫ (p - p_h)² = ∫ p² + ∫ p_h² - 2 ∫ p p_h ≈ const + ∫ p_h² - 2/N Σ_i p_h,-i(x_i).

Copies of a point leave one another out, too, or the likelihood would grow without bound as h → 0:
they are one point with the sum of their weights. The Gaussian reaches all points; a compact kernel
would give -inf to a lonely one, so it takes the Gaussian's width times its canonical ratio.

Reference:
    Duin (1976), On the choice of smoothing parameters for Parzen estimators of probability density
    functions, https://doi.org/10.1109/TC.1976.1674577
    Bowman (1984), An alternative method of cross-validation for the smoothing of density
    estimates, https://doi.org/10.1093/biomet/71.2.353
    Hall (1987), On Kullback-Leibler loss and density estimation,
    https://doi.org/10.1214/aos/1176350606
"""

import math

import torch
from torch import Tensor

from pplvae.density import spread
from pplvae.density.pairs import Pairs, Score
from pplvae.density.thumb import silverman
from pplvae.neighbors.caller import warn
from pplvae.validation import Array, as_points, check_positive

_FEW = 1000  # points that a search starts on
_CLOSE = 1e-4  # the step of log c after which Newton's next is nothing
_MOST_STEPS = 100
_WIDTHS = torch.logspace(-2, 0.5, 16, dtype=torch.float64).tolist()  # tried by `lscv`
_NARROW = 1e-3  # of Silverman's width: only copies want kernels so narrow
_LONELY, _MOSTLY = 0.01, 0.5  # this share of the points sets more than this share of the width


def kl(
    data: Array,
    *,
    weights: Array | None = None,
    held_out: Array | None = None,
    progress: bool = True,
) -> Tensor:
    """Return the width of least KL(p ‖ p_h), by leave-one-out likelihood.

    Silverman's widths times one factor, found by Newton's steps on the slope of the likelihood.
    Another reading of the lecture's line is the divergence between the estimates of two halves of
    the sample: it picks nothing. The wider the kernels, the more alike the two estimates, and the
    divergence falls for ever as h grows. What a second half can do is to be explained by the
    first: `held_out`.

    A few points far from all others widen the kernels everywhere, because a Gaussian's tail must
    reach them (Hall): a warning says so.

    Args:
        data: Points, shape (N, D), N ≥ 2, of which 2 differ.
        weights: Worth of each point, shape (N,).
        held_out: Other points of the same law, shape (M, D): h is then the width at which the
            estimate from `data` explains them best.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Standard deviations of a Gaussian kernel, shape (D,), in the units of each column.

    Raises:
        ValueError: If a column does not vary, held_out differs in D or holds nothing but points of
            the data.
    """
    data = as_points(data, name="data", min_points=2)
    data, shares = spread.counted(data, weights)
    base = silverman(data.double(), weights=shares)
    pairs, _ = _pairs(data, base, shares)
    if held_out is not None:
        pairs = _explaining(pairs, data, base, held_out)
    few, dim = pairs.some(_FEW), data.shape[1]
    start = 0.0
    if len(few.points) < len(pairs.points):
        start = _best(few, 0.0, progress)[0]
        start += math.log(len(few.points) / len(pairs.points)) / (dim + 4)
    log_factor, score = _best(pairs, start, progress)
    _warn_of_lonely_points(score, pairs.query_weights, dim)
    _warn_of_copies(log_factor)
    return (base * math.exp(log_factor)).to(data.dtype)


def lscv(data: Array, *, weights: Array | None = None, progress: bool = True) -> Tensor:
    """Return the width of least squared error, by leave-one-out (least-squares cross-validation).

    Silverman's widths times the best of many factors from 0.01 to 3, refined.

    Args:
        data: Points, shape (N, D), N ≥ 2, of which 2 differ.
        weights: Worth of each point, shape (N,).
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Standard deviations of a Gaussian kernel, shape (D,), in the units of each column.

    Raises:
        ValueError: If a column does not vary.
    """
    data = as_points(data, name="data", min_points=2)
    data, shares = spread.counted(data, weights)
    base = silverman(data.double(), weights=shares)
    pairs, _ = _pairs(data, base, shares)
    few = pairs.some(_FEW)
    errors = [_squared_error(few, c, progress)[0] for c in _WIDTHS]
    start = math.log(_WIDTHS[min(range(len(errors)), key=errors.__getitem__)])
    start += math.log(len(few.points) / len(pairs.points)) / (data.shape[1] + 4)
    log_factor = _valley(pairs, start, progress)
    _warn_of_copies(log_factor)
    return (base * math.exp(log_factor)).to(data.dtype)


def leave_one_out(
    data: Array,
    bandwidth: float | Array,
    *,
    weights: Array | None = None,
    progress: bool = True,
) -> Tensor:
    """Return the log density that each point gets from all others by a Gaussian kernel.

    Its mean over the points is, but for a constant, minus KL(p ‖ p_h): see `kl`.

    Args:
        data: Points, shape (N, D), of which 2 differ; copies leave one another out.
        bandwidth: Standard deviations, one number or shape (D,), in the units of the data.
        weights: Worth of each point, shape (N,).
        progress: Whether a sum of more than a few seconds shows a progress bar.

    Returns:
        log p_-i(x_i) in nats, shape (N,).

    Raises:
        ValueError: If a bandwidth is not positive, or all points are one.
    """
    data = as_points(data, name="data", min_points=2)
    width = torch.as_tensor(bandwidth, dtype=torch.float64, device=data.device)
    check_positive("bandwidth", width)
    if width.shape not in ((), (1,), (data.shape[1],)):
        raise ValueError(
            f"bandwidth must be one number or one for each of {data.shape[1]} columns, got shape "
            f"{tuple(width.shape)}"
        )
    width = width.expand(data.shape[1])
    pairs, back = _pairs(data, width, weights)
    found = pairs.score(1.0, progress=progress).log_density - width.log().sum()
    return found[back].to(data.dtype)


def _pairs(data: Tensor, base: Tensor, weights: Array | None) -> tuple[Pairs, Tensor]:
    """Return distinct points in widths, in the order of the data, and where each went, (N,)."""
    shares = spread.normalized(weights, len(data))
    if shares is None:
        shares = torch.full((len(data),), 1 / len(data), dtype=torch.float64, device=data.device)
    _, back = data.unique(dim=0, return_inverse=True)
    num = int(back.max()) + 1
    if num < 2:
        raise ValueError(f"data must hold 2 points that differ, got {len(data)} copies of one")
    first = back.new_full((num,), len(data))
    first.scatter_reduce_(0, back, torch.arange(len(data), device=back.device), "amin")
    rank = first.argsort().argsort()
    rows = first.sort().values
    points = data[rows].double()
    total = shares.new_zeros(num).index_add_(0, rank[back], shares)
    points = (points - points.median(dim=0).values) / base
    return Pairs(points, total, None, total), rank[back]


def _explaining(pairs: Pairs, data: Tensor, base: Tensor, held_out: Array) -> Pairs:
    """Return the same points with others to explain."""
    other = as_points(held_out, name="held_out")
    if other.shape[1] != data.shape[1]:
        raise ValueError(
            f"held_out and data must share D, got {other.shape[1]} and {data.shape[1]}"
        )
    origin = data[0].double() - pairs.points[0] * base
    queries = (other.double() - origin) / base
    return Pairs(
        pairs.points, pairs.weights, queries, queries.new_full((len(other),), 1 / len(other))
    )


def _best(pairs: Pairs, start: float, progress: bool) -> tuple[float, Score]:
    """Return the log of the factor at which the slope is zero, and the score near it."""
    low, high, t = -math.inf, math.inf, start
    for _ in range(_MOST_STEPS):
        score = pairs.score(math.exp(t), progress=progress)
        low, high = (t, high) if score.slope > 0 else (low, t)
        step = math.copysign(1.0, score.slope)
        if score.curvature < 0:
            step = max(-1.0, min(1.0, -score.slope / score.curvature))
        if abs(step) < _CLOSE:
            return t + step, score
        t = t + step if low < t + step < high else 0.5 * (low + high)
    raise ValueError("held_out must hold a point that is not in data, got copies alone")


def _squared_error(pairs: Pairs, factor: float, progress: bool) -> tuple[float, float]:
    """Return the estimated squared error, but for a constant, and its derivative by log c."""
    dim = pairs.points.shape[1]
    wide, wide_s, narrow, narrow_s = pairs.products(factor, progress=progress).tolist()
    wide += pairs.weights.square().sum().item()
    wide_unit = (4 * math.pi) ** (-dim / 2) * factor**-dim
    narrow_unit = 2 * (2 * math.pi) ** (-dim / 2) * factor**-dim
    value = wide_unit * wide - narrow_unit * narrow
    slope = wide_unit * (0.5 * wide_s - dim * wide) - narrow_unit * (narrow_s - dim * narrow)
    return value, slope


def _valley(pairs: Pairs, t: float, progress: bool) -> float:
    """Return the log of a factor of least squared error, near t, by secants of its slope."""
    low, high, step = -math.inf, math.inf, math.inf
    before: tuple[float, float] | None = None
    for _ in range(_MOST_STEPS):
        slope = _squared_error(pairs, math.exp(t), progress)[1]
        low, high = (t, high) if slope < 0 else (low, t)
        step = math.copysign(0.25, -slope)
        if before is not None and (slope - before[1]) / (t - before[0]) > 0:
            step = -slope * (t - before[0]) / (slope - before[1])
        step = max(-0.5, min(0.5, step))
        if not low < t + step < high:
            step = 0.5 * (low + high) - t
        if abs(step) < _CLOSE:
            return t + step
        before, t = (t, slope), t + step
    return t


def _warn_of_copies(log_factor: float) -> None:
    if log_factor < math.log(_NARROW):
        warn(
            f"the width is {math.exp(log_factor):.1g} of Silverman's: do points repeat, but for "
            "rounding? They fake a density that is infinite there"
        )


def _warn_of_lonely_points(score: Score, weights: Tensor, dim: int) -> None:
    parts, order = (weights * score.stretch).sort(descending=True)
    num = max(1, int(_LONELY * len(parts)))
    if parts[:num].sum() > _MOSTLY * dim and len(parts) > 2 / _LONELY:
        least = score.log_density[order[0]].item()
        warn(
            f"{num} of {len(parts)} points, far from all others, set the width by 'kl' (the log "
            f"density of one is {least:.3g}): 'isj' or 'silverman' do not see them"
        )
