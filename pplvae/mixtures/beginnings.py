"""Where a fit begins: the best of many starts after a few steps, or a mixture that is given."""

from dataclasses import replace

import torch

from pplvae.mixtures import starts
from pplvae.mixtures.climb import Climber
from pplvae.mixtures.covariances import Full, Parameters
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.paths import Path, paths
from pplvae.mixtures.points import Table
from pplvae.mixtures.problem import GONE, Problem
from pplvae.mixtures.reading import Data

SHORT = 12  # steps from each start
FEW = 6  # starts that are climbed to the end, or more where that costs little:
LITTLE = 2**20  # monomials of all points for each such start
LONG, NEAR = 200, 1e-6  # most steps on a sample, and how near its optimum, in nats a point
CLOSE = 0.02  # nats a point, within which a sample does not say which of two is better
SAME = 1e-6  # of a log likelihood, within which two climbs are taken for one


def many(
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


def best(
    data: Data, problem: Problem, climber: Climber, start: Parameters
) -> tuple[list[Path], list[float]]:
    """Return the best of the starts after a few steps, and where the others are, in nats."""
    climbs = paths(start)
    if not data.is_whole:
        return _best_of_sample(data, problem, climbs), []
    cost = data.points.size * problem.form.num_features(start.locs.shape[-1])
    few = max(FEW, LITTLE // cost)
    if len(climbs) <= few:
        return climbs, []
    chosen, others = _after_few_steps(climber, climbs, few)
    return chosen, [path.log_likelihoods[-1] - data.log_det for path in others]


def _best_of_sample(data: Data, problem: Problem, climbs: list[Path]) -> list[Path]:
    """Return starts where the sample's best climb ends, and one as good if there is one.

    The mean log density of M = 2^15 points tells two mixtures apart to about sd / √M = 0.006 nats,
    where the logs of their densities differ by one nat from point to point.
    """
    if len(climbs) == 1:
        return climbs
    sample = Table(data.sample.mT, data.weights)
    climber = Climber(replace(problem, points=sample))
    climbs, _ = _after_few_steps(climber, climbs, FEW)
    climber.run(climbs, max_steps=LONG, tolerance=NEAR, accelerate=True)
    best = _distinct(climbs, 2)[0]
    least = best[0].objectives[-1] - CLOSE * sample.mass
    return [paths(path.at)[0] for path in best if path.objectives[-1] >= least]


def _after_few_steps(
    climber: Climber, climbs: list[Path], few: int
) -> tuple[list[Path], list[Path]]:
    """Take a few steps on each path; return the best, which may go on, and the others."""
    climber.run(climbs, max_steps=SHORT, tolerance=0.0, accelerate=False)
    chosen, others = _distinct(climbs, few)
    for path in chosen:
        path.done = path.converged = False
    return chosen, others


def _distinct(climbs: list[Path], few: int) -> tuple[list[Path], list[Path]]:
    """Return the best paths that differ, at most so many, and the others."""
    best, others = [], []
    for path in sorted(climbs, key=lambda path: path.objectives[-1], reverse=True):
        near = SAME * max(1.0, abs(path.objectives[-1]))
        known = any(abs(path.objectives[-1] - other.objectives[-1]) < near for other in best)
        (others if known or len(best) == few else best).append(path)
    return best, others


def check_start(start: GaussianMixture, num_components: int, dim: int) -> None:
    """Refuse a start that is no mixture of so many components in so many dimensions.

    Raises:
        ValueError: If it is none.
    """
    known = isinstance(start, GaussianMixture)
    if not known or (start.num_components, start.dim) != (num_components, dim):
        wanted = f"a GaussianMixture of {num_components} components in {dim} dimensions"
        raise ValueError(f"start must be {wanted}, got {start}")


def from_mixture(
    start: GaussianMixture, data: Data, form: Full, num_components: int
) -> Parameters:
    """Return a start in the coordinates of the fit, its covariances of the form."""
    check_start(start, num_components, len(data.frame.center))
    weights, locs, trils = (p.double() for p in (start.weights, start.locs, start.scale_trils))
    scale = data.frame.scale
    locs = torch.linalg.solve_triangular(scale, (locs - data.frame.center).mT, upper=False).mT
    trils = torch.linalg.solve_triangular(scale, trils, upper=False)
    scales = form.nearest(trils[None], weights[None])
    return Parameters(weights.log().clamp_min(GONE)[None], locs[None], scales)
