import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import Cost, Posterior, exact, importance, laplace
from pplvae.intrinsic_dimension import twonn

Y = torch.linspace(-1.0, 1.5, 12, dtype=torch.float64)


def model(y: Tensor, scale: float = 1.0) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), scale))
    pyro.deterministic("twice", 2 * loc)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def truth() -> tuple[dist.Normal, float]:
    """The posterior of loc and log p(y)."""
    law = dist.Normal(Y.sum() / 13, torch.tensor(13.0).rsqrt())
    covariance = torch.eye(12) + torch.ones(12, 12)
    return law, dist.MultivariateNormal(torch.zeros(12), covariance).log_prob(Y).item()


def by_hand(law: dist.Normal, num: int = 4000, **fields: Any) -> Posterior:
    """Draws of loc from a law that is not quite the posterior, in four chains."""
    posterior, evidence = truth()
    loc = law.sample(torch.Size([4, num // 4]))
    stats = {"log_weight": posterior.log_prob(loc) + evidence - law.log_prob(loc)}
    return Posterior({"loc": loc}, **{"method": "by hand", "sample_stats": stats} | fields)


@pytest.mark.parametrize("seed", range(2))
def test_finds_the_posterior_of_a_dimension(seed: int) -> None:
    torch.manual_seed(seed)
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((1000,))
    found, law = importance.fit(twonn.model, ratios, seed=seed), twonn.posterior(ratios)
    draws = found.draws["dimension"]
    # 16,000 proposals with weights of sd 0.2 leave an error of 1/√4000 = 0.016 sd in the mean,
    # 0.011 in the ratio of sds, and of 0.2/√16,000 = 0.0017 nat in the evidence.
    assert abs(draws.mean() - law.mean) / law.stddev < 0.2
    assert 0.9 < draws.std() / law.stddev < 1.1
    assert found.log_evidence == pytest.approx(law.log_evidence, abs=0.01)
    assert found.diagnostics["log_evidence_error"] == pytest.approx(0.0017, rel=0.2)
    assert found.diagnostics["pareto_k"] < 0
    assert found.diagnostics["distinct_draws"] == 4000


def test_knows_several_sites_and_their_correlations(data: tuple[Tensor, Tensor]) -> None:
    def regression(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)

    x, y = data
    precision = torch.eye(3) + x.mT @ x / 0.25
    law = dist.MultivariateNormal(
        torch.linalg.solve(precision, x.mT @ y / 0.25), precision_matrix=precision
    )
    covariance = 0.25 * torch.eye(50) + x @ x.mT
    evidence = dist.MultivariateNormal(torch.zeros(50), covariance).log_prob(y).item()
    found = importance.fit(regression, x, y, seed=0)
    error = found.diagnostics["log_evidence_error"]
    assert error < 0.01
    assert found.log_evidence == pytest.approx(evidence, abs=4 * error)
    whitened = torch.linalg.solve_triangular(
        law.scale_tril, (found.draws["w"][0] - law.mean).mT, upper=False
    )
    assert whitened.mean(dim=1).abs().max() < 4 / math.sqrt(4000)
    torch.testing.assert_close(whitened.cov(), torch.eye(3), rtol=0, atol=4 * math.sqrt(2 / 4000))


def test_mends_a_guide_that_is_off() -> None:
    law, evidence = truth()
    off = by_hand(dist.Normal(law.mean + 0.5 * law.stddev, 1.3 * law.stddev), 20_000)
    found = importance.fit(model, Y, proposal=off, seed=0)
    draws = found.draws["loc"]
    # Some 10,000 proposals' worth of weight, and 4000 draws: errors of 0.02 sd.
    assert abs(draws.mean() - law.mean) / law.stddev < 0.08
    assert draws.std() / law.stddev == pytest.approx(1, abs=0.06)
    error = found.diagnostics["log_evidence_error"]
    assert found.log_evidence == pytest.approx(evidence, abs=4 * error)
    assert found.diagnostics["pareto_k"] < 0
    assert found.method == "importance, by hand"


def test_its_k_is_that_of_theory_for_a_narrow_guide() -> None:
    # See tests/arviz_alone: a guide of r times the sd has k = 1 − r², here 0.64. The estimate
    # errs by 0.07 at 20,000 draws, and is drawn to ½.
    law, _ = truth()
    narrow = by_hand(dist.Normal(law.mean, 0.6 * law.stddev), 20_000)
    found = importance.fit(model, Y, proposal=narrow, seed=0)
    assert found.diagnostics["pareto_k"] == pytest.approx(0.64, abs=0.2)


def test_exact_draws_stay_as_they_are() -> None:
    law, evidence = truth()
    perfect = by_hand(law)
    found = importance.fit(model, Y, proposal=perfect, seed=0)
    assert found.diagnostics["pareto_k"] == -math.inf
    assert found.diagnostics["importance_ess"] == pytest.approx(4000)
    assert found.log_evidence == pytest.approx(evidence, abs=1e-9)
    given, got = perfect.draws["loc"].flatten(), found.draws["loc"].flatten()
    assert (got != given).any()  # in random order
    assert torch.equal(got.sort().values, given.sort().values)


def test_the_prior_wastes_its_draws(ratios: Tensor) -> None:
    # With T = Σ log μ, effective draws per proposal are (E w)² / E w², closed in Gamma functions.
    a, b, num, total = 1.0, 0.1, 1000, ratios.log().sum().item()
    log_share = a * math.log(b) - math.lgamma(a)
    log_share += 2 * math.lgamma(a + num) - math.lgamma(a + 2 * num)
    log_share += (a + 2 * num) * math.log(b + 2 * total) - 2 * (a + num) * math.log(b + total)
    share = math.exp(log_share)
    assert 0.01 < share < 0.04
    found = importance.fit(
        twonn.model, ratios, a, b, proposal="prior", num_draws=4000, pointwise=False, seed=0
    )
    # 16,000 proposals are worth some 400, so that the estimate of the share errs by about 5 %.
    assert found.diagnostics["importance_ess"] / 16_000 == pytest.approx(share, rel=0.2)
    assert found.diagnostics["distinct_draws"] < 0.4 * 4000
    assert found.log_evidence == pytest.approx(
        twonn.posterior(ratios, a, b).log_evidence,
        abs=4 * found.diagnostics["log_evidence_error"],
    )
    assert found.cost.gradient_evaluations == 0
    assert found.method == "importance, prior"


def test_the_prior_is_drawn_from_in_few_runs_of_the_model() -> None:
    runs = 0

    def counted(y: Tensor) -> None:
        nonlocal runs
        runs += 1
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(y), dim=-1):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    importance.fit(counted, Y, proposal="prior", num_draws=100, seed=0)
    assert runs < 50


@pytest.mark.slow
def test_the_evidence_is_as_sure_as_it_says() -> None:
    _, evidence = truth()
    scores = []
    for seed in range(60):
        found = importance.fit(
            model, Y, proposal="prior", num_draws=1, num_proposals=1000, seed=seed
        )
        error = found.diagnostics["log_evidence_error"]
        scores.append((found.log_evidence or 0.0) - evidence)
        scores[-1] /= error
    # 60 standard scores: a mean within 4/√60, an sd within 4/√120 of one.
    assert abs(torch.tensor(scores).mean()) < 0.52
    assert torch.tensor(scores).std() == pytest.approx(1, abs=0.37)


def test_draws_outside_the_support_are_never_chosen() -> None:
    def positive() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("sign", torch.where(loc > 0, 0.0, -math.inf))

    found = importance.fit(positive, proposal="prior", seed=0)
    assert (found.draws["loc"] > 0).all()
    # Half of 16,000 proposals: log ½, with a standard error of 1/√16,000.
    assert found.log_evidence == pytest.approx(math.log(0.5), abs=4 / math.sqrt(16_000))
    assert found.diagnostics["importance_ess"] == pytest.approx(8000, rel=0.05)


def test_resampling_takes_each_in_proportion_rounded() -> None:
    weights = torch.rand(50).square()
    weights[7] = 0.0
    expected = 300 * weights / weights.sum()
    counts = torch.zeros(50)
    for _ in range(500):
        count = importance.resample(weights, 300).bincount(minlength=50)
        assert ((count - expected).abs() < 1).all()
        counts += count
    # The fraction of 500 that is rounded up errs by ½/√500 at most.
    torch.testing.assert_close(counts / 500, expected, rtol=0, atol=4 * 0.5 / math.sqrt(500))


def test_resampling_is_fair_to_single_draws_and_pairs() -> None:
    weights, num = torch.tensor([0.3, 0.7]), 400
    first = torch.cat([importance.resample(weights, 1) for _ in range(num)])
    assert first.double().mean() == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / num))
    # Two of four alike: each of the six pairs, not only those that lie two apart.
    pairs = {tuple(sorted(importance.resample(torch.ones(4), 2).tolist())) for _ in range(num)}
    assert len(pairs) == 6


def test_resampling_leaves_no_order() -> None:
    weights = torch.tensor([1.0, 3.0])
    first = torch.stack([importance.resample(weights, 4)[0] for _ in range(400)])
    assert first.double().mean() == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 400))


def test_a_posterior_like_any_other() -> None:
    found = importance.fit(model, Y, num_draws=50, seed=3)
    loc = found.draws["loc"]
    assert loc.shape == (1, 50)
    torch.testing.assert_close(found.draws["twice"], 2 * loc)
    torch.testing.assert_close(found.observed["y"], Y)
    terms = dist.Normal(loc.unsqueeze(-1), 1.0).log_prob(Y)
    torch.testing.assert_close(found.log_likelihood["y"], terms)
    prior = dist.Normal(torch.tensor(0.0), 1.0).log_prob(loc)
    torch.testing.assert_close(found.sample_stats["lp"], prior + terms.sum(dim=-1))
    # Draws chosen by their weights have no weights any more.
    assert "log_weight" not in found.sample_stats
    assert found.method == "importance, laplace"
    assert found.cost.gradient_evaluations > 0
    assert found.provenance["seed"] == 3
    assert not importance.fit(model, Y, num_draws=5, pointwise=False, seed=0).log_likelihood


def test_the_cost_of_a_posterior_s_own_fit_counts() -> None:
    dear = by_hand(truth()[0], cost=Cost(100.0, 200.0, 77))
    cost = importance.fit(model, Y, proposal=dear, seed=0).cost
    assert 100 < cost.cpu_seconds < 110
    assert 200 < cost.wall_seconds < 300
    assert cost.gradient_evaluations == 77


def test_a_seed_fixes_the_draws_and_moves_nothing() -> None:
    state = torch.get_rng_state()
    one, two, other = (importance.fit(model, Y, num_draws=20, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.draws["loc"], two.draws["loc"])
    assert not torch.equal(one.draws["loc"], other.draws["loc"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("start", [-2.0, 2.0])
def test_finds_the_mode_it_is_sent_to(start: float) -> None:
    def two_modes() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
        pyro.sample("size", dist.Normal(loc.abs(), 0.1), obs=torch.tensor(3.0))

    found = importance.fit(two_modes, init={"loc": start}, seed=0)
    assert found.draws["loc"].mean() == pytest.approx(math.copysign(3, start), abs=0.02)
    # k does not see the other mode, and the evidence is half of what it should be.
    assert found.diagnostics["pareto_k"] < 0.5
    log_evidence = dist.Normal(torch.tensor(0.0), math.sqrt(25.01)).log_prob(torch.tensor(3.0))
    assert found.log_evidence == pytest.approx(log_evidence.item(), abs=0.01)


def test_draws_in_single_precision(ratios: Tensor) -> None:
    torch.set_default_dtype(torch.float32)
    found = importance.fit(twonn.model, ratios.float(), seed=0)
    assert found.draws["dimension"].dtype == torch.float32
    assert found.log_evidence == pytest.approx(twonn.posterior(ratios).log_evidence, abs=0.01)
    solved = exact.fit(twonn.model, ratios.float(), pointwise=False, seed=0)
    again = importance.fit(twonn.model, ratios.float(), proposal=solved, seed=0)
    assert again.diagnostics["pareto_k"] == -math.inf


def test_refuses_a_proposal_without_weights() -> None:
    chain = Posterior({"loc": torch.randn(1, 10)}, method="NUTS")
    said = r"proposal must have the log_weight of its draws, .* got none of NUTS"
    with pytest.raises(ValueError, match=said):
        importance.fit(model, Y, proposal=chain)


def test_refuses_a_proposal_of_another_model_or_data() -> None:
    law, _ = truth()
    other = Posterior({"w": torch.randn(1, 5, 2)}, sample_stats={"log_weight": torch.zeros(1, 5)})
    said = r"proposal must have the sites \{'loc': \(\)\} of the model, got \{'w': \(2,\)\}"
    with pytest.raises(ValueError, match=said):
        importance.fit(model, Y, proposal=other)
    moved = by_hand(law, observed={"y": Y + 1})
    with pytest.raises(ValueError, match="proposal must be of the same data, got another y"):
        importance.fit(model, Y, proposal=moved)
    narrower = laplace.fit(model, Y, num_draws=40, seed=0)
    with pytest.raises(ValueError, match=r"got log joint .* for a draw that has .* here"):
        importance.fit(model, Y, 2.0, proposal=narrower)


def test_refuses_weights_that_say_nothing() -> None:
    def nowhere(value: float) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("term", torch.full_like(loc, value))

    with pytest.raises(ValueError, match="in the support of the model, got none among 40 of pri"):
        importance.fit(nowhere, -math.inf, proposal="prior", num_draws=10)
    for bad in (math.nan, math.inf):
        overflown = by_hand(truth()[0])
        overflown.sample_stats["log_weight"][2, :7] = bad
        with pytest.raises(FloatingPointError, match="7 of 4000 weights are infinite or nan"):
            importance.fit(model, Y, proposal=overflown)


def test_refuses_settings_that_do_not_fit() -> None:
    perfect = by_hand(truth()[0])
    with pytest.raises(ValueError, match="proposal must be one of laplace, prior, got 'guess'"):
        importance.fit(model, Y, proposal="guess")
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        importance.fit(model, Y, num_draws=0)
    with pytest.raises(ValueError, match="num_proposals must be at least 2, got 1"):
        importance.fit(model, Y, num_proposals=1)
    with pytest.raises(ValueError, match="num_proposals must be None with this proposal, got 9"):
        importance.fit(model, Y, proposal=perfect, num_proposals=9)
    with pytest.raises(ValueError, match="init must be None with this proposal"):
        importance.fit(model, Y, proposal="prior", init={"loc": 0.0})
