import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.spatial import KDTree
from torch import Tensor

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.intrinsic_dimension import balls, binomial, gride, scales
from pplvae.intrinsic_dimension.abide import constant_neighbors
from pplvae.neighbors import NeighborGraph


def flat_torus(num_points: int, dim: int, num_neighbors: int, seed: int) -> NeighborGraph:
    """Uniform points with no edge and no curvature."""
    x = np.random.RandomState(seed).rand(num_points, dim)
    found = KDTree(x, boxsize=1.0).query(x, num_neighbors + 1)
    distances, indices = (torch.as_tensor(part[:, 1:]) for part in found)
    rows = torch.arange(num_points)
    return NeighborGraph(distances, indices, rows, torch.ones_like(rows), None)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(400, 3)


NOISY = [10.713, 8.267, 6.24, 4.381, 3.172, 2.532, 2.195, 2.001, 1.876, 1.770]


def noisy_square() -> np.ndarray:
    """A square in 20 dimensions, with noise in all of them: 2 at all but the smallest scales."""
    random = np.random.RandomState(0)
    square = np.hstack([random.rand(5000, 2), np.zeros((5000, 18))])
    return square + 0.005 * random.standard_normal((5000, 20))


@pytest.fixture(scope="module")
def noisy_plane() -> NeighborGraph:
    """The square's near neighbors, which take a tenth of the time of all that could be asked."""
    return neighbors.graph(noisy_square(), 128, progress=False)


def test_reproduces_the_noisy_plane_of_others_and_finds_no_plateau_where_it_falls(
    noisy_plane: NeighborGraph,
) -> None:
    found = scales.profile(noisy_plane)
    np.testing.assert_allclose(found.dimensions, NOISY[:7], atol=6e-4)
    assert found.neighbors.tolist() == [2**j for j in range(7)]
    assert found.plateau is None
    assert found.plateaus == ()
    assert math.isnan(found.dimension)
    assert math.isnan(found.standard_error)
    assert repr(found) == "Profile(gride, 7 scales: no plateau)"


@pytest.mark.slow
def test_the_adaptive_scale_is_right_under_noise() -> None:
    graph = neighbors.graph(noisy_square(), progress=False)
    np.testing.assert_allclose(scales.profile(graph).dimensions, NOISY, atol=6e-4)
    found = scales.adaptive(graph)
    assert found.dimension == pytest.approx(2.08, abs=0.005)
    assert found.converged
    assert len(found.trace) < 8
    counted = scales.adaptive(graph, estimator="binomial")
    assert 2.0 < counted.dimension < 2.2


def test_the_adaptive_scale_looks_beyond_noise() -> None:
    # Fewer points are farther apart: the edges of the square take up to a tenth.
    graph = neighbors.graph(noisy_square()[:1500], progress=False)
    assert gride.maximum_likelihood(graph).dimension > 6
    for estimator in ("gride", "binomial"):
        found = scales.adaptive(graph, estimator=estimator)
        assert found.dimension == pytest.approx(2.0, abs=0.2)
        assert found.converged
        assert len(found.trace) < 8


def test_a_narrow_graph_is_said_to_bound_the_adaptive_scale(noisy_plane: NeighborGraph) -> None:
    found = scales.adaptive(noisy_plane, num_neighbors=100)
    assert found.width == 100
    assert found.num_neighbors.max() == 99
    assert found.capped == (found.num_neighbors == 99).double().mean()
    assert found.capped > 0.5
    assert f"{found.capped:.0%} of k* at the graph's width" in repr(found)


def test_each_scale_is_a_maximum_likelihood_of_one_graph(x: Tensor) -> None:
    graph = neighbors.graph(x, 40)
    found = scales.profile(graph)
    assert found.neighbors.tolist() == [1, 2, 4, 8, 16]
    for step, n1 in enumerate(found.neighbors.tolist()):
        fit = gride.maximum_likelihood(graph, n1=n1, n2=2 * n1)
        assert found.dimensions[step] == fit.dimension
        assert found.standard_errors[step] == fit.standard_error
        pair = graph.distances[:, [n1 - 1, 2 * n1 - 1]]
        assert found.scales[step] == pytest.approx(pair.mean().item())
    assert scales.profile(x, num_neighbors=16).neighbors.tolist() == [1, 2, 4, 8]


def test_a_manifold_has_a_plateau_at_its_dimension() -> None:
    found = scales.profile(manifolds.sample("swiss_roll", 2000, seed=0).x, progress=False)
    assert found.plateau is not None
    # Edges lower the dimension by some percent, the folds raise it from a half of the gap on.
    assert found.dimension == pytest.approx(2.0, abs=0.12)
    assert 2.0 - found.dimension < 3 * found.standard_error
    start, stop = found.plateau.steps
    assert stop - start >= 5
    assert found.plateau.scales == (found.scales[start].item(), found.scales[stop - 1].item())
    assert repr(found).startswith("Profile(gride, 8 scales: d = 1.9")


def test_noise_rules_below_its_width_and_the_plateau_stands_above() -> None:
    x = manifolds.sample("swiss_roll", 2500, noise=0.3, seed=0).x
    found = scales.profile(x, progress=False)
    assert found.dimensions[0] > 2.6
    assert found.plateau is not None
    assert found.dimension == pytest.approx(2.0, abs=0.1)
    assert found.plateau.steps[0] >= 2
    assert found.plateau.scales[0] > 0.3


def rule(dimensions: list[float], errors: Any = 0.0, **settings: Any) -> list[tuple[int, int]]:
    """The plateaus of a curve whose scales double."""
    d = torch.tensor(dimensions)
    lengths = 2.0 ** torch.arange(len(d))
    errors = torch.as_tensor(errors).expand(len(d))
    return [part.steps for part in scales.find_plateaus(lengths, d, errors, **settings)]


def test_scales_that_agree_within_the_tolerance_are_a_plateau() -> None:
    assert rule([5.0, 3.0, 2.0, 2.05, 1.99, 1.0]) == [(2, 5)]
    assert rule([5.0, 3.0, 2.0, 2.05, 1.99, 1.0], tolerance=0.02) == []
    assert rule([5.0, 3.0, 2.0, 2.05, 1.99, 1.0], least_scales=4) == []
    assert rule([2.0, 2.09, 2.18, 2.27]) == []  # each near the next, the first far from the third
    assert rule([2.0, 2.09, 2.18, 2.27], tolerance=0.15) == [(0, 4)]


def test_errors_widen_what_agrees() -> None:
    curve = [2.0, 2.2, 2.1, 2.3]
    assert rule(curve, tolerance=0.0) == []
    # The largest difference, 0.3, is 1.96 √2 standard errors of 0.108.
    assert rule(curve, errors=0.109, tolerance=0.0) == [(0, 4)]
    assert rule(curve, errors=0.107, tolerance=0.0) != [(0, 4)]
    assert rule([2.0, 2.0, 2.0], errors=[math.nan, 0.1, math.nan]) == [(0, 3)]


def test_all_plateaus_are_named_the_widest_first() -> None:
    curve = [5.0, 5.0, 5.0, 3.0, 2.0, 2.0, 2.0, 2.0]
    assert rule(curve) == [(4, 8), (0, 3)]


def test_a_plateau_s_dimension_is_the_weighted_mean_and_its_error_holds_the_spread() -> None:
    d, errors = torch.tensor([2.0, 2.1, 2.0]), torch.tensor([0.3, 0.0, 0.0])
    (found,) = scales.find_plateaus(torch.tensor([1.0, 2.0, 4.0]), d, errors)
    weights = 1 / (errors**2 + (0.05 * d) ** 2)
    mean = (weights * d).sum() / weights.sum()
    assert found.dimension == pytest.approx(mean.item())
    spread = ((weights * (d - mean) ** 2).sum() / weights.sum()).sqrt()
    alone = (weights * errors).sum() / weights.sum()
    assert found.standard_error == pytest.approx(torch.hypot(spread, alone).item())


def test_the_band_is_as_wide_as_the_errors_say(x: Tensor) -> None:
    found = scales.profile(x)
    low, high = found.interval(0.9)
    torch.testing.assert_close((low * high).sqrt(), found.dimensions)
    reach = (high / low).log() / 2 * found.dimensions / found.standard_errors
    torch.testing.assert_close(reach, torch.full_like(reach, stats.norm.ppf(0.95)))


def test_decimation_halves_the_points_and_averages_over_subsets(x: Tensor) -> None:
    seen: list[Tensor] = []

    def estimator(points: Tensor) -> Any:
        seen.append(points)
        return SimpleNamespace(dimension=float(len(seen)), standard_error=0.1)

    found = scales.profile(x, estimator, num_subsets=4, seed=0)
    assert found.estimator == "estimator"
    assert found.sizes.tolist() == [400, 200, 100, 50]
    assert [len(points) for points in seen] == [400, 200, 200, *[100] * 4, *[50] * 4]
    halves = torch.cat(seen[1:3]).unique(dim=0)
    torch.testing.assert_close(halves, x.unique(dim=0))  # subsets share no point
    assert found.dimensions.tolist() == [1.0, 2.5, 5.5, 9.5]
    np.testing.assert_allclose(found.standard_errors, [0.1, 0.1 / 2**0.5, 0.05, 0.05])
    expected = np.mean([neighbors.graph(part, 2).distances.mean().item() for part in seen[1:3]])
    assert found.scales[1] == pytest.approx(expected)


def test_the_spread_of_subsets_stands_in_for_an_error_that_is_not_given(x: Tensor) -> None:
    values = iter([3.0, 2.0, 3.0, *[2.0, 3.0, 4.0, 3.0] * 2])
    found = scales.profile(
        x, lambda _: SimpleNamespace(dimension=next(values)), num_subsets=4, seed=0
    )
    errors = found.standard_errors
    assert math.isnan(errors[0])
    assert errors[1] == pytest.approx(0.5)
    assert errors[2] == pytest.approx(math.sqrt(2 / 3) / 2)
    assert found.plateau is not None


def test_decimation_of_twonn_is_seeded_and_leaves_the_generators_alone(x: Tensor) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        scales.profile(x, "decimation", seed=seed, progress=False) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.dimensions, again.dimensions)
    assert not torch.equal(first.dimensions[1:], other.dimensions[1:])
    assert first.dimensions[0] == gride.maximum_likelihood(x).dimension
    assert first.dimension == pytest.approx(3.0, abs=4 * first.standard_error)


def test_the_two_ways_to_larger_scales_agree() -> None:
    x = manifolds.sample("cube", 2000, dimension=2, seed=0).x
    doubled, decimated = (scales.profile(x, way, seed=0) for way in ("gride", "decimation"))
    for found in (doubled, decimated):
        # A square's edges take some percent.
        assert found.dimension == pytest.approx(1.95, abs=0.1)
    assert doubled.dimension == pytest.approx(
        decimated.dimension, abs=3 * math.hypot(doubled.standard_error, decimated.standard_error)
    )


def test_repeated_points_are_dropped_once(x: Tensor) -> None:
    with pytest.warns(UserWarning, match="40 of 440 points repeat another") as caught:
        found = scales.profile(torch.cat([x, x[:40]]), "decimation", seed=0)
    assert len(caught) == 1
    assert found.sizes[0] == 400


def test_ties_are_said_once() -> None:
    places = 3 * torch.randint(0, 40, (500, 2)).unique(dim=0).double()
    with pytest.warns(UserWarning, match="as on a lattice") as caught:
        scales.profile(places + 0.5 * torch.rand(1), "decimation", seed=0)
    assert len(caught) == 1


def test_few_points_have_few_scales() -> None:
    found = scales.profile(torch.randn(9, 2))
    assert found.neighbors.tolist() == [1]
    assert found.plateau is None
    assert scales.profile(torch.randn(30, 2), "decimation", seed=0).sizes.tolist() == [30]


def slow_constant_neighbors(graph: NeighborGraph, d: float, most: float) -> list[int]:
    """k* as it is written: two volumes, one by one."""
    found = []
    for i in range(len(graph)):
        k = 3
        while k < graph.num_neighbors:
            j = graph.indices[i, k]  # the (k + 1)-th neighbor
            log_i, log_j = (d * graph.distances[point, k - 1].log() for point in (i, j))
            both = torch.logaddexp(log_i, log_j)
            if -2 * k * (log_i + log_j - 2 * both + math.log(4)) > most:
                break
            k += 1
        found.append(k - 1)
    return found


def test_k_star_is_the_last_that_passes_the_likelihood_ratio_test() -> None:
    graph = neighbors.graph(torch.randn(90, 2), 60)
    for significance in (1e-6, 1e-2):
        most = stats.chi2(1).isf(significance)
        found = constant_neighbors(graph, 1.9, significance=significance)
        assert found.tolist() == slow_constant_neighbors(graph, 1.9, most)
        assert found.min() < found.max()


def test_k_star_stops_where_the_density_changes() -> None:
    # On a line: 500 points in [0, 1], 5000 in [1, 2].
    x = torch.cat([torch.rand(500), 1 + torch.rand(5000)]).unsqueeze(1)
    sizes = constant_neighbors(neighbors.graph(x, 200), 1.0).double()
    thin = (x.squeeze(1) < 1).nonzero().squeeze(1)
    gap = 1 - x[thin, 0]
    assert sizes[thin[gap > 0.5]].mean() > 150
    assert sizes[thin[(gap > 0.01) & (gap < 0.05)]].mean() < 80


def test_the_adaptive_scale_on_even_density_takes_all_it_gets() -> None:
    for graph, dim in ((flat_torus(2000, 2, 64, 0), 2), (flat_torus(2000, 5, 32, 0), 5)):
        for estimator in ("gride", "binomial"):
            found = scales.adaptive(graph, estimator=estimator)
            assert found.capped > 0.95
            assert found.inflation > 1.2  # neighborhoods of near points are nearly one
            assert found.converged
            low, high = found.interval(0.999)
            assert low < dim < high


def test_the_adaptive_error_is_not_below_the_spread() -> None:
    fits = [scales.adaptive(torch.randn(300, 2), num_neighbors=32) for _ in range(20)]
    spread = torch.tensor([fit.dimension for fit in fits]).std().item()
    claimed = np.mean([fit.standard_error for fit in fits])
    # A standard deviation of 20 draws is known to 16 %. The claim errs high, by up to two.
    assert 0.75 * spread < claimed < 2.5 * spread


def test_counts_are_those_of_the_strictly_nearer(x: Tensor) -> None:
    graph = neighbors.graph(x, 30)
    sizes = torch.randint(2, 31, (400,))
    found = binomial.counts(graph, sizes, 0.7)
    for point in range(400):
        radius = 0.7 * graph.distances[point, sizes[point] - 1]
        assert found[point] == (graph.distances[point] < radius).sum()
    line = neighbors.graph(torch.tensor([[0.0], [1.0], [-2.0], [4.0], [9.0]]), 3)
    # From 0 the third neighbor is at 4, and half of it is not nearer than the second, at 2.
    assert binomial.counts(line, torch.full((5,), 3), 0.5)[0] == 1


def test_the_optimal_ratio_has_the_least_variance() -> None:
    # Var d ∝ (1 − p) / (p log² p) at p = τ^d.
    p = np.linspace(0.05, 0.6, 200001)
    assert p[((1 - p) / (p * np.log(p) ** 2)).argmin()] == pytest.approx(
        binomial.OPTIMAL, abs=1e-4
    )


def test_the_counts_give_the_dimension_with_the_error_they_claim() -> None:
    fits = [binomial.estimate(flat_torus(500, 3, 10, seed), 10) for seed in range(64)]
    found = torch.tensor([fit.dimension for fit in fits])
    spread, claimed = found.std(), np.mean([fit.standard_error for fit in fits])
    # The bias is of the order d / (N p k) = 0.003; a spread of 64 draws is known to 9 %.
    assert found.mean() == pytest.approx(3.0, abs=4 * spread.item() / 8)
    assert claimed == pytest.approx(spread.item(), rel=0.3)
    covered = sum(fit.interval()[0] < 3.0 < fit.interval()[1] for fit in fits)
    assert covered >= 55  # of 64; the standard deviation is 1.7
    plain = np.mean(
        [binomial.estimate(flat_torus(500, 3, 10, 0), 10, inflation=1.0).standard_error]
    )
    assert plain < 0.9 * claimed


def test_the_posterior_of_the_counts_is_by_quadrature(x: Tensor) -> None:
    found = binomial.estimate(x[:40], 5, ratio=0.6, inflation=2.0)
    inside, total = found.counts.sum().item(), found.num_trials.sum().item()
    assert found.dimension == pytest.approx(math.log(inside / total) / math.log(0.6))
    law = stats.beta(1 + inside / 2, 1 + (total - inside) / 2)

    def moment(power: int) -> float:
        return integrate.quad(lambda p: law.pdf(p) * (math.log(p) / math.log(0.6)) ** power, 0, 1)[
            0
        ]

    variance = moment(2) - moment(1) ** 2
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-6)
    low, high = found.interval(0.8)
    assert law.cdf(0.6**low) - law.cdf(0.6**high) == pytest.approx(0.8)


def test_the_test_of_the_counts_is_calibrated_and_sees_what_is_wrong() -> None:
    right, wrong = [], []
    for seed in range(80):
        graph = flat_torus(600, 2, 12, seed)
        right.append(binomial.goodness_of_fit(graph, 2.0, 12, seed=seed).p_value)
        # A radius judged at the ratio for d = 2 whatever d is said to be.
        wrong.append(binomial.goodness_of_fit(graph, 3.0, 12, ratio=0.45, seed=seed).p_value)
    assert stats.kstest(right, "uniform").pvalue > 1e-3
    assert np.mean(np.array(wrong) < 0.05) > 0.9


def test_the_points_tested_have_no_neighbor_in_common(x: Tensor) -> None:
    graph, sizes = neighbors.graph(x, 12), torch.randint(2, 13, (400,))
    chosen = binomial._apart(graph, sizes, torch.randperm(400))
    members = [i for p in chosen for i in (p, *graph.indices[p, : sizes[p]].tolist())]
    assert len(members) == len(set(members))
    held = set(members)
    for point in set(range(400)) - set(chosen):  # no other could be added
        assert held & {point, *graph.indices[point, : sizes[point]].tolist()}


def test_the_test_of_the_counts_is_seeded(x: Tensor) -> None:
    graph, before = neighbors.graph(x, 12), torch.get_rng_state()
    results = [binomial.goodness_of_fit(graph, 3.0, 12, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_refuses_what_has_no_scales(x: Tensor) -> None:
    graph = neighbors.graph(x, 12)
    with pytest.raises(ValueError, match="estimator must be one of decimation, gride, got 'pca'"):
        scales.profile(x, "pca")
    with pytest.raises(ValueError, match="estimator must be one of binomial, gride, got 'mle'"):
        scales.adaptive(x, estimator="mle")
    table = neighbors.from_distances((x[:60] - x[:60].unsqueeze(1)).norm(dim=-1))
    with pytest.raises(ValueError, match="x must hold points to be decimated, got a graph of"):
        scales.profile(table, "decimation")
    with pytest.raises(ValueError, match="least_scales must be at least 2, got 1"):
        scales.profile(x, least_scales=1)
    with pytest.raises(ValueError, match=r"tolerance must be at least 0\.0, got -1"):
        scales.profile(x, tolerance=-1)
    with pytest.raises(ValueError, match="num_neighbors must be at least 4, got 3"):
        scales.adaptive(graph, num_neighbors=3)
    with pytest.raises(ValueError, match="num_neighbors must be at least 2, got 1"):
        binomial.estimate(x, 1)
    with pytest.raises(
        ValueError, match=r"num_neighbors must be in \[2, 12\] of the graph, got 13"
    ):
        binomial.goodness_of_fit(graph, 3.0, 13)
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\), got 1"):
        binomial.estimate(x, ratio=1.0)
    with pytest.raises(ValueError, match="some neighbors, but not all, must lie in the inner"):
        binomial.estimate(x, 5, ratio=1e-6)
    with pytest.raises(ValueError, match="dimension must be positive"):
        binomial.goodness_of_fit(graph, 0.0, 5)


def test_nothing_is_said_where_there_is_nothing_to_say(x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scales.adaptive(x)
        scales.profile(x)


@pytest.mark.parametrize(("num_points", "dimension"), [(400, 5), (2000, 2), (2000, 20)])
def test_a_calibrated_profile_of_a_ball_stays(num_points: int, dimension: int) -> None:
    x = balls.draw(num_points, dimension, 10**6)
    plain, calibrated = (scales.profile(x, calibrated=it) for it in (False, True))
    # By the eighth of N points one sees what the hundredth of 100 N / 8 sees: to 2.5 %.
    room = 3 * calibrated.standard_errors + 0.025 * dimension
    assert ((calibrated.dimensions - dimension).abs() < room).all()
    assert calibrated.plateau is not None
    assert calibrated.plateau.steps == (0, len(calibrated.dimensions))
    assert calibrated.dimension == pytest.approx(dimension, rel=0.03)
    if dimension == 20:
        assert plain.dimensions[-1] < 12
    assert repr(calibrated).startswith("Profile(gride, calibrated")


def test_only_gride_s_profile_is_calibrated() -> None:
    with pytest.raises(ValueError, match="estimator must be 'gride' for a calibrated profile"):
        scales.profile(torch.rand(200, 2), "decimation", calibrated=True)
