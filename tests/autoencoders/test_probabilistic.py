"""Probabilistic PCA in closed form, and the linear VAE that must reach it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pplvae import data, optimize, vae
from pplvae.autoencoders import Autoencoder, ProbabilisticPCA, linear, principal_angles
from pplvae.autoencoders.probabilistic import fit
from pplvae.randomness import generator


@pytest.fixture
def x() -> Tensor:
    draws = generator(0)
    mixing = torch.randn(3, 7, generator=draws)
    z, noise = torch.randn(60, 3, generator=draws), torch.randn(60, 7, generator=draws)
    return 5 + z @ mixing + 0.3 * noise


def covariance(model: ProbabilisticPCA) -> Tensor:
    """W Wᵀ + σ² I, written out."""
    return model.weights @ model.weights.T + model.variance * torch.eye(model.data_dim)


@pytest.mark.parametrize("shape", [(60, 7), (8, 20)])
@pytest.mark.parametrize("latent_dim", [1, 3, 5])
def test_the_density_is_that_of_the_whole_covariance(
    shape: tuple[int, int], latent_dim: int
) -> None:
    x = torch.randn(shape, generator=generator(1))
    model = fit(x, latent_dim)
    expected = MultivariateNormal(model.center, covariance(model)).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("latent_dim", [1, 3, 5])
def test_no_other_parameters_are_more_likely(x: Tensor, latent_dim: int) -> None:
    """The gradient of the log-likelihood is zero, and small moves lose."""
    model = fit(x, latent_dim)
    loc, weights = (t.clone().requires_grad_() for t in (model.center, model.weights))
    log_variance = model.variance.log().requires_grad_()

    def log_likelihood(loc: Tensor, weights: Tensor, log_variance: Tensor) -> Tensor:
        cov = weights @ weights.T + log_variance.exp() * torch.eye(7)
        return MultivariateNormal(loc, cov).log_prob(x).sum()

    best = log_likelihood(loc, weights, log_variance)
    assert best.item() == pytest.approx(model.log_prob(x).sum().item())
    slopes = torch.autograd.grad(best, [loc, weights, log_variance])
    assert max(slope.abs().max() for slope in slopes) < 1e-8
    for seed in range(10):
        draws = generator(seed)
        moved = [
            t + 0.05 * torch.randn(t.shape, generator=draws) for t in (loc, weights, log_variance)
        ]
        assert log_likelihood(*moved) < best


def test_its_subspace_is_that_of_pca_and_the_noise_is_what_that_leaves(x: Tensor) -> None:
    model, pca = fit(x, 3), linear.fit(x, 3)
    assert principal_angles(model.weights.T, pca.directions)[0] < 1e-12
    assert model.variance.item() == pytest.approx(pca.error / (7 - 3))
    # So it explains each direction's variance in full.
    along = pca.directions @ covariance(model) @ pca.directions.T
    torch.testing.assert_close(along, (pca.singular_values**2 / 60).diag(), rtol=1e-9, atol=1e-12)


def test_bayes_rule_holds_at_any_code(x: Tensor) -> None:
    """log p(z) + log p(x | z) − log p(z | x) = log p(x)."""
    model = fit(x, 3)
    for seed in range(3):
        z = torch.randn(60, 3, generator=generator(seed))
        prior = Normal(0.0, 1.0).log_prob(z).sum(1)
        likelihood = Normal(model.decode(z), model.variance.sqrt()).log_prob(x).sum(1)
        found = prior + likelihood - model.posterior(x).log_prob(z)
        torch.testing.assert_close(found, model.log_prob(x), rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(model.posterior(x).mean, model.encode(x))


def test_codes_shrink_towards_zero_and_without_noise_they_are_pca(x: Tensor) -> None:
    """m = (Λ − σ²)^½ Λ⁻¹ Vᵀ (x − μ): its second moment is 1 − σ² / λ."""
    model = fit(x, 3)
    pca = linear.fit(x, 3)
    eigenvalues = pca.singular_values**2 / 60
    moments = model.encode(x).square().mean(0)
    torch.testing.assert_close(moments, 1 - model.variance / eigenvalues)
    sharp = ProbabilisticPCA(model.weights, model.center, 1e-12)
    torch.testing.assert_close(sharp.reconstruct(x), pca.reconstruct(x), rtol=0.0, atol=1e-8)


def test_samples_have_its_mean_and_covariance(x: Tensor) -> None:
    model = fit(x, 3)
    drawn = model.sample(40_000, seed=0)
    # The entries of a sample covariance have a standard error below √2 max C / √n = 0.7 % of it.
    most = covariance(model).diagonal().max().item()
    assert (drawn.T.cov() - covariance(model)).abs().max() < 5 * 0.0071 * most
    assert (drawn.mean(0) - model.center).abs().max() < 5 * math.sqrt(most / 40_000)
    assert drawn.equal(model.sample(40_000, seed=0))
    flat = model.sample(10, noise=False, seed=0)
    assert linear.fit(x, 3).autoencoder.scale == 1
    torch.testing.assert_close(model.reconstruct(flat) - model.center,
                               _shrunk(model, flat - model.center))  # fmt: skip


def _shrunk(model: ProbabilisticPCA, x: Tensor) -> Tensor:
    """W M⁻¹ Wᵀ x, with M inverted."""
    w = model.weights
    return x @ w @ torch.linalg.inv(w.T @ w + model.variance * torch.eye(3)) @ w.T


def test_little_noise_does_not_cancel() -> None:
    """σ² = 1e-10 beside variances of 1: Woodbury's own form would lose all digits."""
    draws = generator(0)
    x = torch.randn(40, 2, generator=draws) @ torch.randn(2, 5, generator=draws)
    x = x + 1e-5 * torch.randn(40, 5, generator=draws)
    model = fit(x, 2)
    # E of the distance over the data is tr(C⁻¹ S) = D at the maximum.
    log_det = torch.linalg.slogdet(covariance(model)).logabsdet
    expected = -0.5 * (5 * math.log(2 * math.pi) + log_det + 5)
    assert model.log_prob(x).mean().item() == pytest.approx(expected.item(), abs=1e-4)


def standardized_digits() -> Tensor:
    x = data.digits().x.double()
    return (x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()


def linear_vae(x: Tensor, latent_dim: int, **options: Any) -> tuple[vae.VAEFit, ProbabilisticPCA]:
    """A linear VAE trained with the noise of probabilistic PCA, and its own exact density."""
    scale = fit(x, latent_dim).variance.sqrt().item()
    model = vae.linear(x.shape[1], latent_dim, likelihood=vae.Gaussian(scale), seed=0)
    found = vae.fit(
        model, x, objective=vae.ELBO(gradient="stl"), schedule=optimize.cosine, clip_norm=None,
        validation=0.0, seed=0, progress=False, **options,
    )  # fmt: skip
    (last,) = model.decoder.children()
    assert isinstance(last, torch.nn.Linear)
    return found, ProbabilisticPCA(last.weight.detach(), last.bias.detach(), scale**2)


@pytest.mark.parametrize(
    ("latent_dim", "num_epochs", "batch_size", "learning_rate", "bound"),
    [
        (2, 150, 600, 0.05, 0.02),
        # The bound needs z's axes along the principal ones too, to which they turn slowly.
        pytest.param(8, 3000, 1797, 0.02, 0.03, marks=pytest.mark.slow),
    ],
)
def test_the_linear_vae_reaches_the_exact_log_likelihood_of_digits(
    latent_dim: int, num_epochs: int, batch_size: int, learning_rate: float, bound: float
) -> None:
    x = standardized_digits()
    exact = fit(x, latent_dim).log_prob(x).mean().item()
    found, own = linear_vae(
        x, latent_dim, num_epochs=num_epochs, batch_size=batch_size, learning_rate=learning_rate
    )
    assert own.log_prob(x).mean().item() == pytest.approx(exact, abs=0.02)
    assert own.log_prob(x).mean().item() < exact
    assert found.elbo.value == pytest.approx(exact, abs=bound)


def test_comes_back_from_a_file(x: Tensor, tmp_path: Path) -> None:
    model = fit(x, 3)
    model.save(tmp_path / "ppca")
    again = Autoencoder.load(tmp_path / "ppca")
    assert isinstance(again, ProbabilisticPCA)
    assert again.log_prob(x).equal(model.log_prob(x))


def test_works_in_double_precision_whatever_the_data(x: Tensor) -> None:
    model = fit(x.float(), 2)
    assert model.log_prob(x.float()).dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("latent_dim", [0, 3, 6])
def test_refuses_a_code_that_leaves_nothing_to_the_noise(latent_dim: int) -> None:
    draws = generator(0)
    x = 1 + torch.randn(50, 3, generator=draws) @ torch.randn(3, 6, generator=draws)
    rule = rf"^latent_dim must be in \[1, 2\] for data of rank 3, got {latent_dim}$"
    with pytest.raises(ValueError, match=rule):
        fit(x, latent_dim)


def test_refuses_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^loc must have shape \(4,\), got \(3,\)$"):
        ProbabilisticPCA(torch.ones(4, 2), torch.ones(3), 1.0)
    with pytest.raises(ValueError, match=r"^variance must be positive, got 0.0$"):
        ProbabilisticPCA(torch.ones(4, 2), torch.ones(4), 0.0)
