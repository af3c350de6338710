import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import load
from pplvae.infer import map as modes
from pplvae.intrinsic_dimension import twonn


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.deterministic("norm", w.norm())
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def two_modes() -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(1.0), 5.0))
    pyro.sample("size", dist.Normal(loc.abs(), 0.1), obs=torch.tensor(3.0))


def test_is_the_ridge_regression(data: tuple[Tensor, Tensor]) -> None:
    found = modes.fit(regression, *data, seed=0)
    x, y = data
    expected = torch.linalg.solve(torch.eye(3) + x.mT @ x / 0.25, x.mT @ y / 0.25)
    torch.testing.assert_close(found.draws["w"][0, 0], expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.draws["norm"][0, 0], expected.norm())
    law = dist.Normal(x @ expected, 0.5)
    torch.testing.assert_close(found.log_likelihood["y"][0, 0], law.log_prob(y))


def test_is_the_mode_of_a_dimension_not_of_its_logarithm(ratios: Tensor) -> None:
    found, law = modes.fit(twonn.model, ratios, seed=0), twonn.posterior(ratios)
    # Gamma(a, b) has its mode at (a − 1) / b; the mode of its logarithm is a / b.
    expected = (law.concentration - 1) / law.rate
    assert found.draws["dimension"].item() == pytest.approx(expected, rel=1e-8)


def test_is_the_mode_on_the_simplex() -> None:
    def model(labels: Tensor) -> None:
        probs = pyro.sample("probs", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", len(labels)):
            pyro.sample("labels", dist.Categorical(probs), obs=labels)

    labels = torch.tensor([0] * 20 + [1] * 30 + [2] * 50)
    found = modes.fit(model, labels, seed=0)
    # Under a flat prior it is the maximum of the likelihood: the frequencies.
    torch.testing.assert_close(
        found.draws["probs"][0, 0], torch.tensor([0.2, 0.3, 0.5]), rtol=0, atol=1e-7
    )


def test_sums_discrete_sites_out() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
            # Both components are the same: the sum over k is one normal.
            pyro.sample("x", dist.Normal(loc + 0.0 * k, 1.0), obs=x)

    found = modes.fit(model, torch.tensor([1.0, 2.0, 3.0]), seed=0)
    assert found.draws["loc"].item() == pytest.approx(6 / 4)


def test_says_that_it_is_a_point(ratios: Tensor) -> None:
    found = modes.fit(twonn.model, ratios, seed=3)
    assert found.is_point
    assert found.draws["dimension"].shape == (1, 1)
    assert found.method == "MAP"
    assert found.log_evidence is None
    assert found.diagnostics["converged"] == 1.0
    assert found.provenance["seed"] == 3
    assert found.cost.gradient_evaluations >= len(found.trace)
    assert found.log_likelihood["ratios"].shape == (1, 1, 1000)
    assert modes.fit(twonn.model, ratios, seed=3, pointwise=False).log_likelihood == {}


def test_its_loss_is_the_log_joint_which_beats_the_evidence(ratios: Tensor) -> None:
    found = modes.fit(twonn.model, ratios, seed=0)
    lp = found.sample_stats["lp"]
    assert lp.shape == (1, 1)
    assert found.trace[-1].item() == pytest.approx(-lp.item(), rel=1e-10)
    assert lp.item() > twonn.posterior(ratios).log_evidence


def test_is_saved_and_read_again(tmp_path: Path, ratios: Tensor) -> None:
    found = modes.fit(twonn.model, ratios, seed=0)
    path = tmp_path / "map.nc"
    found.save(path)
    assert torch.equal(load(path).draws["dimension"], found.draws["dimension"])


def test_more_starts_find_the_higher_of_two_modes() -> None:
    # The prior's mean of 1 makes the mode near +3 the higher one, by 6 · 1 / 25 nat.
    lower = modes.fit(two_modes, init={"loc": -2.0}, seed=0)
    assert lower.draws["loc"].item() == pytest.approx(-3.0, abs=0.01)
    best = modes.fit(two_modes, num_starts=8, seed=0)
    assert best.draws["loc"].item() == pytest.approx(3.0, abs=0.01)
    gain = lower.trace[-1] - best.trace[-1]
    assert gain.item() == pytest.approx(6 / 25, abs=0.01)


def test_the_same_seed_finds_the_same_mode_and_leaves_no_trace(ratios: Tensor) -> None:
    state = torch.get_rng_state()
    first, second = (modes.fit(twonn.model, ratios, seed=7) for _ in range(2))
    assert torch.equal(first.trace, second.trace)
    assert torch.equal(torch.get_rng_state(), state)


def test_warns_where_the_mode_is_not_reached(data: tuple[Tensor, Tensor]) -> None:
    with pytest.warns(UserWarning, match=r"the slope at the mode is still .*: raise max_steps"):
        found = modes.fit(regression, *data, max_steps=1, seed=0)
    assert found.diagnostics["converged"] == 0.0


def test_warns_of_a_slope_without_an_end() -> None:
    def ramp() -> None:
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("ramp", 0.5 * a.square() + a)

    with pytest.warns(UserWarning, match="may have no maximum"):
        found = modes.fit(ramp, max_steps=5, seed=0)
    assert found.diagnostics["converged"] == 0.0


def test_refuses_a_maximum_that_is_not_finite() -> None:
    def spike() -> None:
        scale = pyro.sample("scale", dist.HalfCauchy(torch.tensor(1.0)))
        pyro.sample("x", dist.Normal(0.0, scale), obs=torch.zeros(1000))

    def pole() -> None:
        # The density of Gamma(½, ·) grows without bound towards 0.
        pyro.sample("rate", dist.Gamma(torch.tensor(0.5), 1.0))

    for model in (spike, pole):
        with pytest.raises(ValueError, match=r"log p\(x, θ\) must have a finite maximum, got "):
            modes.fit(model, seed=0)


def test_refuses_impossible_settings(ratios: Tensor) -> None:
    for name in ("max_steps", "num_starts"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            modes.fit(twonn.model, ratios, **{name: 0})
    with pytest.raises(ValueError, match=r"init must name sites among \['dimension'\], got 'd'"):
        modes.fit(twonn.model, ratios, init={"d": math.pi})


def test_works_in_single_precision() -> None:
    torch.set_default_dtype(torch.float32)
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((1000,))
    found = modes.fit(twonn.model, ratios, seed=0)
    law = twonn.posterior(ratios)
    assert found.draws["dimension"].dtype == torch.float32
    # The log joint is known to 1e-7 of its 300 nats: the mode to √(2 · 3e-5) sd, or 0.01 sd.
    error = found.draws["dimension"].item() - (law.concentration - 1) / law.rate
    assert abs(error) < 0.03 * law.stddev
