"""Expectation-maximization for Gaussian mixtures.

Each step takes the responsibilities r_nk = p(k | x_n) of the mixture at hand as soft labels, and
then the mixture that is most likely under them, in closed form:

    N_k = Σ_n r_nk,   w_k = N_k / N,   loc_k = Σ_n r_nk x_n / N_k,
    cov_k = Σ_n r_nk (x_n − loc_k)(x_n − loc_k)ᵀ / N_k.

No step loses log-likelihood. The likelihood is unbounded, however: a component that closes in on
points without volume gains without end. A jitter on the diagonals stops it. As it moves cov_k off
the maximum, a step can then lose; such a step is not taken.

Reference:
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm;
    Bishop (2006), Pattern Recognition and Machine Learning, section 9.2. Starts: Arthur &
    Vassilvitskii (2007), k-means++: the advantages of careful seeding.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.infer.em import Restart, climb
from pplvae.mixtures.mixture import GaussianMixture, choose, column_scales
from pplvae.randomness import generator
from pplvae.validation import (
    Array,
    as_points,
    as_tensor,
    check_in_range,
    check_one_of,
    check_whole,
)

COVARIANCES = ("full",)
LLOYD_STEPS = 10
LEAST_COUNT = 0.5  # points; a component with fewer has collapsed
MOST_RESEEDS = 5  # for each component, on average; then the data have no room for so many


@dataclass(frozen=True, eq=False, repr=False)
class EMFit:
    """What EM found.

    Attributes:
        mixture: The fitted mixture.
        converged: Whether the next step would gain less than the tolerance.
        num_degenerate: Components that close in on points without volume: along some direction
            the data vary, and only the jitter, if any, holds them open. The likelihood then says
            nothing about the rest of the mixture.
        num_reseeded: How many collapsed components began anew on the way to the mixture.
        log_likelihoods: Σ_n log p(x_n) in nats before each M-step and after the last; never
            decreasing. It begins anew where a component does.
        start_log_likelihoods: Where each start ended, in nats.
    """

    mixture: GaussianMixture
    converged: bool
    num_degenerate: int
    num_reseeded: int
    log_likelihoods: list[float]
    start_log_likelihoods: list[float]

    @property
    def log_likelihood(self) -> float:
        """Σ_n log p(x_n) under the fitted mixture, in nats."""
        return self.log_likelihoods[-1]

    def __repr__(self) -> str:
        mixture, steps = self.mixture, len(self.log_likelihoods) - 1
        return (
            f"EMFit({mixture.num_components} components in {mixture.dim} dimensions, "
            f"log-likelihood {self.log_likelihood:.4f} nats, "
            f"{'converged' if self.converged else 'not converged'} after {steps} steps)"
        )


def e_step(mixture: GaussianMixture, x: Array) -> tuple[Tensor, Tensor]:
    """Return the responsibilities p(k | x_n), shape (N, K), and Σ_n log p(x_n), shape (), in nats.

    Args:
        mixture: The mixture at hand.
        x: Data, shape (N, D).
    """
    joint = mixture.joint_log_prob(x)
    log_prob = joint.logsumexp(dim=-1, keepdim=True)
    return (joint - log_prob).exp(), log_prob.sum()


def m_step(x: Array, responsibilities: Array, jitter: float = 0.0) -> GaussianMixture:
    """Return the mixture that is most likely under soft labels.

    Args:
        x: Data, shape (N, D).
        responsibilities: Soft labels r, shape (N, K), rows summing to one.
        jitter: Added to the diagonal of each covariance, as a fraction of each column's variance
            in all of x (of the varying columns' mean variance, where a column is constant).

    Raises:
        ValueError: If the shapes do not fit, or the covariance of a component is singular.
    """
    x, responsibilities = as_points(x), as_tensor(responsibilities, name="responsibilities")
    if responsibilities.dim() != 2 or len(responsibilities) != len(x):
        shape = tuple(responsibilities.shape)
        raise ValueError(f"responsibilities must have shape ({len(x)}, K), got {shape}")
    maximum = _maximum(x, responsibilities.to(x), _ridge(x, jitter))
    if maximum.singular.any():
        flat = maximum.singular.nonzero().flatten().tolist()
        raise ValueError(f"jitter must be larger: components {flat} are singular, got {jitter}")
    return maximum.mixture()


def init(
    x: Array, num_components: int, *, jitter: float = 1e-6, seed: int | None = None
) -> GaussianMixture:
    """Return a start: k-means centers as means, the data's covariance for all, equal weights.

    The centers are drawn by k-means++ and moved by a few of Lloyd's steps, columns in units of
    their standard deviations. The covariance is wide on purpose: components that begin narrow
    close in on a few points more often.

    Args:
        x: Data, shape (N, D), with N > K.
        num_components: The number of components K.
        jitter: Added to the diagonal of the covariance, as in `m_step`.
        seed: Where the draws start.

    Raises:
        ValueError: If there are not more points than components, all points are the same, or
            they are singular even with the jitter.
    """
    check_whole("num_components", num_components, 1)
    x = as_points(x, min_points=num_components + 1)
    return _start(x, num_components, jitter, generator(seed))


def fit(
    x: Array,
    num_components: int,
    *,
    covariance: str = "full",
    max_steps: int = 1000,
    tolerance: float = 1e-7,
    jitter: float = 1e-6,
    num_starts: int = 5,
    seed: int | None = None,
    progress: bool = True,
) -> EMFit:
    """Return the most likely Gaussian mixture that EM finds from several starts.

    Works in double precision on standardized columns, so that neither place nor units of the data
    matter; the mixture comes back in the dtype and units of `x`. A component that collapses (it
    explains less than half a point, or its covariance is singular) begins anew at the point
    explained worst; after five times for each component, starved ones are left alone and singular
    ones end the climb. A start that ends with fewer degenerate components counts as better,
    whatever its likelihood. Memory: a few times (N, K) and (N, D) numbers.

    Args:
        x: Data, shape (N, D), with N > K.
        num_components: The number of components K.
        covariance: The form of the covariances: "full", each component its own.
        max_steps: Most EM steps from each start.
        tolerance: Stop when a step gains less than this, in nats per point.
        jitter: Added to the diagonal of each covariance, as in `m_step`.
        num_starts: How many starts to climb from, each as in `init`.
        seed: Where the draws of the starts begin.
        progress: Whether to show a bar that counts the steps.

    Raises:
        ValueError: If there are not more points than components, all points are the same, they
            are singular even with the jitter, or an argument is outside its range.
    """
    check_one_of("covariance", covariance, COVARIANCES)
    check_whole("num_components", num_components, 1)
    check_whole("max_steps", max_steps, 1)
    check_in_range("tolerance", tolerance, 0)
    check_whole("num_starts", num_starts, 1)
    x = as_points(x, min_points=num_components + 1)
    loc, scale = x.double().mean(dim=0), column_scales(x.double())
    z, rng, fits = (x.double() - loc) / scale, generator(seed), []
    limits = {"max_steps": max_steps, "least_gain": tolerance * len(x)}
    with tqdm(desc="EM", unit=" steps", disable=not progress) as bar:
        for _ in range(num_starts):
            start = _start(z, num_components, jitter, rng)
            fits.append(_climb(z, start, bar, jitter=jitter, **limits))
    best = max(fits, key=lambda fit: (-fit.num_degenerate, fit.log_likelihood))

    nats = len(x) * scale.log().sum().item()  # d z / d x
    return replace(
        best,
        mixture=GaussianMixture(
            best.mixture.weights.to(x),
            (loc + scale * best.mixture.locs).to(x),
            (scale.unsqueeze(-1) * best.mixture.scale_trils).to(x),
        ),
        log_likelihoods=[value - nats for value in best.log_likelihoods],
        start_log_likelihoods=[fit.log_likelihood - nats for fit in fits],
    )


class _Maximum(NamedTuple):
    """What the M-step finds: N_k (K,), loc_k (K, D), factors (K, D, D), and which fail (K,)."""

    counts: Tensor
    locs: Tensor
    scale_trils: Tensor
    singular: Tensor

    def mixture(self) -> GaussianMixture:
        return GaussianMixture(self.counts / self.counts.sum(), self.locs, self.scale_trils)

    def reseed(self, collapsed: Tensor, places: Tensor, scale_tril: Tensor) -> None:
        """Begin the collapsed components anew, in place: at the first `places`, that wide."""
        self.counts[collapsed] = len(places) / len(self.counts)
        self.locs[collapsed] = places[: int(collapsed.sum())]
        self.scale_trils[collapsed] = scale_tril


def _maximum(x: Tensor, responsibilities: Tensor, ridge: Tensor) -> _Maximum:
    """Return the M-step's answer with diag(ridge), shape (D,), added to the covariances."""
    counts = responsibilities.sum(dim=0)
    locs = responsibilities.T @ x / counts.unsqueeze(-1)
    covs = torch.stack([_cov(x - loc, r) for loc, r in zip(locs, responsibilities.T, strict=True)])
    covs = covs + ridge.diag()
    scale_trils, info = torch.linalg.cholesky_ex(covs)
    # A pivot is what the earlier coordinates leave of a variance; below this it is rounding.
    pivots, variances = (m.diagonal(dim1=-2, dim2=-1) for m in (scale_trils, covs))
    floor = 4 * x.shape[1] * torch.finfo(x.dtype).eps * variances
    sound = (info == 0) & (pivots.square() > floor).all(dim=-1)
    return _Maximum(counts, locs, scale_trils, ~sound)


def _cov(residuals: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted covariance, shape (D, D), of residuals from the mean, shape (N, D)."""
    return (residuals * (weights / weights.sum()).unsqueeze(-1)).T @ residuals


def _ridge(x: Tensor, jitter: float) -> Tensor:
    """Return what the jitter adds to a covariance's diagonal, shape (D,)."""
    check_in_range("jitter", jitter, 0)
    return jitter * column_scales(x).square() if jitter else x.new_zeros(x.shape[1])


def _start(x: Tensor, num_components: int, jitter: float, rng: torch.Generator) -> GaussianMixture:
    """Return the start of `init`, with its random numbers from `rng`."""
    whole = _maximum(x, x.new_ones(len(x), 1), _ridge(x, jitter))
    if whole.singular.any():
        raise ValueError(f"jitter must be larger for points without volume, got {jitter}")
    scale = column_scales(x)
    centers = _centers((x - whole.locs) / scale, num_components, rng)
    return GaussianMixture(
        x.new_full((num_components,), 1 / num_components),
        whole.locs + scale * centers,
        whole.scale_trils.repeat(num_components, 1, 1),
    )


def _centers(x: Tensor, num_components: int, rng: torch.Generator) -> Tensor:
    """Return k-means centers, shape (K, D): k-means++, then Lloyd's steps."""
    chosen, nearest = [], x.new_ones(len(x))
    for _ in range(num_components):
        # Once every point coincides with a center, any is as good as another.
        odds = nearest if nearest.any() else torch.ones_like(nearest)
        uniform = torch.rand(1, generator=rng, dtype=torch.float64).to(x.device)
        chosen.append(choose(odds, uniform))
        distances = _distances(x, x[chosen[-1]]).square().squeeze(-1)
        nearest = distances if len(chosen) == 1 else torch.minimum(nearest, distances)
    centers = x[torch.cat(chosen)]
    for _ in range(LLOYD_STEPS):
        owners = torch.nn.functional.one_hot(_distances(x, centers).argmin(dim=1), len(centers))
        counts = owners.sum(dim=0).unsqueeze(-1)
        centers = torch.where(counts > 0, owners.to(x).T @ x / counts, centers)
    return centers


def _distances(x: Tensor, centers: Tensor) -> Tensor:
    """Return Euclidean distances, shape (N, K), exact for near neighbors."""
    return torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist")


def _climb(
    x: Tensor,
    start: GaussianMixture,
    bar: tqdm,
    *,
    jitter: float,
    max_steps: int,
    least_gain: float,
) -> EMFit:
    """Return where EM on standardized points goes from `start`."""
    pooled = start.scale_trils[0]
    steps = _Steps(x, _ridge(x, jitter), pooled)
    found = climb(
        steps.expect,
        steps.maximize,
        start,
        max_steps=max_steps,
        least_gain=least_gain,
        on_step=bar.update,
    )
    num_degenerate = steps.num_lost + _num_degenerate(found.parameters, pooled, jitter)
    values = found.objectives
    return EMFit(
        found.parameters, found.converged, num_degenerate, steps.num_reseeded, values, values[-1:]
    )


class _Labels(NamedTuple):
    """A mixture and the responsibilities, shape (N, K), it gives to its components."""

    mixture: GaussianMixture
    responsibilities: Tensor


class _Steps:
    """The two steps on points (N, D), with what became of the components that collapsed."""

    def __init__(self, x: Tensor, ridge: Tensor, pooled: Tensor) -> None:
        self._x, self._ridge, self._pooled = x, ridge, pooled
        self.num_reseeded, self.num_lost = 0, 0

    def expect(self, mixture: GaussianMixture) -> tuple[_Labels, Tensor]:
        responsibilities, value = e_step(mixture, self._x)
        return _Labels(mixture, responsibilities), value

    def maximize(self, labels: _Labels) -> GaussianMixture | Restart[GaussianMixture] | None:
        """Return the next mixture; None once there is no room for so many components."""
        maximum = _maximum(self._x, labels.responsibilities, self._ridge)
        patient = self.num_reseeded < MOST_RESEEDS * labels.mixture.num_components
        collapsed = maximum.singular | (patient & (maximum.counts < LEAST_COUNT))
        if not collapsed.any():
            return maximum.mixture()
        if not patient:
            self.num_lost = int(collapsed.sum())
            return None
        worst = labels.mixture.log_prob(self._x).argsort()
        maximum.reseed(collapsed, self._x[worst], self._pooled)
        self.num_reseeded += int(collapsed.sum())
        return Restart(maximum.mixture())


def _num_degenerate(mixture: GaussianMixture, pooled: Tensor, jitter: float) -> int:
    """Count the components narrower than the jitter along an axis where the data are not."""
    variances, axes = torch.linalg.eigh(mixture.covs)
    data_variances = (pooled.T @ axes).square().sum(dim=-2)
    narrow = (variances < 2 * jitter) & (data_variances > 100 * jitter)
    return int(narrow.any(dim=-1).sum())
