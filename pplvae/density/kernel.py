"""Kernel density estimates: a small bump on every point.

    p(x) = 1 / (N ∏_d h_d) Σ_n K((x - x_n) / h)

K integrates to one and h is its width in each coordinate. The sum is taken in logs, over tiles of
queries and points, around a running maximum: for exponents e_n,

    m' = max(m, max_n e_n),   s' = s 2^(m - m') + Σ_n 2^(e_n - m'),

in base 2 because `torch.exp2` is several times as fast as `torch.exp`.

Reference:
    Parzen (1962), On estimation of a probability density function and mode,
    https://doi.org/10.1214/aoms/1177704472
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.density import bandwidth as rules
from pplvae.validation import Array, as_points, check_one_of, check_positive

BANDWIDTHS: dict[str, rules.Rule] = {"scott": rules.scott, "silverman": rules.silverman}
_TILE = (128, 2048)  # queries, points: a tile of exponents is 2 MiB
_EXPONENT_ERROR = 1e-10  # nats that a matrix product may lose to cancellation


@dataclass(frozen=True)
class Kernel:
    """A kernel of unit width that depends on the distance alone.

    Attributes:
        log2_profile: Squared distances to log₂ K, up to a constant.
        log_normalizer: D to the log of what exp of the profile integrates to in D dimensions.
    """

    log2_profile: Callable[[Tensor], Tensor]
    log_normalizer: Callable[[int], float]


KERNELS = {
    "gaussian": Kernel(
        log2_profile=lambda squared: squared * (-0.5 / math.log(2)),
        log_normalizer=lambda dim: 0.5 * dim * math.log(2 * math.pi),
    ),
}


def log_density(
    x: Array,
    data: Array,
    bandwidth: str | float | Array = "silverman",
    *,
    kernel: str = "gaussian",
    progress: bool = True,
) -> Tensor:
    """Return the log of the kernel density estimate.

    Args:
        x: Where to evaluate, shape (M, D).
        data: The sample behind the estimate, shape (N, D).
        bandwidth: Width h, in the units of the data: one number; one per column, shape (D,); or
            the name of a rule, one of `BANDWIDTHS`. A standard deviation for the Gaussian.
        kernel: One of `KERNELS`.
        progress: Whether a sum of more than a few seconds shows a progress bar.

    Returns:
        Log densities in nats, shape (M,).

    Raises:
        ValueError: If x and data differ in D, a bandwidth is not positive, or a name is unknown.
    """
    x, data = as_points(x), as_points(data, name="data")
    if x.shape[1] != data.shape[1]:
        raise ValueError(f"x and data must share D, got {x.shape[1]} and {data.shape[1]}")
    check_one_of("kernel", kernel, KERNELS)
    shape, width = KERNELS[kernel], _width(bandwidth, data)
    center = data.double().median(dim=0).values  # what all share is gone before it costs digits
    points, queries = (data - center) / width, (x - center) / width
    blocks = tqdm(queries.split(_TILE[0]), desc="density", disable=not progress, delay=3)
    log_sums = torch.cat([_log_sum(shape, block, points) for block in blocks])
    log_normalizer = shape.log_normalizer(x.shape[1]) + width.log().sum() + math.log(len(data))
    return (log_sums - log_normalizer).to(torch.promote_types(x.dtype, data.dtype))


def _width(bandwidth: str | float | Array, data: Tensor) -> Tensor:
    """Return the width in each column, shape (D,), float64."""
    if isinstance(bandwidth, str):
        check_one_of("bandwidth", bandwidth, BANDWIDTHS)
        return BANDWIDTHS[bandwidth](data.double())
    width = torch.as_tensor(bandwidth, dtype=torch.float64, device=data.device)
    check_positive("bandwidth", width)
    dim = data.shape[1]
    if width.shape not in ((), (1,), (dim,)):
        raise ValueError(f"bandwidth must have shape () or ({dim},), got {tuple(width.shape)}")
    return width.expand(dim)


def _log_sum(shape: Kernel, queries: Tensor, points: Tensor) -> Tensor:
    """Return log Σ_n of the profile, shape (B,), for coordinates in widths."""
    peak = queries.new_full((len(queries), 1), torch.finfo(queries.dtype).min)
    total = torch.zeros_like(peak)
    for tile in points.split(_TILE[1]):
        exponents = shape.log2_profile(_squared_distances(queries, tile))
        higher = torch.maximum(peak, exponents.amax(dim=1, keepdim=True))
        total = total * (peak - higher).exp2() + (exponents - higher).exp2().sum(1, keepdim=True)
        peak = higher
    return (total.log() + peak * math.log(2)).squeeze(1)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return |a - b|², by a matrix product where its rounding leaves the exponents right."""
    norms_a, norms_b = a.square().sum(dim=1, keepdim=True), b.square().sum(dim=1)
    rounding = a.shape[1] * torch.finfo(a.dtype).eps * (norms_a.max() + norms_b.max())
    if rounding < _EXPONENT_ERROR:
        return torch.addmm(norms_b, a, b.T, alpha=-2) + norms_a
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
