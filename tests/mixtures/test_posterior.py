from pathlib import Path

import pytest
import torch
from torch import Tensor

from pplvae import infer
from pplvae.infer import Posterior
from pplvae.mixtures import GaussianMixture
from pplvae.mixtures.posterior import MixturePosterior, joined, scattered

CENTERS = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]], dtype=torch.float64)


def draws(chains: int = 2, size: int = 50) -> dict[str, Tensor]:
    """Of a mixture of three, numbered at random in each draw."""
    shape = (chains, size)
    order = torch.rand(*shape, 3).argsort(dim=-1)
    locs = CENTERS + 0.3 * torch.randn(*shape, 3, 2)
    trils = torch.diag_embed(0.5 + 0.1 * torch.rand(*shape, 3, 2))
    weights = torch.distributions.Dirichlet(torch.tensor([50.0, 30.0, 20.0])).sample(shape)
    return {
        "weights": weights.gather(2, order),
        "locs": locs.gather(2, order[..., None].expand(*shape, 3, 2)),
        "scale_trils": trils.gather(2, order[..., None, None].expand(*shape, 3, 2, 2)),
    }


def start() -> GaussianMixture:
    return GaussianMixture(torch.ones(3) / 3, CENTERS[[2, 0, 1]], torch.eye(2).repeat(3, 1, 1))


def test_the_start_numbers_the_components() -> None:
    found = MixturePosterior.of(Posterior(draws()), start())
    assert found.label_modes == 6
    # A mean of 100 draws of sd 0.3: 5 standard errors
    torch.testing.assert_close(found.mixture.locs, CENTERS[[2, 0, 1]], rtol=0.0, atol=0.15)
    assert found.summary()["r_hat"].dropna().max() < 1.1


def test_its_mixture_has_the_mean_covariances() -> None:
    found = MixturePosterior.of(Posterior(draws()), start())
    trils = found.draws["scale_trils"].flatten(0, 1)
    torch.testing.assert_close(found.mixture.covs, (trils @ trils.mT).mean(dim=0))


def test_the_predictive_density_is_the_mean_of_the_draws() -> None:
    found, x = MixturePosterior.of(Posterior(draws()), start()), 4.0 * torch.randn(20, 2)
    each = torch.stack(
        [
            GaussianMixture(*(found.draws[name][c, s] for name in found.draws)).log_prob(x)
            for c in range(2)
            for s in range(50)
        ]
    )
    torch.testing.assert_close(found.log_prob_draws(x), each)
    torch.testing.assert_close(found.log_prob(x).exp(), each.exp().mean(dim=0))
    told = found.density(x, prob=0.8)
    torch.testing.assert_close(told.density, each.exp().mean(dim=0))
    inside = ((each.exp() >= told.low) & (each.exp() <= told.high)).double().mean(dim=0)
    assert ((inside - 0.8).abs() < 0.02).all()


def test_a_marginal_has_the_marginals_of_its_draws() -> None:
    whole = draws()
    tilt = torch.tensor([[1.0, 0.0], [0.7, 1.0]])
    found = MixturePosterior.of(Posterior(whole | {"scale_trils": tilt @ whole["scale_trils"]}))
    x, side = torch.linspace(-1, 9, 7), found.marginal([1])
    expected = [
        GaussianMixture(*(found.draws[name][c, s] for name in found.draws))
        .marginal([1])
        .log_prob(x)
        for c in range(2)
        for s in range(50)
    ]
    torch.testing.assert_close(side.log_prob_draws(x), torch.stack(expected))
    assert side.label_modes == found.label_modes
    turned = found.marginal([1, 0])
    torch.testing.assert_close(turned.mixture.locs, found.mixture.locs[:, [1, 0]])
    begun = MixturePosterior.of(Posterior(whole), start()).marginal([1]).start
    assert begun is not None
    torch.testing.assert_close(begun.locs, start().locs[:, 1:])
    with pytest.raises(ValueError, match="dims must name some coordinates, each once"):
        found.marginal([0, 0])


def test_few_draws_and_small_blocks_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found, x = MixturePosterior.of(Posterior(draws()), start()), torch.randn(20, 2)
    whole = found.log_prob(x), found.log_prob_draws(x, num_draws=7)
    assert whole[1].shape == (7, 20)
    monkeypatch.setattr("pplvae.mixtures.posterior.BLOCK", 60)
    again = found.log_prob(x), found.log_prob_draws(x, num_draws=7)
    torch.testing.assert_close(again, whole)


def test_survives_a_file(tmp_path: Path) -> None:
    found = MixturePosterior.of(Posterior(draws(), method="NUTS"), start())
    found.save(tmp_path / "fit.nc")
    again = MixturePosterior.load(tmp_path / "fit.nc")
    assert again.label_modes == found.label_modes == 6
    torch.testing.assert_close(again.mixture.locs, found.mixture.locs)
    assert again.method == "NUTS"
    back = MixturePosterior.of(infer.load(tmp_path / "fit.nc"))
    torch.testing.assert_close(back.draws, found.draws)


def test_it_says_what_it_is() -> None:
    text = repr(MixturePosterior.of(Posterior(draws(), method="NUTS, 2 × (0 + 50)"), start()))
    assert text.startswith("MixturePosterior(NUTS, 2 × (0 + 50): 3 components in 2 dimensions, ")
    assert "6 label modes" in text


def test_chains_join_end_to_end() -> None:
    parts = [
        Posterior(
            {"locs": torch.full((1, 4), float(c))}, cost=infer.Cost(1.0, 2.0, 3),
            sample_stats={"lp": torch.full((1, 4), float(c))},
        )
        for c in range(3)
    ]  # fmt: skip
    whole = joined(parts, "three")
    assert whole.draws["locs"][:, 0].tolist() == [0, 1, 2]
    assert whole.sample_stats["lp"].shape == (3, 4)
    assert (whole.cost, whole.method) == (infer.Cost(3.0, 6.0, 9), "three")


def test_starts_scatter_by_two_standard_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    found = scattered(start(), 99, 1000, permuted=False, rng=generator)
    first = torch.stack([own.locs[0] for own in found])
    # √(1 + 99 / 3) = 5.8 points each: 2 / 5.8, whose own relative error is 1 / √(2 · 1000)
    torch.testing.assert_close(
        first.std(dim=0), torch.full((2,), 2 / 34**0.5), rtol=5 / 2000**0.5, atol=0.0
    )


def test_permuted_starts_have_all_numberings_in_turn() -> None:
    found = scattered(start(), 10**6, 4, permuted=True, rng=torch.Generator().manual_seed(0))
    nearest = [torch.cdist(own.locs, start().locs).argmin(dim=1).tolist() for own in found]
    assert nearest == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="posterior must have draws of weights"):
        MixturePosterior.of(Posterior({"dimension": torch.ones(1, 20)}))
    found = MixturePosterior.of(Posterior(draws()), start())
    with pytest.raises(ValueError, match="x must have 2 columns, got 3"):
        found.log_prob(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"prob must be in \[0, 1\], got 2"):
        found.density(torch.zeros(4, 2), prob=2)
