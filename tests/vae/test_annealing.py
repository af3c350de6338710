import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pplvae.vae import VAE, bounds
from pplvae.vae.annealing import Annealing
from pplvae.vae.evidence import PROPOSALS
from pplvae.vae.hierarchical import HierarchicalVAE

SEED = 20  # another than that of the data, whose noise would come again


def affine(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(bias))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def noise(loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, 0.5).to_event(1)


def world() -> tuple[VAE, dist.TorchDistribution]:
    """x | z ~ N(W z + b, I / 4) with D = 3, L = 2, a guide that is wrong, and the law of x."""
    decoder = affine([[1.0, 0.4], [-0.5, 1.0], [0.3, 0.8]], [0.1, -0.2, 0.3])
    encoder = affine([[0.5, -0.2, 0.1], [0.1, 0.5, 0.4], [0.0] * 3, [0.0] * 3], [0.0] * 4)
    weight, bias = decoder.weight.detach(), decoder.bias.detach()
    evidence = dist.MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(3))
    return VAE(encoder, decoder, noise, 2), evidence


def estimate(model: VAE, x: Tensor, law: Annealing, num_samples: int) -> bounds.LogLikelihood:
    return bounds.log_likelihood(
        model, x, proposal=law, num_samples=num_samples, seed=SEED, progress=False
    )


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_chains_find_the_log_evidence(start: str) -> None:
    model, evidence = world()
    x = evidence.sample((80,))
    exact = evidence.log_prob(x)
    found = estimate(model, x, Annealing(40, num_leapfrog=4, start=start), 32)
    miss = found.per_point - exact
    # An error of ε nats in log w makes the logarithm of the mean ε² / 2 too small.
    bias = 0.5 * found.monte_carlo_error.square().mean().item()
    assert miss.mean().item() == pytest.approx(-bias, abs=5 * miss.std().item() / math.sqrt(80))
    assert miss.std().item() < 0.3
    assert found.effective_sample_size.mean() > 15


@pytest.mark.parametrize("step_size", [0.02, 0.3, 3.0])
def test_weights_are_unbiased_whatever_the_step_size(step_size: float) -> None:
    # The chains have no pilots: with steps of 3 nearly every move is refused, and by rights.
    model, evidence = world()
    x = evidence.sample((1000,))
    law = Annealing(20, num_leapfrog=2, start="guide", step_size=step_size, num_pilots=0)
    ratio = (estimate(model, x, law, 16).per_point - evidence.log_prob(x)).exp()
    error = ratio.std().item() / math.sqrt(len(ratio))
    assert ratio.mean().item() == pytest.approx(1.0, abs=5 * error)
    assert error < 0.03


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_one_temperature_is_importance_sampling(start: str) -> None:
    model, evidence = world()
    x = evidence.sample((10,))
    one = estimate(model, x, Annealing(1, start=start, num_pilots=0), 50)
    other = bounds.log_likelihood(
        model, x, proposal=start, num_samples=50, seed=SEED, progress=False
    )
    torch.testing.assert_close(one.per_point, other.per_point)


def test_no_step_is_taken_whose_end_no_weight_asks_for() -> None:
    model, evidence = world()
    runs = list[int]()
    model.decoder.register_forward_hook(lambda *call: runs.append(len(call[2])))
    law = Annealing(5, num_leapfrog=3, num_pilots=0)
    with torch.no_grad():
        law(model, evidence.sample((4,)), 2)
    # One run draws the start, one takes the slopes there, and 4 of 5 transitions follow.
    assert len(runs) == 2 + 4 * 3


def test_pilots_mend_a_bad_step_size() -> None:
    model, evidence = world()
    x = evidence.sample((100,))
    law = {"num_temperatures": 60, "num_leapfrog": 3, "step_size": 3.0}
    without = estimate(model, x, Annealing(**law, num_pilots=0), 8)
    mended = estimate(model, x, Annealing(**law), 8)
    assert mended.monte_carlo_error.median() < 0.6 * without.monte_carlo_error.median()


def test_points_take_steps_of_their_own() -> None:
    law, (model, evidence) = Annealing(80, num_leapfrog=3), world()
    x = evidence.sample((30,))
    first = [torch.full((30,), 0.001)] * 79  # none after the last temperature
    with torch.no_grad():
        _, taken = law._run(model, x, 8, first, adapt=True)
    assert taken[-1].min() > 0.01
    assert taken[-1].std() > 0


def test_two_layers_are_walked_together() -> None:
    # z2 ~ N(0, 1), z1 | z2 ~ N(z2 / 2, 1), x | z1 ~ N(z1, 1 / 4): x ~ N(0, 3 / 2)
    model = HierarchicalVAE(
        affine([[0.5], [0.0]], [0.0, 0.0]), nn.Identity(), noise, (1, 1),
        upper_encoder=affine([[0.5], [0.0]], [0.0, 0.0]),
        upper_decoder=affine([[0.5], [0.0]], [0.0, 0.0]),
    )  # fmt: skip
    x = math.sqrt(1.5) * torch.randn(150, 1)
    exact = dist.Normal(0.0, math.sqrt(1.5)).log_prob(x.squeeze(1))
    for start in ("prior", "guide"):
        found = estimate(model, x, Annealing(25, num_leapfrog=4, start=start), 32)
        miss = found.per_point - exact
        bias = 0.5 * found.monte_carlo_error.square().mean().item()
        error = miss.std().item() / math.sqrt(150)
        assert miss.mean().item() == pytest.approx(-bias, abs=5 * error)
        assert error < 0.02


def test_the_weights_and_gradients_of_the_vae_stay_as_they_are() -> None:
    model, evidence = world()
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    x = evidence.sample((3,))
    state = torch.get_rng_state()
    one, two = (estimate(model, x, Annealing(3), 2) for _ in range(2))
    assert torch.equal(one.per_point, two.per_point)
    assert torch.equal(state, torch.get_rng_state())
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


def test_few_chains_have_no_k_hat_and_do_not_claim_one() -> None:
    model, evidence = world()
    found = estimate(model, evidence.sample((3,)), Annealing(3), 4)
    assert math.isnan(found.unreliable)
    assert "k-hat" not in repr(found)
    some = bounds.log_likelihood(model, torch.zeros(1, 3), proposal=Annealing(2), progress=False)
    assert some.num_samples == 16
    assert PROPOSALS["ais"] == Annealing()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_temperatures": 0}, "num_temperatures must be at least 1, got 0"),
        ({"num_leapfrog": 1.5}, "num_leapfrog must be a whole number, got 1.5"),
        ({"start": "mode"}, "start must be one of guide, prior, got 'mode'"),
        ({"step_size": 0.0}, "step_size must be positive, got 0"),
        ({"num_pilots": -1}, "num_pilots must be at least 0, got -1"),
    ],
)
def test_refuses_what_is_impossible(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Annealing(**options)
