"""What a run says of itself, and the files that keep it."""

import builtins
import csv
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pplvae.optimize import History, logs, minibatches, minimize
from pplvae.optimize.logs import Epoch

Curves = Callable[[Path], dict[str, list[tuple[int, float]]]]


def epoch(number: int, **other: Any) -> Epoch:
    said: dict[str, Any] = {
        "num_epochs": 9, "loss": 1.5 / (number + 1), "validation": None, "best": True,
        "num_steps": 4 * (number + 1), "seconds": 0.5, "learning_rate": 0.1,
    }  # fmt: skip
    return Epoch(number=number, **said | other)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train(fail_at: int | None = None, **options: Any) -> History:
    """Fit a line in 5 epochs of 3 noisy steps; `fail_at` names the step that is never taken."""
    x, w = torch.linspace(0, 1, 6), torch.zeros(1, requires_grad=True)
    count = itertools.count()

    def loss(batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if next(count) == fail_at:
            raise KeyboardInterrupt
        error = w * batch - 2 * batch + 0.1 * torch.randn(len(batch))
        return error.square().mean(), {"bias": error.mean()}

    return minimize(
        loss, [w], minibatches(x, batch_size=2), num_epochs=5, learning_rate=0.1, seed=0,
        validate=lambda: (w - 2).square().sum(), checkpoint_seconds=0, progress=False, **options,
    )  # fmt: skip


def test_a_table_removes_what_a_killed_write_of_it_left(tmp_path: Path) -> None:
    (tmp_path / ".0123abcd.table.csv").write_text("epo")
    logs.csv(tmp_path / "table.csv")(epoch(0))
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_says_what_there_is_to_plot() -> None:
    bare = epoch(0).numbers()
    assert bare == {"loss": 1.5, "learning_rate": 0.1, "seconds": 0.5}
    whole = epoch(0, validation=2.0, monitored={"elbo": -3.0}).numbers()
    assert whole == bare | {"validation": 2.0, "elbo": -3.0}


def test_a_table_has_a_row_for_each_epoch(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "log.csv"
    history = train(callbacks=[logs.csv(path)])
    found = rows(path)
    assert [int(row["epoch"]) for row in found] == [0, 1, 2, 3, 4]
    assert [int(row["num_steps"]) for row in found] == [3, 6, 9, 12, 15]
    for name, expected in [
        ("loss", history.losses),
        ("validation", history.validation),
        ("bias", history.monitored["bias"]),
    ]:
        # To the last digit.
        assert [float(row[name]) for row in found] == expected
    assert {float(row["learning_rate"]) for row in found} == {0.1}
    assert list(path.parent.iterdir()) == [path]


def test_the_table_is_whole_after_each_epoch(tmp_path: Path) -> None:
    path, seen = tmp_path / "log.csv", []
    train(callbacks=[logs.csv(path), lambda epoch: seen.append(len(rows(path)))])
    assert seen == [1, 2, 3, 4, 5]


def test_a_row_that_cannot_be_written_leaves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    write = logs.csv(path)
    write(epoch(0))
    before = path.read_bytes()
    real = Path.write_text

    def full(self: Path, text: str, *args: Any, **options: Any) -> int:
        real(self, text[:20], *args, **options)
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write(epoch(1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fail_at", [0, 2, 3, 7, 14])
def test_a_run_that_goes_on_goes_on_with_its_table(fail_at: int, tmp_path: Path) -> None:
    def untimed(path: Path) -> list[dict[str, str]]:
        return [row | {"seconds": ""} for row in rows(path)]

    train(callbacks=[logs.csv(tmp_path / "whole.csv")])
    options = {"callbacks": [logs.csv(tmp_path / "parts.csv")], "checkpoint": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        train(fail_at, **options)
    train(**options)
    assert untimed(tmp_path / "parts.csv") == untimed(tmp_path / "whole.csv")


def test_epochs_that_are_trained_again_replace_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for number in range(4):
        logs.csv(path)(epoch(number))
    again = logs.csv(path)
    for number in (2, 3):
        again(epoch(number, loss=7.0, monitored={"elbo": -7.0}))
    assert [row["epoch"] for row in rows(path)] == ["0", "1", "2", "3"]
    assert [float(row["loss"]) for row in rows(path)] == [1.5, 0.75, 7.0, 7.0]
    # What is watched from then on has a column, empty before.
    assert [row["elbo"] for row in rows(path)] == ["", "", "-7.0", "-7.0"]


def test_a_new_run_begins_the_table_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for number in (0, 1, 2, 0):
        logs.csv(path)(epoch(number))
    assert [row["epoch"] for row in rows(path)] == ["0"]


def test_names_may_be_in_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for number in (0, 1):
        logs.csv(path)(epoch(number, monitored={'β, "weighted"': 0.5}))
    assert [row['β, "weighted"'] for row in rows(path)] == ["0.5", "0.5"]


@pytest.mark.parametrize(
    "content",
    [
        b"dear diary",
        b"dear diary\nepoch 3 was good\n",
        b"name,epoch\nrock,3\n",
        b"epoch,num_steps,loss\none,2,3.0\n",
        b"epoch,num_steps,loss\n\xb2,2,3.0\n",
        "epoch,num_steps,loss\n²,2,3.0\n".encode(),
        b"\x89PNG\r\n\x1a\n\x00\xff",
    ],
)
def test_another_file_is_refused_before_the_training_and_left(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^path must be free or .* got {path}, another file$"):
        logs.csv(path)
    assert path.read_bytes() == content


def test_a_folder_is_refused_and_an_empty_file_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^path must be free or hold such a table, got"):
        logs.csv(tmp_path)
    (tmp_path / "log.csv").touch()
    logs.csv(tmp_path / "log.csv")(epoch(0))
    assert len(rows(tmp_path / "log.csv")) == 1


def test_says_what_tensorboard_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "tensorboard":
            raise ImportError("No module named 'tensorboard'")
        return imported(name, *args)

    for name in list(sys.modules):
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"^logs.tensorboard needs `pip install tensorboard`$"):
        logs.tensorboard(tmp_path / "events")
    assert not (tmp_path / "events").exists()


@pytest.fixture
def curves() -> Curves:
    """A reader of TensorBoard's files: by name, the epochs and values."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason="needs the package tensorboard")

    def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
        names = events.Tags()["scalars"]
        return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}

    return read


def test_tensorboard_shows_what_is_watched_after_each_epoch(
    curves: Curves, tmp_path: Path
) -> None:
    seen = []
    history = train(
        callbacks=[
            logs.tensorboard(tmp_path),
            lambda epoch: seen.append([step for step, _ in curves(tmp_path)["loss"]]),
        ]
    )
    assert seen == [list(range(number + 1)) for number in range(5)]
    found = curves(tmp_path)
    assert set(found) == {"loss", "validation", "bias", "learning_rate", "seconds"}
    for name, expected in [("loss", history.losses), ("bias", history.monitored["bias"])]:
        # TensorBoard keeps single precision.
        assert [value for _, value in found[name]] == pytest.approx(expected, rel=1e-6)


def test_tensorboard_forgets_the_epochs_that_are_trained_again(
    curves: Curves, tmp_path: Path
) -> None:
    first = logs.tensorboard(tmp_path)
    for number in range(4):
        first(epoch(number))
    again = logs.tensorboard(tmp_path)
    for number in (2, 3):
        again(epoch(number, loss=7.0))
    assert curves(tmp_path)["loss"] == [(0, 1.5), (1, 0.75), (2, 7.0), (3, 7.0)]
