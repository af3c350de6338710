import math
from collections.abc import Callable
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer.factors import Factors, factors
from pplvae.infer.program import inspect

Z = tuple[int, ...]


def chain(y: Tensor) -> None:
    """A hidden Markov chain of three states with Gaussian noise."""
    matrix = pyro.sample("matrix", dist.Dirichlet(torch.ones(3, 3)).to_event(1))
    locs = pyro.sample("locs", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    z = 0
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(matrix[z]))
        pyro.sample(f"y{t}", dist.Normal(locs[z], 1.0), obs=y[t])


def layers(y: Tensor) -> None:
    """A switch for all points above a label for each."""
    locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    switch = pyro.sample("switch", dist.Bernoulli(0.3))
    with pyro.plate("points", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.8])))
        pyro.sample("y", dist.Normal(locs[z] + switch, 1.0), obs=y)


Y, LOCS = torch.tensor([-1.0, 0.5, 2.0, 0.1]).double(), torch.tensor([-1.0, 0.0, 2.0]).double()
MATRIX = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.2, 0.1, 0.7]]).double()


def of_chain() -> Factors:
    return factors(chain, (Y,), inspect(chain, Y), {"matrix": MATRIX, "locs": LOCS})


def of_layers() -> Factors:
    return factors(layers, (Y,), inspect(layers, Y), {"locs": LOCS[:2]})


def chain_by_hand() -> dict[Z, float]:
    """log p(z, y, θ) of all 3⁴ paths."""
    prior = dist.Dirichlet(torch.ones(3, 3)).log_prob(MATRIX).sum()
    prior = prior + dist.Normal(0.0, 2.0).log_prob(LOCS).sum()
    return {
        z: (
            prior
            + sum(MATRIX[a, b].log() for a, b in zip((0, *z), z, strict=False))
            + sum(dist.Normal(LOCS[k], 1.0).log_prob(y) for k, y in zip(z, Y, strict=True))
        ).item()
        for z in product(range(3), repeat=4)
    }


def layers_by_hand() -> dict[Z, float]:
    """log p(switch, z, y, θ) of all 2 · 2⁴ values."""
    prior = dist.Normal(0.0, 2.0).log_prob(LOCS[:2]).sum()
    return {
        (s, *z): (
            prior
            + math.log((0.7, 0.3)[s])
            + sum(math.log((0.2, 0.8)[k]) for k in z)
            + sum(dist.Normal(LOCS[k] + s, 1.0).log_prob(y) for k, y in zip(z, Y, strict=True))
        ).item()
        for s, *z in product(range(2), repeat=5)
    }


def shares(joint: dict[Z, float], sites: list[int], num_values: int) -> Tensor:
    """The posterior of the places `sites` of z, by summation over all z."""
    logs = torch.tensor(list(joint.values()))
    found = torch.zeros([num_values] * len(sites))
    for z, probability in zip(joint, logs.softmax(dim=0), strict=True):
        found[tuple(z[i] for i in sites)] += probability
    return found


@pytest.mark.parametrize(
    ("make", "by_hand"), [(of_chain, chain_by_hand), (of_layers, layers_by_hand)]
)
def test_sums_over_all_values(
    make: Callable[[], Factors], by_hand: Callable[[], dict[Z, float]]
) -> None:
    expected = torch.tensor(list(by_hand().values())).logsumexp(dim=0)
    torch.testing.assert_close(make().log_sum(), expected)


def test_slopes_are_the_posterior_of_a_chain() -> None:
    found, joint = of_chain(), chain_by_hand()
    marginals = found.marginals()
    torch.testing.assert_close(marginals["z0"], shares(joint, [0], 3))
    for t in (1, 2, 3):
        pair = marginals[f"z{t}"]
        if found.axes[f"z{t}"][0] == found.symbols[f"z{t}"]:
            pair = pair.mT
        torch.testing.assert_close(pair, shares(joint, [t - 1, t], 3))
        torch.testing.assert_close(marginals[f"y{t}"], shares(joint, [t], 3))


def test_slopes_are_the_posterior_of_a_switch_and_labels() -> None:
    marginals, joint = of_layers().marginals(), layers_by_hand()
    torch.testing.assert_close(marginals["switch"], shares(joint, [0], 2))
    expected = torch.stack([shares(joint, [n], 2) for n in range(1, 5)], dim=1)
    torch.testing.assert_close(marginals["z"], expected)


@pytest.mark.parametrize("make", [of_chain, of_layers])
def test_shares_of_many_draws_are_the_posterior(make: Callable[[], Factors]) -> None:
    found = make()
    drawn, marginals = found.shares(found.uniforms(20_000)), found.marginals()
    # A share of S draws has a standard error of at most ½ / √S; four of them.
    for name in drawn:
        torch.testing.assert_close(drawn[name], marginals[name], rtol=0.0, atol=2 / 20_000**0.5)


def test_one_draw_is_one_value_of_each_site() -> None:
    found = of_chain()
    for _ in range(20):
        drawn = found.shares(found.uniforms(1))
        for table in drawn.values():
            torch.testing.assert_close(table, table.round())
        # The tables of pairs and the tables of single sites tell of the same path.
        drawn = {name: table.round() for name, table in drawn.items()}
        path = [int(drawn[f"y{t}"].argmax()) for t in range(4)]
        assert all(drawn[f"z{t}"].sum() == 1 for t in range(4))
        for t in (1, 2, 3):
            both = {path[t - 1], path[t]}
            assert set(drawn[f"z{t}"].nonzero().flatten().tolist()) == both


def test_impossible_values_have_no_expectation() -> None:
    found = of_layers()
    q = found.marginals()
    tables = found.tables | {"z": found.tables["z"].clone()}
    tables["z"][0], q["z"][0] = -math.inf, 0.0
    changed = Factors(tables, found.axes, found.plates, found.symbols)
    assert changed.expectation(q).isfinite()
    assert Factors(tables, found.axes, found.plates, found.symbols).log_sum().isfinite()
