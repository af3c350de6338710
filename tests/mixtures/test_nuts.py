"""Three routes to one posterior: Gibbs, NUTS and a normal guide, under one conjugate prior."""

import pytest
import torch
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, gibbs, nuts, svi
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.mixtures.prior import NormalInverseWishart

TRUTH = GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]).double(),
    torch.tensor([[0.0, 0.0], [3.0, 2.0], [-2.0, 3.0]]).double(),
    torch.tensor([[[1.0, 0], [0.5, 0.8]], [[0.7, 0], [-0.3, 0.9]], [[1.3, 0], [0, 0.5]]]).double(),
)


def values(found: MixturePosterior) -> Tensor:
    """Draws of every number of weights, locs and factors, shape (C, S, 3 + 6 + 9)."""
    names = "weights", "locs", "scale_trils"
    flat = torch.cat([found.draws[name].flatten(2) for name in names], dim=2)
    return flat[..., (flat.flatten(0, 1) != 0).any(dim=0)]


def moments(found: MixturePosterior) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means and sds with their Monte Carlo errors, by ESS of the draws and of their squares."""
    import arviz as az

    draws = values(found)
    mean, sd = draws.mean(dim=(0, 1)), draws.flatten(0, 1).std(dim=0)
    columns = draws.permute(2, 0, 1).numpy()
    by_mean = [float(az.mcse(column, method="mean")) for column in columns]
    by_sd = [float(az.mcse(column, method="sd")) for column in columns]
    return mean, sd, torch.tensor(by_mean), torch.tensor(by_sd)


@pytest.mark.slow
def test_three_routes_to_one_posterior() -> None:
    x, test = TRUTH.sample(1000, seed=0).x, TRUTH.sample(300, seed=1).x
    prior = NormalInverseWishart.default(x, 3)
    best = em.fit(x, 3, seed=0, progress=False).mixture
    by_gibbs = gibbs.fit(x, 3, prior=prior, start=best, permuted_starts=True, seed=0)
    by_nuts = nuts.fit(
        x,
        3,
        prior=prior,
        start=best,
        permuted_starts=True,
        num_draws=400,
        warmup_steps=200,
        seed=0,
    )
    by_svi = svi.fit(
        x, 3, prior=prior, start=best, guide="full_rank", num_particles=10, num_steps=1000,
        num_draws=4000, seed=0,
    )  # fmt: skip
    for found in (by_gibbs, by_nuts):
        assert found.label_modes > 1, "the chains begin in several numberings"
        assert found.summary()["r_hat"].dropna().max() < 1.02
    (mean, sd, *errors), (other, wide, *more) = moments(by_gibbs), moments(by_nuts)
    # Of 18 means and 18 sds the farthest is off by more than 4.2 errors in one of 1000 runs.
    assert ((mean - other) / torch.hypot(errors[0], more[0])).abs().max() < 4.2
    assert ((sd - wide) / torch.hypot(errors[1], more[1])).abs().max() < 4.2
    # The posterior is not quite normal: 0.08 sds and 4 % when measured.
    center, spread, *_ = moments(by_svi)
    assert ((mean - center) / sd).abs().max() < 0.2
    torch.testing.assert_close(spread, sd, rtol=0.1, atol=0.0)
    for found in (by_gibbs, by_nuts, by_svi):
        assert abs(found.log_prob(test).sum() - best.log_prob(test).sum()) < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "covariance",
    ["diag", *(pytest.param(name, marks=pytest.mark.study) for name in ("tied", "spherical"))],
)
def test_gibbs_and_nuts_agree_on_the_simpler_forms(covariance: str) -> None:
    x = TRUTH.sample(300, seed=0).x
    prior = NormalInverseWishart.default(x, 3)
    best = em.fit(x, 3, covariance=covariance, seed=0, progress=False).mixture
    options = {"covariance": covariance, "prior": prior, "start": best, "seed": 0,
               "progress": False}  # fmt: skip
    by_gibbs = gibbs.fit(x, 3, num_draws=4000, **options)
    by_nuts = nuts.fit(x, 3, num_draws=300, warmup_steps=150, num_chains=2, **options)
    (mean, sd, *errors), (other, wide, *more) = moments(by_gibbs), moments(by_nuts)
    # Of at most 18 means and 18 sds, three times: beyond 4.5 errors in one of 1000 runs.
    assert ((mean - other) / torch.hypot(errors[0], more[0])).abs().max() < 4.5
    assert ((sd - wide) / torch.hypot(errors[1], more[1])).abs().max() < 4.5


@pytest.fixture
def x() -> Tensor:
    """Two clusters on a line, far apart, of 80 and 40 points."""
    return torch.cat([torch.randn(80, 1), 0.5 * torch.randn(40, 1) + 6.0])


@pytest.mark.parametrize(("covariance", "is_conjugate"), [("full", False), ("tied", True)])
def test_finds_the_clusters_from_any_numbering(
    x: Tensor, covariance: str, *, is_conjugate: bool
) -> None:
    prior = NormalInverseWishart.default(x, 2) if is_conjugate else None
    start = em.fit(x, 2, num_starts=1, seed=0, progress=False).mixture
    found = nuts.fit(
        x, 2, covariance=covariance, prior=prior, num_draws=8, warmup_steps=8, num_chains=2,
        permuted_starts=True, max_tree_depth=3, start=start, seed=1, progress=False,
    )  # fmt: skip
    assert found.label_modes == 2
    big = int(found.mixture.weights.argmax())
    # Means have errors of 1 / √80 and 0.5 / √40, and 16 draws add little: 5 of them
    assert (found.mixture.locs[big].abs() < 0.6).all()
    assert ((found.mixture.locs[1 - big] - 6.0).abs() < 0.45).all()
    assert found.log_likelihood["x"].shape == (2, 8, 120)
    assert found.sample_stats["lp"].shape == (2, 8)
    assert found.method == "NUTS, 2 × (8 + 8)"


def test_the_same_seed_gives_the_same_draws_and_touches_nothing(x: Tensor) -> None:
    before = torch.get_rng_state()
    one, two = (
        nuts.fit(
            x,
            2,
            num_draws=4,
            warmup_steps=2,
            num_chains=2,
            max_tree_depth=3,
            seed=4,
            progress=False,
        )
        for _ in range(2)
    )
    assert torch.equal(one.draws["locs"], two.draws["locs"])
    assert not torch.equal(one.draws["locs"][0], one.draws["locs"][1])
    assert torch.equal(before, torch.get_rng_state())


def test_refuses_no_chains(x: Tensor) -> None:
    with pytest.raises(ValueError, match="num_chains must be at least 1, got 0"):
        nuts.fit(x, 2, num_chains=0, progress=False)
