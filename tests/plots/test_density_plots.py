import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection

from pplvae import plots
from pplvae.density import histogram, kernel, sweep


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def test_a_curve_with_an_error_has_a_band() -> None:
    x, grid = torch.randn(50), torch.linspace(-2, 2, 30)
    found = kernel.fit(x).estimate(grid)
    curves = {"with": (grid, found.density, found.error), "without": (grid, found.density)}
    ax = plots.histogram(histogram(x), curves=curves)
    (band,) = [part for part in ax.collections if isinstance(part, PolyCollection)]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx((found.density + found.error).max().item())
    assert len(ax.lines) == 2


def test_the_sweep_shows_the_valley_and_what_falls_for_ever() -> None:
    x = torch.randn(80)
    found = sweep.bandwidths(x, torch.tensor([0.3, 0.6, 1.0, 2.0]), seed=0)
    left, right = plots.bandwidths(found, x)
    assert len(left.lines) == 3
    loss, best, halves = right.lines[:3]
    assert loss.get_ydata() == pytest.approx(found.divergence.numpy())
    assert best.get_xdata() == [found.factors[found.best]]
    assert halves.get_ydata() == pytest.approx(found.halves.numpy())
    with pytest.raises(ValueError, match=r"data must have shape \(N,\)"):
        plots.bandwidths(found, torch.randn(5, 2))


def test_contours_enclose_the_shares_of_the_points() -> None:
    x = torch.randn(400, 2)

    def log_density(points: torch.Tensor) -> torch.Tensor:
        return -0.5 * points.square().sum(1)

    ax = plots.contours(log_density, x, masses=(0.8,))
    (outline,) = [part for part in ax.collections if len(part.get_paths()) == 1
                  and part.get_linestyle() and not part.get_facecolor().size]  # fmt: skip
    radius = np.linalg.norm(outline.get_paths()[0].vertices, axis=1)
    # Four fifths of the points are within, up to the step of a grid of 100 places.
    assert radius.mean() == pytest.approx(x.norm(dim=1).quantile(0.8).item(), abs=0.03)
    assert radius.std() < 0.02


def test_contours_of_a_density_that_is_zero_somewhere() -> None:
    x = torch.rand(60, 2)

    def box(points: torch.Tensor) -> torch.Tensor:
        inside = ((points > 0) & (points < 1)).all(1)
        return torch.zeros(len(points)).where(inside, -math.inf)

    assert plots.contours(box, x, num_grid=20).collections
    with pytest.raises(ValueError, match=r"masses must be in \(0, 1\), got \[1.0\]"):
        plots.contours(box, x, masses=[1.0])
    with pytest.raises(ValueError, match=r"x must have shape \(N, 2\)"):
        plots.contours(box, torch.rand(9, 3))


def test_the_typical_come_first_and_both_ends_are_named() -> None:
    heights = torch.tensor([0.0, 3.0, -5.0, 1.0, 2.0])
    ax = plots.typical(heights, torch.ones(5), num=2)
    assert ax.lines[0].get_ydata().tolist() == [3, 2, 1, 0, -5]
    said = [text.get_text() for text in ax.texts]
    assert said == ["most typical rows: 1, 4", "least typical rows: 0, 2"]
    named = plots.typical(heights, rows=torch.arange(10, 15), num=1)
    assert [text.get_text()[-2:] for text in named.texts] == ["11", "12"]


def test_the_ends_of_images_are_shown() -> None:
    images = torch.arange(4.0).repeat_interleave(4).view(4, 4)
    heights = torch.tensor([1.0, 4.0, 3.0, 2.0])
    ax = plots.typical(heights, images=images, shape=(2, 2), num=1)
    most, least = (np.asarray(inner.images[0].get_array()) for inner in ax.child_axes)
    assert most.shape == least.shape == (2, 2)
    with pytest.raises(ValueError, match=r"num must be in \[1, 2\] for 4 points, got 3"):
        plots.typical(heights, num=3)
    with pytest.raises(ValueError, match="images must hold images of 9 numbers"):
        plots.typical(heights, images=images, shape=(3, 3), num=1)


def test_estimates_stand_as_far_from_the_best_as_their_gaps() -> None:
    means = [-3.0, -math.inf, -2.0, math.nan]
    ax = plots.held_out(
        ["a", "b", "c", "d"], means, [-1.0, -math.inf, 0.5, math.nan], [0.1, math.nan, 0.2, 0.1],
        ranked=[True, True, False, True],
    )  # fmt: skip
    dots = {
        line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"
    }
    assert dots == {0: -1.0, 2: 0.5}
    bars = [part.get_segments()[0][:, 0].tolist() for part in ax.collections]
    assert bars[0] == pytest.approx([-1.2, -0.8])
    said = [text.get_text() for text in ax.texts]
    assert said[:4] == ["−3.00", "−∞", "−2.00*", "n/a"]
    assert "* no density" in said
    with pytest.raises(ValueError, match="names must name at least one estimate"):
        plots.held_out([], [], [], [])
