import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from typer.testing import CliRunner

from pplvae import data, precision, vae
from pplvae.cli import app
from pplvae.optimize import logs

run = CliRunner().invoke
QUICK = ["--num-epochs", "2", "--batch-size", "600", "--no-progress", "--seed", "3"]


def train(out: Path, *flags: str, data: str = "digits") -> None:
    done = run(app, ["vae", "train", data, "--out", str(out), *QUICK, *flags])
    assert done.exit_code == 0, done.output


@pytest.fixture(autouse=True)
def _as_a_user_runs_it(_same_world_for_every_test: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE of digits with two latent variables, trained by the command line."""
    out = tmp_path_factory.mktemp("flat")
    train(out, "--latent-dim", "2", "--hidden-dims", "30")
    return out


def evaluate(folder: Path, *flags: str, data: str = "digits") -> dict[str, Any]:
    file = folder / "found.json"
    name = ["--vae", str(folder / "vae.safetensors"), "--out", str(file)]
    done = run(app, ["vae", "evaluate", data, *name, "--no-progress", *flags])
    assert done.exit_code == 0, done.output
    return json.loads(file.read_text())


def test_a_trained_vae_its_numbers_and_pictures_are_left_in_a_folder(flat: Path) -> None:
    assert {file.name for file in flat.iterdir()} >= {
        "vae.safetensors", "history.csv", "numbers.json", "held_out.npy", "training.png",
        "reconstructions.png", "samples.png", "latent.png", "manifold.png",
    }  # fmt: skip
    with (flat / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    numbers = json.loads((flat / "numbers.json").read_text())
    assert numbers["num_held_out"] == 180
    assert numbers["elbo"] == pytest.approx(numbers["reconstruction"] - numbers["kl"])
    # Digits have 64 pixels.
    assert numbers["bits_per_dimension"] == pytest.approx(-numbers["elbo"] / 64 / np.log(2))


def test_flags_do_what_the_keywords_do(flat: Path) -> None:
    model = vae.mlp(
        64, 2, hidden_dims=[30], likelihood=vae.Bernoulli("dynamic"), dtype=torch.float32, seed=3
    )
    x = data.digits().scaled().x
    vae.fit(model, x, num_epochs=2, batch_size=600, seed=3, progress=False)
    written = vae.load(flat / "vae.safetensors")
    torch.testing.assert_close(written.encode(x), model.encode(x))
    assert (flat / "manifold.png").read_bytes().startswith(b"\x89PNG")


def test_a_vae_is_judged_on_the_rows_that_it_was_not_trained_on(flat: Path) -> None:
    rows = ["--rows", str(flat / "held_out.npy"), "--num-samples", "100"]
    found = evaluate(flat, *rows)
    assert found["num_points"] == 180
    assert found["elbo"] < found["log_likelihood"], "by what the guide misses"
    trained = json.loads((flat / "numbers.json").read_text())
    # Both draw 10 codes and binarize the points anew: 0.3 nats apart in each, 4 / √180 of it.
    assert found["elbo"] == pytest.approx(trained["elbo"], abs=0.4)
    least, median = (found[f"effective_sample_size_{which}"] for which in ("least", "median"))
    assert 1 <= least <= median <= 100
    assert sum(found["kl_per_dimension"]) == pytest.approx(found["kl"], rel=0.05)
    assert found["active_units"] <= 2
    x = data.digits().scaled().x[torch.from_numpy(np.load(flat / "held_out.npy"))]
    again = vae.bounds.log_likelihood(
        vae.load(flat / "vae.safetensors"), x, num_samples=100, seed=0, progress=False
    )
    assert found["log_likelihood"] == pytest.approx(again.value)


def test_the_report_of_a_judgment_names_its_numbers(flat: Path) -> None:
    arguments = ["--num-points", "40", "--num-samples", "50", "--proposal", "prior"]
    file = ["--vae", str(flat / "vae.safetensors"), "--no-progress"]
    done = run(app, ["vae", "evaluate", "digits", *file, *arguments])
    assert done.exit_code == 0, done.output
    for said in (
        "40 points", "ELBO", "log p(x)", "±", "bits per dimension",
        "50 for each point, by the prior", "in the median", "k-hat above 0.7",
        "KL per dimension", "active units",
    ):  # fmt: skip
        assert said in done.stdout


def test_samples_are_an_array_or_a_picture(flat: Path, tmp_path: Path) -> None:
    file = ["--vae", str(flat / "vae.safetensors"), "--num-samples", "6", "--seed", "1"]
    for flags, noise in ([], False), (["--noise"], True):
        done = run(app, ["vae", "sample", *file, "--out", str(tmp_path / "x.npy"), *flags])
        assert done.exit_code == 0, done.output
        expected = vae.load(flat / "vae.safetensors").sample(6, noise=noise, seed=1)
        # In the units of the data: pixels of digits go from 0 to 16.
        assert np.array_equal(np.load(tmp_path / "x.npy"), 16 * expected.numpy())
    for shape in (["digits"], ["--shape", "8,8"]):
        done = run(app, ["vae", "sample", *shape, *file, "--out", str(tmp_path / "x.png")])
        assert done.exit_code == 0, done.output
        assert plt.imread(tmp_path / "x.png").ndim == 3
    assert not plt.get_fignums()


def test_new_data_go_through_the_map_of_the_training(flat: Path, tmp_path: Path) -> None:
    assert json.loads((flat / "numbers.json").read_text())["units"] == [0.0, 16.0]
    stored = data.digits()
    faint = stored.subset(stored.x.amax(1) < 15)  # by its own largest number it would be brighter
    np.savez(tmp_path / "faint.npz", x=faint.x.reshape(-1, 8, 8).numpy())
    found = evaluate(flat, "--num-samples", "20", data=str(tmp_path / "faint.npz"))
    model = vae.load(flat / "vae.safetensors")
    expected = vae.bounds.elbo(model, faint.x / 16, seed=0)
    assert found["elbo"] == pytest.approx(expected.value)
    own = vae.bounds.elbo(model, faint.scaled().x, seed=0)
    assert abs(own.value - expected.value) > 1e-3, "the test would see the other map"
    # A table of the same rows, no images any more, is the same data.
    np.save(tmp_path / "rows.npy", faint.x.numpy())
    rows = evaluate(flat, "--num-samples", "20", data=str(tmp_path / "rows.npy"))
    assert rows["elbo"] == pytest.approx(expected.value)


def test_what_was_sampled_is_judged_in_its_own_units(flat: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "x.npy", ["--vae", str(flat / "vae.safetensors")]
    done = run(app, ["vae", "sample", *file, "--noise", "--num-samples", "50", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = evaluate(flat, "--num-samples", "20", data=str(out))
    model = vae.load(flat / "vae.safetensors")
    assert found["elbo"] == pytest.approx(vae.bounds.elbo(model, np.load(out) / 16, seed=0).value)


def test_a_vae_without_its_numbers_needs_the_range_named(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "vae.safetensors").write_bytes((flat / "vae.safetensors").read_bytes())
    command = ["vae", "evaluate", "digits", "--vae", str(tmp_path / "vae.safetensors")]
    done = run(app, [*command, "--no-progress"])
    assert done.exit_code == 2
    assert done.stderr.startswith("pplvae: low and high must be given, the least and largest")
    few = ["--num-samples", "20", "--num-points", "50"]
    named = evaluate(tmp_path, *few, "--low", "0", "--high", "16")
    assert named["elbo"] == evaluate(flat, *few)["elbo"]


def test_numbers_outside_the_range_of_the_training_are_refused(flat: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 64), 17.0))
    file = ["--vae", str(flat / "vae.safetensors"), "--no-progress"]
    done = run(app, ["vae", "evaluate", str(tmp_path / "x.npy"), *file])
    assert done.exit_code == 2
    assert "x must be in [0.0, 16.0] as the data of the training, got 17.0" in done.stderr


def test_a_folder_used_again_holds_nothing_of_the_other_model(tmp_path: Path) -> None:
    train(tmp_path, "--latent-dim", "2", "--num-epochs", "1")
    (tmp_path / "mine.png").write_bytes(b"a picture of the user's own")
    before = {file.stem for file in tmp_path.glob("*.png")}
    assert before >= {"latent", "manifold"}
    train(tmp_path, "--latent-dim", "3", "--num-epochs", "1", "--likelihood", "gaussian")
    after = {file.stem for file in tmp_path.glob("*.png")}
    assert before - after == {"latent", "manifold"}
    assert "mine" in after
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert {f"{name}.png" for name in after - {"mine"}} == set(numbers["pictures"])
    flags = numbers["flags"]
    assert (flags["data"], flags["latent_dim"], flags["likelihood"]) == ("digits", "3", "gaussian")
    assert flags["num_epochs"] == 1
    assert flags["out"] == str(tmp_path)


def test_an_error_is_said_in_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise ValueError("loc must be real, got nan\nTrace Shapes:\n Param Sites:")

    monkeypatch.setattr(vae, "fit", fit)
    done = run(app, ["vae", "train", "digits", "--out", str(tmp_path / "out")])
    assert done.stderr == "pplvae: loc must be real, got nan\n"


def test_matrix_products_are_the_faster_ones_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = list[str]()

    @contextmanager
    def watched(device: str) -> Iterator[bool]:
        places.append(device)
        yield True

    monkeypatch.setattr(precision, "fast_matmul", watched)
    quick, few = ["--num-epochs", "1", "--device", "cpu"], ["--num-points", "9", "--device", "cpu"]
    train(tmp_path, *quick)
    evaluate(tmp_path, *few, "--num-samples", "5")
    assert not places
    train(tmp_path, *quick, "--fast-matmul")
    assert places == ["cpu"]
    evaluate(tmp_path, *few, "--num-samples", "5", "--fast-matmul")
    assert places == ["cpu", "cpu"]


def test_a_run_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--latent-dim", "3", "--num-epochs", "4", "--checkpoint-seconds", "0"]
    train(tmp_path / "whole", *flags)
    flags += ["--checkpoint", str(tmp_path / "state")]
    write = logs.csv

    seen = list[int]()

    def watched(path: Path) -> logs.Callback:
        """The table, until the plug is pulled in the third epoch of the first run."""

        def callback(epoch: logs.Epoch) -> object:
            seen.append(epoch.number)
            if seen == [0, 1, 2]:
                raise OSError("no current")
            return write(path)(epoch)

        return callback

    monkeypatch.setattr(logs, "csv", watched)
    done = run(app, ["vae", "train", "digits", "--out", str(tmp_path / "two"), *QUICK, *flags])
    assert done.stderr == "pplvae: no current\n"
    assert not (tmp_path / "two" / "vae.safetensors").exists()
    train(tmp_path / "two", *flags)
    assert 0 not in seen[3:], "it goes on and does not start again"
    one, two = (vae.load(tmp_path / name / "vae.safetensors") for name in ("whole", "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    with (tmp_path / "two" / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]


def test_tables_have_a_gaussian_and_no_pictures_of_images(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(80, 3)))
    train(tmp_path / "out", "--latent-dim", "2", data=str(tmp_path / "x.npy"))
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["likelihood"] == "Gaussian"
    assert numbers["bits_per_dimension"] is None, "a density has no code length"
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == {"training", "latent"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--builder", "hierarchical", "--latent-dim", "4,2", "--objective", "iwae",
         "--gradient", "dreg", "--num-particles", "3"],
        ["--builder", "conv", "--channels", "4", "--hidden-dims", "9", "--latent-dim", "3",
         "--likelihood", "discretized_logistic", "--num-levels", "17", "--schedule", "cosine"],
        ["--likelihood", "categorical", "--num-levels", "17", "--rank", "3", "--posterior",
         "full"],
        ["--builder", "linear", "--likelihood", "gaussian", "--scale", "0.3", "--kl", "analytic",
         "--kl-warmup", "0.5", "--kl-cycles", "2", "--free-bits", "0.1"],
        ["--binarize", "once", "--prior", "vamp", "--prior-components", "5", "--gradient", "stl"],
        ["--likelihood", "continuous_bernoulli", "--posterior", "iaf", "--prior", "flow"],
        ["--likelihood", "gaussian", "--scale", "predicted", "--squash", "--activation", "tanh",
         "--prior", "mixture"],
    ],
)  # fmt: skip
def test_every_flag_leads_to_a_vae_that_can_be_judged(flags: list[str], tmp_path: Path) -> None:
    train(tmp_path, "--num-epochs", "1", *flags)
    found = evaluate(tmp_path, "--num-points", "20", "--num-samples", "30")
    assert np.isfinite([found["elbo"], found["log_likelihood"], found["kl"]]).all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["nothing.npy"], "nothing.npy"),
        (["digits", "--likelihood", "poisson"], "likelihood must be one of bernoulli"),
        (["digits", "--binarize", "never"], "binarize must be one of dynamic, fixed, once"),
        (["digits", "--scale", "2"], "scale must be left out for likelihood 'bernoulli', got 2"),
        (["digits", "--likelihood", "gaussian", "--scale", "big"], "scale must be learned, pred"),
        (["digits", "--latent-dim", "3,4"], "latent_dim must be one number for builder 'mlp'"),
        (["digits", "--latent-dim", "0"], "latent_dim must be at least 1, got 0"),
        (["digits", "--hidden-dims", "9;9"], "hidden_dims must be whole numbers with commas"),
        (["digits", "--channels", "8"], "channels must be left out for builder 'mlp', got [8]"),
        (["digits", "--prior-components", "3"], "prior_components must be left out for prior"),
        (["digits", "--posterior", "full-rank"], "posterior must be one of diagonal, full, iaf"),
        (["digits", "--objective", "iwae", "--free-bits", "1"], "free_bits must be left out for"),
        (["digits", "--gradient", "dreg"], "gradient must be one of"),
        (["digits", "--kl-cycles", "2"], "kl_cycles must come with kl_warmup, got 2 alone"),
        (["digits", "--kl-warmup", "2"], "kl_warmup must be in [0.0, 1.0], got 2.0"),
        (["digits", "--schedule", "stairs"], "schedule must be one of constant, cosine"),
        (["digits", "--validation", "1"], "validation must be in [0.0, 0.9], got 1.0"),
        (["digits", "--device", "abacus"], "device must be one that torch has here"),
        (["manifold:sphere", "--builder", "conv"], "builder must be another for points of (3,)"),
        (
            ["digits", "--likelihood", "categorical", "--num-levels", "9"],
            "x must be whole numbers",
        ),
    ],
)
def test_refuses_to_train_in_one_line(flags: list[str], said: str, tmp_path: Path) -> None:
    done = run(app, ["vae", "train", *flags, "--out", str(tmp_path / "out"), "--no-progress"])
    assert done.exit_code == 2
    assert done.stderr.startswith("pplvae: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["evaluate", "digits", "--vae", "nothing"], "path must name a saved VAE, got nothing"),
        (["evaluate", "manifold:sphere"], "x must have 64 columns, got 3"),
        (["evaluate", "digits", "--proposal", "luck"], "proposal must be one of"),
        (["evaluate", "digits", "--num-points", "5000"], "num_points must be in [1, 1797]"),
        (["evaluate", "digits", "--rows", "nothing.npy"], "nothing.npy"),
        (["evaluate", "digits", "--low", "0"], "low and high must be given together, got 0.0 and"),
        (["evaluate", "digits", "--low", "3", "--high", "3"], "high must be above low, got 3 for"),
        (["sample", "--out", "x.png"], "shape must be given for a picture, or DATA of that shape"),
        (["sample", "--out", "x.gif"], "out must be one of .npy, .png, got '.gif'"),
        (["sample", "--out", "x.png", "--shape", "9,9"], "must hold images of 81 numbers"),
    ],
)
def test_refuses_to_judge_and_to_sample_in_one_line(
    flags: list[str], said: str, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = [] if "--vae" in flags else ["--vae", str(flat / "vae.safetensors")]
    done = run(app, ["vae", *flags, *known])
    assert done.exit_code == 2
    assert done.stderr.startswith("pplvae: ")
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_comes_without_torch() -> None:
    code = "import sys, pplvae.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
