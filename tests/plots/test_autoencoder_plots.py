import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pplvae.autoencoders import linear
from pplvae.plots import autoencoders as plots
from pplvae.plots.style import COLORS


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def picture(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def test_rows_stand_under_each_other_in_their_order_and_are_named() -> None:
    rows = {name: torch.full((3, 4), value) for name, value in
            [("noisy", 0.2), ("denoised", 0.5), ("truth", 1.0)]}  # fmt: skip
    ax = plots.image_rows(rows, (2, 2), limits=(0.0, 1.0))
    assert picture(ax).shape == (3 * 2 + 2, 3 * 2 + 2)
    assert picture(ax)[::3, 0] == pytest.approx([0.2, 0.5, 1.0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["noisy", "denoised", "truth"]


def test_rows_may_be_colored() -> None:
    x = torch.zeros(2, 12)
    x[:, 4:8] = 1  # the green channel
    ax = plots.image_rows({"original": x, "reconstruction": x}, (3, 2, 2))
    assert picture(ax)[0, 0].tolist() == [0, 1, 0]


def test_refuses_rows_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"rows must be images of one shape .*, got \[\(2, 4\), "):
        plots.image_rows({"a": torch.ones(2, 4), "b": torch.ones(3, 4)}, (2, 2))
    with pytest.raises(ValueError, match=r"rows must be images of one shape .*, got none"):
        plots.image_rows({}, (2, 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_pictures_of_nothing(bad: float) -> None:
    with pytest.raises(
        ValueError, match=r"^rows must be images of one shape .*, got \[\(0, 4\)\]$"
    ):
        plots.image_rows({"a": torch.ones(0, 4), "b": torch.ones(0, 4)}, (2, 2))
    with pytest.raises(ValueError, match=r"^rows\['b'\] must be finite, got 8 nan or inf$"):
        plots.image_rows({"a": torch.ones(2, 4), "b": torch.full((2, 4), bad)}, (2, 2))
    with pytest.raises(
        ValueError, match=r"^directions must hold images of 4 .*, got shape \(0, 4\)"
    ):
        plots.components(torch.ones(0, 4), (2, 2))
    with pytest.raises(ValueError, match=r"^directions must be finite, got 4 nan or inf$"):
        plots.components(torch.full((1, 4), bad), (2, 2))


def test_codes_of_two_numbers_are_drawn_as_they_are() -> None:
    z, labels = torch.randn(30, 2), torch.arange(30) % 3
    ax = plots.codes(z, labels)
    drawn = np.asarray(ax.collections[0].get_offsets())
    assert sorted(drawn[:, 0]) == pytest.approx(sorted(z[:, 0].tolist()))
    assert len({tuple(color) for color in ax.collections[0].get_facecolors()}) == 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


def test_longer_codes_are_drawn_along_their_principal_axes() -> None:
    z = torch.randn(200, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 0.1])
    ax = plots.codes(z)
    drawn = np.asarray(ax.collections[0].get_offsets())
    centered = (z - z.mean(0)).numpy()
    assert abs(np.corrcoef(drawn[:, 0], centered[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(drawn[:, 1], centered[:, 3])[0, 1]) > 0.99
    singular = np.linalg.svd(centered, compute_uv=False)
    share = 100 * singular[0] ** 2 / (singular**2).sum()
    assert ax.get_xlabel() == f"principal axis 1 of z ({share:.0f} %)"


def test_refuses_codes_that_make_no_plane() -> None:
    with pytest.raises(ValueError, match=r"z must have shape \(N, L\) with L at least 2, got"):
        plots.codes(torch.randn(30, 1))
    with pytest.raises(ValueError, match=r"^z must hold at least 1 points, got 0$"):
        plots.codes(torch.randn(0, 3))
    with pytest.raises(ValueError, match=r"^z must be finite, got 1 nan or inf$"):
        plots.codes(torch.tensor([[1.0, 2.0, math.nan], [0.0, 1.0, 2.0]]))


@pytest.mark.parametrize("num", [29, 31, 0])
def test_refuses_labels_that_are_not_one_for_each_code(num: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^labels must be one for each of 30 codes, got .*{num}"
    ):
        plots.codes(torch.randn(30, 3), torch.zeros(num))


@pytest.mark.parametrize("num", [1, 5])
def test_codes_that_are_all_the_same_have_no_principal_axes(num: int) -> None:
    ax = plots.codes(torch.tensor([[0.1, 0.2, 0.3]]).expand(num, 3))
    drawn = np.asarray(ax.collections[0].get_offsets())
    assert drawn == pytest.approx(np.tile([0.1, 0.2], (num, 1)))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_two_codes_of_any_size_lie_on_one_axis(scale: float) -> None:
    ax = plots.codes(scale * torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    assert ax.get_xlabel() == "principal axis 1 of z (100 %)"


def test_components_are_grey_where_they_are_zero() -> None:
    directions = torch.tensor([[0.0, 0.5, -0.5, 0.0], [0.0, -1.0, 0.0, 0.0]])
    found = picture(plots.components(directions, (2, 2)))
    assert found[0, :2] == pytest.approx([0.5, 0.75])
    assert found[0, 3:] == pytest.approx([0.5, 0.0])
    assert found[1, :2] == pytest.approx([0.25, 0.5])
    flat = picture(plots.components(torch.zeros(1, 4), (2, 2)))
    assert flat == pytest.approx(0.5)


def test_each_model_has_its_curve_color_and_place_in_the_legend() -> None:
    errors = {
        "PCA": {30: 14.0, 2: 40.0}, "linear": {2: 40.0, 30: 14.0}, "stacked, tuned": {30: 5.0},
        "convolutional": {2: 30.0}, "VAE": {2: 33.0, 30: 7.0}, "mine": {8: 9.0},
    }  # fmt: skip
    ax = plots.code_sizes(errors)
    assert ax.lines[0].get_xdata().tolist() == [2, 30]
    assert ax.lines[0].get_ydata().tolist() == [40.0, 14.0]
    colors = [line.get_color() for line in ax.lines]
    names = ("black", "sky", "blue", "vermilion", "green", "grey")
    assert colors == [COLORS[name] for name in names]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [*errors]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "8", "30"]
    assert ax.get_yscale() == "log"


def test_an_error_of_zero_stands_on_the_lower_edge() -> None:
    """With as many numbers as columns PCA loses nothing but rounding."""
    x = torch.randn(50, 4)
    lost = linear.fit(x, 4).error
    assert 0 < lost < 1e-12
    ax = plots.code_sizes({"PCA": {1: 3.0, 2: 1.0, 4: lost}, "VAE": {4: 0.0, 2: 2.0}})
    edge = ax.get_ylim()[0]
    assert edge == 0.32, "below 1 and between two numbers of the axis"
    assert ax.lines[0].get_ydata().tolist() == [3.0, 1.0, edge]
    assert ax.lines[1].get_ydata().tolist() == [2.0, edge]
    assert [text.get_text() for text in ax.texts] == ["0"]
    ax.figure.canvas.draw()
    small = plots.code_sizes({"PCA": {1: 3.0, 2: 1e-6}})
    assert not small.texts, "all errors are above 0"
    nothing = plots.code_sizes({"PCA": {4: 0.0}})
    assert nothing.lines[0].get_ydata().tolist() == [0.0]
    nothing.figure.canvas.draw()


@pytest.mark.parametrize("error", [1e-9, 0.3, 1.0, 2.1, 6.4, 9.99, 1e7])
def test_zero_is_well_below_the_least_error(error: float) -> None:
    edge = plots.code_sizes({"PCA": {1: error, 2: 0.0}}).get_ylim()[0]
    assert 0.18 * error < edge < 0.5 * error


@pytest.mark.parametrize(
    ("errors", "rule"),
    [
        ({2: math.nan}, r"errors\['PCA'\]\[2\] must be finite and at least 0, got nan"),
        ({2: -1.0}, r"errors\['PCA'\]\[2\] must be finite and at least 0, got -1.0"),
        ({2: math.inf}, r"errors\['PCA'\]\[2\] must be finite and at least 0, got inf"),
        ({0: 1.0}, r"sizes in errors\['PCA'\] must be at least 1, got 0"),
        ({"2": 1.0}, r"sizes in errors\['PCA'\] must be a whole number, got '2'"),
    ],
)
def test_refuses_what_is_no_error_by_size(errors: dict[int, float], rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        plots.code_sizes({"PCA": errors})
    assert not plt.get_fignums(), "no empty figure is left"


@pytest.mark.parametrize("errors", [{}, {"PCA": {}}])
def test_refuses_to_draw_nothing(errors: dict[str, dict[int, float]]) -> None:
    with pytest.raises(ValueError, match=r"errors must hold at least one number for each model"):
        plots.code_sizes(errors)
