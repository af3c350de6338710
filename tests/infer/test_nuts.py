import math
import multiprocessing
import os
from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import Posterior, nuts
from pplvae.infer.unconstrained import Potential
from pplvae.intrinsic_dimension import twonn


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def test_finds_the_posterior_of_a_dimension(ratios: Tensor) -> None:
    found = nuts.fit(
        twonn.model, ratios, num_draws=200, warmup_steps=60, num_chains=2, seed=0, progress=False
    )
    law, draws = twonn.posterior(ratios), found.draws["dimension"]
    row = found.summary().loc["dimension"]
    # NUTS has no bias; some 150 effective draws know the mean to 0.08 sd and the sd to 6 %.
    assert row["ess_bulk"] > 100
    assert row["r_hat"] < 1.03
    assert abs(draws.mean() - law.mean) / law.stddev < 0.25
    assert 0.85 < draws.std() / law.stddev < 1.15
    assert found.log_evidence is None


def test_agrees_with_the_closed_form_of_a_regression(data: tuple[Tensor, Tensor]) -> None:
    found = nuts.fit(
        regression, *data, num_draws=250, warmup_steps=60, num_chains=1, seed=0, progress=False
    )
    x, y = data
    covariance = torch.linalg.inv(torch.eye(3) + x.mT @ x / 0.25)
    draws = found.draws["w"][0]
    sds = covariance.diagonal().sqrt()
    errors = (draws.mean(dim=0) - covariance @ (x.mT @ y / 0.25)) / sds
    # At least 200 effective draws: the mean is known to 0.07 sd, the sd to 5 %.
    assert errors.abs().max() < 0.25
    torch.testing.assert_close(draws.std(dim=0) / sds, torch.ones(3), rtol=0, atol=0.2)


def test_stays_on_the_simplex() -> None:
    def model(labels: Tensor) -> None:
        probs = pyro.sample("probs", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", len(labels)):
            pyro.sample("labels", dist.Categorical(probs), obs=labels)

    labels = torch.tensor([0] * 20 + [1] * 30 + [2] * 50)
    found = nuts.fit(
        model, labels, num_draws=100, warmup_steps=40, num_chains=1, seed=0, progress=False
    )
    draws = found.draws["probs"][0]
    torch.testing.assert_close(draws.sum(dim=1), torch.ones(100))
    # Dirichlet(21, 31, 51): sds about 0.045, and 50 effective draws know a mean to 0.006.
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


@pytest.mark.parametrize("jit", [pytest.param(False, marks=pytest.mark.slow), True])
def test_tells_which_draws_diverged(jit: bool) -> None:
    def funnel() -> None:
        scale = pyro.sample("scale", dist.Normal(torch.tensor(0.0), 3.0))
        pyro.sample("x", dist.Normal(torch.zeros(5), (scale / 2).exp()).to_event(1))

    found = nuts.fit(
        funnel, num_draws=60, warmup_steps=30, num_chains=2, max_tree_depth=4, jit=jit, seed=1,
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


@pytest.fixture
def threads() -> Iterator[None]:
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.usefixtures("threads")
def test_the_draws_are_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sums of more than 32,768 numbers are split among torch's threads.
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((70_000,))

    def on(cores: int) -> Tensor:
        # Where Pyro and torch look for them.
        for module in (os, multiprocessing, torch.multiprocessing):
            monkeypatch.setattr(module, "cpu_count", lambda: cores)
        torch.set_num_threads(cores)
        found = nuts.fit(
            twonn.model, ratios, num_draws=4, warmup_steps=6, num_chains=2, jit=True, seed=0,
            pointwise=False, progress=False,
        )  # fmt: skip
        assert torch.get_num_threads() == cores
        return found.draws["dimension"]

    first = on(1)
    for cores in (2, 4):
        assert torch.equal(on(cores), first)


def schools(y: Tensor, sigma: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
    scale = pyro.sample("scale", dist.HalfCauchy(torch.tensor(5.0)))
    with pyro.plate("schools", len(y)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(loc + scale * z, sigma), obs=y)


SCHOOLS = (
    torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64),
    torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64),
)


@pytest.fixture(scope="module")
def compiled_and_plain() -> tuple[Posterior, Posterior]:
    torch.set_default_dtype(torch.float64)
    both = [
        nuts.fit(
            schools, *SCHOOLS, num_draws=35, warmup_steps=50, num_chains=1, jit=jit, seed=0,
            progress=False,
        )
        for jit in (True, False)
    ]  # fmt: skip
    return both[0], both[1]


def test_compiled_it_draws_the_same(compiled_and_plain: tuple[Posterior, Posterior]) -> None:
    compiled, plain = compiled_and_plain
    for name, value in plain.draws.items():
        torch.testing.assert_close(compiled.draws[name], value)


def test_compiled_it_counts_its_gradients(
    compiled_and_plain: tuple[Posterior, Posterior],
) -> None:
    compiled, plain = compiled_and_plain
    # Compiling takes one run to record, and two at each of seven points to compare.
    extra = compiled.cost.gradient_evaluations - plain.cost.gradient_evaluations
    assert extra == 15
    assert plain.cost.gradient_evaluations > plain.sample_stats["n_steps"].sum()


def test_tells_how_each_draw_came_about(compiled_and_plain: tuple[Posterior, Posterior]) -> None:
    found = compiled_and_plain[1]
    stats = found.sample_stats
    assert set(stats) == {
        "lp", "diverging", "energy", "n_steps", "tree_depth", "acceptance_rate", "step_size"
    }  # fmt: skip
    assert {value.shape for value in stats.values()} == {(1, 35)}
    # A tree of k doublings, the last cut short or not, has 2^(k − 1) to 2^k − 1 steps.
    steps, depth = stats["n_steps"], stats["tree_depth"]
    assert (steps >= 2 ** (depth - 1)).all()
    assert (steps < 2**depth).all()
    assert ((stats["acceptance_rate"] >= 0) & (stats["acceptance_rate"] <= 1)).all()
    # Fifty steps of warm-up bring it only near its target of 0.8.
    assert 0.4 < stats["acceptance_rate"].mean() < 1
    # It is of each draw, not of the draws so far: some go up to a wall, some along the valley.
    assert stats["acceptance_rate"].min() < 0.3
    assert stats["acceptance_rate"].max() > 0.99
    assert len(stats["step_size"].unique()) == 1


def test_the_energy_is_kinetic_and_potential(
    compiled_and_plain: tuple[Posterior, Posterior],
) -> None:
    found = compiled_and_plain[1]
    potential = Potential(schools, SCHOOLS)
    flat = {n: value[0] for n, value in found.draws.items()}
    levels = torch.stack(
        [
            potential({n: potential.transforms[n](flat[n][s]) for n in potential.initial})
            for s in range(35)
        ]
    )
    # Each trajectory begins where the last draw is, so what is above that level is kinetic:
    # ½ χ² with 10 degrees of freedom, mean 5 and sd √5.
    kinetic = found.sample_stats["energy"][0, 1:] - levels[:-1]
    assert (kinetic > 0).all()
    assert abs(kinetic.mean() - 5) < 4 * math.sqrt(5 / 34)


def test_reaches_no_deeper_than_allowed() -> None:
    found = nuts.fit(
        schools, *SCHOOLS, num_draws=20, warmup_steps=0, num_chains=1, max_tree_depth=2, seed=0,
        progress=False,
    )  # fmt: skip
    assert found.sample_stats["tree_depth"].max() <= 2
    assert found.sample_stats["n_steps"].max() <= 3


def test_a_model_that_branches_is_run_as_it_is() -> None:
    def model() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        # Twice the density on the right.
        pyro.factor("branch", torch.tensor(math.log(2.0) if loc > 0 else 0.0) + 0.0 * loc)

    found = nuts.fit(
        model, num_draws=120, warmup_steps=40, num_chains=1, jit=True, seed=0, progress=False
    )
    # Two thirds of the mass; with 40 effective draws known to 0.07.
    assert abs((found.draws["loc"] > 0).double().mean() - 2 / 3) < 0.25
    lp = found.sample_stats["lp"]
    prior = dist.Normal(0.0, 1.0).log_prob(found.draws["loc"])
    torch.testing.assert_close(lp - prior, math.log(2.0) * (found.draws["loc"] > 0))


def test_a_compiler_that_raises_is_not_heard_of(
    monkeypatch: pytest.MonkeyPatch, compiled_and_plain: tuple[Posterior, Posterior]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch.jit, "trace", fail)
    found = nuts.fit(
        schools, *SCHOOLS, num_draws=35, warmup_steps=50, num_chains=1, jit=True, seed=0,
        progress=False,
    )  # fmt: skip
    for name, value in compiled_and_plain[1].draws.items():
        assert torch.equal(found.draws[name], value)


def test_sums_discrete_sites_out() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
            # Both components are the same: the sum over k is one normal.
            pyro.sample("x", dist.Normal(loc + 0.0 * k, 1.0), obs=x)

    x = torch.tensor([1.0, 2.0, 3.0])
    found = nuts.fit(
        model, x, num_draws=100, warmup_steps=40, num_chains=1, jit=True, seed=0, progress=False
    )
    # Normal(6 / 4, 1 / √4), its mean known to 0.08 from 40 effective draws.
    assert abs(found.draws["loc"].mean() - 1.5) < 0.3
    assert set(found.draws) == {"loc"}


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
