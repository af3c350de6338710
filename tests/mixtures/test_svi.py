import math

import pyro
import pytest
import torch
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, model, svi


@pytest.fixture
def x() -> Tensor:
    """Two clusters, far apart, of 200 and 100 points."""
    return torch.cat([torch.randn(200, 2), 0.5 * torch.randn(100, 2) + 6.0])


@pytest.fixture
def fit(x: Tensor) -> svi.SVIFit:
    return svi.fit(x, 2, num_steps=400, seed=0, progress=False)


def test_agrees_with_em_and_with_the_posterior_of_a_single_normal(
    x: Tensor, fit: svi.SVIFit
) -> None:
    """Where the clusters are apart each mean's posterior is about Normal(x̄_k, Σ_k / N_k)."""
    best = em.fit(x, 2, seed=0, progress=False).mixture
    big = int(fit.mixture.weights.argmax())
    assert torch.allclose(fit.mixture.locs[big], best.locs[int(best.weights.argmax())], atol=0.1)
    spread = fit.posterior.draws["locs"][0, :, big].std(dim=0)
    # The guide is mean-field and its steps are noisy: within a quarter of 1 / √200 = 0.071.
    assert torch.allclose(spread, torch.full((2,), 1 / math.sqrt(200)), rtol=0.25)
    weight = fit.posterior.draws["weights"][0, :, big]
    # Dirichlet(1 + 200, 1 + 100) has mean 0.666 and sd 0.027
    assert weight.mean().item() == pytest.approx(201 / 302, abs=0.02)
    assert weight.std().item() == pytest.approx(0.027, rel=0.25)


def test_the_predictive_density_integrates_to_one(fit: svi.SVIFit) -> None:
    axis = torch.linspace(-8, 12, 161)
    grid = torch.cartesian_prod(axis, axis)
    mass = fit.log_prob(grid, num_draws=20).exp().sum() * (axis[1] - axis[0]) ** 2
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


def test_the_sites_of_a_mixture_make_that_mixture(x: Tensor) -> None:
    mixture = em.fit(x, 2, seed=0, progress=False).mixture
    conditioned = pyro.condition(model, svi.sites(mixture))
    trace = pyro.poutine.trace(conditioned).get_trace(x, 2)
    torch.testing.assert_close(trace.nodes["scale_trils"]["value"], mixture.scale_trils)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], mixture.log_prob(x))


def test_a_line_of_points_has_no_correlations() -> None:
    x = torch.cat([torch.randn(60, 1), torch.randn(60, 1) + 9.0])
    found = svi.fit(x, 2, num_steps=100, num_draws=50, seed=0, progress=False)
    assert "correlation_trils" not in found.posterior.draws
    assert found.mixture.locs.sort(dim=0).values[:, 0].tolist() == pytest.approx([0, 9], abs=0.6)


def test_the_same_seed_gives_the_same_posterior_and_touches_nothing(x: Tensor) -> None:
    before = torch.get_rng_state()
    options = {"num_steps": 10, "num_draws": 20, "seed": 4, "progress": False}
    one, two = (svi.fit(x, 2, **options) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(one.posterior.draws["locs"], two.posterior.draws["locs"])
    assert torch.equal(before, torch.get_rng_state())


def test_refuses_more_components_than_points() -> None:
    with pytest.raises(ValueError, match="x must hold at least 6 points, got 4"):
        svi.fit(torch.rand(4, 2), 5)
