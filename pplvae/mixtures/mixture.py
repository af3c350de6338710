"""The Gaussian mixture: its density, its draws, its marginals and conditionals.

A point comes from component k with probability w_k, and is then Gaussian:

    p(x) = Σ_k w_k Normal(x | loc_k, L_k L_kᵀ).

The lower Cholesky factor L_k stands for the covariance everywhere: a triangular solve gives the
density, its diagonal the determinant, L_k ε a draw. Marginals, conditionals and linear maps are
Gaussian mixtures again (`maps`).

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, sections 2.3 and 9.2.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.mixtures import files
from pplvae.mixtures.checks import check_dims, check_shapes, check_values, checked, numbers
from pplvae.mixtures.joint import log_joints, mean_and_cov, told_apart
from pplvae.mixtures.line import Line
from pplvae.mixtures.maps import conditioned, noise_tril, rank, triangular
from pplvae.randomness import generator
from pplvae.validation import Array, as_points, as_tensor, check_in_range, check_whole

PARTS = ("weights", "locs", "scale_trils")


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
        for name in PARTS:
            object.__setattr__(self, name, as_tensor(getattr(self, name), name=name))
        check_shapes(self.weights, self.locs, self.scale_trils)
        check_values(self.weights, self.scale_trils)

    def __repr__(self) -> str:
        return f"GaussianMixture({self.num_components} components in {self.dim} dimensions)"

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weights, self.locs, self.scale_trils

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
        """The components' covariances L Lᵀ, shape (K, D, D)."""
        return self.scale_trils @ self.scale_trils.mT

    @property
    def mean(self) -> Tensor:
        """The mean of the whole, shape (D,)."""
        return self.weights @ self.locs

    @property
    def cov(self) -> Tensor:
        """The covariance of the whole, shape (D, D): within the components and between them."""
        return mean_and_cov(*self._parts)[1]

    def joint_log_prob(self, x: Array) -> Tensor:
        """Return log p(x, k) = log w_k p(x | k) in nats, shape (N, K), for points (N, D).

        Raises:
            ValueError: If the points are not finite or not in D dimensions.
        """
        return self._of_joint(x, lambda joint: joint.mT)

    def log_prob(self, x: Array) -> Tensor:
        """Return log p(x) in nats, shape (N,), for points of shape (N, D)."""
        return self._of_joint(x, lambda joint: joint.logsumexp(dim=0))

    def responsibilities(self, x: Array) -> Tensor:
        """Return p(k | x), shape (N, K), rows summing to one, for points of shape (N, D).

        Raises:
            ValueError: If a point is so far out that its density is 0 under every component.
        """
        return self._of_joint(x, lambda joint: told_apart(joint).softmax(dim=0).mT)

    def predict(self, x: Array) -> Tensor:
        """Return the most probable component of each point, shape (N,).

        Raises:
            ValueError: As `responsibilities`.
        """
        return self._of_joint(x, lambda joint: told_apart(joint).max(dim=0).indices)

    def _of_joint(self, x: Array, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `reduce` makes of log p(x, k), (K, B), in blocks of bounded memory."""
        x = as_points(x)
        if x.shape[1] != self.dim:
            raise ValueError(f"x must have {self.dim} columns, got {x.shape[1]}")
        found = [reduce(joint) for joint in log_joints(*self._parts, x)]
        if found[0].is_floating_point():
            found = [part.to(self.locs.dtype) for part in found]
        return torch.cat(found)

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
        dims = check_dims(dims, self.dim)
        return GaussianMixture(
            self.weights, self.locs[:, dims], triangular(self.scale_trils[:, dims])
        )

    def conditional(self, dims: Sequence[int], values: Array) -> "GaussianMixture":
        """Return the mixture of the other coordinates, in their order, given x[dims] = values.

        Args:
            dims: Which coordinates are known, d < D of them.
            values: What they are, shape (d,).

        Raises:
            ValueError: If `dims` repeats itself, is outside [0, D − 1], leaves nothing over, or
                does not fit the values.
        """
        dims = check_dims(dims, self.dim)
        values = checked(values, "values", (len(dims),))
        rest = [d for d in range(self.dim) if d not in dims]
        if not rest:
            raise ValueError(f"dims must leave a coordinate over, got all {self.dim}")
        known, joint = self.marginal(dims), self.marginal([*dims, *rest])
        shifts, trils = conditioned(joint.scale_trils, values.to(known.locs) - known.locs)
        weights = known.responsibilities(values.unsqueeze(0)).squeeze(0)
        return GaussianMixture(weights, self.locs[:, rest] + shifts, trils)

    def linear(
        self, matrix: Array, shift: Array | None = None, *, noise_cov: Array | None = None
    ) -> "GaussianMixture":
        """Return the mixture that A x + b + ε follows, ε Gaussian noise where it has a covariance.

        Args:
            matrix: A, shape (M, D), of full row rank unless there is noise.
            shift: b, shape (M,); none where None.
            noise_cov: The covariance of ε, shape (M, M), positive definite; no noise where None.

        Raises:
            ValueError: If the shapes do not fit, A x would have no density, or the noise has none.
        """
        matrix = as_tensor(matrix, name="matrix").to(self.locs)
        size = matrix.shape[0] if matrix.dim() == 2 else 0
        if size == 0 or matrix.shape[1] != self.dim:
            raise ValueError(f"matrix must have shape (M, {self.dim}), got {tuple(matrix.shape)}")
        locs, rows = self.locs @ matrix.mT, matrix @ self.scale_trils
        if shift is not None:
            locs = locs + checked(shift, "shift", (size,)).to(locs)
        if noise_cov is not None:
            noise = noise_tril(checked(noise_cov, "noise_cov", (size, size)).to(locs))
            rows = torch.cat([rows, noise.expand(len(rows), -1, -1)], dim=-1)
        elif rank(matrix) < size:
            raise ValueError(
                f"matrix must have full row rank without noise, got rank {rank(matrix)} "
                f"of shape {tuple(matrix.shape)}"
            )
        return GaussianMixture(self.weights, locs, triangular(rows))

    def cdf(self, x: Array | float, *, upper: bool = False) -> Tensor:
        """Return P(X ≤ x), or P(X > x) where `upper`, of a mixture on a line, shape as of x.

        Small probabilities keep all their digits: take the upper one for the upper tail.

        Raises:
            ValueError: If the mixture has more than one dimension, or x is not finite.
        """
        line = self._line()
        found = line.cdf(numbers(x, "x").to(line.locs), upper=upper)
        return found.to(self.locs.dtype)

    def quantile(self, probs: Array | float, *, upper: bool = False) -> Tensor:
        """Return where `cdf` has these values, shape as of `probs`; 0 and 1 lie at infinity.

        Args:
            probs: Probabilities to lie below, or above where `upper`.
            upper: Which tail `probs` counts from: for P(X > x) = 1e-20, `upper=True`.

        Raises:
            ValueError: If the mixture has more than one dimension, or a probability is none.
        """
        line = self._line()
        below = numbers(probs, "probs").to(line.locs)
        for extreme in below.flatten().aminmax() if below.numel() else ():
            check_in_range("probs", extreme.item(), 0, 1)
        return line.quantile(below, upper=upper).to(self.locs.dtype)

    def _line(self) -> Line:
        if self.dim != 1:
            raise ValueError(f"the mixture must be on a line, got {self}: take a marginal")
        return Line.of(*self._parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture to `path`, a safetensors file, whole or not at all."""
        files.write(path, {name: getattr(self, name) for name in PARTS})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "GaussianMixture":
        """Return the mixture that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is cut off, or holds something else.
        """
        return files.read(path, lambda parts: cls(*(parts[name] for name in PARTS)))


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
