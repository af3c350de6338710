"""What a climb found: the best of the places where the paths ended, in the units of the data."""

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae.mixtures.covariances import FORMS, Full, Parameters
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.paths import Path
from pplvae.mixtures.problem import Problem
from pplvae.mixtures.reading import Data

WIDE = 100  # times the jitter; the data vary along an axis on which they are wider than that


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


def ending(
    climbs: list[Path], data: Data, problem: Problem, *, jitter: float, tolerance: float,
    abandoned: list[float],
) -> EMFit:  # fmt: skip
    """Return the best path's end as a fit.

    That is the one with the fewest degenerate components, then the highest; of several that ended
    at one height the first, not a rounding's.

    Args:
        climbs: The paths, all at their end.
        data: The data of the fit.
        problem: What was climbed.
        jitter: As `em.fit` has it.
        tolerance: Likewise.
        abandoned: Where other paths were given up, in nats.
    """
    climbs = [path for path in climbs if path.objectives[-1] > -math.inf]  # nor is nan
    if not climbs:
        raise ValueError(f"jitter must be larger for points without volume, got {jitter}")
    ranks = [
        (-_num_degenerate(path, data, problem, jitter), path.objectives[-1]) for path in climbs
    ]
    fewest, highest = max(ranks)
    best, degenerate = next(
        (path, -rank)
        for path, (rank, value) in zip(climbs, ranks, strict=True)
        if rank == fewest and value >= highest - tolerance * data.points.mass
    )
    ends = [path.log_likelihoods[-1] - data.log_det for path in climbs] + abandoned
    return _fit(best, data, problem, degenerate, ends)


def _num_degenerate(path: Path, data: Data, problem: Problem, jitter: float) -> int:
    """Count the components narrower than the jitter along an axis where the data are not."""
    parts = problem.form.trils(path.at.scales, *path.at.locs.shape[1:])[0]
    units = data.scales.unsqueeze(-1)
    trils = data.frame.scale @ parts / units
    variances, axes = torch.linalg.eigh(trils @ trils.mT)
    data_variances = ((data.cov / units / units.mT) @ axes * axes).sum(dim=-2)
    narrow = (variances < 2 * jitter) & (data_variances > WIDE * jitter)
    return int(narrow.any(dim=-1).sum())


def _fit(
    path: Path, data: Data, problem: Problem, num_degenerate: int, ends: list[float]
) -> EMFit:
    num_pruned = int(path.gone.sum())
    if num_pruned:
        warnings.warn(
            f"{num_pruned} of {len(path.gone)} components were given up: the data have no room "
            "for so many",
            stacklevel=4,
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
