import pytest
import torch
from scipy import stats

from pplvae.intrinsic_dimension import predictive, twonn


def pareto(dimension: float, *shape: int) -> torch.Tensor:
    return torch.distributions.Pareto(torch.tensor(1.0), torch.tensor(dimension)).sample(shape)


def test_the_expected_quantiles_are_those_of_the_predictive_law() -> None:
    ratios = pareto(3.0, 50)
    posterior = twonn.posterior(ratios)
    found = predictive.check(ratios, posterior, num_samples=20, seed=0)
    law = stats.lomax(posterior.concentration, scale=posterior.rate)
    steps = (torch.arange(50) + 0.5) / 50
    assert found.expected.tolist() == pytest.approx(law.ppf(steps.numpy()).tolist(), rel=1e-9)
    assert torch.equal(found.seen, ratios.log().sort().values)


def test_the_distance_is_kolmogorov_s() -> None:
    ratios = pareto(3.0, 200)
    posterior = twonn.posterior(ratios)
    law = stats.lomax(posterior.concentration, scale=posterior.rate)
    expected = stats.kstest(ratios.log().numpy(), law.cdf).statistic
    found = predictive.check(ratios, posterior, num_samples=20, seed=0)
    assert found.distance == pytest.approx(expected, rel=1e-9)


def test_p_values_are_uniform_where_the_law_holds() -> None:
    values = [
        predictive.check(pareto(4.0, 100), num_samples=50, seed=seed).p_value
        for seed in range(100)
    ]
    # A p-value is one of 51 numbers: uniform to 1/51, which the test does not see.
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_a_mixture_of_dimensions_is_noticed() -> None:
    mixed = torch.cat([pareto(1.0, 300), pareto(10.0, 300)])
    assert predictive.check(mixed, seed=0).p_value < 0.01


def test_the_same_seed_gives_the_same_check_and_leaves_the_generator() -> None:
    ratios = pareto(4.0, 100)
    state = torch.get_rng_state()
    first, second = (predictive.check(ratios, num_samples=30, seed=3) for _ in range(2))
    assert first.p_value == second.p_value
    assert torch.equal(torch.get_rng_state(), state)


def test_refuses_too_few_simulations() -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 20, got 5"):
        predictive.check(pareto(4.0, 100), num_samples=5)
