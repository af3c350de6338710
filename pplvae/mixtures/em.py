"""Expectation-maximization for Gaussian mixtures.

Each step takes the responsibilities r_nk = p(k | x_n) of the mixture at hand as soft labels, and
then the mixture that is most likely under them, in closed form:

    N_k = Σ_n r_nk,   w_k = N_k / N,   loc_k = Σ_n r_nk x_n / N_k,
    cov_k = Σ_n r_nk (x_n − loc_k)(x_n − loc_k)ᵀ / N_k.

No step loses log-likelihood. The likelihood is unbounded, however: a component that closes in on
points without volume gains without end. A jitter on the diagonals stops it. As it moves cov_k off
the maximum, a step can then lose; such a step is not taken. With a conjugate prior instead the
same steps, with the prior's points added to the sums, climb the posterior and never lose.

`e_step` and `m_step` are these formulas as they stand, for one mixture. `fit` takes the same steps
by matrix products (`expectation`), for all starts at once and in longer strides (`climb`).

Reference:
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm;
    Bishop (2006), Pattern Recognition and Machine Learning, section 9.2; Biernacki, Celeux &
    Govaert (2003), Choosing starting values for the EM algorithm (short runs, then the best).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.mixtures import starts
from pplvae.mixtures.climb import GONE, Climber, Path, Problem, paths
from pplvae.mixtures.covariances import FORMS, Full, Parameters
from pplvae.mixtures.mixture import GaussianMixture, column_scales
from pplvae.mixtures.points import Table
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.mixtures.reading import Blocks, Data, read
from pplvae.randomness import generator
from pplvae.validation import (
    Array,
    as_points,
    as_tensor,
    check_in_range,
    check_one_of,
    check_whole,
)

COVARIANCES = tuple(FORMS)
SHORT = 12  # steps from each start
FEW = 6  # starts that are climbed to the end, or more where that costs little:
LITTLE = 2**20  # monomials of all points for each such start
SAME = 1e-6  # of a log likelihood, within which two climbs are taken for one


@dataclass(frozen=True, eq=False, repr=False)
class EMFit:
    """What EM found.

    Attributes:
        mixture: The fitted mixture.
        covariance: The form of its covariances.
        converged: Whether less than the tolerance is left to gain.
        num_degenerate: Components that close in on points without volume: along some direction
            the data vary, and only the jitter, if any, holds them open. The likelihood then says
            nothing about the rest of the mixture.
        num_reseeded: How many collapsed components began anew on the way to the mixture.
        num_pruned: How many were given up, as the data have no room for them; the mixture has so
            many fewer.
        num_steps: How many E-steps the climb took, those of guesses not taken included.
        log_likelihoods: Σ_n log p(x_n) in nats at the start and at each place taken. It begins
            anew where a component does, and without a prior it never decreases.
        objectives: The same plus, with a prior, its log density up to a constant; this is what
            never decreases.
        start_log_likelihoods: Where the climb from each start ended, in nats; only the best few
            go beyond their first steps.
        path: The mixtures at the places taken, where they were asked for.
    """

    mixture: GaussianMixture
    covariance: str
    converged: bool
    num_degenerate: int
    num_reseeded: int
    num_pruned: int
    num_steps: int
    log_likelihoods: list[float]
    objectives: list[float]
    start_log_likelihoods: list[float]
    path: list[GaussianMixture] = field(default_factory=list)

    @property
    def log_likelihood(self) -> float:
        """Σ_n log p(x_n) under the fitted mixture, in nats."""
        return self.log_likelihoods[-1]

    @property
    def num_parameters(self) -> int:
        """How many numbers are free: weights, means and covariances."""
        num, dim = self.mixture.num_components, self.mixture.dim
        return num - 1 + num * dim + FORMS[self.covariance].num_parameters(num, dim)

    def __repr__(self) -> str:
        mixture = self.mixture
        return (
            f"EMFit({mixture.num_components} components in {mixture.dim} dimensions, "
            f"log-likelihood {self.log_likelihood:.4f} nats, "
            f"{'converged' if self.converged else 'not converged'} after {self.num_steps} steps)"
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


def m_step(
    x: Array, responsibilities: Array, jitter: float = 0.0, *, covariance: str = "full"
) -> GaussianMixture:
    """Return the mixture that is most likely under soft labels.

    Args:
        x: Data, shape (N, D).
        responsibilities: Soft labels r, shape (N, K), rows summing to one.
        jitter: Added to the diagonal of each covariance, as a fraction of each column's variance
            in all of x (of the varying columns' mean variance, where a column is constant).
        covariance: The form of the covariances, one of `COVARIANCES`.

    Raises:
        ValueError: If the shapes do not fit, or the covariance of a component is singular.
    """
    check_one_of("covariance", covariance, COVARIANCES)
    check_in_range("jitter", jitter, 0)
    x, r = as_points(x), as_tensor(responsibilities, name="responsibilities")
    if r.dim() != 2 or len(r) != len(x):
        raise ValueError(f"responsibilities must have shape ({len(x)}, K), got {tuple(r.shape)}")
    form, r = FORMS[covariance], r.to(x).mT
    counts = r.sum(dim=1)
    locs = r @ x / counts.unsqueeze(-1)
    parts = zip(locs, r, strict=True)
    squares = torch.stack([form.weigh((x - loc).mT, own) for loc, own in parts]).unsqueeze(0)
    covs = form.pool(squares) / form.pool(form.spread(counts.unsqueeze(0)))
    if jitter:
        covs = covs + jitter * form.reduce(column_scales(x).square().diag())
    scales, singular = form.factor(covs)
    if singular.any():
        flat = singular.expand(1, len(r))[0].nonzero().flatten().tolist()
        raise ValueError(f"jitter must be larger: components {flat} are singular, got {jitter}")
    trils = form.trils(scales, len(r), x.shape[1])[0]
    return GaussianMixture(counts / counts.sum(), locs, trils)


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
    try:
        whole = m_step(x, x.new_ones(len(x), 1), jitter)
    except ValueError as error:
        if "singular" not in str(error):
            raise
        message = f"jitter must be larger for points without volume, got {jitter}"
        raise ValueError(message) from None
    z = ((x - whole.locs) / column_scales(x)).double()
    owners = starts.clusters(z, num_components, 1, generator(seed))[0]
    groups = [x[owners == k] if (owners == k).any() else x for k in range(num_components)]
    return GaussianMixture(
        x.new_full((num_components,), 1 / num_components),
        torch.stack([group.mean(dim=0) for group in groups]),
        whole.scale_trils.repeat(num_components, 1, 1),
    )


def fit(
    x: Array | Blocks,
    num_components: int,
    *,
    covariance: str = "full",
    max_steps: int = 1000,
    tolerance: float = 1e-7,
    jitter: float = 1e-6,
    prior: NormalInverseWishart | None = None,
    num_starts: int = 24,
    start: GaussianMixture | None = None,
    weights: Array | None = None,
    labels: Array | None = None,
    missing: str = "refuse",
    accelerate: bool = True,
    keep_path: bool = False,
    seed: int | None = None,
    progress: bool = True,
) -> EMFit:
    """Return the most likely Gaussian mixture that EM finds from several starts.

    Works in double precision on whitened points, so that neither place nor units of the data
    matter; the mixture comes back in the dtype and units of `x`. All starts take a few steps, and
    the best six, of few data all, are climbed to the end (beyond 32,768 points, the few steps are
    on a sample of so many). A component that collapses (it explains less than half a point, or
    its covariance is singular) begins anew at the point explained worst; after five times for
    each component, starved ones are left alone and singular ones are given up. A climb that ends
    with fewer degenerate components counts as better, whatever its likelihood. Memory: the points
    once more in double precision, and blocks of a few MB.

    Args:
        x: Data, shape (N, D), with N > K. Or what does not fit in memory: a memory map
            (`numpy.load(path, mmap_mode="r")`), an iterable of blocks of shape (B, D) that can be
            read again and again, or a function that returns one; each E-step reads it once.
        num_components: The number of components K.
        covariance: The form of the covariances: "full", each component its own; "tied", one for
            all; "diag", without correlations; "spherical", alike in all directions.
        max_steps: Most E-steps from each start.
        tolerance: Stop when less than this is left to gain, in nats per point, by Aitken's rule.
        jitter: Added to the diagonal of each covariance, as in `m_step`.
        prior: For the posterior mode instead of the maximum likelihood.
        num_starts: How many starts to climb from: k-means clusters, every other one with a
            common covariance.
        start: The one start to climb from instead.
        weights: How often each point counts, at least 0, shape (N,).
        labels: The component that each point is known to come from, −1 where unknown, shape (N,).
        missing: What to do about nan: "refuse", or "marginalise": exact EM with the missing
            coordinates integrated out, pattern by pattern.
        accelerate: Whether to take longer strides than EM's (`climb`).
        keep_path: Whether the fit holds the mixtures on the way, as for pictures.
        seed: Where the draws of the starts begin.
        progress: Whether to show a bar that counts the steps.

    Raises:
        ValueError: If there are not more points than components, all points are the same, they
            are singular even with the jitter, or an argument is outside its range.

    Warns:
        UserWarning: If components had to be given up.
    """
    check_one_of("covariance", covariance, COVARIANCES)
    check_whole("num_components", num_components, 1)
    check_whole("max_steps", max_steps, 1)
    check_in_range("tolerance", tolerance, 0)
    check_in_range("jitter", jitter, 0)
    check_whole("num_starts", num_starts, 1)
    rng, form = generator(seed), FORMS[covariance]
    num_starts = num_starts if num_components > 1 else 1
    data = read(
        x, form, num_components, jitter=jitter, weights=weights, labels=labels, missing=missing,
        rng=rng,
    )  # fmt: skip
    problem = _problem(data, form, prior)
    with tqdm(desc="EM", unit=" steps", disable=not progress) as bar:
        climber = Climber(problem, keep=keep_path, on_step=bar.update)
        if start is not None:
            climbs = paths(_from_mixture(start, data, form, num_components))
            abandoned = []
        else:
            begun = _starts(data, problem, num_components, num_starts, rng)
            climbs, abandoned = _short(data, problem, climber, begun)
        climber.run(climbs, max_steps=max_steps, tolerance=tolerance, accelerate=accelerate)
    rank = _rank(data, problem, jitter)
    best = _best(climbs, rank, tolerance * data.points.mass)
    ends = [path.log_likelihoods[-1] - data.log_det for path in climbs] + abandoned
    return _fit(best, data, problem, -rank(best)[0], ends)


def _problem(data: Data, form: Full, prior: NormalInverseWishart | None) -> Problem:
    eye = torch.eye(data.frame.scale.shape[0]).to(data.frame.scale)
    pooled = form.factor(form.reduce(eye) + data.ridge)[0]
    if prior is not None:
        if len(prior.loc) != len(eye):
            raise ValueError(f"prior must have {len(eye)} dimensions, got {len(prior.loc)}")
        if prior.concentration < 1:
            raise ValueError(
                f"prior.concentration must be at least 1 for a mode, got {prior.concentration}"
            )
        prior = prior.in_coordinates(*data.frame)
    return Problem(data.points, form, data.ridge, pooled, prior)


def _starts(
    data: Data, problem: Problem, num_components: int, num_starts: int, rng: torch.Generator
) -> Parameters:
    """Return R starts: clusters by turns of whitened points and of standardized columns."""
    standard = data.sample @ (data.frame.scale / data.scales.unsqueeze(-1)).mT
    owners = torch.stack(
        [
            starts.clusters(
                (standard, data.sample)[turn % 2],
                num_components, 1, rng, weights=data.weights, labels=data.labels,
            )[0]
            for turn in range(num_starts)
        ]
    )  # fmt: skip
    return starts.mixtures(problem, data.sample, owners, num_components, data.weights)


def _short(
    data: Data, problem: Problem, climber: Climber, start: Parameters
) -> tuple[list[Path], list[float]]:
    """Return the best of the starts after a few steps, and where the others are, in nats."""
    climbs = paths(start)
    cost = data.points.size * problem.form.num_features(start.locs.shape[-1])
    few = max(FEW, LITTLE // cost)
    if len(climbs) <= few:
        return climbs, []
    if not data.is_whole:
        climber = Climber(replace(problem, points=Table(data.sample.mT, data.weights)))
    climber.run(climbs, max_steps=SHORT, tolerance=0.0, accelerate=False)
    best, others = _distinct(climbs, few)
    if not data.is_whole:
        return [paths(path.at)[0] for path in best], []
    for path in best:
        path.done = path.converged = False
    return best, [path.log_likelihoods[-1] - data.log_det for path in others]


def _distinct(climbs: list[Path], few: int) -> tuple[list[Path], list[Path]]:
    """Return the best paths that differ, at most so many, and the others."""
    best, others = [], []
    for path in sorted(climbs, key=lambda path: path.objectives[-1], reverse=True):
        near = SAME * max(1.0, abs(path.objectives[-1]))
        known = any(abs(path.objectives[-1] - other.objectives[-1]) < near for other in best)
        (others if known or len(best) == few else best).append(path)
    return best, others


def _from_mixture(
    start: GaussianMixture, data: Data, form: Full, num_components: int
) -> Parameters:
    """Return a start in the coordinates of the fit, its covariances of the form."""
    if (start.num_components, start.dim) != (num_components, len(data.frame.center)):
        wanted = f"{num_components} components in {len(data.frame.center)} dimensions"
        raise ValueError(f"start must have {wanted}, got {start}")
    weights, locs, trils = (p.double() for p in (start.weights, start.locs, start.scale_trils))
    scale = data.frame.scale
    locs = torch.linalg.solve_triangular(scale, (locs - data.frame.center).mT, upper=False).mT
    trils = torch.linalg.solve_triangular(scale, trils, upper=False)
    if form.name == "full":
        scales = trils[None]
    else:
        covs = form.reduce(trils @ trils.mT) * form.spread(weights)
        pooled = form.pool(covs[None]) / form.pool(form.spread(weights[None]))
        scales = form.factor(pooled)[0]
    return Parameters(weights.log().clamp_min(GONE)[None], locs[None], scales)


def _rank(data: Data, problem: Problem, jitter: float) -> Callable[[Path], tuple[int, float]]:
    """Return what orders paths: the fewest degenerate components first, then the objective."""

    def rank(path: Path) -> tuple[int, float]:
        trils = problem.form.trils(path.at.scales, *path.at.locs.shape[1:])[0]
        return -_num_degenerate(data.frame.scale @ trils, data, jitter), path.objectives[-1]

    return rank


def _best(
    climbs: list[Path], rank: Callable[[Path], tuple[int, float]], least_gain: float
) -> Path:
    """Return the best path; of several that ended at one height the first, not a rounding's."""
    fewest, highest = max(map(rank, climbs))
    ranks = [rank(path) for path in climbs]
    return next(
        path
        for path, (degenerate, value) in zip(climbs, ranks, strict=True)
        if degenerate == fewest and value >= highest - least_gain
    )


def _num_degenerate(trils: Tensor, data: Data, jitter: float) -> int:
    """Count the components narrower than the jitter along an axis where the data are not."""
    units = data.scales.unsqueeze(-1)
    variances, axes = torch.linalg.eigh((trils / units) @ (trils / units).mT)
    data_variances = ((data.cov / units / units.mT) @ axes * axes).sum(dim=-2)
    narrow = (variances < 2 * jitter) & (data_variances > 100 * jitter)
    return int(narrow.any(dim=-1).sum())


def _fit(
    path: Path, data: Data, problem: Problem, num_degenerate: int, ends: list[float]
) -> EMFit:
    num_pruned = int(path.gone.sum())
    if num_pruned:
        warnings.warn(
            f"{num_pruned} of {len(path.gone)} components were given up: the data have no room "
            "for so many",
            stacklevel=3,
        )
    return EMFit(
        mixture=_to_mixture(path.at, ~path.gone, data, problem.form),
        covariance=problem.form.name,
        converged=path.converged,
        num_degenerate=num_degenerate,
        num_reseeded=path.num_reseeded,
        num_pruned=num_pruned,
        num_steps=path.num_steps,
        log_likelihoods=[value - data.log_det for value in path.log_likelihoods],
        objectives=[value - data.log_det for value in path.objectives],
        start_log_likelihoods=ends,
        path=[_to_mixture(place, ~path.gone, data, problem.form) for place in path.places],
    )


def _to_mixture(parameters: Parameters, kept: Tensor, data: Data, form: Full) -> GaussianMixture:
    """Return the mixture in the units of the data."""
    trils = form.trils(parameters.scales, *parameters.locs.shape[1:])[0][kept]
    weights = parameters.log_weights[0, kept].softmax(dim=0)
    locs = data.frame.center + parameters.locs[0, kept] @ data.frame.scale.mT
    return GaussianMixture(
        weights.to(data.like), locs.to(data.like), (data.frame.scale @ trils).to(data.like)
    )
