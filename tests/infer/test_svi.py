import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pplvae.infer import Posterior, laplace, svi
from pplvae.infer.program import inspect
from pplvae.infer.unconstrained import init_strategy
from pplvae.intrinsic_dimension import twonn


def regression(x: Tensor, y: Tensor) -> None:
    """As one writes it: the product does not take several w at once."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def broadcast_regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


def closed_form(x: Tensor, y: Tensor) -> tuple[dist.MultivariateNormal, float]:
    """The posterior of w and log p(y) by linear algebra."""
    precision = torch.eye(3) + x.mT @ x / 0.25
    law = dist.MultivariateNormal(
        torch.linalg.solve(precision, x.mT @ y / 0.25), precision_matrix=precision
    )
    covariance = 0.25 * torch.eye(len(x)) + x @ x.mT
    return law, dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y).item()


def quiet(model: Callable[..., None], *data: Tensor, **options: object) -> Posterior:
    return svi.fit(model, *data, **{"seed": 0, "progress": False, **options})  # pyright: ignore


def assert_is_the_posterior_of_the_dimension(found: Posterior, ratios: Tensor) -> None:
    law, draws = twonn.posterior(ratios), found.draws["dimension"]
    # The guide is normal in log d, and log d under Gamma(1001, ·) has skewness −0.03: nearly so.
    # The last steps of Adam, small as they are, leave the guide's mean and log sd within about
    # 0.05, the 4000 draws add 0.016 to each: both stay far inside the bounds.
    assert abs(draws.mean() - law.mean) / law.stddev < 0.2
    assert 0.9 < draws.std() / law.stddev < 1.1
    assert found.log_evidence == pytest.approx(law.log_evidence, abs=0.01)


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_finds_the_posterior_of_a_dimension(guide: str, ratios: Tensor) -> None:
    found = quiet(twonn.model, ratios, guide=guide, num_steps=250, learning_rate=0.1)
    assert_is_the_posterior_of_the_dimension(found, ratios)


@pytest.mark.parametrize(
    "objective", ["mean_field", pytest.param("renyi", marks=pytest.mark.slow)]
)
def test_other_objectives_find_the_dimension_too(objective: str, ratios: Tensor) -> None:
    found = quiet(
        twonn.model, ratios, guide="mean_field", objective=objective, num_steps=500
    )  # fmt: skip
    assert found.method.startswith("SVI, mean-field, ")
    assert_is_the_posterior_of_the_dimension(found, ratios)


def test_a_baseline_lets_the_score_function_find_it(ratios: Tensor) -> None:
    start = {"dimension": 3.0}
    with_baseline, without = (
        quiet(
            twonn.model, ratios, guide="mean_field", gradient=gradient, init=start,
            num_particles=8, num_steps=150, num_draws=1000, pointwise=False,
        )
        for gradient in ("baseline", "score")
    )  # fmt: skip
    law = twonn.posterior(ratios)
    means = [found.draws["dimension"].mean() for found in (with_baseline, without)]
    off = [abs(mean - law.mean) / law.stddev for mean in means]
    # Eight draws of the bare score function leave about 4000 nats of noise in a slope of 1000.
    assert off[0] < 0.3 < off[1]


def two_clusters(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 3.0))
    odds = pyro.sample("odds", dist.Beta(torch.tensor(2.0), 2.0))
    with pyro.plate("data", len(x)):
        sign = pyro.sample("sign", dist.Bernoulli(odds))
        pyro.sample("x", dist.Normal((2 * sign - 1) * loc, 1.0), obs=x)


def test_discrete_sites_are_summed_out_of_the_bound() -> None:
    x = torch.cat([torch.randn(30) - 2.0, torch.randn(60) + 2.0])
    start = {"loc": 2.0, "odds": 0.6}
    found = quiet(two_clusters, x, num_steps=300, init=start)
    exact = laplace.fit(two_clusters, x, init=start, seed=0)
    assert list(found.draws) == ["loc", "odds"]
    # Ninety points: Laplace is good to a few per cent of a sd here, SVI's end to about 0.1.
    for name, draws in exact.draws.items():
        assert abs(found.draws[name].mean() - draws.mean()) < 0.2 * draws.std()
        assert 0.85 < found.draws[name].std() / draws.std() < 1.15
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=0.05)
    assert found.log_likelihood["x"].shape == (1, 4000, 90)


@pytest.mark.slow
def test_a_flow_bends_to_what_is_not_normal() -> None:
    """θ = (u, v) on a parabola: no normal fits, a flow does better by a good part of the gap."""

    def banana() -> None:
        u = pyro.sample("u", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("v", dist.Normal(u**2, 0.3))

    normal, flow = (
        quiet(banana, guide=g, num_steps=n) for g, n in (("full_rank", 300), ("flow", 800))
    )
    gaps = [-p.trace[-100:].mean().item() for p in (normal, flow)]  # log p = 0
    assert gaps[0] < -0.5
    assert gaps[1] > 0.4 * gaps[0]


def test_full_rank_is_exact_where_the_posterior_is_normal(data: tuple[Tensor, Tensor]) -> None:
    found = quiet(broadcast_regression, *data, num_steps=500)
    law, evidence = closed_form(*data)
    draws = found.draws["w"][0]
    errors = (draws.mean(dim=0) - law.mean) / law.stddev
    assert errors.abs().max() < 0.1
    whitened = torch.linalg.solve_triangular(law.scale_tril, draws.mT, upper=False)
    # 4000 draws know a covariance to 0.022, the end of the climb adds about as much.
    torch.testing.assert_close(whitened.cov(), torch.eye(3), rtol=0, atol=0.15)
    # The bound closes: a guide that is the posterior gives the evidence in every draw.
    assert found.log_evidence == pytest.approx(evidence, abs=0.01)
    assert -found.trace[-50:].mean() == pytest.approx(evidence, abs=0.05)
    assert found.sample_stats["log_weight"].std() < 0.2


def test_mean_field_finds_the_means_and_the_conditional_sds(data: tuple[Tensor, Tensor]) -> None:
    x = data[0] @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 1.0]])
    found = quiet(broadcast_regression, x, data[1], guide="mean_field", num_steps=500)
    law, evidence = closed_form(x, data[1])
    draws = found.draws["w"][0]
    assert ((draws.mean(dim=0) - law.mean) / law.stddev).abs().max() < 0.15
    # The best independent normal has the variances 1 / Λ_ii, narrower than Λ⁻¹_ii.
    expected = law.precision_matrix.diagonal().rsqrt()
    torch.testing.assert_close(draws.std(dim=0) / expected, torch.ones(3), rtol=0, atol=0.1)
    gap = 0.5 * (law.precision_matrix.diagonal().log().sum() - law.precision_matrix.logdet())
    assert -found.trace[-50:].mean() == pytest.approx(evidence - gap.item(), abs=0.1)


def test_takes_models_that_cannot_take_several_draws(data: tuple[Tensor, Tensor]) -> None:
    found = quiet(regression, *data, num_steps=200, num_particles=3, learning_rate=0.1)
    law, evidence = closed_form(*data)
    errors = (found.draws["w"][0].mean(dim=0) - law.mean) / law.stddev
    # A short climb: about 0.1 is left of it.
    assert errors.abs().max() < 0.5
    assert found.log_evidence == pytest.approx(evidence, abs=0.2)


def test_stays_on_the_simplex() -> None:
    def model(labels: Tensor) -> None:
        probs = pyro.sample("probs", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", len(labels)):
            pyro.sample("labels", dist.Categorical(probs), obs=labels)

    found = quiet(model, torch.tensor([0] * 20 + [1] * 30 + [2] * 50), num_steps=200)
    draws = found.draws["probs"][0]
    torch.testing.assert_close(draws.sum(dim=1), torch.ones(4000))
    # Dirichlet(21, 31, 51): means 21/103, 31/103, 51/103, sds about 0.045.
    assert (draws.mean(dim=0) - torch.tensor([21.0, 31.0, 51.0]) / 103).abs().max() < 0.01
    counts = torch.tensor([20.0, 30.0, 50.0])
    evidence = math.lgamma(3) - math.lgamma(103) + torch.lgamma(counts + 1).sum().item()
    assert found.log_evidence == pytest.approx(evidence, abs=0.02)


def own_guide(ratios: Tensor) -> None:
    concentration = pyro.param("a", torch.tensor(100.0), constraint=dist.constraints.positive)
    rate = pyro.param("b", torch.tensor(50.0), constraint=dist.constraints.positive)
    pyro.sample("dimension", dist.Gamma(concentration, rate))


def test_a_guide_of_one_s_own_is_trained(ratios: Tensor) -> None:
    # The guide's family holds the posterior, so that all its draws weigh the same.
    found = quiet(twonn.model, ratios[:100], guide=own_guide, num_steps=300)
    law = twonn.posterior(ratios[:100])
    assert found.draws["dimension"].mean() == pytest.approx(law.mean, abs=0.1 * law.stddev)
    assert found.log_evidence == pytest.approx(law.log_evidence, abs=0.01)
    assert found.sample_stats["log_weight"].std() < 0.2
    assert found.method == "SVI, own guide"


def test_a_guide_that_cannot_take_several_draws_is_run_for_each(ratios: Tensor) -> None:
    def guide(ratios: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([1.0, 0.0]))
        hidden = pyro.sample("hidden", dist.Normal(loc[1], 0.2), infer={"is_auxiliary": True})
        center = loc[0] + hidden.reshape(-1)[0]  # of several draws, the first
        pyro.sample("dimension", dist.LogNormal(center, 0.07))

    found = quiet(twonn.model, ratios, guide=guide, num_steps=50, num_particles=2, num_draws=200)
    logs = found.draws["dimension"][0].log()
    # Of one common center the draws would have the sd 0.07, not √(0.07² + 0.2²) = 0.21; 200 draws
    # know it to 5 %.
    assert logs.std() == pytest.approx(0.21, rel=0.2)


def test_an_automatic_guide_of_pyro_s_serves(ratios: Tensor) -> None:
    found = quiet(twonn.model, ratios, guide=AutoNormal(twonn.model), num_steps=200)
    law = twonn.posterior(ratios)
    assert found.draws["dimension"].mean() == pytest.approx(law.mean, abs=0.3 * law.stddev)


def test_a_guide_left_in_the_store_is_not_taken_up(data: tuple[Tensor, Tensor]) -> None:
    expected = quiet(broadcast_regression, *data, num_steps=20)
    for left in ("AutoDiagonalNormal.loc", "AutoMultivariateNormal.loc"):
        pyro.param(left, torch.full((3,), 9.0))
    store = dict(pyro.get_param_store().named_parameters())
    found = quiet(broadcast_regression, *data, num_steps=20)
    assert torch.equal(found.draws["w"], expected.draws["w"])
    quiet(broadcast_regression, *data, num_steps=20, guide="mean_field")
    assert dict(pyro.get_param_store().named_parameters()) == store
    assert all((value == 9.0).all() for value in store.values())
    pyro.clear_param_store()


def test_the_caller_s_copy_of_a_guide_s_parameters_is_not_trained(ratios: Tensor) -> None:
    mine = pyro.param("a", torch.tensor(7.0), constraint=dist.constraints.positive)
    quiet(twonn.model, ratios, guide=own_guide, num_steps=5, num_draws=5)
    assert list(pyro.get_param_store()) == ["a"]
    assert pyro.param("a").item() == pytest.approx(7.0) == pytest.approx(mine.item())
    pyro.clear_param_store()


def test_starts_at_a_copy_of_init(data: tuple[Tensor, Tensor]) -> None:
    start = torch.tensor([5.0, -5.0, 5.0])
    found = quiet(broadcast_regression, *data, init={"w": start}, num_steps=1, learning_rate=1e-3)
    assert start.tolist() == [5.0, -5.0, 5.0]
    # The guide starts with sds of 0.1.
    assert (found.draws["w"][0].mean(dim=0) - start).abs().max() < 0.05


def test_a_guide_that_moves_its_start_in_place_does_not_move_the_caller_s(
    data: tuple[Tensor, Tensor],
) -> None:
    start = torch.zeros(3)
    strategy = init_strategy({"w": start}, inspect(broadcast_regression, *data))
    with pyro.get_param_store().scope():
        guide = AutoNormal(broadcast_regression, init_loc_fn=strategy)
        guide(*data)
        guide.locs.w_unconstrained.data += 1.0
    assert start.tolist() == [0.0, 0.0, 0.0]


def test_the_same_start_gives_the_same_fit_whatever_its_dtype(data: tuple[Tensor, Tensor]) -> None:
    fits = [
        quiet(broadcast_regression, *data, init={"w": start}, num_steps=3)
        for start in (torch.ones(3), torch.ones(3).float(), torch.ones(3).int().numpy())
    ]
    assert torch.equal(fits[0].draws["w"], fits[1].draws["w"])
    assert torch.equal(fits[0].draws["w"], fits[2].draws["w"])


def test_keeps_a_trace_of_every_step(data: tuple[Tensor, Tensor]) -> None:
    found = quiet(broadcast_regression, *data, num_steps=30, num_particles=4, num_draws=6)
    assert found.trace.shape == (30,)
    assert found.trace[-1] < found.trace[0]
    assert found.cost.gradient_evaluations == 120
    assert found.draws["w"].shape == (1, 6, 3)


def test_many_particles_cost_about_as_much_as_one_run(data: tuple[Tensor, Tensor]) -> None:
    runs = []

    def counted(x: Tensor, y: Tensor) -> None:
        runs.append(1)
        broadcast_regression(x, y)

    quiet(counted, *data, num_steps=50, num_particles=20, num_draws=100)
    assert len(runs) < 50 + 20


def test_refuses_guides_that_do_not_fit(ratios: Tensor) -> None:
    with pytest.raises(ValueError, match="guide must be one of flow, full_rank, low_rank"):
        quiet(twonn.model, ratios, guide="laplace")
    with pytest.raises(ValueError, match="guide must have a parameter to train, got none"):
        quiet(twonn.model, ratios, guide=lambda r: pyro.sample("dimension", dist.Gamma(2.0, 1.0)))

    def elsewhere(ratios: Tensor) -> None:
        pyro.sample("d", dist.Gamma(pyro.param("a", torch.tensor(2.0)), 1.0))

    with pytest.raises(ValueError, match=r"sample every latent site .* got no \['dimension'\]"):
        quiet(twonn.model, ratios, guide=elsewhere)
    with pytest.raises(ValueError, match="init must be None with a guide of your own"):
        quiet(twonn.model, ratios, guide=own_guide, init={"dimension": 2.0})


@pytest.mark.parametrize("name", ["num_steps", "num_particles", "num_draws"])
def test_refuses_impossible_counts(name: str, ratios: Tensor) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        quiet(twonn.model, ratios, **{name: 0})
    with pytest.raises(ValueError, match=rf"{name} must be a whole number, got 10\.5"):
        quiet(twonn.model, ratios, **{name: 10.5})


def test_says_when_the_loss_blows_up(ratios: Tensor) -> None:
    with (
        pytest.warns(UserWarning, match="Encountered NaN: loss"),
        pytest.raises(FloatingPointError, match="loss must stay finite"),
    ):
        quiet(twonn.model, ratios, learning_rate=1e6)
