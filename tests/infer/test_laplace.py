import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import Posterior, laplace, nuts, svi
from pplvae.intrinsic_dimension import twonn


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def closed_form(x: Tensor, y: Tensor) -> tuple[dist.MultivariateNormal, float]:
    """The posterior of w and log p(y) by linear algebra."""
    precision = torch.eye(3) + x.mT @ x / 0.25
    law = dist.MultivariateNormal(
        torch.linalg.solve(precision, x.mT @ y / 0.25), precision_matrix=precision
    )
    covariance = 0.25 * torch.eye(len(x)) + x @ x.mT
    return law, dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y).item()


def importance_evidence(found: Posterior) -> float:
    weights = found.sample_stats["log_weight"]
    return weights.logsumexp(dim=1).item() - math.log(weights.shape[1])


def test_is_exact_where_the_posterior_is_normal(data: tuple[Tensor, Tensor]) -> None:
    found = laplace.fit(regression, *data, seed=0)
    law, evidence = closed_form(*data)
    assert found.log_evidence == pytest.approx(evidence, abs=1e-8)
    # The density of the draws is the posterior's own.
    weights = found.sample_stats["log_weight"]
    torch.testing.assert_close(weights, torch.full_like(weights, evidence), rtol=0, atol=1e-6)
    draws = found.draws["w"][0]
    errors = (draws.mean(dim=0) - law.mean) / law.stddev
    assert errors.abs().max() < 4 / math.sqrt(4000)
    whitened = torch.linalg.solve_triangular(law.scale_tril, draws.mT, upper=False)
    # An entry of the covariance of S standard normals has a standard error of √(2/S) at most.
    torch.testing.assert_close(whitened.cov(), torch.eye(3), rtol=0, atol=4 * math.sqrt(2 / 4000))


@pytest.mark.parametrize("seed", [0, 1])
def test_finds_the_posterior_of_a_dimension(seed: int) -> None:
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((1000,))
    found, law = laplace.fit(twonn.model, ratios, seed=seed), twonn.posterior(ratios)
    draws = found.draws["dimension"]
    # log d under Gamma(1001, ·) has skewness −1/√1001 = −0.03: nearly normal. Moments err by about
    # 0.03 sd for that, and by 1/√4000 = 0.016 for the draws; both are far inside the bounds.
    assert abs(draws.mean() - law.mean) / law.stddev < 0.2
    assert 0.9 < draws.std() / law.stddev < 1.1
    assert importance_evidence(found) == pytest.approx(law.log_evidence, abs=0.01)
    # Stirling: Laplace's own formula errs by 1/(12·1001) nat.
    assert found.log_evidence == pytest.approx(law.log_evidence, abs=1e-4)


def test_stays_on_the_simplex_with_the_right_evidence() -> None:
    def model(labels: Tensor) -> None:
        probs = pyro.sample("probs", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", len(labels)):
            pyro.sample("labels", dist.Categorical(probs), obs=labels)

    labels = torch.tensor([0] * 20 + [1] * 30 + [2] * 50)
    found = laplace.fit(model, labels, seed=0)
    draws = found.draws["probs"][0]
    torch.testing.assert_close(draws.sum(dim=1), torch.ones(4000))
    # Dirichlet(21, 31, 51): means 21/103, 31/103, 51/103, sds about 0.045.
    assert (draws.mean(dim=0) - torch.tensor([21.0, 31.0, 51.0]) / 103).abs().max() < 0.01
    counts = torch.tensor([20.0, 30.0, 50.0])
    evidence = math.lgamma(3) - math.lgamma(103) + torch.lgamma(counts + 1).sum().item()
    assert importance_evidence(found) == pytest.approx(evidence, abs=0.02)


def test_the_trace_falls_to_the_mode(data: tuple[Tensor, Tensor]) -> None:
    found = laplace.fit(regression, *data, seed=0)
    law, _ = closed_form(*data)
    assert found.trace[-1] == found.trace.min()
    trace = pyro.poutine.trace(pyro.poutine.condition(regression, {"w": law.mean}))
    assert found.trace[-1] == pytest.approx(
        -trace.get_trace(*data).log_prob_sum().item(), rel=1e-12
    )


def test_goes_to_the_mode_it_starts_at() -> None:
    def two_modes() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
        pyro.sample("size", dist.Normal(loc.abs(), 0.1), obs=torch.tensor(3.0))

    for start in (-2.0, 2.0):
        found = laplace.fit(two_modes, init={"loc": start}, seed=0)
        assert found.draws["loc"].mean() == pytest.approx(math.copysign(3.0, start), abs=0.02)


def test_a_start_is_not_moved(data: tuple[Tensor, Tensor]) -> None:
    start = torch.full((3,), 2.0)
    laplace.fit(regression, *data, init={"w": start}, seed=0)
    assert start.tolist() == [2.0, 2.0, 2.0]


def test_draws_as_many_as_asked(data: tuple[Tensor, Tensor]) -> None:
    found = laplace.fit(regression, *data, num_draws=7, seed=0)
    assert found.draws["w"].shape == (1, 7, 3)


def test_warns_where_the_mode_is_not_reached(data: tuple[Tensor, Tensor]) -> None:
    with pytest.warns(UserWarning, match="standard deviations away: raise max_steps"):
        laplace.fit(regression, *data, max_steps=1, seed=0)


def test_refuses_what_has_no_strict_mode() -> None:
    def flat() -> None:
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("b", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("no prior", 0.5 * a.square())

    with pytest.raises(ValueError, match=r"positive in every direction .*least eigenvalue 0"):
        laplace.fit(flat, seed=0)


def test_refuses_starts_that_do_not_fit(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"init must name sites among \['w'\], got 'v'"):
        laplace.fit(regression, *data, init={"v": 0.0})
    with pytest.raises(ValueError, match=r"init\['w'\] must have shape \(3,\), got \(2,\)"):
        laplace.fit(regression, *data, init={"w": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"init\['w'\] must be finite, got 1 nan or inf"):
        laplace.fit(regression, *data, init={"w": torch.tensor([0.0, math.nan, 0.0])})
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        laplace.fit(regression, *data, max_steps=0)


@pytest.mark.parametrize("engine", [laplace.fit, nuts.fit, svi.fit])
def test_refuses_starts_outside_the_support(engine: Callable[..., Posterior]) -> None:
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((10,))
    said = r"init\['dimension'\] must lie in the site's support .*, got -5\.0"
    with pytest.raises(ValueError, match=said):
        engine(twonn.model, ratios, init={"dimension": -5.0})
