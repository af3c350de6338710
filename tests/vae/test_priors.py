import copy
import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn

from pplvae import vae
from pplvae.vae import VAE, particles
from pplvae.vae.posteriors import FullNormal, InverseAutoregressive
from pplvae.vae.priors import (
    PRIORS,
    FlowPrior,
    MixtureOfGaussians,
    Prior,
    StandardNormal,
    VampPrior,
    as_prior,
)

D = 5

KINDS: dict[str, Callable[[int], Prior]] = {
    "standard_normal": StandardNormal,
    "mixture": lambda dim: MixtureOfGaussians(dim, 4),
    "vamp": lambda dim: VampPrior(dim, 6, data=torch.randn(20, D)),
    "flow": lambda dim: FlowPrior(dim, 2, [8]),
}


def small_vae(prior: Prior, latent_dim: int = 3) -> VAE:
    """A VAE whose prior is far from where it starts."""
    encoder = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 2 * latent_dim))
    if isinstance(prior, MixtureOfGaussians):
        prior.logits.data.normal_()
    if isinstance(prior, FlowPrior):
        for network in prior.networks:
            for weight in network.layers[-1].parameters():  # type: ignore[union-attr]
                weight.data.mul_(4)
    return VAE(encoder, nn.Linear(latent_dim, D), "gaussian", latent_dim, prior)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def unmoved(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])]


@pytest.mark.parametrize("kind", KINDS)
def test_integrates_to_one_and_its_draws_fit(kind: str) -> None:
    model = small_vae(KINDS[kind](2), 2)
    steps = torch.linspace(-12, 12, 401)
    grid = torch.cartesian_prod(steps, steps)
    mass = model.prior().log_prob(grid).exp().detach() * (steps[1] - steps[0]) ** 2
    # The flow's network has a kink in its second derivative: the sum errs by a few 1e-6.
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    draws = model.prior().sample(torch.Size([20_000]))
    assert not draws.requires_grad
    products = [(z, z.square(), z[:, :1] * z[:, 1:]) for z in (draws, grid)]
    for found, expected in zip(*products, strict=True):
        error = (found.mean(0) - (mass[:, None] * expected).sum(0)).abs()
        assert (error < 5 * found.std(0) / math.sqrt(len(draws)) + 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_many_particles_weigh_what_a_slow_loop_says(kind: str) -> None:
    model, x = small_vae(KINDS[kind](3)).requires_grad_(False), torch.randn(4, D)
    found = particles.draw(model, x, 6)
    z = found.values["z"]
    slow = [
        [
            model.p(z[k, b]).log_prob(x[b])
            + model.prior().log_prob(z[k, b])
            - model.q(x[b]).log_prob(z[k, b])
            for b in range(4)
        ]
        for k in range(6)
    ]
    torch.testing.assert_close(found.log_weight, torch.tensor(slow), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_bare_pyro_svi_moves_every_weight(kind: str, num_particles: int) -> None:
    model, x = small_vae(KINDS[kind](3)), torch.randn(20, D)
    before = weights(model)
    elbo = Trace_ELBO(
        num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=1
    )
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), elbo)
    for _ in range(3):
        svi.step(x)
    pyro.clear_param_store()
    assert not unmoved(model, before)
    assert copy.deepcopy(model).prior().sample().isfinite().all()  # and no graph is left in it


@pytest.mark.parametrize("kind", KINDS)
def test_fit_moves_every_weight_and_the_vae_samples(kind: str) -> None:
    model = small_vae(KINDS[kind](3))
    before = weights(model)
    vae.fit(model, torch.randn(40, D), num_epochs=2, batch_size=20, seed=0, progress=False)
    assert not unmoved(model, before)
    assert model.sample(7, seed=0).shape == (7, D)


@pytest.mark.parametrize("kind", KINDS)
def test_is_built_again_by_name(kind: str) -> None:
    model = small_vae(KINDS[kind](3))
    z = torch.randn(9, 3)
    expected = model.prior().log_prob(z)
    again = PRIORS[kind](3, **model.prior.config())
    assert again.config() == model.prior.config()
    again.load_state_dict(model.prior.state_dict())
    model.prior = again
    again.attach(model)
    torch.testing.assert_close(again().log_prob(z), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_follows_the_dtype_of_the_networks(kind: str) -> None:
    model = small_vae(KINDS[kind](3)).float()
    assert model.sample(4, seed=0).dtype == torch.float32
    draws = particles.draw(model, torch.randn(6, D, dtype=torch.float32), 2)
    assert draws.log_prior.dtype == torch.float32
    assert draws.log_prior.shape == (2, 6)


def test_a_mixture_is_torchs_and_does_not_underflow() -> None:
    prior = MixtureOfGaussians(3, 4)
    with torch.no_grad():
        for weight in prior.parameters():
            weight.normal_()
    parts = torch.distributions.Normal(prior.locs, prior.log_scales.exp())
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=prior.logits),
        torch.distributions.Independent(parts, 1),
    )
    z = 3 * torch.randn(5, 7, 3)
    torch.testing.assert_close(prior().log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(prior().mean, theirs.mean)
    assert prior().log_prob(torch.full((3,), 1e4)).isfinite()


def test_one_normal_at_the_origin_is_the_standard_normal() -> None:
    prior, z = MixtureOfGaussians(3, 1), torch.randn(9, 3)
    prior.locs.data.zero_()
    torch.testing.assert_close(prior().log_prob(z), StandardNormal(3)().log_prob(z))


@pytest.mark.parametrize("posterior", ["diagonal", FullNormal()])
def test_a_vamp_prior_is_the_average_of_the_guide(posterior: str | FullNormal) -> None:
    outputs = 6 if posterior == "diagonal" else 9
    prior = VampPrior(3, 6, data=torch.randn(20, D))
    model = VAE(nn.Linear(D, outputs), nn.Linear(3, D), "gaussian", 3, prior, posterior)
    z = torch.randn(9, 3)
    each = torch.stack([model.q(u).log_prob(z) for u in prior.pseudo_inputs])
    expected = each.exp().mean(0).log()
    torch.testing.assert_close(model.prior().log_prob(z), expected)
    torch.testing.assert_close(
        prior().mean, torch.stack([model.q(u).mean for u in prior.pseudo_inputs]).mean(0)
    )


def test_pseudo_inputs_start_at_the_data_and_never_leave_its_range() -> None:
    data = torch.randn(20, D) * torch.tensor([1.0, 10.0, 0.1, 0.0, 1.0]) + 3
    prior = VampPrior(2, 20, data=data)
    # Rows at the edges start 1% of the range inside.
    distance = torch.cdist(data, prior.pseudo_inputs).min(1).values
    assert (distance < 0.011 * (data.amax(0) - data.amin(0)).norm()).all()
    prior.free.data.normal_(0, 1e3)
    assert (prior.pseudo_inputs >= data.amin(0)).all()
    assert (prior.pseudo_inputs <= data.amax(0)).all()
    anywhere = VampPrior(2, 9, data_dim=4).pseudo_inputs
    assert anywhere.shape == (9, 4)
    assert ((anywhere > 0) & (anywhere < 1)).all()


def test_a_copy_of_a_vae_has_a_vamp_prior_of_its_own_encoder() -> None:
    model = small_vae(VampPrior(3, 6, data=torch.randn(20, D)))
    twin, z = copy.deepcopy(model), torch.randn(9, 3)
    before = model.prior().log_prob(z)
    torch.testing.assert_close(twin.prior().log_prob(z), before)
    with torch.no_grad():
        for weight in twin.encoder.parameters():
            weight.normal_()
    torch.testing.assert_close(model.prior().log_prob(z), before)
    assert (twin.prior().log_prob(z) - before).abs().min() > 1e-3
    each = torch.stack([twin.q(u).log_prob(z) for u in twin.prior.pseudo_inputs])  # type: ignore[union-attr]
    torch.testing.assert_close(twin.prior().log_prob(z), each.exp().mean(0).log())


def test_a_flow_priors_density_takes_one_pass_and_a_draw_one_for_each_dimension() -> None:
    prior, passes = FlowPrior(6, 3, [12]), []
    for network in prior.networks:
        network.register_forward_hook(lambda *_: passes.append(1))
    prior().log_prob(torch.randn(7, 6))
    assert len(passes) == 3
    prior().sample(torch.Size([7]))
    assert len(passes) == 3 + 3 * 6


def test_a_flow_prior_forgets_what_it_saw_without_a_gradient() -> None:
    law, z = FlowPrior(3)(), torch.randn(5, 3)
    with torch.no_grad():
        before = law.log_prob(z)
    assert law.log_prob(z).requires_grad
    torch.testing.assert_close(law.log_prob(z), before)


def test_refuses_the_slow_direction_and_says_what_to_use() -> None:
    law = FlowPrior(4)()
    assert not law.has_rsample
    with pytest.raises(ValueError, match=r"back through 4 passes .* use InverseAutoregressive"):
        law.rsample()
    with pytest.raises(ValueError, match=r"got the posterior InverseAutoregressive; .* FlowPrior"):
        as_prior(InverseAutoregressive(3), 3)  # type: ignore[arg-type]
    prior = VampPrior(3, 6, data=torch.randn(20, D))
    guide = InverseAutoregressive(3, 2, 2)
    with pytest.raises(ValueError, match=r"for a VampPrior, .* got Inv.* DiagonalNormal or Full"):
        VAE(nn.Linear(D, 8), nn.Linear(3, D), "gaussian", 3, prior, guide)
    small_vae(prior)  # and after the refusal the prior is still free


def test_refuses_a_vamp_prior_that_is_none() -> None:
    data = torch.randn(20, D)
    with pytest.raises(ValueError, match=r"data must be given to a VampPrior, .* got neither"):
        as_prior("vamp", 3)
    with pytest.raises(ValueError, match=r"data must be given to a VampPrior, .* got both"):
        VampPrior(3, 5, data=data, data_dim=D)
    with pytest.raises(ValueError, match=r"num_components must be in \[1, 20\] for 20 points"):
        VampPrior(3, 21, data=data)
    with pytest.raises(ValueError, match="prior must be given to a VAE before it is a law"):
        VampPrior(3, 5, data=data)()
    with pytest.raises(ValueError, match="limits must be None where data are given"):
        VampPrior(3, 5, data=data, limits=(0, 1))
    with pytest.raises(ValueError, match=r"limits must be the least number .* got \(1, 0\)"):
        VampPrior(3, 5, data_dim=D, limits=(1, 0))
    with pytest.raises(ValueError, match="as many columns as the encoder takes, got 4"):
        small_vae(VampPrior(3, 5, data=data[:, :4]))
    prior = VampPrior(3, 5, data=data)
    small_vae(prior)
    with pytest.raises(ValueError, match="must be a VampPrior of this VAE's own"):
        small_vae(prior)


@pytest.mark.parametrize("likelihood", ["categorical", "discretized_logistic", "gaussian"])
def test_pseudo_inputs_are_not_shut_in_the_unit_interval_where_data_are_not(
    likelihood: str,
) -> None:
    with pytest.raises(ValueError, match=r"limits, or data, must be given .* got neither for"):
        vae.mlp(D, 3, likelihood=likelihood, prior=VampPrior(3, 9, data_dim=D))
    prior = VampPrior(3, 9, data_dim=D, limits=(0, 255))
    vae.mlp(D, 3, likelihood=likelihood, prior=prior)
    # Of 45 uniform draws none is above 128 with probability 3e-14.
    assert prior.pseudo_inputs.min() >= 0
    assert 128 < prior.pseudo_inputs.max() <= 255
    for unit in ("bernoulli", "continuous_bernoulli"):
        vae.mlp(D, 3, likelihood=unit, prior=VampPrior(3, 9, data_dim=D))


def test_pseudo_inputs_leave_the_running_averages_of_batch_norm_to_the_data() -> None:
    norm = nn.BatchNorm1d(8, momentum=1.0)  # remembers the last batch alone
    encoder = nn.Sequential(nn.Linear(D, 8), norm, nn.Linear(8, 6))
    x = torch.randn(50, D)
    prior = VampPrior(3, 6, data=x + 1)
    model = VAE(encoder, nn.Linear(3, D), "gaussian", 3, prior)
    assert not norm.num_batches_tracked  # making the VAE was no batch
    particles.draw(model, x, 2).log_weight.sum().backward()
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, encoder[0](x).mean(0).detach())
    assert prior.free.grad is not None
    assert prior.free.grad.abs().min() > 0
    # So the prior that is trained is the prior that is judged.
    z = torch.randn(9, 3)
    trained = prior().log_prob(z)
    assert norm.training
    torch.testing.assert_close(model.eval().prior().log_prob(z), trained)


def test_refuses_names_and_things_that_are_no_prior() -> None:
    with pytest.raises(ValueError, match="prior must be one of flow, mixture, standard_normal, v"):
        as_prior("x", 2)
    with pytest.raises(ValueError, match="prior must be a name, an instance or a function"):
        as_prior(StandardNormal, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        MixtureOfGaussians(2, 0)
