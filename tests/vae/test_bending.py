"""A trained VAE bent by flows: the same at first, better in the end."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pplvae import vae
from pplvae.vae import VAE, bounds, posteriors, priors


@pytest.fixture
def x() -> Tensor:
    return (torch.rand(30, 36) < 0.4).double()


PLAIN: dict[str, Callable[[], VAE]] = {
    "mlp": lambda: vae.mlp(36, 3, hidden_dims=(10,), seed=0),
    "linear": lambda: vae.linear(36, 3, seed=0),
    "conv": lambda: vae.conv((6, 6), 3, channels=(4,), seed=0),
}


@pytest.mark.parametrize("name", PLAIN)
def test_starts_as_the_vae_that_it_was_made_of(name: str, x: Tensor) -> None:
    plain = PLAIN[name]()
    with torch.no_grad():
        for parameter in plain.parameters():  # as training would: no bias stays at 0
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    bent = vae.bend(plain, seed=0)
    law, bent_law = plain.q(x), bent.q(x)
    z = bent_law.rsample()
    torch.testing.assert_close(bent_law.log_prob(z), law.log_prob(z))
    torch.testing.assert_close(bent.prior().log_prob(z), plain.prior().log_prob(z))
    torch.testing.assert_close(bent.p(z).log_prob(x), plain.p(z).log_prob(x))
    # By 1000 draws for each of 30 points of log q − log p − KL, of sd below 3: 3 / √30000 = 0.02.
    sampled = bounds.elbo(bent, x, num_samples=4000, seed=0).value
    assert sampled == pytest.approx(
        bounds.elbo(plain, x, num_samples=4000, seed=0).value, abs=0.05
    )
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


def test_shares_nothing_with_it_and_every_flow_is_trained(x: Tensor) -> None:
    plain = vae.mlp(36, 3, hidden_dims=(10,), likelihood=vae.Gaussian(), seed=0)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    bent = vae.bend(plain, seed=0)
    start = {key: value.clone() for key, value in bent.state_dict().items()}
    vae.fit(bent, x, num_epochs=2, validation=0.0, seed=0, progress=False)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    after, moved = bent.state_dict(), [name for name, _ in bent.named_parameters()]
    assert all(not torch.equal(after[name], start[name]) for name in moved)


def test_a_prior_alone_or_a_guide_alone(x: Tensor) -> None:
    plain = vae.mlp(36, 3, hidden_dims=(10,), seed=0)
    one = vae.bend(plain, prior=priors.FlowPrior(3, 1))
    assert isinstance(one.prior, priors.FlowPrior)
    assert isinstance(one.posterior, posteriors.DiagonalNormal)
    other = vae.bend(plain, posterior=posteriors.InverseAutoregressive(3, 1, context_dim=2))
    assert isinstance(other.prior, priors.StandardNormal)
    torch.testing.assert_close(other.prior().log_prob(x[:, :3]), plain.prior().log_prob(x[:, :3]))


def test_is_saved_and_loaded_as_any(x: Tensor, tmp_path: object) -> None:
    bent = vae.bend(vae.mlp(36, 3, hidden_dims=(10,), seed=0), seed=0)
    bent.save(f"{tmp_path}/bent")
    again = VAE.load(f"{tmp_path}/bent")
    assert torch.equal(again.encode(x), bent.encode(x))


def test_a_flow_prior_follows_a_crescent_that_no_normal_does() -> None:
    """Codes (t, t²): through a linear decoder, a normal prior gives x but its covariance."""
    t = torch.randn(256, 1)
    x = torch.cat([t, t**2], dim=1) @ torch.randn(2, 6) + 0.2 * torch.randn(256, 6)
    settings = {"batch_size": 64, "validation": 0.0, "seed": 0, "progress": False}
    plain = vae.linear(6, 2, seed=0)
    vae.fit(plain, x, num_epochs=50, learning_rate=0.03, **settings)  # type: ignore[arg-type]
    bent = vae.bend(plain, seed=0)
    for model in (bent, plain):
        vae.fit(model, x, num_epochs=40, learning_rate=0.005, **settings)  # type: ignore[arg-type]
    ours, theirs = (bounds.elbo(m, x, num_samples=20, seed=0).value for m in (bent, plain))
    # The negentropy of (t, t²) given a little noise is about a nat.
    assert ours > theirs + 0.4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: vae.hierarchical(36, (4, 2)), "one latent layer, got a HierarchicalVAE"),
        (lambda: vae.mlp(36, 3, prior="flow"), "got FlowPrior and DiagonalNormal"),
        (lambda: vae.mlp(36, 3, posterior="iaf"), "got StandardNormal and InverseAutoregressive"),
        (
            lambda: VAE(torch.nn.Linear(36, 6), torch.nn.Linear(3, 36), "bernoulli", 3),
            "made by a builder",
        ),
    ],
)
def test_refuses_what_it_cannot_bend(given: Callable[[], VAE], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vae.bend(given())
