"""The state of a minimization: all that a checkpoint must hold."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae import distributed, randomness
from pplvae.optimize import checkpoints
from pplvae.optimize.batches import Batch
from pplvae.optimize.logs import Callback, Epoch
from pplvae.storage import remove_left_over


def common_seed(seed: int | None, device: torch.device | str = "cpu") -> int:
    """Return the first process's seed on all of them, one that any can draw from where None."""
    return int(distributed.from_first(torch.tensor(randomness.resolve(seed), device=device)))


class Run:
    """A minimization, at the start or where its checkpoint left it."""

    def __init__(
        self,
        parameters: list[Tensor],
        buffers: list[Tensor],
        *,
        betas: tuple[float, float],
        eps: float,
        seed: int | None,
        path: Path | None,
        about: Mapping[str, Any],
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("parameters must hold at least 1 that requires a gradient, got 0")
        self.buffers, self.path = buffers, path
        self.about = {} if path is None else checkpoints.marks(about)
        self.seed = common_seed(seed, self.parameters[0].device)
        _follow_first(self.kept())
        # The fused kernel reads memory in order: it corrupts a leaf that is a strided view.
        fused = all(parameter.is_contiguous() for parameter in self.parameters)
        self.optimizer = torch.optim.Adam(self.parameters, betas=betas, eps=eps, fused=fused)
        self.losses: list[float] = []
        self.validation: list[float] = []
        self.monitored: dict[str, list[float]] = {}
        self.best: list[Tensor] | None = None
        self.best_epoch, self.best_loss, self.num_steps = -1, math.inf, 0
        self.stopped, self.rate, self.learning_rate = False, math.nan, math.nan
        self.position, self.count, self.totals = 0, 0, dict[str, Tensor]()
        self.random_state: list[Tensor] | None = None
        self.started = self.saved_at = time.monotonic()
        if path is not None and distributed.rank() == 0:
            remove_left_over(path)
        if path is not None and path.exists():
            self._load(path, seed)
        else:
            self.save()

    @property
    def num_epochs(self) -> int:
        """The number of epochs that are done."""
        return len(self.losses)

    def kept(self) -> list[Tensor]:
        """Return all that training changes."""
        return [*self.parameters, *self.buffers]

    def is_over(self, num_epochs: int, patience: int | None) -> bool:
        """Return whether there is no epoch to come."""
        late = patience is not None and self.num_epochs - 1 - self.best_epoch >= patience
        return self.stopped or late or self.num_epochs >= num_epochs

    def said(self, name: str) -> str:
        """Return the last losses in words, and what else was watched."""
        sign = -1 if name.startswith("−") else 1
        last = {name.removeprefix("−"): sign * self.losses[-1]}
        last |= {name: means[-1] for name, means in self.monitored.items()}
        if self.validation:
            last["held out"] = sign * self.validation[-1]
        return ", ".join(f"{name} {value:.5g}" for name, value in last.items())

    def remaining(self, batches: Callable[[torch.Generator], Iterable[Batch]]) -> Iterator[Batch]:
        """Yield the batches of this epoch that have not been trained on yet."""
        epoch = self.num_epochs
        # Order and noise depend on the epoch alone, so a run that is resumed meets the same ones.
        order = randomness.generator(randomness.derive(self.seed, epoch))
        randomness.reseed(randomness.derive(self.seed, epoch, distributed.rank()))
        walk = iter(batches(order))
        for _ in islice(walk, self.position):
            pass
        if self.random_state is not None:
            _set_random_state(self.random_state)
            self.random_state = None
        yield from walk

    def step(
        self, loss: Callable[..., Any], batch: Batch, rate: float, clip_norm: float | None
    ) -> None:
        """Take one step of Adam with step size `rate`."""
        value = loss(*batch)
        value, monitored = value if isinstance(value, tuple) else (value, {})
        self.rate = self.optimizer.param_groups[0]["lr"] = rate
        for parameter in self.parameters:
            parameter.grad = None
        value.backward(inputs=self.parameters)
        self._average_gradients()
        if clip_norm is not None:
            self._clip(clip_norm)
        self.optimizer.step()
        self._count(len(batch[0]) if len(batch) else 1, {**monitored, "loss": value})

    def _count(self, size: int, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + size * value.detach()
        self.count += size
        self.num_steps += 1
        self.position += 1

    def _clip(self, clip_norm: float) -> None:
        """Shorten the whole gradient to a norm; where it is not longer, leave it alone."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        # Another device would have to be waited for.
        if norm.device.type != "cpu" or norm > clip_norm:
            for gradient in gradients:
                gradient.mul_((clip_norm / (norm + 1e-6)).clamp(max=1.0))

    def _average_gradients(self) -> None:
        world = distributed.world_size()
        if world == 1:
            return
        for parameter in self.parameters:
            # Every rank must take part, also one whose loss did not meet this parameter.
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = distributed.all_sum(own) / world

    def end_epoch(self, validate: Callable[[], Tensor] | None) -> None:
        """Write the epoch's means down, and keep the parameters if they are the best so far."""
        if not self.count:
            raise ValueError("batches must hold at least 1 batch an epoch, got 0")
        epoch, size = self.num_epochs, self.count * distributed.world_size()
        means = {name: (distributed.all_sum(t) / size).item() for name, t in self.totals.items()}
        self.losses.append(_finite("loss", means.pop("loss"), epoch))
        for name, mean in means.items():
            self.monitored.setdefault(name, []).append(mean)
        self.position, self.count, self.totals = 0, 0, {}
        # Each rank has averaged over its own batches; a checkpoint has room for one's.
        _follow_first(self.buffers)
        if validate is None:
            self.best, self.best_epoch = None, epoch
        else:
            self._judge(validate, epoch)

    def _judge(self, validate: Callable[[], Tensor], epoch: int) -> None:
        with torch.no_grad(), randomness.scope(self.seed):
            value = validate()
        mean = (distributed.all_sum(value.detach()) / distributed.world_size()).item()
        self.validation.append(_finite("validation loss", mean, epoch))
        if mean < self.best_loss:
            self.best_loss, self.best_epoch = mean, epoch
            self.best = [tensor.detach().clone() for tensor in self.kept()]

    def tell(self, callbacks: Sequence[Callback], num_epochs: int) -> None:
        """Call the callbacks; one that returns True, on the first process, ends the run."""
        self.stopped = False
        if callbacks:
            epoch = self._last_epoch(num_epochs)
            wishes = [callback(epoch) is True for callback in callbacks]
            self.stopped = any(wishes)
        if distributed.world_size() > 1:
            wish = torch.tensor(self.stopped, device=self.parameters[0].device)
            self.stopped = bool(distributed.from_first(wish))

    def _last_epoch(self, num_epochs: int) -> Epoch:
        number = self.num_epochs - 1
        return Epoch(
            number=number,
            num_epochs=num_epochs,
            loss=self.losses[-1],
            validation=self.validation[-1] if self.validation else None,
            best=self.best_epoch == number,
            num_steps=self.num_steps,
            seconds=time.monotonic() - self.started,
            learning_rate=self.rate,
            monitored={name: means[-1] for name, means in self.monitored.items()},
        )

    def restore_best(self) -> None:
        """Put the best parameters back, where there was a validation loss to say which."""
        if self.best is not None:
            _copy_into(self.kept(), self.best)

    def is_due(self, seconds: float) -> bool:
        """Return whether the last write of the checkpoint is so long ago."""
        if time.monotonic() - self.saved_at < seconds:
            return False
        # The ranks' random states are their own: within an epoch one file cannot hold them.
        return distributed.world_size() == 1 or not self.position

    def save(self) -> None:
        """Check that all is finite, then write the checkpoint if there is to be one."""
        self._check_finite()
        self.saved_at = time.monotonic()
        if self.path is None or distributed.rank() > 0:
            return
        state = {name: getattr(self, name) for name in checkpoints.KEPT} | {
            "seconds": self.saved_at - self.started,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "buffers": [buffer.detach() for buffer in self.buffers],
            "optimizer": self.optimizer.state_dict()["state"],
            "random_state": _random_state() if self.position else None,
        }
        checkpoints.write(self.path, state)

    def _load(self, path: Path, seed: int | None) -> None:
        state = checkpoints.read(path)
        if seed is not None and self.seed != state["seed"]:
            raise ValueError(f"seed must be {state['seed']} to go on from {path}, got {seed}")
        for name in ("parameters", "buffers"):
            checkpoints.check_fits(path, name, state[name], getattr(self, name))
        checkpoints.check_about(path, state["about"], self.about)
        _copy_into(self.kept(), [*state["parameters"], *state["buffers"]])
        settings = self.optimizer.state_dict()
        self.optimizer.load_state_dict(settings | {"state": state["optimizer"]})
        self.started -= state["seconds"]
        device = self.parameters[0].device
        for name in checkpoints.KEPT:
            setattr(self, name, state[name])
        self.totals = {name: total.to(device) for name, total in self.totals.items()}
        self.random_state = state["random_state"]

    def _check_finite(self) -> None:
        epoch = self.num_epochs if self.position else max(self.num_epochs - 1, 0)
        if self.position:
            _finite("loss", self.totals["loss"].item(), epoch)
        # A step on a finite loss may have had a gradient that was not.
        for parameter in self.parameters:
            bad = parameter[~parameter.isfinite()]
            if len(bad):
                _finite("parameters", bad[0].item(), epoch)


def _finite(name: str, value: float, epoch: int) -> float:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name} must stay finite, got {value} in epoch {epoch}: "
            "try a smaller learning_rate, or clip the gradient"
        )
    return value


def _follow_first(tensors: list[Tensor]) -> None:
    """Copy the first process's tensors into those of all."""
    if distributed.world_size() > 1:
        _copy_into(tensors, [distributed.from_first(tensor) for tensor in tensors])


def _copy_into(targets: list[Tensor], sources: list[Tensor]) -> None:
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


def _random_state() -> list[Tensor]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])
