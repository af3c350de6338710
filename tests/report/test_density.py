import pytest
import torch
from torch import Tensor

from pplvae.data import Dataset
from pplvae.report import density
from pplvae.report.build import prepared
from pplvae.report.section import Section, Settings, Study


def section(x: Tensor, dimension: float | None) -> Section:
    dataset = Dataset(x, (x.shape[1],), None, "a table")
    points = prepared(x, image=False, standardize=True)
    return density.section(Study(dataset, points, 0, Settings(), False, dimension=dimension))


def test_densities_are_held_against_each_other_in_the_plane_and_on_the_dimension() -> None:
    found = section(torch.randn(80, 4), 3.4)
    plane, space = found.tables[1:]
    assert [row[0] for row in plane.rows] == list(density.QUICK)
    assert [row[0] for row in space.rows] == [*density.QUICK, "flow", "VAE"]
    assert "16 held-out points on the 2 leading components, fitted to 64" in plane.caption
    assert "on the 3 leading components" in space.caption
    held_out = found.numbers["held_out_nats_per_point"]
    best = max((held_out[3][name], name) for name in held_out[3] if name != "k-NN")[1]
    assert f"On the 3 leading components the {best}, a " in found.answer
    assert any(note.startswith("k-NN: no density") for note in found.notes)
    names = [figure.name for figure in found.figures]
    assert names == ["densities", "bandwidths", "contours", "typical"]


def test_few_points_are_not_held_out() -> None:
    found = section(torch.randn(density.LEAST_FITTED - 1, 3), 2.0)
    assert len(found.tables) == 1
    assert found.numbers["held_out_nats_per_point"] == {}


@pytest.mark.slow
def test_what_a_bandwidth_warns_of_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pplvae.report.density.MOST_FITTED", 1000)
    x = torch.randn(300, 1)
    x[:3] = torch.tensor([[100.0], [200.0], [300.0]])
    found = section(x, 1.0)
    assert any("far from all others, set the width by 'kl'" in note for note in found.notes)
    assert "explains held-out points best" in found.answer
