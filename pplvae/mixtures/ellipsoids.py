"""The forms of covariance with correlations: each component its own, or one for all.

What a form must say is said by `Full`; the mathematics is in `covariances`.
"""

# ruff: noqa: D102 - what a method of a form is for, `Full` says

import math
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from pplvae.mixtures.batches import Moments, Parameters


class Full:
    """Each component its own covariance: what a form must say, for the most general one."""

    name: ClassVar[str] = "full"
    linear: ClassVar[bool] = True  # whether any linear map of the points keeps the form
    tied: ClassVar[bool] = False

    def num_parameters(self, num_components: int, dim: int) -> int:
        """Return how many numbers the covariances have free."""
        return num_components * dim * (dim + 1) // 2

    def num_features(self, dim: int) -> int:
        """Return P, how many monomials there are."""
        return 1 + dim + dim * (dim + 1) // 2

    def fill(self, z: Tensor, out: Tensor) -> None:
        """Write the monomials of z, shape (D, B), to `out`, shape (P, B)."""
        dim = len(z)
        out[0], out[1 : dim + 1] = 1, z
        start = dim + 1
        for i in range(dim):
            torch.mul(z[i], z[i:], out=out[start : start + dim - i])
            start += dim - i

    def natural(self, parameters: Parameters) -> Tensor:
        """Return T, shape (R, K, P), in nats; differentiable."""
        trils = parameters.scales
        dim = trils.shape[-1]
        constant, linear, inverses = _affine(parameters)
        places, halves = _triangle(dim, trils.dtype, trils.device)
        quadratic = (inverses.mT @ inverses).flatten(-2)[..., places] * halves
        return torch.cat([constant.unsqueeze(-1), linear, quadratic], dim=-1)

    def moments(self, sums: Tensor, dim: int, total: Tensor) -> Moments:
        """Return what r Fᵀ, shape (R, K, P), holds; `total` is Σ z zᵀ of all points, (D, D)."""
        squares = sums[..., dim + 1 :][..., _square(dim, sums.device)]
        firsts = sums[..., 1 : dim + 1]
        return Moments(sums[..., 0], firsts, squares, torch.zeros_like(firsts))

    def trace(self, scales: Tensor, squares: Tensor, dim: int) -> Tensor:
        """Return tr((L Lᵀ)⁻¹ A), shape (R, K) or (R, 1), for A as `outer` gives it."""
        half = torch.linalg.solve_triangular(scales, squares, upper=False)
        whole = torch.linalg.solve_triangular(scales, half.mT, upper=False)
        return whole.diagonal(dim1=-2, dim2=-1).sum(dim=-1)

    def remainder(self, scales: Tensor, total: Tensor) -> Tensor | float:
        """Return what T leaves out of Σ log p(z), shape (R,), as it is the same for all k."""
        return 0.0

    def whiten(self, residuals: Tensor, scale: Tensor) -> Tensor:
        """Return L⁻¹ (z − loc), shape (D, B), for one component."""
        return torch.linalg.solve_triangular(scale, residuals, upper=False)

    def log_det(self, scales: Tensor, dim: int) -> Tensor:
        """Return log |L|, shape (R, K) or (R, 1)."""
        return scales.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)

    def weigh(self, residuals: Tensor, weights: Tensor) -> Tensor:
        """Return Σ r `outer`(z − origin) for one component, from residuals (D, B)."""
        return (residuals * weights) @ residuals.mT

    def outer(self, vectors: Tensor) -> Tensor:
        """Return a aᵀ for vectors of shape (…, D), as far as the form needs it."""
        return vectors.unsqueeze(-1) * vectors.unsqueeze(-2)

    def reduce(self, matrices: Tensor) -> Tensor:
        """Return what the form needs of matrices like a aᵀ, shape (…, D, D)."""
        return matrices

    def pool(self, squares: Tensor) -> Tensor:
        """Return the sum over the components that share a covariance."""
        return squares

    def spread(self, numbers: Tensor) -> Tensor:
        """Return numbers of each component, shape (R, K), so that they broadcast to squares."""
        return numbers[..., None, None]

    def prior_count(self, degrees: float, num_components: int, dim: int) -> float:
        """Return how many points a normal–inverse-Wishart prior with ν adds to a covariance's.

        Its density, restricted to the form, has |Σ| to the power −(ν + D + 1)/2, and once more −½
        for the mean of each component that the covariance belongs to.
        """
        return degrees + dim + 2

    def factor(self, covs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales of covariances, and which are singular, shape (R, K) or (R, 1)."""
        trils, info = torch.linalg.cholesky_ex(covs)
        # A pivot is what the earlier coordinates leave of a variance; below this it is rounding.
        pivots, variances = (m.diagonal(dim1=-2, dim2=-1) for m in (trils, covs))
        floor = 4 * covs.shape[-1] * torch.finfo(covs.dtype).eps * variances
        return trils, (info != 0) | ~(pivots.square() > floor).all(dim=-1)

    def trils(self, scales: Tensor, num_components: int, dim: int) -> Tensor:
        """Return lower Cholesky factors, shape (…, K, D, D)."""
        return scales.expand(*scales.shape[:-3], num_components, dim, dim)

    def nearest(self, trils: Tensor, weights: Tensor) -> Tensor:
        """Return scales for factors (…, K, D, D), those of the mean covariance where it is one."""
        return trils

    def widths(self, scales: Tensor) -> Tensor:
        """Return standard deviations of the coordinates, (…, D), as far as they may differ."""
        return scales

    def color(self, scales: Tensor, noise: Tensor) -> Tensor:
        """Return L ε, shape (…, K, D)."""
        return (scales @ noise.unsqueeze(-1)).squeeze(-1)

    def num_shears(self, dim: int) -> int:
        """Return how many numbers Bartlett's B has below its diagonal."""
        return dim * (dim - 1) // 2

    def pivot_counts(self, degrees: Tensor, dim: int) -> Tensor:
        """Return the degrees of freedom of the pivots B_ii², shape (…, D), for ν of shape (…)."""
        return degrees.unsqueeze(-1) - dim + torch.arange(1, dim + 1).to(degrees)

    def from_bartlett(
        self, root: Tensor, pivots: Tensor, shears: Tensor | None, *, dim: int
    ) -> Tensor:
        """Return the scales L = C B⁻¹.

        Args:
            root: C, as `factor` has it of a scatter.
            pivots: B_ii², shape (…, D).
            shears: B_ij with i > j, row by row, shape (…, D (D − 1) / 2); None if there are none.
            dim: The dimension D.
        """
        factor = pivots.sqrt().diag_embed()
        if shears is not None:
            row, column = torch.tril_indices(dim, dim, -1, device=shears.device)
            # A product rather than an assignment: whatever has batched the sites, it follows.
            places = torch.nn.functional.one_hot(row * dim + column, dim * dim).to(shears)
            factor = factor + (shears @ places).unflatten(-1, (dim, dim))
        return torch.linalg.solve_triangular(factor, root, upper=False, left=False)

    def to_bartlett(self, root: Tensor, scales: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
        """Return the pivots and shears of `from_bartlett`."""
        factor = torch.linalg.solve_triangular(scales, root, upper=False)
        row, column = torch.tril_indices(dim, dim, -1, device=root.device)
        return factor.diagonal(dim1=-2, dim2=-1).square(), factor[..., row, column]

    def to_free(self, scales: Tensor) -> Tensor:
        """Return the scales as numbers without bounds: the diagonal's logs, and what is below."""
        return scales.tril(-1) + scales.diagonal(dim1=-2, dim2=-1).log().diag_embed()

    def from_free(self, free: Tensor) -> Tensor:
        """Return the scales of `to_free`."""
        return free.tril(-1) + free.diagonal(dim1=-2, dim2=-1).exp().diag_embed()


class Tied(Full):
    """One covariance for all components."""

    name, tied = "tied", True

    def num_parameters(self, num_components: int, dim: int) -> int:
        return dim * (dim + 1) // 2

    def num_features(self, dim: int) -> int:
        return 1 + dim

    def fill(self, z: Tensor, out: Tensor) -> None:
        out[0], out[1:] = 1, z

    def natural(self, parameters: Parameters) -> Tensor:
        constant, linear, _ = _affine(parameters)
        return torch.cat([constant.unsqueeze(-1), linear], dim=-1)

    def moments(self, sums: Tensor, dim: int, total: Tensor) -> Moments:
        firsts, squares = sums[..., 1:], total.expand(len(sums), 1, dim, dim)
        return Moments(sums[..., 0], firsts, squares, torch.zeros_like(firsts))

    def pool(self, squares: Tensor) -> Tensor:
        return squares.sum(dim=1, keepdim=True)

    def nearest(self, trils: Tensor, weights: Tensor) -> Tensor:
        shares = (weights / weights.sum(dim=-1, keepdim=True))[..., None, None]
        return torch.linalg.cholesky((shares * trils @ trils.mT).sum(dim=-3, keepdim=True))

    def remainder(self, scales: Tensor, total: Tensor) -> Tensor | float:
        return -0.5 * self.trace(scales, total, total.shape[-1]).squeeze(-1)

    def prior_count(self, degrees: float, num_components: int, dim: int) -> float:
        return degrees + dim + 1 + num_components


@lru_cache(maxsize=32)
def _triangle(dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where z_i z_j with i ≤ j stands in a flat D × D table, and its factor in zᵀ Λ z.

    −½ zᵀ Λ z meets z_i z_j twice, but for i = j.
    """
    row, column = torch.triu_indices(dim, dim, device=device)
    return row * dim + column, torch.where(row == column, -0.5, -1.0).to(dtype)


@lru_cache(maxsize=32)
def _square(dim: int, device: torch.device) -> Tensor:
    """Return where z_i z_j stands among the monomials of order two, shape (D, D)."""
    row, column = torch.triu_indices(dim, dim, device=device)
    places = torch.empty(dim, dim, dtype=torch.long, device=device)
    places[row, column] = places[column, row] = torch.arange(len(row), device=device)
    return places


def _affine(parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """Return the constants (R, K) and slopes (R, K, D) of T, and L⁻¹."""
    log_weights, locs, trils = parameters
    eye = torch.eye(locs.shape[-1], dtype=locs.dtype, device=locs.device)
    inverses = torch.linalg.solve_triangular(trils, eye, upper=False)
    whitened = inverses @ locs.unsqueeze(-1)
    slopes = (inverses.mT @ whitened).squeeze(-1)
    log_det = trils.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return intercepts(log_weights, whitened.squeeze(-1), log_det), slopes, inverses


def intercepts(log_weights: Tensor, whitened: Tensor, log_det: Tensor) -> Tensor:
    """Return log w − log |L| − D/2 log 2π − ½ |L⁻¹ loc|²."""
    half = 0.5 * whitened.shape[-1] * math.log(2 * math.pi)
    return log_weights - log_det - half - 0.5 * whitened.square().sum(dim=-1)
