from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from pplvae import plots
from pplvae.density import histogram
from pplvae.intrinsic_dimension import balls, spectrum, twonn
from pplvae.optimize import History


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def test_a_mosaic_shows_every_image_once_and_in_order() -> None:
    x = torch.arange(5.0).repeat_interleave(4).reshape(5, 4)
    picture = np.asarray(plots.mosaic(x, (2, 2), columns=3).images[0].get_array())
    assert picture.shape == (2 + 1 + 2, 3 * 2 + 2)  # white lines one pixel wide between them
    tops = [picture[0, 0], picture[0, 3], picture[0, 6], picture[3, 0], picture[3, 3]]
    assert tops == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert picture[3, 6] == 1, "an empty place stays white"


def test_colors_come_last_in_a_picture() -> None:
    x = torch.zeros(1, 12)
    x[0, 4:8] = 1  # the green channel
    picture = np.asarray(plots.mosaic(x, (3, 2, 2)).images[0].get_array())
    assert picture[0, 0].tolist() == [0, 1, 0]


def test_refuses_images_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"x must hold images of 4 numbers, got shape \(5, 3\)"):
        plots.mosaic(torch.zeros(5, 3), (2, 2))
    with pytest.raises(ValueError, match="x must hold images of 4 numbers"):
        plots.mosaic(torch.zeros(0, 4), (2, 2))
    with pytest.raises(ValueError, match="shape must be"):
        plots.mosaic(torch.zeros(5, 4), (4,))
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        plots.mosaic(torch.zeros(5, 4), (2, 2), columns=0)
    with pytest.raises(ValueError, match="grid must hold images of 9 numbers"):
        plots.manifold(torch.zeros(2, 2, 4), (3, 3))
    with pytest.raises(ValueError, match=r"below must have shape \(2, 4\)"):
        plots.pairs(torch.zeros(2, 4), torch.zeros(3, 4), (2, 2))
    with pytest.raises(ValueError, match=r"x must have shape \(N, 2\), got \(5, 3\)"):
        plots.points(torch.zeros(5, 3))


def test_a_point_estimate_is_an_upright_line() -> None:
    ax = plots.posteriors({"NUTS": torch.randn(100), "MAP": torch.full((100,), 0.5)})
    assert ax.lines[1].get_xdata() == [0.5, 0.5]


def test_every_curve_is_drawn() -> None:
    curves = {str(i): (torch.zeros(2), torch.ones(2)) for i in range(7)}
    assert len(plots.histogram(histogram(torch.rand(9)), curves=curves).lines) == 7


def test_originals_stand_over_reconstructions() -> None:
    picture = plots.pairs(torch.zeros(3, 1), torch.ones(3, 1), (1, 1)).images[0].get_array()
    assert np.asarray(picture)[0, ::2].tolist() == [0, 0, 0]
    assert np.asarray(picture)[2, ::2].tolist() == [1, 1, 1]


def test_the_line_has_the_slope_of_the_fit() -> None:
    fit = twonn.linear_fit(1 + torch.rand(100))
    line = plots.twonn_line(fit).lines[-1]
    slope = np.diff(line.get_ydata()) / np.diff(line.get_xdata())
    assert slope.item() == pytest.approx(fit.dimension)


def test_the_line_of_a_calibrated_fit_goes_through_its_points_and_names_both_numbers() -> None:
    fit = twonn.linear_fit(balls.draw(200, 20, 3), calibrated=True)
    ax = plots.twonn_line(fit)
    points, line = ax.lines[0], ax.lines[-1]
    assert fit.slope < 0.85 * fit.dimension
    drawn = np.interp(points.get_xdata(), line.get_xdata(), line.get_ydata())
    # The least-squares line through the origin: what is left is orthogonal to x.
    left = np.asarray(points.get_ydata()) - drawn
    assert left @ np.asarray(points.get_xdata()) == pytest.approx(0, abs=1e-9)
    assert line.get_label() == f"slope {fit.slope:.2f},\ncalibrated d = {fit.dimension:.2f}"


def test_a_pareto_sample_lies_on_the_diagonal() -> None:
    ratios = (1 - (torch.arange(1000) + 0.5) / 1000) ** (-1 / 3.0)
    points = plots.pareto_quantiles(ratios, 3.0).lines[0]
    assert points.get_xdata() == pytest.approx(points.get_ydata())


def test_the_spectrum_marks_what_holds_the_variance() -> None:
    found = spectrum.pca(torch.randn(50, 4))
    ax = plots.spectrum(found)
    assert ax.lines[1].get_xdata()[0] == found.dimension
    assert len(ax.lines[0].get_xdata()) == 4


def test_bars_have_errors_only_where_there_are_points() -> None:
    found = histogram(torch.tensor([0.0, 0.1, 0.2, 3.0]), bins=3)
    ax = plots.histogram(found, curves={"flat": (torch.zeros(2), torch.ones(2))})
    (bars,) = ax.collections
    assert len(bars.get_segments()) == 2
    assert ax.get_legend().get_texts()[0].get_text() == "flat"


def test_a_method_has_one_color_in_every_picture() -> None:
    draws = {"exact": torch.randn(500), "NUTS": torch.randn(500)}
    ax = plots.posteriors(draws, label="d")
    assert [line.get_color() for line in ax.lines] == [
        plots.color_of("exact"), plots.color_of("nuts, 4 chains"),
    ]  # fmt: skip
    assert plots.color_of("something else") == plots.COLORS["grey"]
    area = np.trapezoid(ax.lines[0].get_ydata(), ax.lines[0].get_xdata())
    assert area == pytest.approx(1.0, abs=0.02)


def test_points_are_named_after_their_labels() -> None:
    ax = plots.points(torch.randn(6, 2), torch.tensor([3, 3, 5, 5, 7, 7]))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["3", "5", "7"]
    assert plots.points(torch.randn(6, 2)).get_legend() is None


def test_the_bound_rises_where_the_loss_falls() -> None:
    history = History([3.0, 2.0, 1.0], [3.5, 2.5, 2.6], 1, False, 3, 0.1)
    ax = plots.training(history)
    assert ax.lines[0].get_ydata().tolist() == [-3, -2, -1]
    assert ax.lines[2].get_xdata()[0] == 2, "the second epoch was kept"


def test_the_least_score_is_marked() -> None:
    ax = plots.score(np.array([1, 2, 3]), np.array([5.0, 4.0, 6.0]))
    assert ax.lines[1].get_xdata().tolist() == [2]


def test_a_picture_leaves_no_figure_open(tmp_path: Path) -> None:
    axes = plots.panels(3, columns=2)
    assert len(axes) == 3
    assert plots.png(axes[0]).startswith(b"\x89PNG")
    assert not plt.get_fignums()
