import copy
import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pplvae import vae
from pplvae.vae import VAE, flows, particles
from pplvae.vae.distributions import DiagonalGaussian
from pplvae.vae.posteriors import (
    POSTERIORS,
    DiagonalNormal,
    FullNormal,
    InverseAutoregressive,
    Posterior,
    as_posterior,
)
from pplvae.vae.priors import FlowPrior, StandardNormal

KINDS = {
    "diagonal": lambda dim: DiagonalNormal(),
    "full": lambda dim: FullNormal(),
    "iaf": lambda dim: bent(InverseAutoregressive(dim, 2, 3, [8])),
}


def bent(posterior: InverseAutoregressive) -> InverseAutoregressive:
    """Move a flow that starts near the identity away from it."""
    for network in posterior.networks:
        for weight in network.layers[-1].parameters():  # type: ignore[union-attr]
            weight.data.mul_(4)
    return posterior


def small_vae(posterior: Posterior, data_dim: int = 5, latent_dim: int = 3) -> VAE:
    encoder = nn.Sequential(
        nn.Linear(data_dim, 8), nn.Tanh(), nn.Linear(8, posterior.outputs(latent_dim))
    )
    return VAE(encoder, nn.Linear(latent_dim, data_dim), "gaussian", latent_dim, "flow", posterior)


def density(law: pyro.distributions.TorchDistribution, z: Tensor) -> Tensor:
    return getattr(law, "log_prob_slowly", law.log_prob)(z)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def unmoved(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])]


@pytest.mark.parametrize("kind", KINDS)
def test_integrates_to_one_and_its_draws_fit(kind: str) -> None:
    posterior = KINDS[kind](2)
    law = posterior(0.5 * torch.randn(posterior.outputs(2)))
    steps = torch.linspace(-12, 12, 401)
    grid = torch.cartesian_prod(steps, steps)
    mass = density(law, grid).exp() * (steps[1] - steps[0]) ** 2
    # The flow's network has a kink in its second derivative: the sum errs by a few 1e-6.
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    draws = law.sample(torch.Size([20_000]))
    for found, expected in [(draws, grid), (draws.square(), grid.square())]:
        error = (found.mean(0) - (mass[:, None] * expected).sum(0)).abs()
        assert (error < 5 * found.std(0) / math.sqrt(len(draws)) + 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_flow_knows_log_q_of_its_own_draws(dtype: torch.dtype, default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    posterior = bent(InverseAutoregressive(6, 3, 4, [12, 12])).to(dtype)
    law = posterior(torch.randn(7, posterior.outputs(6), dtype=dtype)).expand(torch.Size([5, 7]))
    z = law.rsample()
    assert z.shape == (5, 7, 6)
    assert z.dtype == dtype
    found = law.log_prob(z)
    assert found.shape == (5, 7)
    # Rounding is amplified on the way back by the maps' slopes, a few hundred together.
    error = 1e3 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, law.log_prob_slowly(z), rtol=error, atol=error)
    torch.testing.assert_close(found, law.log_prob(z), rtol=0, atol=0)  # and it still does


def test_a_draw_of_a_flow_and_its_log_q_take_one_pass_through_each_map() -> None:
    posterior, passes = InverseAutoregressive(6, 3, 4, [12]), []
    for network in posterior.networks:
        network.register_forward_hook(lambda *_: passes.append(1))
    law = posterior(torch.randn(7, posterior.outputs(6)))
    z = law.rsample()
    law.log_prob(z)
    assert len(passes) == 3
    law.log_prob_slowly(z)
    assert len(passes) == 3 + 3 * 6


@pytest.mark.parametrize("kind", KINDS)
def test_many_particles_weigh_what_a_slow_loop_says(kind: str) -> None:
    model, x = small_vae(KINDS[kind](3)).requires_grad_(False), torch.randn(4, 5)
    found = particles.draw(model, x, 6)
    z = found.values["z"]
    slow = [
        [
            model.p(z[k, b]).log_prob(x[b])
            + model.prior().log_prob(z[k, b])
            - density(model.q(x[b]), z[k, b])
            for b in range(4)
        ]
        for k in range(6)
    ]
    torch.testing.assert_close(found.log_weight, torch.tensor(slow), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_bare_pyro_svi_moves_every_weight(kind: str, num_particles: int) -> None:
    model, x = small_vae(KINDS[kind](3)), torch.randn(20, 5)
    before = weights(model)
    elbo = Trace_ELBO(
        num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=1
    )
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), elbo)
    for _ in range(3):
        svi.step(x)
    pyro.clear_param_store()
    assert not unmoved(model, before)
    assert copy.deepcopy(model).q(x).rsample().isfinite().all()  # and no graph is left in it


@pytest.mark.parametrize("kind", KINDS)
def test_fit_moves_every_weight(kind: str) -> None:
    model = small_vae(KINDS[kind](3))
    before = weights(model)
    vae.fit(model, torch.randn(40, 5), num_epochs=2, batch_size=20, seed=0, progress=False)
    assert not unmoved(model, before)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_and_log_q_depend_on_every_number_of_the_output(kind: str) -> None:
    posterior = KINDS[kind](3)
    output = torch.randn(posterior.outputs(3), requires_grad=True)
    law = posterior(output)
    z = law.rsample()
    for depends in [z.sum(), law.log_prob(z) + z.square().sum()]:
        (slope,) = torch.autograd.grad(depends, output, retain_graph=True)
        assert (slope != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_is_built_again_by_name(kind: str) -> None:
    posterior = KINDS[kind](3)
    again = POSTERIORS[kind](**posterior.config())
    again.load_state_dict(posterior.state_dict())
    output = torch.randn(2, posterior.outputs(3))
    assert again.outputs(3) == posterior.outputs(3)
    assert again.config() == posterior.config()
    torch.testing.assert_close(again(output).mean, posterior(output).mean)
    assert isinstance(as_posterior(kind, 3), POSTERIORS[kind])


def test_the_full_kl_is_the_formula_and_the_mean_over_draws() -> None:
    q = FullNormal()(torch.randn(4, 9))
    p = DiagonalGaussian(torch.randn(3), torch.randn(3))
    as_full = pyro.distributions.MultivariateNormal(p.loc, scale_tril=p.stddev.diag())
    found = kl_divergence(q, p)
    torch.testing.assert_close(found, kl_divergence(q, as_full.expand(torch.Size([4]))))
    z = q.rsample(torch.Size([20_000]))
    ratio = q.log_prob(z) - p.log_prob(z)
    assert ((ratio.mean(0) - found).abs() < 5 * ratio.std(0) / math.sqrt(len(z))).all()


def test_pyros_mean_field_elbo_uses_the_full_kl() -> None:
    posterior = FullNormal()
    model = VAE(nn.Linear(5, 9), nn.Linear(3, 5), "gaussian", 3, StandardNormal(3), posterior)
    x = torch.randn(20, 5)
    with pyro.get_param_store().scope():
        many = TraceMeanField_ELBO(2000, vectorize_particles=True, max_plate_nesting=1)
        found = -many.loss(model.model, model.guide, x)
    draws = particles.draw(model, x, 4000).log_weight.sum(1)
    # Both are means of draws whose sd is that of `draws` at most: 5 √(1/2000 + 1/4000) of it.
    assert found == pytest.approx(draws.mean().item(), abs=0.14 * draws.std().item())


def test_the_full_normal_has_a_cholesky_factor_with_a_positive_diagonal() -> None:
    output = torch.tensor([1.0, 2.0, 3.0, 0.1, -0.2, 0.3, 10.0, 20.0, 30.0])
    law = FullNormal()(output)
    expected = [[math.exp(0.1), 0, 0], [10, math.exp(-0.2), 0], [20, 30, math.exp(0.3)]]
    torch.testing.assert_close(law.scale_tril, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(law.mean, output[:3])


def test_the_mean_of_a_flow_is_that_of_its_draws_and_leaves_the_last_one_known() -> None:
    posterior = bent(InverseAutoregressive(4, 2, 3, [8]))
    law = posterior(torch.randn(2, posterior.outputs(4)))
    z = law.rsample(torch.Size([40_000]))
    before = law.log_prob(z)
    mean = law.mean
    # Five standard errors of the draws, and 128 even points err by a twentieth of an sd at most.
    assert ((mean - z.mean(0)).abs() < (0.05 + 5 / 200) * z.std(0)).all()
    torch.testing.assert_close(law.log_prob(z), before, rtol=0, atol=0)
    torch.testing.assert_close(law.mean, mean, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "size"), [("diagonal", 1e4), ("full", 10.0), ("iaf", 1e4)])
def test_huge_outputs_of_the_encoder_do_not_overflow(kind: str, size: float) -> None:
    posterior = KINDS[kind](4).float()
    law = posterior(size * torch.randn(50, posterior.outputs(4), dtype=torch.float32))
    z = law.rsample()
    assert z.isfinite().all()
    assert law.log_prob(z).isfinite().all()


class Crescent(nn.Module):
    """x = z2 − (z1 + 1)²: what one x leaves open is an arc, or for negative x two of them."""

    def forward(self, z: Tensor) -> Tensor:
        return z[..., 1:] - (z[..., :1] + 1).square()


def crescent_bound(posterior: Posterior, x: Tensor) -> float:
    """Train the guide alone; return the ELBO of all x."""
    encoder = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, posterior.outputs(2)))
    noise = torch.tensor(0.3).log()
    model = VAE(encoder, Crescent(), lambda m: DiagonalGaussian(m, noise), 2, posterior=posterior)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(250):
        optimizer.zero_grad()
        (-particles.draw(model, x, 32).log_weight.mean(0).sum()).backward()
        optimizer.step()
    with torch.no_grad():
        return particles.draw(model, x, 20_000).log_weight.mean(0).sum().item()


def test_a_flow_follows_a_crescent_that_a_normal_cannot() -> None:
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    z1 = torch.linspace(-8, 8, 4001)  # z2 by hand: x | z1 ~ N(−(z1 + 1)², 1 + 0.3²)
    given = torch.distributions.Normal(-(z1 + 1).square(), math.sqrt(1.09)).log_prob(x)
    joint = torch.distributions.Normal(0.0, 1.0).log_prob(z1) + given
    evidence = (joint.logsumexp(1) + math.log(16 / 4000)).sum().item()
    normal = crescent_bound(DiagonalNormal(), x)
    flow = crescent_bound(InverseAutoregressive(2, 2, 4, [32]), x)
    # Over five seeds the flow won 0.7 to 1.2 nats of the 1.9 that the normal lacks.
    assert normal + 0.4 < flow < evidence


def test_refuses_log_q_of_what_a_flow_did_not_draw() -> None:
    posterior = InverseAutoregressive(3, 2, 2)
    law = posterior(torch.randn(5, posterior.outputs(3)))
    first = law.rsample()
    law.rsample()
    for value in [first, first.clone(), torch.zeros(5, 3)]:
        with pytest.raises(ValueError, match=r"the very tensor .* drew last.* 3 passes .* FlowPr"):
            law.log_prob(value)


def test_refuses_log_q_of_a_draw_without_the_gradient_that_is_wanted() -> None:
    posterior = InverseAutoregressive(3, 2, 2)
    law = posterior(torch.randn(5, posterior.outputs(3)))
    z = law.sample()
    with pytest.raises(ValueError, match="value must have been drawn with a gradient"):
        law.log_prob(z)
    with torch.no_grad():
        torch.testing.assert_close(law.log_prob(z), law.log_prob_slowly(z))
    posterior.requires_grad_(False)
    assert law.log_prob(z).shape == (5,)
    law = posterior(torch.randn(5, posterior.outputs(3), requires_grad=True))
    with pytest.raises(ValueError, match="value must have been drawn with a gradient"):
        law.log_prob(law.sample())


def test_refuses_a_prior_and_what_is_no_law() -> None:
    with pytest.raises(ValueError, match=r"got the prior FlowPrior; .* use InverseAutoregressive"):
        as_posterior(FlowPrior(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="posterior must be one of diagonal, full, iaf, got 'x'"):
        as_posterior("x")
    with pytest.raises(ValueError, match="posterior must be a name, an instance or a function"):
        as_posterior(FullNormal)  # type: ignore[arg-type]


def test_refuses_outputs_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"L \+ L \(L \+ 1\) / 2 numbers .* got 8"):
        FullNormal()(torch.randn(3, 8))
    with pytest.raises(ValueError, match=r"the encoder must give 8 numbers, .* got 7"):
        InverseAutoregressive(3, 2, 2)(torch.randn(3, 7))
    with pytest.raises(ValueError, match="latent_dim must be the flow's 3, got 4"):
        InverseAutoregressive(3, 2, 2).outputs(4)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_says_what_forward_takes(kind: str) -> None:
    for dim in range(2, 12):
        posterior = KINDS[kind](dim) if kind != "iaf" else InverseAutoregressive(dim)
        assert posterior(torch.randn(3, posterior.outputs(dim))).event_shape == (dim,)


def test_a_flow_that_reverses_the_order_has_it_reversed_in_every_second_map() -> None:
    turned = [n.permutation.tolist() for n in InverseAutoregressive(3, 3).networks]
    assert turned == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    same = [n.permutation.tolist() for n in InverseAutoregressive(3, 2, reverse=False).networks]
    assert same == [[0, 1, 2], [0, 1, 2]]
    assert all(isinstance(n, flows.Masked) for n in InverseAutoregressive(3).networks)
