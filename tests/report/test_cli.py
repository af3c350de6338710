import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pplvae.cli import app

run = CliRunner().invoke


def test_writes_a_report_on_a_file(tmp_path: Path, only: Callable[..., None]) -> None:
    only("look", "dimension")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((80, 3)))
    options = ["--num-epochs", "2", "--num-components", "2", "--no-progress", "--seed", "1"]
    done = run(app, ["report", str(tmp_path / "x.npy"), "--out", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert "How many dimensions do they have?" in done.output
    assert (tmp_path / "out" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.npy"], "nothing.npy"),
        (["mnist:/nowhere"], "nowhere"),
        (["digits", "--latent-dim", "0"], "latent_dim must be at least 1, got 0"),
        (["digits", "--device", "abacus"], "device must be one that torch has here"),
    ],
)
def test_refuses_in_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = run(app, ["report", *arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_says_when_a_stage_failed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((30, 3)))
    done = run(app, ["report", str(tmp_path / "x.npy"), "--out", str(tmp_path), "--no-progress"])
    assert done.exit_code == 1
    assert "could not be answered" in done.output


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pplvae", "--help"], capture_output=True, text=True, check=True
    )
    assert "report" in done.stdout
