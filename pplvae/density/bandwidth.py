"""How wide a kernel should be: rules of thumb, exact for one normal distribution.

Where p is normal with standard deviation σ, the Gaussian kernel with the least mean integrated
squared error is of width σ (4 / ((D + 2) N))^(1 / (D + 4)) in each coordinate. The rules differ in
what stands for σ and in the constant; all of them smooth away the valleys between modes.

Reference:
    Silverman (1986), Density Estimation for Statistics and Data Analysis, sections 3.4 and 4.3.
    Scott (2015), Multivariate Density Estimation, section 6.5.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pplvae.validation import Array, as_points

Rule: TypeAlias = Callable[[Array], Tensor]


def silverman(data: Array) -> Tensor:
    """Return Silverman's rule of thumb, one bandwidth per column.

        h_j = 0.9 (3/4)^(1/5) A_j (4 / ((D + 2) N))^(1 / (D + 4)),   A_j = min(σ_j, IQR_j / 1.34)

    which is 0.9 A N^(-1/5) for D = 1. σ has N - 1 degrees of freedom and the interquartile range
    is of linearly interpolated percentiles; where the quartiles coincide, A is σ.

    Args:
        data: Points, shape (N, D), N ≥ 2.

    Returns:
        Standard deviations of a Gaussian kernel, shape (D,), in the units of each column.

    Raises:
        ValueError: If a column does not vary.
    """
    data = as_points(data, name="data", min_points=2)
    num_points, dim = data.shape
    sigma, iqr = _deviation(data), interquartile_range(data)
    spread = torch.where(iqr > 0, torch.minimum(sigma, iqr / 1.34), sigma)
    factor = 0.9 * 0.75**0.2 * (4 / ((dim + 2) * num_points)) ** (1 / (dim + 4))
    return (factor * spread).to(data.dtype)


def scott(data: Array) -> Tensor:
    """Return Scott's rule of thumb, one bandwidth per column.

        h_j = σ_j N^(-1 / (D + 4))

    For D = 1 this is the width scipy's `gaussian_kde` takes.

    Args:
        data: Points, shape (N, D), N ≥ 2.

    Returns:
        Standard deviations of a Gaussian kernel, shape (D,), in the units of each column.

    Raises:
        ValueError: If a column does not vary.
    """
    data = as_points(data, name="data", min_points=2)
    num_points, dim = data.shape
    return (_deviation(data) * num_points ** (-1 / (dim + 4))).to(data.dtype)


def interquartile_range(x: Tensor) -> Tensor:
    """Return x_(3/4) - x_(1/4) along the first axis, interpolated linearly, in float64.

    Args:
        x: Numbers, shape (N, ...).
    """
    ordered = x.double().sort(dim=0).values  # `torch.quantile` takes no more than 2^24 numbers
    return _quantile(ordered, 0.75) - _quantile(ordered, 0.25)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


def _deviation(data: Tensor) -> Tensor:
    """Return the standard deviation of each column, shape (D,), float64; refuse one of zero."""
    # From the first row, a column that does not vary is exactly zero, wherever it stands.
    shifted = data.double() - data[0]
    scale = shifted.abs().amax(dim=0)
    constant = (scale == 0).nonzero().flatten().tolist()
    if constant:
        raise ValueError(f"data must vary in every column, got one value all along {constant}")
    return scale * (shifted / scale).std(dim=0)  # squares of scaled numbers do not underflow
