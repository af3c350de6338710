"""The Gaussian mixture: its density, its draws, its marginals and conditionals.

A point comes from component k with probability w_k, and is then Gaussian:

    p(x) = Σ_k w_k Normal(x | loc_k, L_k L_kᵀ).

The lower Cholesky factor L_k stands for the covariance everywhere: a triangular solve gives the
density, its diagonal the determinant, L_k ε a draw. Marginals and conditionals are Gaussian
mixtures again: with the coordinates reordered to (a, b), the blocks of the reordered factor say
it all,

    L = [[L_aa, 0], [L_ba, L_bb]],   p(a) = Normal(loc_a, L_aa L_aaᵀ),
    p(b | a) = Normal(loc_b + L_ba L_aa⁻¹ (a − loc_a), L_bb L_bbᵀ),

for L_bb L_bbᵀ is the Schur complement. So are linear maps: A x + b has means A loc + b and factors
that triangularize A L.

Many points at once take one matrix product for all components, log w_k p(x | k) = T F(z) as in
`covariances`, with z the point whitened by the covariance of the whole. It errs by about

    ½ ε ((|loc| + σ_max) / σ_min)²   (ε = 2e-16; location and widths of a component among the z),

so components for which that is more than 1e-12 nats are taken by triangular solves, as are few
points, and calls whose gradients are wanted.

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, sections 2.3 and 9.2.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pplvae.mixtures.covariances import FORMS, Full, Parameters
from pplvae.mixtures.expectation import block_size
from pplvae.randomness import generator
from pplvae.storage import write_atomically
from pplvae.validation import Array, as_points, as_tensor, check_in_range, check_whole

FORMAT = "pplvae GaussianMixture 1"
PARTS = ("weights", "locs", "scale_trils")
MANY = 100_000  # N K D, from which the matrix product is worth its preparation
NEAR = 2.0**12  # of ((|loc| + σ_max) / σ_min)², up to which it keeps 1e-12 nats
MOST_HALVINGS = 2200  # of the widest bracket of doubles
HUGE = 1e100  # its square, times a precision, is still a number


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
        """The components' covariances L Lᵀ, shape (K, D, D)."""
        return self.scale_trils @ self.scale_trils.mT

    @property
    def mean(self) -> Tensor:
        """The mean of the whole, shape (D,)."""
        return self.weights @ self.locs

    @property
    def cov(self) -> Tensor:
        """The covariance of the whole, shape (D, D): within the components and between them."""
        away = (self.locs - self.mean).unsqueeze(-1)
        return torch.einsum("k,kij->ij", self.weights, self.covs + away * away.mT)

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
        """Return p(k | x), shape (N, K), rows summing to one, for points of shape (N, D)."""
        return self._of_joint(x, lambda joint: joint.softmax(dim=0).mT)

    def predict(self, x: Array) -> Tensor:
        """Return the most probable component of each point, shape (N,)."""
        return self._of_joint(x, lambda joint: joint.max(dim=0).indices)

    def _of_joint(self, x: Array, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `reduce` makes of log p(x, k), (K, B), in blocks of bounded memory."""
        x = as_points(x)
        if x.shape[1] != self.dim:
            raise ValueError(f"x must have {self.dim} columns, got {x.shape[1]}")
        found = [reduce(joint) for joint in _log_joints(self, x)]
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
        dims = _check_dims(dims, self.dim)
        return GaussianMixture(
            self.weights, self.locs[:, dims], _triangular(self.scale_trils[:, dims])
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
        dims = _check_dims(dims, self.dim)
        values = _checked(values, "values", (len(dims),))
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
            locs = locs + _checked(shift, "shift", (size,)).to(locs)
        if noise_cov is not None:
            noise = _noise_tril(_checked(noise_cov, "noise_cov", (size, size)).to(locs))
            rows = torch.cat([rows, noise.expand(len(rows), -1, -1)], dim=-1)
        elif _rank(matrix) < size:
            raise ValueError(
                f"matrix must have full row rank without noise, got rank {_rank(matrix)} "
                f"of shape {tuple(matrix.shape)}"
            )
        return GaussianMixture(self.weights, locs, _triangular(rows))

    def cdf(self, x: Array | float, *, upper: bool = False) -> Tensor:
        """Return P(X ≤ x), or P(X > x) where `upper`, of a mixture on a line, shape as of x.

        Small probabilities keep all their digits: take the upper one for the upper tail.

        Raises:
            ValueError: If the mixture has more than one dimension, or x is not finite.
        """
        line = _Line.of(self)
        residuals = _numbers(x, "x").to(line.locs).unsqueeze(-1) - line.locs
        signed = (-residuals if upper else residuals) / line.scales
        # Not `ndtr`: it takes the lower tail as a difference from one half.
        tails = 0.5 * torch.special.erfc(-math.sqrt(0.5) * signed)
        return (tails @ line.log_weights.exp()).to(self.locs.dtype)

    def quantile(self, probs: Array | float, *, upper: bool = False) -> Tensor:
        """Return where `cdf` has these values, shape as of `probs`; 0 and 1 lie at infinity.

        Args:
            probs: Probabilities to lie below, or above where `upper`.
            upper: Which tail `probs` counts from: for P(X > x) = 1e-20, `upper=True`.

        Raises:
            ValueError: If the mixture has more than one dimension, or a probability is none.
        """
        line = _Line.of(self)
        below = _numbers(probs, "probs").to(line.locs)
        for extreme in below.flatten().aminmax() if below.numel() else ():
            check_in_range("probs", extreme.item(), 0, 1)
        # Always the tail below one half, of the mixture or of its mirror image.
        tails = torch.minimum(below, 1 - below)
        signs = torch.where((below <= 0.5) != upper, 1.0, -1.0).to(below)
        return (signs * _quantiles(line, tails, signs)).to(self.locs.dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture to `path`, a safetensors file, whole or not at all."""
        parts = {name: getattr(self, name).detach().clone().contiguous() for name in PARTS}
        header = {"format": FORMAT}
        write_atomically(Path(path), lambda name: save_file(parts, name, metadata=header))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "GaussianMixture":
        """Return the mixture that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is cut off, or holds something else.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"path must name a saved mixture, got {path}, not there")
        try:
            with safe_open(path, framework="pt") as file:
                kind = (file.metadata() or {}).get("format", "a foreign safetensors file")
                if kind != FORMAT:
                    raise ValueError(f"{kind}, not {FORMAT}")
                return cls(*(file.get_tensor(name) for name in PARTS))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"path must name a saved mixture, got {path}: {error}") from error


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


class _Product(NamedTuple):
    """log p(x, k) = T F(z), z = inverse (x − center), of all components but those `far` out."""

    form: Full
    center: Tensor
    inverse: Tensor
    natural: Tensor
    far: list[int]

    def joint(self, points: Tensor, room: Tensor) -> Tensor:
        """Return log p(x, k), shape (K, B), for points (D, B), with `room` for ≥ P B numbers."""
        size = self.natural.shape[1], points.shape[1]
        features = room[: math.prod(size)].view(size)
        self.form.fill(self.inverse @ (points - self.center), features)
        return self.natural @ features


def _log_joints(mixture: GaussianMixture, x: Tensor) -> Iterator[Tensor]:
    """Yield log p(x, k) in nats, shapes (K, B), for blocks of the points (N, D); double inside."""
    weights, locs, trils = (getattr(mixture, name).double() for name in PARTS)
    product = _product(weights, locs, trils) if _is_worth_it(x, weights, locs, trils) else None
    by_solves = range(len(locs)) if product is None else product.far
    num_features = locs.shape[1] if product is None else product.natural.shape[1]
    size = block_size(num_features, len(locs))
    room = locs.new_empty(num_features * size if product else 0)  # the same pages for all blocks
    for part in x.split(size):
        points = part.double().mT
        joint = product.joint(points, room) if product else room.new_empty(len(locs), len(part))
        for k in by_solves:
            residuals = points - locs[k].unsqueeze(-1)
            joint[k] = weights[k].log() + _normal_log_prob(residuals, trils[k])
        yield joint


def _is_worth_it(x: Tensor, *parts: Tensor) -> bool:
    """Return whether there are many points, not too far out, and no gradients to take."""
    learned = torch.is_grad_enabled() and any(part.requires_grad for part in (x, *parts))
    if learned or x.numel() * len(parts[0]) < MANY:
        return False
    low, high = x.aminmax()
    return bool((low >= -HUGE) & (high <= HUGE))


def _product(weights: Tensor, locs: Tensor, trils: Tensor) -> _Product | None:
    """Return the matrix product for these components; None where whitening costs the digits."""
    whole = GaussianMixture(weights, locs, trils)
    form = FORMS["full" if trils.tril(-1).any() else "diag"]
    cov = whole.cov if form.linear else whole.cov.diagonal().diag()
    tril, info = torch.linalg.cholesky_ex(cov)
    inverse = torch.linalg.solve_triangular(tril, torch.eye(len(cov)).to(tril), upper=False)
    condition = (inverse.abs() @ tril.abs()).sum(dim=-1).amax()  # Skeel's: units do not matter
    if info or not condition.square() <= NEAR:
        return None
    locs, trils = (locs - whole.mean) @ inverse.mT, inverse @ trils
    widths = torch.linalg.svdvals(trils)
    near = ((locs.norm(dim=-1) + widths[:, 0]) / widths[:, -1]).square() <= NEAR
    log_weights = weights.log() - tril.diagonal().log().sum()
    scales = trils if form.linear else trils.diagonal(dim1=-2, dim2=-1)
    natural = form.natural(Parameters(log_weights[None], locs[None], scales[None]))[0]
    far = (~near).nonzero().flatten().tolist()
    return _Product(form, whole.mean.unsqueeze(-1), inverse, natural, far)


def _normal_log_prob(residuals: Tensor, scale_tril: Tensor) -> Tensor:
    """Return log Normal(residual | 0, L Lᵀ), shape (B,), for residuals (D, B) and L (D, D)."""
    whitened = torch.linalg.solve_triangular(scale_tril, residuals, upper=False)
    log_normalizer = scale_tril.diagonal().log().sum() + 0.5 * len(whitened) * math.log(
        2 * math.pi
    )
    return -0.5 * whitened.square().sum(dim=0) - log_normalizer


class _Line(NamedTuple):
    """The components with weight of a mixture in one dimension, each (K,); double."""

    log_weights: Tensor
    locs: Tensor
    scales: Tensor

    @classmethod
    def of(cls, mixture: GaussianMixture) -> "_Line":
        if mixture.dim != 1:
            raise ValueError(f"the mixture must be on a line, got {mixture}: take a marginal")
        some = mixture.weights > 0
        weights, locs, scales = (getattr(mixture, name)[some].double() for name in PARTS)
        return cls((weights / weights.sum()).log(), locs.flatten(), scales.flatten())


def _quantiles(line: _Line, probs: Tensor, signs: Tensor) -> Tensor:
    """Return where F = probs, shape of `probs`, in [0, ½], by Newton's steps on log F.

    F is that of the mixture whose means are times the sign. log F is smooth and nearly concave
    also far out in the tail. The root lies between the least and the greatest quantile of the
    components, and a step that leaves what is left of that bracket halves it instead.
    """
    locs, log_probs = signs.unsqueeze(-1) * line.locs, probs.log()
    ends = locs + line.scales * torch.special.ndtri(probs).unsqueeze(-1)
    low, high = ends.amin(dim=-1), ends.amax(dim=-1)
    x = low / 2 + high / 2
    for _ in range(MOST_HALVINGS):
        z = (x.unsqueeze(-1) - locs) / line.scales
        log_cdf = (line.log_weights + torch.special.log_ndtr(z)).logsumexp(dim=-1)
        heights = line.log_weights - line.scales.log() - 0.5 * z.square()
        log_pdf = heights.logsumexp(dim=-1) - 0.5 * math.log(2 * math.pi)
        gap = log_cdf - log_probs
        low, high = torch.where(gap < 0, x, low), torch.where(gap < 0, high, x)
        step, middle = x - gap * (log_cdf - log_pdf).exp(), low / 2 + high / 2
        found = (gap == 0) | ((step - x).abs() <= torch.finfo(x.dtype).eps * x.abs())
        found |= (middle <= low) | (middle >= high)  # also where both are −inf
        if found.all():
            break
        step = torch.where((step > low) & (step < high), step, middle)
        x = torch.where(found, x, step)
    return x


def _triangular(rows: Tensor) -> Tensor:
    """Return the lower Cholesky factors, shape (K, M, M), of A Aᵀ for A of shape (K, M, ≥ M)."""
    # From Aᵀ = Q R is A Aᵀ = Rᵀ R: the condition is not squared.
    r = torch.linalg.qr(rows.mT).R
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(r)
    return (signs.unsqueeze(-1) * r).mT


def _rank(matrix: Tensor) -> int:
    """Return the rank of a matrix whose rows may differ in units."""
    norms = matrix.norm(dim=-1, keepdim=True)
    return int(torch.linalg.matrix_rank(matrix / norms.where(norms > 0, 1.0)))


def _noise_tril(cov: Tensor) -> Tensor:
    tril, info = torch.linalg.cholesky_ex(cov)
    if info or not torch.allclose(cov, cov.mT):
        raise ValueError("noise_cov must be symmetric and positive definite")
    return tril


def _numbers(value: Array | float, name: str) -> Tensor:
    """Return a tensor, of Python's own numbers in double precision."""
    return as_tensor(value if isinstance(value, Tensor) else np.asarray(value), name=name)


def _checked(value: Array, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = as_tensor(value, name=name)
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return tensor


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
