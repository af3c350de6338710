import pyro
import pytest
import torch
from pyro.poutine import trace
from torch import Tensor, nn
from torch.func import jacrev

from pplvae import vae
from pplvae.vae import VAE, flows
from pplvae.vae.posteriors import DiagonalNormal, FullNormal, InverseAutoregressive, Posterior
from pplvae.vae.priors import FlowPrior, MixtureOfGaussians, Prior, StandardNormal

D, L, B = 5, 3, 4

POSTERIORS = {
    "diagonal": DiagonalNormal,
    "full": FullNormal,
    "triangular flow": lambda: InverseAutoregressive(L, 2, 2, [8], reverse=False),
    "flow": lambda: InverseAutoregressive(L, 3, 2, [8, 8]),
}
PRIORS = {
    "standard normal": lambda: StandardNormal(L),
    "triangular flow": lambda: FlowPrior(L, 2, [8], reverse=False),
    "flow": lambda: FlowPrior(L, 3, [8, 8]),
}


def bent(module: nn.Module) -> nn.Module:
    """Move a flow that starts near the identity away from it."""
    for part in module.modules():
        if isinstance(part, flows.Masked):
            for weight in part.layers[-1].parameters():
                weight.data.mul_(4)
    return module


def gaussian_vae(posterior: Posterior | None = None, prior: Prior | None = None) -> VAE:
    posterior = posterior or DiagonalNormal()
    encoder = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, posterior.outputs(L)))
    decoder = nn.Sequential(nn.Linear(L, 8), nn.Tanh(), nn.Linear(8, D))
    likelihood = vae.Gaussian(start=0.3)
    return bent(VAE(encoder, decoder, likelihood, L, prior or StandardNormal(L), posterior))  # type: ignore[return-value]


def noise_density(noise: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1)


def above_diagonal(jacobian: Tensor) -> Tensor:
    return jacobian[torch.ones_like(jacobian, dtype=torch.bool).triu(1)]


@pytest.mark.parametrize("prior", PRIORS)
def test_what_the_decoder_makes_of_noise_has_the_density_of_the_pyro_model(prior: str) -> None:
    model = gaussian_vae(prior=PRIORS[prior]())
    first, second = torch.randn(B, L), torch.randn(B, D)
    z, of_prior = flows.prior_map(model, first)
    x, of_decoder = flows.decoder_map(model, second, z)
    pushed = noise_density(first) + noise_density(second) - of_prior - of_decoder
    program = pyro.condition(model.joint, data={"z": z})
    torch.testing.assert_close(
        pushed.sum(), trace(program).get_trace(x).log_prob_sum(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_what_the_encoder_makes_of_noise_has_the_density_of_the_guide(posterior: str) -> None:
    model, x, noise = gaussian_vae(POSTERIORS[posterior]()), torch.randn(B, D), torch.randn(B, L)
    z, ladj = flows.encoder_map(model, x, noise)
    law = model.q(x)
    found = getattr(law, "log_prob_slowly", law.log_prob)(z)
    torch.testing.assert_close(noise_density(noise) - ladj, found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_encoders_map_is_the_draw_of_the_pyro_guide(posterior: str) -> None:
    model, x = gaussian_vae(POSTERIORS[posterior]()), torch.randn(B, D)
    state = torch.get_rng_state()
    guide = trace(model.recognition).get_trace(x)
    torch.set_rng_state(state)
    z, ladj = flows.encoder_map(model, x, noise := torch.randn(B, L))
    torch.testing.assert_close(z, guide.nodes["z"]["value"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        (noise_density(noise) - ladj).sum(), guide.log_prob_sum(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("prior", PRIORS)
def test_noise_to_codes_and_data_is_block_triangular_and_increasing(prior: str) -> None:
    model = gaussian_vae(prior=PRIORS[prior]())

    def generate(noise: Tensor) -> Tensor:
        z, _ = flows.prior_map(model, noise[:L])
        return torch.cat([z, flows.decoder_map(model, noise[L:], z)[0]])

    noise = torch.randn(L + D)
    jacobian: Tensor = jacrev(generate)(noise)  # type: ignore[assignment]
    z, of_prior = flows.prior_map(model, noise[:L])
    total = of_prior + flows.decoder_map(model, noise[L:], z)[1]
    assert (jacobian[:L, L:] == 0).all()
    assert (above_diagonal(jacobian[L:, L:]) == 0).all()
    torch.testing.assert_close(jacobian.det().log(), total)  # a positive determinant
    if prior != "flow":  # one that turns the order of the coordinates is no triangle of its own
        assert (above_diagonal(jacobian) == 0).all()
        assert (jacobian.diagonal() > 0).all()


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_data_and_noise_to_codes_is_triangular_and_increasing(posterior: str) -> None:
    model = gaussian_vae(POSTERIORS[posterior]())

    def infer(both: Tensor) -> Tensor:
        return torch.cat([both[:D], flows.encoder_map(model, both[:D], both[D:])[0]])

    both = torch.randn(D + L)
    jacobian: Tensor = jacrev(infer)(both)  # type: ignore[assignment]
    assert torch.equal(jacobian[:D], torch.eye(D, D + L))
    ladj = flows.encoder_map(model, both[:D], both[D:])[1]
    torch.testing.assert_close(jacobian.det().log(), ladj)
    if posterior != "flow":
        assert (above_diagonal(jacobian) == 0).all()
        assert (jacobian.diagonal() > 0).all()


@pytest.mark.parametrize("backwards", [False, True])
def test_each_map_of_a_flow_increases_in_each_coordinates_own_noise(backwards: bool) -> None:
    network = bent(flows.Masked(L, 2, [8], backwards=backwards))
    carry = flows.Autoregressive(network, torch.randn(2))  # type: ignore[arg-type]
    noise = torch.randn(50, L)
    for i in range(L):
        step = torch.zeros(L).index_fill(0, torch.tensor(i), 2.0)
        difference = carry(noise + step) - carry(noise)
        before = slice(i + 1, L) if backwards else slice(0, i)
        assert (difference[:, i] > 0).all()
        assert (difference[:, before] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_way_back_is_the_inverse_in_any_dtype(
    dtype: torch.dtype, default: torch.dtype
) -> None:
    torch.set_default_dtype(default)
    network = bent(flows.Masked(6, 0, [12, 12], backwards=False)).to(dtype)
    noise = torch.randn(50, 6, dtype=dtype)
    carry, back = (flows.Autoregressive(network) for _ in range(2))  # type: ignore[arg-type]
    returned = back.inv(carry(noise))
    assert returned.dtype == dtype
    torch.testing.assert_close(returned, noise, rtol=0, atol=200 * torch.finfo(dtype).eps)


def test_a_map_never_stretches_beyond_its_limit() -> None:
    network = flows.Masked(L, 0, [8], backwards=False)
    log_scale = network(1e6 * torch.randn(20, L))[1]
    assert (log_scale.abs() <= flows.LIMIT).all()
    assert log_scale.abs().max() > 0.99 * flows.LIMIT


def test_refuses_laws_that_are_no_known_image_of_noise() -> None:
    with pytest.raises(ValueError, match=r"law must be a normal or a flow of one .* got"):
        flows.decoder_map(vae.mlp(D, L), torch.randn(D), torch.randn(L))
    with pytest.raises(ValueError, match=r"law must be a normal .* got Mixture"):
        flows.prior_map(gaussian_vae(prior=MixtureOfGaussians(L)), torch.randn(L))


def test_refuses_flows_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="latent_dim must be at least 2 for a flow of affine"):
        FlowPrior(1)
    with pytest.raises(
        ValueError, match=r"hidden_dims must be at least 5 for 5 latent dim.* got 4"
    ):
        InverseAutoregressive(5, 2, 3, [4])
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        FlowPrior(2, 0)
    with pytest.raises(ValueError, match="the number of hidden_dims must be at least 1, got 0"):
        FlowPrior(2, 1, [])
