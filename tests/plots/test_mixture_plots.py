import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from PIL import Image
from torch import Tensor

from pplvae import plots
from pplvae.mixtures import GaussianMixture, selection
from pplvae.mixtures.posterior import PredictiveDensity
from pplvae.plots.mixtures import mixture_interval
from pplvae.plots.points import class_colors


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def two(weight: float = 0.25, apart: float = 3.0) -> GaussianMixture:
    trils = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[2.0, 0.0], [0.0, 1.0]]])
    locs = torch.tensor([[0.0, 0.0], [apart, 1.0]])
    return GaussianMixture(torch.tensor([weight, 1 - weight]), locs, trils)


def ellipses(ax: plt.Axes) -> list[Tensor]:
    """The colored ellipses, shapes (200, 2); each has a white one below it."""
    return [torch.from_numpy(np.stack([*line.get_data()], axis=1)) for line in ax.lines[1::2]]


@pytest.mark.parametrize(
    "draw", [plots.mixture, plots.mixture_responsibilities, plots.mixture_uncertainty]
)
def test_ellipses_hold_two_standard_deviations(draw: Callable) -> None:
    ours = two()
    found = ellipses(draw(torch.randn(30, 2), ours))
    assert len(found) == 2
    for ellipse, loc, tril in zip(found, ours.locs, ours.scale_trils, strict=True):
        whitened = torch.linalg.solve_triangular(tril, (ellipse - loc).T, upper=False)
        torch.testing.assert_close(whitened.norm(dim=0), torch.full((200,), 2.0))


def test_the_heavier_component_has_the_thicker_ellipse_and_its_weight_beside_it() -> None:
    ax = plots.mixture(torch.randn(30, 2), two(0.25))
    light, heavy = ax.lines[1::2]
    ratio = heavy.get_linewidth() / light.get_linewidth()
    assert ratio == pytest.approx(math.sqrt(3)), "areas of lines are as the weights"
    assert [text.get_text() for text in ax.texts] == ["0.25", "0.75"]
    assert ax.texts[1].get_position() == (3.0, 1.0)


def test_many_weights_are_not_written() -> None:
    many = GaussianMixture(
        torch.full((20,), 0.05), torch.randn(20, 2), torch.eye(2).repeat(20, 1, 1)
    )
    assert not plots.mixture(torch.randn(9, 2), many).texts


def test_points_have_the_color_of_their_component() -> None:
    ours, x = two(apart=50.0), torch.tensor([[50.0, 1.0], [0.0, 0.0], [51.0, 0.0]])
    colors = plots.mixture(x, ours).collections[0].get_facecolors()[:, :3]
    first, second = class_colors(2)
    assert colors == pytest.approx(np.array([second, first, second]))


def test_a_point_between_components_has_a_color_between() -> None:
    ours, x = two(), torch.tensor([[1.0, 0.4]])
    share = ours.responsibilities(x)[0, 0].item()
    assert 0.1 < share < 0.9
    color = plots.mixture_responsibilities(x, ours).collections[0].get_facecolors()[0, :3]
    first, second = (np.array(c) for c in class_colors(2))
    assert color == pytest.approx(share * first + (1 - share) * second)


def test_the_unsure_are_darker_and_larger_and_on_top() -> None:
    ours, x = two(), torch.tensor([[1.0, 0.4], [-3.0, -2.0], [9.0, 1.0]])
    unsure = 1 - ours.responsibilities(x).amax(dim=1)
    assert unsure[0] > 0.2 > unsure[1:].max()
    dots = plots.mixture_uncertainty(x, ours).collections[0]
    assert np.asarray(dots.get_array()) == pytest.approx(unsure.sort().values.numpy())
    assert dots.get_clim() == (0, 0.5), "two components are at most that unsure"
    assert (np.diff(dots.get_sizes()) > 0).all()
    shades = dots.cmap(dots.norm(np.asarray(dots.get_array())))[:, :3].sum(axis=1)
    assert (np.diff(shades) < 0).all()


def test_one_component_is_never_unsure() -> None:
    one = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    dots = plots.mixture_uncertainty(torch.randn(5, 2), one).collections[0]
    assert np.asarray(dots.get_array()) == pytest.approx(0.0)


def test_contours_enclose_the_mass_they_name() -> None:
    """Of a standard normal: p % lie within √(−2 log(1 − p)); 40,000 draws know that to 2 %."""
    one = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    ax = plots.mixture_density(one, masses=(0.5, 0.9))
    outer, inner = ax.collections[0].get_paths()
    for path, mass in ((inner, 0.5), (outer, 0.9)):
        radii = np.linalg.norm(path.vertices, axis=1)
        assert radii == pytest.approx(math.sqrt(-2 * math.log(1 - mass)), rel=0.02)
    assert {text.get_text() for text in ax.texts} == {"50 %", "90 %"}
    assert len(plots.mixture_density(one, torch.randn(7, 2)).collections[0].get_offsets()) == 7


def test_the_ellipse_of_a_mean_holds_its_draws() -> None:
    """Normal draws: 95 % of 4000 within it, to 5 standard errors of 0.35 %."""
    locs = torch.tensor([[0.0, 0.0], [5.0, 1.0]]) + torch.randn(2, 2000, 2, 2) * torch.tensor(
        [0.3, 0.1]
    )
    ax = plots.mixture_means(locs, torch.randn(9, 2))
    for k, ellipse in enumerate(ellipses(ax)):
        path = plt.Polygon(ellipse.numpy()).get_path()
        inside = path.contains_points(locs[:, :, k].reshape(-1, 2).numpy()).mean()
        assert abs(inside - 0.95) < 5 * 0.0035
    assert len(ax.collections) == 3, "the data and the draws of two means"
    assert len(ax.collections[1].get_offsets()) == 1000, "as many as can be told apart"


def test_the_band_lies_where_the_interval_does_and_the_line_between() -> None:
    x = torch.linspace(0, 1, 30)
    told = PredictiveDensity(1 + x, 0.5 + x, 2 + x, prob=0.8)
    ax = mixture_interval(x, told, torch.rand(90, 1))
    (line,) = ax.lines
    assert line.get_ydata() == pytest.approx((1 + x).numpy())
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((0.5, 3.0))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "data", "80 % interval", "posterior mean"
    ]  # fmt: skip
    area = sum(bar.get_width() * bar.get_height() for bar in ax.patches)
    assert area == pytest.approx(1.0), "the histogram is a density too"


def steps(num: int) -> list[GaussianMixture]:
    return [two(apart=3.0 + step) for step in range(num)]


def test_each_panel_is_the_step_it_says_in_the_same_view() -> None:
    x = torch.randn(40, 2)
    chosen = plots.mixture_steps(x, steps(17))
    assert [ax.get_title() for ax in chosen] == ["iteration 3", "iteration 5", "iteration 16"]
    centers = [ellipses(ax)[1][:-1].mean(dim=0)[0].item() for ax in chosen]
    assert centers == pytest.approx([6.0, 8.0, 19.0])
    assert len({ax.get_xlim() for ax in chosen}) == 1
    assert plots.mixture_steps(x, steps(1), [0])[0].get_title() == "start"


def test_an_animation_has_a_frame_for_each_step(tmp_path: Path) -> None:
    x, before = torch.randn(10, 2), set(plt.get_fignums())
    with plots.own_figures():
        plots.mixture_animation(x, steps(3), tmp_path / "em.gif", dots_per_inch=40)
    with Image.open(tmp_path / "em.gif") as film:
        assert film.n_frames == 3, "the last one stays"
        frames = []
        for number in range(3):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")).astype(float))
    assert np.abs(frames[1] - frames[0]).max() > 50
    assert [path.name for path in tmp_path.iterdir()] == ["em.gif"]
    assert set(plt.get_fignums()) == before


@cache
def chosen() -> selection.Selection:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(90, 2, generator=rng, dtype=torch.float64)
    x = x + 8.0 * (torch.arange(90) % 2).unsqueeze(1)
    return selection.compare(x, [1, 2, 3], ("full", "diag"), criteria=("bic", "held_out"),
                             num_folds=2, seed=0, progress=False)  # fmt: skip


def test_each_form_has_its_curve_and_the_best_is_ringed() -> None:
    ax = plots.selection(chosen())
    table = chosen().table()
    curves = {box.get_label(): box.lines[0] for box in ax.containers}
    for form, line in curves.items():
        rows = table[table.covariance == form]
        assert line.get_xdata() == pytest.approx(rows.num_components)
        assert line.get_ydata() == pytest.approx(rows.bic)
    assert list(curves) == ["full", "diag"]
    ring = ax.lines[-1]
    best = table.loc[table.bic.idxmin()]
    assert ring.get_xdata() == [best.num_components]
    assert ring.get_ydata() == [best.bic]
    assert ax.get_ylabel() == "BIC"


def test_bars_are_of_the_difference_from_the_best() -> None:
    ax, table = plots.selection(chosen(), "held_out"), chosen().table()
    top = table.loc[table.held_out.idxmax()]
    assert ax.lines[-1].get_ydata() == [top.held_out]
    full = table[table.covariance == "full"]
    ends = np.array([line[:, 1] for line in ax.containers[0].lines[2][0].get_segments()])
    assert (ends[:, 1] - ends[:, 0]) / 2 == pytest.approx(full.held_out_gap_se.to_numpy())
    assert "nats per point" in ax.get_ylabel()


def test_a_degenerate_fit_is_hollow() -> None:
    x = torch.randn(3, 2).repeat(10, 1)
    ax = plots.selection(selection.compare(x, [1, 3], seed=0, progress=False))
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[3]]
    assert ax.lines[-1].get_xdata() == [1]
    assert to_rgb(ax.lines[-1].get_color()) == to_rgb(plots.COLORS["vermilion"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: plots.mixture(torch.zeros(5, 3), m), r"x must have shape \(N, 2\), got \(5, 3"),
        (
            lambda m: plots.mixture_responsibilities(torch.zeros(5, 2), m.marginal([0])),
            "x must have 1 columns, got 2",
        ),
        (lambda m: plots.mixture_density(m.marginal([0])), "mixture must be in two dimensions"),
        (
            lambda m: plots.mixture_density(m, masses=(0.5, 1.0)),
            r"masses must be in \(0, 1\), got \[0.5, 1.0\]",
        ),
        (
            lambda _: plots.mixture_means(torch.zeros(4, 3, 5)),
            r"locs must be draws of shape \(…, K, 2\), got \(4, 3, 5\)",
        ),
        (lambda _: plots.mixture_means(torch.zeros(1, 3, 2)), "locs must be draws of shape"),
        (
            lambda m: plots.mixture_steps(torch.zeros(4, 2), [m] * 3),
            r"steps must be in \[0, 2\] for 3 mixtures, got 3",
        ),
        (
            lambda m: plots.mixture_animation(torch.zeros(4, 2), [m], "em.png"),
            "path must end in .gif, got em.png",
        ),
        (
            lambda m: plots.mixture_animation(torch.zeros(4, 2), [], None),
            "the number of mixtures must be at least 1, got 0",
        ),
        (
            lambda _: mixture_interval(
                torch.zeros(4), PredictiveDensity(*torch.zeros(3, 5), prob=0.9)
            ),
            "x must hold 5 places, got 4",
        ),
        (lambda _: plots.selection(chosen(), "aic"), "criterion must be one of bic, held_out"),
    ],
)
def test_refuses_what_cannot_be_drawn(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(two())
