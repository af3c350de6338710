import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from pplvae.compare import scores
from pplvae.infer import Posterior, exact
from pplvae.intrinsic_dimension import twonn

RNG = np.random.default_rng


def test_the_distance_is_scipy_s() -> None:
    """The second route, on samples of unlike sizes with ties."""
    one, two = RNG(0).normal(size=(2, 300)).round(1), RNG(1).gamma(2.0, size=(1, 777)).round(1)
    found, _ = scores.wasserstein(one, two, (600.0, 777.0))
    assert found == pytest.approx(wasserstein_distance(one.ravel(), two.ravel()), rel=1e-12)


def test_the_distance_of_a_shift_is_the_shift_and_of_a_stretch_its_mean() -> None:
    draws = RNG(0).normal(size=(1, 4000))
    moved, _ = scores.wasserstein(draws + 0.3, draws, (4000.0, 4000.0))
    assert moved == pytest.approx(0.3)
    stretched, _ = scores.wasserstein(1.5 * draws, draws, (4000.0, 4000.0))
    # W1 = (1.5 − 1) E|z|, and E|z| = √(2/π) is known to √((1 − 2/π) / 4000) = 0.01
    assert stretched == pytest.approx(0.5 * math.sqrt(2 / math.pi), abs=0.02)


@pytest.mark.parametrize("law", ["standard_normal", "standard_exponential"])
def test_the_noise_floor_is_what_chance_makes_of_one_law(law: str) -> None:
    draw = getattr(RNG(0), law)
    pairs = [(draw((1, 400)), draw((1, 1000))) for _ in range(200)]
    found = np.array([scores.wasserstein(*pair, (400.0, 1000.0)) for pair in pairs])
    # A distance has sd 0.35 of its mean: 200 know it to 2.5 %, and three of these are allowed.
    assert found[:, 0].mean() / found[:, 1].mean() == pytest.approx(1.0, abs=0.075)
    # The checks allow for three floors, on top of 0.2 sd.
    assert (found[:, 0] > 3 * found[:, 1]).sum() <= 2


def test_the_noise_floor_of_normals_has_its_closed_form() -> None:
    draws = RNG(0).normal(size=(1, 20_000))
    _, floor = scores.wasserstein(draws, draws, (100.0, 400.0))
    # √(2/π) ∫ √(Φ(1 − Φ)) dx = 1.2884 by quadrature; 20,000 draws miss some of the tails.
    assert floor == pytest.approx(1.2884 * math.sqrt(1 / 100 + 1 / 400), rel=0.02)


def test_correlated_draws_know_less_and_say_so() -> None:
    noise, reference = RNG(0).normal(size=(100, 800)), RNG(1).normal(size=(100, 1, 2000))
    walk = np.empty_like(noise)
    walk[:, 0] = noise[:, 0]
    for i in range(1, 800):
        walk[:, i] = 0.8 * walk[:, i - 1] + 0.6 * noise[:, i]
    found = [
        scores.score(draws[None], truth, scores.described(truth))
        for draws, truth in zip(walk, reference, strict=True)
    ]
    distance, floor = (np.mean([s[k] for s in found]) for k in ("wasserstein", "wasserstein_mc"))
    # As 800 independent draws the floor would be 2.4 times too low; the least of the bulk's and
    # the tails' sample sizes makes it some 30 % too high.
    assert 0.65 < distance / floor < 1.05


def normal(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def test_the_predictive_density_of_a_normal_is_a_wider_normal() -> None:
    x = torch.randn(50) + 2.0
    draws = Posterior({"loc": 2.0 + 0.5 * torch.randn(2, 10_000)})
    found = scores.log_predictive(draws, (normal, x))
    assert found is not None
    law = dist.Normal(2.0, math.sqrt(1 + 0.5**2)).log_prob(x)
    # 1000 of the draws are used; p(x | θ) spreads by at most half its mean where the points are.
    assert torch.allclose(found, law, atol=0.1)
    mean, error = scores.averaged(found)
    assert mean == pytest.approx(law.mean().item(), abs=0.03)
    assert error == pytest.approx(law.std().item() / math.sqrt(50), rel=0.05)


def test_the_predictive_density_of_a_point_is_the_likelihood() -> None:
    x, point = torch.randn(5), Posterior({"loc": torch.tensor([[0.7]])})
    found = scores.log_predictive(point, (normal, x))
    assert found is not None
    torch.testing.assert_close(found, dist.Normal(0.7, 1.0).log_prob(x))
    assert scores.log_predictive(Posterior({"mu": torch.tensor([[0.7]])}), (normal, x)) is None


def test_prediction_leaves_randomness_alone() -> None:
    before = torch.get_rng_state()
    scores.log_predictive(Posterior({"loc": torch.zeros(1, 10)}), (normal, torch.zeros(3)))
    assert torch.equal(before, torch.get_rng_state())


def test_refuses_to_predict_with_another_model() -> None:
    rule = r"held_out must be a model with the posterior's latent sites, got loc of shape \(\)"
    with pytest.raises(ValueError, match=f"{rule} against no such site in the draws"):
        scores.log_predictive(Posterior({"mu": torch.zeros(1, 10)}), (normal, torch.zeros(3)))
    with pytest.raises(ValueError, match=rf"{rule} against \(2,\) in the draws"):
        scores.log_predictive(Posterior({"loc": torch.zeros(1, 10, 2)}), (normal, torch.zeros(3)))


def test_nothing_is_known_of_no_values_and_no_error_of_one() -> None:
    assert all(math.isnan(value) for value in scores.averaged(None))
    mean, error = scores.averaged(torch.tensor([-1.5]))
    assert mean == -1.5
    assert math.isnan(error)


def test_equal_restarts_rarely_look_apart() -> None:
    normal = RNG(0).normal
    found = [
        scores.restarts_r_hat([{"d": normal(size=(1, 40))} for _ in range(2)], "d")
        for _ in range(200)
    ]
    # Expected 5 %, 10 of 200, with a standard error of 3
    assert sum(r_hat > 1.05 for r_hat in found) <= 20
    many = [{"d": normal(size=(2, 200))} for _ in range(5)]
    assert scores.restarts_r_hat(many, "d") < 1.02


@pytest.mark.parametrize(("apart", "caught"), [(0.4, False), (0.75, True)])
def test_restarts_are_held_apart_from_about_half_an_sd(apart: float, caught: bool) -> None:
    draws = [{"d": RNG(k).normal(size=(1, 2000)) + k * apart} for k in range(2)]
    assert (scores.restarts_r_hat(draws, "d") > 1.05) == caught


def test_one_start_says_nothing_of_restarts() -> None:
    assert math.isnan(scores.restarts_r_hat([{"d": RNG(0).normal(size=(4, 100))}], "d"))
    assert math.isnan(scores.evidence_range([Posterior({"d": torch.zeros(1, 9)}, 1.0)]))
    two = [Posterior({"d": torch.zeros(1, 9)}, log_evidence=value) for value in (-3.5, -1.0)]
    assert scores.evidence_range(two) == 2.5


def test_k_is_the_engine_s_or_that_of_the_weights() -> None:
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((100,))
    assert scores.tail_index(exact.fit(twonn.model, ratios, seed=0)) == -math.inf
    draws = {"d": torch.zeros(1, 4000)}
    assert math.isnan(scores.tail_index(Posterior(draws)))
    # u^−k of uniform u has the tail index k.
    weights = {"log_weight": -0.6 * torch.rand(1, 4000).log()}
    found = Posterior(draws, sample_stats=weights)
    # sd 0.11 at 4000 draws
    assert scores.tail_index(found) == pytest.approx(0.6, abs=0.25)
    told = Posterior(draws, sample_stats=weights, diagnostics={"pareto_k": 0.1})
    assert scores.tail_index(told) == 0.1
