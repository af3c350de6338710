import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pplvae.divergences import discrete_kl, monte_carlo_kl, normal_kl, standard_normal_kl

P, Q = torch.tensor([0.36, 0.48, 0.16]).double(), torch.full((3,), 1 / 3).double()


def covariances(*shape: int) -> Tensor:
    factors = torch.randn(*shape, shape[-1])
    return factors @ factors.mT + 0.1 * torch.eye(shape[-1])


def test_gives_the_values_of_the_textbook_example() -> None:
    # The published values have four decimals.
    assert discrete_kl(P, Q).item() == pytest.approx(0.0853, abs=5e-5)
    assert discrete_kl(Q, P).item() == pytest.approx(0.0975, abs=5e-5)


def test_the_lecture_notes_rounded_a_third() -> None:
    rounded = (0.333 * (0.333 / P).log()).sum().item()
    assert rounded == pytest.approx(0.0964, abs=5e-5)
    assert discrete_kl(Q, P).item() - rounded > 1e-3


def test_discrete_agrees_with_torch() -> None:
    p, q = torch.randn(7, 5).softmax(-1), torch.randn(5).softmax(-1)
    expected = kl_divergence(dist.Categorical(p), dist.Categorical(q))
    torch.testing.assert_close(discrete_kl(p, q), expected)
    assert discrete_kl(p.numpy(), q.numpy()).shape == (7,)


def test_discrete_takes_zeros() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.25, 0.25])
    assert discrete_kl(p, q).item() == pytest.approx(0.5 * math.log(2), abs=1e-12)
    assert discrete_kl(q, p).item() == math.inf
    assert discrete_kl(p, p).item() == 0


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.6], [0.5, 0.5], "p must sum to one, got 1.1"),
        ([0.5, 0.5], [[0.5, 0.5], [0.2, 0.5]], "q must sum to one, got 0.7"),
        ([0.5, 0.5], [1.1, -0.1], "the smallest of q must be at least 0, got -0.1"),
        ([0.5, 0.5], [0.2, 0.3, 0.5], "p and q must share K, got 2 and 3"),
        (1.0, [1.0], "p must have at least one axis"),
    ],
)
def test_discrete_refuses(p: list[float], q: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        discrete_kl(np.array(p), np.array(q))


def test_normal_agrees_with_torch_over_batches() -> None:
    loc1, loc2, cov1, cov2 = (
        torch.randn(6, 1, 4),
        torch.randn(4),
        covariances(4),
        covariances(3, 4),
    )
    expected = kl_divergence(
        dist.MultivariateNormal(loc1, cov1), dist.MultivariateNormal(loc2, cov2)
    )
    found = normal_kl(loc1, cov1, loc2, cov2)
    assert found.shape == (6, 3)
    torch.testing.assert_close(found, expected)


def test_normal_has_the_half_on_every_term() -> None:
    # N(0, 1) and N(3, 4), by the one-dimensional formula log(s2/s1) + (s1² + m²) / (2 s2²) - ½.
    found = normal_kl(torch.zeros(1), torch.eye(1), torch.full((1,), 3.0), 4 * torch.eye(1))
    assert found.item() == pytest.approx(math.log(2) + 10 / 8 - 0.5, abs=1e-12)


def test_normal_survives_determinants_out_of_range() -> None:
    tiny = 1e-6 * torch.eye(100)  # its determinant is 1e-600
    zero = torch.zeros(100)
    expected = 0.5 * (100 * math.log(2) - 100 + 100 / 2)
    assert normal_kl(zero, tiny, zero, 2 * tiny).item() == pytest.approx(expected, rel=1e-12)


def test_normal_takes_mixed_precision_and_arrays() -> None:
    cov = covariances(3)
    found = normal_kl(np.zeros(3), np.eye(3, dtype=np.float32), torch.zeros(3), cov)
    torch.testing.assert_close(found, normal_kl(torch.zeros(3), torch.eye(3), torch.zeros(3), cov))


def test_normal_refuses() -> None:
    zero, eye = torch.zeros(2), torch.eye(2)
    skew = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"cov1 must be symmetric, got entries 0.5 apart"):
        normal_kl(zero, skew, zero, eye)
    with pytest.raises(ValueError, match="cov2 must be positive definite, got eigenvalue -1"):
        normal_kl(zero, eye, zero, torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ValueError, match=r"cov1 must have shape \(..., 2, 2\), got \(3, 3\)"):
        normal_kl(zero, torch.eye(3), zero, eye)
    with pytest.raises(ValueError, match="loc1 and loc2 must share D, got 2 and 3"):
        normal_kl(zero, eye, torch.zeros(3), eye)


def test_standard_normal_is_the_normal_with_a_standard_second() -> None:
    loc, scale = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    expected = normal_kl(loc, torch.diag_embed(scale**2), torch.zeros(3), torch.eye(3))
    torch.testing.assert_close(standard_normal_kl(loc, scale), expected)
    torch.testing.assert_close(standard_normal_kl(loc.numpy(), scale.numpy()), expected)


def test_standard_normal_is_zero_at_the_prior_and_has_a_gradient() -> None:
    loc, scale = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    divergence = standard_normal_kl(loc, scale)
    divergence.backward()
    assert divergence.item() == 0
    assert loc.grad is not None
    assert (loc.grad == 0).all()
    assert scale.grad is not None
    assert (scale.grad == 0).all()


def test_standard_normal_refuses_a_scale_of_zero() -> None:
    with pytest.raises(ValueError, match=r"scale must be positive, got \[1.0, 0.0\]"):
        standard_normal_kl(torch.zeros(2), torch.tensor([1.0, 0.0]))


def test_monte_carlo_covers_the_truth() -> None:
    p = dist.Normal(torch.linspace(-1, 1, 200), 1.0)
    q = dist.Normal(torch.zeros(200), 1.5)
    found = monte_carlo_kl(p, q, 4000, seed=1)
    scores = (found.value - kl_divergence(p, q)) / found.standard_error
    # 200 independent standard scores: their variance is 1 ± √(2 / 200), and one run in 700 has a
    # score beyond 4.5.
    assert scores.abs().max() < 4.5
    assert scores.square().mean().item() == pytest.approx(1.0, abs=5 * 0.1)


def test_monte_carlo_counts_an_event_once() -> None:
    p = dist.MultivariateNormal(torch.ones(3), torch.eye(3))
    found = monte_carlo_kl(p, dist.Normal(torch.zeros(3), 1.0).to_event(1), 20_000, seed=0)
    assert found.value.shape == ()
    # log p - log q = Σ x - 3/2 has variance 3; five standard errors.
    assert found.standard_error.item() == pytest.approx(math.sqrt(3 / 20_000), rel=0.05)
    assert found.value.item() == pytest.approx(1.5, abs=5 * math.sqrt(3 / 20_000))


def test_monte_carlo_keeps_the_global_generator_and_its_seed() -> None:
    p, q = dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)
    before = torch.get_rng_state()
    first, second = monte_carlo_kl(p, q, 10, seed=3), monte_carlo_kl(p, q, 10, seed=3)
    assert first.value == second.value
    assert torch.equal(torch.get_rng_state(), before)


def test_monte_carlo_refuses() -> None:
    p = dist.Normal(torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        monte_carlo_kl(p, p, 1)
    with pytest.raises(ValueError, match=r"share their event shape, got \(\) and \(2,\)"):
        monte_carlo_kl(p, p.to_event(1), 10)
