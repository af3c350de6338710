"""Rules of thumb for the width of a kernel: exact for one normal distribution.

Where p is normal with standard deviation σ, the Gaussian kernel with the least mean integrated
squared error is of width σ (4 / ((D + 2) N))^(1 / (D + 4)) in each coordinate. The rules differ in
what stands for σ and in the constant; all of them smooth away the valleys between modes. Weights
make N the number of points they leave (`pplvae.density.spread`).

Reference:
    Silverman (1986), Density Estimation for Statistics and Data Analysis, sections 3.4 and 4.3.
    Scott (2015), Multivariate Density Estimation, section 6.5.
"""

import torch
from torch import Tensor

from pplvae.density import spread
from pplvae.validation import Array, as_points


def silverman(data: Array, *, weights: Array | None = None) -> Tensor:
    """Return Silverman's rule of thumb, one bandwidth per column.

        h_j = 0.9 (3/4)^(1/5) A_j (4 / ((D + 2) N))^(1 / (D + 4)),   A_j = min(σ_j, IQR_j / 1.34)

    which is 0.9 A N^(-1/5) for D = 1, as lecture 5 has it. σ has N - 1 degrees of freedom and the
    interquartile range is of linearly interpolated percentiles; where the quartiles coincide, A
    is σ.

    Args:
        data: Points, shape (N, D), N ≥ 2.
        weights: Worth of each point, shape (N,).

    Returns:
        Standard deviations of a Gaussian kernel, shape (D,), in the units of each column.

    Raises:
        ValueError: If a column does not vary.
    """
    data = as_points(data, name="data", min_points=2)
    data, shares = spread.counted(data, weights)
    dim, size = data.shape[1], spread.effective_size(shares, len(data))
    sigma, iqr = spread.deviation(data, shares), spread.interquartile_range(data, shares)
    width = torch.where(iqr > 0, torch.minimum(sigma, iqr / 1.34), sigma)
    factor = 0.9 * 0.75**0.2 * (4 / ((dim + 2) * size)) ** (1 / (dim + 4))
    return (factor * width).to(data.dtype)


def scott(data: Array, *, weights: Array | None = None) -> Tensor:
    """Return Scott's rule of thumb, one bandwidth per column.

        h_j = σ_j N^(-1 / (D + 4))

    For D = 1 this is the width scipy's `gaussian_kde` takes.

    Args:
        data: Points, shape (N, D), N ≥ 2.
        weights: Worth of each point, shape (N,).

    Returns:
        Standard deviations of a Gaussian kernel, shape (D,), in the units of each column.

    Raises:
        ValueError: If a column does not vary.
    """
    data = as_points(data, name="data", min_points=2)
    data, shares = spread.counted(data, weights)
    size = spread.effective_size(shares, len(data))
    factor = size ** (-1 / (data.shape[1] + 4))
    return (spread.deviation(data, shares) * factor).to(data.dtype)
