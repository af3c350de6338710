import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pplvae import vae
from pplvae.vae import VAE


def unit_normal(loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def exact_vae() -> VAE:
    """With x | z ~ N(z, 1) and z ~ N(0, 1), z | x ~ N(x / 2, 1/2) and x ~ N(0, 2)."""
    encoder = nn.Linear(1, 2)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.5], [0.0]]))
        encoder.bias.copy_(torch.tensor([0.0, 0.5 * torch.tensor(0.5).log()]))
    return VAE(encoder, nn.Identity(), unit_normal, latent_dim=1)


@pytest.fixture
def x() -> Tensor:
    return (torch.rand(60, 6) < 0.5).double()


def bare_svi(model: VAE, x: Tensor, steps: int = 5) -> None:
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def moved(model: VAE, before: dict[str, Tensor]) -> bool:
    """Whether every weight has changed."""
    return all((p != before[name]).any() for name, p in model.named_parameters())


def weights(model: VAE) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_bound_is_tight_where_the_guide_is_the_posterior() -> None:
    model, x = exact_vae(), torch.randn(20, 1)
    exact = dist.Normal(0.0, torch.tensor(2.0).sqrt()).log_prob(x).sum()
    with pyro.get_param_store().scope():
        bound = -Trace_ELBO().loss(model.model, model.guide, x)
    torch.testing.assert_close(torch.tensor(bound), exact)


def test_elbo_equals_log_evidence_where_the_guide_is_the_posterior() -> None:
    # KL in closed form, reconstruction by draws: only their sum over many draws is exact.
    model, x = exact_vae(), torch.randn(50, 1)
    exact = dist.Normal(0.0, torch.tensor(2.0).sqrt()).log_prob(x).mean().item()
    found = vae.bounds.elbo(model, x, num_samples=4000, seed=0)
    # log p(x | z) has sd of about |x|/√2 + 1/2 < 2 given x: the mean of 50 × 4000 draws errs by
    # less than 2 / √200000 = 0.0045; five of those.
    assert found.value == pytest.approx(exact, abs=0.023)
    assert found.value == pytest.approx(found.reconstruction - found.kl)


def test_the_guide_draws_with_the_standard_deviation_not_the_variance() -> None:
    encoder = nn.Linear(1, 2)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.tensor([3.0, torch.tensor(0.1).log()]))
    model = VAE(encoder, nn.Identity(), unit_normal, latent_dim=1)
    with pyro.get_param_store().scope(), pyro.poutine.block():
        z = pyro.poutine.trace(model.guide).get_trace(torch.zeros(20_000, 1)).nodes["z"]["value"]
    assert z.std().item() == pytest.approx(0.1, rel=0.03)  # 6 standard errors of an sd: 6/√(2N)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_vectorized_particles_estimate_the_same_bound(elbo: type[Trace_ELBO], x: Tensor) -> None:
    model = vae.mlp(6, 2, hidden_dims=(8,), seed=0)
    with pyro.get_param_store().scope():
        one = elbo(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
        found = -one.loss(model.model, model.guide, x) / len(x)
    assert found == pytest.approx(vae.bounds.elbo(model, x, num_samples=2000).value, abs=0.02)


def test_a_bare_pyro_svi_trains_the_second_vae_of_the_process_too(x: Tensor) -> None:
    for seed in range(2):
        model = vae.mlp(6, 2, hidden_dims=(8,), seed=seed)
        before = weights(model)
        bare_svi(model, x)
        assert moved(model, before)
    pyro.clear_param_store()


def test_a_bare_pyro_svi_trains_a_copy_and_not_the_original(x: Tensor) -> None:
    model = vae.mlp(6, 2, hidden_dims=(8,), seed=0)
    bare_svi(model, x, steps=1)
    twin = copy.deepcopy(model)
    original, before = weights(model), weights(twin)
    bare_svi(twin, x)
    assert moved(twin, before)
    assert all((p == original[name]).all() for name, p in model.named_parameters())
    pyro.clear_param_store()


def test_two_vaes_may_share_a_decoder(x: Tensor) -> None:
    first, other = vae.mlp(6, 2, hidden_dims=(8,), seed=0), vae.mlp(6, 2, hidden_dims=(8,), seed=1)
    second = VAE(other.encoder, first.decoder, vae.Bernoulli(), latent_dim=2)
    before = weights(second)
    bare_svi(first, x)
    bare_svi(second, x)
    assert moved(second, before)
    pyro.clear_param_store()


def test_codes_reconstructions_and_samples_have_their_shapes(x: Tensor) -> None:
    model = vae.mlp(6, 2, hidden_dims=(8,), seed=0)
    assert model.encode(x).shape == (60, 2)
    assert model.decode(torch.zeros(3, 2)).shape == (3, 6)
    assert model.reconstruct(x).shape == (60, 6)
    assert set(model.sample(50, seed=0).unique().tolist()) == {0.0, 1.0}
    assert not model.encode(x).requires_grad


def test_the_same_seed_gives_the_same_vae_and_samples() -> None:
    before = torch.get_rng_state()
    one, two = (vae.mlp(6, 2, seed=3) for _ in range(2))
    assert torch.equal(one.sample(5, seed=1), two.sample(5, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_huge_outputs_of_the_encoder_do_not_overflow() -> None:
    law = vae.mlp(6, 2, seed=0).posterior(torch.full((1, 4), 1e4))
    assert law.base_dist.scale.isfinite().all()


def test_refuses_codes_of_another_dimension() -> None:
    with pytest.raises(ValueError, match="z must have 2 columns, got 3"):
        vae.mlp(6, 2).decode(torch.zeros(4, 3))


def test_refuses_grey_pixels_and_says_what_to_do() -> None:
    model = vae.mlp(6, 2)
    with pytest.raises(ValueError, match=r"x must be binary .* Bernoulli\(binarize='dynamic'\)"):
        vae.fit(model, torch.rand(20, 6), num_epochs=1)
    with pytest.raises(ValueError, match="x must be binary"):
        vae.bounds.elbo(model, torch.rand(20, 6))
    dynamic = vae.mlp(6, 2, likelihood=vae.Bernoulli("dynamic"))
    with pytest.raises(ValueError, match=r"x must be in \[0, 1\] to be binarized"):
        vae.fit(dynamic, 2 * torch.rand(20, 6), num_epochs=1)


def test_bernoulli_logits_never_saturate() -> None:
    law = vae.Bernoulli()(torch.tensor([[40.0]]))
    assert law.log_prob(torch.tensor([[0.0]])).item() == pytest.approx(-40.0)


def test_dynamic_binarization_keeps_the_mean() -> None:
    grey = torch.full((20_000, 1), 0.3)
    drawn = vae.Bernoulli("dynamic").prepare(grey)
    # Five standard errors: 5 √(0.3 · 0.7 / 20000) = 0.016
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.016)


def test_the_fixed_gaussian_is_the_squared_error_of_the_lectures() -> None:
    # log p = −‖x − x̂‖² / c + constant with c = 2 σ²
    law = vae.Gaussian(scale=0.5)
    output, x = torch.randn(4, 3), torch.randn(4, 3)
    constant = law(output).log_prob(output)
    expected = -(x - output).square().sum(dim=1) / (2 * 0.5**2)
    torch.testing.assert_close(law(output).log_prob(x) - constant, expected)
    assert not any(p.requires_grad for p in law.parameters())


def test_refuses_a_scale_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        vae.Gaussian(scale=0)
    with pytest.raises(ValueError, match="likelihood must be one of bernoulli, gaussian"):
        vae.mlp(6, 2, likelihood="poisson")


def test_the_manifold_is_a_grid_of_equal_prior_probability() -> None:
    model = VAE(nn.Linear(2, 4), nn.Identity(), unit_normal, latent_dim=2)
    grid = vae.manifold.grid(model.double(), 4)
    quantiles = torch.special.ndtri(torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(grid[0, :, 0], quantiles)
    torch.testing.assert_close(grid[:, 0, 1], quantiles.flip(0))
    with pytest.raises(ValueError, match="vae must have latent_dim 2 for a grid, got 3"):
        vae.manifold.grid(vae.mlp(6, 3))
