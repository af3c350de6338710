"""The PCA spectrum: how the variance of the data is shared among orthogonal directions.

With the data centered and X = U Σ Vᵀ its singular value decomposition, the principal components
are XV = UΣ, and the variances along them, the eigenvalues of the covariance matrix, are
λ_i = σ_i² / (N − 1). Data on a d-dimensional plane have d that are not zero; noise fills the rest,
and `components` has the rules that say where it begins. (Lecture 18 calls C = XᵀX the correlation
matrix. It is N − 1 times the covariance; of correlations only if the columns are standardized.)

Reference:
    Lecture 5 (28/10/2024) and Lectures 14 and 18 (2023); Abraham et al. (2017) for the
    participation ratio, (Σ λ)² / Σ λ²
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pplvae.validation import Array, as_points, check_whole


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Principal component analysis of N points in D dimensions, with R = min(N − 1, D).

    Attributes:
        dimension: The least number of components that hold the asked fraction of the variance.
        variance_fraction: That fraction.
        eigenvalues: Variances λ along the components, largest first, in squared units of x,
            shape (R,).
        directions: The components' unit vectors, the columns of V as rows, shape (R, D).
        mean: The center of the data, shape (D,).
        num_points: N.
    """

    dimension: int
    variance_fraction: float
    eigenvalues: Tensor = field(repr=False)
    directions: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    num_points: int = field(repr=False)

    @property
    def explained(self) -> Tensor:
        """The fraction of the variance along each component, shape (R,)."""
        return self.eigenvalues / self.eigenvalues.sum()

    @property
    def rounding(self) -> Tensor:
        """The share of the largest variance that rounding can make along each, shape (R,).

        Errors of arithmetic add up like a random walk: the QR and SVD err by up to 0.2 √(N + D)
        eps of the largest singular value, measured. And a number far from 0 is itself rounded, to
        eps of its column's mean: noise that adds at most √N + √D of its standard deviations to
        a singular value, by the law of Marchenko and Pastur.
        """
        num_columns, eps = len(self.mean), torch.finfo(self.eigenvalues.dtype).eps
        arithmetic = (self.num_points + num_columns) * eps**2
        stored = eps * (1 + math.sqrt(num_columns / (self.num_points - 1)))
        means = self.mean / self.eigenvalues[0].sqrt()
        return arithmetic + self.directions.square() @ (stored * means).square()

    @property
    def rank(self) -> int:
        """How many directions the data vary in by more than rounding can."""
        return int((self.eigenvalues / self.eigenvalues[0] > self.rounding).sum())

    @property
    def variances(self) -> Tensor:
        """The variance of each column, Σ_r λ_r V_rj², shape (D,); 0 where rounding explains it."""
        largest = self.eigenvalues[0]
        found = (self.eigenvalues / largest) @ self.directions.square()
        size, eps = self.num_points + len(self.mean), torch.finfo(found.dtype).eps
        return largest * found.where(found > size * eps**2, 0.0)

    @property
    def participation_ratio(self) -> float:
        """(Σ λ)² / Σ λ²: R for a flat spectrum, 1 where one direction holds all."""
        return 1 / self.explained.square().sum().item()

    def project(self, x: Array, num_components: int) -> Tensor:
        """Return the leading principal components of points, shape (N, num_components).

        Raises:
            ValueError: If there are not so many components, or `x` has another D.
        """
        check_whole("num_components", num_components, 1, len(self.eigenvalues))
        x = as_points(x).to(self.mean)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"x must have {len(self.mean)} columns, got {x.shape[1]}")
        return (x - self.mean) @ self.directions[:num_components].mT


def pca(x: Array, variance_fraction: float = 0.95) -> Spectrum:
    """Return the principal components of the data, by SVD of the centered data.

    Never by the covariance matrix, whose small eigenvalues are lost in rounding.

    Args:
        x: Points, shape (N, D), N ≥ 2.
        variance_fraction: How much of the variance `dimension` must hold, in (0, 1].

    Raises:
        ValueError: If the data are constant, or spread so little or so far that no variance in
            their dtype can tell.
    """
    x = as_points(x, min_points=2)
    if not 0 < variance_fraction <= 1:
        raise ValueError(f"variance_fraction must be in (0, 1], got {variance_fraction}")
    # In two steps, because the mean of large numbers is itself rounded.
    from_first = x - x[0]
    shift = from_first.mean(dim=0)
    _, singular, directions = torch.linalg.svd(_square(from_first - shift), full_matrices=False)
    rank = min(len(x) - 1, x.shape[1])
    eigenvalues = singular[:rank].square() / (len(x) - 1)
    _check_variance(eigenvalues.sum().item(), from_first)
    held = eigenvalues.cumsum(0) / eigenvalues.sum()
    rounding = rank * torch.finfo(x.dtype).eps
    dimension = int((held < variance_fraction - rounding).sum()) + 1
    found = Spectrum(
        dimension=dimension,
        variance_fraction=variance_fraction,
        eigenvalues=eigenvalues,
        directions=_oriented(directions[:rank]),
        mean=x[0] + shift,
        num_points=len(x),
    )
    return replace(found, dimension=min(dimension, max(1, found.rank)))


def _check_variance(total: float, from_first: Tensor) -> None:
    spread = from_first.abs().max().item()
    if spread == 0:
        raise ValueError(f"x must vary, got {len(from_first)} copies of one point")
    if not 0 < total < math.inf:
        raise ValueError(f"x must have a variance in {from_first.dtype}, got a spread of {spread}")


def _square(x: Tensor) -> Tensor:
    """Return a matrix of at most D rows with the same Σ and V: the R of x = QR."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x


def _oriented(directions: Tensor) -> Tensor:
    """Return the directions with their largest entry positive: their sign is free."""
    largest = directions.abs().argmax(dim=1, keepdim=True)
    return directions * directions.gather(1, largest).sign()
