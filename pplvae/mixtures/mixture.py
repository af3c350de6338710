"""The Gaussian mixture: its density, its draws, its marginals and conditionals.

A point comes from component k with probability w_k, and is then Gaussian:

    p(x) = Σ_k w_k Normal(x | loc_k, L_k L_kᵀ).

The lower Cholesky factor L_k stands for the covariance everywhere: a triangular solve gives the
density, its diagonal the determinant, L_k ε a draw. Marginals and conditionals are Gaussian
mixtures again: with the coordinates reordered to (a, b), the blocks of the reordered factor say
it all,

    L = [[L_aa, 0], [L_ba, L_bb]],   p(a) = Normal(loc_a, L_aa L_aaᵀ),
    p(b | a) = Normal(loc_b + L_ba L_aa⁻¹ (a − loc_a), L_bb L_bbᵀ),

for L_bb L_bbᵀ is the Schur complement. No covariance is ever formed.

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, sections 2.3 and 9.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.randomness import generator
from pplvae.validation import Array, as_points, as_tensor, check_whole


class Draws(NamedTuple):
    """Points `x`, shape (N, D), and the components `labels` they came from, shape (N,)."""

    x: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixture:
    """A mixture of K Gaussians in D dimensions.

    Attributes:
        weights: Mixing weights w, shape (K,), summing to one.
        locs: Means, shape (K, D).
        scale_trils: Lower Cholesky factors L of the covariances, shape (K, D, D).

    Raises:
        ValueError: If the shapes or dtypes do not fit, the weights are not a distribution, or a
            factor is not lower triangular with a positive diagonal.
    """

    weights: Tensor
    locs: Tensor
    scale_trils: Tensor

    def __post_init__(self) -> None:
        for name in ("weights", "locs", "scale_trils"):
            object.__setattr__(self, name, as_tensor(getattr(self, name), name=name))
        _check_shapes(self.weights, self.locs, self.scale_trils)
        _check_values(self.weights, self.scale_trils)

    def __repr__(self) -> str:
        return f"GaussianMixture({self.num_components} components in {self.dim} dimensions)"

    @property
    def num_components(self) -> int:
        """The number of components K."""
        return len(self.weights)

    @property
    def dim(self) -> int:
        """The dimension D of a point."""
        return self.locs.shape[1]

    @property
    def covs(self) -> Tensor:
        """The covariances L Lᵀ, shape (K, D, D)."""
        return self.scale_trils @ self.scale_trils.mT

    def joint_log_prob(self, x: Array) -> Tensor:
        """Return log p(x, k) in nats, shape (N, K), for points of shape (N, D).

        Raises:
            ValueError: If the points are not finite or not in D dimensions.
        """
        x = as_points(x).to(self.locs.dtype)
        if x.shape[1] != self.dim:
            raise ValueError(f"x must have {self.dim} columns, got {x.shape[1]}")
        # One component at a time: never (N, K, D) numbers at once.
        parts = zip(self.locs, self.scale_trils, strict=True)
        log_probs = torch.stack([_normal_log_prob(x - loc, tril) for loc, tril in parts], dim=-1)
        return self.weights.log() + log_probs

    def log_prob(self, x: Array) -> Tensor:
        """Return log p(x) in nats, shape (N,), for points of shape (N, D)."""
        return self.joint_log_prob(x).logsumexp(dim=-1)

    def responsibilities(self, x: Array) -> Tensor:
        """Return p(k | x), shape (N, K), rows summing to one, for points of shape (N, D)."""
        return self.joint_log_prob(x).softmax(dim=-1)

    def predict(self, x: Array) -> Tensor:
        """Return the most probable component of each point, shape (N,)."""
        return self.joint_log_prob(x).argmax(dim=-1)

    def sample(self, num_samples: int, seed: int | None = None) -> Draws:
        """Return `num_samples` independent points and the components they came from.

        The component is the interval of the cumulated weights in which a uniform number falls;
        then x = loc + L ε with ε standard normal.

        Raises:
            ValueError: If `num_samples` is less than 1.
        """
        check_whole("num_samples", num_samples, 1)
        rng = generator(seed, self.locs.device)
        like = {"generator": rng, "device": self.locs.device}
        labels = choose(self.weights, torch.rand(num_samples, dtype=torch.float64, **like))
        x = torch.randn(num_samples, self.dim, dtype=self.locs.dtype, **like)
        for k in range(self.num_components):
            own = labels == k
            x[own] = self.locs[k] + x[own] @ self.scale_trils[k].T
        return Draws(x, labels)

    def marginal(self, dims: Sequence[int]) -> "GaussianMixture":
        """Return the mixture that x[dims] follows, its coordinates in the order of `dims`.

        Raises:
            ValueError: If `dims` is empty, repeats itself, or is outside [0, D − 1].
        """
        dims = _check_dims(dims, self.dim)
        # The rows A of a factor have covariance A Aᵀ = Rᵀ R, from Aᵀ = Q R: no squared condition.
        r = torch.linalg.qr(self.scale_trils[:, dims].mT).R
        signs = r.diagonal(dim1=-2, dim2=-1).sign()
        return GaussianMixture(self.weights, self.locs[:, dims], (signs.unsqueeze(-1) * r).mT)

    def conditional(self, dims: Sequence[int], values: Array) -> "GaussianMixture":
        """Return the mixture of the other coordinates, in their order, given x[dims] = values.

        Args:
            dims: Which coordinates are known, d < D of them.
            values: What they are, shape (d,).

        Raises:
            ValueError: If `dims` repeats itself, is outside [0, D − 1], leaves nothing over, or
                does not fit the values.
        """
        dims, values = _check_dims(dims, self.dim), as_tensor(values, name="values")
        if values.shape != (len(dims),):
            raise ValueError(f"values must have shape ({len(dims)},), got {tuple(values.shape)}")
        rest = [d for d in range(self.dim) if d not in dims]
        if not rest:
            raise ValueError(f"dims must leave a coordinate over, got all {self.dim}")
        known, joint = self.marginal(dims), self.marginal([*dims, *rest])
        to_a, a_to_b = joint.scale_trils.split([len(dims), len(rest)], dim=-1)
        residuals = (values.to(known.locs) - known.locs).unsqueeze(-1)
        whitened = torch.linalg.solve_triangular(to_a[:, : len(dims)], residuals, upper=False)
        shifts = (to_a[:, len(dims) :] @ whitened).squeeze(-1)
        weights = known.responsibilities(values.unsqueeze(0)).squeeze(0)
        return GaussianMixture(weights, self.locs[:, rest] + shifts, a_to_b[:, len(dims) :])


def column_scales(x: Tensor) -> Tensor:
    """Return the standard deviation of each column, shape (D,), in units of x.

    A constant column has none: it gets the root mean square of the others'.

    Args:
        x: Points, shape (N, D).

    Raises:
        ValueError: If every column is constant.
    """
    scales = x.std(dim=0, correction=0)
    # A constant column can have a standard deviation of rounding errors.
    varies = (x.amin(dim=0) < x.amax(dim=0)) & (scales > 0)
    if not varies.any():
        raise ValueError(f"x must vary, got {len(x)} times the same point")
    return torch.where(varies, scales, scales[varies].square().mean().sqrt())


def choose(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return in which interval of the cumulated weights each uniform number falls.

    Args:
        weights: Non-negative, shape (K,); only their ratios matter.
        uniforms: In [0, 1), float64, shape (N,).

    Returns:
        Indices below K, shape (N,); never one of weight zero.
    """
    cumulated = weights.cumsum(dim=0, dtype=torch.float64)
    return torch.searchsorted(cumulated, uniforms * cumulated[-1], right=True)


def _normal_log_prob(residuals: Tensor, scale_tril: Tensor) -> Tensor:
    """Return log Normal(residual | 0, L Lᵀ), shape (N,), for residuals (N, D) and L (D, D)."""
    whitened = torch.linalg.solve_triangular(scale_tril, residuals.T, upper=False)
    log_normalizer = scale_tril.diagonal().log().sum() + 0.5 * len(whitened) * math.log(
        2 * math.pi
    )
    return -0.5 * whitened.square().sum(dim=0) - log_normalizer


def _check_shapes(weights: Tensor, locs: Tensor, scale_trils: Tensor) -> None:
    """Refuse what is not (K,), (K, D), (K, D, D) of one dtype."""
    if weights.dim() != 1 or len(weights) == 0:
        raise ValueError(f"weights must have shape (K,), got {tuple(weights.shape)}")
    num_components = len(weights)
    if locs.dim() != 2 or len(locs) != num_components or locs.shape[1] == 0:
        raise ValueError(f"locs must have shape ({num_components}, D), got {tuple(locs.shape)}")
    expected = (num_components, locs.shape[1], locs.shape[1])
    if scale_trils.shape != expected:
        raise ValueError(f"scale_trils must have shape {expected}, got {tuple(scale_trils.shape)}")
    if not weights.dtype == locs.dtype == scale_trils.dtype:
        dtypes = f"{weights.dtype}, {locs.dtype} and {scale_trils.dtype}"
        raise ValueError(f"weights, locs and scale_trils must share a dtype, got {dtypes}")


def _check_values(weights: Tensor, scale_trils: Tensor) -> None:
    """Refuse weights that are no distribution and matrices that are no Cholesky factors."""
    if (weights < 0).any() or abs(weights.sum().item() - 1) > 1e-5:
        raise ValueError(f"weights must be at least 0 and sum to one, got {weights.tolist()}")
    if (scale_trils.triu(1) != 0).any():
        raise ValueError("scale_trils must be lower triangular, got entries above the diagonal")
    diagonals = scale_trils.diagonal(dim1=-2, dim2=-1)
    if not (diagonals > 0).all():
        smallest = diagonals.min().item()
        raise ValueError(f"scale_trils must have positive diagonals, got {smallest}")


def _check_dims(dims: Sequence[int], dim: int) -> list[int]:
    """Return `dims` as a list, refusing none, repeats, and any outside [0, dim − 1]."""
    dims = list(dims)
    for d in dims:
        check_whole("dims", d, 0, dim - 1, context=f"for {dim} dimensions")
    if not dims or len(set(dims)) < len(dims):
        raise ValueError(f"dims must name some coordinates, each once, got {dims}")
    return dims
