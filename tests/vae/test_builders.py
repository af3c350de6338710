import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from pplvae import data, networks, vae
from pplvae.vae import VAE, particles, published
from pplvae.vae.builders import conv, hierarchical, linear, mlp
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.likelihoods import Bernoulli, Gaussian
from pplvae.vae.posteriors import POSTERIORS
from pplvae.vae.priors import PRIORS


def widths(network: nn.Module) -> list[int]:
    """Sizes from the input of the first linear layer to the output of the last."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def kinds(network: nn.Module) -> set[type[nn.Module]]:
    return {type(layer) for layer in network.children()}


def count(model: VAE) -> int:
    return sum(p.numel() for p in model.parameters())


def dense(*sizes: int) -> int:
    """Weights and biases of linear layers, by hand."""
    return sum((a + 1) * b for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("model", "down", "up", "active"),
    [
        (published.aevb("mnist", 10), [784, 500, 20], [10, 500, 784], nn.Tanh),
        (published.aevb("frey", 2), [560, 200, 4], [2, 200, 1120], nn.Tanh),
        (published.iwae(1), [784, 200, 200, 100], [50, 200, 200, 784], nn.Tanh),
        (published.pyro_example(), [784, 400, 100], [50, 400, 784], nn.Softplus),
        (published.jaanli(), [784, 256, 256, 256], [128, 256, 256, 784], nn.ReLU),
    ],
)
def test_published_vaes_have_the_layers_of_their_papers(
    model: VAE, down: list[int], up: list[int], active: type[nn.Module]
) -> None:
    assert widths(model.encoder) == down
    assert widths(model.decoder) == up
    assert count(model) == dense(*down) + dense(*up)
    assert active in kinds(model.encoder) & kinds(model.decoder)


def test_the_two_layer_vae_of_iwae_has_the_blocks_of_its_paper() -> None:
    model = published.iwae(2)
    assert isinstance(model, HierarchicalVAE)
    assert model.latent_dims == (100, 50)
    found = model.encoder, model.upper_encoder, model.upper_decoder, model.decoder
    blocks = [784, 200, 200, 200], [100, 100, 100, 100], [50, 100, 100, 200], [100, 200, 200, 784]
    assert [widths(network) for network in found] == [*blocks]
    assert count(model) == sum(dense(*block) for block in blocks) == 521_084
    assert all(kinds(network) == {nn.Linear, nn.Tanh} for network in found)


def test_the_frey_vae_gives_means_between_black_and_white() -> None:
    model = published.aevb("frey", 2)
    output = model.decoder(torch.full((1, 2), 1e6))
    assert ((output[:, :560] > 0) & (output[:, :560] < 1)).all()
    assert isinstance(model.likelihood, Gaussian)
    assert (model.decode(torch.randn(3, 2)) - 0.5).abs().max() < 0.1  # as it starts


def test_published_vaes_start_as_their_papers_say() -> None:
    weights = torch.cat([p.flatten() for p in published.aevb(seed=0).parameters()])
    # The standard error of the sd is 0.01 / √(2 · 800,000).
    assert weights.std().item() == pytest.approx(0.01, rel=0.004)
    assert weights.mean().item() == pytest.approx(0.0, abs=1e-4)
    model = published.iwae(1, mean=torch.linspace(0, 1, 784), seed=0)
    first, last = model.encoder[0], model.encoder[-1]  # type: ignore[index]
    for layer, bound in [(first, math.sqrt(6 / 984)), (last, math.sqrt(6 / 250))]:
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound
        assert not layer.bias.any()
    started = model.decoder[-1].bias.sigmoid()  # type: ignore[index]
    torch.testing.assert_close(started, torch.linspace(0, 1, 784).clamp(0.001, 0.999))


def test_refuses_papers_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"data must be one of frey, mnist, got 'cifar'"):
        published.aevb("cifar")
    with pytest.raises(ValueError, match=r"layers must be in \[1, 2\], got 3"):
        published.iwae(3)
    with pytest.raises(ValueError, match="mean must have 784 entries, got 3"):
        published.iwae(mean=torch.ones(3))


@pytest.mark.parametrize("build", [mlp, linear])
@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", sorted(PRIORS.keys() - {"vamp"}))
def test_the_encoder_is_made_to_fit_its_posterior(build: Any, posterior: str, prior: str) -> None:
    model = build(6, 3, posterior=posterior, prior=prior)
    bound = vae.objectives.ELBO()(model, torch.rand(5, 6).round())
    bound.backward()
    assert bound.isfinite()
    assert all(p.grad is not None for p in model.parameters())


def test_a_function_as_posterior_is_refused_for_it_says_no_size() -> None:
    with pytest.raises(ValueError, match="posterior must say its `outputs`"):
        mlp(6, 3, posterior=lambda output: output)  # type: ignore[arg-type]


def test_the_decoder_may_have_sizes_of_its_own() -> None:
    model = mlp(6, 2, hidden_dims=(5, 4), decoder_dims=(9,))
    assert widths(model.encoder) == [6, 5, 4, 4]
    assert widths(model.decoder) == [2, 9, 6]
    assert widths(mlp(6, 2, hidden_dims=(5, 4)).decoder) == [2, 4, 5, 6]


@pytest.mark.parametrize("posterior", ["diagonal", "iaf"])
@pytest.mark.parametrize(
    "build",
    [
        lambda **o: mlp(6, 2, **o),
        lambda **o: conv((3, 2), 2, kernel=2, channels=(4,), **o),
        lambda **o: hierarchical(6, (3, 2), **o),
        lambda **o: published.iwae(2, data_dim=6, **o),
        published.aevb,
    ],
)
def test_a_seed_decides_all_weights_and_touches_nothing(build: Any, posterior: str) -> None:
    state = torch.get_rng_state()
    one, two, other = (build(seed=seed, posterior=posterior) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert build(dtype=torch.float32).sample(2).dtype == torch.float32


def test_the_linear_vae_is_probabilistic_principal_component_analysis() -> None:
    """At W = U √(Λ − σ²) its guide is the posterior, and every weight is p(x) = N(x; μ, C)."""
    x = torch.randn(200, 2) @ torch.randn(2, 5) + 0.3 * torch.randn(200, 5) + 1
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / 200)
    noise, kept = values[:3].mean(), values[3:]
    weight = vectors[:, 3:] * (kept - noise).sqrt()
    law = torch.distributions.MultivariateNormal(
        x.mean(0), weight @ weight.T + noise * torch.eye(5)
    )
    model = linear(5, 2)
    (encoder,), (decoder,) = model.encoder, model.decoder  # type: ignore[misc]
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(x.mean(0))
        encoder.weight.copy_(torch.cat([(weight / kept).T, torch.zeros(2, 5)]))
        encoder.bias.copy_(torch.cat([-x.mean(0) @ weight / kept, 0.5 * (noise / kept).log()]))
        model.likelihood.log_scale.fill_(0.5 * (noise - 1e-6).log())  # type: ignore[operator]
    found = particles.draw(model, x, 3).log_weight
    torch.testing.assert_close(found, law.log_prob(x).expand(3, 200))


@pytest.mark.parametrize("shape", [(28, 20), (28, 28), (3, 32, 32), (13, 7)])
@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(predicted=True)])
def test_convolutional_vaes_take_images_of_any_size(shape: Any, likelihood: Any) -> None:
    model = conv(shape, 2, channels=(4, 4), hidden_dims=(8,), likelihood=likelihood)
    x = torch.rand(3, math.prod(shape)).round()
    assert model.reconstruct(x).shape == x.shape
    assert model.p(torch.zeros(5, 3, 2)).log_prob(x).shape == (5, 3)
    with pytest.raises(ValueError, match=f"x must have {math.prod(shape)} columns, got 5"):
        model.encode(torch.ones(2, 5))


def test_a_convolutional_vae_says_its_layers() -> None:
    model = conv((28, 28), 10, channels=(32, 64), hidden_dims=(256,))
    found = networks.summary(model.decoder, (10,))
    assert found.parameters == dense(10, 256, 3136) + (64 * 16 + 0) * 32 + 32 + 32 * 16 + 1
    assert found.layers[-1].shape == (1, 28, 28)


def test_a_convolutional_vae_learns_digits() -> None:
    x = (data.digits().scaled().x[:500] > 0.5).float()
    model = conv((8, 8), 5, channels=(8,), hidden_dims=(), dtype=torch.float32, seed=0)
    start = vae.bounds.elbo(model, x, seed=0).value
    fit = vae.fit(
        model, x, num_epochs=15, batch_size=50, validation=0.0, learning_rate=0.02, seed=0,
        progress=False,
    )  # fmt: skip
    # The best that one law of independent pixels can do, which knows nothing of the image.
    mean = x.mean(0).clamp(1e-6, 1 - 1e-6)
    blind = Bernoulli()(mean.logit().expand(1, -1)).log_prob(x).mean().item()
    assert start < blind
    assert fit.elbo.value > blind + 2
