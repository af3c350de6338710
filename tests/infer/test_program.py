from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pplvae.infer import program
from pplvae.infer.evaluation import evaluate, runs_in_plate, says_the_same
from pplvae.infer.program import inspect, untouched

X = torch.linspace(-1.0, 2.0, 21, dtype=torch.float64).reshape(7, 3).sin()
Y = torch.linspace(0.0, 1.0, 7, dtype=torch.float64).cos()
LABELS = torch.tensor([0, 1, 1, 0, 2, 1, 0])


def regression(x: Tensor, y: Tensor) -> None:
    """As one writes it: the product does not take several w at once."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def broadcast_regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.deterministic("norm", w.norm(dim=-1))
    pyro.deterministic("doubled", 2 * w)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


def undeclared_regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0))
    pyro.sample("y", dist.Normal((x * w.unsqueeze(-2)).sum(-1), 0.5), obs=y)


def plain_number(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.Gamma(torch.tensor(2.0), 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, float(scale)), obs=y)


def first_of_all(y: Tensor) -> None:
    """Takes several draws without complaint, and looks at the first one only."""
    locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    first, second = locs.reshape(-1)[:2]
    pyro.deterministic("gap", first - second)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(first, second.exp()), obs=y)


def dirichlet(labels: Tensor) -> None:
    probs = pyro.sample("probs", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(labels)):
        pyro.sample("labels", dist.Categorical(probs), obs=labels)


def vector_in_plate(x: Tensor, labels: Tensor) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(torch.tensor(1.0)))
    with pyro.plate("groups", 3):
        locs = pyro.sample("locs", dist.MultivariateNormal(torch.zeros(3), torch.eye(3)))
    with pyro.plate("data", len(x)):
        law = dist.Normal(locs[..., labels, :], scale.unsqueeze(-1)).to_event(1)
        pyro.sample("x", law, obs=x)


def nested_plates(y: Tensor) -> None:
    with pyro.plate("columns", 7, dim=-1):
        shift = pyro.sample("shift", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("rows", 2, dim=-2):
            loc = pyro.sample("loc", dist.Normal(shift, 1.0))
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y.expand(2, 7))


def two_observed(x: Tensor, y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
    pyro.sample("total", dist.Normal(loc, 3.0), obs=y.sum())
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


CASES = {
    f.__name__: (f, data)
    for f, *data in (
        (regression, X, Y),
        (broadcast_regression, X, Y),
        (undeclared_regression, X, Y),
        (plain_number, Y),
        (first_of_all, Y),
        (dirichlet, LABELS),
        (vector_in_plate, X, LABELS),
        (nested_plates, Y),
        (two_observed, X, Y),
    )
}
TOGETHER = set(CASES) - {"regression", "plain_number", "first_of_all"}

Case = tuple[Callable[..., None], list[Tensor]]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def prior_draws(model: Callable[..., None], data: list[Tensor], num: int) -> dict[str, Tensor]:
    traces = [poutine.trace(model).get_trace(*data) for _ in range(num)]
    return {
        n: torch.stack([t.nodes[n]["value"] for t in traces]) for n in traces[0].stochastic_nodes
    }


def latent(draws: dict[str, Tensor]) -> dict[str, Tensor]:
    plates = {"data", "groups", "columns", "rows"}
    return {name: value for name, value in draws.items() if name not in plates}


def alone(model: Callable[..., None], data: list[Tensor], draws: dict[str, Tensor]) -> list[Any]:
    """Pyro's own trace of each draw, one after another: the slow transparent version."""
    traces = []
    for s in range(len(next(iter(draws.values())))):
        point = {name: value[s] for name, value in draws.items()}
        trace = poutine.trace(poutine.condition(model, point)).get_trace(*data)
        trace.compute_log_prob()
        traces.append(trace)
    return traces


@pytest.mark.parametrize("block", [2**18, 17])
def test_says_of_all_draws_what_pyro_says_of_each(
    case: Case, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "BLOCK", block)  # 17 terms: two draws of seven points at once
    model, data = case
    draws = latent(prior_draws(model, data, 9))
    found, anatomy = evaluate(model, tuple(data), draws), inspect(model, *data)
    traces = alone(model, data, draws)
    expected = torch.stack([trace.log_prob_sum() for trace in traces])
    torch.testing.assert_close(found.log_joint, expected)
    assert set(found.log_likelihood) == set(anatomy.observed)
    for name, value in found.log_likelihood.items():
        torch.testing.assert_close(value, torch.stack([t.nodes[name]["log_prob"] for t in traces]))
    assert set(found.deterministic) == set(anatomy.deterministic)
    for name, value in found.deterministic.items():
        torch.testing.assert_close(value, torch.stack([t.nodes[name]["value"] for t in traces]))


def test_knows_which_models_take_several_draws_in_a_plate() -> None:
    for name, (model, data) in CASES.items():
        draws = latent(prior_draws(model, data, 2))
        together = runs_in_plate(model, tuple(data), inspect(model, *data), draws)
        assert together == (name in TOGETHER), name


def test_many_draws_take_few_runs() -> None:
    runs = []

    def counted(x: Tensor, y: Tensor) -> None:
        runs.append(1)
        regression(x, y)

    evaluate(counted, (X, Y), {"w": torch.randn(1000, 3)})
    assert len(runs) < 10


def test_the_order_of_the_draws_does_not_matter() -> None:
    model, data = CASES["vector_in_plate"]
    draws = latent(prior_draws(model, data, 5))
    turned = dict(reversed(draws.items()))
    torch.testing.assert_close(
        evaluate(model, tuple(data), turned).log_joint,
        evaluate(model, tuple(data), draws).log_joint,
    )


def test_pointwise_terms_can_be_left_out() -> None:
    model, data = CASES["dirichlet"]
    draws = latent(prior_draws(model, data, 5))
    short = evaluate(model, tuple(data), draws, pointwise=False)
    assert not short.log_likelihood
    torch.testing.assert_close(short.log_joint, evaluate(model, tuple(data), draws).log_joint)


def test_pointwise_terms_and_prior_make_the_joint() -> None:
    model, data = CASES["regression"]
    draws = latent(prior_draws(model, data, 5))
    found = evaluate(model, tuple(data), draws)
    prior = dist.Normal(0.0, 1.0).log_prob(draws["w"]).sum(dim=1)
    torch.testing.assert_close(found.log_joint, prior + found.log_likelihood["y"].sum(dim=1))


def test_sees_the_anatomy_of_a_model() -> None:
    found = inspect(vector_in_plate, X, LABELS)
    assert found.latent == {"scale": (), "locs": (3, 3)}
    assert found.batch_dims == {"scale": 0, "locs": 1}
    assert list(found.observed) == ["x"]
    torch.testing.assert_close(found.observed["x"], X)
    assert found.batch_shapes == {"x": (7,)}
    assert found.num_terms == 7
    assert found.enumerated == ()
    assert found.max_plate_nesting == 1
    assert found.dtype == torch.float64
    assert inspect(nested_plates, Y).max_plate_nesting == 2
    assert inspect(broadcast_regression, X, Y).deterministic == {"norm": (), "doubled": (3,)}


def test_refuses_discrete_sites_that_cannot_be_summed_out() -> None:
    def counts() -> None:
        pyro.sample("rate", dist.Gamma(torch.tensor(1.0), 1.0))
        pyro.sample("count", dist.Poisson(torch.tensor(3.0)))

    with pytest.raises(ValueError, match=r"finitely many values to be summed out, got \['count'"):
        inspect(counts)


def pair(y: Tensor, *, summed: bool) -> None:
    """Each point is near ±loc: its sign is a site, or summed out by hand."""
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 3.0))
    odds = pyro.sample("odds", dist.Beta(torch.tensor(2.0), 2.0))
    pyro.deterministic("double", 2 * loc)
    with pyro.plate("data", len(y)):
        if summed:
            logits = torch.stack([(1 - odds).log(), odds.log()], dim=-1)
            locs = torch.stack([-loc, loc], dim=-1)
            law = dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(locs, 1.0))
            pyro.sample("y", law, obs=y)
        else:
            sign = pyro.sample("sign", dist.Bernoulli(odds))
            pyro.deterministic("place", sign * loc)
            pyro.sample("y", dist.Normal((2 * sign - 1) * loc, 1.0), obs=y)


def test_discrete_sites_are_summed_out() -> None:
    y = torch.tensor([-2.0, 0.3, 1.7, 2.2])
    draws = {"loc": torch.randn(5), "odds": torch.rand(5)}
    found, expected = (
        evaluate(lambda y, s=s: pair(y, summed=s), (y,), draws) for s in (False, True)
    )
    torch.testing.assert_close(found.log_joint, expected.log_joint)
    torch.testing.assert_close(found.log_likelihood["y"], expected.log_likelihood["y"])
    torch.testing.assert_close(found.deterministic, {"double": 2 * draws["loc"]})


def test_sees_which_sites_are_summed_out() -> None:
    found = inspect(lambda y: pair(y, summed=False), torch.zeros(4))
    assert found.enumerated == ("sign",)
    assert list(found.latent) == ["loc", "odds"]
    assert list(found.deterministic) == ["double"]  # `place` moves with the sign
    assert found.num_terms == 8


def chain(y: Tensor) -> None:
    stay = pyro.sample("stay", dist.Beta(torch.tensor(2.0), 2.0))
    state = torch.tensor(0.0)
    for n in pyro.markov(range(len(y))):
        state = pyro.sample(f"z{n}", dist.Bernoulli(torch.where(state > 0, stay, 1 - stay)))
        pyro.sample(f"y{n}", dist.Normal(state, 1.0), obs=y[n])


def test_what_a_hidden_chain_ties_together_has_no_pointwise_likelihood() -> None:
    y, stay = torch.tensor([0.3, -0.5, 1.2]), torch.tensor([0.2, 0.7])
    found = evaluate(chain, (y,), {"stay": stay})
    assert not found.log_likelihood
    forward = []
    for s in stay:  # the forward algorithm, by hand
        move = torch.stack([torch.stack([s, 1 - s]), torch.stack([1 - s, s])])
        likely = dist.Normal(torch.tensor([0.0, 1.0]), 1.0).log_prob(y.unsqueeze(1)).exp()
        alpha = torch.stack([s, 1 - s]) * likely[0]
        for n in (1, 2):
            alpha = (alpha @ move) * likely[n]
        forward.append(alpha.sum().log())
    prior = dist.Beta(torch.tensor(2.0), 2.0).log_prob(stay)
    torch.testing.assert_close(found.log_joint, prior + torch.stack(forward))


def test_a_model_with_summed_sites_runs_in_a_plate() -> None:
    y, draws = torch.tensor([-2.0, 0.3]), {"loc": torch.randn(3), "odds": torch.rand(3)}

    def model(y: Tensor) -> None:
        pair(y, summed=False)

    assert runs_in_plate(model, (y,), inspect(model, y), draws)


def test_refuses_a_model_with_nothing_to_infer() -> None:
    with pytest.raises(ValueError, match="must have a continuous latent site to infer, got none"):
        inspect(lambda: pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0)))
    with pytest.raises(ValueError, match=r"to infer, got only the discrete \['z'\]"):
        inspect(lambda: pyro.sample("z", dist.Bernoulli(torch.tensor(0.5))))


def test_refuses_a_model_that_sees_part_of_its_data() -> None:
    def subsampled() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("rows", 7, subsample_size=3) as index:
            pyro.sample("y", dist.Normal(loc, 1.0), obs=Y[index])

    with pytest.raises(
        ValueError, match="must see all of its data, got a subsample in plate 'rows'"
    ):
        inspect(subsampled)


def test_an_error_in_a_model_reaches_its_owner() -> None:
    def broken(y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
        if loc == 7.0:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        evaluate(broken, (Y,), {"loc": torch.tensor([7.0, 7.0])})


def test_a_block_sees_the_caller_s_parameters_and_leaves_none() -> None:
    store = pyro.get_param_store()
    mine = pyro.param("mine", torch.tensor(3.0))
    before = torch.get_rng_state()
    with untouched(5) as seed:
        assert seed == 5
        assert pyro.param("mine") is mine
        pyro.param("new", torch.rand(3))
    assert list(store.keys()) == ["mine"]
    assert pyro.param("mine") is mine
    torch.testing.assert_close(torch.get_rng_state(), before)
    pyro.clear_param_store()


def test_refuses_a_support_that_depends_on_another_site() -> None:
    def nested(y: Tensor) -> None:
        low = pyro.sample("low", dist.Uniform(torch.tensor(0.0), 1.0))
        high = pyro.sample("high", dist.Uniform(low, 2.0))
        pyro.sample("y", dist.Normal(high, 0.1), obs=y)

    with pytest.raises(ValueError, match="does not depend on others' values, got 'high'"):
        inspect(nested, torch.tensor(0.3))

    def fixed(y: Tensor) -> None:
        high = pyro.sample("high", dist.Uniform(y.min(), torch.tensor(2.0)))
        pyro.sample("y", dist.Normal(high, 0.1), obs=y)

    assert list(inspect(fixed, torch.tensor(0.3)).latent) == ["high"]


def test_discrete_sites_are_summed_in_one_precision() -> None:
    """Data from NumPy in an ordinary session: Pyro itself would speak of scalar types."""

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2, dtype=torch.float32)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            loc = torch.tensor([0.0, 5.0], dtype=x.dtype)[z]
            pyro.sample("x", dist.Normal(loc, torch.ones_like(loc)), obs=x)

    with pytest.raises(ValueError, match=r"share a precision, got .*'z': 'torch.float32', "):
        inspect(model, torch.zeros(3, dtype=torch.float64))
    assert inspect(model, torch.zeros(3, dtype=torch.float32)).enumerated == ("z",)


def test_ways_are_compared_whatever_their_precision() -> None:
    found = torch.tensor([1.0, 2.0], dtype=torch.float32)
    assert says_the_same(lambda: found, found.double())
    assert not says_the_same(lambda: found + 1, found.double())
