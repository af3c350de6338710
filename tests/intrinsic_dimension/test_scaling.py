import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from scipy.special import digamma, polygamma
from torch import Tensor

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.intrinsic_dimension import levina_bickel, scaling
from pplvae.intrinsic_dimension.scaling import doubling, slopes
from pplvae.neighbors import NeighborGraph


def ideal(num_points: int, num_neighbors: int, dimension: float) -> NeighborGraph:
    """Independent points, each with neighbors at random: k points have volumes Gamma(1 … k)."""
    volumes = torch.distributions.Exponential(torch.tensor(1.0)).sample(
        (num_points, num_neighbors)
    )
    return as_if(volumes.cumsum(dim=1) ** (1 / dimension))


def as_if(distances: Tensor) -> NeighborGraph:
    """A graph of these distances, to neighbors anywhere."""
    indices = torch.randint(len(distances), distances.shape)
    rows = torch.arange(len(distances))
    return NeighborGraph(distances, indices, rows, torch.ones_like(rows), None)


def flat_torus(num_points: int, dimension: int) -> NeighborGraph:
    """The ten nearest neighbors of points of a square with its opposite sides glued."""
    u = torch.rand(num_points, dimension).numpy()
    distances, indices = KDTree(u, boxsize=1.0).query(u, 11)
    return neighbors.from_distances(distances[:, 1:], indices[:, 1:])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(300, 3)


def test_a_power_law_of_the_rank_has_its_exponent_as_slope() -> None:
    expected_logs = torch.digamma(torch.arange(1.0, 11.0)) / 2.5
    found = slopes(as_if(expected_logs.exp().expand(20, 10)))
    assert found.dimension == pytest.approx(2.5, rel=1e-12)
    torch.testing.assert_close(found.local, torch.full((20,), 2.5))
    assert found.standard_error == pytest.approx(0, abs=1e-9)
    lecture = slopes(as_if(torch.arange(1.0, 11.0).pow(1 / 2.5).expand(20, 10)), against="log")
    assert lecture.dimension == pytest.approx(2.5, rel=1e-12)


def test_the_line_at_each_point_is_that_of_least_squares(x: Tensor) -> None:
    found, distances = slopes(x, 7), neighbors.graph(x, 7).distances.numpy()
    for local, row in zip(found.local.tolist(), distances, strict=True):
        slope, _ = np.polyfit(digamma(np.arange(1, 8)), np.log(row), 1)
        assert 1 / local == pytest.approx(slope, rel=1e-9)


def test_the_pooled_line_is_that_of_the_mean_logs(x: Tensor) -> None:
    for against in ("digamma", "log"):
        found = slopes(x, 7, against=against)
        slope, _ = np.polyfit(found.ranks.numpy(), found.log_distances.numpy(), 1)
        assert 1 / found.dimension == pytest.approx(slope, rel=1e-9)
        assert found.dimension == pytest.approx(1 / (1 / found.local).mean().item(), rel=1e-12)


@pytest.mark.parametrize("num_neighbors", [2, 5, 20])
def test_weighted_by_their_covariance_the_logs_give_levina_and_bickel_s_estimate(
    x: Tensor, num_neighbors: int
) -> None:
    graph, ranks = neighbors.graph(x, num_neighbors), np.arange(1, num_neighbors + 1)
    weights = np.linalg.inv(polygamma(1, np.maximum.outer(ranks, ranks)))
    design = np.stack([np.ones(num_neighbors), digamma(ranks)], axis=1)
    means = graph.distances.log().mean(dim=0).numpy()
    _, slope = np.linalg.solve(design.T @ weights @ design, design.T @ weights @ means)
    assert levina_bickel.estimate(graph, num_neighbors).dimension == pytest.approx(1 / slope)


@pytest.mark.parametrize("dimension", [1.0, 3.0, 10.0])
def test_is_right_where_the_law_holds_and_the_lecture_s_line_is_not(dimension: float) -> None:
    graph = ideal(20000, 10, dimension)
    found = slopes(graph)
    # Independent points: the variance of the slope by the covariance ψ₁(max(j, k)) of the logs.
    ranks = np.arange(1, 11)
    centered = digamma(ranks) - digamma(ranks).mean()
    weights = centered / (centered**2).sum()
    variance = weights @ polygamma(1, np.maximum.outer(ranks, ranks)) @ weights
    expected = dimension * math.sqrt(variance / 20000)
    assert found.standard_error == pytest.approx(expected, rel=0.05)
    assert found.dimension == pytest.approx(dimension, abs=4 * expected)
    # log k = 1 … 10 regressed on its mean: 0.8287.
    biased = slopes(graph, against="log").dimension
    assert biased == pytest.approx(0.8287 * dimension, abs=4 * expected)


def test_the_standard_error_counts_shared_neighbors() -> None:
    fits, independent = [], []
    for _ in range(100):
        fit = slopes(flat_torus(300, 1))
        fits.append((fit.dimension, fit.standard_error))
        spread = (1 / fit.local).std(unbiased=False).item() / math.sqrt(300)
        independent.append(fit.dimension**2 * spread)
    estimates, claimed = torch.tensor(fits).unbind(dim=1)
    assert estimates.mean() == pytest.approx(1.0, abs=0.02)
    # A standard deviation from 100 is known to 7 %.
    assert claimed.mean() / estimates.std() == pytest.approx(1.0, abs=0.22)
    assert claimed.mean() > 1.1 * torch.tensor(independent).mean()


def test_takes_points_graphs_and_distances_alike(x: Tensor) -> None:
    graph = neighbors.graph(x, 20)
    for estimate in (slopes, doubling):
        expected = estimate(graph, 5).dimension
        assert estimate(x, 5).dimension == pytest.approx(expected, rel=1e-12)
        assert estimate(x.numpy(), 5).dimension == pytest.approx(expected, rel=1e-12)
        table = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        given = estimate(neighbors.from_distances(table), 5)
        assert given.dimension == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimate", [slopes, doubling])
def test_neither_repeats_nor_units_nor_origin_nor_constant_columns_matter(
    x: Tensor, estimate: Callable[..., Any]
) -> None:
    clean = estimate(x, 5).dimension
    with pytest.warns(UserWarning, match="30 of 330 points repeat another"):
        assert estimate(torch.cat([x, x[:30]]), 5).dimension == pytest.approx(clean, rel=1e-12)
    assert estimate(1e-16 * x, 5).dimension == pytest.approx(clean, rel=1e-9)
    assert estimate(x + 1e9, 5).dimension == pytest.approx(clean, rel=1e-5)
    constant = torch.linspace(1e6, 1e8, 55).expand(300, 55)
    assert estimate(torch.cat([x, constant], dim=1), 5).dimension == pytest.approx(clean)


def test_a_line_has_one_dimension() -> None:
    for estimate in (slopes, doubling):
        found = estimate(torch.rand(2000, 1), 10)
        # The ends of the line, where neighbors are on one side, are 1 % of it.
        assert found.dimension == pytest.approx(1.0, abs=4 * found.standard_error + 0.01)


def test_finds_the_dimension_of_each_part() -> None:
    parts = [manifolds.sample("sphere", 500, dimension=d, ambient=6, seed=d).x for d in (1, 4)]
    local = slopes(torch.cat([parts[0], parts[1] + 10]), 20).local
    for part, truth in ((local[:500], 1), (local[500:], 4)):
        assert part.median() == pytest.approx(truth, rel=0.1)


def test_the_median_has_no_bias_and_the_error_it_says() -> None:
    for k in (1, 5):
        fits = [doubling(ideal(400, 2 * k, 3.0), k) for _ in range(300)]
        estimates = torch.tensor([fit.dimension for fit in fits])
        claimed = torch.tensor([fit.standard_error for fit in fits]).mean().item()
        assert estimates.mean() == pytest.approx(3.0, abs=4 * claimed / math.sqrt(300) + 0.01)
        assert claimed / estimates.std() == pytest.approx(1.0, abs=4 / math.sqrt(600))


def test_the_median_is_of_the_logs_of_two_distances(x: Tensor) -> None:
    distances = neighbors.graph(x, 6).distances.numpy()
    local = np.log(2) / np.log(distances[:, 5] / distances[:, 2])
    assert doubling(x, 3).dimension == pytest.approx(np.median(local), rel=1e-12)
    assert doubling(x[:299], 3).dimension == pytest.approx(
        doubling(x[:299], 3).local.median().item(), rel=1e-12
    )


def test_neighbors_at_one_distance_have_an_infinite_dimension() -> None:
    distances = ideal(10, 4, 2.0).distances.clone()
    distances[3] = 1.5
    found = slopes(as_if(distances), 4)
    assert found.local[3] == math.inf
    assert math.isfinite(found.dimension)
    for estimate, k in ((slopes, 4), (doubling, 2)):
        with pytest.raises(ValueError, match="x must not have its neighbors at one distance"):
            estimate(as_if(torch.full((10, 4), 0.7)), k)


def test_refuses_what_it_cannot_use(x: Tensor) -> None:
    with pytest.raises(ValueError, match="against must be one of digamma, log, got 'psi'"):
        slopes(x, against="psi")
    with pytest.raises(ValueError, match="num_neighbors must be at least 2, got 1"):
        slopes(x, 1)
    with pytest.raises(
        ValueError, match=r"num_neighbors must be in \[1, 4\] for 5 points, got 10"
    ):
        slopes(x[:5])
    with pytest.raises(ValueError, match=r"num_neighbors must be in \[1, 4\] for a graph of 4"):
        doubling(neighbors.graph(x, 4))
    with pytest.raises(ValueError, match="x must be finite, got 1 nan or inf"):
        slopes(torch.tensor([0.0, 1.0, math.nan]))


def test_prints_its_answer_first(x: Tensor) -> None:
    assert repr(slopes(x)).startswith("Slopes(d = 3.0")
    assert "tensor" not in repr(slopes(x)) + repr(doubling(x))


def test_shows_no_warning_on_ordinary_points(x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scaling.slopes(x).dimension > 0
