import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.spatial import KDTree
from scipy.special import gammainc
from torch import Tensor

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.intrinsic_dimension import gride, levina_bickel, mind, twonn
from pplvae.neighbors import NeighborGraph


def padded_ball(num_points: int) -> np.ndarray:
    """Uniform in the unit ball of 5 dimensions, in 10 columns."""
    x = np.random.RandomState(0).normal(size=(num_points, 5))
    square = (x**2).sum(axis=1, keepdims=True)
    ball = x * gammainc(2.5, square / 2) ** (1 / 5) / np.sqrt(square)
    return np.hstack([ball, np.zeros((num_points, 5))])


def ideal(num_points: int, num_neighbors: int, dimension: float | Tensor) -> NeighborGraph:
    """Independent points, each with its own neighbors at random, whatever their numbers."""
    gaps = torch.distributions.Exponential(torch.tensor(1.0)).sample((num_points, num_neighbors))
    rows = torch.arange(num_points)
    indices = torch.randint(num_points, gaps.shape)
    exponent = 1 / torch.as_tensor(dimension).expand(num_points).unsqueeze(1)
    return NeighborGraph(
        gaps.cumsum(dim=1) ** exponent, indices, rows, torch.ones_like(rows), None
    )


def flat_torus(num_points: int, dimension: int) -> NeighborGraph:
    """The ten nearest neighbors of points of a square with its opposite sides glued."""
    u = torch.rand(num_points, dimension).numpy()
    distances, indices = KDTree(u, boxsize=1.0).query(u, 11)
    return neighbors.from_distances(distances[:, 1:], indices[:, 1:])


def totals(graph: NeighborGraph) -> Tensor:
    """Σ_j log(r_k / r_j) at each point, a point at a time."""
    return torch.tensor([sum(math.log(row[-1] / r) for r in row) for row in graph.distances])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(300, 3)


# Published figures of other packages on these very points.
@pytest.mark.parametrize(
    ("num_points", "pooled", "unbiased", "arithmetic", "five"),
    [
        (30, 3.341161830518472, 3.1653112078596046, 3.4389424541367437, 4.350132038093711),
        (300, 4.43582345694338, 4.20235906447268, 4.67110085488116, 4.39211347128317),
    ],
)
def test_reproduces_others(
    num_points: int, pooled: float, unbiased: float, arithmetic: float, five: float
) -> None:
    x = padded_ball(num_points)
    for found, expected in (
        (levina_bickel.estimate(x, 20), pooled),
        (levina_bickel.estimate(x, 20, unbiased=True), unbiased),
        (levina_bickel.estimate(x, 20, pool="arithmetic"), arithmetic),
        (levina_bickel.estimate(x, 5), five),
    ):
        assert found.dimension == pytest.approx(expected, abs=1e-9)


def test_reproduces_mind() -> None:
    found = mind.estimate(padded_ball(30), 20, highest=10)
    assert found.dimension == pytest.approx(3.696083548872364, abs=1e-7)
    assert found.whole == 4
    found = mind.estimate(padded_ball(300), 20)
    assert found.dimension == pytest.approx(4.41445943432498, abs=1e-7)
    assert found.whole == 4


def test_the_estimate_has_the_greatest_likelihood() -> None:
    graph = ideal(50, 8, 3.0)
    d = torch.tensor(levina_bickel.estimate(graph, 8).dimension, requires_grad=True)
    torch.distributions.Gamma(torch.tensor(7.0), d).log_prob(totals(graph)).sum().backward()
    assert d.grad is not None
    assert abs(d.grad.item()) < 1e-10 * 50


def test_the_means_are_those_of_the_local_estimates(x: Tensor) -> None:
    for unbiased in (False, True):
        harmonic = levina_bickel.estimate(x, 7, unbiased=unbiased)
        arithmetic = levina_bickel.estimate(x, 7, unbiased=unbiased, pool="arithmetic")
        expected = (6 - unbiased) / totals(neighbors.graph(x, 7))
        torch.testing.assert_close(harmonic.local, expected)
        assert harmonic.dimension == pytest.approx(1 / (1 / expected).mean().item(), rel=1e-12)
        assert arithmetic.dimension == pytest.approx(expected.mean().item(), rel=1e-12)


@pytest.mark.parametrize("dimension", [1.0, 3.0, 10.0])
def test_only_the_arithmetic_mean_is_biased_and_only_if_not_unbiased(dimension: float) -> None:
    graph, k = ideal(20000, 10, dimension), 10
    # Var T = (k − 1)/d²; 1/T has variance d²/((k − 2)² (k − 3)).
    harmonic = levina_bickel.estimate(graph, k)
    error = dimension / math.sqrt(20000 * (k - 1))
    assert harmonic.standard_error == pytest.approx(error, rel=0.05)
    assert harmonic.dimension == pytest.approx(dimension, abs=4 * error)
    error = dimension / math.sqrt(20000 * (k - 3))
    unbiased = levina_bickel.estimate(graph, k, pool="arithmetic", unbiased=True)
    assert unbiased.standard_error == pytest.approx(error, rel=0.05)
    assert unbiased.dimension == pytest.approx(dimension, abs=4 * error)
    biased = levina_bickel.estimate(graph, k, pool="arithmetic")
    assert biased.dimension == pytest.approx(unbiased.dimension * (k - 1) / (k - 2), rel=1e-12)


def test_the_posterior_is_prior_times_likelihood_by_quadrature() -> None:
    graph, a, b, f = ideal(12, 5, 3.0), 2.0, 0.5, 1.6
    found, sums = levina_bickel.posterior(graph, 5, a, b, inflation=f), totals(graph).numpy()

    def joint(d: float) -> float:
        log_likelihood = stats.gamma.logpdf(sums, 4, scale=1 / d).sum()
        return float(np.exp(stats.gamma.logpdf(d, a, scale=1 / b) + log_likelihood / f))

    def integral(power: int) -> float:
        return integrate.quad(lambda d: d**power * joint(d), 0, 40, epsabs=0, epsrel=1e-11)[0]

    assert found.log_evidence == pytest.approx(math.log(integral(0)), abs=1e-9)
    assert found.dimension == pytest.approx(integral(1) / integral(0), rel=1e-9)


def test_the_posterior_of_two_neighbors_is_twonn_s(x: Tensor) -> None:
    found = levina_bickel.posterior(x, 2, inflation=1.0)
    total = neighbors.graph(x, 2).log_ratio.sum().item()
    assert (found.concentration, found.rate) == pytest.approx((301.0, 0.01 + total))
    assert math.isfinite(found.log_evidence)


@pytest.mark.parametrize("dimension", [1, 2])
def test_the_posterior_is_as_wide_as_neighbors_that_are_shared_make_it(dimension: int) -> None:
    covered, counted, repeats = 0, 0, 150
    for _ in range(repeats):
        graph = flat_torus(300, dimension)
        low, high = levina_bickel.posterior(graph).interval(0.9)
        covered += low < dimension < high
        low, high = levina_bickel.posterior(graph, inflation=1.0).interval(0.9)
        counted += low < dimension < high
    # Four standard deviations of the count, and 0.02 for an inflation that is estimated.
    assert covered / repeats == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / repeats) + 0.02)
    assert counted < covered


def test_the_local_posteriors_are_prior_times_likelihood() -> None:
    graph, d = ideal(6, 5, 3.0), torch.linspace(0.01, 60, 200001)
    found, sums = levina_bickel.pointwise(graph, 5, 2.0, 0.5), totals(graph)
    low, high = found.interval(0.8)
    prior = torch.distributions.Gamma(torch.tensor(2.0), torch.tensor(0.5))
    for i, total in enumerate(sums):
        joint = torch.distributions.Gamma(torch.tensor(4.0), d).log_prob(total) + prior.log_prob(d)
        density = joint.exp() / torch.trapezoid(joint.exp(), d)
        assert torch.trapezoid(d * density, d) == pytest.approx(found.mean[i].item(), rel=1e-6)
        square = torch.trapezoid((d - found.mean[i]).square() * density, d)
        assert found.standard_error[i].item() == pytest.approx(square.sqrt().item(), rel=1e-5)
        inside = (d > low[i]) & (d < high[i])
        assert torch.trapezoid(density * inside, d) == pytest.approx(0.8, abs=1e-3)
    torch.testing.assert_close(found.distribution.mean, found.mean)


def test_with_a_flat_prior_the_local_mean_is_the_local_estimate(x: Tensor) -> None:
    fit, local = levina_bickel.estimate(x), levina_bickel.pointwise(x)
    torch.testing.assert_close(local.mean, fit.local)
    assert local.dimension == fit.dimension


def test_the_local_posteriors_are_calibrated() -> None:
    prior = torch.distributions.Gamma(torch.tensor(4.0), torch.tensor(1.0))
    truth = prior.sample((1000,))
    found = levina_bickel.pointwise(ideal(1000, 8, truth), 8, 4.0, 1.0)
    ranks = stats.gamma(found.concentration, scale=1 / found.rate).cdf(truth)
    assert stats.kstest(ranks, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_smooth_posteriors_are_narrower_and_hold_the_truth_as_often(dimension: int) -> None:
    held, widths = {False: [], True: []}, {}
    for _ in range(15):
        graph = flat_torus(400, dimension)
        for smooth in (False, True):
            low, high = levina_bickel.pointwise(graph, smooth=smooth).interval()
            held[smooth].append(((low < dimension) & (dimension < high)).double().mean())
            widths[smooth] = (high - low).mean()
    # Over 6000 points, of which one in about 20 is independent of the others.
    for smooth in (False, True):
        assert torch.stack(held[smooth]).mean() == pytest.approx(0.95, abs=0.03)
    assert widths[True] < 0.5 * widths[False]


def test_smooth_means_pool_a_point_with_its_neighbors(x: Tensor) -> None:
    graph, found = neighbors.graph(x, 5), levina_bickel.pointwise(x, 5, smooth=True)
    sums = totals(graph)
    for i in (0, 17, 299):
        own = sums[i] + sum(sums[j] for j in graph.indices[i])
        assert found.mean[i].item() == pytest.approx(6 * 4 / own.item(), rel=1e-9)


def test_finds_the_dimension_of_each_part() -> None:
    parts = torch.zeros(1000, 6)
    parts[:500, 0], parts[500:, 1:5] = torch.rand(500), torch.rand(500, 4)
    parts[500:, 5] = 10
    found = levina_bickel.pointwise(parts, smooth=True).mean
    assert (found[:500] < 2).all()
    assert (found[500:] > 2).all()


@pytest.mark.parametrize(
    "estimate", [levina_bickel.estimate, levina_bickel.posterior, mind.estimate]
)
def test_neither_repeats_nor_units_nor_origin_nor_constant_columns_matter(
    x: Tensor, estimate: Callable[..., Any]
) -> None:
    clean = estimate(x).dimension
    with pytest.warns(UserWarning, match="30 of 330 points repeat another"):
        assert estimate(torch.cat([x, x[:30]])).dimension == pytest.approx(clean, rel=1e-12)
    assert estimate(1e-16 * x).dimension == pytest.approx(clean, rel=1e-9)
    assert estimate(x + 1e9).dimension == pytest.approx(clean, rel=1e-5)
    constant = torch.linspace(1e6, 1e8, 55).expand(300, 55)
    assert estimate(torch.cat([x, constant], dim=1)).dimension == pytest.approx(clean)
    assert estimate(neighbors.graph(x, 20)).dimension == pytest.approx(clean, rel=1e-12)


def test_points_on_a_line_have_one_dimension() -> None:
    x = torch.rand(2000, 1)
    for found in (levina_bickel.estimate(x), mind.estimate(x)):
        # The ends of the line, where neighbors are on one side, are 1 % of it.
        assert found.dimension == pytest.approx(1.0, abs=4 * found.standard_error + 0.01)
    assert mind.estimate(x).whole == 1


def test_mind_is_gride_s_law_and_its_whole_number_the_most_likely() -> None:
    graph = ideal(40, 6, 2.6)
    found, rho = mind.estimate(graph, 5), 1 / gride.ratios(graph, 1, 6)

    def log_likelihood(d: float) -> float:
        logs = rho.log()
        terms = math.log(5 * d) + (d - 1) * logs + 4 * torch.log1p(-(rho**d))
        return terms.sum().item()

    best = log_likelihood(found.dimension)
    assert all(log_likelihood(found.dimension * (1 + h)) < best for h in (-1e-4, 1e-4))
    assert found.whole == max(range(1, 12), key=log_likelihood)
    for highest in (1, 2):
        assert mind.estimate(graph, 5, highest=highest).whole == min(highest, found.whole)


def test_a_point_whose_neighbors_are_at_one_distance() -> None:
    graph = ideal(10, 4, 2.0)
    graph.distances[3] = 1.5
    found = levina_bickel.estimate(graph, 4)
    assert found.local[3] == math.inf
    assert math.isfinite(found.dimension)
    assert levina_bickel.pointwise(graph, 4, 1.0, 0.01).mean.isfinite().all()
    with pytest.raises(ValueError, match=r"rate \+ T must be positive, got \[0\.\d+, "):
        levina_bickel.pointwise(graph, 4)
    with pytest.raises(ValueError, match="x must not have all neighbors of a point at one"):
        levina_bickel.estimate(graph, 4, pool="arithmetic")
    graph.distances[:] = 1.5
    with pytest.raises(ValueError, match="x must not have its neighbors at one distance"):
        levina_bickel.estimate(graph, 4)


def test_refuses_what_it_cannot_use(x: Tensor) -> None:
    with pytest.raises(ValueError, match="pool must be one of arithmetic, harmonic, got 'median'"):
        levina_bickel.estimate(x, pool="median")
    with pytest.raises(ValueError, match="num_neighbors must be at least 2, got 1"):
        levina_bickel.estimate(x, 1)
    with pytest.raises(ValueError, match="num_neighbors must be at least 3, got 2"):
        levina_bickel.estimate(x, 2, unbiased=True)
    with pytest.raises(ValueError, match="num_neighbors must be at least 1, got 0"):
        mind.estimate(x, 0)
    with pytest.raises(ValueError, match="highest must be at least 1, got 0"):
        mind.estimate(x, highest=0)
    with pytest.raises(
        ValueError, match=r"num_neighbors must be in \[1, 4\] for 5 points, got 10"
    ):
        levina_bickel.posterior(x[:5])
    with pytest.raises(ValueError, match=r"inflation must be at least 1\.0, got 0\.5"):
        levina_bickel.posterior(x, inflation=0.5)
    with pytest.raises(ValueError, match=r"concentration must be at least 0\.0, got -1"):
        levina_bickel.pointwise(x, concentration=-1)
    with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 95"):
        levina_bickel.pointwise(x).interval(95)
    with pytest.raises(ValueError, match="x must be finite, got 3 nan or inf"):
        levina_bickel.estimate(torch.cat([x, torch.full((1, 3), math.nan)]))


def test_calibrated_answers_are_right_on_average(x: Tensor) -> None:
    found = []
    for seed in range(12):
        ball = manifolds.sample("ball", 300, dimension=7, seed=seed).x
        found.append(levina_bickel.estimate(ball, calibrated=True))
    values = torch.tensor([fit.dimension for fit in found])
    # The table's own error is up to 0.5 %.
    assert values.mean().item() == pytest.approx(7, abs=4 * values.std().item() / 12**0.5 + 0.035)
    plain = levina_bickel.estimate(ball)
    assert plain.dimension < 0.95 * found[-1].dimension
    assert found[-1].standard_error > plain.standard_error
    torch.testing.assert_close(found[-1].local, plain.local)
    for settings in ({"num_neighbors": 5}, {"pool": "arithmetic"}, {"unbiased": True}):
        with pytest.raises(ValueError, match="calibrated must be of the harmonic mean of 10 nei"):
            levina_bickel.estimate(x, calibrated=True, **settings)


def test_shared_neighbors_count_as_for_twonn_where_it_is_twonn(x: Tensor) -> None:
    graph = neighbors.graph(x, 10)
    ours = levina_bickel.posterior(graph, 2).inflation
    assert ours == pytest.approx(twonn.posterior(graph).inflation)


def test_prints_its_answer_first(x: Tensor) -> None:
    for found in (levina_bickel.estimate(x), levina_bickel.pointwise(x)):
        assert "(d = 3.0" in repr(found)
        assert "tensor" not in repr(found)
