from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from pplvae import plots
from pplvae.infer import Posterior
from pplvae.intrinsic_dimension import (
    binomial,
    components,
    danco,
    grid,
    levina_bickel,
    predictive,
    scaling,
    twonn,
)
from pplvae.intrinsic_dimension.abide import AdaptiveScale
from pplvae.intrinsic_dimension.gamma import GammaPosterior
from pplvae.intrinsic_dimension.hidalgo import Hidalgo
from pplvae.intrinsic_dimension.levina_bickel import Pointwise, pointwise
from pplvae.intrinsic_dimension.scales import Plateau, Profile
from pplvae.intrinsic_dimension.spectrum import pca
from pplvae.neighbors import from_distances, graph
from pplvae.plots.dimension import rounded, spanned
from pplvae.plots.points import CLASSES


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def said(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def drawn(ax: Axes, line: int = 0) -> tuple[np.ndarray, np.ndarray]:
    found = ax.lines[line]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


GAMMA = GammaPosterior(50.0, 10.0, 0.0)


def gridded(law: GammaPosterior) -> grid.GridPosterior:
    """The same law on a grid of log d, as for posteriors without a closed form."""
    return grid.posterior(
        lambda logs: law.distribution.log_prob(logs.exp()) + logs,
        torch.tensor(law.dimension).log(),
        law.standard_error / law.dimension,
    )


class TestPosterior:
    def test_a_density_integrates_to_one_and_its_interval_to_its_probability(self) -> None:
        calibrated = twonn.posterior(1 + torch.rand(200), calibrated=True)
        for posterior in (GAMMA, gridded(GAMMA), calibrated):
            ax = plots.dimension_posterior(posterior, prob=0.8)
            d, density = drawn(ax)
            # Less 1e-4 in each tail; trapezoids of 400 steps over 8 sds err by 1e-4 at most.
            assert np.trapezoid(density, d) == pytest.approx(1 - 2e-4, abs=3e-4)
            low, high = posterior.interval(0.8)
            inside = np.linspace(low, high, 500)
            area = np.trapezoid(np.interp(inside, d, density), inside)
            assert area == pytest.approx(0.8, abs=1e-3)
            shaded = ax.collections[0].get_paths()[0].vertices
            assert shaded[:, 0].min() == pytest.approx(low)
            assert shaded[:, 0].max() == pytest.approx(high)
            ends = [segment[0, 0] for segment in ax.collections[1].get_segments()]
            assert ends == pytest.approx([low, high])

    def test_a_grid_and_a_formula_draw_one_curve(self) -> None:
        ax = plots.dimension_posterior({"formula": GAMMA, "grid": gridded(GAMMA)})
        (d, density), (other, same) = drawn(ax, 0), drawn(ax, 1)
        # Central differences on a grid of steps h err by h² / 6 of the third derivative of the
        # distribution function: 1e-6 of the peak here.
        assert np.interp(d, other, same) == pytest.approx(density, abs=1e-4 * density.max())

    def test_calibration_moves_the_curve_as_it_moves_each_draw(self) -> None:
        posterior = twonn.posterior(1 + torch.rand(200), calibrated=True)
        d, density = drawn(plots.dimension_posterior(posterior))
        mean = np.trapezoid(d * density, d)
        assert mean == pytest.approx(posterior.dimension, rel=1e-3)
        assert abs(mean / posterior.uncalibrated.dimension - 1) > 0.01

    def test_several_stand_on_one_axis_by_name(self) -> None:
        plain, tempered = GammaPosterior(100.0, 20.0, 0.0), GammaPosterior(50.0, 10.0, 0.0)
        ax = plots.dimension_posterior({"plain": plain, "tempered": tempered}, truth=5)
        low, high = tempered.interval()
        assert said(ax)[1] == f"tempered: {spanned(5.0, low, high)}"
        assert said(ax)[2] == "truth: 5"
        assert ax.get_legend().get_title().get_text() == "mean and central 95 % interval"
        assert ax.lines[0].get_color() != ax.lines[1].get_color()
        assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
        assert list(ax.lines[2].get_xdata()) == [5, 5]
        assert ax.get_ylim()[0] == 0

    def test_an_estimate_is_drawn_by_its_law(self) -> None:
        x = torch.randn(100, 3)
        for estimate in (
            twonn.maximum_likelihood(x),
            twonn.maximum_likelihood(x, calibrated=True),
            levina_bickel.estimate(x),
        ):
            found, expected = (
                drawn(plots.dimension_posterior(e)) for e in (estimate, estimate.law)
            )
            np.testing.assert_array_equal(found, expected)

    def test_refuses_none_no_law_and_an_impossible_probability(self) -> None:
        with pytest.raises(ValueError, match="posterior must hold at least one, got none"):
            plots.dimension_posterior({})
        counts: Any = binomial.estimate(torch.randn(100, 3))
        with pytest.raises(ValueError, match="posterior must be a law of d, got BinomialFit"):
            plots.dimension_posterior({"counts": counts})
        with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 1"):
            plots.dimension_posterior(GAMMA, prob=1)


def profile(*, plateau: bool = True, errors: float = 0.1, name: str = "gride") -> Profile:
    scale, d = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.4]), torch.tensor([6.0, 3.0, 2.0, 2.0, 2.0])
    found = (Plateau(2.0, 0.1, (0.1, 0.4), (2, 5)),) if plateau else ()
    ones = torch.ones(5)
    return Profile(found, scale, d, errors * ones, ones.long(), 99 * ones.long(), name)


ADAPTIVE = AdaptiveScale(2.1, 0.05, torch.full((9,), 8), 0.15, True, 0.0, 16, (3.0, 2.1), 1.5)


class TestProfile:
    def test_a_profile_is_its_dimensions_against_its_scales_in_logs(self) -> None:
        found = profile()
        ax = plots.dimension_profile(found)
        scales, dimensions = drawn(ax)
        assert scales.tolist() == found.scales.tolist()
        assert dimensions.tolist() == found.dimensions.tolist()
        assert ax.get_xscale() == "log"
        assert ax.get_xlabel() == "length scale, in units of x"

    def test_its_band_is_its_interval(self) -> None:
        found = profile()
        band = plots.dimension_profile(found, prob=0.5).collections[0].get_paths()[0].vertices
        low, high = found.interval(0.5)
        for scale, ends in zip(found.scales, zip(low, high, strict=True), strict=True):
            there = band[np.isclose(band[:, 0], scale.item()), 1]
            assert [there.min(), there.max()] == pytest.approx([end.item() for end in ends])

    def test_there_is_no_band_where_the_error_is_unknown(self) -> None:
        ax = plots.dimension_profile(profile(errors=float("nan")))
        assert not any(len(path.vertices) for path in ax.collections[0].get_paths())

    def test_its_plateau_is_shaded_and_named(self) -> None:
        ax = plots.dimension_profile(profile())
        scales, dimensions = drawn(ax, 1)
        assert scales.tolist() == [0.1, 0.4]
        assert dimensions.tolist() == [2.0, 2.0]
        (shade,) = ax.patches
        box = shade.get_extents().transformed(ax.transData.inverted())
        assert [box.x0, box.x1] == pytest.approx([0.1, 0.4])
        assert said(ax) == ["gride: plateau at 2.00 ± 0.10"]

    def test_no_plateau_is_said_to_be_none(self) -> None:
        ax = plots.dimension_profile(profile(plateau=False))
        assert said(ax) == ["gride: no plateau"]
        assert len(ax.lines) == 1
        assert not ax.patches

    def test_the_adaptive_answer_is_a_level_line_in_its_interval(self) -> None:
        ax = plots.dimension_profile(profile(plateau=False), adaptive=ADAPTIVE, truth=2)
        assert drawn(ax, 1)[1] == pytest.approx([2.1, 2.1])
        (band,) = ax.patches
        box = band.get_extents().transformed(ax.transData.inverted())
        assert [box.y0, box.y1] == pytest.approx(ADAPTIVE.interval())
        assert said(ax) == ["gride: no plateau", "adaptive: 2.100 ± 0.050", "truth: 2"]

    def test_several_profiles_keep_apart_and_shade_nothing(self) -> None:
        both = {"Gride": profile(), "decimation": profile(plateau=False)}
        ax = plots.dimension_profile(both)
        assert said(ax) == ["Gride: plateau at 2.00 ± 0.10", "decimation: no plateau"]
        assert not ax.patches
        first, second = ax.lines[0], ax.lines[2]
        assert first.get_color() != second.get_color()
        assert first.get_marker() != second.get_marker()

    @pytest.mark.parametrize(
        ("factor", "spread"), [(1.0, 1.2), (1e-3, 3.0), (300.0, 3.0), (1.0, 50.0), (1e-3, 1e4)]
    )
    def test_numbers_on_the_scale_do_not_overlap(self, factor: float, spread: float) -> None:
        scales = factor * torch.logspace(0, np.log10(spread), 5)
        ax = plots.dimension_profile(replace(profile(plateau=False), scales=scales))
        ax.figure.canvas.draw()
        low, high = ax.get_xlim()
        labels = [label for place, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
                  if low <= place <= high]  # fmt: skip
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert len(boxes) >= 2
        assert not any(label.get_text() for label in ax.xaxis.get_ticklabels(minor=True))
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))

    def test_refuses_to_draw_none(self) -> None:
        with pytest.raises(ValueError, match="profile must hold at least one, got none"):
            plots.dimension_profile({})


class TestSpectrum:
    def test_rules_that_agree_share_a_line(self) -> None:
        cuts = {"threshold": 3, "kaiser": 2, "evidence": 3, "parallel analysis": 0}
        ax = plots.spectrum(pca(torch.randn(50, 4)), cuts=cuts)
        assert [line.get_xdata()[0] for line in ax.lines[1:]] == [0, 2, 3]
        assert said(ax) == ["0: parallel analysis", "2: kaiser", "3: threshold, evidence"]
        looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines[1:]}
        assert len(looks) == 3

    def test_real_rules_are_all_named_beside_the_picture(self) -> None:
        found = pca(torch.randn(100, 6) * torch.tensor([5.0, 3.0, 1.0, 0.1, 0.1, 0.1]))
        cuts = components.rules(found, seed=0, progress=False)
        ax = plots.spectrum(found, cuts=cuts)
        ax.figure.canvas.draw()
        text = " ".join(said(ax)).replace("\n", " ")
        assert all(rule in text for rule in cuts)
        assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1

    def test_refuses_no_rules(self) -> None:
        with pytest.raises(ValueError, match="cuts must hold at least one, got none"):
            plots.spectrum(pca(torch.randn(50, 4)), cuts={})


class TestLocal:
    def test_each_point_has_the_color_of_its_own_dimension(self) -> None:
        x, local = torch.rand(50, 2), torch.linspace(1, 3, 50)
        cloud = plots.local_dimension(x, local).collections[0]
        place = np.asarray(cloud.get_offsets())
        rows = [np.flatnonzero((x.numpy() == each).all(axis=1)).item() for each in place]
        assert sorted(rows) == list(range(50))
        assert np.asarray(cloud.get_array()) == pytest.approx(local.numpy()[rows])

    def test_few_far_off_do_not_use_up_the_colors(self) -> None:
        local = torch.linspace(1, 3, 100)
        local[-1], local[-2] = float("inf"), 50.0
        ax = plots.local_dimension(torch.rand(100, 2), local)
        cloud = ax.collections[0]
        low, high = cloud.get_clim()
        # The 2nd and 98th percentile of 99 finite numbers, all but one of them even in [1, 3].
        assert (low, high) == pytest.approx((1.04, 2.97), abs=0.03)
        assert len(cloud.get_offsets()) == np.asarray(cloud.get_array()).size == 100
        assert np.isfinite(np.asarray(cloud.get_array())).all(), "the infinite one is drawn too"
        assert cloud.colorbar.extend == "both"
        assert cloud.colorbar.ax.get_ylabel() == "local dimension"
        limited = plots.local_dimension(torch.rand(100, 2), local, limits=(0, 60)).collections[0]
        assert limited.get_clim() == (0, 60)
        assert limited.colorbar.extend == "max", "only the infinite one lies beyond"

    def test_points_of_space_are_seen_along_their_first_two_components(self) -> None:
        x = torch.randn(60, 5) * torch.tensor([1.0, 9.0, 0.1, 5.0, 0.1])
        ax = plots.local_dimension(x, torch.rand(60))
        seen = torch.tensor(np.asarray(ax.collections[0].get_offsets()))
        expected = pca(x).project(x, 2)
        torch.testing.assert_close(seen.sort(dim=0).values, expected.sort(dim=0).values)
        assert ax.get_xlabel() == "first principal component"
        assert not plots.local_dimension(x[:, :2], torch.rand(60)).get_xlabel()

    def test_a_graph_and_the_posteriors_of_its_points_are_taken_as_they_are(self) -> None:
        x = torch.rand(80, 2)
        with pytest.warns(UserWarning, match="repeat"):
            found = graph(torch.cat([x, x[:5]]), 10)
        local = pointwise(found, smooth=True)
        cloud = plots.local_dimension(found, local).collections[0]
        assert np.sort(np.asarray(cloud.get_array())) == pytest.approx(np.sort(local.mean.numpy()))

    @pytest.mark.parametrize(
        ("local", "got"),
        [
            (torch.rand(9), r"\(9,\) with 9 finite"),
            (torch.full((10,), torch.inf), r"\(10,\) with 0 finite"),
            (torch.ones(10).index_fill(0, torch.tensor([3]), torch.nan), r"\(10,\) with 9 finite"),
            (Pointwise(1.0, 2.0, torch.ones(8), 3), r"\(8,\) with 8 finite"),
        ],
    )
    def test_refuses_other_than_a_dimension_for_each_point(
        self, local: Tensor | Pointwise, got: str
    ) -> None:
        rule = "local must hold a dimension for each of 10 points, got "
        with pytest.raises(ValueError, match=rule + got):
            plots.local_dimension(torch.rand(10, 2), local)

    def test_refuses_points_that_have_no_plane(self) -> None:
        with pytest.raises(ValueError, match="points must have at least 2 columns, got 1"):
            plots.local_dimension(torch.rand(10, 1), torch.ones(10))
        x = torch.rand(10, 2)
        bare = from_distances(torch.cdist(x, x), num_neighbors=3)
        with pytest.raises(ValueError, match="points must have coordinates, got distances alone"):
            plots.local_dimension(bare, torch.ones(10))


def hidalgo(probabilities: Tensor, dimensions: list[float]) -> Hidalgo:
    d = torch.tensor(dimensions)
    weights = probabilities.mean(dim=0)
    posterior = Posterior({"dimensions": d.expand(1, 1, -1)}, method="em")
    return Hidalgo(d, 0.1 * torch.ones_like(d), weights, probabilities, 0.0, True,
                   torch.ones_like(d), "em", posterior, None)  # fmt: skip


class TestParts:
    def test_a_point_has_the_color_of_its_part_and_is_faint_where_unsure(self) -> None:
        x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        sure = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]])
        cloud = plots.dimension_parts(x, hidalgo(sure, [1.0, 3.0])).collections[0]
        shades = np.asarray(cloud.get_facecolors())[
            np.argsort(np.asarray(cloud.get_offsets())[:, 0])
        ]
        assert shades[0, :3] == pytest.approx(to_rgb(CLASSES[0]))
        assert shades[1, :3] == pytest.approx(to_rgb(CLASSES[1]))
        # Half as sure, half as far from the faintest.
        assert shades[1, 3] == pytest.approx((shades[0, 3] + shades[2, 3]) / 2)
        assert shades[0, 3] > 0.8
        assert shades[2, 3] < 0.2

    def test_each_part_says_its_dimension_and_share(self) -> None:
        probabilities = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
        ax = plots.dimension_parts(torch.rand(4, 2), hidalgo(probabilities, [1.0, 3.0]))
        assert said(ax) == ["d = 1.00 ± 0.10  (75%)", "d = 3.00 ± 0.10  (25%)"]
        colors = [handle.get_facecolor()[0, :3] for handle in ax.get_legend().legend_handles]
        assert np.array(colors) == pytest.approx(np.array([to_rgb(c) for c in CLASSES[:2]]))

    def test_the_legend_hides_no_point(self) -> None:
        parts = hidalgo(torch.eye(3).repeat(4, 1), [1.0, 3.0, 5.0])
        ax = plots.dimension_parts(torch.rand(12, 2), parts)
        ax.figure.canvas.draw()
        assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1

    def test_of_one_part_every_point_is_sure(self) -> None:
        ax = plots.dimension_parts(torch.rand(4, 2), hidalgo(torch.ones(4, 1), [2.0]))
        assert np.asarray(ax.collections[0].get_facecolors())[:, 3] == pytest.approx(0.9)

    def test_refuses_parts_of_other_points(self) -> None:
        with pytest.raises(ValueError, match="hidalgo must know each of 5 points, got 4"):
            plots.dimension_parts(torch.rand(5, 2), hidalgo(torch.ones(4, 1), [2.0]))


class TestLines:
    @pytest.mark.parametrize(("against", "label"), [("digamma", "psi"), ("log", "log")])
    def test_the_pooled_line_is_the_regression_of_what_is_drawn(
        self, against: str, label: str
    ) -> None:
        found = scaling.slopes(torch.rand(300, 3), against=against)
        ax = plots.scaling_line(found)
        (x, line), (ranks, logs) = drawn(ax, 1), drawn(ax, 0)
        assert ranks.tolist() == found.ranks.tolist()
        assert logs.tolist() == found.log_distances.tolist()
        # The points' mean slope is the slope of their means, and 1 / d.
        slope, offset = np.polyfit(ranks, logs, 1)
        assert line == pytest.approx(offset + slope * x)
        assert slope == pytest.approx(1 / found.dimension)
        assert label in ax.get_xlabel()
        assert rounded(found.dimension, found.standard_error) in said(ax)[1]
        assert [text.get_text() for text in ax.texts] == ["k = 1", "k = 10"]

    def test_danco_marks_both_its_answers(self) -> None:
        found = danco.Danco(2.3, 2, 2.0, 1.0, 1.0, torch.tensor([3.0, 0.1, 0.4, 0.9]), 99, 10)
        ax = plots.danco_divergence(found)
        assert drawn(ax)[0].tolist() == [1, 2, 3, 4]
        assert drawn(ax)[1] == pytest.approx([3.0, 0.1, 0.4, 0.9])
        assert list(ax.lines[1].get_xdata()) == [2.3, 2.3]
        assert [each.item() for each in drawn(ax, 2)] == pytest.approx([2, 0.1])
        assert said(ax) == ["continuous: 2.3", "whole: 2"]
        assert ax.get_yscale() == "log"
        assert ax.get_xscale() == "linear"

    def test_a_divergence_of_zero_is_drawn_and_many_dimensions_are_in_logs(self) -> None:
        nats = torch.linspace(5, 0, 64)
        ax = plots.danco_divergence(danco.Danco(64.0, 64, 60.0, 1.0, 1.0, nats, 99, 10))
        assert drawn(ax)[1].min() > 0
        assert ax.get_xscale() == "log"


class TestEstimates:
    def test_each_has_a_row_with_its_interval(self) -> None:
        nan = float("nan")
        ax = plots.dimension_estimates(
            {"TwoNN": (2.0, 1.8, 2.2), "DANCo": (2.5, nan, nan)}, truth=2
        )
        assert [label.get_text() for label in ax.get_yticklabels()] == ["TwoNN", "DANCo"]
        assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first is on top"
        assert drawn(ax, 0)[0].tolist() == [1.8, 2.2]
        assert [each.item() for each in drawn(ax, 1)] == [2.0, 0]
        assert np.isnan(drawn(ax, 2)[0]).all()
        assert [each.item() for each in drawn(ax, 3)] == [2.5, 1]
        assert [text.get_text() for text in ax.texts] == ["2.00  [1.80, 2.20]", "2.5"]
        assert said(ax) == ["truth: 2"]

    def test_refuses_what_is_no_estimate(self) -> None:
        with pytest.raises(ValueError, match="estimates must hold at least one, got none"):
            plots.dimension_estimates({})
        with pytest.raises(ValueError, match="TwoNN must be finite in an interval, got"):
            plots.dimension_estimates({"TwoNN": (float("inf"), 1.0, 2.0)})
        with pytest.raises(ValueError, match=r"interval, got \(2.0, 3.0, 1.0\)"):
            plots.dimension_estimates({"TwoNN": (2.0, 3.0, 1.0)})


class TestQuantiles:
    def test_a_check_stands_against_its_own_law(self) -> None:
        found = predictive.check(1 + torch.rand(100), num_samples=20, seed=0)
        ax = plots.pareto_quantiles(found)
        assert drawn(ax)[0].tolist() == found.expected.tolist()
        assert drawn(ax)[1].tolist() == found.seen.tolist()
        assert ax.texts[0].get_text() == f"p = {found.p_value:.2g}"
        assert "posterior predictive" in ax.get_xlabel()

    def test_refuses_a_dimension_too_few_or_too_many(self) -> None:
        with pytest.raises(
            ValueError, match="dimension must be a number for bare ratios, got None"
        ):
            plots.pareto_quantiles(1 + torch.rand(9))
        found = predictive.check(1 + torch.rand(100), num_samples=20, seed=0)
        with pytest.raises(ValueError, match=r"dimension must be None for a check, got 2.0"):
            plots.pareto_quantiles(found, 2.0)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.0312, 0.0523, "2.031 ± 0.052"),
        (10.43, 0.5, "10.43 ± 0.50"),
        (70.4, 12.3, "70 ± 12"),
        (2.345, float("nan"), "2.35"),
        (2.0, 0.0, "2"),
    ],
)
def test_an_error_has_two_digits_and_the_value_as_many(
    value: float, error: float, text: str
) -> None:
    assert rounded(value, error) == text
