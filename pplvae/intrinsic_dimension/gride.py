"""Gride: the intrinsic dimension, from generalized ratios of neighbor distances.

Where the density is constant on the scale of the n₂-th neighbor, the ratio of its distance to that
of the n₁-th, n₁ < n₂, depends on the dimension d alone,

    μ = r_n₂ / r_n₁,   μ^(−d) ~ Beta(n₁, n₂ − n₁),

the law `Gride` of `ratio_law`. n₁ = 1, n₂ = 2 is TwoNN's Pareto law; n₂ = 2 n₁ with n₁ doubled
reads the dimension at larger and larger scales. Ratios of near points share neighbors, which
widens the variance d² / J of independent ones by the factor f that `dependence` tells of.

Reference:
    Denti et al. (2022), The generalized ratios intrinsic dimension estimator,
    https://doi.org/10.1038/s41598-022-20991-1; Lecture 5 (28/10/2024) for n₁ = 1, n₂ = 2
"""

import math
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pplvae.intrinsic_dimension import calibration, dependence, grid
from pplvae.intrinsic_dimension.gamma import (
    CalibratedPosterior,
    GammaPosterior,
    MaximumLikelihood,
    check_prior,
)
from pplvae.intrinsic_dimension.ratio_law import (
    Gride,
    check_ranks,
    log_likelihood,
    logs_and_graph,
    score_and_information,
    solve,
)
from pplvae.neighbors import Data, as_graph
from pplvae.validation import Array, as_vector, check_in_range

_FARTHEST = 8  # n₁ of the balls that were drawn
_BLOCK = 2**22  # numbers that are worked on at once


def ratios(x: Data, n1: int = 1, n2: int = 2, *, progress: bool = True) -> Tensor:
    """Return the ratio μ = r_n₂ / r_n₁ at each distinct point, float64, shape (N,).

    Args:
        x: Points, shape (N, D); or their neighbor graph.
        n1: The nearer neighbor's rank, from 1.
        n2: The farther neighbor's rank, above `n1`.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If the ranks are not 1 ≤ n1 < n2 ≤ N − 1, or the graph has not so many.
    """
    check_ranks(n1, n2)
    distances = as_graph(x, n2, progress=progress).distances
    return distances[:, n2 - 1] / distances[:, n1 - 1]


def maximum_likelihood(
    x: Data,
    *,
    n1: int = 1,
    n2: int = 2,
    unbiased: bool = True,
    inflation: float | None = None,
    calibrated: bool = False,
    progress: bool = True,
) -> MaximumLikelihood:
    """Return the dimension that makes the ratios most likely.

    It is where the score vanishes, found by Newton's method from below, which on a convex curve
    never oversteps. The interval is that of a Gamma law with variance f d² / J.

    Args:
        x: Points, shape (N, D); their neighbor graph; or ratios, shape (N,), N ≥ 3.
        n1: The nearer neighbor's rank, from 1.
        n2: The farther neighbor's rank, above `n1`.
        unbiased: Whether N − 1 stands for N in the score, as in other packages, which removes the
            bias of n₁ = 1, n₂ = 2 and lessens that of others; a calibrated answer has none.
        inflation: The factor f by which neighbors that share neighbors widen the variance; by
            default found in the graph, and 1 for bare ratios. With 1 they count as independent.
        calibrated: Whether the answer, its error and its interval are corrected for N points, see
            `calibration`, which also says where that misleads.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If there are fewer than 3 ratios, all are 1, or what is to be calibrated has
            other ranks than n₂ = 2 n₁, with n₁ = 1, 2, 4 or 8 and more, or fewer than 25 ratios,
            for n₁ > 8 fewer than 25 n₁ / 8.
    """
    logs, graph = logs_and_graph(x, n1, n2, progress=progress)
    dimension = solve(logs, n1, n2, count=len(logs) - unbiased)
    scores, information = score_and_information(logs, dimension, n1, n2)
    inflation = dependence.inflation(inflation, scores, graph, n2)
    effective = information / inflation
    error = dimension / math.sqrt(effective)
    likeliest = dimension / (1 - unbiased / information)
    law = GammaPosterior(effective, effective / likeliest, math.nan, inflation)
    if calibrated:
        # The balls' means are of the biased estimate.
        curve = _curve(len(logs), n1, n2)
        dimension, error = curve.corrected(likeliest, error)
        law = CalibratedPosterior(law, curve)
    return MaximumLikelihood(dimension, error, n1, n2, len(logs), inflation, law)


def _curve(num_ratios: int, n1: int, n2: int) -> calibration.Curve:
    """Return what Gride says of balls; beyond the eighth neighbor, of thinned ones.

    The neighbor n₁ of N points is as far as the eighth of 8 N / n₁, and edges matter by how far
    one looks.
    """
    known = min(n1, _FARTHEST)
    if n2 != 2 * n1 or f"gride_{known}" not in calibration.ESTIMATORS:
        raise ValueError(
            "n1 must be 1, 2, 4, or 8 and more, and n2 twice as much for a calibrated answer, "
            f"got {n1, n2}"
        )
    return calibration.curve(num_ratios * known // n1, f"gride_{known}")


def model(
    ratios: Array,
    n1: int = 1,
    n2: int = 2,
    inflation: float = 1.0,
    *,
    concentration: float = 1.0,
    rate: float = 0.01,
) -> None:
    """Pyro model of the ratios: a Gamma prior on d, the law `Gride`.

    The default prior is nearly flat up to d = 100. The log likelihood is divided by `inflation`,
    as ratios that share neighbors ask for. A tie r_n₁ = r_n₂, where the law has density 0 for
    n₂ > n₁ + 1 whatever d, is read as the next number above 1, what it is but for rounding.

    Sites:
        dimension: The intrinsic dimension d, latent, shape ().
        ratios: Observed, shape (N,), independent.
    """
    ratios = as_vector(ratios, name="ratios", min_size=1)
    check_ranks(n1, n2)
    check_in_range("inflation", inflation, 1.0)
    prior = dist.Gamma(ratios.new_tensor(concentration), ratios.new_tensor(rate))
    dimension = pyro.sample("dimension", prior)
    with pyro.plate("points", len(ratios)), pyro.poutine.scale(scale=1 / inflation):
        obs = ratios.clamp(min=1 + torch.finfo(ratios.dtype).eps)
        pyro.sample("ratios", Gride(dimension, n1, n2), obs=obs)


def posterior(
    x: Data,
    *,
    n1: int = 1,
    n2: int = 2,
    concentration: float = 1.0,
    rate: float = 0.01,
    inflation: float | None = None,
    progress: bool = True,
) -> grid.GridPosterior:
    """Return the posterior of d under `model`, by a sum over a grid in log d.

    Args:
        x: Points, shape (N, D); their neighbor graph; or ratios, shape (N,).
        n1: The nearer neighbor's rank, from 1.
        n2: The farther neighbor's rank, above `n1`.
        concentration: The prior's shape a; 0 with rate 0 for the flat prior on log d, which has
            no evidence.
        rate: The prior's rate b.
        inflation: The factor f by which neighbors that share neighbors widen the variance; by
            default found in the graph, and 1 for bare ratios. With 1 they count as independent.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If the prior is impossible, or all ratios are 1.
    """
    check_prior(concentration, rate)
    logs, graph = logs_and_graph(x, n1, n2, 1, progress=progress)
    logs = logs.clamp(min=torch.finfo(logs.dtype).eps)  # as `model`
    scores, _ = score_and_information(logs, solve(logs, n1, n2, count=len(logs)), n1, n2)
    f, a, b = dependence.inflation(inflation, scores, graph, n2), concentration, rate
    mode = solve(logs, n1, n2, count=len(logs) + a * f, rate=b * f)
    width = math.sqrt(f / score_and_information(logs, mode, n1, n2)[1])
    constant = math.nan if a == 0 or b == 0 else a * math.log(b) - math.lgamma(a)
    joint = partial(_log_joint, logs=logs, ranks=(n1, n2), prior=(a, b), inflation=f)
    found = grid.posterior(joint, logs.new_tensor(mode).log(), width, inflation=f)
    return replace(found, log_evidence=found.log_evidence + constant)


def _log_joint(
    log_dimensions: Tensor,
    *,
    logs: Tensor,
    ranks: tuple[int, int],
    prior: tuple[float, float],
    inflation: float,
) -> Tensor:
    """Return log p(μ, log d), the likelihood's divided by f, without the prior's constant."""
    (a, b), dimensions = prior, log_dimensions.exp()
    parts = dimensions.split(max(1, _BLOCK // len(logs)))
    laws = (log_likelihood(logs, part.unsqueeze(1), *ranks) for part in parts)
    sums = torch.cat([(law - logs).sum(dim=1) for law in laws])
    return a * log_dimensions - b * dimensions + sums / inflation
