"""The gradient loop. Run as a script, this file trains slowly and waits to be killed."""

import math
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pplvae.optimize import (
    Batch,
    History,
    constant,
    cosine,
    minibatches,
    minimize,
    one_batch,
)
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

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        time.sleep(self.pause)
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        noisy = x + 0.1 * torch.randn(x.shape, dtype=x.dtype)
        return (noisy @ self.w + self.b - y).square().mean()

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


@pytest.mark.parametrize("state", [{"epoch": 3}, [1.0], {"format": "pplvae checkpoint 0"}])
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


def test_the_bar_shows_the_losses_and_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    def options() -> dict[str, Any]:
        return {"validate": scripted([0.25] * NUM_EPOCHS), "description": "fitting"}

    Study().train(progress=True, **options())
    captured = capsys.readouterr()
    assert not captured.out
    assert "fitting" in captured.err
    Study().train(progress=False, **options())
    assert not capsys.readouterr().err


def test_a_history_prints_as_one_line() -> None:
    history = History([2.0, 1.5], [3.0, 4.0], 0, True, num_steps=8, seconds=0.1)
    assert repr(history) == "History(2 epochs, loss 1.5, best epoch 0, stopped early)"


if __name__ == "__main__":
    slow = Study()
    slow.pause = 0.05
    slow.train(checkpoint=sys.argv[1])
    time.sleep(60)
