"""How the data of a fit become points in coordinates of order one, whether they fit or not.

An array is taken whole. What does not fit in memory is read block by block, once for its mean and
covariance and a random sample to start from, then once for each E-step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from pplvae.mixtures import arguments
from pplvae.mixtures.blocks import Blocks, is_in_blocks, reader
from pplvae.mixtures.covariances import Full
from pplvae.mixtures.gaps import Gappy
from pplvae.mixtures.points import Frame, Points, Stream, Table
from pplvae.mixtures.summary import Running, Summary, summarized
from pplvae.validation import Array, as_points, check_one_of

MISSING = ("refuse", "marginalise", "marginalize")
MOST_SAMPLED = 2**15  # points on which starts are tried


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
    if is_in_blocks(x):
        if weights is not None or labels is not None:
            raise ValueError("weights and labels must come with an array, got blocks")
        return _stream(reader(x), form, num_components, jitter, rng)
    return _table(
        cast(Array, x), form, num_components, jitter, weights, labels, missing != "refuse", rng
    )


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
    x = arguments.with_gaps(given) if gaps else as_points(given)
    like, x = x.new_empty(0), x.double()
    w = None if weights is None else arguments.weights(weights, x)
    known = None if labels is None else arguments.labels(labels, x, num_components)
    counts = ~x.isnan().all(dim=1) if w is None else (w > 0) & ~x.isnan().all(dim=1)
    x = x[counts]
    w, known = (None if part is None else part[counts] for part in (w, known))
    arguments.check_size(len(x), num_components)
    seen = ~x.isnan()
    arguments.check_columns(seen)
    gaps = not bool(seen.all())
    summary = summarized(x, seen, w)
    frame = _frame(summary, form, jitter, gaps)
    z = ((x - frame.center) / frame.scale.diagonal()).mT if gaps else frame.to_z(x)
    allowed = None if known is None else arguments.allowed(known, num_components)
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
    running, keys, sample = Running(), torch.empty(0, dtype=torch.float64), None
    for x in blocks():
        running.add(x.double())
        # The rows with the lowest of random keys are a random sample.
        keys = torch.cat([keys, torch.rand(len(x), generator=rng, dtype=torch.float64)])
        keys, order = keys.topk(min(MOST_SAMPLED, len(keys)), largest=False)
        sample = (x if sample is None else torch.cat([sample, x]))[order.to(x.device)]
    arguments.check_size(running.size, num_components)
    assert sample is not None
    summary = running.summary()
    frame = _frame(summary, form, jitter, gaps=False)
    points = Stream(blocks, frame, running.size)
    return Data(
        points, frame, _ridge(summary, form, frame, jitter), summary.scales,
        summary.cov, frame.to_z(sample.double()).mT, None, None,
        running.size * frame.log_det, sample.new_empty(0),
    )  # fmt: skip


def _frame(summary: Summary, form: Full, jitter: float, gaps: bool) -> Frame:
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


def _ridge(summary: Summary, form: Full, frame: Frame, jitter: float) -> Tensor:
    half = torch.linalg.solve_triangular(frame.scale, summary.scales.diag(), upper=False)
    return jitter * form.reduce(half @ half.mT)
