"""How the data of a fit become points in coordinates of order one, whether they fit or not.

An array is taken whole. What does not fit in memory is read block by block, once for its mean and
covariance (by the pairwise update of Chan et al., which loses no digits to an offset) and a random
sample to start from, then once for each E-step.

Reference:
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pplvae.mixtures.covariances import Full
from pplvae.mixtures.expectation import NEVER
from pplvae.mixtures.gaps import Gappy
from pplvae.mixtures.points import Frame, Points, Stream, Table
from pplvae.validation import Array, as_points, as_tensor, check_one_of

Blocks: TypeAlias = Iterable[Any] | Callable[[], Iterable[Any]]
MISSING = ("refuse", "marginalise", "marginalize")
MOST_SAMPLED = 2**15  # points on which starts are tried
BLOCK_ROWS = 2**16  # of a memory map


@dataclass(frozen=True, eq=False)
class Data:
    """The points of a fit, and what is needed to begin and to go back.

    Attributes:
        points: All of them.
        frame: Their coordinates.
        ridge: What the jitter adds to a covariance, as the form has it.
        scales: The units of the columns, shape (D,): standard deviations.
        cov: The covariance of the data, shape (D, D).
        sample: At most `MOST_SAMPLED` of them, 0 in place of what is missing, shape (M, D).
        weights: How often each of the sample counts, shape (M,), or None.
        labels: The components of the sample where known, else −1, shape (M,), or None.
        log_det: Σ log |dx / dz| over all points and the coordinates they have.
        like: An empty tensor of the dtype and on the device of the data.
    """

    points: Points
    frame: Frame
    ridge: Tensor
    scales: Tensor
    cov: Tensor
    sample: Tensor
    weights: Tensor | None
    labels: Tensor | None
    log_det: float
    like: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether the sample is all of the points."""
        return len(self.sample) == self.points.size


@dataclass(frozen=True)
class _Summary:
    """Mean and covariance of the points, shapes (D,) and (D, D), and which columns vary."""

    mean: Tensor
    cov: Tensor
    varies: Tensor
    size: int

    @property
    def scales(self) -> Tensor:
        """The columns' standard deviations; a constant one gets the others' root mean square."""
        variances = self.cov.diagonal()
        varies = self.varies & (variances > 0)
        if not varies.any():
            raise ValueError(f"x must vary, got {self.size} times the same point")
        return torch.where(varies, variances, variances[varies].mean()).sqrt()


def read(
    x: Array | Blocks,
    form: Full,
    num_components: int,
    *,
    jitter: float,
    weights: Array | None,
    labels: Array | None,
    missing: str,
    rng: torch.Generator,
) -> Data:
    """Return the data of a fit.

    Raises:
        ValueError: If they are not points, too few, all the same, without volume and without
            jitter, or hold nan or inf; or weights or labels do not fit them.
    """
    check_one_of("missing", missing, MISSING)
    if isinstance(x, np.memmap) or not isinstance(x, Tensor | np.ndarray):
        if weights is not None or labels is not None:
            raise ValueError("weights and labels must come with an array, got blocks")
        return _stream(_reader(x), form, num_components, jitter, rng)
    return _table(x, form, num_components, jitter, weights, labels, missing != "refuse", rng)


def _table(
    given: Array,
    form: Full,
    num_components: int,
    jitter: float,
    weights: Array | None,
    labels: Array | None,
    gaps: bool,
    rng: torch.Generator,
) -> Data:
    x = _with_gaps(given) if gaps else as_points(given)
    like, x = x.new_empty(0), x.double()
    w = None if weights is None else _weights(weights, x)
    known = None if labels is None else _labels(labels, x, num_components)
    counts = ~x.isnan().all(dim=1) if w is None else (w > 0) & ~x.isnan().all(dim=1)
    x = x[counts]
    w, known = (None if part is None else part[counts] for part in (w, known))
    _check_size(len(x), num_components)
    seen = ~x.isnan()
    gaps = not bool(seen.all())
    summary = _summarized(x, seen, w)
    frame = _frame(summary, form, jitter, gaps)
    z = ((x - frame.center) / frame.scale.diagonal()).mT if gaps else frame.to_z(x)
    allowed = None if known is None else _allowed(known, num_components)
    points = (Gappy if gaps else Table)(z, w, allowed)
    rows = torch.randperm(len(x), generator=rng)[:MOST_SAMPLED].sort().values.to(x.device)
    log_scales = frame.scale.diagonal().log()
    each = (seen * log_scales).sum(dim=1)
    ridge, sample = _ridge(summary, form, frame, jitter), z.mT[rows].nan_to_num(0.0)
    return Data(
        points, frame, ridge, summary.scales, summary.cov, sample,
        None if w is None else w[rows], None if known is None else known[rows],
        (each if w is None else each * w).sum().item(), like,
    )  # fmt: skip


def _stream(
    blocks: Callable[[], Iterator[Tensor]],
    form: Full,
    num_components: int,
    jitter: float,
    rng: torch.Generator,
) -> Data:
    like = next(blocks(), torch.empty(0, 0)).new_empty(0)
    running, keys, sample = _Running(), torch.empty(0, dtype=torch.float64), None
    for x in blocks():
        running.add(x.double())
        # The rows with the lowest of random keys are a random sample.
        keys = torch.cat([keys, torch.rand(len(x), generator=rng, dtype=torch.float64)])
        keys, order = keys.topk(min(MOST_SAMPLED, len(keys)), largest=False)
        sample = (x if sample is None else torch.cat([sample, x]))[order.to(x.device)]
    _check_size(running.size, num_components)
    assert sample is not None
    summary = running.summary()
    frame = _frame(summary, form, jitter, gaps=False)
    points = Stream(blocks, frame, running.size)
    return Data(
        points, frame, _ridge(summary, form, frame, jitter), summary.scales,
        summary.cov, frame.to_z(sample.double()).mT, None, None,
        running.size * frame.log_det, like,
    )  # fmt: skip


class _Running:
    """Mean, scatter and range of the blocks so far."""

    def __init__(self) -> None:
        self.size = 0
        self._mean: Any = 0.0
        self._scatter: Any = 0.0
        self._low: Any = torch.tensor(torch.inf)
        self._high: Any = torch.tensor(-torch.inf)

    def add(self, x: Tensor) -> None:
        center, num = x.mean(dim=0), len(x)
        residuals, shift = x - center, center - self._mean
        share = num / (self.size + num)
        self._mean = self._mean + share * shift
        self._scatter = self._scatter + residuals.mT @ residuals
        self._scatter = self._scatter + self.size * share * shift.outer(shift)
        self._low = torch.minimum(self._low.to(x), x.amin(dim=0))
        self._high = torch.maximum(self._high.to(x), x.amax(dim=0))
        self.size += num

    def summary(self) -> _Summary:
        varies = self._low < self._high
        return _Summary(self._mean, self._scatter / self.size, varies, self.size)


def _summarized(x: Tensor, seen: Tensor, weights: Tensor | None) -> _Summary:
    """Return the summary of points with gaps; of each pair of columns where both are seen."""
    w = seen.double() if weights is None else seen * weights.unsqueeze(-1)
    filled = torch.where(seen, x, 0.0)
    # In two passes: the first is off by the rounding of the offset.
    mean = (w * filled).sum(dim=0) / w.sum(dim=0)
    residuals = torch.where(seen, x - mean, 0.0)
    shift = (w * residuals).sum(dim=0) / w.sum(dim=0)
    residuals = torch.where(seen, residuals - shift, 0.0)
    cov = ((residuals * w).mT @ residuals) / (w.mT @ seen.double()).clamp_min(1e-300)
    low = torch.where(seen, x, torch.inf).amin(dim=0)
    high = torch.where(seen, x, -torch.inf).amax(dim=0)
    return _Summary(mean + shift, cov, low < high, len(x))


def _frame(summary: _Summary, form: Full, jitter: float, gaps: bool) -> Frame:
    scales = summary.scales
    cov = summary.cov + jitter * scales.square().diag()
    # With gaps, the covariances of pairs need not make a whole: then its diagonal says enough.
    factor, singular = form.factor(form.reduce(cov.diagonal().diag() if gaps else cov)[None, None])
    if singular.any():
        raise ValueError(f"jitter must be larger for points without volume, got {jitter}")
    if form.linear and not gaps:
        return Frame(summary.mean, factor[0, 0])
    if form.name == "spherical":
        scales = scales.square().mean().sqrt().expand_as(scales)
    return Frame(summary.mean, scales.diag())


def _ridge(summary: _Summary, form: Full, frame: Frame, jitter: float) -> Tensor:
    half = torch.linalg.solve_triangular(frame.scale, summary.scales.diag(), upper=False)
    return jitter * form.reduce(half @ half.mT)


def _reader(x: Any) -> Callable[[], Iterator[Tensor]]:
    """Return what reads the blocks from the start, each a checked tensor (B, D)."""
    readable = callable(x) or (isinstance(x, Iterable) and iter(x) is not x)
    if not readable:
        raise ValueError(
            "x must be an array, or blocks that can be read again and again (a list, a "
            f"DataLoader, a function that returns them), got {type(x).__name__}"
        )

    def read_blocks() -> Iterator[Tensor]:
        dim = None
        for block in _blocks(x):
            found = as_points(block[0] if isinstance(block, tuple | list) else block)
            if dim is not None and found.shape[1] != dim:
                raise ValueError(f"blocks must have {dim} columns, got {found.shape[1]}")
            dim = found.shape[1]
            yield found

    return read_blocks


def _blocks(x: Any) -> Iterator[Any]:
    if isinstance(x, np.memmap):
        for start in range(0, len(x), BLOCK_ROWS):
            yield np.array(x[start : start + BLOCK_ROWS])
    else:
        blocks: Any = x() if callable(x) else x
        yield from blocks


def _with_gaps(x: Array) -> Tensor:
    """Return points in which nan stands for what is missing."""
    raw = torch.as_tensor(x)
    if raw.dim() == 1:
        raw = raw.unsqueeze(-1)
    gaps = raw.isnan() if raw.is_floating_point() else torch.zeros_like(raw, dtype=torch.bool)
    filled = as_points(torch.where(gaps, 0, raw))
    if gaps.all(dim=0).any():
        empty = gaps.all(dim=0).nonzero().flatten().tolist()
        raise ValueError(f"x must have a value in each column, got none in {empty}")
    return torch.where(gaps, torch.nan, filled)


def _weights(weights: Array, x: Tensor) -> Tensor:
    found = as_tensor(weights, name="weights").double().to(x.device)
    if found.shape != (len(x),):
        raise ValueError(f"weights must have shape ({len(x)},), got {tuple(found.shape)}")
    if (found < 0).any() or not (found > 0).any():
        raise ValueError("weights must be at least 0, and some above")
    return found


def _labels(labels: Array, x: Tensor, num_components: int) -> Tensor:
    found = as_tensor(labels, name="labels").to(x.device)
    if found.shape != (len(x),):
        raise ValueError(f"labels must have shape ({len(x)},), got {tuple(found.shape)}")
    if (found != found.round()).any() or (found < -1).any() or (found >= num_components).any():
        rule = f"whole numbers in [-1, {num_components - 1}], -1 where unknown"
        raise ValueError(f"labels must be {rule}, got {found.min():g} to {found.max():g}")
    return found.long()


def _allowed(labels: Tensor, num_components: int) -> Tensor:
    """Return the log prior of the labels, shape (K, N): 0 for what may be, else `NEVER`."""
    places = torch.arange(num_components, device=labels.device).unsqueeze(-1)
    return torch.where((labels < 0) | (labels == places), 0.0, NEVER).double()


def _check_size(size: int, num_components: int) -> None:
    if size <= num_components:
        raise ValueError(f"x must hold at least {num_components + 1} points, got {size}")
