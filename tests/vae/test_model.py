import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
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
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), Trace_ELBO())
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
        trace: Any = pyro.poutine.trace(model.guide).get_trace(torch.zeros(20_000, 1))
        z = trace.nodes["z"]["value"]
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
    assert law.stddev.isfinite().all()


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
    with pytest.raises(ValueError, match=r"likelihood must be one of bernoulli, .* got 'poisson'"):
        vae.mlp(6, 2, likelihood="poisson")


def test_the_manifold_is_a_grid_of_equal_prior_probability() -> None:
    model = VAE(nn.Linear(2, 4), nn.Identity(), unit_normal, latent_dim=2)
    grid = vae.manifold.grid(model.double(), 4)
    quantiles = torch.special.ndtri(torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(grid[0, :, 0], quantiles)
    torch.testing.assert_close(grid[:, 0, 1], quantiles.flip(0))
    with pytest.raises(ValueError, match="vae must have latent_dim 2 for a grid, got 3"):
        vae.manifold.grid(vae.mlp(6, 3))


def test_a_bare_pyro_svi_on_grey_pixels_says_what_to_do_and_then_trains() -> None:
    model, x = vae.mlp(6, 2, likelihood=vae.Bernoulli("dynamic"), seed=0), torch.rand(60, 6)
    with pytest.raises(
        ValueError, match=r"x must be binary .* through `likelihood\.prepare\(x\)`"
    ):
        bare_svi(model, x)
    before = weights(model)
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(5):
        svi.step(model.likelihood.prepare(x))
    assert moved(model, before)
    pyro.clear_param_store()


def mixture() -> dist.TorchDistribution:
    """Two components, both the standard normal: a mixture without a formula for the KL."""
    parts = dist.Normal(torch.zeros(2, 1), 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)


def test_a_kl_without_a_formula_is_estimated_on_the_draws() -> None:
    exact, x = exact_vae(), torch.randn(50, 1)
    drawn = VAE(exact.encoder, exact.decoder, unit_normal, 1, prior=mixture)
    options = {"num_samples": 4000, "seed": 0}
    one, two = vae.bounds.elbo(exact, x, **options), vae.bounds.elbo(drawn, x, **options)
    # log q - log p has sd of about 1 given x: five standard errors, 5 / √200000.
    assert two.kl == pytest.approx(one.kl, abs=0.012)
    # The guide is the posterior, so each draw of log p(x, z) - log q(z) is log p(x) itself.
    exact_value = dist.Normal(0.0, torch.tensor(2.0).sqrt()).log_prob(x.squeeze(1))
    torch.testing.assert_close(two.per_point, exact_value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prior_and_likelihood_follow_the_dtype_of_the_networks(dtype: torch.dtype) -> None:
    model = VAE(nn.Linear(6, 4).to(dtype), nn.Linear(2, 6).to(dtype), vae.Gaussian(), 2)
    assert vae.bounds.elbo(model, torch.randn(5, 6)).per_point.dtype == dtype
    assert model.sample(3).dtype == model.likelihood.log_scale.dtype == dtype


def with_dropout() -> VAE:
    encoder = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5))
    return VAE(encoder, nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 6)), unit_normal, 2)


@pytest.mark.parametrize(
    "look",
    [
        lambda m: m.encode(torch.ones(50, 6)).std(dim=0),
        lambda m: m.decode(torch.ones(50, 2)).std(dim=0),
        lambda m: m.reconstruct(torch.ones(50, 6)).std(dim=0),
        lambda m: m.sample(50, noise=False, seed=0) - m.eval().sample(50, noise=False, seed=0),
        lambda m: vae.manifold.grid(m, 2) - vae.manifold.grid(m, 2),
        lambda m: (
            vae.bounds.elbo(m, torch.ones(5, 6), seed=0).per_point
            - vae.bounds.elbo(m.eval(), torch.ones(5, 6), seed=0).per_point
        ),
    ],
)
def test_looking_at_a_vae_drops_nothing_out(look: Callable[[VAE], Tensor]) -> None:
    assert (look(with_dropout()).abs() < 1e-12).all()


def test_looking_at_a_vae_leaves_the_mode_of_each_part() -> None:
    model = with_dropout()
    model.decoder.eval()
    before = [part.training for part in model.modules()]
    model.reconstruct(torch.ones(3, 6))
    vae.bounds.elbo(model, torch.ones(3, 6))
    assert [part.training for part in model.modules()] == before


def test_a_likelihood_may_be_named_but_not_be_a_class() -> None:
    networks = nn.Linear(6, 4), nn.Linear(2, 6)
    assert isinstance(VAE(*networks, "gaussian", 2).likelihood, vae.Gaussian)
    refusal = r"got the class Bernoulli: give Bernoulli\(\)"
    with pytest.raises(ValueError, match=refusal):
        VAE(*networks, vae.Bernoulli, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=refusal):
        vae.mlp(6, 2, likelihood=vae.Bernoulli)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="likelihood must be a name, an instance or a function"):
        VAE(*networks, 3, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("latent_dim", lambda m: vae.mlp(6, 2.0)),  # type: ignore[arg-type]
        ("latent_dim", lambda m: VAE(m.encoder, m.decoder, "bernoulli", 2.0)),  # type: ignore[arg-type]
        ("hidden_dims", lambda m: vae.mlp(6, 2, hidden_dims=np.array([5.5]))),  # type: ignore[arg-type]
        ("num_samples", lambda m: m.sample(2.5)),
        ("num_steps", lambda m: vae.manifold.grid(m, 2.5)),  # type: ignore[arg-type]
        ("num_samples", lambda m: vae.bounds.elbo(m, torch.ones(5, 6), num_samples=2.5)),  # type: ignore[arg-type]
        ("batch_size", lambda m: vae.bounds.elbo(m, torch.ones(5, 6), batch_size=2.5)),  # type: ignore[arg-type]
        ("batch_size", lambda m: vae.fit(m, torch.ones(5, 6), batch_size=16.0)),  # type: ignore[arg-type]
        ("num_epochs", lambda m: vae.fit(m, torch.ones(5, 6), num_epochs=2.5)),  # type: ignore[arg-type]
    ],
)
def test_refuses_parts_of_a_whole_number(name: str, call: Callable[[VAE], object]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number, got"):
        call(vae.mlp(6, 2))


def test_refuses_a_decoder_of_another_size() -> None:
    model = VAE(nn.Linear(3, 4), nn.Linear(2, 1), unit_normal, 2)  # would broadcast
    with pytest.raises(ValueError, match=r"x must have \(1,\) numbers a point, .* got \(3,\)"):
        Trace_ELBO().loss(model.joint, model.recognition, torch.randn(5, 3))


def test_refuses_empty_batches() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        vae.bounds.elbo(vae.mlp(6, 2), torch.ones(5, 6), batch_size=0)
