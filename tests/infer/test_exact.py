import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from pplvae.infer import exact
from pplvae.intrinsic_dimension import twonn


def test_draws_follow_the_exact_posterior(ratios: Tensor) -> None:
    found = exact.fit(twonn.model, ratios, seed=0)
    law = twonn.posterior(ratios)
    draws = found.draws["dimension"].flatten().numpy()
    assert found.draws["dimension"].shape == (1, 4000)
    gamma = stats.gamma(law.concentration, scale=1 / law.rate)
    assert stats.kstest(draws, gamma.cdf).pvalue > 1e-3


def test_every_draw_weighs_the_evidence(ratios: Tensor) -> None:
    # Bayes: p(x, θ) / p(θ | x) = p(x) at every θ.
    found = exact.fit(twonn.model, ratios, seed=0)
    evidence = twonn.posterior(ratios).log_evidence
    assert found.log_evidence == evidence
    weights = found.sample_stats["log_weight"]
    torch.testing.assert_close(weights, torch.full_like(weights, evidence), rtol=0, atol=1e-9)


def test_takes_the_model_s_other_arguments(ratios: Tensor) -> None:
    found = exact.fit(twonn.model, ratios[:5], 50.0, 10.0, seed=0)
    law = twonn.posterior(ratios[:5], 50.0, 10.0)
    assert found.log_evidence == law.log_evidence
    error = law.standard_error / math.sqrt(4000)
    assert found.draws["dimension"].mean() == pytest.approx(law.dimension, abs=4 * error)


def test_registering_gives_the_function_back() -> None:
    def model() -> None: ...

    def solution() -> exact.Solution:
        return exact.Solution({}, 0.0)

    assert exact.solves(model)(solution) is solution


def test_refuses_a_model_without_an_answer(ratios: Tensor) -> None:
    def mine(ratios: Tensor) -> None:
        d = pyro.sample("d", dist.LogNormal(ratios.new_tensor(0.0), 1.0))
        with pyro.plate("points", len(ratios)):
            pyro.sample("ratios", dist.Pareto(torch.ones(()), d), obs=ratios)

    with pytest.raises(ValueError, match=r"or be linear-Gaussian, got mine: use nuts\.fit"):
        exact.fit(mine, ratios)
    assert exact.log_evidence(mine, ratios) is None

    class Unhashable:
        __hash__ = None  # pyright: ignore

        def __call__(self, ratios: Tensor) -> None:
            mine(ratios)

    with pytest.raises(ValueError, match=r"linear-Gaussian, got .*Unhashable"):
        exact.fit(Unhashable(), ratios)
    with pytest.raises(ValueError, match=r"num_draws must be a whole number, got 10\.5"):
        exact.fit(twonn.model, ratios, num_draws=10.5)  # pyright: ignore
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        exact.fit(twonn.model, ratios, num_draws=0)


def regression(x: Tensor, y: Tensor, tail: bool = False) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    level = pyro.sample("level", dist.Normal(w[0], 10.0))
    mean = x @ w + level
    with pyro.plate("data", len(x)):
        law = dist.StudentT(30.0, mean, 0.5) if tail else dist.Normal(mean, 0.5)
        pyro.sample("y", law, obs=y)


def test_a_linear_gaussian_model_is_solved_without_being_told(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    # y = (x, 1) (w, level) + ½ ε, and level = w₁ + 10 ε: all of it normal.
    wide = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    root = torch.diag(torch.tensor([1.0, 1.0, 1.0, 10.0]))
    root[3, 0] = 1.0
    covariance = 0.25 * torch.eye(len(x)) + wide @ root @ root.mT @ wide.mT
    evidence = dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y).item()
    found = exact.fit(regression, x, y, seed=0)
    assert found.log_evidence == pytest.approx(evidence, abs=1e-9)
    assert exact.log_evidence(regression, x, y) == found.log_evidence
    weights = found.sample_stats["log_weight"]
    torch.testing.assert_close(weights, torch.full_like(weights, evidence), rtol=0, atol=1e-9)
    precision = torch.linalg.inv(root @ root.mT) + wide.mT @ wide / 0.25
    mean = torch.linalg.solve(precision, wide.mT @ y / 0.25)
    draws = torch.cat([found.draws["w"][0], found.draws["level"][0].unsqueeze(1)], dim=1)
    scale = torch.linalg.inv(precision).diagonal().sqrt()
    assert ((draws.mean(dim=0) - mean) / scale).abs().max() < 4 / math.sqrt(4000)
    whitened = (draws - mean) @ torch.linalg.cholesky(precision)
    torch.testing.assert_close(whitened.T.cov(), torch.eye(4), rtol=0, atol=0.1)


def test_a_nearly_normal_model_is_not_taken_for_one(data: tuple[Tensor, Tensor]) -> None:
    assert exact.log_evidence(regression, *data, True) is None


def test_a_scale_to_infer_is_not_linear() -> None:
    def model(y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        log_scale = pyro.sample("log_scale", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc, log_scale.exp()), obs=y)

    assert exact.log_evidence(model, torch.linspace(-1.0, 1.0, 9)) is None


def test_a_model_of_discrete_sites_alone_is_summed() -> None:
    def labels(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            label = pyro.sample("label", dist.Categorical(torch.tensor([0.2, 0.8])))
            pyro.sample("x", dist.Normal(2.0 * label, 1.0), obs=x)

    x = torch.tensor([-0.4, 1.9, 2.6])
    densities = dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(x.unsqueeze(1)).exp()
    expected = (densities @ torch.tensor([0.2, 0.8])).log().sum().item()
    assert exact.log_evidence(labels, x) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_a_kink_is_not_overlooked(seed: int) -> None:
    def kinked(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(5 * torch.relu(z - 0.5), 1.0), obs=y)

    with pytest.raises(ValueError, match="or be linear-Gaussian"):
        exact.fit(kinked, torch.tensor(6.0), seed=seed)


def test_refuses_an_answer_that_is_not_the_posterior() -> None:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    evidence = dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(1.0)).item()
    for loc, claimed in ((0.4, evidence), (0.5, evidence + 0.01)):
        law = dist.Normal(torch.tensor(loc), math.sqrt(0.5))
        exact.solves(model)(lambda y, law=law, e=claimed: exact.Solution({"z": law}, e))
        with pytest.raises(ValueError, match="registered for 'model' must be its posterior and"):
            exact.fit(model, torch.tensor(1.0))
