"""The four forms of a mixture's covariances, and the monomials by which each one sees a point.

A Gaussian's log density is linear in monomials F(z) of the point, so that for all components and
points at once

    log w_k p(z_n | k) = Σ_p T_kp F_p(z_n) = (T F)_kn,   F(z) = (1, z_i, z_i z_j),

with Λ = (L Lᵀ)⁻¹ and T_k = (log w_k − log |L| − D/2 log 2π − ½ locᵀ Λ loc, Λ loc, −½ Λ): one
matrix product. A second one, r Fᵀ with the responsibilities r, sums all that the M-step needs: the
counts, Σ r z and Σ r z zᵀ. Fewer monomials do for the simpler forms:

    full       L_k any            1, z_i, z_i z_j with i ≤ j
    tied       L_k = L            1, z_i: zᵀ Λ z is the same for all k, and Σ z zᵀ for all steps
    diag       L_k = diag(σ_k)    1, z_i, z_i²
    spherical  L_k = σ_k I        1, z_i, |z|²

Parameters come in batches: R mixtures of K components each, so that several are fitted at once.
"""

# ruff: noqa: D102 - what a method of a form is for, `Full` says

import math
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """R mixtures of K components in D dimensions.

    Attributes:
        log_weights: Shape (R, K).
        locs: Shape (R, K, D).
        scales: As the form has it: full (R, K, D, D), lower Cholesky factors; tied (R, 1, D, D);
            diag (R, K, D), standard deviations; spherical (R, K, 1).
    """

    log_weights: Tensor
    locs: Tensor
    scales: Tensor

    def take(self, rows: Tensor | slice) -> "Parameters":
        """Return some of the R mixtures."""
        return Parameters(*(part[rows] for part in self))


class Moments(NamedTuple):
    """Sums over the points with the responsibilities as weights.

    Attributes:
        counts: Σ r, shape (R, K).
        sums: Σ r (z − origin), shape (R, K, D).
        squares: Σ r of what the form's `outer` makes of z − origin: full (R, K, D, D), diag
            (R, K, D), spherical (R, K, 1), tied their sum over all components, (R, 1, D, D).
        origins: What each component's are about, shape (R, K, D).
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    origins: Tensor

    def take(self, rows: Tensor) -> "Moments":
        """Return those of some of the R mixtures."""
        return Moments(*(part[rows] for part in self))


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
        """Return lower Cholesky factors, shape (R, K, D, D)."""
        return scales.expand(-1, num_components, -1, -1)

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

    def remainder(self, scales: Tensor, total: Tensor) -> Tensor | float:
        return -0.5 * self.trace(scales, total, total.shape[-1]).squeeze(-1)

    def prior_count(self, degrees: float, num_components: int, dim: int) -> float:
        return degrees + dim + 1 + num_components


class Diagonal(Full):
    """Covariances without correlations."""

    name, linear = "diag", False

    def num_parameters(self, num_components: int, dim: int) -> int:
        return num_components * dim

    def num_features(self, dim: int) -> int:
        return 1 + 2 * dim

    def fill(self, z: Tensor, out: Tensor) -> None:
        dim = len(z)
        out[0], out[1 : dim + 1] = 1, z
        torch.mul(z, z, out=out[dim + 1 :])

    def natural(self, parameters: Parameters) -> Tensor:
        log_weights, locs, scales = parameters
        precisions = scales.square().reciprocal()
        constant = _constant(log_weights, locs / scales, self.log_det(scales, locs.shape[-1]))
        parts = [constant.unsqueeze(-1), precisions * locs, -0.5 * precisions]
        return torch.cat(parts, dim=-1)

    def moments(self, sums: Tensor, dim: int, total: Tensor) -> Moments:
        counts, firsts, squares = sums[..., 0], sums[..., 1 : dim + 1], sums[..., dim + 1 :]
        return Moments(counts, firsts, squares, torch.zeros_like(firsts))

    def whiten(self, residuals: Tensor, scale: Tensor) -> Tensor:
        return residuals / scale.unsqueeze(-1)

    def trace(self, scales: Tensor, squares: Tensor, dim: int) -> Tensor:
        return (squares / scales.square()).sum(dim=-1)

    def log_det(self, scales: Tensor, dim: int) -> Tensor:
        return scales.log().sum(dim=-1)

    def weigh(self, residuals: Tensor, weights: Tensor) -> Tensor:
        return residuals.square() @ weights

    def outer(self, vectors: Tensor) -> Tensor:
        return vectors.square()

    def reduce(self, matrices: Tensor) -> Tensor:
        return matrices.diagonal(dim1=-2, dim2=-1)

    def spread(self, numbers: Tensor) -> Tensor:
        return numbers.unsqueeze(-1)

    def factor(self, covs: Tensor) -> tuple[Tensor, Tensor]:
        return covs.clamp_min(0).sqrt(), ~(covs > torch.finfo(covs.dtype).tiny).all(dim=-1)

    def trils(self, scales: Tensor, num_components: int, dim: int) -> Tensor:
        return scales.expand(-1, -1, dim).diag_embed()

    def to_free(self, scales: Tensor) -> Tensor:
        return scales.log()

    def from_free(self, free: Tensor) -> Tensor:
        return free.exp()


class Spherical(Diagonal):
    """Covariances alike in all directions: the mean of the coordinates' variances."""

    name = "spherical"

    def num_parameters(self, num_components: int, dim: int) -> int:
        return num_components

    def num_features(self, dim: int) -> int:
        return 2 + dim

    def fill(self, z: Tensor, out: Tensor) -> None:
        dim = len(z)
        out[0], out[1 : dim + 1] = 1, z
        torch.sum(z * z, dim=0, out=out[dim + 1])

    def moments(self, sums: Tensor, dim: int, total: Tensor) -> Moments:
        counts, firsts, squares = sums[..., 0], sums[..., 1 : dim + 1], sums[..., dim + 1 :] / dim
        return Moments(counts, firsts, squares, torch.zeros_like(firsts))

    def trace(self, scales: Tensor, squares: Tensor, dim: int) -> Tensor:
        return dim * (squares / scales.square()).squeeze(-1)

    def log_det(self, scales: Tensor, dim: int) -> Tensor:
        return dim * scales.log().squeeze(-1)

    def weigh(self, residuals: Tensor, weights: Tensor) -> Tensor:
        return (residuals.square() @ weights).mean(dim=-1, keepdim=True)

    def outer(self, vectors: Tensor) -> Tensor:
        return vectors.square().mean(dim=-1, keepdim=True)

    def reduce(self, matrices: Tensor) -> Tensor:
        return matrices.diagonal(dim1=-2, dim2=-1).mean(dim=-1, keepdim=True)


FORMS = {form.name: form for form in (Full(), Tied(), Diagonal(), Spherical())}


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
    return _constant(log_weights, whitened.squeeze(-1), log_det), slopes, inverses


def _constant(log_weights: Tensor, whitened: Tensor, log_det: Tensor) -> Tensor:
    """Return log w − log |L| − D/2 log 2π − ½ |L⁻¹ loc|²."""
    half = 0.5 * whitened.shape[-1] * math.log(2 * math.pi)
    return log_weights - log_det - half - 0.5 * whitened.square().sum(dim=-1)
