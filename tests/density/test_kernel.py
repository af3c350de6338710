import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde
from sklearn.neighbors import KernelDensity
from torch import Tensor

from pplvae.density import kernel


def slow(x: Tensor, data: Tensor, width: Tensor) -> Tensor:
    """Return log 1/N Σ_n ∏_d Normal(x_d | data_nd, h_d), all at once."""
    normals = torch.distributions.Normal(data, width.expand(data.shape[1]))
    return normals.log_prob(x.unsqueeze(1)).sum(-1).logsumexp(1) - math.log(len(data))


@pytest.mark.parametrize("bandwidth", ["silverman", "scott", 0.3])
def test_integrates_to_one(bandwidth: str | float) -> None:
    # The trapezoid rule is exact to rounding for a smooth density that ends within the grid.
    grid = torch.linspace(-12, 12, 4001)
    density = kernel.log_density(grid, torch.randn(50), bandwidth).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-12)


def test_integrates_to_one_in_two_dimensions() -> None:
    axis = torch.linspace(-9, 9, 181)
    grid = torch.cartesian_prod(axis, axis)
    density = kernel.log_density(grid, torch.randn(20, 2), torch.tensor([0.4, 0.7])).exp()
    assert (density.sum() * 0.1**2).item() == pytest.approx(1.0, abs=1e-10)


def test_agrees_with_scipy_in_one_dimension() -> None:
    data, x = torch.randn(40), torch.linspace(-3, 3, 9)
    theirs = torch.as_tensor(gaussian_kde(data.numpy()).logpdf(x.numpy()))
    torch.testing.assert_close(kernel.log_density(x, data, "scott"), theirs, rtol=0, atol=1e-13)


def test_agrees_with_scikit_learn_in_ten_dimensions() -> None:
    data, x = torch.randn(300, 10), 2 * torch.randn(20, 10)
    # In one leaf: between leaves its bounds cancel, and cost 0.006 nats here even at rtol=0.
    reference = KernelDensity(bandwidth=0.7, rtol=0.0, leaf_size=300).fit(data.numpy())
    theirs = torch.as_tensor(reference.score_samples(x.numpy()))
    torch.testing.assert_close(kernel.log_density(x, data, 0.7), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [0.5, 1e-3, 1e-8])
@pytest.mark.parametrize("dim", [1, 3])
def test_agrees_with_a_plain_sum(width: float, dim: int) -> None:
    data, x = torch.randn(60, dim), torch.randn(9, dim)
    expected = slow(x, data, torch.tensor(width))
    # Narrow kernels make densities of exp(-1e16) at most points: relative, then.
    torch.testing.assert_close(kernel.log_density(x, data, width), expected, rtol=1e-9, atol=1e-10)


def test_gives_each_column_its_width() -> None:
    data, x, width = torch.randn(60, 3), torch.randn(9, 3), torch.tensor([0.2, 1.0, 5.0])
    expected = slow(x, data, width)
    torch.testing.assert_close(kernel.log_density(x, data, width), expected)
    torch.testing.assert_close(kernel.log_density(x, data, width.numpy()), expected)


def test_densities_of_parts_add_up() -> None:
    first, second, x = torch.randn(30, 2), torch.randn(70, 2) + 3, torch.randn(9, 2)
    parts = (
        30 * kernel.log_density(x, first, 0.4).exp()
        + 70 * kernel.log_density(x, second, 0.4).exp()
    )
    whole = 100 * kernel.log_density(x, torch.cat([first, second]), 0.4).exp()
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("bandwidth", ["silverman", "scott"])
def test_moves_with_the_units(bandwidth: str) -> None:
    data, x, scale = torch.randn(60, 2), torch.randn(9, 2), torch.tensor([8.0, 1e-160])
    here = kernel.log_density(x, data, bandwidth)
    there = kernel.log_density(scale * x, scale * data, bandwidth)
    torch.testing.assert_close(there, here - scale.log().sum())


def test_an_offset_of_1e8_is_harmless() -> None:
    # Multiples of 2^-20 stay exact beside 2^27: nothing may change but the sum of the center.
    data, x = (torch.randn(n, 3).mul(2**20).round() / 2**20 for n in (60, 9))
    there = kernel.log_density(x + 2**27, data + 2**27, 0.3)
    torch.testing.assert_close(there, kernel.log_density(x, data, 0.3), rtol=0.0, atol=1e-12)


def test_an_outlier_costs_no_digits() -> None:
    data, x = torch.randn(60, 3), torch.randn(9, 3)
    with_outlier = torch.cat([data, torch.full((1, 3), 1e9)])
    expected = slow(x, data, torch.tensor(0.3)) + math.log(60 / 61)
    torch.testing.assert_close(kernel.log_density(x, with_outlier, 0.3), expected)


def test_does_not_depend_on_order_or_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    data, x = torch.randn(40, 3), torch.randn(7, 3)
    expected = kernel.log_density(x, data, 0.2)
    torch.testing.assert_close(kernel.log_density(x, data.flip(0), 0.2), expected)
    monkeypatch.setattr(kernel, "_TILE", (3, 11))
    torch.testing.assert_close(kernel.log_density(x, data, 0.2), expected)


def test_stays_finite_far_from_all_data() -> None:
    found = kernel.log_density(torch.tensor([1e6]), torch.zeros(3), 1.0).item()
    assert found == pytest.approx(-0.5e12 - 0.5 * math.log(2 * math.pi), rel=1e-12)


def test_keeps_single_precision() -> None:
    data, x = torch.randn(60, 3), torch.randn(9, 3)
    found = kernel.log_density(x.float(), data.float(), 0.5)
    assert found.dtype == torch.float32
    # Coordinates of 24 bits over a width of a half, and exponents of some tens.
    expected = slow(x, data, torch.tensor(0.5))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_bandwidth_that_is_not_positive(bandwidth: float) -> None:
    with pytest.raises(ValueError, match=r"bandwidth must be (positive|finite), got"):
        kernel.log_density(torch.zeros(1, 1), torch.zeros(2, 1), bandwidth)


def test_refuses() -> None:
    x, data = torch.zeros(1, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match="x and data must share D, got 2 and 3"):
        kernel.log_density(x[:, :2], data, 1.0)
    with pytest.raises(ValueError, match=r"bandwidth must have shape \(\) or \(3,\), got \(2,\)"):
        kernel.log_density(x, data, np.ones(2))
    with pytest.raises(ValueError, match="bandwidth must be one of scott, silverman, got 'wide'"):
        kernel.log_density(x, data, "wide")
    with pytest.raises(ValueError, match="kernel must be one of gaussian, got 'square'"):
        kernel.log_density(x, data, 1.0, kernel="square")
