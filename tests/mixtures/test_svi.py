import math

import pytest
import torch
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, svi
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.mixtures.prior import NormalInverseWishart


@pytest.fixture
def x() -> Tensor:
    """Two clusters, far apart, of 200 and 100 points."""
    return torch.cat([torch.randn(200, 2), 0.5 * torch.randn(100, 2) + 6.0])


def climbed(x: Tensor) -> GaussianMixture:
    return em.fit(x, 2, num_starts=1, seed=0, progress=False).mixture


@pytest.mark.parametrize(
    ("guide", "is_conjugate"),
    [
        ("mean_field", False),
        ("full_rank", True),
        pytest.param("low_rank", False, marks=pytest.mark.slow),
        ("laplace", True),
    ],
)
def test_agrees_with_em_and_with_the_posterior_of_a_single_normal(
    x: Tensor, guide: str, *, is_conjugate: bool
) -> None:
    """Where the clusters are apart each mean's posterior is about Normal(x̄_k, Σ_k / N_k)."""
    prior = NormalInverseWishart.default(x, 2) if is_conjugate else None
    best = climbed(x)
    found = svi.fit(
        x,
        2,
        guide=guide,
        prior=prior,
        num_steps=150,
        learning_rate=0.03,
        start=best,
        seed=0,
        progress=False,
    )
    big = int(found.mixture.weights.argmax())
    assert torch.allclose(found.mixture.locs[big], best.locs[int(best.weights.argmax())], atol=0.1)
    spread = found.draws["locs"][0, :, big].std(dim=0)
    # The guide's steps are noisy: within a quarter of 1 / √200 = 0.071.
    assert torch.allclose(spread, torch.full((2,), 1 / math.sqrt(200)), rtol=0.25)
    weight = found.draws["weights"][0, :, big]
    # Dirichlet(1 + 200, 1 + 100) has mean 0.666 and sd 0.027
    assert weight.mean().item() == pytest.approx(201 / 302, abs=0.02)
    assert weight.std().item() == pytest.approx(0.027, rel=0.25)
    assert found.label_modes == 1


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_the_mode_without_a_say_of_the_prior_is_em_s(x: Tensor, covariance: str) -> None:
    """With a flat Dirichlet, hardly any point, and a scatter of next to nothing."""
    weak = NormalInverseWishart(torch.zeros(2), 1e-8 * torch.eye(2), 1e-8, 1.0 + 1e-6)
    best = em.fit(
        x, 2, covariance=covariance, seed=0, num_starts=2, jitter=0.0, progress=False
    ).mixture
    found = svi.fit(x, 2, covariance=covariance, guide="map", prior=weak, seed=0, progress=False)
    assert found.is_point
    assert found.diagnostics["converged"] == 1
    # The densities of pivots and locs are not flat: of order 1 / N_k relative to the sd.
    torch.testing.assert_close(found.mixture.locs, best.locs, rtol=0.0, atol=0.01)
    torch.testing.assert_close(found.mixture.covs, best.covs, rtol=0.0, atol=0.1)


def test_enumerated_it_finds_the_same(x: Tensor) -> None:
    start = climbed(x)
    one, two = (
        svi.fit(x, 2, guide="map", start=start, enumerate_assignments=way, seed=0, progress=False)
        for way in (False, True)
    )
    # Both stop where the slope is of the order of its rounding.
    torch.testing.assert_close(one.mixture.locs, two.mixture.locs, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(one.sample_stats["lp"], two.sample_stats["lp"])


def test_the_predictive_density_integrates_to_one(x: Tensor) -> None:
    found = svi.fit(x, 2, guide="laplace", start=climbed(x), seed=0, progress=False)
    axis = torch.linspace(-8, 12, 121)
    grid = torch.cartesian_prod(axis, axis)
    mass = found.log_prob(grid, num_draws=20).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=1e-3)


def test_starts_where_it_is_told(x: Tensor) -> None:
    start = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 0.0], [6.0, 6.0]]),
        torch.eye(2).expand(2, 2, 2).contiguous(),
    )  # fmt: skip
    before = start.locs.clone()
    found = svi.fit(x, 2, start=start, num_steps=5, num_draws=50, seed=0, progress=False)
    # Five steps of at most 0.02, and the guide's first width of 0.1
    assert torch.allclose(found.mixture.locs, start.locs, atol=0.25)
    assert torch.equal(start.locs, before), "the start must not be moved in place"
    assert found.start is start


def test_a_line_of_points_has_no_correlations() -> None:
    x = torch.cat([torch.randn(60, 1), torch.randn(60, 1) + 9.0])
    found = svi.fit(x, 2, num_steps=50, num_draws=50, start=climbed(x), seed=0, progress=False)
    assert isinstance(found, MixturePosterior)
    assert "correlation_trils" not in found.draws
    assert found.mixture.locs.sort(dim=0).values[:, 0].tolist() == pytest.approx([0, 9], abs=0.6)


def test_the_same_seed_gives_the_same_posterior_and_touches_nothing(x: Tensor) -> None:
    before = torch.get_rng_state()
    options = {"num_steps": 10, "num_draws": 20, "start": climbed(x), "seed": 4, "progress": False}
    one, two = (svi.fit(x, 2, **options) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(one.draws["locs"], two.draws["locs"])
    assert torch.equal(before, torch.get_rng_state())


def test_single_precision_is_fitted_in_double(x: Tensor) -> None:
    found = svi.fit(x.float(), 2, guide="map", start=climbed(x), seed=0, progress=False)
    assert found.mixture.locs.dtype == torch.float64
    assert found.log_prob(x.float()).shape == (300,)


def test_refuses_more_components_than_points() -> None:
    with pytest.raises(ValueError, match="x must hold at least 6 points, got 4"):
        svi.fit(torch.rand(4, 2), 5)


def test_refuses_an_unknown_guide(x: Tensor) -> None:
    with pytest.raises(ValueError, match="guide must be one of full_rank, laplace, low_rank, ma"):
        svi.fit(x, 2, guide="delta")
