import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats
from scipy.special import gammainc
from torch import Tensor

from pplvae import neighbors
from pplvae.infer import exact
from pplvae.intrinsic_dimension import calibration, twonn


def ball(num_points: int, dim: int, seed: int) -> np.ndarray:
    """Uniform in the unit ball: a normal direction, its radius by the law of its square."""
    x = np.random.RandomState(seed).normal(size=(num_points, dim))
    square = (x**2).sum(axis=1, keepdims=True)
    return x * gammainc(dim / 2, square / 2) ** (1 / dim) / np.sqrt(square)


def sphere(num_points: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.RandomState(seed).randn(num_points, dim + 1)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def flat(x: np.ndarray) -> np.ndarray:
    """The same points in five more dimensions."""
    return np.hstack([x, np.zeros((len(x), 5))])


def pareto(dimension: float, *shape: int) -> Tensor:
    return torch.distributions.Pareto(torch.tensor(1.0), torch.tensor(dimension)).sample(shape)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(300, 3)


# Published figures of other packages on these very points.
def test_reproduces_the_linear_fit_of_others() -> None:
    for x, expected in (
        (ball(500, 5, 0), 4.159093274086606),
        (sphere(500, 30, 1), 21.534662028474745),
        (flat(ball(300, 5, 0)), 4.362176532655348),
    ):
        assert twonn.linear_fit(x).dimension == pytest.approx(expected, abs=1e-6)
    discarding = twonn.linear_fit(flat(ball(30, 5, 0)), discard=0.05)
    assert discarding.dimension == pytest.approx(4.63403, abs=5e-6)


def test_reproduces_the_maximum_likelihood_of_others_in_its_unbiased_form() -> None:
    x = flat(ball(300, 5, 0))
    unbiased = twonn.maximum_likelihood(x, unbiased=True).dimension
    assert unbiased == pytest.approx(4.113138917297787, abs=1e-6)
    plain = twonn.maximum_likelihood(x).dimension
    assert plain == pytest.approx(4.113138917297787 * 300 / 299, abs=1e-6)


def test_ratios_are_those_of_a_full_sort(x: Tensor) -> None:
    distances = (x.unsqueeze(0) - x.unsqueeze(1)).norm(dim=-1).sort(dim=1).values
    torch.testing.assert_close(twonn.distance_ratios(x), distances[:, 2] / distances[:, 1])


def test_ratios_are_a_vector_of_at_least_one(x: Tensor) -> None:
    ratios = twonn.distance_ratios(x.numpy())
    assert ratios.shape == (300,)
    assert ratios.min() >= 1


def test_points_may_stand_in_for_their_ratios(x: Tensor) -> None:
    ratios = twonn.distance_ratios(x)
    assert twonn.linear_fit(x).dimension == twonn.linear_fit(ratios).dimension
    found = twonn.maximum_likelihood(x, inflation=1.0)
    assert found == twonn.maximum_likelihood(ratios)
    assert twonn.posterior(x, inflation=1.0) == twonn.posterior(ratios)
    assert twonn.posterior(neighbors.graph(x, 5)) == twonn.posterior(x)


def test_shared_neighbors_widen_what_points_say_and_leave_the_answer(x: Tensor) -> None:
    ratios, factor = twonn.distance_ratios(x), twonn.posterior(x).inflation
    assert 1.1 < factor < 2.5
    found, plain = twonn.maximum_likelihood(x), twonn.maximum_likelihood(ratios)
    assert found.dimension == plain.dimension
    assert found.standard_error == pytest.approx(plain.standard_error * math.sqrt(factor))
    tempered = twonn.posterior(ratios, 2.0, 0.5, inflation=factor)
    assert tempered == twonn.posterior(x, 2.0, 0.5)
    assert tempered.concentration == pytest.approx(2.0 + 300 / factor)
    assert tempered.rate == pytest.approx(0.5 + ratios.log().sum().item() / factor)


def test_the_tempered_model_has_the_tempered_posterior() -> None:
    ratios = pareto(3.0, 40)
    law = twonn.posterior(ratios, 2.0, 0.5, inflation=1.6)
    points = torch.tensor([2.0, 3.5])
    joint = []
    for d in points:
        conditioned = pyro.poutine.condition(twonn.model, {"dimension": d})
        trace = pyro.poutine.trace(conditioned).get_trace(ratios, 2.0, 0.5, 1.6)
        joint.append(trace.log_prob_sum())
    expected = law.distribution.log_prob(points) + law.log_evidence
    torch.testing.assert_close(torch.stack(joint), expected.to(torch.stack(joint)))
    found = exact.fit(twonn.model, ratios, 2.0, 0.5, 1.6, num_draws=10, seed=0)
    assert found.log_evidence == pytest.approx(law.log_evidence)


def test_censoring_knows_how_many_large_ratios_there_are_and_not_how_large() -> None:
    ratios = pareto(5.0, 400)
    logs = ratios.log().sort().values
    kept, censored = logs[:360], 40 * logs[359]
    for unbiased in (False, True):
        found = twonn.maximum_likelihood(ratios, discard=0.1, unbiased=unbiased)
        expected = (360 - unbiased) / (kept.sum() + censored)
        assert found.dimension == pytest.approx(expected.item(), rel=1e-12)
    spoiled = ratios.clone()
    spoiled[ratios.argsort()[-40:]] *= 1000
    assert twonn.maximum_likelihood(spoiled, discard=0.1).dimension == pytest.approx(
        twonn.maximum_likelihood(ratios, discard=0.1).dimension, rel=1e-12
    )


def test_the_censored_unbiased_estimate_has_no_bias_and_its_variance() -> None:
    found = [
        twonn.maximum_likelihood(row, discard=0.2, unbiased=True)
        for row in pareto(5.0, 2000, 20).unbind()
    ]
    values = torch.tensor([fit.dimension for fit in found])
    # n of N exponentials, the rest censored at the n-th: d S is Gamma(n), here n = 16.
    sd = 5.0 / math.sqrt(14)
    assert values.mean() == pytest.approx(5.0, abs=4 * sd / math.sqrt(2000))
    assert values.std() == pytest.approx(sd, rel=0.15)


def test_repeated_points_are_dropped_and_change_nothing(x: Tensor) -> None:
    clean = twonn.distance_ratios(x)
    with pytest.warns(UserWarning, match="30 of 330 points repeat another and were dropped"):
        repeated = twonn.distance_ratios(torch.cat([x, x[:10], x[5:25]]))
    torch.testing.assert_close(repeated, clean, rtol=0, atol=0)
    with pytest.warns(UserWarning, match="repeat another"):
        estimate = twonn.maximum_likelihood(torch.cat([x, x[:30]])).dimension
    assert estimate == twonn.maximum_likelihood(x).dimension


def test_a_zero_with_a_sign_is_the_same_point(x: Tensor) -> None:
    twins = torch.tensor([[0.0, 1.0, 0.0], [-0.0, 1.0, -0.0]])
    with pytest.warns(UserWarning, match="1 of 302"):
        assert twonn.distance_ratios(torch.cat([x, twins])).isfinite().all()


@pytest.mark.parametrize("scale", [1e-200, 1e-16, 1e6, 1e150])
def test_the_scale_does_not_matter(x: Tensor, scale: float) -> None:
    torch.testing.assert_close(twonn.distance_ratios(scale * x), twonn.distance_ratios(x))


def test_a_large_offset_does_not_matter(x: Tensor) -> None:
    # A number near 1e9 is kept to 1e-7, and distances here are about 0.1: ratios to about 1e-6.
    moved = twonn.distance_ratios(x + 1e9)
    torch.testing.assert_close(moved, twonn.distance_ratios(x), rtol=2e-5, atol=0)
    rounded = (x * 2**20).round() / 2**20  # sums with 2^30 are exact
    exact = twonn.distance_ratios(rounded + 2.0**30)
    torch.testing.assert_close(exact, twonn.distance_ratios(rounded), rtol=0, atol=0)


def test_constant_columns_do_not_matter(x: Tensor) -> None:
    padded = torch.cat([x, torch.full((300, 55), 0.1)], dim=1)
    torch.testing.assert_close(twonn.distance_ratios(padded), twonn.distance_ratios(x))


def test_single_precision_gives_nearly_the_same(x: Tensor) -> None:
    double = twonn.maximum_likelihood(x).dimension
    assert twonn.maximum_likelihood(x.float()).dimension == pytest.approx(double, rel=1e-4)


def test_points_on_a_line_have_one_dimension() -> None:
    for x in (torch.rand(2000, 1), torch.rand(2000, 1) * torch.tensor([[1.0, 2.0, -1.0]])):
        # The standard error is d/√N = 0.022, times √1.6 for the neighbors that ratios share.
        assert twonn.maximum_likelihood(x).dimension == pytest.approx(1.0, abs=4 * 0.028)


def test_points_on_a_lattice_are_noticed() -> None:
    x = torch.randint(0, 30, (300, 3)).unique(dim=0)
    with pytest.warns(UserWarning, match=r"of the points have both neighbors equally near, as on"):
        twonn.distance_ratios(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twonn.distance_ratios(torch.randn(300, 3))


def test_a_line_of_exact_quantiles_has_the_slope_of_its_law() -> None:
    fractions = torch.arange(1, 100) / 100
    ratios = (1 - fractions) ** (-1 / 7.0)
    # A hundredth is the one that F = 1 stands for.
    fit = twonn.linear_fit(torch.cat([ratios, torch.tensor([1e6])]), discard=0.01)
    assert fit.dimension == pytest.approx(7.0, rel=1e-12)
    torch.testing.assert_close(fit.y, 7.0 * fit.x)


def test_the_line_is_the_least_squares_one_through_the_origin() -> None:
    fit = twonn.linear_fit(pareto(4.0, 500), discard=0.2)
    slope, *_ = np.linalg.lstsq(fit.x.numpy()[:, None], fit.y.numpy(), rcond=None)
    assert fit.dimension == pytest.approx(slope[0], rel=1e-12)


def test_the_line_shows_what_it_left_out() -> None:
    ratios = pareto(4.0, 50)
    fit = twonn.linear_fit(ratios, discard=0.1)
    assert (len(fit.x), len(fit.x_discarded)) == (45, 5)
    torch.testing.assert_close(torch.cat([fit.x, fit.x_discarded]), ratios.log().sort().values)
    assert fit.y.isfinite().all()
    assert fit.y_discarded[-1] == math.inf


def test_maximum_likelihood_is_where_the_likelihood_is_greatest() -> None:
    ratios = pareto(3.0, 400)
    fit = twonn.maximum_likelihood(ratios)
    d = torch.tensor(fit.dimension, requires_grad=True)
    torch.distributions.Pareto(torch.tensor(1.0), d).log_prob(ratios).sum().backward()
    assert d.grad is not None
    assert abs(d.grad.item()) < 1e-9 * 400


def test_the_unbiased_estimate_has_the_mean_and_variance_it_claims() -> None:
    estimates = [
        twonn.maximum_likelihood(row, unbiased=True) for row in pareto(5.0, 2000, 12).unbind()
    ]
    values = torch.tensor([fit.dimension for fit in estimates])
    sd = 5.0 / math.sqrt(10)
    assert values.mean() == pytest.approx(5.0, abs=4 * sd / math.sqrt(2000))
    # d²/(N − 2) at the estimate exceeds the variance by 1 + 1/(N − 2), the estimate's own spread;
    # over 2000 draws of a skewed law each side is known to about 4 %.
    claimed = torch.tensor([fit.standard_error for fit in estimates]).square().mean()
    assert claimed / values.var() == pytest.approx(1.1, abs=0.2)


def test_the_interval_covers_as_often_as_it_says() -> None:
    repeats, prob = 1500, 0.9
    covered = 0
    for ratios in pareto(5.0, repeats, 20).unbind():
        low, high = twonn.maximum_likelihood(ratios).interval(prob)
        covered += low < 5.0 < high
    # The interval is exact, so the count is binomial: four of its standard deviations.
    assert covered / repeats == pytest.approx(prob, abs=4 * math.sqrt(prob * 0.1 / repeats))


def test_a_calibrated_answer_has_no_bias_to_remove_but_the_balls() -> None:
    x = torch.randn(400, 8)
    for discard in (0.0, 0.1):
        plain, unbiased = (
            twonn.maximum_likelihood(x, unbiased=flag, discard=discard, calibrated=True)
            for flag in (False, True)
        )
        assert unbiased.dimension == pytest.approx(plain.dimension, rel=1e-12)
        assert unbiased.interval() == plain.interval()
        assert plain.interval()[0] < plain.dimension < plain.interval()[1]
        uncalibrated = twonn.maximum_likelihood(x, discard=discard)
        curve = calibration.curve(400, "twonn_censored" if discard else "twonn")
        assert plain.dimension == pytest.approx(curve.invert(uncalibrated.dimension))
        ends = [curve.invert(end) for end in uncalibrated.interval(0.8)]
        assert plain.interval(0.8) == pytest.approx(ends)


def test_points_on_a_line_given_as_ratios_are_noticed() -> None:
    positions = torch.rand(1000) + 5
    for estimate in (twonn.linear_fit, twonn.maximum_likelihood, twonn.posterior):
        with pytest.warns(
            UserWarning, match=r"the smallest of 1000 ratios is 5, where the law has"
        ):
            estimate(positions)


@pytest.mark.parametrize("dimension", [0.1, 1.0, 50.0])
def test_ratios_by_the_law_are_not_taken_for_points(dimension: float) -> None:
    for size in (3, 30, 3000):  # warnings are errors
        twonn.maximum_likelihood(pareto(dimension, size))


def test_the_posterior_is_prior_times_likelihood_by_quadrature() -> None:
    ratios, a, b = pareto(3.0, 25), 2.0, 0.5
    found = twonn.posterior(ratios, a, b)
    prior, logs = stats.gamma(a, scale=1 / b), ratios.log().numpy()

    def joint(d: float) -> float:
        return float(np.exp(prior.logpdf(d) + (np.log(d) - (d + 1) * logs).sum()))

    def integral(power: int) -> float:
        return integrate.quad(lambda d: d**power * joint(d), 0, 30, epsabs=0, epsrel=1e-12)[0]

    evidence, mean = integral(0), integral(1) / integral(0)
    assert found.log_evidence == pytest.approx(math.log(evidence), abs=1e-9)
    assert found.dimension == pytest.approx(mean, rel=1e-9)
    variance = integral(2) / evidence - mean**2
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-7)
    assert found.distribution.log_prob(torch.tensor(3.0)).exp() == pytest.approx(
        joint(3.0) / evidence, rel=1e-9
    )
    low, high = found.interval(0.8)
    assert integrate.quad(joint, low, high)[0] / evidence == pytest.approx(0.8, rel=1e-6)


def test_the_posterior_is_calibrated() -> None:
    prior = torch.distributions.Gamma(torch.tensor(4.0), torch.tensor(1.0))
    ranks = []
    for dimension in prior.sample((1000,)).tolist():
        found = twonn.posterior(pareto(dimension, 8), 4.0, 1.0)
        ranks.append(gammainc(found.concentration, dimension * found.rate))
    assert stats.kstest(ranks, "uniform").pvalue > 1e-4


def test_the_flat_prior_gives_the_maximum_likelihood_as_mean_and_no_evidence() -> None:
    ratios = pareto(3.0, 50)
    found = twonn.posterior(ratios, 0.0, 0.0)
    assert found.dimension == pytest.approx(twonn.maximum_likelihood(ratios).dimension)
    assert found.interval() == pytest.approx(twonn.maximum_likelihood(ratios).interval())
    assert math.isnan(found.log_evidence)


def test_the_model_s_log_joint_is_prior_times_likelihood() -> None:
    ratios, d = pareto(3.0, 25), torch.tensor(2.5)
    conditioned = pyro.poutine.condition(twonn.model, {"dimension": d})
    trace = pyro.poutine.trace(conditioned).get_trace(ratios, 2.0, 0.5)
    expected = stats.gamma(2.0, scale=2.0).logpdf(2.5) + stats.pareto(2.5).logpdf(ratios).sum()
    assert trace.log_prob_sum() == pytest.approx(expected, rel=1e-12)


def test_a_ratio_of_one_is_possible_in_the_model() -> None:
    trace = pyro.poutine.trace(twonn.model).get_trace(torch.tensor([1.0, 2.0]))
    assert trace.log_prob_sum().isfinite()


def test_a_posterior_prints_its_answer() -> None:
    assert repr(twonn.posterior(torch.tensor([2.0, 4.0, 1.5]))).startswith(
        "GammaPosterior(d = 1.6"
    )


def test_refuses_ratios_that_are_all_one() -> None:
    for estimate in (twonn.linear_fit, twonn.maximum_likelihood, twonn.posterior):
        with pytest.raises(ValueError, match="ratios must not all be 1, as on a lattice"):
            estimate(torch.ones(10))


def test_refuses_points_at_equal_steps_and_lattices_whatever_rounding_says() -> None:
    line = torch.linspace(0, 1, 200).unsqueeze(1)
    places = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0)) / 7
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        for x in (line, places, torch.tensor([1.0, 1.0, 1.0, 1.0, 1.7, 2.0])):
            for estimate in (twonn.linear_fit, twonn.maximum_likelihood, twonn.posterior):
                with pytest.raises(ValueError, match=r"be 1, as on a lattice, got \d+% that are"):
                    estimate(x)


def test_some_ties_are_no_reason_to_refuse() -> None:
    ratios = torch.cat([torch.ones(40), pareto(3.0, 60)])
    for estimate in (twonn.linear_fit, twonn.maximum_likelihood, twonn.posterior):
        assert 3 < estimate(ratios).dimension < 9
    with pytest.raises(ValueError, match="ratios must not all be 1, as on a lattice"):
        twonn.linear_fit(ratios, discard=0.6)


def test_the_censored_posterior_is_the_closed_form() -> None:
    logs, a, b, f = pareto(3.0, 40).log(), 2.0, 0.5, 1.5
    found = twonn.posterior(logs.exp(), a, b, discard=0.25, inflation=f)
    kept = logs.sort().values[:30]
    total = kept.sum() + 10 * kept[-1]
    assert found.concentration == pytest.approx(a + 30 / f)
    assert found.rate == pytest.approx(b + total.item() / f)

    def joint(d: float) -> float:  # the law of those seen, and the chance that 10 are larger
        seen = stats.pareto(d).logpdf(kept.exp().numpy()).sum()
        larger = 10 * stats.pareto(d).logsf(kept[-1].exp().item())
        return float(stats.gamma(a, scale=1 / b).pdf(d) * np.exp((seen + larger) / f))

    evidence = integrate.quad(joint, 0, 30, epsabs=0, epsrel=1e-11)[0]
    assert found.log_evidence == pytest.approx(math.log(evidence), abs=1e-8)


def test_the_censored_posterior_of_a_flat_prior_is_the_law_of_the_censored_likelihood() -> None:
    x = torch.randn(300, 3)
    for calibrated in (False, True):
        likeliest = twonn.maximum_likelihood(x, discard=0.1, calibrated=calibrated)
        found = twonn.posterior(x, 0.0, 0.0, discard=0.1, calibrated=calibrated)
        assert found.interval() == pytest.approx(likeliest.interval())
    with pytest.raises(ValueError, match=r"discard must be 0 or 0\.1 for a calibrated answer"):
        twonn.posterior(x, discard=0.2, calibrated=True)


def test_refuses_ratios_below_one() -> None:
    ratios = torch.tensor([1.5, 0.5, 2.0])
    for estimate in (twonn.linear_fit, twonn.maximum_likelihood, twonn.posterior):
        with pytest.raises(ValueError, match=r"ratios must be at least 1, got 0\.5"):
            estimate(ratios)


def test_refuses_too_few() -> None:
    with pytest.raises(ValueError, match=r"num_neighbors must be in \[1, 1\] for 2 points, got 2"):
        twonn.distance_ratios(torch.randn(2, 3))
    with pytest.raises(ValueError, match="for 2 distinct points, got 2"):
        twonn.distance_ratios(torch.tensor([[0.0], [0.0], [1.0], [1.0]]))
    with pytest.raises(ValueError, match="ratios must hold at least 3 numbers, got 2"):
        twonn.maximum_likelihood(torch.tensor([1.5, 2.0]))
    with pytest.raises(ValueError, match="the number of ratios kept must be at least 1, got 0"):
        twonn.linear_fit(torch.tensor([1.5, 2.0, 3.0]), discard=0.9)


def test_refuses_impossible_settings() -> None:
    ratios = pareto(3.0, 10)
    with pytest.raises(ValueError, match=r"discard must be in \(0, 1\), got 1"):
        twonn.linear_fit(ratios, discard=1.0)
    with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 95"):
        twonn.maximum_likelihood(ratios).interval(95)
    with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 95"):
        twonn.posterior(ratios).interval(95)
    with pytest.raises(
        ValueError, match=r"discard must be 0 or 0\.1 for a calibrated answer, got"
    ):
        twonn.maximum_likelihood(pareto(3.0, 50), discard=0.2, calibrated=True)
    with pytest.raises(ValueError, match=r"discard must be 0\.1 for a calibrated line, got 0\.2"):
        twonn.linear_fit(pareto(3.0, 50), discard=0.2, calibrated=True)
    with pytest.raises(ValueError, match=r"concentration must be at least 0\.0, got -1"):
        twonn.posterior(ratios, -1.0)
    with pytest.raises(ValueError, match=r"x must be finite, got 1 nan or inf"):
        twonn.distance_ratios(torch.tensor([[0.0], [1.0], [math.nan]]))


def test_the_model_and_its_exact_answer_take_arrays() -> None:
    ratios = 1 + torch.rand(50)
    given = exact.fit(twonn.model, ratios.numpy(), num_draws=10, seed=0, pointwise=False)
    expected = exact.fit(twonn.model, ratios, num_draws=10, seed=0, pointwise=False)
    assert torch.equal(given.draws["dimension"], expected.draws["dimension"])
    assert given.log_evidence == expected.log_evidence
