"""An estimate of a density by kernels, and what can be asked of it: values, errors, draws.

The estimate is a mean of the bumps' values at x, so its variance is estimated by theirs:

    error² = Σ_n w_n² (K_n(x) - p(x))² / (1 - Σ_n w_n²),   Σ_n w_n = 1,

s² / N for equal weights. What smoothing itself does to p, its bias, is not in it: at a sharp mode
p is too low by more than the error says.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.density import kernels, prefix, spread, sums
from pplvae.density.histogram import EMPTY_LIMIT
from pplvae.density.walls import Walls
from pplvae.validation import Array, as_points, check_one_of, check_whole

METHODS = ("auto", "naive", "prefix", "tiled")
_FEW_PAIRS = 2**16  # up to here no preparation pays
_ERROR_TERMS = 2**20  # at a time
_NOTHING = 45.0  # nats below a sum


@dataclass(frozen=True, eq=False)
class Estimate:
    """A density and how sure it is.

    Attributes:
        log_density: log p at each query, in nats, shape (M,).
        log_error: Log of the standard error of p, shape (M,). Where no bump reaches, p = 0 and it
            is the upper limit of an empty bin as wide as a kernel: 1.841 R / (N h^D), R = ∫ K².
    """

    log_density: Tensor
    log_error: Tensor

    @property
    def density(self) -> Tensor:
        """The density p, shape (M,)."""
        return self.log_density.exp()

    @property
    def error(self) -> Tensor:
        """The standard error of p, shape (M,)."""
        return self.log_error.exp()


@dataclass(frozen=True, eq=False, repr=False)
class KernelDensity:
    """A density made of bumps.

    Attributes:
        data: Where the bumps stand, shape (N, D).
        bandwidth: Their width along each axis, shape (D,), or H, shape (D, D).
        kernel: Their shape.
        weights: Share of each, shape (N,), or None for 1 / N.
        factors: What multiplies the bandwidth of each, shape (N,), or None for one.
        walls: Walls and closed axes, or None.
    """

    data: Tensor
    bandwidth: Tensor
    kernel: kernels.Kernel
    weights: Tensor | None = None
    factors: Tensor | None = None
    walls: Walls | None = None

    def __repr__(self) -> str:
        num, dim = self.data.shape
        width = [float(f"{h:.6g}") for h in self._reach.tolist()]
        return f"KernelDensity({num} points in {dim} dimensions, bandwidth {width})"

    def log_density(self, x: Array, *, method: str = "auto", progress: bool = True) -> Tensor:
        """Return the log of the density at some points.

        Args:
            x: Where to evaluate, shape (M, D).
            method: "auto" for the quickest; "prefix" for prefix sums, on a line with a compact
                kernel and one bandwidth; "tiled" for tiles; "naive" for the plain sum of all
                terms. All agree to 1e-11.
            progress: Whether a sum of more than a few seconds shows a progress bar.

        Returns:
            Log densities in nats, shape (M,); -inf beyond the walls, or where no bump reaches.

        Raises:
            ValueError: If x and the data differ in D, or the method does not apply.
        """
        x, dtype = self._queries(x)
        method = self._method(method, len(x))
        images = map(self._scaled, self._images(x))
        out = _log_sums(self._bumps, next(images), method, progress)
        for image in images:
            rows = (_most(self._bumps, image) > out - _NOTHING).nonzero().squeeze(1)
            if len(rows):
                more = _log_sums(self._bumps, image[rows], method, progress)
                out[rows] = torch.logaddexp(out[rows], more)
        if self.walls is not None:
            out = out.where(self.walls.hold(x), -math.inf)
        return (out - self._log_normalizer).to(dtype)

    def estimate(self, x: Array, *, progress: bool = True) -> Estimate:
        """Return the density at some points with its standard error, not counting its bias.

        All terms are looked at, O(N M): an error bar may cost far more than the density.

        Args:
            x: Where to evaluate, shape (M, D).
            progress: Whether a sum of more than a few seconds shows a progress bar.

        Raises:
            ValueError: If x and the data differ in D, or there are fewer than 2 points.
        """
        if len(self.data) < 2:
            raise ValueError(
                f"data must hold at least 2 points for an error, got {len(self.data)}"
            )
        log_density = self.log_density(x, progress=progress)
        x, _ = self._queries(x)
        rows = max(1, _ERROR_TERMS // len(self.data))
        parts = list(zip(x.split(rows), log_density.double().split(rows), strict=True))
        bar = tqdm(parts, desc="errors", disable=not progress, delay=3)
        relative = torch.cat([self._relative_error(*part) for part in bar])
        error = log_density.double() + relative.log()
        error = error.where(log_density > -math.inf, self._empty_limit)
        return Estimate(log_density, error.to(log_density.dtype))

    def sample(self, num_samples: int, *, seed: int | None = None) -> Tensor:
        """Return draws from the density, shape (num_samples, D).

        Args:
            num_samples: How many.
            seed: For the same draws every time.

        Raises:
            ValueError: If there are to be fewer than one.
        """
        check_whole("num_samples", num_samples, 1)
        with randomness.scope(seed):
            rows = self._rows(num_samples)
            steps = self.kernel.draws(num_samples, self.data.shape[1], self._stand)
        if self.factors is not None:
            steps = steps * self.factors[rows].unsqueeze(1)
        steps = steps * self._root if self._root.dim() == 1 else steps @ self._root.T
        x = self._stand[rows] + steps
        return (x if self.walls is None else self.walls.fold(x)).to(self.data.dtype)

    @property
    def _reach(self) -> Tensor:
        """The width along each axis, shape (D,)."""
        return self.bandwidth if self.bandwidth.dim() == 1 else self.bandwidth.diagonal().sqrt()

    @cached_property
    def _root(self) -> Tensor:
        """H^(1/2): widths, shape (D,), or a lower triangle, shape (D, D)."""
        return (
            self.bandwidth if self.bandwidth.dim() == 1 else torch.linalg.cholesky(self.bandwidth)
        )

    @property
    def _log_volume(self) -> float:
        """The log of |H|^(1/2)."""
        widths = self._root if self._root.dim() == 1 else self._root.diagonal()
        return widths.log().sum().item()

    @property
    def _log_normalizer(self) -> float:
        log_count = math.log(len(self.data)) if self.weights is None else 0.0
        return self.kernel.log_integral(self.data.shape[1]) + self._log_volume + log_count

    @property
    def _empty_limit(self) -> float:
        """Log of the upper limit where no bump reaches."""
        size = spread.effective_size(self.weights, len(self.data))
        roughness = self.kernel.roughness(self.data.shape[1])
        return math.log(EMPTY_LIMIT * roughness / size) - self._log_volume

    def _queries(self, x: Array) -> tuple[Tensor, torch.dtype]:
        """Return checked queries in float64, and the dtype of what is said of them."""
        x = as_points(x)
        if x.shape[1] != self.data.shape[1]:
            raise ValueError(f"x and data must share D, got {x.shape[1]} and {self.data.shape[1]}")
        return x.double(), torch.promote_types(x.dtype, self.data.dtype)

    @cached_property
    def _stand(self) -> Tensor:
        """Where the bumps stand, shape (N, D), float64."""
        data = self.data.double()
        return data if self.walls is None else self.walls.fold(data)

    @cached_property
    def _center(self) -> Tensor:
        return self._stand.median(dim=0).values  # what all share is gone before it costs digits

    def _scaled(self, x: Tensor) -> Tensor:
        """Return coordinates in widths, from the middle of the data, shape (M, D)."""
        shifted = x - self._center
        if self._root.dim() == 1:
            return shifted / self._root
        return torch.linalg.solve_triangular(self._root, shifted.T, upper=False).T

    @cached_property
    def _bumps(self) -> sums.Bumps:
        points = self._scaled(self._stand)
        logs = None if self.weights is None else self.weights.log()
        if self.factors is None:
            return sums.Bumps(self.kernel, points, logs)
        heights = -self.data.shape[1] * self.factors.log()
        logs = heights if logs is None else logs + heights
        return sums.Bumps(self.kernel, points, logs, self.factors**-2)

    def _method(self, method: str, num_queries: int) -> str:
        check_one_of("method", method, METHODS)
        line = self.data.shape[1] == 1 and self.kernel.profile.compact and self.factors is None
        if method == "prefix" and not line:
            raise ValueError(
                "method must be 'prefix' only on a line, for a compact kernel of one bandwidth, "
                f"got {self} and {self.kernel.profile}"
            )
        if method != "auto":
            return method
        return "prefix" if line and num_queries * len(self.data) > _FEW_PAIRS else "tiled"

    def _images(self, x: Tensor) -> Iterator[Tensor]:
        """Yield all points that fall on x, shape (M, D) each, x first."""
        if self.walls is None:
            return iter([x])
        widest = self._reach if self.factors is None else self.factors.max() * self._reach
        gaussian = not self.kernel.profile.compact
        return self.walls.images(self.walls.fold(x), widest, gaussian=gaussian)

    def _relative_error(self, x: Tensor, log_density: Tensor) -> Tensor:
        """Return error / p, shape (M,)."""
        images = (sums.log_terms(self._bumps, self._scaled(image)) for image in self._images(x))
        terms = next(images)
        for more in images:
            terms = torch.logaddexp(terms, more)
        shares = (terms - (log_density + self._log_normalizer).unsqueeze(1)).exp()
        weights = 1 / len(self.data) if self.weights is None else self.weights
        squares = 1 / spread.effective_size(self.weights, len(self.data))
        return ((shares - weights).square().sum(1) / (1 - squares)).sqrt()

    def _rows(self, num: int) -> Tensor:
        """Return which bumps to draw from, shape (num,)."""
        device, count = self.data.device, len(self.data)
        if self.weights is None:
            return torch.randint(count, (num,), device=device)
        u = torch.rand(num, dtype=torch.float64, device=device)
        return torch.searchsorted(self.weights.cumsum(0), u).clamp(max=count - 1)


def _log_sums(bumps: sums.Bumps, queries: Tensor, method: str, progress: bool) -> Tensor:
    if method == "naive":
        return sums.naive(bumps, queries)
    if method == "prefix":
        return prefix.log_sums(bumps, queries, progress=progress)
    return sums.tiled(bumps, queries, progress=progress)


def _most(bumps: sums.Bumps, queries: Tensor) -> Tensor:
    """Return upper bounds of log sums, shape (M,), from the box around the points."""
    low, high = bumps.points.amin(0), bumps.points.amax(0)
    gaps = torch.maximum(low - queries, queries - high).clamp(min=0)
    squared = (gaps.amax(1) if bumps.kernel.product else gaps.norm(dim=1)).square()
    logs = bumps.log_weights
    log_mass = math.log(len(bumps.points)) if logs is None else logs.logsumexp(0)
    return bumps.kernel.profile.log(squared / bumps.no_wider_than) + log_mass
