import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pplvae import autoencoders, plots
from pplvae.optimize import History


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def picture(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def said(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_each_row_is_an_axis_and_each_column_a_step() -> None:
    images = torch.arange(6.0).reshape(2, 3, 1).expand(2, 3, 4)
    ax = plots.traversals(images, (2, 2))
    assert picture(ax).shape == (2 * 2 + 1, 3 * 2 + 2)
    assert picture(ax)[::3, ::3] == pytest.approx(np.arange(6).reshape(2, 3) / 5)
    assert said(ax) == ["$z_{1}$", "$z_{2}$"]
    assert ax.get_yticks().tolist() == [0.5, 3.5], "in the middle of the row"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2.5 %", "50 %", "97.5 %"]
    assert ax.get_xticks().tolist() == [0.5, 3.5, 6.5], "under first, middle and last column"


def test_the_quantiles_are_those_of_any_traverse() -> None:
    """A VAE has a prior; an autoencoder sweeps between quantiles of its codes."""
    swept = autoencoders.traverse(autoencoders.mlp(4, 2, seed=0), torch.randn(9, 4), num_steps=3)
    assert plots.traversals(swept, (2, 2)).get_xlabel() == "quantile of the latent variable"


def test_chosen_axes_have_their_own_names_and_quantiles_may_be_left_out() -> None:
    ax = plots.traversals(torch.zeros(2, 3, 4), (2, 2), names=["width", "tilt"], share=None)
    assert said(ax) == ["width", "tilt"]
    assert not ax.get_xticklabels()
    with pytest.raises(ValueError, match="names must be one for each of 2 axes, got 1"):
        plots.traversals(torch.zeros(2, 3, 4), (2, 2), names=["width"])


@pytest.mark.parametrize("colors", [1, 3])
def test_ways_run_between_their_ends_which_stand_apart(colors: int) -> None:
    size = colors * 64
    images = torch.linspace(0.2, 0.8, 5)[None, :, None].expand(2, 5, size)
    ends = torch.zeros(2, size), torch.ones(2, size)
    ax = plots.interpolation(images, (colors, 8, 8), ends=ends)
    row = picture(ax)[4].reshape(picture(ax).shape[1], -1)[:, 0]
    assert len(row) == 8 + 2 + (5 * 8 + 4) + 2 + 8
    assert row[:8].tolist() == [0] * 8
    assert row[-8:].tolist() == [1] * 8
    assert row[10:-10:9] == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8])


def test_one_way_is_one_row() -> None:
    ax = plots.interpolation(torch.rand(5, 64), (8, 8), ends=(torch.rand(64), torch.rand(64)))
    assert picture(ax).shape == (8, 8 + 2 + 44 + 2 + 8)
    assert picture(plots.interpolation(torch.rand(5, 64), (8, 8))).shape == (8, 44)


def test_refuses_images_that_are_no_ways() -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(A, S, D\), got \(3, 64\)"):
        plots.traversals(torch.zeros(3, 64), (8, 8))
    with pytest.raises(ValueError, match=r"images must have shape \(A, S, D\), got \(3, 0, 64\)"):
        plots.traversals(torch.zeros(3, 0, 64), (8, 8))
    with pytest.raises(ValueError, match="images must be finite, got 1 nan or inf"):
        plots.traversals(torch.tensor([[[math.nan]]]), (1, 1))
    with pytest.raises(ValueError, match="images must hold images of 49 numbers"):
        plots.interpolation(torch.zeros(3, 5, 64), (7, 7))
    ends = torch.zeros(64), torch.zeros(3, 64)
    with pytest.raises(ValueError, match="ends must be one on each side of 3 ways, got 1 and 3"):
        plots.interpolation(torch.zeros(3, 5, 64), (8, 8), ends=ends)


def test_limits_say_what_is_black_and_white() -> None:
    x = torch.tensor([[0.25], [0.5], [2.0]])
    free = picture(plots.mosaic(x, (1, 1)))[0, ::2]
    told = picture(plots.mosaic(x, (1, 1), limits=(0.0, 1.0)))[0, ::2]
    assert free == pytest.approx([0, 1 / 7, 1])
    assert told == pytest.approx([0.25, 0.5, 1]), "what lies beyond is white"


def test_grey_stays_grey_on_the_screen() -> None:
    """Matplotlib would stretch an even picture to black and white by itself."""
    shown = plots.mosaic(torch.tensor([[0.5]]), (1, 1), limits=(0.0, 1.0)).images[0]
    assert shown.get_clim() == (0, 1)


def test_a_manifold_of_small_images_has_lines_between_them() -> None:
    assert picture(plots.manifold(torch.rand(3, 3, 64), (8, 8))).shape == (26, 26)
    assert picture(plots.manifold(torch.rand(3, 3, 3 * 256), (3, 16, 16))).shape == (48, 48, 3)


def test_no_class_hides_another() -> None:
    """The drawing order is mixed: of two classes on one spot each is on top of the other."""
    labels = torch.arange(2).repeat_interleave(500)
    ax = plots.points(torch.zeros(1000, 2), labels)
    colors = ax.collections[0].get_facecolor()
    first = (colors == colors[0]).all(axis=1)
    # The mean rank of 500 of 1000 errs by 1000 / √12 / √1000 = 9: five of those.
    assert np.flatnonzero(first).mean() == pytest.approx(499.5, abs=46)
    assert first.sum() == 500


def test_ten_classes_have_ten_colors_and_names_in_their_middle() -> None:
    labels = torch.arange(10).repeat(30)
    x = torch.stack([labels, -labels], 1) + 0.01 * torch.randn(300, 2)
    ax = plots.points(x, labels, names=[f"class {i}" for i in range(10)], centers=True)
    assert len({tuple(color[:3]) for color in ax.collections[0].get_facecolor()}) == 10
    for i, text in enumerate(ax.texts):
        assert text.get_text() == f"class {i}"
        assert text.get_position() == pytest.approx((i, -i), abs=0.03)
    keys = [handle.get_facecolor()[0] for handle in ax.get_legend().legend_handles]
    drawn = ax.collections[0].get_facecolor()
    place = ax.collections[0].get_offsets()
    for i, key in enumerate(keys):
        nearest = np.abs(np.asarray(place) - [i, -i]).sum(axis=1).argmin()
        assert key[:3] == pytest.approx(drawn[nearest][:3]), "the legend names the right color"


def test_the_true_bound_stands_beside_a_weighted_one() -> None:
    watched = {"elbo": [math.nan, -40.0, -35.0]}
    history = History([30.0, 20.0, 10.0], [31.0, 21.0, 11.0], 2, False, 3, 0.1, watched)
    ax = plots.training(history, objective="weighted")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["weighted, training", "ELBO, training", "ELBO, held out", "kept"]
    assert ax.lines[1].get_ydata()[1:].tolist() == [-40, -35]
    assert ax.get_ylabel() == "nats", "which of them is said in the legend"
    low, high = ax.get_ylim()
    assert low < -39 < -10 < high
    with pytest.raises(ValueError, match="ELBO, training must hold 3 epochs, got 2"):
        plots.training(history, elbo=[-40.0, -35.0])


def test_code_lengths_stand_in_order_with_two_standard_errors() -> None:
    values = {"worse": (4.5, 0.02), "better": (3.9, 0.01)}
    ax = plots.bits_per_dimension(values, published={"someone": 4.2})
    assert said(ax) == ["better", "someone", "worse"]
    assert ax.yaxis_inverted(), "the fewest on top"
    assert [text.get_text() for text in ax.texts] == ["3.900 ± 0.010", "4.200", "4.500 ± 0.020"]
    bars = [c.get_segments()[0][:, 0] for c in ax.collections if hasattr(c, "get_segments")]
    assert np.ptp(bars, axis=1) == pytest.approx([0.04, 0.08])
    with pytest.raises(ValueError, match="values must hold at least one fit, got none"):
        plots.bits_per_dimension({})


def test_draws_where_it_is_told() -> None:
    for draw in (
        lambda ax: plots.traversals(torch.zeros(1, 2, 4), (2, 2), ax=ax),
        lambda ax: plots.interpolation(torch.zeros(2, 4), (2, 2), ax=ax),
        lambda ax: plots.bits_per_dimension({"a": (1.0, 0.1)}, ax=ax),
    ):
        ax = plt.figure().add_subplot()
        assert draw(ax) is ax
