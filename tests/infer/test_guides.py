"""What SVI does with guides that are not its own: modules, auxiliary sites, point masses."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.nn import PyroModule
from pyro.optim import Adam  # pyright: ignore
from torch import Tensor, nn

from pplvae import compare
from pplvae.infer import Posterior, exact, svi
from pplvae.infer.guides import has_density
from pplvae.infer.program import inspect
from pplvae.intrinsic_dimension import twonn

RATIOS = torch.linspace(0.01, 0.99, 60, dtype=torch.float64).neg().add(1).pow(-1 / 3)


def quiet(guide: Any, model: Callable[..., None] = twonn.model, **options: Any) -> Posterior:
    return svi.fit(
        model, RATIOS, guide=guide, **{"seed": 0, "progress": False, "num_draws": 500} | options
    )


def network_guide(network: nn.Module) -> Callable[[Tensor], None]:
    def guide(ratios: Tensor) -> None:
        pyro.module("network", network)
        loc, log_scale = network(torch.ones(1, 1).to(ratios)).flatten()
        pyro.sample("dimension", dist.LogNormal(loc, log_scale.exp()))

    return guide


@pytest.fixture(autouse=True)
def store() -> Any:
    with pyro.get_param_store().scope():
        yield pyro.get_param_store()


def moved(network: nn.Module, found: Posterior, before: Tensor) -> bool:
    """Whether the caller's network was trained, and the draws come from it."""
    loc = network(torch.ones(1, 1)).flatten()[0].item()
    drawn = found.draws["dimension"].log().mean().item()
    return abs(loc - before[0].item()) > 0.1 and loc == pytest.approx(drawn, abs=0.2)


@pytest.mark.parametrize("before", ["clean store", "bare SVI", "another of its name"])
def test_modules_are_trained_in_place_whatever_the_store_holds(before: str, store: Any) -> None:
    network = nn.Linear(1, 2)
    nn.init.zeros_(network.weight)
    network.bias.data = torch.tensor([0.7, -1.5])
    guide = network_guide(network)
    if before == "bare SVI":
        SVI(twonn.model, guide, Adam({"lr": 1e-3}), Trace_ELBO()).step(RATIOS)
    elif before == "another of its name":
        pyro.module("network", nn.Linear(1, 2))
    start = network(torch.ones(1, 1)).detach().flatten()
    entries = dict(store.named_parameters())
    found = quiet(guide, num_steps=150)
    assert moved(network, found, start)
    # Near the posterior the weights' sd is about 0.1, which 500 draws average to 0.005.
    assert found.log_evidence == pytest.approx(twonn.posterior(RATIOS).log_evidence, abs=0.05)
    after = dict(store.named_parameters())
    assert after.keys() == entries.keys()
    assert all(after[name] is entries[name] for name in entries)


@pytest.mark.parametrize("before", ["clean store", "bare SVI"])
def test_pyro_s_own_modules_are_trained_in_place_too(before: str) -> None:
    class Guide(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.numbers = nn.Parameter(torch.tensor([0.0, -2.0], dtype=torch.float64))

        def forward(self, ratios: Tensor) -> None:
            pyro.sample("dimension", dist.LogNormal(self.numbers[0], self.numbers[1].exp()))

    guide = Guide()
    if before == "bare SVI":
        SVI(twonn.model, guide, Adam({"lr": 1e-3}), Trace_ELBO()).step(RATIOS)
    numbers = guide.numbers
    found = quiet(guide, num_steps=100)
    assert guide.numbers is numbers
    assert numbers[0].item() == pytest.approx(
        found.draws["dimension"].log().mean().item(), abs=0.1
    )


def test_the_model_s_modules_stay_as_they_are() -> None:
    shift = nn.Linear(1, 1).double()

    def model(ratios: Tensor) -> None:
        pyro.module("shift", shift)
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        with pyro.plate("data", len(ratios)):
            pyro.sample("x", dist.Normal(loc + shift.bias, 1.0), obs=ratios)

    before = shift.bias.item()
    quiet("mean_field", model, num_steps=5)
    assert shift.bias.item() == before


def test_refuses_to_train_what_the_guide_does_not_compute_with() -> None:
    network = nn.Linear(1, 2)

    def guide(ratios: Tensor) -> None:
        pyro.module("network", network)
        pyro.sample("dimension", dist.LogNormal(torch.tensor(1.0), 0.1))

    with pytest.raises(
        ValueError, match="got no gradient for any of its 2: what it gives to pyro"
    ):
        quiet(guide, num_steps=2)

    def model(ratios: Tensor) -> None:
        # Now the loss has a gradient, though none for the guide.
        with pyro.poutine.scale(scale=pyro.param("scale", torch.tensor(1.0))):  # pyright: ignore
            twonn.model(ratios)

    with pytest.raises(ValueError, match="got no gradient for any of its 2"):
        quiet(guide, model, num_steps=2)


def three_kinds(ratios: Tensor) -> None:
    pyro.sample("a", dist.Gamma(2.0, torch.ones(2)).to_event(1))
    pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    s = pyro.sample("s", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(ratios)):
        pyro.sample("x", dist.Normal(s, 1.0), obs=ratios)


def mixed(model: Callable[..., None]) -> autoguide.AutoGuide:
    parts = autoguide.AutoGuideList(model)
    parts.append(autoguide.AutoNormal(poutine.block(model, hide=["p"])))
    parts.append(autoguide.AutoDelta(poutine.block(model, expose=["p"])))
    return parts


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (autoguide.AutoNormal, True),
        (autoguide.AutoMultivariateNormal, True),
        (autoguide.AutoIAFNormal, True),
        (autoguide.AutoStructured, True),
        (autoguide.AutoNormalMessenger, True),
        (autoguide.AutoDelta, False),
        (autoguide.AutoLaplaceApproximation, False),
        (mixed, False),
    ],
)
def test_knows_which_of_pyro_s_guides_have_a_density(make: Any, expected: bool) -> None:
    guide = make(three_kinds)
    guide(RATIOS)
    assert has_density(guide, (RATIOS,), inspect(three_kinds, RATIOS)) is expected


@pytest.mark.parametrize("make", [autoguide.AutoNormal, autoguide.AutoNormalMessenger])
def test_only_latent_sites_count_in_the_density(make: Any) -> None:
    found = quiet(make(twonn.model), num_steps=300)
    # The observed sites' density would make 60 ratios weigh tens of nats less.
    evidence = twonn.posterior(RATIOS).log_evidence
    assert found.log_evidence == pytest.approx(evidence, abs=0.2)
    assert not found.sample_stats["log_weight"].requires_grad


def with_auxiliary(ratios: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(1.0))
    hidden = pyro.sample("hidden", dist.Normal(loc, 0.2), infer={"is_auxiliary": True})
    pyro.sample("dimension", dist.LogNormal(hidden, 0.07))


def point(ratios: Tensor) -> None:
    pyro.sample("dimension", dist.Delta(pyro.param("at", torch.tensor(2.0))))


@pytest.mark.parametrize("guide", [with_auxiliary, point, autoguide.AutoDelta(twonn.model)])
def test_a_guide_without_a_density_of_the_sites_gives_no_evidence(guide: Any) -> None:
    found = quiet(guide, num_steps=3)
    assert found.log_evidence is None
    assert "log_weight" not in found.sample_stats
    table = compare.methods(
        {"exact": exact.fit(twonn.model, RATIOS, seed=0), "own": found}
    ).table()
    assert table["log_evidence"].isna().tolist() == [False, True]


def test_a_guide_that_draws_by_itself_and_tells_the_density_has_one() -> None:
    def guide(ratios: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(1.1))
        law = dist.LogNormal(loc, 0.13)
        value = law.rsample()
        pyro.sample("dimension", dist.Delta(value, log_density=law.log_prob(value)))  # pyright: ignore

    assert has_density(guide, (RATIOS,), inspect(twonn.model, RATIOS))


def test_weights_carry_no_graph() -> None:
    def guide(ratios: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(1.0))
        pyro.sample("dimension", dist.LogNormal(loc, 0.13))

    assert not quiet(guide, num_steps=2).sample_stats["log_weight"].requires_grad
