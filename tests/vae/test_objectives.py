"""Every objective on a linear-Gaussian VAE, where its value and gradient have a closed form."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pplvae import optimize, randomness, vae
from pplvae.vae import ELBO, IWAE, VAE, Objective, particles

X = torch.tensor([[1.2], [-0.5], [2.0]], dtype=torch.float64)


def unit_normal(loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def linear() -> VAE:
    """z ~ N(0, 1), x | z ~ N(1.3 z + 0.1, 1); q(z | x) = N(0.3 x + 0.2, exp(0.1 x − 0.4)²)."""
    encoder, decoder = nn.Linear(1, 2), nn.Linear(1, 1)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.3], [0.1]]))
        encoder.bias.copy_(torch.tensor([0.2, -0.4]))
        decoder.weight.fill_(1.3)
        decoder.bias.fill_(0.1)
    return VAE(encoder, decoder, unit_normal, 1)


def reconstruction_and_kl(model: VAE) -> tuple[Tensor, Tensor]:
    """E_q log p(x | z) and KL(q ‖ p) of each point, in closed form, shape (3,)."""
    loc, log_scale = model.encoder(X).unbind(1)
    weight, bias = (p.reshape(()) for p in model.decoder.parameters())
    variance = (2 * log_scale).exp()
    error = (X[:, 0] - weight * loc - bias) ** 2 + weight**2 * variance
    kl = 0.5 * (variance + loc**2 - 1) - log_scale
    return -0.5 * (error + math.log(2 * math.pi)), kl


def log_evidence(model: VAE) -> Tensor:
    """log p(x) of each point: x ~ N(b, w² + 1)."""
    weight, bias = (p.reshape(()) for p in model.decoder.parameters())
    return dist.Normal(bias, (weight**2 + 1).sqrt()).log_prob(X[:, 0])


def slope(model: VAE, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in found])


def estimates(model: VAE, objective: Objective, num: int) -> tuple[Tensor, Tensor]:
    """Values, shape (num,), and gradients, shape (num, 6), each the mean of 20 estimates."""
    with randomness.scope(0):
        losses = [objective(model, X.repeat(20, 1)) / 20 for _ in range(num)]
        return torch.stack(losses).detach(), torch.stack([slope(model, loss) for loss in losses])


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Whether means over the first axis are within 4 standard errors, 6 or 7 numbers at a time."""
    error = found.std(0) / math.sqrt(len(found))
    return bool(((found.mean(0) - expected).abs() < 4 * error + 1e-12).all())


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(),
        ELBO(num_particles=4),
        ELBO(kl="analytic"),
        ELBO(gradient="stl"),
        ELBO(gradient="stl", num_particles=3),
        ELBO(gradient="score"),
        ELBO(gradient="score", num_particles=4),
        ELBO(gradient="baseline"),
        ELBO(gradient="baseline", num_particles=4),
        IWAE(1),
        IWAE(1, gradient="dreg"),
    ],
    ids=repr,
)
def test_the_elbo_and_its_gradient_are_unbiased(objective: Objective) -> None:
    model = linear()
    reconstruction, kl = reconstruction_and_kl(model)
    exact = (kl - reconstruction).sum()
    values, slopes = estimates(model, objective, 80)
    assert agrees(values, exact.detach())
    assert agrees(slopes, slope(model, exact))


def iwae_by_quadrature(model: VAE, size: int) -> Tensor:
    """IWAE_2 of all points by a grid over the noise of both draws, differentiable."""
    nodes = torch.linspace(-7, 7, 301)
    mass = dist.Normal(0.0, 1.0).log_prob(nodes).exp() * (nodes[1] - nodes[0])
    loc, log_scale = model.encoder(X).unbind(1)
    z = loc + log_scale.exp() * nodes[:, None]
    q = dist.Normal(loc, log_scale.exp()).log_prob(z)
    p = dist.Normal(0.0, 1.0).log_prob(z) + unit_normal(model.decoder(z[..., None])).log_prob(X)
    weight = p - q
    pairs = torch.logaddexp(weight[:, None], weight[None]) - math.log(size)
    return (mass[:, None, None] * mass[None, :, None] * pairs).sum()


@pytest.mark.parametrize("gradient", ["reparameterized", "dreg"])
def test_the_iwae_and_its_gradient_are_unbiased(gradient: str) -> None:
    model = linear()
    exact = -iwae_by_quadrature(model, 2)
    values, slopes = estimates(model, IWAE(2, gradient), 100)
    assert agrees(values, exact.detach())
    assert agrees(slopes, slope(model, exact))


def test_the_iwae_agrees_with_pyros() -> None:
    model = linear()
    pyros = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=1)
    with randomness.scope(0):
        theirs = torch.tensor(
            [pyros.loss(model.joint, model.recognition, X.repeat(20, 1)) / 20 for _ in range(100)]
        )
    ours, _ = estimates(model, IWAE(50), 100)
    error = (ours.var() / 100 + theirs.var() / 100).sqrt()
    assert (ours.mean() - theirs.mean()).abs() < 4 * error
    exact, elbo = log_evidence(model).sum(), torch.sub(*reconstruction_and_kl(model)).sum()
    assert elbo < -ours.mean() < exact
    assert exact + ours.mean() < 0.1 * (exact - elbo)


def test_dreg_keeps_its_signal_where_the_plain_gradient_drowns() -> None:
    model = linear()
    plain, doubly = (
        estimates(model, IWAE(64, gradient), 100)[1] for gradient in ("reparameterized", "dreg")
    )
    # The four parameters of the guide come first; the reference's effect is a factor, not a shade.
    assert (doubly.std(0)[:4] < 0.25 * plain.std(0)[:4]).all()


def test_stl_has_no_noise_where_the_guide_is_exact() -> None:
    model = linear()
    with torch.no_grad():  # z | x ~ N(w (x − b) / (w² + 1), 1 / (w² + 1))
        precision = 1.3**2 + 1
        model.encoder.weight.copy_(torch.tensor([[1.3 / precision], [0.0]]))
        model.encoder.bias.copy_(torch.tensor([-0.13 / precision, -0.5 * math.log(precision)]))
    _, stl = estimates(model, ELBO(gradient="stl"), 20)
    _, plain = estimates(model, ELBO(), 20)
    assert stl[:, :4].abs().max() < 1e-12
    assert plain[:, :4].abs().max() > 0.1


@pytest.mark.parametrize("kl", ["sampled", "analytic"])
def test_a_weighted_kl_says_the_true_bound_beside_it(kl: str) -> None:
    model = linear()
    reconstruction, price = (part.sum().detach() for part in reconstruction_and_kl(model))
    objective = ELBO(num_particles=2000, kl=kl, kl_weight=0.3)
    with randomness.scope(0):
        loss, bound = objective.estimate(model, X)
    # Each point's error has a standard deviation below 3: 3 points, 2000 draws, 4 standard errors.
    tolerance = 4 * 3 * math.sqrt(3 / 2000)
    assert abs(-loss.item() - (reconstruction - 0.3 * price).item()) < tolerance
    assert abs(bound.item() - (reconstruction - price).item()) < tolerance
    assert not bound.requires_grad


def test_the_weight_follows_its_schedule() -> None:
    model, objective = linear(), ELBO(kl_weight=optimize.warmup(0.5), kl="analytic")
    _, price = reconstruction_and_kl(model)
    said = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        with randomness.scope(0):
            loss, bound = objective.estimate(model, X, progress)
        said.append((loss + bound).item() / price.sum().item())  # (β − 1) KL
    assert said == pytest.approx([-1.0, -0.5, 0.0, 0.0], abs=1e-12)


def two_dimensional() -> VAE:
    """A guide whose KL is 0.02 in the first dimension and 2 in the second, for any x."""
    encoder = nn.Linear(2, 4)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.tensor([0.2, 2.0, 0.0, 0.0]))
    return VAE(encoder, nn.Linear(2, 2), unit_normal, 2)


def test_free_bits_charge_no_dimension_below_its_floor() -> None:
    model, x = two_dimensional(), torch.randn(5, 2)
    charged = {}
    for floor in (0.0, 0.5, 3.0):
        with randomness.scope(0):  # the same reconstruction each time
            charged[floor] = ELBO(kl="analytic", free_bits=floor)(model, x)
    # KL = 0.02 + 2 a point: with a floor of ½ it costs 2.5, with one of 3 it costs 6.
    assert (charged[0.5] - charged[0.0]).item() == pytest.approx(5 * (2.5 - 2.02))
    assert (charged[3.0] - charged[0.0]).item() == pytest.approx(5 * (6.0 - 2.02))
    paid, free = (
        torch.autograd.grad(charged[floor], model.encoder.bias)[0] for floor in (0.5, 3.0)
    )
    # d KL / d m = m a point: the second dimension pays under a floor of ½, not under one of 3.
    torch.testing.assert_close(paid - free, 5 * torch.tensor([0.0, 2.0, 0.0, 0.0]))


def test_free_bits_of_a_law_without_dimensions_count_for_the_whole_site() -> None:
    def mixture() -> dist.TorchDistribution:
        parts = dist.Normal(torch.tensor([[-1.0] * 2, [1.0] * 2]), 1.0).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)

    model = VAE(nn.Linear(2, 4), nn.Linear(2, 2), unit_normal, 2, prior=mixture)
    loss, bound = ELBO(free_bits=50.0).estimate(model, torch.randn(5, 2))
    with pytest.raises(ValueError, match="kl must be 'sampled' for DiagonalGaussian against"):
        ELBO(kl="analytic")(model, torch.randn(5, 2))
    assert loss.item() + bound.item() > 5 * (100 - 20)


def test_the_draws_and_their_weights_are_those_of_a_slow_loop() -> None:
    model = linear()
    with randomness.scope(0):
        drawn = particles.draw(model, X, 4)
    z = drawn.values["z"]
    assert z.shape == (4, 3, 1)
    for k in range(4):
        for b in range(3):
            prior = dist.Normal(0.0, 1.0).log_prob(z[k, b, 0])
            likelihood = unit_normal(model.decoder(z[k, b])).log_prob(X[b])
            q = model.q(X[b : b + 1]).log_prob(z[k, b : b + 1])[0]
            torch.testing.assert_close(drawn.log_prior[k, b], prior)
            torch.testing.assert_close(drawn.log_likelihood[k, b], likelihood)
            torch.testing.assert_close(drawn.log_q[k, b], q)
            torch.testing.assert_close(drawn.log_weight[k, b], prior + likelihood - q)
    total = drawn.log_prior + drawn.log_likelihood
    torch.testing.assert_close(particles.log_joint(model, X, drawn.values), total)
    torch.testing.assert_close(particles.log_guide(model, X, drawn.values), drawn.log_q)


def test_the_analytic_kl_is_pyros() -> None:
    model = linear()
    with randomness.scope(0):
        theirs = TraceMeanField_ELBO().differentiable_loss(model.joint, model.recognition, X)
    with randomness.scope(0):
        ours = ELBO(kl="analytic")(model, X)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(slope(model, ours), slope(model, theirs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(num_particles=0), r"num_particles must be at least 1, got 0"),
        (lambda: ELBO(kl="exact"), "kl must be one of .*, got 'exact'"),
        (lambda: ELBO(kl_weight=-0.1), r"kl_weight must be .*, got -0.1"),
        (lambda: ELBO(free_bits=-1.0), r"free_bits must be .*, got -1.0"),
        (lambda: ELBO(gradient="dreg"), "gradient must be one of .*, got 'dreg'"),
        (lambda: ELBO(gradient="stl", kl="analytic"), "must be 'reparameterized' for an analytic"),
        (lambda: ELBO(gradient="score", free_bits=1.0), "for an analytic or weighted KL"),
        (lambda: IWAE(4, gradient="stl"), "gradient must be one of .*, got 'stl'"),
        (lambda: vae.objectives.as_objective("elob"), "objective must be one of elbo, iwae"),
    ],
)
def test_refuses_what_does_not_go_together(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_single_draw_of_a_single_point_has_no_baseline() -> None:
    model, x = linear(), X[:1]
    with randomness.scope(0):
        alone = slope(model, ELBO(gradient="baseline")(model, x))
    with randomness.scope(0):
        torch.testing.assert_close(alone, slope(model, ELBO(gradient="score")(model, x)))


class Pathless(dist.Normal):
    has_rsample = False


def pathless(output: Tensor) -> dist.TorchDistribution:
    return Pathless(output[..., :1], output[..., 1:].exp()).to_event(1)


@pytest.mark.parametrize(
    "objective",
    [IWAE(5), IWAE(5, "dreg"), ELBO(gradient="stl"), ELBO(kl_weight=0.5), ELBO(kl="analytic")],
    ids=repr,
)
def test_refuses_draws_without_a_gradient(objective: Objective) -> None:
    model = VAE(nn.Linear(1, 2), nn.Linear(1, 1), unit_normal, 1, posterior=pathless)
    with pytest.raises(ValueError, match=r"for a posterior without rsample, of \['z'\]"):
        objective(model, X)


def test_draws_without_a_gradient_have_a_score() -> None:
    model, wished = linear(), linear()
    model.posterior = vae.posteriors.as_posterior(pathless, 1)
    for objective in (ELBO(), ELBO(gradient="baseline", num_particles=4)):
        exact = torch.sub(*reconstruction_and_kl(wished)).sum()
        values, slopes = estimates(model, objective, 80)
        assert agrees(values, -exact.detach())
        assert agrees(slopes, slope(wished, -exact))


def test_dropout_scores_z_under_the_q_that_drew_it() -> None:
    model = linear()
    model.encoder = nn.Sequential(model.encoder, nn.Dropout(0.5))
    plain, scored = (
        estimates(model, ELBO(gradient=gradient, num_particles=20), 200)
        for gradient in ("reparameterized", "baseline")
    )
    for one, two in zip(plain, scored, strict=True):
        error = ((one.var(0) + two.var(0)) / 200).sqrt()
        assert ((one.mean(0) - two.mean(0)).abs() < 4 * error).all()


def test_refuses_to_score_two_layers_under_two_masks() -> None:
    model = vae.hierarchical(1, (2, 1), likelihood="gaussian", seed=0)
    model.encoder = nn.Sequential(nn.Dropout(0.5), model.encoder)
    with pytest.raises(ValueError, match="'reparameterized' for several latent sites and dropout"):
        IWAE(3, "dreg")(model, X)
    IWAE(3, "dreg")(model.eval(), X)


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_refuses_a_schedule_of_negative_weights(weight: float) -> None:
    with pytest.raises(ValueError, match="kl_weight must be"):
        ELBO(kl_weight=lambda progress: weight)(linear(), X)


def test_refuses_networks_that_would_broadcast_the_code() -> None:
    model = VAE(nn.Linear(1, 2), nn.Linear(1, 1), unit_normal, 5)
    for objective in (ELBO(), IWAE(3)):
        with pytest.raises(ValueError, match=r"posterior must give a law of 5 numbers, .*\(1,\)"):
            objective(model, X)
    flat = VAE(nn.Linear(1, 2), nn.Linear(1, 1), unit_normal, 1, prior=lambda: dist.Normal(0, 1.0))
    with pytest.raises(ValueError, match=r"prior must give a law of 1 numbers, .*to_event"):
        IWAE(3)(flat, X)
