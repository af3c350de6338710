"""The ladder of bounds against closed forms, quadrature and sums over all subsets."""

import importlib
import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot as plt
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor

from pplvae.compare.bounds import Bounds, bounds
from pplvae.infer import Posterior, exact, svi
from pplvae.intrinsic_dimension import twonn

X = torch.tensor(0.8, dtype=torch.float64)
POSTERIOR = dist.Normal(X / 2, math.sqrt(0.5))
EVIDENCE = dist.Normal(0.0, math.sqrt(2.0)).log_prob(X).item()
LOC, SCALE = 0.9, 0.9
Q = dist.Normal(torch.tensor(LOC, dtype=torch.float64), SCALE)

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LOCS = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
POINTS = torch.linspace(-3, 3, 12, dtype=torch.float64)


def normal_model(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def normal_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(torch.tensor(LOC), SCALE))


def normal_log_weights(num_draws: int) -> Tensor:
    """Log weights of the normal guide, from the exact posterior instead of the programs."""
    z = Q.sample((num_draws,))
    return EVIDENCE + POSTERIOR.log_prob(z) - Q.log_prob(z)


def weighted(log_weight: Tensor) -> Posterior:
    return Posterior(
        {"z": torch.zeros(1, len(log_weight))}, sample_stats={"log_weight": log_weight[None]}
    )


def mixture(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        k = pyro.sample("assignment", dist.Categorical(WEIGHTS))
        pyro.sample("x", dist.Normal(LOCS[k], 1.0), obs=x)


def responsibilities(x: Tensor, power: float) -> Tensor:
    """The exact ones for power 1, imperfect ones otherwise."""
    joint = WEIGHTS.log() + dist.Normal(LOCS, 1.0).log_prob(x.unsqueeze(1))
    return (power * joint).softmax(dim=1)


def assignment_guide(x: Tensor, power: float = 0.4) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("assignment", dist.Categorical(responsibilities(x, power)))


def one_by_one_guide(x: Tensor) -> None:
    """Draws the same, as a program that sees one draw at a time."""
    probs = responsibilities(x, 0.4)
    assert pyro.sample("first", dist.Bernoulli(torch.tensor(0.5))).dim() == 0
    with pyro.plate("data", len(x)):
        pyro.sample("assignment", dist.Categorical(probs))


def one_by_one_mixture(x: Tensor) -> None:
    pyro.sample("first", dist.Bernoulli(torch.tensor(0.5)))
    mixture(x)


def mixture_evidence(x: Tensor) -> float:
    joint = WEIGHTS.log() + dist.Normal(LOCS, 1.0).log_prob(x.unsqueeze(1))
    return joint.logsumexp(dim=1).sum().item()


def mixture_elbo(x: Tensor, power: float) -> float:
    """Σ_n Σ_k q_nk (log p_nk − log q_nk)."""
    joint, q = (
        WEIGHTS.log() + dist.Normal(LOCS, 1.0).log_prob(x.unsqueeze(1)),
        responsibilities(x, power),
    )
    return (q * (joint - q.log())).sum().item()


def assert_rises(found: Bounds) -> None:
    values = list(found.bounds.values())
    assert values == sorted(values)


def test_the_first_step_is_the_elbo() -> None:
    found = bounds(normal_model, normal_guide, X, num_draws=20_000, seed=0)
    assert found.log_evidence == pytest.approx(EVIDENCE), "a linear-Gaussian model has it"
    elbo = EVIDENCE - torch.distributions.kl_divergence(Q, POSTERIOR).item()
    assert abs(found.bounds[1] - elbo) < 4 * found.errors[1]
    assert found.errors[1] < 0.01
    assert_rises(found)
    assert found.bounds[100] < EVIDENCE + 4 * found.errors[100]


def test_the_second_step_is_a_double_integral() -> None:
    found = bounds(normal_model, normal_guide, X, num_draws=20_000, seed=1,
                   num_particles=[2], log_evidence=EVIDENCE)  # fmt: skip
    grid = torch.linspace(-8, 8, 1601) * SCALE + LOC
    mass = Q.log_prob(grid).exp() * (grid[1] - grid[0])
    w = (EVIDENCE + POSTERIOR.log_prob(grid) - Q.log_prob(grid)).exp()
    pairs = (0.5 * (w[:, None] + w)).log()
    assert abs(found.bounds[2] - mass @ pairs @ mass) < 4 * found.errors[2]


def test_the_gap_closes_as_the_variance_of_the_weights_says() -> None:
    # ∫ p² / q of two normals: finite here, as 2 s² > ½.
    both = 2 * SCALE**2 - 0.5
    second = SCALE**2 / math.sqrt(0.5 * both) * math.exp((LOC - X / 2) ** 2 / both)
    found = bounds(
        normal_model, weighted(normal_log_weights(100_000)), X,
        num_particles=[20, 40], log_evidence=EVIDENCE,
    )  # fmt: skip
    # v/2K − v/4K: most of the noise is common to both bounds and falls out. What is left of the
    # series is of order v/K, some 3 %; the noise over seeds is about 4 %.
    step = found.bounds[40] - found.bounds[20]
    assert step == pytest.approx((second - 1) / 80, rel=0.15)
    assert EVIDENCE - found.bounds[40] == pytest.approx(
        (second - 1) / 80, abs=4 * found.errors[40]
    )


@pytest.mark.slow
def test_errors_are_what_repetitions_show() -> None:
    runs = [bounds(normal_model, weighted(normal_log_weights(2000)), X,
                   num_particles=[1, 10, 100], log_evidence=EVIDENCE)
            for _ in range(60)]  # fmt: skip
    for size in (1, 10, 100):
        values = torch.tensor([run.bounds[size] for run in runs])
        claimed = torch.tensor([run.errors[size] for run in runs]).mean()
        # 60 values know their sd to 9 %, and 20 groups underrate theirs by 1 %.
        assert values.std() / claimed == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
def test_the_integral_is_the_mean_over_all_subsets(spread: float) -> None:
    inner = importlib.import_module("pplvae.compare.bounds")._mean_log_means
    log_weights = spread * torch.randn(2, 8)
    log_weights -= log_weights.amax(dim=1, keepdim=True)
    log_weights[1, 3] = -math.inf
    for size in (2, 3, 7):
        subsets = [list(chosen) for chosen in itertools.combinations(range(8), size)]
        slow = (log_weights[:, subsets].logsumexp(dim=2) - math.log(size)).mean(dim=1)
        torch.testing.assert_close(inner(log_weights, [size])[:, 0], slow, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0])
def test_the_ladder_rises_on_any_draws(spread: float) -> None:
    found = bounds(normal_model, weighted(spread * torch.randn(400)), X,
                   num_particles=range(1, 21), log_evidence=0.0)  # fmt: skip
    assert_rises(found)


def test_a_perfect_guide_is_exact_at_every_step() -> None:
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((100,))
    found = bounds(twonn.model, exact.fit(twonn.model, ratios, seed=0), ratios)
    assert found.log_evidence == pytest.approx(twonn.posterior(ratios).log_evidence)
    assert list(found.bounds.values()) == pytest.approx([found.log_evidence] * 7, abs=1e-8)
    assert max(found.errors.values()) < 1e-8


def test_finds_the_exact_evidence_of_a_dimension_by_itself() -> None:
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((100,))
    fit = svi.fit(twonn.model, ratios, num_steps=300, seed=0, progress=False)
    found = bounds(twonn.model, fit, ratios)
    assert found.num_draws == 4000
    assert found.log_evidence == pytest.approx(twonn.posterior(ratios).log_evidence)
    assert found.log_evidence is not None
    # A guide normal in log d misses its skewness of −1/√101: the KL is about 1/(12·101) nats.
    assert -4 * found.errors[1] < found.log_evidence - found.bounds[1] < 0.02
    assert abs(found.log_evidence - found.bounds[100]) < 4 * found.errors[100] + 1e-3


def test_discrete_sites_of_a_guide_are_welcome() -> None:
    truth = mixture_evidence(POINTS)
    found = bounds(mixture, assignment_guide, POINTS, log_evidence=truth, seed=0)
    assert abs(found.bounds[1] - mixture_elbo(POINTS, 0.4)) < 4 * found.errors[1]
    assert truth - found.bounds[1] > 1, "the guide is meant to be imperfect"
    assert_rises(found)
    assert abs(truth - found.bounds[100]) < 0.1 * (truth - found.bounds[1])
    assert found.bounds[100] < truth + 4 * found.errors[100]


def test_the_exact_assignments_close_the_gap() -> None:
    def guide(x: Tensor) -> None:
        assignment_guide(x, power=1.0)

    truth = mixture_evidence(POINTS)
    found = bounds(mixture, guide, POINTS, num_draws=400, num_particles=[1, 20],
                   log_evidence=truth, seed=0)  # fmt: skip
    assert list(found.bounds.values()) == pytest.approx([truth] * 2, abs=1e-8)


def test_programs_that_see_one_draw_at_a_time_are_looped_over() -> None:
    found = bounds(one_by_one_mixture, one_by_one_guide, POINTS, num_draws=400,
                   num_particles=[1, 20], log_evidence=0.0, seed=0)  # fmt: skip
    assert abs(found.bounds[1] - mixture_elbo(POINTS, 0.4)) < 4 * found.errors[1]


def test_sites_that_the_guide_leaves_to_be_summed_out_are() -> None:
    def enumerated(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()), 2.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(WEIGHTS))
            pyro.sample("x", dist.Normal(loc + LOCS[k], 1.0), obs=x)

    def marginalized(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()), 2.0))
        with pyro.plate("data", len(x)):
            parts = dist.Normal(loc.unsqueeze(-1) + LOCS, 1.0)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), parts), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(torch.tensor(0.2), 0.5))

    one, other = (
        bounds(model, guide, POINTS, num_draws=4000, num_particles=[1, 20], log_evidence=0, seed=0)
        for model in (enumerated, marginalized)
    )
    for size, error in one.errors.items():
        assert error < 0.02
        assert abs(one.bounds[size] - other.bounds[size]) < 4 * math.sqrt(2) * error


def test_a_missed_mode_leaves_a_gap_of_its_mass() -> None:
    def model() -> None:
        parts = dist.Normal(torch.tensor([-20.0, 20.0]), 1.0)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))

    def guide() -> None:
        pyro.sample("z", dist.Normal(torch.tensor(20.0), 1.0))

    found = bounds(model, guide, num_draws=400, num_particles=[1, 20], log_evidence=0.0)
    assert list(found.bounds.values()) == pytest.approx([-math.log(2)] * 2)


def test_weights_of_zero_leave_no_bound_where_they_can_meet() -> None:
    log_weight = torch.zeros(400)
    log_weight[[6, 7]] = -math.inf
    found = bounds(
        normal_model, weighted(log_weight), X, num_particles=[1, 2, 3], log_evidence=0.0
    )
    assert found.bounds[1] == found.bounds[2] == -math.inf
    # Both lie in one of 50 groups of 8. Of 56 threes, 6 have both and 30 have one.
    expected = (6 * math.log(1 / 3) + 30 * math.log(2 / 3)) / 56 / 50
    assert found.bounds[3] == pytest.approx(expected, abs=1e-9)


def test_an_automatic_guide_keeps_its_parameters_and_the_world_its_state() -> None:
    with pyro.get_param_store().scope():
        guide = AutoNormal(normal_model)
        guide(X)
        before = {name: value.clone() for name, value in pyro.get_param_store().items()}
        state = torch.get_rng_state()
        first, again = (bounds(normal_model, guide, X, num_draws=2000, seed=3) for _ in range(2))
        assert first.bounds == again.bounds
        assert first.bounds != bounds(normal_model, guide, X, num_draws=2000, seed=4).bounds
        assert torch.equal(torch.get_rng_state(), state)
        after = dict(pyro.get_param_store().items())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_prints_and_draws_what_it_found() -> None:
    plt.switch_backend("Agg")
    found = Bounds({1: -2.0, 10: -1.5}, {1: 0.1, 10: 0.2}, -1.25, 4000)
    table = found.table()
    assert list(table.columns) == ["bound", "error", "gap"]
    assert table["gap"].tolist() == [0.75, 0.25]
    assert repr(found).startswith("Bounds by 4000 draws, log p(x) = -1.2500\n")
    assert "<table" in found._repr_html_()
    assert len(found.plot().lines) > 0
    unknown = Bounds({1: -2.0}, {1: 0.1}, None, 4000)
    assert "log p(x) = unknown" in repr(unknown)
    assert unknown.table()["gap"].isna().all()
    plt.close("all")


def test_refuses_what_gives_no_bound() -> None:
    def refused(message: str, guide: Any, model: Any = normal_model, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            bounds(model, guide, X, **{"num_draws": 400, "num_particles": [1]} | options)

    refused(r"num_particles must be in \[1, 20\] for 400 draws, got 21", normal_guide,
            num_particles=[21])  # fmt: skip
    refused("num_draws must be at least 1, got 0", normal_guide, num_draws=0)
    refused("num_particles must be a whole number, got 1.5", normal_guide, num_particles=[1.5])
    refused("num_particles must hold at least 1 number, got none", normal_guide, num_particles=[])
    refused("a Pyro guide or a posterior, got 'mean_field'", "mean_field")
    refused("draws have weights .* got NUTS", Posterior({"z": torch.zeros(1, 9)}, method="NUTS"))
    refused("must be below infinity, got 2 nan or inf",
            weighted(torch.tensor([0.0, math.nan, math.inf])))  # fmt: skip
    refused("guide must have a density of the model's latent sites", AutoDelta(normal_model))


def test_refuses_guides_of_other_sites() -> None:
    def nothing(x: Tensor) -> None:
        pyro.sample("y", dist.Normal(torch.zeros(()), 1.0))

    with pytest.raises(ValueError, match=r"sample every latent site of the model, got no \['z'\]"):
        bounds(normal_model, nothing, X)
    with pytest.raises(
        ValueError, match=r"latent site of the model and no other, got \['first'\]"
    ):
        bounds(mixture, one_by_one_guide, POINTS)

    def two(x: Tensor) -> None:
        normal_model(x)
        pyro.sample("coin", dist.Bernoulli(torch.tensor(0.5)))

    def coin(x: Tensor) -> None:
        pyro.sample("coin", dist.Bernoulli(torch.tensor(0.5)))

    def point(x: Tensor) -> None:
        coin(x)
        pyro.sample("z", dist.Delta(torch.zeros(())))

    with pytest.raises(ValueError, match=r"and no other, got no \['z'\]"):
        bounds(two, coin, X)
    with pytest.raises(ValueError, match=r"density of its sites, got a point mass of \['z'\]"):
        bounds(two, point, X)


def test_refuses_a_subsample() -> None:
    def program(x: Tensor, *, observe: bool) -> None:
        with pyro.plate("data", len(x), subsample_size=4) as rows:
            k = pyro.sample("assignment", dist.Categorical(WEIGHTS))
            if observe:
                pyro.sample("x", dist.Normal(LOCS[k], 1.0), obs=x[rows])

    with pytest.raises(ValueError, match="see all of its data, got a subsample in plate 'data'"):
        bounds(lambda x: program(x, observe=True), lambda x: program(x, observe=False), POINTS)
