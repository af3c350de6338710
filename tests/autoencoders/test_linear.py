"""The linear autoencoder and PCA."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from pplvae import data
from pplvae.autoencoders import linear, principal_angles
from pplvae.randomness import generator


def drawn(num_points: int, data_dim: int, rank: int | None = None, seed: int = 0) -> Tensor:
    """Points with variances 1, 1/2, 1/4, … along random axes, away from 0."""
    draws, rank = generator(seed), data_dim if rank is None else rank
    axes = torch.linalg.qr(torch.randn(data_dim, data_dim, generator=draws)).Q[:rank]
    scales = 0.5 ** (0.5 * torch.arange(rank))
    return 3 + (torch.randn(num_points, rank, generator=draws) * scales) @ axes


def tail(x: Tensor, latent_dim: int) -> float:
    """Σ_{i > L} σ_i² / N, by NumPy."""
    singular = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False)
    return float((singular[latent_dim:] ** 2).sum() / len(x))


def trained(x: Tensor, latent_dim: int, **options: Any) -> linear.LinearFit:
    return linear.fit(x, latent_dim, method="gradient", seed=0, progress=False, **options)


@pytest.mark.parametrize(("num_points", "data_dim"), [(50, 6), (6, 50), (6, 6)])
@pytest.mark.parametrize("tied", [False, True])
def test_codes_are_the_principal_components(num_points: int, data_dim: int, tied: bool) -> None:
    """E = Vᵀ, D = V, X V = U Σ."""
    x = drawn(num_points, data_dim)
    fit = linear.fit(x, 4, tied=tied)
    u, s, vt = np.linalg.svd((x - x.mean(0)).numpy(), full_matrices=False)
    u, s, vt = (torch.from_numpy(part) for part in (u[:, :4], s[:4], vt[:4]))
    sign = (fit.directions * vt).sum(dim=1).sign()
    torch.testing.assert_close(fit.directions, sign[:, None] * vt)
    torch.testing.assert_close(fit.encode(x), sign * u * s)
    torch.testing.assert_close(fit.reconstruct(x), x.mean(0) + (u * s) @ vt)
    torch.testing.assert_close(fit.singular_values, s)
    assert fit.error == pytest.approx(tail(x, 4))
    assert fit.unexplained == pytest.approx(tail(x, 4) / tail(x, 0))


def test_no_linear_autoencoder_is_better() -> None:
    """Away from the closed form in any direction the error rises."""
    x, step = drawn(50, 6), 1e-3
    best = linear.fit(x, 2)
    weights = dict(best.autoencoder.named_parameters())
    for seed in range(20):
        for weight in weights.values():
            move = step * torch.randn(weight.shape, generator=generator(seed))
            with torch.no_grad():
                weight += move
            assert best.autoencoder.error(x) > best.error
            with torch.no_grad():
                weight -= move


# Digits: relative gaps λ_L − λ_{L+1} of 13 %, 8 % and 5 %; three pixels never vary.
@pytest.mark.parametrize(
    ("latent_dim", "tied", "num_epochs"),
    [(2, False, 500), (8, True, 500), (32, False, 2000)],
)
def test_gradient_descent_finds_the_principal_subspace_of_digits(
    latent_dim: int, tied: bool, num_epochs: int
) -> None:
    x = data.digits().x.double()
    exact = linear.fit(x, latent_dim)
    found = trained(x, latent_dim, tied=tied, num_epochs=num_epochs, learning_rate=0.05)
    assert principal_angles(found.directions, exact.directions)[0] < 1e-3
    assert found.error == pytest.approx(exact.error, rel=1e-4)
    assert found.error >= exact.error * (1 - 1e-12)
    assert found.history is not None
    assert found.history.losses[-1] == pytest.approx(found.unexplained, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tied", [False, True])
def test_the_defaults_find_it_from_any_start(tied: bool, seed: int) -> None:
    x = data.digits().x.double()
    exact = linear.fit(x, 32)
    found = linear.fit(x, 32, method="gradient", tied=tied, seed=seed, progress=False)
    assert principal_angles(found.directions, exact.directions)[0] < 1e-3
    assert found.unexplained == pytest.approx(found.least_unexplained, rel=1e-6)
    assert exact.unexplained == pytest.approx(exact.least_unexplained, rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_gradient_descent_finds_it_for_wide_data(tied: bool) -> None:
    x = drawn(12, 40)
    exact = linear.fit(x, 3)
    found = trained(x, 3, tied=tied, num_epochs=600, learning_rate=0.05)
    assert principal_angles(found.directions, exact.directions)[0] < 1e-3
    assert found.error == pytest.approx(exact.error, rel=1e-4)
    torch.testing.assert_close(found.singular_values, exact.singular_values, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_a_code_beyond_the_rank_loses_nothing(shape: tuple[int, int]) -> None:
    x = drawn(*shape, rank=3)
    exact = linear.fit(x, 5)
    found = trained(x, 5, num_epochs=600, learning_rate=0.05)
    assert exact.error < 1e-25
    assert found.error < 1e-10
    assert exact.singular_values[3:].max() < 1e-12
    # The rank's own directions are in both subspaces; the other two may be any.
    angles = principal_angles(found.directions, linear.fit(x, 3).directions)
    assert angles.max() < 1e-3
    torch.testing.assert_close(exact.directions @ exact.directions.T, torch.eye(5))


def test_tied_weights_become_orthonormal() -> None:
    """W Wᵀ = I at the minimum, though nothing asks for it: W is a rotation of Vᵀ."""
    fit = trained(drawn(50, 6), 3, tied=True, num_epochs=600, learning_rate=0.05)
    (weight,) = fit.autoencoder.parameters()
    assert weight.shape == (3, 6)
    torch.testing.assert_close(weight @ weight.T, torch.eye(3), rtol=0.0, atol=1e-5)


def test_neither_place_nor_unit_matters() -> None:
    x = drawn(50, 6)
    near, far = (linear.fit(points, 2) for points in (x, 1e-6 * (x + 1e6)))
    assert principal_angles(near.directions, far.directions)[0] < 1e-6
    assert far.unexplained == pytest.approx(near.unexplained, rel=1e-6)
    small = trained(1e-9 * x, 2, num_epochs=400, learning_rate=0.05)
    assert principal_angles(small.directions, near.directions)[0] < 1e-3


def test_angles_agree_with_scipy_and_tiny_ones_are_exact() -> None:
    a, b = torch.randn(3, 10, generator=generator(0)), torch.randn(5, 10, generator=generator(1))
    found = principal_angles(a, b)
    np.testing.assert_allclose(found, subspace_angles(a.T.numpy(), b.T.numpy()), atol=1e-12)
    torch.testing.assert_close(principal_angles(b, a), found)
    for angle in (0.0, 1e-9, 1e-3, 0.7, math.pi / 2):
        line = torch.tensor([[math.cos(angle), math.sin(angle)]])
        assert principal_angles(torch.tensor([[2.0, 0.0]]), line).item() == pytest.approx(
            angle, rel=1e-9, abs=1e-15
        )


def test_the_dtype_follows_the_data() -> None:
    fit = linear.fit(drawn(20, 4).float(), 2)
    assert fit.autoencoder.center.dtype == fit.encode(drawn(20, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"latent_dim": 0},
            r"latent_dim must be in \[1, 4\] for 20 points in 4 dimensions, got 0",
        ),
        (
            {"latent_dim": 5},
            r"latent_dim must be in \[1, 4\] for 20 points in 4 dimensions, got 5",
        ),
        ({"method": "em"}, "method must be one of gradient, svd, got 'em'"),
        (
            {"x": torch.ones(20, 4)},
            "x must vary, got 20 copies of one point in torch.float32",
        ),
        ({"x": torch.ones(1, 4)}, "x must hold at least 2 points, got 1"),
        ({"method": "gradient", "num_epochs": 0}, "num_epochs must be at least 1, got 0"),
    ],
)
def test_refuses_impossible_arguments(options: dict[str, Any], rule: str) -> None:
    given: dict[str, Any] = {"x": drawn(20, 4), "latent_dim": 2, "progress": False} | options
    with pytest.raises(ValueError, match=f"^{rule}$"):
        linear.fit(given.pop("x"), given.pop("latent_dim"), **given)


def test_refuses_subspaces_of_different_spaces() -> None:
    with pytest.raises(ValueError, match=r"^b must have 3 columns, as a, got 4$"):
        principal_angles(torch.ones(1, 3), torch.ones(1, 4))
