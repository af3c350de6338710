from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from pplvae.plots.bounds import bounds
from pplvae.plots.gradients import MOST_DOTS, gradients
from pplvae.plots.style import COLORS, color_of

SIZES = torch.tensor([1, 10, 100])
BOUNDS = torch.tensor([-3.0, -2.5, -2.25], dtype=torch.float64)
ERRORS = torch.tensor([0.1, 0.05, 0.2], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def test_the_ladder_stands_under_the_evidence() -> None:
    ax = bounds(SIZES, BOUNDS, ERRORS, exact=-2.0)
    steps, evidence = ax.lines[0], ax.lines[-1]
    assert list(steps.get_xdata()) == [1, 10, 100]
    assert list(steps.get_ydata()) == BOUNDS.tolist()
    assert list(evidence.get_ydata()) == [-2.0, -2.0]
    assert evidence.get_color() == color_of("exact")
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "10", "100"]


def test_bars_show_two_standard_errors() -> None:
    (bars,) = bounds(SIZES, BOUNDS, ERRORS).collections
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    assert lengths == pytest.approx((4 * ERRORS).tolist())


def test_an_unknown_evidence_is_not_drawn() -> None:
    with_exact, without = (bounds(SIZES, BOUNDS, ERRORS, exact=e) for e in (-2.0, None))
    assert len(with_exact.lines) == len(without.lines) + 1
    assert len(without.get_legend().get_texts()) == 1


def test_rounding_errors_are_not_blown_up() -> None:
    ax = bounds(SIZES, -2.0 + 1e-12 * BOUNDS, 0 * ERRORS, exact=-2.0)
    low, high = ax.get_ylim()
    assert high - low == pytest.approx(1e-3)
    assert low < -2.0 < high


def test_an_estimator_s_bar_is_the_root_mean_square_of_its_coordinates() -> None:
    ax = gradients({"score": torch.tensor([3.0, 4.0, 0.0])}, {"score": 0.61})
    dots, bar = ax.lines
    assert list(dots.get_xdata()) == [3, 4], "what does not vary has no place on a log axis"
    assert bar.get_xdata()[0] == pytest.approx(np.sqrt(25 / 3))
    (said,) = ax.texts
    assert said.get_text() == "2.89 rms, 0.61 CPU-ms"


def test_every_estimator_has_its_color_and_row() -> None:
    names = ["reparameterized", "score", "baseline", "another"]
    ax = gradients({name: np.ones(2) for name in names}, dict.fromkeys(names, 1.0))
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    colors = [line.get_color() for line in ax.lines[1::2]]
    assert len(set(colors)) == 4
    assert colors[3] == COLORS["grey"]
    assert ax.yaxis_inverted(), "the first on top"


def test_of_many_coordinates_the_extremes_are_kept() -> None:
    sds = np.random.default_rng(0).exponential(size=5000)
    dots = gradients({"score": sds}, {"score": 1.0}).lines[0].get_xdata()
    assert len(dots) == MOST_DOTS
    assert (min(dots), max(dots)) == (sds.min(), sds.max())


def test_draws_where_it_is_told() -> None:
    ax = plt.figure().add_subplot()
    assert bounds(SIZES, BOUNDS, ERRORS, ax=ax) is ax
    assert gradients({"score": np.ones(2)}, {"score": 1.0}, ax=ax) is ax
