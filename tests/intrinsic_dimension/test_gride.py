import math

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats
from scipy.spatial import KDTree
from scipy.special import digamma, gammainc, polygamma
from torch import Tensor

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.infer import importance
from pplvae.intrinsic_dimension import dependence, gride, ratio_law, twonn
from pplvae.intrinsic_dimension.gride import Gride

RANKS = [(1, 2), (1, 5), (2, 4), (3, 4), (16, 32)]


def ball(num_points: int, dim: int, seed: int) -> np.ndarray:
    """Uniform in the unit ball: a normal direction, its radius by the law of its square."""
    x = np.random.RandomState(seed).normal(size=(num_points, dim))
    square = (x**2).sum(axis=1, keepdims=True)
    return x * gammainc(dim / 2, square / 2) ** (1 / dim) / np.sqrt(square)


def flat_torus(
    num_points: int, dim: int, num_neighbors: int, seed: int
) -> neighbors.NeighborGraph:
    """Uniform points with no edge and no curvature: the law of the ratios is exact."""
    x = np.random.RandomState(seed).rand(num_points, dim)
    found = KDTree(x, boxsize=1.0).query(x, num_neighbors + 1)
    distances, indices = (torch.as_tensor(part[:, 1:]) for part in found)
    rows = torch.arange(num_points)
    return neighbors.NeighborGraph(distances, indices, rows, torch.ones_like(rows), None)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(300, 3)


def test_reproduces_the_values_and_errors_of_others() -> None:
    x = np.hstack([ball(300, 5, 0), np.zeros((300, 5))])
    graph = neighbors.graph(x, 64)
    published = {
        1: (4.1131389, 0.2374722),
        2: (4.6669339, 0.1941682),
        4: (4.3124446, 0.1272877),
        8: (4.3982783, 0.0916759),
        16: (4.2753110, 0.0629992),
        32: (3.8384688, 0.0399839),
    }
    for n1, (dimension, error) in published.items():
        fit = gride.maximum_likelihood(graph, n1=n1, n2=2 * n1, inflation=1.0)
        assert fit.dimension == pytest.approx(dimension, abs=1e-6)
        assert fit.standard_error == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("dimension", [0.5, 3.0, 40.0])
@pytest.mark.parametrize(("n1", "n2"), RANKS)
def test_the_law_integrates_to_one(dimension: float, n1: int, n2: int) -> None:
    law = Gride(dimension, n1, n2)

    def density(log_ratio: float) -> float:
        return (law.log_prob(torch.tensor(log_ratio).exp()) + log_ratio).exp().item()

    width = 60 / (n1 * dimension)
    assert integrate.quad(density, 0, width, limit=200)[0] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("n1", "n2"), RANKS)
def test_a_power_of_the_ratio_has_a_beta_law(n1: int, n2: int) -> None:
    d, ratios = 3.5, torch.linspace(1.01, 4.0, 50)
    power = ratios.numpy() ** -d
    expected = stats.beta(n1, n2 - n1).logpdf(power) + math.log(d) + np.log(power / ratios.numpy())
    np.testing.assert_allclose(Gride(d, n1, n2).log_prob(ratios), expected, rtol=1e-10)
    draws = Gride(d, n1, n2).sample(torch.Size([5000]))
    assert stats.kstest(draws.numpy() ** -d, stats.beta(n1, n2 - n1).cdf).pvalue > 1e-3


def test_with_the_first_two_neighbors_the_law_is_pareto_s() -> None:
    d = torch.tensor([0.7, 5.0])
    ratios = torch.tensor([[1.0], [1.5], [9.0]])
    expected = torch.distributions.Pareto(torch.ones(2), d).log_prob(ratios)
    torch.testing.assert_close(Gride(d).log_prob(ratios), expected)


def test_ratios_of_uniform_points_follow_the_law() -> None:
    # One point of each data set, so that the ratios are independent.
    for dim, n1, n2 in ((1, 2, 4), (3, 1, 8)):
        ratios = torch.cat(
            [gride.ratios(flat_torus(60, dim, n2, s), n1, n2)[:1] for s in range(400)]
        )
        law = stats.beta(n1, n2 - n1)
        assert stats.kstest(ratios.numpy() ** -float(dim), law.cdf).pvalue > 1e-3


def test_keeps_its_digits_near_a_ratio_of_one() -> None:
    # As ε → 0, p(1 + ε) → d (d ε)^(n₂ − n₁ − 1) / B; the next term is smaller by about n₂ d ε.
    excess = 2.0**-40
    for d, n1, n2 in ((2.0, 1, 3), (10.0, 4, 8)):
        power = n2 - n1 - 1
        log_beta = math.lgamma(n1) + math.lgamma(n2 - n1) - math.lgamma(n2)
        expected = math.log(d) + power * math.log(d * excess) - log_beta
        found = Gride(d, n1, n2).log_prob(torch.tensor(1 + excess))
        assert found.item() == pytest.approx(expected, abs=1e-9)
        assert Gride(d, n1, n2).log_prob(torch.tensor(1.0)) == -math.inf


@pytest.mark.parametrize(("n1", "n2"), RANKS)
def test_the_density_is_differentiable_in_the_dimension(n1: int, n2: int) -> None:
    d = torch.tensor(4.0, requires_grad=True)
    ratios = torch.tensor([1 + 1e-9, 1.5, 1e6])
    assert torch.autograd.gradcheck(lambda d: Gride(d, n1, n2).log_prob(ratios), (d,))


def test_a_tie_of_the_first_two_neighbors_has_a_slope() -> None:
    d = torch.tensor(4.0, requires_grad=True)
    Gride(d).log_prob(torch.tensor(1.0)).backward()
    assert d.grad == pytest.approx(0.25)


def test_draws_are_differentiable_in_the_dimension() -> None:
    d = torch.tensor(3.0, requires_grad=True)
    draws = Gride(d, 2, 5).rsample(torch.Size([2000]))
    draws.log().mean().backward()
    # E log μ = (ψ(n₂) − ψ(n₁)) / d; its variance is (ψ'(n₁) − ψ'(n₂)) / d².
    mean, sd = digamma(5) - digamma(2), math.sqrt(polygamma(1, 2) - polygamma(1, 5))
    assert d.grad == pytest.approx(-mean / 9, abs=4 * sd / 9 / math.sqrt(2000))


def test_has_batches_and_keeps_its_precision() -> None:
    law = Gride(torch.tensor([2.0, 3.0], dtype=torch.float32), torch.tensor([1, 4]), 8)
    assert law.batch_shape == (2,)
    wide = law.expand(torch.Size([5, 2]))
    assert wide.sample(torch.Size([7])).shape == (7, 5, 2)
    assert wide.sample().dtype == torch.float32
    torch.testing.assert_close(wide.log_prob(torch.full((5, 2), 1.7)), law.log_prob(
        torch.full((2,), 1.7)).expand(5, 2))  # fmt: skip
    assert Gride(3).sample().is_floating_point()


def test_ratios_are_those_of_a_full_sort(x: Tensor) -> None:
    distances = (x.unsqueeze(0) - x.unsqueeze(1)).norm(dim=-1).sort(dim=1).values
    torch.testing.assert_close(gride.ratios(x, 3, 7), distances[:, 7] / distances[:, 3])


def test_points_their_graph_and_its_ratios_give_the_same(x: Tensor) -> None:
    graph = neighbors.graph(x, 20)
    given = gride.maximum_likelihood(x, n1=2, n2=4)
    assert given == gride.maximum_likelihood(graph, n1=2, n2=4)
    bare = gride.maximum_likelihood(gride.ratios(graph, 2, 4), n1=2, n2=4)
    assert (bare.dimension, bare.inflation) == (given.dimension, 1.0)
    assert (
        gride.posterior(x, n1=2, n2=4).interval() == gride.posterior(graph, n1=2, n2=4).interval()
    )


@pytest.mark.parametrize(("n1", "n2"), RANKS)
def test_maximum_likelihood_is_where_the_likelihood_is_greatest(n1: int, n2: int) -> None:
    ratios = Gride(7.0, n1, n2).sample(torch.Size([300]))
    fit = gride.maximum_likelihood(ratios, n1=n1, n2=n2, unbiased=False)
    log_d = torch.tensor(math.log(fit.dimension), requires_grad=True)
    log_likelihood = Gride(log_d.exp(), n1, n2).log_prob(ratios).sum()
    (slope,) = torch.autograd.grad(log_likelihood, log_d, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, log_d)
    assert abs(slope.item()) < 1e-8
    assert fit.standard_error == pytest.approx(fit.dimension / math.sqrt(-curvature), rel=1e-9)


def test_with_the_first_two_neighbors_it_is_twonn(x: Tensor) -> None:
    for unbiased in (True, False):
        ours = gride.maximum_likelihood(x, unbiased=unbiased)
        theirs = twonn.maximum_likelihood(x, unbiased=unbiased)
        assert ours.dimension == pytest.approx(theirs.dimension, rel=1e-12)
        assert ours.inflation == pytest.approx(theirs.inflation, rel=1e-9)
        assert ours.interval() == pytest.approx(theirs.interval(), rel=1e-8)


@pytest.mark.parametrize("dimension", [1e-3, 1.0, 1e7])
def test_the_score_is_solved_however_far_the_root(dimension: float) -> None:
    # log μ is about 0.7 / d: at d = 1e7, μ − 1 keeps 9 digits; at 1e-3, μ is about 1e300.
    logs = torch.full((50,), 1.0) / dimension
    for n1, n2 in ((1, 2), (2, 4), (512, 1024)):
        unit = ratio_law.solve(torch.ones(50), n1, n2, count=49)
        found = ratio_law.solve(logs, n1, n2, count=49)
        assert found == pytest.approx(unit * dimension, rel=1e-9)


def test_ties_are_no_obstacle() -> None:
    ratios = Gride(3.0, 2, 4).sample(torch.Size([500]))
    ratios[:5] = 1.0
    assert gride.maximum_likelihood(ratios, n1=2, n2=4).dimension == pytest.approx(3.1, abs=0.4)
    found = gride.posterior(ratios, n1=2, n2=4)
    assert found.dimension == pytest.approx(3.1, abs=0.4)


def test_a_tie_means_to_the_posterior_what_it_means_to_the_model() -> None:
    ratios = torch.tensor([1.0, 1.0, 1.3, 2.0, 1.1, 1.4])
    found = gride.posterior(ratios, n1=2, n2=5, concentration=2.0, rate=0.5, inflation=1.5)

    def log_joint(d: Tensor) -> Tensor:
        conditioned = pyro.poutine.condition(gride.model, {"dimension": d})
        traced = pyro.poutine.trace(conditioned)
        return traced.get_trace(ratios, 2, 5, 1.5, concentration=2.0, rate=0.5).log_prob_sum()

    top = log_joint(torch.tensor(found.dimension)).item()

    def integral(power: int) -> float:
        return integrate.quad(
            lambda d: d**power * math.exp(log_joint(torch.tensor(d)).item() - top), 0, 40,
            epsabs=0, epsrel=1e-9,
        )[0]  # fmt: skip

    assert found.log_evidence == pytest.approx(top + math.log(integral(0)), abs=1e-6)
    assert found.dimension == pytest.approx(integral(1) / integral(0), rel=1e-6)
    d = torch.tensor(3.0, requires_grad=True)
    (slope,) = torch.autograd.grad(log_joint(d), d)
    step = (log_joint(torch.tensor(3.001)) - log_joint(torch.tensor(2.999))).item() / 0.002
    assert slope.item() == pytest.approx(step, rel=1e-4)


def test_the_interval_covers_as_often_as_it_says_only_because_sharing_is_counted() -> None:
    covered = dict.fromkeys([(2, True), (2, False), (16, True), (16, False)], 0)
    repeats = 100
    for seed in range(repeats):
        graph = flat_torus(500, 2, 32, seed)
        for n1, shared in covered:
            fit = gride.maximum_likelihood(
                graph, n1=n1, n2=2 * n1, inflation=None if shared else 1.0
            )
            low, high = fit.interval()
            covered[n1, shared] += low < 2.0 < high
    # The count's standard deviation is 0.022 at 0.95; the plain intervals are known to hold the
    # truth in 0.82 to 0.86 of all data sets.
    for n1 in (2, 16):
        assert covered[n1, True] / repeats > 0.95 - 3 * 0.022
        assert covered[n1, False] / repeats < 0.95 - 2 * 0.022


def share(one: set[int], other: set[int]) -> float:
    return len(one & other) / math.sqrt(len(one) * len(other))


def test_the_smooth_inflation_is_the_sum_over_pairs() -> None:
    indices = torch.stack([torch.randperm(29)[:6] for _ in range(30)])
    indices += indices >= torch.arange(30).unsqueeze(1)
    scores, sizes = torch.randn(30).cumsum(0), torch.randint(1, 7, (30,))
    sets = [{i, *indices[i, : sizes[i]].tolist()} for i in range(30)]
    z = scores - scores.mean()
    total = sum(z[i] * z[j] * share(sets[i], sets[j]) for i in range(30) for j in range(30))
    left = 1 - sum(share(one, other) for one in sets for other in sets) / 30**2
    expected = float(total / z.square().sum()) / left
    assert expected > 1 > left > 0.5
    assert dependence.smooth_inflation(scores, indices, sizes) == pytest.approx(expected)
    assert dependence.smooth_inflation(torch.ones(30), indices, 6) == 1.0


def test_the_smooth_inflation_is_right_where_neighborhoods_are_a_large_part_of_the_data() -> None:
    # Points on a circle read 16 of the 63 others: each point's log μ but for the others' mean.
    estimates, claimed = [], []
    for seed in range(400):
        fit = gride.maximum_likelihood(flat_torus(64, 1, 16, seed), n1=8, n2=16)
        estimates.append(fit.dimension)
        claimed.append(fit.standard_error)
    # The spread of 400 values is known to 3.5 %; without the factor 1 / (1 − m / N) the claim is
    # 13 % less.
    assert np.mean(claimed) / np.std(estimates) == pytest.approx(1.0, abs=0.11)


@pytest.mark.parametrize("n1", [1, 2, 4, 8])
def test_calibrated_answers_are_right_on_average(n1: int) -> None:
    fits = []
    for seed in range(12):
        x = manifolds.sample("ball", 300, dimension=7, seed=seed).x
        fits.append(gride.maximum_likelihood(x, n1=n1, n2=2 * n1, calibrated=True))
    found = torch.tensor([fit.dimension for fit in fits])
    # The table's own error is up to 0.5 %.
    assert found.mean().item() == pytest.approx(7, abs=4 * found.std().item() / 12**0.5 + 0.035)
    plain = gride.maximum_likelihood(x, n1=n1, n2=2 * n1)
    assert plain.dimension < 0.97 * fits[-1].dimension
    low, high = fits[-1].interval()
    assert low < fits[-1].dimension < high
    assert fits[-1].standard_error == pytest.approx((high - low) / 3.92, rel=0.1)


def test_points_given_as_ratios_are_noticed_whatever_the_ranks() -> None:
    for n1, n2 in ((1, 2), (4, 8)):
        with pytest.warns(UserWarning, match="the smallest of 500 ratios is 3"):
            gride.maximum_likelihood(3 + 0.1 * torch.rand(500), n1=n1, n2=n2)
    for n1, n2 in ((1, 2), (16, 32), (64, 128)):  # none of these is near 1; warnings are errors
        gride.maximum_likelihood(Gride(0.5, n1, n2).sample(torch.Size([300])), n1=n1, n2=n2)


def test_the_posterior_is_twonn_s_where_that_is_exact(x: Tensor) -> None:
    for data in (x, torch.tensor([2.0, 4.0, 1.5])):
        ours, theirs = gride.posterior(data), twonn.posterior(data)
        for name in ("dimension", "standard_error", "log_evidence", "inflation"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-7)
        assert ours.interval(0.8) == pytest.approx(theirs.interval(0.8), rel=1e-6)


def test_the_posterior_is_prior_times_likelihood_by_quadrature() -> None:
    ratios = Gride(3.0, 2, 5).sample(torch.Size([25]))
    found = gride.posterior(ratios, n1=2, n2=5, concentration=2.0, rate=0.5, inflation=1.5)
    prior = stats.gamma(2.0, scale=2.0)

    def joint(d: float) -> float:
        return float(prior.pdf(d)) * math.exp(Gride(d, 2, 5).log_prob(ratios).sum().item() / 1.5)

    def integral(power: int, high: float = 15.0) -> float:
        return integrate.quad(lambda d: d**power * joint(d), 0, high, epsabs=0, epsrel=1e-10)[0]

    evidence, mean = integral(0), integral(1) / integral(0)
    assert found.log_evidence == pytest.approx(math.log(evidence), abs=1e-8)
    assert found.dimension == pytest.approx(mean, rel=1e-8)
    sd = math.sqrt(integral(2) / evidence - mean**2)
    assert found.standard_error == pytest.approx(sd, rel=1e-7)
    quantiles = found.quantile(torch.tensor([0.1, 0.5]))
    assert integral(0, quantiles[0].item()) / evidence == pytest.approx(0.1, abs=1e-6)
    assert integral(0, quantiles[1].item()) / evidence == pytest.approx(0.5, abs=1e-6)


def test_importance_sampling_of_the_model_finds_the_same_posterior() -> None:
    ratios = Gride(3.0, 2, 4).sample(torch.Size([60]))
    drawn = importance.fit(gride.model, ratios, 2, 4, 1.5, num_draws=1000, seed=0, pointwise=False)
    found = gride.posterior(ratios, n1=2, n2=4, inflation=1.5)
    # Four draws of the proposal for each kept leave the evidence known to about 0.02.
    assert drawn.log_evidence == pytest.approx(found.log_evidence, abs=0.06)
    mean = drawn.draws["dimension"].mean()
    assert mean == pytest.approx(found.dimension, abs=4 * found.standard_error / math.sqrt(750))


def test_the_posterior_is_calibrated() -> None:
    prior = torch.distributions.Gamma(torch.tensor(4.0), torch.tensor(1.0))
    ranks = []
    for d in prior.sample((120,)).tolist():
        ratios = Gride(d, 2, 4).sample(torch.Size([8]))
        found = gride.posterior(ratios, n1=2, n2=4, concentration=4.0, rate=1.0)
        ranks.append(float(np.interp(math.log(d), found.log_dimensions, found.probs)))
    assert stats.kstest(ranks, "uniform").pvalue > 1e-3


def test_the_flat_prior_has_its_peak_at_the_maximum_likelihood_and_no_evidence() -> None:
    ratios = Gride(3.0, 2, 4).sample(torch.Size([2000]))
    found = gride.posterior(ratios, n1=2, n2=4, concentration=0.0, rate=0.0)
    fit = gride.maximum_likelihood(ratios, n1=2, n2=4, unbiased=False)
    # Mean and mode of log d differ by about half the variance of log d, 1 / (2 J).
    assert found.dimension == pytest.approx(fit.dimension, rel=1e-3)
    assert found.standard_error == pytest.approx(fit.standard_error, rel=1e-2)
    assert math.isnan(found.log_evidence)


def test_the_model_s_log_joint_is_prior_times_likelihood() -> None:
    ratios = Gride(3.0, 2, 4).sample(torch.Size([25]))
    conditioned = pyro.poutine.condition(gride.model, {"dimension": torch.tensor(2.5)})
    trace = pyro.poutine.trace(conditioned).get_trace(ratios, 2, 4, concentration=2.0, rate=0.5)
    expected = stats.gamma(2.0, scale=2.0).logpdf(2.5)
    expected += Gride(2.5, 2, 4).log_prob(ratios).sum().item()
    assert trace.log_prob_sum() == pytest.approx(expected, rel=1e-12)


def test_a_posterior_prints_its_answer() -> None:
    printed = repr(gride.posterior(torch.tensor([2.0, 4.0, 1.5])))
    assert printed.startswith("GridPosterior(d = 1.60")


def test_refuses_impossible_ranks_and_ratios(x: Tensor) -> None:
    for call in (gride.ratios, lambda x, n1, n2: gride.maximum_likelihood(x, n1=n1, n2=n2)):
        with pytest.raises(ValueError, match="n2 must be at least 3 for n1 = 2, got 2"):
            call(x, 2, 2)
        with pytest.raises(ValueError, match="n1 must be at least 1, got 0"):
            call(x, 0, 2)
    with pytest.raises(ValueError, match="n2 must be above n1, got n1 = 3 and n2 = 2"):
        Gride(2.0, 3, 2)
    with pytest.raises(ValueError, match=r"ratios must be at least 1, got 0\.5"):
        gride.maximum_likelihood(torch.tensor([0.5, 2.0, 3.0]))
    with pytest.raises(ValueError, match="ratios must not all be 1"):
        gride.posterior(torch.ones(5), n1=2, n2=4)
    with pytest.raises(ValueError, match=r"num_neighbors must be in \[1, 3\]"):
        gride.maximum_likelihood(neighbors.graph(x, 3), n1=2, n2=4)
    with pytest.raises(ValueError, match=r"inflation must be at least 1\.0, got 0\.5"):
        gride.maximum_likelihood(x, inflation=0.5)
    with pytest.raises(ValueError, match="n1 must be 1, 2, 4, or 8 and more, and n2 twice"):
        gride.maximum_likelihood(x, n1=2, n2=5, calibrated=True)
    with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 95"):
        gride.posterior(x).interval(95)
    with pytest.raises(ValueError, match=r"probs must be in \(0, 1\)"):
        gride.posterior(x).quantile(torch.tensor([0.0, 0.5]))
