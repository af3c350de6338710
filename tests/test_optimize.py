"""The gradient loop. Run as a script, this file trains slowly and waits to be killed."""

import math
import pickle
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from pplvae.optimize import (
    Batch,
    Batches,
    History,
    checkpoints,
    constant,
    cosine,
    cyclical,
    from_loader,
    minibatches,
    minimize,
    one_batch,
    warmup,
)
from pplvae.optimize.logs import Epoch
from pplvae.randomness import generator

STEPS_AN_EPOCH, NUM_EPOCHS = 4, 6


class Study:
    """A small noisy regression that uses all the loop offers."""

    def __init__(self) -> None:
        draws = generator(1)
        self.x = torch.randn(26, 3, generator=draws, dtype=torch.float64)
        self.y = self.x @ torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64) + 0.5
        self.w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        self.b = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self.calls, self.fail_at, self.pause = 0, -1, 0.0

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(self.pause)
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        noisy = x + 0.1 * torch.randn(x.shape, dtype=x.dtype)
        error = noisy @ self.w + self.b - y
        return error.square().mean(), {"bias": error.mean()}

    def validate(self) -> Tensor:
        noisy = self.x + 0.1 * torch.randn(self.x.shape, dtype=self.x.dtype)
        return (noisy @ self.w + self.b - self.y).square().mean()

    def train(self, **options: Any) -> History:
        settings: dict[str, Any] = {
            "num_epochs": NUM_EPOCHS,
            "learning_rate": 0.1,
            "schedule": cosine,
            "clip_norm": 3.0,
            "validate": self.validate,
            "seed": 0,
            "checkpoint_seconds": 0.0,
            "progress": False,
        }
        batches = minibatches(self.x, self.y, batch_size=8)
        return minimize(self.loss, [self.w, self.b], batches, **settings | options)

    def weights(self) -> list[float]:
        return [*self.w.tolist(), self.b.item()]


def parameter(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def scripted(values: Iterable[float]) -> Callable[[], Tensor]:
    """Return a validation loss that says these values, one an epoch."""
    numbers = iter(values)
    return lambda: torch.tensor(next(numbers))


def run(
    loss: Callable[..., Tensor], parameters: Iterable[Tensor], *args: Any, **kw: Any
) -> History:
    return minimize(loss, parameters, *args, progress=False, **{"seed": 0} | kw)


# --- descent ---------------------------------------------------------------------------------


def test_reaches_the_minimum_of_a_quadratic() -> None:
    w, target = parameter(0.0, 0.0, 0.0), torch.tensor([1.0, -2.0, 3.0])
    curvature = torch.tensor([1.0, 10.0, 100.0])
    history = run(
        lambda: (curvature * (w - target).square()).sum(), [w], num_epochs=1000,
        learning_rate=0.1, schedule=cosine,
    )  # fmt: skip
    torch.testing.assert_close(w.detach(), target, rtol=0.0, atol=1e-6)
    assert history.losses[-1] < 1e-9 < 1.0 < history.losses[0]


def adam_written_out(
    gradient: Callable[[Tensor], Tensor], w: Tensor, rates: list[float], clip_norm: float
) -> Tensor:
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, rate in enumerate(rates, start=1):
        g = gradient(w)
        g = g * min(1.0, clip_norm / (g.norm().item() + 1e-6))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return w


def test_agrees_with_adam_written_out() -> None:
    w, b, target = parameter(0.0, 0.0), parameter(1.0), torch.tensor([1.0, -4.0, 2.0])
    run(
        lambda: (torch.cat([w, b]) - target).pow(4).sum(), [w, b], num_epochs=20,
        learning_rate=0.3, schedule=lambda t: 1 - t, clip_norm=5.0,
    )  # fmt: skip
    expected = adam_written_out(
        lambda w: 4 * (w - target) ** 3, torch.tensor([0.0, 0.0, 1.0]),
        rates=[0.3 * (1 - epoch / 20) for epoch in range(20)], clip_norm=5.0,
    )  # fmt: skip
    torch.testing.assert_close(torch.cat([w, b]).detach(), expected, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize(("clip_norm", "expected"), [(2.0, 2.0), (100.0, 10.0), (None, 10.0)])
def test_clips_the_norm_of_the_whole_gradient(clip_norm: float | None, expected: float) -> None:
    w, b, norms = parameter(0.0, 0.0), parameter(0.0), []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for p in optimizer.param_groups[0]["params"]]
        norms.append(torch.cat(gradients).norm().item())

    handle = register_optimizer_step_pre_hook(note)
    run(lambda: 6 * w[0] + 0 * w[1] + 8 * b[0], [w, b], num_epochs=3, clip_norm=clip_norm)
    handle.remove()
    assert norms == pytest.approx([expected] * 3, rel=1e-6)


def test_the_schedule_scales_the_step() -> None:
    w, seen = parameter(0.0), []

    def schedule(progress: float) -> float:
        seen.append(progress)
        return 0.5

    run(lambda: w.sum(), [w], num_epochs=4, learning_rate=0.1, schedule=schedule)
    assert seen == [0.0, 0.25, 0.5, 0.75]
    # Under a gradient that does not change Adam moves by the step size each time.
    assert w.item() == pytest.approx(-4 * 0.05, rel=1e-6)


def test_cosine_falls_from_one_to_zero_and_constant_stays() -> None:
    times = torch.linspace(0, 1, 9).tolist()
    assert [cosine(t) for t in times] == pytest.approx(
        [math.cos(math.pi * t / 2) ** 2 for t in times]
    )
    assert {constant(t) for t in times} == {1.0}


def rates_of(batches: Batches, num_epochs: int) -> tuple[list[float], list[float]]:
    """Return the step sizes that Adam saw, and what was said before each step."""
    w, rates, said = parameter(0.0), [], list[float]()

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(note)
    run(lambda *rows: w.sum(), [w], batches, num_epochs=num_epochs, learning_rate=0.5,
        schedule=lambda t: 1 + t**2, before_step=said.append)  # fmt: skip
    handle.remove()
    return rates, said


def test_each_step_is_scaled_by_the_schedule_at_its_own_progress() -> None:
    rates, said = rates_of(minibatches(torch.arange(7), batch_size=3), num_epochs=2)
    assert said == pytest.approx([(epoch + step / 3) / 2 for epoch in (0, 1) for step in range(3)])
    assert rates == pytest.approx([0.5 * (1 + t**2) for t in said])


def test_progress_goes_by_epochs_where_their_steps_are_not_known() -> None:
    rates, said = rates_of(lambda generator: iter([()] * 3), num_epochs=2)
    assert said == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    assert rates == [0.5] * 3 + [0.625] * 3


def test_progress_stays_below_one_where_a_loader_says_too_little() -> None:
    class Longer(list[Any]):
        def __len__(self) -> int:
            return 1

    _, said = rates_of(from_loader(Longer([torch.zeros(2)] * 3)), num_epochs=1)
    assert said == [0.0, 1.0, 1.0]


def test_warmup_rises_evenly_then_stays() -> None:
    times = [0.0, 0.05, 0.1, 0.2, 0.4, 1.0]
    assert [warmup(0.2)(t) for t in times] == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.0, 1.0])
    assert [warmup(1.0)(t) for t in times] == pytest.approx(times)


def test_cyclical_rises_in_the_first_share_of_each_cycle() -> None:
    # Two cycles of length ½ that rise over a quarter of the run each.
    times = [0.0, 0.125, 0.25, 0.375, 0.4999, 0.5, 0.625, 0.75, 0.875, 1.0]
    expected = [0.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    assert [cyclical(2)(t) for t in times] == pytest.approx(expected)
    # Four that rise over all of a quarter.
    assert [cyclical(4, rise=1.0)(t) for t in (0.3, 0.6, 0.95, 1.0)] == pytest.approx(
        [0.2, 0.4, 0.8, 1.0]
    )


def test_refuses_impossible_schedules() -> None:
    for rise in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"^rise must be in \[1e-09, 1.0\], got"):
            warmup(rise)
    with pytest.raises(ValueError, match=r"^num_cycles must be at least 1, got 0$"):
        cyclical(0)


def test_touches_nothing_but_its_parameters() -> None:
    w, other, frozen = parameter(1.0), parameter(2.0), torch.tensor([3.0])
    run(lambda: (w * other * frozen).sum(), [w, frozen], num_epochs=3)
    assert other.grad is None
    assert (other.item(), frozen.item()) == (2.0, 3.0)
    assert w.item() < 1.0


def test_leaves_alone_what_the_loss_does_not_meet() -> None:
    w, unused = parameter(1.0), parameter(2.0)
    run(lambda: w.square().sum(), [w, unused], num_epochs=3, clip_norm=1.0)
    assert unused.item() == 2.0


def test_trains_a_leaf_that_is_a_view_with_gaps() -> None:
    """torch's fused Adam writes between the entries of such a leaf."""
    whole = torch.zeros(3, 4)
    w = whole[:, ::2].requires_grad_()
    run(lambda: (w - 1).square().sum(), [w], num_epochs=300, learning_rate=0.1, schedule=cosine)
    expected = torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(3, 4)
    torch.testing.assert_close(whole, expected, rtol=0.0, atol=1e-5)


def test_trains_single_and_double_precision_side_by_side() -> None:
    w, v = parameter(0.0), torch.zeros(1, dtype=torch.float32, requires_grad=True)
    run(lambda: (w - 1).square().sum() + (v - 2).square().sum(), [w, v], num_epochs=300,
        learning_rate=0.1, schedule=cosine)  # fmt: skip
    assert (w.item(), v.item()) == pytest.approx((1.0, 2.0), abs=1e-4)
    assert v.dtype == torch.float32


# --- batches ---------------------------------------------------------------------------------


def test_deals_every_row_once_an_epoch_in_a_new_order() -> None:
    x = torch.arange(10)
    deal = minibatches(x, x**2, batch_size=4)
    epochs = [list(deal(generator(seed))) for seed in (0, 1, 0)]
    for batches in epochs:
        assert [len(rows) for rows, _ in batches] == [4, 4, 2]
        assert all(squares.equal(rows**2) for rows, squares in batches)
        assert torch.cat([rows for rows, _ in batches]).sort().values.equal(x)
    first, second, again = [torch.cat([rows for rows, _ in batches]) for batches in epochs]
    assert first.equal(again)
    assert not first.equal(second)


def test_a_batch_size_beyond_the_data_gives_one_batch() -> None:
    ((rows,),) = minibatches(torch.arange(3), batch_size=10)(generator(0))
    assert rows.sort().values.tolist() == [0, 1, 2]


def test_an_epoch_is_one_step_where_the_loss_holds_the_data() -> None:
    w = parameter(0.0)
    assert list(one_batch(generator(0))) == [()]
    assert run(lambda: w.sum(), [w], num_epochs=7).num_steps == 7


def test_the_loss_of_an_epoch_is_the_mean_over_rows_not_batches() -> None:
    w, x = parameter(0.0), torch.rand(5)
    history = run(
        lambda rows: rows.mean() + w.sum(), [w], minibatches(x, batch_size=3), num_epochs=4,
        schedule=lambda t: 0.0,
    )  # fmt: skip
    assert history.losses == pytest.approx([x.mean().item()] * 4)
    assert history.num_steps == 8


@pytest.mark.parametrize("dtype", ["uint8", "<f8", ">f8", ">i4"])
def test_rows_of_a_file_are_dealt_as_those_in_memory(tmp_path: Path, dtype: str) -> None:
    x = torch.arange(60).reshape(10, 3, 2)
    np.save(tmp_path / "x.npy", x.numpy().astype(dtype))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    from_file = minibatches(stored, batch_size=4)(generator(5))
    for (rows,), (expected,) in zip(
        from_file, minibatches(x, batch_size=4)(generator(5)), strict=True
    ):
        assert isinstance(rows, Tensor)
        assert rows.equal(expected.to(rows.dtype))


def test_says_how_many_batches_there_are() -> None:
    for num_rows in (1, 7, 8, 9):
        deal = minibatches(torch.arange(num_rows), batch_size=4)
        assert len(deal) == len(list(deal(generator(0))))


def test_deals_the_first_of_what_a_loader_gives() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    labels = torch.zeros(3)
    for batch in (x, x.numpy(), [x], (x, labels), [x.numpy(), labels]):
        deal = from_loader([batch, batch])
        assert len(deal) == 2
        for (points,) in deal(generator(0)):
            assert isinstance(points, Tensor)
            assert points.equal(x)


@pytest.mark.parametrize(
    "once", [iter([torch.zeros(2)]), (torch.zeros(2) for _ in range(3)), 3, Dataset()]
)
def test_refuses_what_cannot_be_walked_again_and_again(once: Any) -> None:
    rule = "^loader must give its batches each time it is walked, as a DataLoader does, got "
    with pytest.raises(ValueError, match=rule + type(once).__name__):
        from_loader(once)


@pytest.mark.parametrize("batch", [{"x": torch.zeros(2)}, "text", 1.5, ["text"], []])
def test_refuses_a_loader_of_other_things(batch: Any) -> None:
    with pytest.raises(ValueError, match=r"^loader must give tensors or arrays, got "):
        list(from_loader([batch])(generator(0)))


class Jittered(Dataset[Tensor]):
    """Points that are moved anew each time, by torch's, NumPy's and Python's generators."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> Tensor:
        draws = torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002
        return torch.tensor([row, *draws])


def test_asks_a_loader_for_nothing_before_it_is_walked() -> None:
    """Torch's loaders draw from the global generator when a walk begins."""
    before = torch.get_rng_state()
    from_loader(DataLoader(Jittered(), shuffle=True))
    assert torch.get_rng_state().equal(before)


def walked(loader: DataLoader[Tensor], seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.cat([batch for (batch,) in from_loader(loader)(generator(seed))])


@pytest.mark.parametrize("own", [None, 7])
def test_an_epoch_of_a_loader_depends_on_its_generator_alone(own: int | None) -> None:
    generator_ = None if own is None else torch.Generator().manual_seed(own)
    loader = DataLoader(Jittered(), batch_size=4, shuffle=True, generator=generator_)
    first, other, again = (walked(loader, seed) for seed in (0, 1, 0))
    assert first.equal(again)
    assert not first[:, 0].equal(other[:, 0])
    assert not any(draws in other[:, 1:] for draws in first[:, 1:].flatten())


def test_a_sampler_that_goes_by_epochs_is_told_of_each() -> None:
    sampler = DistributedSampler(Jittered(), num_replicas=1, rank=0)
    loader = DataLoader(Jittered(), batch_size=4, sampler=sampler)
    first, other, again = (walked(loader, seed)[:, 0] for seed in (0, 1, 0))
    assert first.equal(again)
    assert not first.equal(other)


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(torch.arange(6.0))


def test_a_loader_need_not_know_its_length() -> None:
    w, x = parameter(0.0), DataLoader(Endless(), batch_size=4)
    assert run(lambda rows: w.sum(), [w], from_loader(x), num_epochs=3).num_steps == 6


# --- what else is watched --------------------------------------------------------------------


def test_what_else_a_loss_says_is_kept_as_its_mean_over_rows() -> None:
    w, x = parameter(0.0), torch.rand(5)
    history = run(
        lambda rows: (w.sum(), {"mean": rows.mean(), "largest": rows.max(), "loss": rows[0]}),
        [w], minibatches(x, batch_size=5), num_epochs=2, learning_rate=0.1,
    )  # fmt: skip
    expected = {"mean": [x.mean().item()] * 2, "largest": [x.max().item()] * 2}
    assert history.monitored == {name: pytest.approx(v) for name, v in expected.items()}
    assert history.losses == pytest.approx([0.0, -0.1])
    uneven = run(lambda rows: (w.sum(), {"mean": rows.mean()}), [w],
                 minibatches(x, batch_size=3), num_epochs=1)  # fmt: skip
    assert uneven.monitored["mean"] == pytest.approx([x.mean().item()])


def test_callbacks_hear_of_each_epoch() -> None:
    w, x, heard = parameter(0.0), torch.rand(5), list[Epoch]()
    history = run(
        lambda rows: (w.sum(), {"mean": rows.mean()}), [w], minibatches(x, batch_size=3),
        num_epochs=3, learning_rate=0.1, schedule=lambda t: 1 - t,
        validate=scripted([2.0, 1.0, 3.0]), callbacks=[heard.append, heard.append],
    )  # fmt: skip
    assert heard[::2] == heard[1::2]
    epochs = heard[::2]
    assert [epoch.number for epoch in epochs] == [0, 1, 2]
    assert {epoch.num_epochs for epoch in epochs} == {3}
    assert [epoch.loss for epoch in epochs] == history.losses
    assert [epoch.validation for epoch in epochs] == history.validation
    assert [epoch.best for epoch in epochs] == [True, True, False]
    assert [epoch.num_steps for epoch in epochs] == [2, 4, 6]
    assert [epoch.monitored["mean"] for epoch in epochs] == history.monitored["mean"]
    # The last step of epoch e is the second of two, taken at t = (e + ½) / 3.
    rates = [0.1 * (1 - (e + 0.5) / 3) for e in range(3)]
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(rates)
    assert 0 <= epochs[0].seconds <= epochs[1].seconds <= epochs[2].seconds <= history.seconds


def test_without_validation_the_last_epoch_is_the_one_to_keep() -> None:
    w, heard = parameter(0.0), list[Epoch]()
    run(lambda: w.sum(), [w], num_epochs=3, callbacks=[heard.append])
    assert [(epoch.best, epoch.validation) for epoch in heard] == [(True, None)] * 3


@pytest.mark.parametrize(("answer", "num_epochs"), [(True, 2), (1, 6), ("yes", 6), (None, 6)])
def test_a_callback_that_returns_true_ends_the_run(answer: Any, num_epochs: int) -> None:
    heard = []

    def asks(epoch: Epoch) -> object:
        return answer if epoch.number == 1 else None

    history = Study().train(callbacks=[asks, heard.append])
    assert len(heard) == len(history.losses) == num_epochs
    assert history.stopped_early == (num_epochs < NUM_EPOCHS)


def test_a_run_that_a_callback_ended_stays_ended(tmp_path: Path) -> None:
    study, heard = Study(), []
    path = tmp_path / "run"
    first = study.train(callbacks=[lambda epoch: epoch.number == 1], checkpoint=path)
    assert study.train(callbacks=[heard.append], checkpoint=path) == first
    assert not heard


@pytest.mark.parametrize("fail_at", range(4, 9))
def test_over_a_resume_callbacks_hear_of_each_epoch_once(fail_at: int, tmp_path: Path) -> None:
    def told(epoch: Epoch) -> tuple[Any, ...]:
        return (*epoch.numbers().items(),)[:-1]  # all but the time

    study, whole, parts = Study(), [], []
    study.train(callbacks=[lambda epoch: whole.append(told(epoch))])
    study = Study()
    study.fail_at = fail_at
    options = {
        "callbacks": [lambda epoch: parts.append(told(epoch))],
        "checkpoint": tmp_path / "r",
    }
    with pytest.raises(KeyboardInterrupt):
        study.train(**options)
    study.fail_at = -1
    study.train(**options)
    assert parts == whole


def test_what_a_callback_raises_comes_through_and_the_best_weights_come_back(
    tmp_path: Path, uninterrupted: tuple[History, list[float]]
) -> None:
    study, seen = Study(), []

    def fails(epoch: Epoch) -> None:
        seen.append(study.weights())
        if epoch.number == 2:
            raise RuntimeError("the disk is full")

    values = [2.0, 1.0, 3.0]
    with pytest.raises(RuntimeError, match="the disk is full"):
        study.train(callbacks=[fails], validate=scripted(values))
    assert study.weights() == seen[1] != seen[2]
    # The steps before it are not lost.
    study = Study()
    with pytest.raises(RuntimeError, match="the disk is full"):
        study.train(callbacks=[fails], checkpoint=tmp_path / "run")
    before, heard = study.calls, list[Epoch]()
    history = study.train(checkpoint=tmp_path / "run", callbacks=[heard.append])
    assert (history, study.weights()) == uninterrupted
    assert (before, study.calls) == (3 * STEPS_AN_EPOCH, NUM_EPOCHS * STEPS_AN_EPOCH)
    # Though no step was left of it, epoch 2 says what its last one was.
    assert heard[0].learning_rate == pytest.approx(0.1 * cosine((2 + 3 / 4) / NUM_EPOCHS))


# --- validation ------------------------------------------------------------------------------


def test_stops_early_and_restores_the_best_weights() -> None:
    w, seen, script = parameter(0.0), [], scripted([3.0, 2.0, 1.0, 2.0, 1.5, 1.0, 0.0])

    def validate() -> Tensor:
        seen.append(w.item())
        return script()

    history = run(lambda: w.sum(), [w], num_epochs=100, validate=validate, patience=3)
    assert history.validation == [3.0, 2.0, 1.0, 2.0, 1.5, 1.0]
    assert (history.best_epoch, history.stopped_early) == (2, True)
    assert w.item() == seen[2] != seen[-1]


def test_restores_the_best_weights_also_without_patience() -> None:
    w, seen, script = parameter(0.0), [], scripted([2.0, 1.0, 3.0])

    def validate() -> Tensor:
        seen.append(w.item())
        return script()

    history = run(lambda: w.sum(), [w], num_epochs=3, validate=validate)
    assert (history.best_epoch, history.stopped_early) == (1, False)
    assert w.item() == seen[1]


def test_keeps_the_last_weights_without_validation() -> None:
    w = parameter(0.0)
    history = run(lambda: -w.sum(), [w], num_epochs=3, learning_rate=0.1)
    assert (history.best_epoch, history.validation) == (2, [])
    assert w.item() == pytest.approx(0.3)


def test_validates_on_the_same_noise_each_epoch_and_without_gradients() -> None:
    w, draws = parameter(0.0), []

    def validate() -> Tensor:
        assert not torch.is_grad_enabled()
        draws.append(torch.rand(()).item())
        return w.sum()

    run(lambda: w.sum() + torch.rand(()), [w], num_epochs=3, validate=validate)
    assert len(draws) == 3
    assert len(set(draws)) == 1


# --- randomness ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run() -> None:
    one, two, other = Study(), Study(), Study()
    history = one.train()
    assert (two.train(), two.weights()) == (history, one.weights())
    assert other.train(seed=1) != history
    assert other.weights() != one.weights()


def test_noise_is_new_each_epoch_and_unlike_the_order() -> None:
    w, draws = parameter(0.0), []

    def batches(generator: torch.Generator) -> Iterable[Batch]:
        draws.append(torch.rand((), generator=generator).item())
        return one_batch(generator)

    def loss() -> Tensor:
        draws.append(torch.rand(()).item())
        return w.sum()

    run(loss, [w], batches, num_epochs=5)
    assert len(set(draws)) == 10


@pytest.mark.parametrize("fail_at", [-1, 5])
def test_leaves_the_global_generators_as_they_were(fail_at: int) -> None:
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    study = Study()
    study.fail_at = fail_at
    try:
        study.train()
    except KeyboardInterrupt:
        assert fail_at >= 0
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    assert before[0].equal(after[0])
    assert before[1:] == after[1:]


# --- resuming --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[History, list[float]]:
    study = Study()
    return study.train(), study.weights()


@pytest.mark.parametrize("fail_at", [0, 1, 5, 11, 12, STEPS_AN_EPOCH * NUM_EPOCHS - 1])
def test_an_interrupted_run_resumes_to_the_same_bits(
    fail_at: int, tmp_path: Path, uninterrupted: tuple[History, list[float]]
) -> None:
    study = Study()
    study.fail_at = fail_at
    with pytest.raises(KeyboardInterrupt):
        study.train(checkpoint=tmp_path / "run")
    study.fail_at = -1
    resumed = study.train(checkpoint=tmp_path / "run")
    assert (resumed, study.weights()) == uninterrupted
    # Each step leaves a checkpoint here, so none is taken twice.
    assert study.calls == STEPS_AN_EPOCH * NUM_EPOCHS


def test_a_run_interrupted_before_its_first_epoch_is_saved_starts_over(
    tmp_path: Path, uninterrupted: tuple[History, list[float]]
) -> None:
    study = Study()
    study.fail_at = 7
    with pytest.raises(KeyboardInterrupt):
        study.train(checkpoint=tmp_path / "run", checkpoint_seconds=60.0)
    study.fail_at = -1
    assert (study.train(checkpoint=tmp_path / "run"), study.weights()) == uninterrupted


def test_a_run_resumes_to_the_same_early_stop(tmp_path: Path) -> None:
    def train(checkpoint: Path | None, fail_at: int, values: list[float]) -> tuple[History, float]:
        w, validate = study.w, scripted(values)

        def loss() -> Tensor:
            study.calls += 1
            if study.calls == fail_at:
                raise KeyboardInterrupt
            return (w - 1).square().sum()

        history = run(loss, [w], num_epochs=9, validate=validate, patience=3,
                      checkpoint=checkpoint, checkpoint_seconds=0)  # fmt: skip
        return history, w.sum().item()

    values = [3.0, 1.0, 2.0, 2.0, 2.0]
    study = Study()
    expected = train(None, -1, values)
    study = Study()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", 4, values)
    assert train(tmp_path / "run", -1, values[3:]) == expected
    assert expected[0].stopped_early
    assert expected[0].best_epoch == 1


def test_a_killed_process_resumes_to_the_same_bits(
    tmp_path: Path, uninterrupted: tuple[History, list[float]]
) -> None:
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, __file__, str(path)]) as process:
        deadline = time.monotonic() + 60
        while not path.exists() or len(torch.load(path, weights_only=True)["losses"]) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    study = Study()
    assert (study.train(checkpoint=path), study.weights()) == uninterrupted
    assert 0 < study.calls <= STEPS_AN_EPOCH * (NUM_EPOCHS - 2)


def test_a_loader_that_draws_from_all_generators_resumes_to_the_same_bits(
    tmp_path: Path,
) -> None:
    def train(fail_at: int, own: bool, **options: Any) -> tuple[History, float]:
        w, calls = parameter(0.0), []

        def loss(rows: Tensor) -> Tensor:
            calls.append(None)
            if len(calls) == fail_at:
                raise KeyboardInterrupt
            return (w - rows.prod(dim=1) * torch.rand(())).square().mean()

        loader = DataLoader(
            Jittered(), batch_size=4, shuffle=True, generator=torch.Generator() if own else None
        )
        history = run(loss, [w], from_loader(loader), num_epochs=4, **options)
        return history, w.item()

    for own in (False, True):
        whole = train(-1, own)
        for fail_at in (2, 5, 8):
            options = {"checkpoint": tmp_path / f"{own}{fail_at}", "checkpoint_seconds": 0}
            with pytest.raises(KeyboardInterrupt):
                train(fail_at, own, **options)
            assert train(-1, own, **options) == whole


def test_a_write_that_fails_leaves_the_checkpoint_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: tuple[History, list[float]]
) -> None:
    path, writes, save = tmp_path / "run", [], torch.save

    def full(state: object, file: Path) -> None:
        writes.append(path.read_bytes() if path.exists() else b"")
        save(state, file)
        if len(writes) == 10:
            file.write_bytes(file.read_bytes()[:100])
            raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        Study().train(checkpoint=path)
    monkeypatch.undo()
    assert path.read_bytes() == writes[-1]
    assert list(tmp_path.iterdir()) == [path]
    study = Study()
    assert (study.train(checkpoint=path), study.weights()) == uninterrupted


def test_a_run_that_goes_on_without_validation_keeps_the_last_weights(tmp_path: Path) -> None:
    study, path = Study(), tmp_path / "run"
    study.train(checkpoint=path, num_epochs=2)
    history = study.train(checkpoint=path, num_epochs=4, validate=None)
    last = torch.load(path, weights_only=True)
    assert study.w.equal(last["parameters"][0])
    assert (history.best_epoch, last["best"]) == (3, None)


def test_a_finished_run_is_only_read_again(
    tmp_path: Path, uninterrupted: tuple[History, list[float]]
) -> None:
    Study().train(checkpoint=tmp_path / "run", checkpoint_seconds=60.0)
    study = Study()
    again = study.train(checkpoint=tmp_path / "run", seed=None)
    assert (again, study.weights(), study.calls) == (*uninterrupted, 0)


def test_time_counts_over_all_runs(tmp_path: Path) -> None:
    study = Study()
    study.fail_at, study.pause = 22, 0.01
    with pytest.raises(KeyboardInterrupt):
        study.train(checkpoint=tmp_path / "run")
    study.fail_at, study.pause = -1, 0.0
    assert study.train(checkpoint=tmp_path / "run").seconds > 20 * 0.01


def test_a_checkpoint_is_plain_data_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "run"
    Study().train(
        checkpoint=path, learning_rate=np.float64(0.1), schedule=lambda t: np.float64(1 - t)
    )
    assert len(torch.load(path, weights_only=True)["losses"]) == NUM_EPOCHS
    assert list(path.parent.iterdir()) == [path]
    Study().train(checkpoint=path)


def saved(path: Path) -> bytes:
    Study().train(checkpoint=path, num_epochs=1)
    return path.read_bytes()


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def test_refuses_a_foreign_or_damaged_checkpoint_and_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "run"
    whole = saved(path)
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    for content in (b"", b"a text", whole[: len(whole) // 2], whole[:-10], trap):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^checkpoint {path} must be a checkpoint of this"):
            Study().train(checkpoint=path)
        assert path.read_bytes() == content
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "state",
    [
        {"epoch": 3}, [1.0], {"format": "pplvae checkpoint 0"}, {"format": checkpoints.FORMAT},
        {"format": checkpoints.FORMAT, "seed": 0},
    ],
)  # fmt: skip
def test_refuses_what_other_programs_saved(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "run")
    with pytest.raises(ValueError, match=f"^checkpoint {tmp_path / 'run'} must be a checkpoint"):
        Study().train(checkpoint=tmp_path / "run")


@pytest.mark.parametrize(
    ("layout", "described"),
    [
        ([((4,), "float64")], r"\[4\] float64"),
        ([((3,), "float64")], r"\[3\] float64"),
        ([((3,), "float32"), ((), "float64")], r"\[3\] float32, \[\] float64"),
        ([((), "float64"), ((3,), "float64")], r"\[\] float64, \[3\] float64"),
    ],
)
def test_refuses_the_checkpoint_of_another_model(
    tmp_path: Path, layout: list[tuple[tuple[int, ...], str]], described: str
) -> None:
    saved(tmp_path / "run")
    leaves = [
        torch.zeros(shape, dtype=getattr(torch, dtype), requires_grad=True)
        for shape, dtype in layout
    ]
    message = (
        rf"^checkpoint {tmp_path / 'run'} must hold parameters {described}, "
        r"got \[3\] float64, \[\] float64: it belongs to another model"
    )
    with pytest.raises(ValueError, match=message):
        run(lambda: leaves[0].sum(), leaves, num_epochs=1, checkpoint=tmp_path / "run")
    assert all((leaf == 0).all() for leaf in leaves)


def test_refuses_the_checkpoint_of_another_seed(tmp_path: Path) -> None:
    saved(tmp_path / "run")
    with pytest.raises(
        ValueError, match=f"^seed must be 0 to go on from {tmp_path / 'run'}, got 1"
    ):
        Study().train(checkpoint=tmp_path / "run", seed=1)


def goes_on(path: Path, x: Tensor, *, size: int = 5, about: dict[str, Any]) -> None:
    w = parameter(0.0)
    run(
        lambda x: (x - w).square().mean(), [w], minibatches(x, batch_size=size), num_epochs=2,
        checkpoint=path, about=about,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"x": torch.arange(20.0).flip(0)}, "data"),
        ({"x": torch.arange(20.0) * 1.01}, "data"),
        ({"x": torch.arange(40.0)[::2]}, "data"),
        ({"x": torch.arange(21.0)}, "data"),
        ({"size": 4}, "batch_size"),
        ({"about": {"network": nn.Tanh(), "noise": torch.sin}}, "network"),
        ({"about": {"network": nn.ELU(), "noise": torch.cos}}, "noise"),
        ({"about": {"network": torch.ones(3), "noise": None}}, "network, noise"),
        ({"about": {}}, "network, noise"),
    ],
)  # fmt: skip
def test_refuses_a_checkpoint_of_other_data_or_of_another_thing(
    tmp_path: Path, change: dict[str, Any], other: str
) -> None:
    path = tmp_path / "run"
    own: dict[str, Any] = {
        "x": torch.arange(20.0),
        "about": {"network": nn.ELU(), "noise": torch.sin},
    }
    goes_on(path, **own)
    with pytest.raises(
        ValueError, match=f"^checkpoint {path} must be of the run .* other {other}:"
    ):
        goes_on(path, **own | change)
    # Codes of a layer before are rounded otherwise by another number of threads.
    goes_on(path, x=own["x"] * (1 + 1e-6), about={"network": nn.ELU(), "noise": torch.sin})


def test_a_large_column_does_not_hide_the_others(tmp_path: Path) -> None:
    def table(seed: int, rounding: float = 0.0) -> Tensor:
        year = torch.arange(1990.0, 2020.0).reshape(-1, 1)
        small = 0.1 * torch.randn(30, 5, generator=generator(seed))
        dead = torch.full((30, 1), 0.3)
        return (torch.cat([year, small, dead], dim=1) * (1 + rounding)).float()

    goes_on(tmp_path / "run", table(0), about={})
    with pytest.raises(ValueError, match=r"^checkpoint .* got one with other data:"):
        goes_on(tmp_path / "run", table(1), about={})
    # A column that is constant but for rounding is known again by its numbers.
    goes_on(tmp_path / "run", table(0, rounding=1e-6), about={})


def test_a_run_that_is_over_says_so_where_another_learning_rate_is_asked_for(
    tmp_path: Path,
) -> None:
    Study().train(checkpoint=tmp_path / "run", num_epochs=2, learning_rate=0.07)
    study = Study()
    with warnings.catch_warnings():  # one that is not over goes on with it
        warnings.simplefilter("error")
        study.train(checkpoint=tmp_path / "run")
        study.train(checkpoint=tmp_path / "run")
    weights, calls = study.weights(), study.calls
    with pytest.warns(UserWarning, match=r"run holds a run that is over, with learning_rate 0.1:"):
        study.train(checkpoint=tmp_path / "run", learning_rate=0.03)
    assert (study.weights(), study.calls) == (weights, calls)


def test_a_start_removes_what_a_killed_write_of_its_own_left(tmp_path: Path) -> None:
    for name in (".0123abcd.run", ".0123abcd.other"):
        (tmp_path / name).write_bytes(b"half a check")
    Study().train(checkpoint=tmp_path / "run", num_epochs=1)
    assert {file.name for file in tmp_path.iterdir()} == {"run", ".0123abcd.other"}


# --- what goes wrong -------------------------------------------------------------------------


def test_a_nan_loss_is_an_error_and_the_best_weights_come_back(tmp_path: Path) -> None:
    w, seen, bad = parameter(1.0), [], torch.tensor(1.0)

    def validate() -> Tensor:
        seen.append(w.item())
        bad.fill_(torch.nan if len(seen) == 3 else 1.0)
        return w.square().sum()

    with pytest.raises(
        FloatingPointError, match=r"^loss must stay finite, got nan in epoch 3: try"
    ):
        run(lambda: bad * w.square().sum(), [w], num_epochs=9, validate=validate,
            checkpoint=tmp_path / "run", checkpoint_seconds=0)  # fmt: skip
    assert w.item() == seen[2] == torch.load(tmp_path / "run")["parameters"][0].item()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_an_error(value: float) -> None:
    w, seen, script = parameter(0.0), [], scripted([1.0, 2.0, value])

    def validate() -> Tensor:
        seen.append(w.item())
        return script()

    message = f"^validation loss must stay finite, got {value} in epoch 2"
    with pytest.raises(FloatingPointError, match=message):
        run(lambda: w.sum(), [w], num_epochs=9, validate=validate)
    assert w.item() == seen[0]


def test_a_nan_gradient_of_a_finite_loss_is_an_error_and_is_not_saved(tmp_path: Path) -> None:
    w, calls = parameter(1.0), []

    def loss() -> Tensor:
        calls.append(None)
        return w.sum() + (0 * w if len(calls) == 3 else w + 9).sqrt().sum()  # d/dw = 0 · inf

    with pytest.raises(
        FloatingPointError, match=r"^parameters must stay finite, got nan in epoch 2"
    ):
        run(loss, [w], num_epochs=3, checkpoint=tmp_path / "run", checkpoint_seconds=0)
    state = torch.load(tmp_path / "run")
    assert len(state["losses"]) == 2
    assert state["parameters"][0].isfinite().all()


def test_an_interruption_puts_the_best_weights_back() -> None:
    w, seen = parameter(1.0), []

    def validate() -> Tensor:
        seen.append(w.item())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return w.square().sum()

    with pytest.raises(KeyboardInterrupt):
        run(lambda: w.square().sum(), [w], num_epochs=9, validate=validate)
    assert w.item() == seen[1] != seen[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"clip_norm": -1.0}, "clip_norm must be positive, got -1.0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"patience": 2, "validate": None}, "patience needs a validation loss, got 2 without one"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds must be at least 0, got -1"),
        ({"seed": -1}, r"seed must be in \[0, 4294967295\], got -1"),
        ({"learning_rate": "a"}, "learning_rate must be a number, got 'a'"),
        ({"clip_norm": [1.0]}, r"clip_norm must be a number, got \[1.0\]"),
        ({"schedule": "cosine"}, "schedule must be a function of the progress, got 'cosine'"),
    ],
)
def test_refuses_impossible_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Study().train(**options)


def test_refuses_to_train_nothing() -> None:
    for parameters in ([], [torch.zeros(2)]):
        with pytest.raises(ValueError, match=r"^parameters must hold at least 1 that requires"):
            run(lambda: torch.zeros(()), parameters, num_epochs=1)


def test_refuses_an_epoch_without_batches() -> None:
    w = parameter(0.0)
    for batches in (lambda generator: [], minibatches(torch.zeros(0), batch_size=2)):
        with pytest.raises(
            ValueError, match=r"^batches must hold at least 1 batch an epoch, got 0"
        ):
            run(lambda x: w.sum(), [w], batches, num_epochs=1)


def test_refuses_impossible_batches() -> None:
    with pytest.raises(ValueError, match=r"^tensors must share .* axis, got lengths \[2, 3\]$"):
        minibatches(torch.zeros(2), torch.zeros(3), batch_size=1)
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, got 0$"):
        minibatches(torch.zeros(2), batch_size=0)


# --- what is seen ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("loss", r"loss \d\S*, bias -?\d\S*, held out 0.25"),
        ("−objective", r"objective -\d\S*, bias -?\d\S*, held out -0.25"),
    ],
)
def test_the_bar_shows_the_losses_and_what_else_is_watched(
    shown: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study()
    study.pause = 0.03  # four times so long an epoch: the bar moves ten times a second at most
    study.train(progress=True, validate=scripted([0.25] * 2), description="fitting", shown=shown,
                num_epochs=2)  # fmt: skip
    captured = capsys.readouterr()
    assert not captured.out
    assert "fitting" in captured.err
    assert re.search(said, captured.err)


def test_the_bar_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    Study().train(progress=False)
    assert not capsys.readouterr().err


def test_a_history_prints_as_one_line() -> None:
    history = History([2.0, 1.5], [3.0, 4.0], 0, True, num_steps=8, seconds=0.1)
    assert repr(history) == "History(2 epochs, loss 1.5, best epoch 0, stopped early)"


if __name__ == "__main__":
    slow = Study()
    slow.pause = 0.05
    slow.train(checkpoint=sys.argv[1])
    time.sleep(60)
