import math

import pytest
import torch

from pplvae.density import kernel, kernels

NAMES = sorted(kernels.PROFILES)
# Linear binning errs by about δ²/12 p'', and by more where a kernel has a kink or a jump.
ERRORS = {"uniform": 0.02, "triangle": 1e-4, "epanechnikov": 1e-4, "cosine": 1e-4}


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_sum_on_a_line(name: str) -> None:
    data, weights = torch.randn(1000), torch.rand(1000)
    found = kernel.on_grid(data, 0.4, kernel=name, weights=weights)
    (axis,) = found.axes
    expected = kernel.log_density(axis, data, 0.4, kernel=name, weights=weights).exp()
    error = (found.density - expected).abs().max() / expected.max()
    assert error < ERRORS.get(name, 1e-5)
    assert len(axis) == 4096


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("product", [False, True])
def test_agrees_with_the_sum_in_the_plane(name: str, product: bool) -> None:
    data, widths = torch.randn(1000, 2), torch.tensor([0.8, 1.1])
    found = kernel.on_grid(data, widths, kernel=name, product=product, num_points=256)
    some = torch.cartesian_prod(*(axis[3::9] for axis in found.axes))
    expected = kernel.log_density(some, data, widths, kernel=name, product=product).exp()
    error = (found.density[3::9, 3::9].flatten() - expected).abs().max() / expected.max()
    # Cells are 16 times as wide as on a line: 256 times the error, and of the jumps 16.
    assert error < {"uniform": 0.1}.get(name, 3e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2])
def test_integrates_to_one(name: str, dim: int) -> None:
    found = kernel.on_grid(torch.randn(300, dim), kernel=name)
    cell = math.prod((axis[1] - axis[0]).item() for axis in found.axes)
    assert (found.density.sum() * cell).item() == pytest.approx(1.0, abs=1e-10)
    assert (found.density >= 0).all()


def test_prints_in_a_line() -> None:
    found = kernel.on_grid(torch.tensor([0.0, 1.0]), 1.0, kernel="cosine", num_points=31)
    assert repr(found) == "GridDensity((31,) values on [-1, 2])"


def test_refuses() -> None:
    with pytest.raises(ValueError, match="data must have 1 or 2 columns for a grid, got 3"):
        kernel.on_grid(torch.randn(9, 3))
    with pytest.raises(ValueError, match="num_points must be at least 2, got 1"):
        kernel.on_grid(torch.randn(9), num_points=1)
    with pytest.raises(ValueError, match="bandwidth must be one number for each axis on a grid"):
        kernel.on_grid(torch.randn(9, 2), torch.eye(2))
