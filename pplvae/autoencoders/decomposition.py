"""The singular value decomposition of centered data, X = U Σ Vᵀ.

The principal components are X V = U Σ, the eigenvectors of Xᵀ X are the columns of V, and Σ² its
eigenvalues. By the SVD and never by Xᵀ X, whose small eigenvalues are lost in rounding. (Lecture
18 calls Xᵀ X the correlation matrix. It is N times the covariance of the columns, and of
correlations only if those are standardized.)

Reference:
    Lectures 14 and 18 (2023): "use numerically stable algorithm for SVD"
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae.autoencoders.model import centered
from pplvae.validation import Array, as_points, as_tensor


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The SVD of N centered points in D dimensions, with R = min(N, D).

    Attributes:
        singular_values: Σ, largest first, in units of x, shape (R,).
        directions: Vᵀ, orthonormal rows with their largest entry positive, shape (R, D); those
            beyond the rank are arbitrary.
        mean: The center of the data, shape (D,).
        root: A matrix with the Σ and the V of the centered data, and at most D rows.
        num_points: N.
    """

    singular_values: Tensor
    directions: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    root: Tensor = field(repr=False)
    num_points: int

    @property
    def rank(self) -> int:
        """How many singular values are more than rounding."""
        rounding = torch.finfo(self.mean.dtype).eps * max(self.num_points, len(self.mean))
        return int((self.singular_values > rounding * self._largest()).sum())

    def _largest(self) -> Tensor:
        # Numbers far from 0 are themselves rounded.
        return self.singular_values[0].maximum(self.mean.norm())


def decompose(x: Array) -> Decomposition:
    """Return the SVD of the centered data.

    Args:
        x: Points, shape (N, D), N ≥ 2.

    Raises:
        ValueError: If all points are the same.
    """
    x = as_points(x, min_points=2).detach()
    away, mean = centered(x)
    root = torch.linalg.qr(away, mode="r").R if len(x) > x.shape[1] else away
    _, singular, directions = torch.linalg.svd(root, full_matrices=False)
    return Decomposition(singular, oriented(directions), mean, root, len(x))


def oriented(directions: Tensor) -> Tensor:
    """Return directions, shape (R, D), with their largest entry positive: their sign is free."""
    largest = directions.abs().argmax(dim=1, keepdim=True)
    return directions * directions.gather(1, largest).sign()


def principal_angles(a: Array, b: Array) -> Tensor:
    """Return the angles between two subspaces, in radians, largest first, shape (min(K, L),).

    With orthonormal bases A and B their sines are the singular values of what B leaves of A. Their
    cosines are those of A Bᵀ, which lose small angles to rounding.

    Args:
        a: Vectors that span the first, shape (K, D), linearly independent.
        b: Vectors that span the second, shape (L, D), linearly independent.

    Raises:
        ValueError: If they are not such vectors, or of different dimensions.

    Reference:
        Björck & Golub (1973), https://doi.org/10.2307/2005662
    """
    a, b = _spanning(a, "a"), _spanning(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"b must have {a.shape[1]} columns, as a, got {b.shape[1]}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    small, large = sorted((a.to(dtype), b.to(dtype)), key=len)
    one, other = torch.linalg.qr(small.mT).Q, torch.linalg.qr(large.mT).Q
    return torch.linalg.svdvals(one - other @ (other.mT @ one)).clamp(max=1).asin()


def _spanning(vectors: Array, name: str) -> Tensor:
    if as_tensor(vectors, name=name).dim() != 2:
        raise ValueError(f"{name} must hold vectors as rows, shape (K, D), got one vector")
    vectors = as_points(vectors, name=name)
    rank = int(torch.linalg.matrix_rank(vectors)) if vectors.any() else 0
    if rank < len(vectors):
        raise ValueError(f"{name} must be linearly independent, got {len(vectors)} of rank {rank}")
    return vectors
