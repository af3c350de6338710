import math

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
    def mine(ratios: Tensor) -> None: ...

    with pytest.raises(
        ValueError, match=r"registered with exact\.solves, got mine: use nuts\.fit"
    ):
        exact.fit(mine, ratios)

    class Unhashable:
        __hash__ = None  # pyright: ignore

        def __call__(self, ratios: Tensor) -> None: ...

    with pytest.raises(ValueError, match=r"registered with exact\.solves, got .*Unhashable"):
        exact.fit(Unhashable(), ratios)
    with pytest.raises(ValueError, match=r"num_draws must be a whole number, got 10\.5"):
        exact.fit(twonn.model, ratios, num_draws=10.5)  # pyright: ignore
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        exact.fit(twonn.model, ratios, num_draws=0)
