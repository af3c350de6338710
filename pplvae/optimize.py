"""The one gradient loop of the house: Adam over batches, watched, interruptible, exact to resume.

Each step moves the parameters against the gradient of the mean loss of a batch,

    θ ← θ − η(t) · Adam(∇_θ mean loss(batch)),

with the learning rate η scaled by a schedule. With a validation loss the best parameters seen are
the ones returned. With several processes each takes its share of every batch and the gradients are
averaged; they start from the parameters and the seed of the first.

Reference:
    Kingma & Ba (2015), Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import distributed, randomness
from pplvae.storage import write_atomically
from pplvae.validation import check_in_range, check_positive, check_whole

Batch: TypeAlias = Sequence[Tensor]
Batches: TypeAlias = Callable[[torch.Generator], Iterable[Batch]]
Schedule: TypeAlias = Callable[[float], float]

# What is in a checkpoint besides the parameters, Adam's moments and the time.
_FORMAT = "pplvae checkpoint 1"
_KEPT = ("seed", "losses", "validation", "num_steps", "best", "best_epoch", "best_loss")


@dataclass(frozen=True)
class History:
    """How a minimization went.

    Attributes:
        losses: The mean training loss in each epoch.
        validation: The validation loss after each epoch; empty where none was asked for.
        best_epoch: The epoch, from 0, whose parameters were kept.
        stopped_early: Whether the validation loss stopped the run before the last epoch.
        num_steps: Gradient steps taken.
        seconds: Wall-clock time, in seconds, over all the runs that a checkpoint joined.
    """

    losses: list[float]
    validation: list[float]
    best_epoch: int
    stopped_early: bool
    num_steps: int
    seconds: float = field(compare=False)

    def __repr__(self) -> str:
        end = "stopped early" if self.stopped_early else "ran to the end"
        return (
            f"History({len(self.losses)} epochs, loss {self.losses[-1]:.6g}, "
            f"best epoch {self.best_epoch}, {end})"
        )


def constant(progress: float) -> float:
    """Return the factor 1 of a learning rate that stays, whatever the progress in [0, 1]."""
    return 1.0


def cosine(progress: float) -> float:
    """Return the factor ½ (1 + cos π t) of a learning rate that falls to 0, for t in [0, 1]."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def one_batch(generator: torch.Generator) -> Iterable[Batch]:
    """Return one empty batch: the epoch of a loss that holds its data itself is one step."""
    return [()]


def minibatches(*tensors: Tensor, batch_size: int) -> Batches:
    """Return what deals `tensors` in batches, in a new random order each epoch.

    Args:
        tensors: Tensors that share their first axis, shapes (N, …).
        batch_size: Rows in a batch over all processes; the last one may be smaller. Processes get
            equal shares: the rows of a batch that are left over, fewer than processes, are left
            out.

    Raises:
        ValueError: If the lengths differ, or the batch size is below the number of processes.
    """
    sizes = {len(tensor) for tensor in tensors}
    if len(sizes) != 1:
        raise ValueError(f"tensors must share their first axis, got lengths {sorted(sizes)}")
    (num_rows,) = sizes
    check_whole("batch_size", batch_size, distributed.world_size())

    def deal(generator: torch.Generator) -> Iterator[Batch]:
        world, rank = distributed.world_size(), distributed.rank()
        order = torch.randperm(num_rows, generator=generator).to(tensors[0].device)
        for rows in order.split(batch_size):
            shared = rows[: len(rows) // world * world]
            if len(shared):
                yield [tensor[shared[rank::world]] for tensor in tensors]

    return deal


def checkpoint_seed(path: str | os.PathLike[str]) -> int | None:
    """Return the seed of the run that a checkpoint belongs to; None where there is no such file.

    Raises:
        ValueError: If the file is not a checkpoint.
    """
    return int(_read_checkpoint(Path(path))["seed"]) if Path(path).exists() else None


def minimize(
    loss: Callable[..., Tensor],
    parameters: Iterable[Tensor],
    batches: Batches = one_batch,
    *,
    num_epochs: int,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    schedule: Schedule = constant,
    clip_norm: float | None = None,
    validate: Callable[[], Tensor] | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    seed: int | None = None,
    progress: bool = True,
    description: str = "training",
) -> History:
    """Minimize `loss` over `parameters` by Adam, in place.

    Args:
        loss: The mean loss of a batch, called as `loss(*batch)`, shape (). It may draw from
            torch's global generator, which is seeded for the run and put back after it.
        parameters: Leaf tensors to train, those that require a gradient; all else stays as it is.
        batches: Called with a generator once an epoch, gives that epoch's batches. See
            `minibatches`; by default an epoch is one step.
        num_epochs: Most passes over the batches.
        learning_rate: Adam's step size.
        betas: Adam's memory of the gradient and of its square, each in [0, 1).
        schedule: Factor on the step size in an epoch, as a function of the progress in [0, 1].
        clip_norm: Largest Euclidean norm of the whole gradient.
        validate: The validation loss, shape (), computed after each epoch on the same random
            draws; the parameters that gave the least are restored at the end.
        patience: Stop after so many epochs without a better validation loss.
        checkpoint: A file that keeps the state of the run, written at its start already. Where it
            exists the run goes on from it, to the same result, bit for bit, as one that was never
            interrupted. What the loss keeps elsewhere (say batch-norm averages) is not in it.
            Several processes must see the same file.
        checkpoint_seconds: Least time between two writes of the checkpoint.
        seed: Start of the random draws.
        progress: Whether to show a progress bar.
        description: What the bar says.

    Returns:
        The history.

    Raises:
        ValueError: If an argument is impossible, or the checkpoint is not one of this run.
        FloatingPointError: If a loss or the parameters stop being finite. The best parameters so
            far are put back where there is a validation loss, and the checkpoint keeps the last
            good state.
    """
    _check(num_epochs, learning_rate, clip_norm, checkpoint_seconds)
    if patience is not None:
        check_whole("patience", patience, 1)
        if validate is None:
            raise ValueError(f"patience needs a validation loss, got {patience} without one")
    run = _Run(list(parameters), learning_rate, betas, seed)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        run.load(path, seed)
    else:
        run.save(path)
    bar = tqdm(
        total=num_epochs,
        initial=len(run.losses),
        desc=description,
        disable=not progress or distributed.rank() > 0,
        leave=False,
    )
    with bar, randomness.scope(run.seed):
        try:
            while not run.is_over(num_epochs, patience):
                run.epoch(loss, batches, schedule(len(run.losses) / num_epochs), clip_norm)
                run.judge(validate)
                late = time.monotonic() - run.saved_at >= checkpoint_seconds
                if late or run.is_over(num_epochs, patience):
                    run.check_parameters()
                    run.save(path)
                bar.set_postfix_str(run.said(), refresh=False)
                bar.update()
        finally:
            run.restore_best()
    return run.history(num_epochs)


def _check(
    num_epochs: int, learning_rate: float, clip_norm: float | None, checkpoint_seconds: float
) -> None:
    check_whole("num_epochs", num_epochs, 1)
    check_positive("learning_rate", learning_rate)
    check_in_range("checkpoint_seconds", checkpoint_seconds, 0)
    if clip_norm is not None:
        check_positive("clip_norm", clip_norm)


class _Run:
    """The state of a minimization: all that a checkpoint must hold."""

    def __init__(
        self,
        parameters: list[Tensor],
        learning_rate: float,
        betas: tuple[float, float],
        seed: int | None,
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("parameters must hold at least 1 that requires a gradient, got 0")
        start = torch.tensor(randomness.resolve(seed), device=self.parameters[0].device)
        self.seed, self.learning_rate = int(distributed.from_first(start)), float(learning_rate)
        _copy_into(self.parameters, [distributed.from_first(p) for p in self.parameters])
        # The fused kernel reads memory in order: it corrupts a leaf that is a strided view.
        fused = all(parameter.is_contiguous() for parameter in self.parameters)
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=self.learning_rate, betas=betas, fused=fused
        )
        self.losses: list[float] = []
        self.validation: list[float] = []
        self.best: list[Tensor] | None = None
        self.best_epoch, self.best_loss, self.num_steps = -1, math.inf, 0
        self.started = self.saved_at = time.monotonic()

    def is_over(self, num_epochs: int, patience: int | None) -> bool:
        epoch = len(self.losses) - 1
        return epoch + 1 >= num_epochs or (
            patience is not None and epoch - self.best_epoch >= patience
        )

    def said(self) -> str:
        text = f"loss {self.losses[-1]:.5g}"
        return text + (f", validation {self.validation[-1]:.5g}" if self.validation else "")

    def history(self, num_epochs: int) -> History:
        return History(
            losses=self.losses,
            validation=self.validation,
            best_epoch=self.best_epoch,
            stopped_early=len(self.losses) < num_epochs,
            num_steps=self.num_steps,
            seconds=time.monotonic() - self.started,
        )

    def epoch(
        self,
        loss: Callable[..., Tensor],
        batches: Batches,
        factor: float,
        clip_norm: float | None,
    ) -> None:
        epoch = len(self.losses)
        # Order and noise depend on the epoch alone, so a run that is resumed meets the same ones.
        order = randomness.generator(randomness.derive(self.seed, epoch))
        randomness.reseed(randomness.derive(self.seed, epoch, distributed.rank()))
        total, count = torch.zeros(()), 0
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * float(factor)
        for batch in batches(order):
            size = len(batch[0]) if len(batch) else 1
            value = self.step(loss(*batch), clip_norm)
            total, count = total.to(value) + size * value, count + size
        if not count:
            raise ValueError("batches must hold at least 1 batch an epoch, got 0")
        mean = (distributed.all_sum(total) / (count * distributed.world_size())).item()
        self.losses.append(_finite("loss", mean, epoch))

    def step(self, loss: Tensor, clip_norm: float | None) -> Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward(inputs=self.parameters)
        self.average_gradients()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, clip_norm)
        self.optimizer.step()
        self.num_steps += 1
        return loss.detach()

    def average_gradients(self) -> None:
        world = distributed.world_size()
        if world == 1:
            return
        for parameter in self.parameters:
            # Every rank must take part, also one whose loss did not meet this parameter.
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = distributed.all_sum(own) / world

    def judge(self, validate: Callable[[], Tensor] | None) -> None:
        epoch = len(self.losses) - 1
        if validate is None:
            self.best, self.best_epoch = None, epoch
            return
        with torch.no_grad(), randomness.scope(self.seed):
            value = validate()
        mean = (distributed.all_sum(value.detach()) / distributed.world_size()).item()
        self.validation.append(_finite("validation loss", mean, epoch))
        if mean < self.best_loss:
            self.best_loss, self.best_epoch = mean, epoch
            self.best = [parameter.detach().clone() for parameter in self.parameters]

    def restore_best(self) -> None:
        if self.best is not None:
            _copy_into(self.parameters, self.best)

    def check_parameters(self) -> None:
        # A step on a finite loss may have had a gradient that was not.
        for parameter in self.parameters:
            bad = parameter[~parameter.isfinite()]
            if len(bad):
                _finite("parameters", bad[0].item(), len(self.losses) - 1)

    def save(self, path: Path | None) -> None:
        self.saved_at = time.monotonic()
        if path is None or distributed.rank() > 0:
            return
        state = {name: getattr(self, name) for name in _KEPT} | {
            "format": _FORMAT,
            "seconds": self.saved_at - self.started,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict()["state"],
        }
        write_atomically(path, lambda temporary: torch.save(state, temporary))

    def load(self, path: Path, seed: int | None) -> None:
        state = _read_checkpoint(path)
        if seed is not None and self.seed != state["seed"]:
            raise ValueError(f"seed must be {state['seed']} to go on from {path}, got {seed}")
        theirs, ours = _shapes(state["parameters"]), _shapes(self.parameters)
        if theirs != ours:
            raise ValueError(
                f"checkpoint {path} must hold parameters {ours}, got {theirs}: "
                "it belongs to another model; name another file or delete it"
            )
        _copy_into(self.parameters, state["parameters"])
        settings = self.optimizer.state_dict()
        self.optimizer.load_state_dict(settings | {"state": state["optimizer"]})
        self.started -= state["seconds"]
        for name in _KEPT:
            setattr(self, name, state[name])


def _finite(name: str, value: float, epoch: int) -> float:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name} must stay finite, got {value} in epoch {epoch}: "
            "try a smaller learning_rate, or clip the gradient"
        )
    return value


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)


def _copy_into(targets: list[Tensor], sources: list[Tensor]) -> None:
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        # torch's own message advises to load the file unsafely.
        raise ValueError(
            f"checkpoint {path} must be a checkpoint of this library, got a file that cannot be "
            f"read ({type(error).__name__}): name another file or delete it"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(
            f"checkpoint {path} must be a checkpoint of this library, got another file"
        )
    return state
