import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.intrinsic_dimension import (
    binomial,
    danco,
    estimate,
    gride,
    hidalgo,
    levina_bickel,
    predictive,
    scales,
    scaling,
    twonn,
)
from pplvae.intrinsic_dimension.scales import profile

ESTIMATORS: dict[str, Callable[[Any], Any]] = {
    "TwoNN": twonn.maximum_likelihood,
    "line": twonn.linear_fit,
    "posterior": twonn.posterior,
    "Gride": lambda x: gride.maximum_likelihood(x, n1=4, n2=8),
    "Levina–Bickel": lambda x: levina_bickel.estimate(x, 10),
    "scaling": lambda x: scaling.slopes(x, 10),
    "DANCo": danco.estimate,
}


ESTIMATORS_AS_CALLED = (
    twonn.maximum_likelihood, twonn.linear_fit, twonn.posterior, gride.maximum_likelihood,
    levina_bickel.estimate, scaling.slopes, danco.estimate,
)  # fmt: skip


@pytest.fixture(scope="module")
def normal() -> Tensor:
    return torch.randn(1000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def constant(value: float) -> Tensor:
    return torch.full((1000, 55), value, dtype=torch.float64)


MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "offset": lambda x: x + 1e9,
    "scale": lambda x: 1e-16 * x,
    "tiny scale": lambda x: 1e-170 * x,
    "single precision": lambda x: 1e25 * x.float(),
    "constant columns": lambda x: torch.cat([x, constant(1e6)], dim=1),
    "larger constant columns": lambda x: torch.cat([x, constant(1e8)], dim=1),
}


@pytest.mark.parametrize("move", MOVED)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_offset_scale_and_constant_columns_do_not_matter(
    normal: Tensor, name: str, move: str
) -> None:
    estimator = ESTIMATORS[name]
    expected = estimator(normal).dimension
    assert estimator(MOVED[move](normal)).dimension == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("copies", [1, 2])
def test_repeated_rows_do_not_matter_and_are_said(normal: Tensor, name: str, copies: int) -> None:
    estimator = ESTIMATORS[name]
    repeated = torch.cat([normal, *[normal[:100]] * copies])[torch.randperm(1000 + 100 * copies)]
    with pytest.warns(UserWarning, match=f"{100 * copies} of {1000 + 100 * copies} points repeat"):
        found = estimator(repeated).dimension
    assert found == pytest.approx(estimator(normal).dimension, abs=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_line_has_one_dimension_and_nan_is_refused(name: str) -> None:
    x = torch.rand(1000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Standard errors at N = 1000 are at most 0.05 here.
    assert ESTIMATORS[name](x).dimension == pytest.approx(1.0, abs=0.15)
    with pytest.raises(ValueError, match="x must be finite, got 1 nan or inf"):
        ESTIMATORS[name](torch.cat([x, torch.tensor([[math.nan]])]))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_graph_gives_what_its_points_give(normal: Tensor, name: str) -> None:
    expected = ESTIMATORS[name](normal).dimension
    assert ESTIMATORS[name](neighbors.graph(normal, 20)).dimension == pytest.approx(expected)


def test_without_noise_the_answer_is_danco_s_inside_an_interval() -> None:
    x = manifolds.sample("swiss_roll", 1200, seed=0).x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate(x)
    assert found.method == "DANCo"
    assert found.dimension == pytest.approx(2.0, abs=0.15)
    low, high = found.interval()
    assert low < 2.0 < high
    assert low <= found.dimension <= high
    assert found.warnings == ()
    assert str(found).startswith(f"dimension {found.dimension:.3g}, between")


def test_noise_at_small_scales_is_named_and_looked_beyond() -> None:
    torch.manual_seed(0)
    plane = torch.cat([torch.rand(1500, 2), torch.zeros(1500, 18)], dim=1)
    found = estimate(plane + 0.005 * torch.randn(1500, 20), progress=False)
    assert found.method == "adaptive scale"
    assert 1.9 < found.dimension < 2.2
    low, high = found.interval()
    assert low < 2.0 < high < 2.3
    assert any("noise at small scales" in said for said in found.warnings)
    assert found.scale > 0.05


@pytest.mark.parametrize(("dimension", "ambient", "width"), [(2, 3, 0.03), (1, 5, 0.02)])
def test_noise_wider_than_the_nearest_neighbors_is_said(
    dimension: int, ambient: int, width: float
) -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.rand(3000, dimension), torch.zeros(3000, ambient - dimension)], dim=1)
    found = estimate(x + width * torch.randn(3000, ambient), progress=False)
    (said,) = [said for said in found.warnings if "falls with the scale" in said]
    assert f"from {ambient:.0f}." in said
    assert "noise at small scales" in said
    assert found.profile.dimensions[-1] < dimension + 1


@pytest.mark.parametrize("num_points", [100, 300])
def test_few_clean_points_raise_no_alarm(num_points: int) -> None:
    torch.manual_seed(0)
    clean = [torch.rand(num_points, d) for d in (2, 4)] * 2
    clean += [torch.randn(num_points, d) for d in (2, 4)] * 2
    said = [said for x in clean for said in estimate(x, progress=False).warnings]
    # Three standard errors, some six differences each: one alarm in a hundred or so is to come.
    assert not [words for words in said if "scale" in words or "disagree" in words]


def test_few_points_of_a_closed_manifold_are_not_called_near_copies() -> None:
    torch.manual_seed(0)
    for _ in range(4):
        turns = 2 * math.pi * torch.rand(200, 5)
        found = estimate(torch.cat([turns.cos(), turns.sin()], dim=1), progress=False)
        assert found.method == "DANCo"
        if found.profile.dimensions[3] > 1.8 * found.profile.dimensions[0]:
            assert any("the data bend within that length" in said for said in found.warnings)
        low, high = found.interval()
        assert low < 5.0 < high


@pytest.mark.parametrize("num_points", [200, 1000])
def test_a_few_points_of_a_closed_curve_are_of_dimension_one(num_points: int) -> None:
    torch.manual_seed(0)
    turns = 2 * math.pi * torch.rand(num_points, 1)
    found = estimate(torch.cat([turns.cos(), turns.sin()], dim=1), progress=False)
    assert found.dimension == pytest.approx(1.0, abs=0.1)
    assert not any("disagree" in said for said in found.warnings)


def test_no_interval_is_a_point() -> None:
    # Where the data vary in all directions there are, the greatest is known, not the least.
    found = estimate(torch.randn(100, 2000), progress=False)
    low, high = found.interval()
    assert low < 0.95 * high
    assert high == 99


def test_the_scale_is_that_of_the_farthest_neighbor_asked(normal: Tensor) -> None:
    graph = neighbors.graph(normal, 64)
    assert estimate(graph).scale == pytest.approx(graph.distances[:, 10].mean().item())
    distances = torch.cdist(normal, normal, compute_mode="donot_use_mm_for_euclid_dist")
    table = neighbors.from_distances(distances, num_neighbors=64)
    assert estimate(table).scale == pytest.approx(graph.distances[:, 1].mean().item())


def test_few_points_in_many_dimensions_are_said() -> None:
    found = estimate(torch.randn(500, 20))
    assert any("show at most about 5.4 dimensions" in said for said in found.warnings)
    assert found.dimension == pytest.approx(20, rel=0.15)


def test_repeats_and_whole_numbers_are_said() -> None:
    x = torch.randint(0, 20, (1000, 4)).double()
    found = estimate(torch.cat([x, x[:50]]))
    for phrase in ("points repeat another", "both neighbors equally near", "whole numbers, in st"):
        assert any(phrase in said for said in found.warnings), phrase


def test_parts_of_different_dimension_are_said_and_lie_in_the_interval() -> None:
    torch.manual_seed(0)
    surface = torch.cat([2 * torch.rand(400, 2) - 4, torch.zeros(400, 3)], dim=1)
    block = torch.cat([torch.rand(400, 4), torch.zeros(400, 1)], dim=1)
    found = estimate(torch.cat([surface, block]), progress=False)
    assert [round(part.dimension) for part in found.parts] == [2, 4]
    (said,) = [said for said in found.warnings if "several dimensions in one data set" in said]
    assert re.search(r"about (4\d|5\d)% of the points have (1.9|2.0|2.1) ± 0.1, about", said)
    low, high = found.interval()
    assert low < 2.0
    assert high >= 4.0


@pytest.mark.parametrize("divisor", [19.0, 255.0])
def test_a_grid_of_any_step_is_named(divisor: float) -> None:
    # Of 20 places neighbors are a step or two away, of 256 in 6 columns some 60.
    x = torch.randint(0, int(divisor) + 1, (800, 4 if divisor == 19 else 6)) / divisor
    (said,) = [said for said in estimate(x, progress=False).warnings if "on a grid" in said]
    assert f"in steps of {1 / divisor:.4g}" in said
    assert said.endswith("lean on nearer ones" if divisor == 19 else "it matters little")


def test_only_what_is_said_of_the_data_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(graph: Any, **options: Any) -> scales.Profile:
        warnings.warn("of another package", DeprecationWarning, stacklevel=2)
        return profile(graph, **options)

    monkeypatch.setattr(scales, "profile", stale)
    with pytest.warns(DeprecationWarning, match="of another package"):
        estimate(torch.randn(100, 2))


def test_every_result_has_its_interval_by_one_call(normal: Tensor) -> None:
    flat = torch.cat([normal, 0.01 * normal.square()], dim=1)  # d = 5 is not all there could be
    graph = neighbors.graph(flat, 32)
    for found in (
        estimate(graph), twonn.maximum_likelihood(graph), gride.maximum_likelihood(graph),
        twonn.posterior(graph), twonn.posterior(graph, calibrated=True), gride.posterior(graph),
        levina_bickel.posterior(graph), scales.adaptive(graph), binomial.estimate(graph),
    ):  # fmt: skip
        (low, high), (least, most) = found.interval(), found.interval(0.8)
        assert low < least < found.dimension < most < high, found
        assert found.interval(0.95) == (low, high)
        with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 95"):
            found.interval(95)


def test_every_search_can_be_silent() -> None:
    for call in (
        *ESTIMATORS_AS_CALLED, twonn.log_ratios, gride.posterior, scales.profile, scales.adaptive,
        predictive.check, hidalgo.select, hidalgo.fit, binomial.estimate, estimate,
    ):  # fmt: skip
        assert "progress" in inspect.signature(call).parameters, call


def test_a_table_of_distances_is_enough(normal: Tensor) -> None:
    table = torch.cdist(normal, normal, compute_mode="donot_use_mm_for_euclid_dist")
    found = estimate(neighbors.from_distances(table, num_neighbors=64))
    assert found.method == "TwoNN, calibrated"
    assert found.pca is None
    assert found.dimension == pytest.approx(5.0, rel=0.12)


def test_the_answer_is_the_same_each_time(normal: Tensor) -> None:
    assert str(estimate(normal)) == str(estimate(normal))


def test_refuses_too_few_points() -> None:
    with pytest.raises(ValueError, match="distinct points must be at least 64, got 63"):
        estimate(torch.randn(63, 3))


@pytest.mark.parametrize("spacing", [1.0, 1 / 3])
def test_refuses_a_lattice_by_its_name(spacing: float) -> None:
    axis = spacing * torch.arange(6.0)
    with pytest.raises(ValueError, match="must be continuous, got points on a lattice: 100% of"):
        estimate(torch.cartesian_prod(axis, axis, axis))


def test_a_closed_manifold_s_dimension_lies_in_the_interval() -> None:
    turns = 2 * math.pi * torch.rand(1000, 3)
    found = estimate(torch.cat([turns.cos(), turns.sin()], dim=1))
    low, high = found.interval()
    assert low < 3.0 < high


def test_near_copies_are_not_taken_for_a_low_dimension() -> None:
    x = torch.randn(1000, 5)
    found = estimate(torch.cat([x, x[:300] + 1e-9 * torch.randn(300, 5)]), progress=False)
    assert found.dimension > 4
    assert any("near-copies of points" in said for said in found.warnings)


def test_points_at_equal_steps_are_not_called_noise() -> None:
    time = torch.arange(2000.0).unsqueeze(1)
    x = torch.cat([(0.05 * time).sin(), (0.05 * math.sqrt(2) * time).cos(), time / 400], dim=1)
    said = " ".join(estimate(x, progress=False).warnings)
    assert "equally spaced" in said
    assert "noise" not in said


def test_a_graph_s_repeats_are_said() -> None:
    x = torch.randn(200, 3)
    with pytest.warns(UserWarning, match="20 of 220"):
        graph = neighbors.graph(torch.cat([x, x[:20]]))
    assert "20 of 220 points repeat another and were dropped" in estimate(graph).warnings


def test_an_answer_beyond_the_balls_is_said_and_stays_within_the_rank() -> None:
    found = estimate(torch.randn(100, 1000))
    assert found.interval()[1] <= 99
    assert any("calibration is extrapolated" in said for said in found.warnings)
