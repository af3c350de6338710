from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

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


@pytest.mark.parametrize("errors", [{}, {"PCA": {}}])
def test_refuses_to_draw_nothing(errors: dict[str, dict[int, float]]) -> None:
    with pytest.raises(ValueError, match=r"errors must hold at least one number for each model"):
        plots.code_sizes(errors)
