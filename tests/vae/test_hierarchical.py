import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn

from pplvae import vae
from pplvae.vae import particles, priors
from pplvae.vae.builders import hierarchical
from pplvae.vae.distributions import DiagonalGaussian
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.likelihoods import Gaussian

ELBOS = [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO]


def linear(weight: Any, bias: Any) -> nn.Linear:
    weight, bias = torch.tensor(weight), torch.tensor(bias)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def conjugate(widened: float = 1.0) -> HierarchicalVAE:
    """With z2 ~ N(0, 1), z1 | z2 ~ N(0.8 z2 + 0.3, 0.6²) and x | z1 ~ N(2 z1 − 1, 0.5²).

    z1 ~ N(0.3, 1), so z1 | x ~ N(m, v) with 1/v = 1 + 2² / 0.25 = 17 and m = v (0.3 + 8 (x + 1));
    z2 | z1 ~ N(0.8 (z1 − 0.3), 0.36). The guide's scales are those, times `widened`.
    """
    lower = 0.5 * math.log(1 / 17) + math.log(widened)
    upper = math.log(0.6) + math.log(widened)
    return HierarchicalVAE(
        linear([[8 / 17], [0.0]], [8.3 / 17, lower]),
        linear([[2.0]], [-1.0]),
        Gaussian(0.5),
        (1, 1),
        upper_encoder=linear([[0.8], [0.0]], [-0.24, upper]),
        upper_decoder=linear([[0.8], [0.0]], [0.3, math.log(0.6)]),
    ).eval()


def evidence(x: Tensor) -> Tensor:
    """log p(x) of `conjugate`, shape (B,): x ~ N(2 · 0.3 − 1, 4 + 0.25)."""
    return dist.Normal(-0.4, math.sqrt(4.25)).log_prob(x).squeeze(-1)


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.randn(9, 1)


@pytest.fixture
def binary() -> Tensor:
    return (torch.rand(60, 6) < 0.5).double()


def small(**options: Any) -> HierarchicalVAE:
    sizes = {"hidden_dims": (8,), "upper_hidden_dims": (5,), "seed": 0}
    return hierarchical(6, (3, 2), **sizes | options)


def test_every_weight_is_the_evidence_where_the_guide_is_the_posterior(x: Tensor) -> None:
    found = particles.draw(conjugate(), x, 5)
    torch.testing.assert_close(found.log_weight, evidence(x).expand(5, 9))
    assert {name: z.shape for name, z in found.values.items()} == {
        "z1": (5, 9, 1),
        "z2": (5, 9, 1),
    }


def test_the_importance_weighted_bound_finds_the_evidence(x: Tensor) -> None:
    log_weight = particles.draw(conjugate(widened=1.5), x, 20_000).log_weight
    found = log_weight.logsumexp(0) - math.log(20_000)
    # w / p(x) = c² exp(-ε·ε (c² - 1) / 2) with c = 1.5 and ε two normals: its mean is 1 and its
    # mean square c⁴ / (2 c² - 1) = 1.45, so five standard errors are 5 √(0.45 / 20000) = 0.024.
    torch.testing.assert_close(found, evidence(x), rtol=0, atol=0.024)


def test_the_log_joint_is_that_of_the_formula(x: Tensor) -> None:
    values = {"z1": torch.randn(4, 9, 1), "z2": torch.randn(4, 9, 1)}
    z1, z2 = values["z1"], values["z2"]
    expected = (
        dist.Normal(0.0, 1.0).log_prob(z2)
        + dist.Normal(0.8 * z2 + 0.3, 0.6).log_prob(z1)
        + dist.Normal(2 * z1 - 1, 0.5).log_prob(x)
    ).squeeze(-1)
    torch.testing.assert_close(particles.log_joint(conjugate(), x, values), expected)
    model = pyro.condition(conjugate().joint, data={name: z[0] for name, z in values.items()})
    trace = pyro.poutine.trace(model).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), expected[0].sum())


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, RenyiELBO])
def test_pyros_bounds_are_tight_where_the_guide_is_the_posterior(elbo: Any, x: Tensor) -> None:
    model = conjugate()
    one = elbo(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with pyro.get_param_store().scope():
        bound = -one.loss(model.model, model.guide, x)
    assert bound == pytest.approx(evidence(x).sum().item())


def test_the_mean_field_bound_is_right_though_the_guide_draws_z1_first(x: Tensor) -> None:
    """A formula for KL(q(z1 | x) ‖ p(z1 | z2)) would bring it 0.10 nats a point too low."""
    model = conjugate()
    size = 40_000
    one = TraceMeanField_ELBO(size, vectorize_particles=True, max_plate_nesting=1)
    with pyro.get_param_store().scope(), pytest.warns(UserWarning, match="mean field"):
        bound = -one.loss(model.model, model.guide, x)
    # A draw of log p(x | z1) + log p(z1 | z2) - log q(z1 | x) - KL scatters by 1.0 nats or less:
    # five standard errors are 0.008.
    assert bound / 9 == pytest.approx(evidence(x).mean().item(), abs=5 / math.sqrt(9 * size))


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("elbo", ELBOS)
def test_a_bare_pyro_svi_trains_every_weight(elbo: Any, vectorized: bool, binary: Tensor) -> None:
    model = small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    estimator = elbo(num_particles=2, vectorize_particles=vectorized, max_plate_nesting=1)
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), estimator)
    losses = [svi.step(binary) for _ in range(60)]
    assert all((p != before[name]).any() for name, p in model.named_parameters())
    assert sum(losses[-10:]) < sum(losses[:10])
    pyro.clear_param_store()


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_fits_as_any_other_vae(objective: str, binary: Tensor) -> None:
    model = small()
    fit = vae.fit(
        model, binary, objective=objective, num_epochs=30, batch_size=20, learning_rate=0.01,
        seed=0, progress=False,
    )  # fmt: skip
    assert fit.history.losses[-1] < fit.history.losses[0]
    assert model.encode(binary).shape == (60, 3)
    assert model.reconstruct(binary).shape == (60, 6)


def test_samples_follow_the_marginal_of_x() -> None:
    found = conjugate().sample(40_000, seed=0)
    # Five standard errors: 5 √(4.25 / 40000) = 0.052, and of the variance 5 · 4.25 √(2 / 40000).
    assert found.mean().item() == pytest.approx(-0.4, abs=0.052)
    assert found.var().item() == pytest.approx(4.25, abs=0.15)
    smooth = conjugate().sample(40_000, noise=False, seed=0)
    assert smooth.var().item() == pytest.approx(4.0, abs=0.15)
    assert torch.equal(conjugate().sample(3, seed=1), conjugate().sample(3, seed=1))


@pytest.mark.parametrize("prior", ["mixture", "flow"])
@pytest.mark.parametrize("posterior", ["full", "iaf"])
def test_takes_other_laws_of_its_codes(prior: str, posterior: str, binary: Tensor) -> None:
    model = small(prior=prior, posterior=posterior, upper_posterior=posterior)
    found = particles.draw(model, binary, 4)
    assert found.log_weight.shape == (4, 60)
    (-found.log_weight.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_bare_pyro_svi_trains_the_upper_flow_too(binary: Tensor) -> None:
    model = small(upper_posterior="iaf")
    before = {name: p.detach().clone() for name, p in model.upper_posterior.named_parameters()}
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(binary)
    assert all((p != before[name]).any() for name, p in model.upper_posterior.named_parameters())
    pyro.clear_param_store()


class Pathless(DiagonalGaussian):
    has_rsample = False


@pytest.mark.parametrize("site", ["posterior", "upper_posterior"])
def test_refuses_renyis_bound_where_a_draw_has_no_path(site: str, x: Tensor) -> None:
    laws: Any = {site: lambda output: Pathless(*output.chunk(2, dim=-1))}
    model = HierarchicalVAE(
        nn.Linear(1, 2), nn.Linear(1, 1), "gaussian", (1, 1),
        upper_encoder=nn.Linear(1, 2), upper_decoder=nn.Linear(1, 2), **laws,
    )  # fmt: skip
    with pyro.get_param_store().scope(), pytest.raises(ValueError, match="must not be RenyiELBO"):
        RenyiELBO(num_particles=2).loss(model.model, model.guide, x)


def test_refuses_what_it_cannot_be_made_of() -> None:
    parts = nn.Linear(6, 6), nn.Linear(3, 6), "bernoulli"
    upper: Any = {"upper_encoder": nn.Linear(3, 4), "upper_decoder": nn.Linear(2, 6)}
    with pytest.raises(ValueError, match=r"^latent_dims must be two numbers, .* got \[3\]$"):
        HierarchicalVAE(*parts, (3,), **upper)
    with pytest.raises(ValueError, match=r"^latent_dims must be at least 1, got 0$"):
        HierarchicalVAE(*parts, (3, 0), **upper)
    vamp = priors.VampPrior(2, 4, data_dim=6)
    with pytest.raises(ValueError, match=r"prior must be a law of z2 .* got VampPrior$"):
        HierarchicalVAE(*parts, (3, 2), prior=vamp, **upper)
