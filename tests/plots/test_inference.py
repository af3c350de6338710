from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from pplvae.plots import color_of, posteriors
from pplvae.plots.inference import accuracy, convergence


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


VARIANTS = ["SVI, full-rank", "SVI, mean-field", "SVI, low-rank", "SVI, flow"]


def test_variants_share_a_color_and_differ_in_their_lines() -> None:
    ax = posteriors({name: torch.randn(100) for name in VARIANTS})
    assert {line.get_color() for line in ax.lines} == {color_of("SVI")}
    assert len({line.get_linestyle() + str(line._unscaled_dash_pattern) for line in ax.lines}) == 4


def test_a_method_looks_the_same_wherever_it_stands() -> None:
    looks = []
    for names in (["exact", "SVI, mean-field", "NUTS"], ["SVI, mean-field", "NUTS"]):
        curves = {name: (np.array([1.0, 2.0]), np.array([1.0, 0.5])) for name in names}
        (line,) = [x for x in convergence(curves).lines if x.get_label() == "SVI, mean-field"]
        looks.append((line.get_color(), line._unscaled_dash_pattern, line.get_marker()))
    assert looks[0] == looks[1]


def test_two_of_a_kind_are_told_apart() -> None:
    ax = posteriors({name: torch.randn(100) for name in ("NUTS, raw", "NUTS")})
    one, two = ax.lines
    assert one.get_color() == two.get_color()
    assert one._unscaled_dash_pattern != two._unscaled_dash_pattern


def test_what_is_far_off_does_not_squeeze_the_rest() -> None:
    far = {"SVI": (np.array([0.1, -43.0, 7.0]), np.array([0.01, 25.0, 0.1]))}
    near = {"SVI": (np.array([1.0, 0.0, 43.0]), np.full(3, 0.1))}
    left, right = accuracy(["a", "b", "c"], far, near)
    assert -2.5 < left.get_xlim()[0] < -2 < 2 < left.get_xlim()[1] < 2.5
    arrows = {line.get_marker(): line for line in left.lines if line.get_marker() in "<>"}
    assert list(arrows["<"].get_xydata()[0]) == [-2.0, 1.0]
    assert list(arrows[">"].get_xydata()[0]) == [2.0, 2.0]
    assert right.get_xlim()[1] < 3.5


def test_unknown_methods_are_told_apart_by_place() -> None:
    ax = posteriors({name: torch.randn(100) for name in ("mine", "yours")})
    assert len({line.get_linestyle() for line in ax.lines}) == 2


def test_a_point_is_an_upright_line() -> None:
    ax = posteriors({"exact": torch.randn(100), "MAP": torch.tensor([[0.3]])})
    assert list(ax.lines[1].get_xdata()) == [0.3, 0.3]


def test_rows_hold_values_and_their_errors() -> None:
    errors = {
        "SVI": (np.array([0.1, -0.2]), np.array([0.01, 0.02])),
        "NUTS": (torch.tensor([0.0, 0.3]), torch.tensor([0.05, 0.05])),
    }
    ratios = {name: (1 + value, error) for name, (value, error) in errors.items()}
    left, right = accuracy(["a", "b"], errors, ratios)
    assert [text.get_text() for text in left.get_yticklabels()] == ["a", "b"]
    assert left.get_ylim()[0] > left.get_ylim()[1], "the first parameter is on top"
    for ax, center in ((left, 0.0), (right, 1.0)):
        svi, nuts = ax.containers
        assert list(svi.lines[0].get_xdata()) == pytest.approx([center + 0.1, center - 0.2])
        assert nuts.lines[0].get_color() == color_of("NUTS")
        (bars,) = svi.lines[2]
        ends = [segment[:, 0] for segment in bars.get_segments()]
        assert np.allclose(np.ptp(ends, axis=1), [0.02, 0.04])
        (band,) = ax.patches
        half = 0.2 if center == 0 else 0.1
        assert band.get_x() == pytest.approx(center - half)
        assert band.get_width() == pytest.approx(2 * half)


def test_draws_where_it_is_told() -> None:
    _, axes = plt.subplots(1, 2)
    value = {"SVI": (np.zeros(1), np.ones(1))}
    assert accuracy(["a"], value, value, axes=list(axes)) == list(axes)
    assert convergence({"SVI": (np.ones(1), np.ones(1))}, ax=axes[0]) is axes[0]


def test_the_floor_is_drawn_where_there_is_one() -> None:
    curves = {"SVI": (np.array([1.0, 2.0]), np.array([1.0, 0.5]))}
    assert len(convergence(curves).lines) == 1
    assert convergence(curves, floor=0.02).lines[1].get_ydata()[0] == 0.02
