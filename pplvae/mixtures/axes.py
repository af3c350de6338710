"""The forms of covariance without correlations: ellipsoids along the axes, and spheres.

What the methods are for, `Full` says; the mathematics is in `covariances`.
"""

# ruff: noqa: D102 - what a method of a form is for, `Full` says

import torch
from torch import Tensor

from pplvae.mixtures.batches import Moments, Parameters
from pplvae.mixtures.ellipsoids import Full, intercepts


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
        constant = intercepts(log_weights, locs / scales, self.log_det(scales, locs.shape[-1]))
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
        return scales.expand(*scales.shape[:-1], dim).diag_embed()

    def nearest(self, trils: Tensor, weights: Tensor) -> Tensor:
        return self.factor(self.reduce(trils @ trils.mT))[0]

    def color(self, scales: Tensor, noise: Tensor) -> Tensor:
        return scales * noise

    def num_shears(self, dim: int) -> int:
        return 0

    def pivot_counts(self, degrees: Tensor, dim: int) -> Tensor:
        return (degrees + dim - 1).unsqueeze(-1).expand(*degrees.shape, dim)

    def from_bartlett(
        self, root: Tensor, pivots: Tensor, shears: Tensor | None, *, dim: int
    ) -> Tensor:
        return root / pivots.sqrt()

    def to_bartlett(self, root: Tensor, scales: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
        pivots = (root / scales).square()
        return pivots, pivots[..., :0]

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

    def widths(self, scales: Tensor) -> Tensor:
        return scales.square().mean(dim=-1, keepdim=True).sqrt()

    def pivot_counts(self, degrees: Tensor, dim: int) -> Tensor:
        return (dim * (degrees + dim + 1) - 2).unsqueeze(-1)

    def from_bartlett(
        self, root: Tensor, pivots: Tensor, shears: Tensor | None, *, dim: int
    ) -> Tensor:
        return root * (dim / pivots).sqrt()

    def to_bartlett(self, root: Tensor, scales: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
        pivots = dim * (root / scales).square()
        return pivots, pivots[..., :0]
