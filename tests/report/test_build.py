import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor

from pplvae.data import Dataset
from pplvae.report import build
from pplvae.report.build import STAGES, prepared

QUICK = {"num_components": 2, "num_epochs": 2, "latent_dim": 3, "seed": 0, "progress": False}


def table(x: Tensor, labels: Tensor | None = None) -> Dataset:
    return Dataset(x, (x.shape[1],), labels, "a table")


@pytest.mark.usefixtures("unpainted")
def test_a_table_is_studied_too_and_its_dimension_found(tmp_path: Path) -> None:
    plane = torch.rand(400, 2)
    x = plane @ torch.randn(2, 5) * torch.tensor([1.0, 10.0, 100.0, 0.1, 1.0])
    options = QUICK | {"latent_dim": None}
    done = build(table(x, (plane[:, 0] > 0.5).long()), tmp_path, **options)  # type: ignore[arg-type]
    assert not done.failures
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    # N = 400 ratios that share neighbors, at the edge of a square: sd 2 √1.5 / √400 = 0.12
    assert numbers["dimension"]["dimension"] == pytest.approx(2.0, abs=0.5)
    assert numbers["vae"]["latent_dim"] == 2
    assert "mean 0 and standard deviation 1" in done.page.read_text()


@pytest.mark.usefixtures("unpainted")
def test_what_cannot_be_answered_is_said_and_stops_nothing(tmp_path: Path) -> None:
    """Two different points only: no third neighbor, so no ratio, but still a page."""
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(20, 1)
    done = build(table(x), tmp_path, **QUICK)  # type: ignore[arg-type]
    failed = {section.name for section in done.sections if section.failed}
    assert "dimension" in failed
    assert {"look", "run"}.isdisjoint(failed)
    assert "the number of distinct points must be at least 3, got 2" in done.page.read_text()
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert "distinct points must be at least 3" in numbers["dimension"]["failed"]


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("x", [torch.ones(30, 3), torch.randn(1, 3), torch.randn(4, 1)])
def test_degenerate_data_still_get_a_page(x: Tensor, tmp_path: Path) -> None:
    done = build(table(x), tmp_path, **QUICK)  # type: ignore[arg-type]
    assert done.page.exists()
    assert done.failures


@pytest.mark.slow
def test_a_line_of_points_is_studied(tmp_path: Path, only: Callable[..., None]) -> None:
    only("look", "dimension", "density", "vae")
    done = build(table(torch.rand(200, 1)), tmp_path, **QUICK)  # type: ignore[arg-type]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["dimension"]["dimension"] == pytest.approx(1.0, abs=0.35)
    assert "dimension" not in {section.name for section in done.sections if section.failed}


@pytest.mark.usefixtures("unpainted")
def test_labels_and_names_are_escaped(tmp_path: Path, only: Callable[..., None]) -> None:
    only("look", "density")
    x = torch.rand(40, 2)
    done = build(Dataset(x, (2,), None, "<script>alert(1)</script>"), tmp_path, **QUICK)  # type: ignore[arg-type]
    assert "<script>alert" not in done.page.read_text()


@pytest.mark.usefixtures("unpainted")
def test_a_second_report_replaces_the_first_and_nothing_else(
    tmp_path: Path, only: Callable[..., None]
) -> None:
    only("look", "vae")
    build(table(torch.rand(40, 2)), tmp_path, **QUICK)  # type: ignore[arg-type]
    first = {file for file in tmp_path.rglob("*") if file.is_file()}
    (tmp_path / "figures" / "mine.png").write_bytes(b"keep")
    build(table(torch.ones(40, 2)), tmp_path, **QUICK)  # type: ignore[arg-type]
    second = {file for file in tmp_path.rglob("*") if file.is_file()}
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"keep"
    assert tmp_path / "vae.safetensors" in first - second, "constant data have no VAE"


def test_an_interrupted_report_keeps_what_it_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(study: object) -> None:
        raise KeyboardInterrupt

    stages = [STAGES[0], ("dimension", "How many?", interrupted)]
    monkeypatch.setattr(sys.modules["pplvae.report.build"], "STAGES", stages)
    with pytest.raises(KeyboardInterrupt):
        build(table(torch.rand(40, 2)), tmp_path, **QUICK)  # type: ignore[arg-type]
    assert (tmp_path / "figures" / "plane.png").exists()
    assert "What do the data look like?" in (tmp_path / "index.html").read_text()


@pytest.mark.usefixtures("unpainted")
def test_deletes_nothing_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("keep")
    (tmp_path / "out").mkdir()
    listed = ["../outside.txt", str(tmp_path / "outside.txt"), "index.html"]
    (tmp_path / "out" / "numbers.json").write_text(json.dumps({"files": listed}))
    build(table(torch.ones(9, 2)), tmp_path / "out", **QUICK)  # type: ignore[arg-type]
    assert (tmp_path / "outside.txt").exists()


def test_never_writes_over_the_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=r"out must be an empty folder .* holds index.html"):
        build(table(torch.rand(40, 2)), tmp_path, **QUICK)  # type: ignore[arg-type]
    assert (tmp_path / "index.html").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out must be a folder to write to"):
        build(table(torch.rand(40, 2)), tmp_path / "file", **QUICK)  # type: ignore[arg-type]


def test_a_lattice_is_named_and_has_no_dimension(
    tmp_path: Path, only: Callable[..., None]
) -> None:
    only("dimension", "trust")
    axis = torch.arange(6.0)
    done = build(table(torch.cartesian_prod(axis, axis, axis)), tmp_path, **QUICK)  # type: ignore[arg-type]
    (section,) = [s for s in done.sections if s.name == "dimension"]
    assert section.failed
    assert "got points on a lattice" in section.answer
    assert "dimension" not in section.numbers


@pytest.mark.usefixtures("unpainted")
def test_a_constant_column_harms_nothing(tmp_path: Path, only: Callable[..., None]) -> None:
    only("look", "dimension", "density", "clusters", "code", "vae")
    x = torch.cat([torch.randn(80, 2), torch.full((80, 1), 0.1)], dim=1)
    assert not build(table(x), tmp_path, **QUICK).failures  # type: ignore[arg-type]


def test_a_failed_stage_leaves_no_figure_open_and_its_traceback_on_file(tmp_path: Path) -> None:
    from matplotlib import pyplot as plt

    build(table(torch.ones(30, 3)), tmp_path, **QUICK)  # type: ignore[arg-type]
    assert not plt.get_fignums()
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert "Traceback" in numbers["dimension"]["why"]


@pytest.mark.usefixtures("unpainted")
def test_the_same_seed_gives_the_same_numbers_and_touches_nothing(
    tmp_path: Path, only: Callable[..., None]
) -> None:
    only("dimension", "density", "clusters", "code", "vae")
    dataset = table(torch.rand(60, 3))
    before = torch.get_rng_state()
    found = []
    for run in ("one", "two"):
        build(dataset, tmp_path / run, **QUICK)  # type: ignore[arg-type]
        numbers = json.loads((tmp_path / run / "numbers.json").read_text())
        found.append({name: numbers[name] for name in ("dimension", "density", "clusters", "vae")})
    assert found[0] == found[1]
    assert torch.equal(before, torch.get_rng_state())
    assert not pyro.get_param_store().keys()


def test_images_keep_one_scale_and_columns_get_their_own() -> None:
    x = torch.tensor([[0.0, 100.0], [50.0, 200.0]])
    assert prepared(x, image=True, standardize=True).tolist() == [[0.0, 0.5], [0.25, 1.0]]
    x = torch.tensor([[1.0, 0.1], [2.0, 0.1], [6.0, 0.1]])
    columns = prepared(x, image=False, standardize=True)
    # (1, 2, 6) has mean 3 and variance 14 / 3; 0.1 is no binary number, so its mean is rounded.
    torch.testing.assert_close(columns[:, 0], torch.tensor([-2.0, -1.0, 3.0]) / (14 / 3) ** 0.5)
    assert (columns[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"num_epochs": -1}, "num_epochs must be at least 1, got -1"),
        ({"likelihood": "poisson"}, "likelihood must be one of bernoulli, gaussian"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_refuses_impossible_options(option: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        build(table(torch.rand(40, 2)), tmp_path / "out", **(QUICK | option))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
