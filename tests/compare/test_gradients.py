"""Gradient estimators against closed forms, and against each other."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot as plt
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # pyright: ignore
from torch import Tensor
from torch.distributions import constraints

from pplvae import vae
from pplvae.compare.gradients import GradientComparison, gradients
from pplvae.intrinsic_dimension import twonn

LOC, LOG_SCALE = 0.5, -0.2
SCALE = math.exp(LOG_SCALE)
RATIOS = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64).neg().add(1).pow(-1 / 3)


COPIES = 400  # independent, so that one evaluation shows as many gradients


def model() -> None:
    with pyro.plate("copies", COPIES):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def guide() -> None:
    loc = pyro.param("loc", lambda: torch.full((COPIES,), LOC))
    scale = pyro.param(
        "scale", lambda: torch.full((COPIES,), SCALE), constraint=constraints.positive
    )
    with pyro.plate("copies", COPIES):
        pyro.sample("z", dist.Normal(loc, scale))


Moments = tuple[float, float, float]


def moments(a: float, b: float, c: float, weights: tuple[float, ...]) -> Moments:
    """Mean, variance and kurtosis of (a + b ε + c ε²) times a polynomial in a normal ε."""
    times = np.polynomial.polynomial.polymul
    even = [math.prod(range(1, k, 2)) for k in range(0, 17, 2)]  # E ε^k, 1 · 3 ⋯ (k − 1)

    def expected(polynomial: np.ndarray) -> float:
        return float(sum(x * even[i] for i, x in enumerate(polynomial[::2])))

    product = times([a, b, c], weights)
    mean = expected(product)
    product[0] -= mean
    square = times(product, product)
    return mean, expected(square), expected(times(square, square)) / expected(square) ** 2


def closed_form() -> dict[str, tuple[Moments, Moments]]:
    """Mean, variance and kurtosis of d/d loc and d/d log scale of −ELBO, z = m + s ε.

    −f = z²/2 − ε²/2 − log s, and ∇ log q = (ε/s, ε² − 1).
    """
    path = (moments(LOC, SCALE, 0, (1,)), moments(-1, LOC * SCALE, SCALE**2, (1,)))
    minus_f = (LOC**2 / 2 - LOG_SCALE, LOC * SCALE, (SCALE**2 - 1) / 2)
    score = (moments(*minus_f, (0, 1 / SCALE)), moments(*minus_f, (-1, 0, 1)))
    return {"reparameterized": path, "score": score}


def at_the_optimum(ratios: Tensor) -> None:
    """The posterior of log d, but for its skewness: a normal of sd 1/√1001."""
    law = twonn.posterior(ratios)
    loc = pyro.param("loc", lambda: torch.tensor(law.mean).log())
    scale = pyro.param(
        "scale", lambda: torch.tensor(law.concentration).rsqrt(), constraint=constraints.positive
    )
    pyro.sample("dimension", dist.LogNormal(loc, scale))


def test_means_and_variances_are_those_of_the_closed_form() -> None:
    with pyro.get_param_store().scope():
        found = gradients(model, guide, num_evaluations=50, seed=0)
    assert found.parameters == {"loc": torch.Size([COPIES]), "scale": torch.Size([COPIES])}
    for name, coordinates in closed_form().items():
        for i, (mean, variance, kurtosis) in enumerate(coordinates):
            copies = slice(i * COPIES, (i + 1) * COPIES)
            error = math.sqrt(variance / 50 / COPIES)
            assert abs(found.means[name][copies].mean().item() - mean) < 4 * error
            here = found.variances[name][copies].mean().item()
            assert here == pytest.approx(variance, rel=4 * math.sqrt(kurtosis / 50 / COPIES))
    assert closed_form()["score"][0][0] == pytest.approx(LOC), "both means are the true gradient"
    assert closed_form()["score"][1][0] == pytest.approx(SCALE**2 - 1)
    assert found.failures() == []


def test_more_particles_divide_the_variance() -> None:
    with pyro.get_param_store().scope():
        found = gradients(model, guide, num_particles=4, num_evaluations=25, seed=1)
    for name, coordinates in closed_form().items():
        for i, (_, variance, kurtosis) in enumerate(coordinates):
            here = found.variances[name][i * COPIES : (i + 1) * COPIES].mean().item()
            # A mean of four has at most this kurtosis, a quarter of a single one's above 3.
            error = math.sqrt((3 + kurtosis / 4) / 25 / COPIES)
            assert here == pytest.approx(variance / 4, rel=4 * error)


def test_near_the_optimum_the_score_varies_as_the_evidence_says() -> None:
    with pyro.get_param_store().scope():
        found = gradients(twonn.model, at_the_optimum, RATIOS, num_evaluations=200, seed=0)
    law = twonn.posterior(RATIOS)
    # There −f = −log p(x) nearly always, so that the score's gradient in loc is −log p(x) ε/s,
    # and the path's N s ε: with s² = 1/N the sds are as |log p(x)| to 1. Two sds of 200
    # evaluations each are known to 5 %.
    sds = {name: variance[0].sqrt().item() for name, variance in found.variances.items()}
    assert sds["reparameterized"] == pytest.approx(math.sqrt(law.concentration), rel=0.2)
    assert sds["score"] / sds["reparameterized"] == pytest.approx(abs(law.log_evidence), rel=0.2)
    assert sds["baseline"] < sds["score"] / 10
    assert found.failures() == []


def test_a_named_guide_is_fitted_first() -> None:
    found = gradients(twonn.model, "mean_field", RATIOS, num_steps=200, num_evaluations=30, seed=0)
    table = found.table()
    assert list(table.index) == ["reparameterized", "score", "baseline"]
    assert table.loc["score", "variance_ratio"] > 1000
    assert table.loc["baseline", "variance"] < table.loc["score", "variance"] / 10
    # The mean gradient of a fitted guide is small beside the 1000 nats per unit at a start.
    assert abs(found.means["reparameterized"][0].item()) < 30
    far = gradients(twonn.model, "mean_field", RATIOS, num_evaluations=5, num_steps=0, seed=0)
    assert abs(far.means["reparameterized"][0].item()) > 100


def test_the_encoder_of_a_vae_has_all_three() -> None:
    x = (torch.rand(20, 6) < 0.5).double()
    one = vae.mlp(6, 2, hidden_dims=(5,), activation="tanh", seed=0)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    found = gradients(one.model, one.guide, x, num_evaluations=60, seed=0)
    assert list(found.means) == ["reparameterized", "score", "baseline"]
    assert [shape.numel() for shape in found.parameters.values()] == [30, 5, 20, 4]
    assert found.failures() == []
    assert found.table().loc["score", "variance_ratio"] > 10
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    assert all(parameter.grad is None for parameter in one.parameters())


def test_discrete_sites_have_no_path() -> None:
    def both() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("coin", dist.Bernoulli(torch.tensor(0.3)))

    def discrete() -> None:
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(LOC)), 1.0))
        probs = pyro.param("probs", torch.tensor(0.6), constraint=constraints.unit_interval)
        pyro.sample("coin", dist.Bernoulli(probs))

    with pyro.get_param_store().scope():
        found = gradients(both, discrete, num_evaluations=150, seed=0)
    assert "['coin'] does not move smoothly" in found.left_out["reparameterized"]
    assert found.reference == "score"
    assert "no reparameterized: a draw of ['coin']" in repr(found)
    # d/dλ of KL(Bernoulli(q) ‖ Bernoulli(p)) with λ = logit q is q (1 − q) (λ − logit p).
    slope = 0.6 * 0.4 * (math.log(0.6 / 0.4) - math.log(0.3 / 0.7))
    error = (found.variances["score"][1] / 150).sqrt()
    assert abs(found.means["score"][1] - slope) < 4 * error


def test_parameters_and_the_world_stay_as_they_are() -> None:
    with pyro.get_param_store().scope() as _:
        SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step()
        before = {name: value.clone() for name, value in pyro.get_param_store().items()}
        state = torch.get_rng_state()
        one, again = (gradients(model, guide, num_evaluations=10, seed=3) for _ in range(2))
        after = dict(pyro.get_param_store().items())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(torch.get_rng_state(), state)
        other = gradients(model, guide, num_evaluations=10, seed=4)
    for name in one.means:
        assert torch.equal(one.means[name], again.means[name])
        assert torch.equal(one.variances[name], again.variances[name])
        assert not torch.equal(one.means[name], other.means[name])


def made(shift: float = 0.0) -> GradientComparison:
    """Four hundred evaluations of five coordinates of variance 1, and of variance 4."""
    means = {"reparameterized": torch.zeros(5), "score": torch.zeros(5)}
    means["score"][3] = shift
    return GradientComparison(
        means,
        {"reparameterized": torch.ones(5), "score": torch.full((5,), 4.0)},
        {"reparameterized": 1.0, "score": 0.5},
        400,
        {"loc": torch.Size([2]), "scale": torch.Size([3])},
        {},
    )


def test_the_table_weighs_variance_by_cost() -> None:
    table = made(shift=0.5).table()
    assert table.loc["score", "variance"] == 20
    assert table.loc["score", "sd"] == pytest.approx(math.sqrt(20))
    assert table.loc["score", "variance_ratio"] == 4
    assert table.loc["score", "variance_cost"] == 10
    assert table.loc["score", "variance_cost_ratio"] == 2
    # 0.5 / √((1 + 4) / 400)
    assert table.loc["score", "disagreement"] == pytest.approx(math.sqrt(20), rel=1e-5)
    part = made(shift=0.5).table("loc")
    assert part.loc["score", "variance"] == 8
    assert part.loc["score", "disagreement"] == 0


def test_a_bias_is_told_from_chance_among_many() -> None:
    # Of five coordinates the largest exceeds t(20) = 4.54 once in a thousand: 0.507 here.
    assert made().chance == pytest.approx(4.54, abs=0.01)
    assert made(shift=0.5).failures() == []
    (said,) = made(shift=0.55).failures()
    assert said.startswith("score: the mean gradient of scale[1] lies 4.9 standard errors from")
    assert "(by chance up to 4.5)" in said


def test_constant_gradients_agree_up_to_rounding() -> None:
    means = {"reparameterized": torch.tensor([0.1, 0.0]), "score": torch.tensor([0.1, 0.0])}
    means["score"][0] += 1e-16
    found = GradientComparison(
        means,
        {name: torch.zeros(2) for name in means},
        dict.fromkeys(means, 1.0),
        10,
        {"w": torch.Size([2])},
        {},
    )
    assert found.failures() == []
    means["score"][1] = 1.0
    assert len(found.failures()) == 1


def test_prints_and_draws_what_it_found() -> None:
    plt.switch_backend("Agg")
    found = made()
    assert repr(found).startswith("Gradients in 5 parameters by 400 evaluations\n")
    assert "<table" in found._repr_html_()
    assert len(found.plot("loc").lines) == 4
    plt.close("all")


def test_refuses_what_has_no_gradient() -> None:
    def refused(message: str, *programs: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            gradients(*programs, **options)

    refused("num_evaluations must be at least 2, got 1", model, guide, num_evaluations=1)
    refused("num_particles must be at least 1, got 0", model, guide, num_particles=0)
    refused("num_steps must be at least 0, got -1", model, guide, num_steps=-1)
    refused("guide must be one of .*'normal'", model, "normal")
    refused("guide must have a parameter to train, got none", model, model)
    with pytest.raises(ValueError, match="parameter must be one of loc, scale, got 'locs'"):
        made().table("locs")
