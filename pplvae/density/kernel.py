"""Kernel density estimates: a small bump on every point.

    p(x) = Σ_n w_n |H_n|^(-1/2) K(H_n^(-1/2) (x - x_n)),   Σ_n w_n = 1

K integrates to one (`pplvae.density.kernels`) and the bandwidth H^(1/2) is its width: h along each
axis, the standard deviation for the Gaussian, the radius of the support for all others. The sum is
taken in logs, so that it is right wherever x is, by the quickest exact way: by prefix sums on a
line (`pplvae.density.prefix`), tile by tile elsewhere (`pplvae.density.sums`).

Reference:
    Parzen (1962), On estimation of a probability density function and mode,
    https://doi.org/10.1214/aoms/1177704472
    Abramson (1982), On bandwidth variation in kernel estimates: a square root law,
    https://doi.org/10.1214/aos/1176345986
"""

from dataclasses import replace

import torch
from torch import Tensor

from pplvae.density import bandwidth as rules
from pplvae.density import grid, kernels, spread
from pplvae.density.estimate import Estimate, KernelDensity
from pplvae.density.grid import GridDensity
from pplvae.density.walls import Sides, walls
from pplvae.validation import Array, as_points, as_vector, check_one_of, check_positive

__all__ = [
    "BANDWIDTHS",
    "Estimate",
    "GridDensity",
    "KernelDensity",
    "fit",
    "log_density",
    "on_grid",
]

SEARCHES = {"kl": rules.kl, "lscv": rules.lscv}  # rules that may take their time
BANDWIDTHS: dict[str, rules.Rule] = {
    "isj": rules.isj,
    "scott": rules.scott,
    "silverman": rules.silverman,
    **SEARCHES,
}
GRID_POINTS = {1: 4096, 2: 512}  # along each axis, by the number of axes


def log_density(
    x: Array,
    data: Array,
    bandwidth: str | float | Array = "silverman",
    *,
    kernel: str = "gaussian",
    product: bool = False,
    weights: Array | None = None,
    factors: str | Array | None = None,
    reflect: Sides | None = None,
    period: float | Array | None = None,
    method: str = "auto",
    progress: bool = True,
) -> Tensor:
    """Return the log of the kernel density estimate; for its errors and draws, see `fit`.

    Args:
        x: Where to evaluate, shape (M, D).
        data: The sample behind the estimate, shape (N, D).
        bandwidth: As in `fit`.
        kernel: As in `fit`.
        product: As in `fit`.
        weights: As in `fit`.
        factors: As in `fit`.
        reflect: As in `fit`.
        period: As in `fit`.
        method: "auto" for the quickest; "prefix" for prefix sums, on a line with a compact kernel
            and one bandwidth; "tiled" for tiles; "naive" for the plain sum. All agree to 1e-11.
        progress: Whether a sum of more than a few seconds shows a progress bar.

    Returns:
        Log densities in nats, shape (M,); -inf where no bump reaches, or beyond the walls.

    Raises:
        ValueError: If x and data differ in D, or an argument is not as `fit` or the method asks.
    """
    fitted = fit(
        data, bandwidth, kernel=kernel, product=product, weights=weights, factors=factors,
        reflect=reflect, period=period, progress=progress,
    )  # fmt: skip
    return fitted.log_density(x, method=method, progress=progress)


def fit(
    data: Array,
    bandwidth: str | float | Array = "silverman",
    *,
    kernel: str = "gaussian",
    product: bool = False,
    weights: Array | None = None,
    factors: str | Array | None = None,
    reflect: Sides | None = None,
    period: float | Array | None = None,
    progress: bool = True,
) -> KernelDensity:
    """Return the kernel density estimate of a sample.

    Args:
        data: The sample, shape (N, D).
        bandwidth: Width h, in the units of the data: one number; one per axis, shape (D,); H
            itself, squared units, shape (D, D), D > 1; or the name of a rule, one of `BANDWIDTHS`.
            A standard deviation for the Gaussian, the radius of the support for other kernels;
            a rule is for the Gaussian, and its width is multiplied by the canonical ratio.
        kernel: "uniform" (the Parzen window), "triangle", "cosine" (a quarter of a wave),
            "epanechnikov", "cubic" (the tricube), "biweight", "triweight" or "gaussian".
        product: Whether the kernel is a product over the axes; else it depends on distance alone.
            With a matrix H = L Lᵀ the axes are those of L, which go by the order of the columns.
        weights: Worth of each point, shape (N,), on any scale; they count in the rules, too.
        factors: What multiplies the bandwidth at each point, shape (N,), or "abramson" for
            (p(x_n) / g)^(-1/2), of the estimate without factors and its geometric mean g.
        reflect: Walls (low, high) that fold the mass beyond them back; each None, one number, or
            one for each axis, shape (D,), infinite where there is none.
        period: Length of closed axes, such as 2 π for angles; one number or shape (D,), infinite
            where an axis is open.
        progress: Whether a search for a bandwidth of more than a few seconds, or Abramson's
            densities, show a progress bar.

    Raises:
        ValueError: If a bandwidth or factor is not positive, a name is unknown, or there is data
            beyond a wall.
    """
    data = as_points(data, name="data")
    shape = kernels.named(kernel, product=product)
    shares = spread.normalized(weights, len(data))
    if shares is not None:
        data, shares = data[shares > 0], shares[shares > 0]
    width = _width(bandwidth, data, shape, shares, progress=progress)
    plain = KernelDensity(data, width, shape, shares, walls=walls(reflect, period, data))
    if factors is None:
        return plain
    if isinstance(factors, str):
        return replace(plain, factors=_abramson(factors, plain, progress))
    return replace(plain, factors=_factors(factors, plain, weights))


def on_grid(
    data: Array,
    bandwidth: str | float | Array = "silverman",
    *,
    kernel: str = "gaussian",
    product: bool = False,
    weights: Array | None = None,
    num_points: int | None = None,
    progress: bool = True,
) -> GridDensity:
    """Return the density on a grid over all kernels, in milliseconds but with an error.

    About 1e-6 of the peak for D = 1, 1e-4 for D = 2; ten times that for kernels with an edge. A
    point far from all others makes the grid coarse: the error is about the squared step over the
    width, over 12.

    Args:
        data: The sample, shape (N, D), D = 1 or 2.
        bandwidth: As in `fit`, but for a matrix.
        kernel: As in `fit`.
        product: As in `fit`.
        weights: As in `fit`.
        num_points: Along each axis; by default 4096 for D = 1 and 512 for D = 2.
        progress: As in `fit`.

    Raises:
        ValueError: If D is neither 1 nor 2, or an argument is not as `fit` asks.

    Warns:
        UserWarning: If a step of the grid is more than a quarter of the width.
    """
    fitted = fit(
        data, bandwidth, kernel=kernel, product=product, weights=weights, progress=progress
    )
    if fitted.bandwidth.dim() > 1:
        raise ValueError("bandwidth must be one number for each axis on a grid, got a matrix")
    dim = fitted.data.shape[1]
    size = GRID_POINTS.get(dim, 2) if num_points is None else num_points
    grid.check_grid(size, dim)
    found = grid.convolved(
        fitted.data.double(), fitted.bandwidth, fitted.kernel, fitted.weights, size
    )
    axes = tuple(axis.to(fitted.data.dtype) for axis in found.axes)
    return GridDensity(found.density.to(fitted.data.dtype), axes)


def _width(
    bandwidth: str | float | Array,
    data: Tensor,
    kernel: kernels.Kernel,
    weights: Tensor | None,
    *,
    progress: bool,
) -> Tensor:
    """Return the width along each axis, shape (D,), or H, shape (D, D), float64."""
    dim = data.shape[1]
    if isinstance(bandwidth, str):
        check_one_of("bandwidth", bandwidth, BANDWIDTHS)
        if bandwidth in SEARCHES:
            width = SEARCHES[bandwidth](data.double(), weights=weights, progress=progress)
        else:
            width = BANDWIDTHS[bandwidth](data.double(), weights=weights)
        return width * kernel.canonical_ratio(dim) if kernel.profile.compact else width
    width = torch.as_tensor(bandwidth, dtype=torch.float64, device=data.device)
    if dim > 1 and width.shape == (dim, dim):
        return _matrix(width)
    check_positive("bandwidth", width)
    if width.shape not in ((), (1,), (dim,)):
        either = f"() or ({dim},)" + (f" or ({dim}, {dim})" if dim > 1 else "")
        raise ValueError(f"bandwidth must have shape {either}, got {tuple(width.shape)}")
    return width.expand(dim)


def _matrix(width: Tensor) -> Tensor:
    """Return a bandwidth matrix that has a root."""
    symmetric = torch.allclose(width, width.T, rtol=1e-12, atol=0.0)
    if not symmetric or torch.linalg.cholesky_ex(width).info.item():
        raise ValueError(
            f"bandwidth must be symmetric and positive definite, got {width.tolist()}"
        )
    return width


def _abramson(rule: str, plain: KernelDensity, progress: bool) -> Tensor:
    """Return (p(x_n) / g)^(-1/2) for each point, shape (N,)."""
    check_one_of("factors", rule, ["abramson"])
    logs = plain.log_density(plain.data, progress=progress).double()
    mean = logs.mean() if plain.weights is None else plain.weights @ logs
    return (0.5 * (mean - logs)).exp()


def _factors(factors: Array, plain: KernelDensity, weights: Array | None) -> Tensor:
    """Return a factor for each point of non-zero weight, shape (N,), float64."""
    values = as_vector(factors, name="factors").double()
    check_positive("factors", values)
    num_given = len(plain.data) if weights is None else len(weights)
    if len(values) != num_given:
        raise ValueError(f"factors must be one for each of {num_given} points, got {len(values)}")
    return values if weights is None else values[torch.as_tensor(weights).flatten() > 0]
