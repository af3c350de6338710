"""The one gradient loop of the house: Adam over batches, watched, interruptible, exact to resume.

Each step moves the parameters against the gradient of the mean loss of a batch,

    θ ← θ − η(t) · Adam(∇_θ mean loss(batch)),

with the learning rate η scaled by a schedule. With a validation loss the best parameters seen are
the ones returned. With several processes each takes its share of every batch and the gradients are
averaged; they start from the parameters and the seed of the first.

Reference:
    Kingma & Ba (2015), Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor
from tqdm import tqdm

from pplvae import distributed, randomness
from pplvae.optimize.batches import Batches, one_batch
from pplvae.optimize.logs import Callback
from pplvae.optimize.run import Run
from pplvae.optimize.schedules import Schedule, constant
from pplvae.validation import check_in_range, check_positive, check_whole

Loss: TypeAlias = Callable[..., Tensor | tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class History:
    """How a minimization went.

    Attributes:
        losses: The mean training loss in each epoch.
        validation: The validation loss after each epoch; empty where none was asked for.
        best_epoch: The epoch, from 0, whose parameters were kept.
        stopped_early: Whether the validation loss or a callback ended the run before the last
            epoch.
        num_steps: Gradient steps taken.
        seconds: Wall-clock time, in seconds, over all the runs that a checkpoint joined.
        monitored: What else the loss reported, its mean in each epoch.
    """

    losses: list[float]
    validation: list[float]
    best_epoch: int
    stopped_early: bool
    num_steps: int
    seconds: float = field(compare=False)
    monitored: dict[str, list[float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        end = "stopped early" if self.stopped_early else "ran to the end"
        return (
            f"History({len(self.losses)} epochs, loss {self.losses[-1]:.6g}, "
            f"best epoch {self.best_epoch}, {end})"
        )


def minimize(
    loss: Loss,
    parameters: Iterable[Tensor],
    batches: Batches = one_batch,
    *,
    num_epochs: int,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    schedule: Schedule = constant,
    clip_norm: float | None = None,
    validate: Callable[[], Tensor] | None = None,
    patience: int | None = None,
    buffers: Iterable[Tensor] = (),
    before_step: Callable[[float], None] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    about: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: bool = True,
    description: str = "training",
    shown: str = "loss",
) -> History:
    """Minimize `loss` over `parameters` by Adam, in place.

    Args:
        loss: The mean loss of a batch, called as `loss(*batch)`, shape (); with it, where there
            is more to watch, a dict of further means, shape (), by name. It may draw from
            torch's global generator, which is seeded for the run and put back after it.
        parameters: Leaf tensors to train, those that require a gradient; all else stays as it is.
        batches: Called with a generator once an epoch, gives that epoch's batches. See
            `minibatches` and `from_loader`; by default an epoch is one step.
        num_epochs: Most passes over the batches.
        learning_rate: Adam's step size.
        betas: Adam's memory of the gradient and of its square, each in [0, 1).
        eps: Adam's ε, added to the root of the mean square.
        schedule: Factor on the step size, as a function of the progress in [0, 1].
        clip_norm: Largest Euclidean norm of the whole gradient.
        validate: The validation loss, shape (), computed after each epoch on the same random
            draws; the parameters that gave the least are restored at the end.
        patience: Stop after so many epochs without a better validation loss.
        buffers: Tensors that the loss changes besides, such as batch-norm averages: kept with the
            best parameters and in the checkpoint.
        before_step: Called with the progress in [0, 1] before each step.
        callbacks: Called with a `logs.Epoch` after each epoch; one that returns True, with several
            processes that of the first, ends the run.
        checkpoint: A file that keeps the state of the run, written at its start already. Where it
            exists the run goes on from it, in the middle of an epoch if need be, and, called as
            before, to the same result, bit for bit, as one never interrupted. A run that is over
            is only read, with a warning where it had another learning rate. Several processes must
            see the same file, and write it at the end of an epoch only.
        checkpoint_seconds: Least time between two writes of the checkpoint.
        about: What the run is of, by name: rows of numbers, and things that their `repr` tells
            from others. A checkpoint of a run where one differs, or the rows or the `batch_size`
            of `minibatches` do, is refused. Not so more epochs, or other step sizes.
        seed: Start of the random draws.
        progress: Whether to show a progress bar.
        description: What the bar says.
        shown: What the bar calls the loss; with a leading "−" its negative is shown.

    Returns:
        The history.

    Raises:
        ValueError: If an argument is impossible, or the checkpoint is not one of this run.
        FloatingPointError: If a loss or the parameters stop being finite. The best parameters so
            far are put back where there is a validation loss, and the checkpoint keeps the last
            good state.
    """
    _check(num_epochs, learning_rate, clip_norm, checkpoint_seconds)
    _check_patience(patience, validate)
    if not callable(schedule):
        raise ValueError(f"schedule must be a function of the progress, got {schedule!r}")
    run = Run(
        list(parameters), list(buffers), betas=betas, eps=eps, seed=seed,
        path=None if checkpoint is None else Path(checkpoint),
        about={**getattr(batches, "about", {}), **(about or {})},
    )  # fmt: skip
    _learn_at(run, float(learning_rate), over=run.is_over(num_epochs, patience))
    plan = _Plan(
        loss, batches, num_epochs=num_epochs, learning_rate=learning_rate, schedule=schedule,
        clip_norm=clip_norm, before_step=before_step, checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    hidden = not progress or distributed.rank() > 0
    bar = tqdm(
        total=num_epochs, initial=run.num_epochs, desc=description, disable=hidden, leave=False
    )
    with bar, randomness.scope(run.seed):
        try:
            while not run.is_over(num_epochs, patience):
                _walk(run, plan)
                run.end_epoch(validate)
                run.tell(callbacks, num_epochs)
                if run.is_due(checkpoint_seconds) or run.is_over(num_epochs, patience):
                    run.save()
                bar.set_postfix_str(run.said(shown), refresh=False)
                bar.update()
        finally:
            run.restore_best()
    return _history(run, num_epochs)


@dataclass(frozen=True)
class _Plan:
    """What the steps of an epoch need to know."""

    loss: Loss
    batches: Batches
    num_epochs: int
    learning_rate: float
    schedule: Schedule
    clip_norm: float | None
    before_step: Callable[[float], None] | None
    checkpoint_seconds: float


def _learn_at(run: Run, learning_rate: float, *, over: bool) -> None:
    """Note the learning rate; warn where a run that is over had another."""
    if over and learning_rate != run.learning_rate and distributed.rank() == 0:
        warnings.warn(
            f"checkpoint {run.path} holds a run that is over, with learning_rate "
            f"{run.learning_rate:g}: it is given back as it is, nothing is trained with "
            f"{learning_rate:g}; name another file or delete it to train anew",
            stacklevel=3,
        )
    run.learning_rate = learning_rate


def _walk(run: Run, plan: _Plan) -> None:
    """Take the steps of the epoch that are still to be taken."""
    size = _num_batches(plan.batches)
    for batch in run.remaining(plan.batches):
        progress = _progress(run, size, plan.num_epochs)
        if plan.before_step is not None:
            plan.before_step(progress)
        rate = float(plan.learning_rate * plan.schedule(progress))
        run.step(plan.loss, batch, rate, plan.clip_norm)
        if run.is_due(plan.checkpoint_seconds):
            run.save()


def _num_batches(batches: Batches) -> int | None:
    """Return how many batches make an epoch; None where the batches do not say."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


def _progress(run: Run, size: int | None, num_epochs: int) -> float:
    """Return the share of the run that is done, in [0, 1], by steps where an epoch's are known."""
    within = min(run.position / size, 1.0) if size else 0.0
    return (run.num_epochs + within) / num_epochs


def _history(run: Run, num_epochs: int) -> History:
    return History(
        losses=run.losses,
        validation=run.validation,
        best_epoch=run.best_epoch,
        stopped_early=run.num_epochs < num_epochs,
        num_steps=run.num_steps,
        seconds=time.monotonic() - run.started,
        monitored=run.monitored,
    )


def _check(
    num_epochs: int, learning_rate: float, clip_norm: float | None, checkpoint_seconds: float
) -> None:
    check_whole("num_epochs", num_epochs, 1)
    check_in_range("checkpoint_seconds", checkpoint_seconds, 0)
    _check_factor("learning_rate", learning_rate)
    if clip_norm is not None:
        _check_factor("clip_norm", clip_norm)


def _check_factor(name: str, value: float | Tensor) -> None:
    if not isinstance(value, Real | Tensor):
        raise ValueError(f"{name} must be a number, got {value!r}")
    check_positive(name, value)


def _check_patience(patience: int | None, validate: Callable[[], Tensor] | None) -> None:
    if patience is None:
        return
    check_whole("patience", patience, 1)
    if validate is None:
        raise ValueError(f"patience needs a validation loss, got {patience} without one")
