import itertools
import time

import pytest
import torch
from torch import Tensor

from pplvae import infer
from pplvae.infer import Posterior
from pplvae.mixtures import GaussianMixture
from pplvae.mixtures.relabel import num_numberings, relabel

CENTERS = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 400.0]], dtype=torch.float64)
SPREAD = torch.tensor([1.0, 100.0], dtype=torch.float64)


def numbered(chains: int = 2, size: int = 400, noise: float = 0.2) -> dict[str, Tensor]:
    """Draws of a mixture of three, all in one numbering; its axes have unlike units."""
    shape = (chains, size)
    scales = SPREAD * (1 + 0.05 * torch.randn(*shape, 3, 2)).abs()
    return {
        "weights": torch.distributions.Dirichlet(torch.tensor([50.0, 30.0, 20.0])).sample(shape),
        "locs": CENTERS + noise * SPREAD * torch.randn(*shape, 3, 2),
        "scales": scales,
        "scale_trils": torch.diag_embed(scales),
    }


def shuffled(draws: dict[str, Tensor], orders: Tensor) -> dict[str, Tensor]:
    """Renumber each draw, one at a time; orders have shape (C, S, K)."""
    found = {name: value.clone() for name, value in draws.items()}
    for place in itertools.product(*map(range, orders.shape[:2])):
        for name in draws:
            found[name][place] = draws[name][place][orders[place]]
    return found


def random_orders(chains: int, size: int, components: int = 3) -> Tensor:
    return torch.rand(chains, size, components).argsort(dim=-1)


def mean_mixture(draws: dict[str, Tensor]) -> GaussianMixture:
    means = {name: value.mean(dim=(0, 1)) for name, value in draws.items()}
    return GaussianMixture(means["weights"], means["locs"], means["scale_trils"])


def test_finds_the_numbering_that_was_lost() -> None:
    draws = numbered()
    mixed = Posterior(shuffled(draws, random_orders(2, 400)))
    found = relabel(mixed, mean_mixture(draws))
    for name, value in draws.items():
        assert torch.equal(found.draws[name], value), name
    assert found.diagnostics["label_modes"] == 6, "all of 3! numberings are met"


def test_without_a_reference_one_numbering_holds_for_all_draws() -> None:
    draws = numbered()
    found = relabel(Posterior(shuffled(draws, random_orders(2, 400))))
    orders = [list(order) for order in itertools.permutations(range(3))]
    assert any(torch.equal(found.draws["locs"], draws["locs"][:, :, order]) for order in orders)
    assert num_numberings(found) == 1


def test_r_hat_and_ess_mean_something_again() -> None:
    """Two chains that number the components in two ways, as NUTS does."""
    orders = torch.tensor([[0, 1, 2], [2, 0, 1]])[:, None].expand(2, 400, 3)
    mixed = Posterior(shuffled(numbered(), orders))
    found = relabel(mixed)
    assert mixed.summary()["r_hat"].dropna().max() > 1.5
    after = found.summary().loc[["locs[0, 0]", "weights[1]", "scales[2, 1]"]]
    assert (after["r_hat"] < 1.02).all()
    assert (after["ess_bulk"] > 400).all()
    assert found.diagnostics["label_modes"] == 2


def test_numbers_as_the_reference_does() -> None:
    draws = numbered()
    order = [1, 2, 0]
    target = mean_mixture({name: value[:, :, order] for name, value in draws.items()})
    found = relabel(Posterior(draws), target)
    torch.testing.assert_close(found.draws["locs"].mean(dim=(0, 1)), target.locs)
    assert found.diagnostics["label_modes"] == 1


def test_a_start_numbers_them_and_is_left_behind() -> None:
    """Off by far more than the draws are, it says which is which, and no more."""
    draws = numbered()
    near = mean_mixture({name: value[:, :, [1, 2, 0]] for name, value in draws.items()})
    off = GaussianMixture(near.weights, near.locs + 1.2 * SPREAD, near.scale_trils)
    found = relabel(Posterior(shuffled(draws, random_orders(2, 400))), start=off)
    assert torch.equal(found.draws["locs"], draws["locs"][:, :, [1, 2, 0]])
    assert found.diagnostics["label_modes"] == 6


def test_ends_where_every_draw_fits_the_mean_of_all() -> None:
    mixed = Posterior(shuffled(numbered(1, 300, noise=2.0), random_orders(1, 300)))
    found = relabel(mixed)
    again = relabel(found, mean_mixture(found.draws))
    assert again.diagnostics["label_modes"] == 1
    assert torch.equal(again.draws["locs"], found.draws["locs"])


def test_units_do_not_matter() -> None:
    """Along the second axis all is a hundred times larger; only the first tells 0 from 1."""
    draws = numbered()
    mixed = shuffled(draws, random_orders(2, 400))
    plain = {name: value for name, value in mixed.items() if name in ("weights", "locs")}
    units = torch.tensor([1.0, 1e-6])
    small = plain | {"locs": plain["locs"] * units}
    # Without components' scales the draws' own spread makes the units.
    one, two = relabel(Posterior(plain)), relabel(Posterior(small))
    torch.testing.assert_close(one.draws["locs"] * units, two.draws["locs"])


def test_matches_as_the_best_of_all_permutations_would() -> None:
    """The second route: try all K! on draws whose components overlap."""
    draws = numbered(1, 60, noise=2.0)
    whole = mean_mixture(numbered())
    # Not where the draws are: their own mean would match otherwise.
    elsewhere = whole.locs + 3.0 * SPREAD * torch.randn(3, 2)
    target = GaussianMixture(whole.weights, elsewhere, whole.scale_trils)
    found = relabel(Posterior(draws), target).draws["locs"][0]
    scale = draws["scale_trils"].square().sum(dim=-1).mean(dim=(0, 1, 2)).sqrt()
    for locs, best in zip(draws["locs"][0], found, strict=True):
        costs = {
            order: ((locs[list(order)] - target.locs) / scale).square().sum().item()
            for order in itertools.permutations(range(3))
        }
        assert torch.equal(best, locs[list(min(costs, key=lambda o: costs[o]))])


def test_keeps_all_else() -> None:
    draws = shuffled(numbered(1, 50), random_orders(1, 50))
    joint = torch.randn(1, 50)
    before = Posterior(
        draws | {"loc": torch.randn(1, 50, 3)}, log_evidence=-3.0, method="NUTS",
        cost=infer.Cost(1.0, 2.0, 3), log_likelihood={"x": torch.randn(1, 50, 7)},
        sample_stats={"lp": joint}, diagnostics={"pareto_k": 0.3},
    )  # fmt: skip
    copies = {name: value.clone() for name, value in before.draws.items()}
    found = relabel(before)
    assert torch.equal(found.draws["loc"], before.draws["loc"]), "three numbers, no components"
    assert found.log_likelihood is before.log_likelihood
    assert (found.log_evidence, found.method, found.cost) == (-3.0, "NUTS", before.cost)
    assert found.diagnostics["pareto_k"] == 0.3
    assert all(torch.equal(before.draws[name], copies[name]) for name in copies)
    best = int(joint.argmax())
    assert torch.equal(found.draws["locs"][0, best], draws["locs"][0, best]), "it numbers the rest"


def test_a_covariance_shared_by_all_has_no_components() -> None:
    """Tied: shape (D, D), even where D = K."""
    draws = numbered(1, 40)
    locs = torch.cat([draws["locs"], torch.randn(1, 40, 3, 1)], dim=-1)
    tied = torch.eye(3).expand(1, 40, 3, 3) * torch.tensor([1.0, 2.0, 3.0])
    orders = random_orders(1, 40)
    mixed = shuffled({"weights": draws["weights"], "locs": locs}, orders)
    found = relabel(Posterior(mixed | {"scale_trils": tied}))
    assert torch.equal(found.draws["scale_trils"], tied)
    assert num_numberings(found) == 1


def test_further_sites_move_along() -> None:
    draws = numbered(1, 100)
    orders = random_orders(1, 100)
    rates = torch.tensor([1.0, 2.0, 3.0]).expand(1, 100, 3)
    mixed = Posterior(shuffled(draws | {"rates": rates}, orders))
    found = relabel(mixed, mean_mixture(draws), sites=["rates"])
    assert torch.equal(found.draws["rates"], rates)
    assert torch.equal(relabel(mixed).draws["rates"], mixed.draws["rates"])


@pytest.mark.parametrize(("components", "size"), [(3, 1600), (20, 1600)])
def test_is_quick(components: int, size: int) -> None:
    locs = 10.0 * torch.arange(components)[:, None] + torch.randn(1, size, components, 1)
    weights = torch.full((1, size, components), 1 / components)
    mixed = shuffled({"weights": weights, "locs": locs}, random_orders(1, size, components))
    start = time.process_time()
    found = relabel(Posterior(mixed))
    # 0.03 and 0.2 CPU-s when measured
    assert time.process_time() - start < (1.0 if components == 3 else 4.0)
    assert num_numberings(found) == 1


def test_one_component_has_one_numbering() -> None:
    single = {"weights": torch.ones(1, 30, 1), "locs": torch.randn(1, 30, 1, 2)}
    found = relabel(Posterior(single))
    assert torch.equal(found.draws["locs"], single["locs"])
    assert found.diagnostics["label_modes"] == 1


def test_refuses_what_is_no_mixture() -> None:
    draws = numbered(1, 20)
    rule = r"posterior must have draws of weights \(C, S, K\) and locs \(C, S, K, D\)"
    with pytest.raises(ValueError, match=rf"{rule}, got \['dimension'\]"):
        relabel(Posterior({"dimension": torch.ones(1, 20)}))
    with pytest.raises(ValueError, match=rule):
        relabel(Posterior({"weights": draws["weights"], "locs": draws["locs"][:, :, :2]}))
    pair = GaussianMixture(torch.ones(2) / 2, CENTERS[:2], torch.eye(2).expand(2, 2, 2))
    wanted = "reference must have 3 components in 2 dimensions, got GaussianMixture\\(2 comp"
    with pytest.raises(ValueError, match=wanted):
        relabel(Posterior(draws), pair)
    with pytest.raises(ValueError, match="sites must have 3 components, got rates with no such"):
        relabel(Posterior(draws), sites=["rates"])
