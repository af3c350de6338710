import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import nuts
from pplvae.intrinsic_dimension import twonn


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def test_finds_the_posterior_of_a_dimension(ratios: Tensor) -> None:
    found = nuts.fit(
        twonn.model, ratios, num_draws=400, warmup_steps=100, num_chains=2, seed=0, progress=False
    )
    law, draws = twonn.posterior(ratios), found.draws["dimension"]
    row = found.summary().loc["dimension"]
    # NUTS has no bias; some 250 effective draws know the mean to 0.06 sd and the sd to 5 %.
    assert row["ess_bulk"] > 200
    assert row["r_hat"] < 1.02
    assert abs(draws.mean() - law.mean) / law.stddev < 0.2
    assert 0.9 < draws.std() / law.stddev < 1.1
    assert found.log_evidence is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_finds_it_from_every_seed(seed: int, ratios: Tensor) -> None:
    found = nuts.fit(twonn.model, ratios, seed=seed, progress=False)
    law, draws = twonn.posterior(ratios), found.draws["dimension"]
    assert abs(draws.mean() - law.mean) / law.stddev < 0.15
    assert 0.93 < draws.std() / law.stddev < 1.07


def test_agrees_with_the_closed_form_of_a_regression(data: tuple[Tensor, Tensor]) -> None:
    found = nuts.fit(
        regression, *data, num_draws=400, warmup_steps=80, num_chains=1, seed=0, progress=False
    )
    x, y = data
    covariance = torch.linalg.inv(torch.eye(3) + x.mT @ x / 0.25)
    draws = found.draws["w"][0]
    sds = covariance.diagonal().sqrt()
    errors = (draws.mean(dim=0) - covariance @ (x.mT @ y / 0.25)) / sds
    # At least 250 effective draws: the mean is known to 0.06 sd, the sd to 4 %.
    assert errors.abs().max() < 0.2
    torch.testing.assert_close(draws.std(dim=0) / sds, torch.ones(3), rtol=0, atol=0.15)


def test_stays_on_the_simplex() -> None:
    def model(labels: Tensor) -> None:
        probs = pyro.sample("probs", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", len(labels)):
            pyro.sample("labels", dist.Categorical(probs), obs=labels)

    labels = torch.tensor([0] * 20 + [1] * 30 + [2] * 50)
    found = nuts.fit(
        model, labels, num_draws=150, warmup_steps=60, num_chains=1, seed=0, progress=False
    )
    draws = found.draws["probs"][0]
    torch.testing.assert_close(draws.sum(dim=1), torch.ones(150))
    # Dirichlet(21, 31, 51): sds about 0.045, and 50 effective draws know a mean to 0.007.
    assert (draws.mean(dim=0) - torch.tensor([21.0, 31.0, 51.0]) / 103).abs().max() < 0.025


def test_a_chain_is_the_same_alone_and_among_others(ratios: Tensor) -> None:
    short = {"num_draws": 10, "warmup_steps": 10, "progress": False}
    many = nuts.fit(twonn.model, ratios, num_chains=3, seed=5, **short).draws["dimension"]
    assert many.shape == (3, 10)
    for chain in range(3):
        alone = nuts.fit(twonn.model, ratios, num_chains=1, seed=5 + chain, **short)
        assert torch.equal(alone.draws["dimension"][0], many[chain])


def test_the_last_seed_has_a_next_one(ratios: Tensor) -> None:
    found = nuts.fit(
        twonn.model, ratios, num_draws=4, warmup_steps=2, num_chains=2, seed=2**32 - 1,
        progress=False,
    )  # fmt: skip
    assert found.num_chains == 2


def test_keeps_the_log_joint_of_each_draw(ratios: Tensor) -> None:
    found = nuts.fit(
        twonn.model, ratios, num_draws=10, warmup_steps=10, num_chains=2, seed=0, progress=False
    )
    d = found.draws["dimension"]
    prior = dist.Gamma(torch.tensor(1.0), torch.tensor(0.01)).log_prob(d)
    likelihood = dist.Pareto(torch.tensor(1.0), d.unsqueeze(-1)).log_prob(ratios).sum(dim=-1)
    torch.testing.assert_close(found.sample_stats["lp"], prior + likelihood)


def test_tells_which_draws_diverged() -> None:
    def funnel() -> None:
        scale = pyro.sample("scale", dist.Normal(torch.tensor(0.0), 3.0))
        pyro.sample("x", dist.Normal(torch.zeros(5), (scale / 2).exp()).to_event(1))

    found = nuts.fit(
        funnel, num_draws=60, warmup_steps=30, num_chains=2, max_tree_depth=5, seed=1,
        progress=False,
    )  # fmt: skip
    diverging = found.sample_stats["diverging"]
    assert diverging.shape == (2, 60)
    assert diverging.dtype == torch.bool
    # Neal's funnel, with so little warm-up: some do, most do not.
    assert 0 < diverging.sum() < 60


def test_none_diverge_on_a_normal(data: tuple[Tensor, Tensor]) -> None:
    found = nuts.fit(
        regression, *data, num_draws=30, warmup_steps=60, num_chains=1, seed=0, progress=False
    )
    assert not found.sample_stats["diverging"].any()
    assert found.method == "NUTS, 1 × (60 + 30)"


def test_starts_at_init_without_moving_it() -> None:
    def two_modes() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
        pyro.sample("size", dist.Normal(loc.abs(), 0.1), obs=torch.tensor(3.0))

    for start in (torch.tensor(-3.0), torch.tensor(3.0)):
        found = nuts.fit(
            two_modes, init={"loc": start}, num_draws=20, warmup_steps=20, num_chains=1, seed=0,
            progress=False,
        )  # fmt: skip
        assert (found.draws["loc"].sign() == start.sign()).all()
        assert abs(start) == 3.0


def test_runs_without_warm_up(ratios: Tensor) -> None:
    found = nuts.fit(
        twonn.model, ratios, num_draws=4, warmup_steps=0, num_chains=1, seed=0, progress=False
    )
    assert found.draws["dimension"].isfinite().all()


def test_refuses_impossible_settings(ratios: Tensor) -> None:
    for name, value, rule in (
        ("num_draws", 3, "at least 4"),
        ("num_chains", 0, "at least 1"),
        ("warmup_steps", -1, "at least 0"),
        ("max_tree_depth", 0, "at least 1"),
        ("target_accept_prob", 1.0, r"in \[0\.01, 0\.999\]"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
            nuts.fit(twonn.model, ratios, **{name: value})
    with pytest.raises(ValueError, match=r"num_chains must be a whole number, got 2\.0"):
        nuts.fit(twonn.model, ratios, num_chains=2.0)  # pyright: ignore
    with pytest.raises(ValueError, match=r"init must name sites among \['dimension'\], got 'd'"):
        nuts.fit(twonn.model, ratios, init={"d": math.pi})
