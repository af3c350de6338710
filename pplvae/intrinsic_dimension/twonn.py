"""TwoNN: the intrinsic dimension, from each point's two nearest neighbors.

Where the density is constant on the scale of the second neighbor, the ratio of the two distances
does not depend on it and follows a Pareto law whose shape is the dimension d:

    μ = r₂ / r₁,   p(μ | d) = d μ^(−d − 1),   P(μ > t | d) = t^(−d),   t ≥ 1.

So log μ is exponential with rate d, the sum S = Σ_n log μ_n is Gamma(N, d), and everything has a
closed form. The ratios of neighboring points share neighbors, so that the N of them say less than
independent ones would: their 95 % interval holds the truth in about 88 % of all data sets. With
the factor f ≥ 1 that `dependence` finds in the neighbor graph, N / f and S / f stand for N and S,
and it holds it in about 94 %. Ratios given by themselves have no graph: f is then 1.

Reference:
    Facco et al. (2017), Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information, https://doi.org/10.1038/s41598-017-11873-y; Lecture 5 (28/10/2024)
"""

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Literal, overload

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pplvae.infer import exact
from pplvae.intrinsic_dimension import calibration, dependence
from pplvae.intrinsic_dimension.gamma import (
    CalibratedPosterior,
    GammaPosterior,
    check_fraction,
)
from pplvae.intrinsic_dimension.ratio_law import logs_of
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.validation import Array, as_vector, check_in_range, check_positive

TIE = 1e-9  # of r₂, by which equally near neighbors may differ after rounding
MOST_TIES = 0.05  # of points with r₁ = r₂; images in 16 gray levels have 0.01 of them


@dataclass(frozen=True, eq=False)
class LineFit:
    """The line through the origin of −log(1 − F) against log μ.

    Attributes:
        dimension: Its slope d.
        x: log μ of the ratios used, sorted, shape (n,).
        y: −log(1 − F) at them, shape (n,).
        x_discarded: log μ of the largest ratios, left out, shape (N − n,).
        y_discarded: −log(1 − F) at them; infinite for the last.
    """

    dimension: float
    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    x_discarded: Tensor = field(repr=False)
    y_discarded: Tensor = field(repr=False)


@dataclass(frozen=True)
class MaximumLikelihood:
    """The dimension of greatest likelihood.

    Attributes:
        dimension: The estimate of d.
        standard_error: Its standard error.
        interval: Its confidence interval, exact for independent ratios where nothing is censored.
        prob: The interval's confidence.
        num_ratios: N.
        inflation: The factor f by which shared neighbors widen the variance.
    """

    dimension: float
    standard_error: float
    interval: tuple[float, float]
    prob: float
    num_ratios: int
    inflation: float = 1.0


def distance_ratios(x: Data, *, progress: bool = True) -> Tensor:
    """Return the ratio μ = r₂ / r₁ at each distinct point.

    A repeated point has r₁ = 0 and no ratio, so repeats are dropped first, with a warning. Points
    on a lattice, such as whole numbers, have neighbors at equal distances: that too gets one.

    Args:
        x: Points, shape (N, D), with at least 3 distinct ones; or their neighbor graph.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Ratios, all at least 1, float64, shape (N,), or fewer where points repeat.

    Raises:
        ValueError: If there are fewer than 3 distinct points.
    """
    return _ratios_of(as_graph(x, 2, progress=progress))


def tied(graph: NeighborGraph) -> float:
    """Return the share of the points whose two nearest neighbors are equally near."""
    first, second = graph.distances[:, 0], graph.distances[:, 1]
    return (second - first <= TIE * second).double().mean().item()


def log_ratios(x: Data) -> Tensor:
    """Return log μ at each distinct point, float64, shape (N,); ratios themselves may be given.

    Raises:
        ValueError: As `distance_ratios`, or if a ratio is below 1.
    """
    return _logs(x, min_size=1)[0]


def linear_fit(x: Data, *, discard: float = 0.1, calibrated: bool = False) -> LineFit:
    """Return the line through the origin of the ratios' distribution function.

        −log(1 − F(μ)) = d log μ

    F is i / N at the i-th smallest ratio. The largest ratios are left out: they are the noisiest,
    and F = 1 at the last.

    Args:
        x: Points, shape (N, D); their neighbor graph; or distance ratios, shape (N,).
        discard: Fraction of the ratios to leave out, in (0, 1).
        calibrated: Whether `dimension` is corrected for N points, see `calibration`; the slope of
            x and y is not.

    Raises:
        ValueError: If nothing is left, all ratios used are 1, or what is to be calibrated has
            another `discard` than 0.1.
    """
    check_fraction("discard", discard)
    logs = _logs(x)[0].sort().values
    kept = math.floor(len(logs) * (1 - discard) + 1e-9)
    check_in_range("the number of ratios kept", kept, 1)
    y = -torch.log1p(-torch.arange(1, len(logs) + 1).to(logs) / len(logs))
    slope = (logs[:kept] @ y[:kept] / logs[:kept].square().sum()).item()
    slope = _checked(slope)
    if calibrated:
        slope = _curve("twonn_line", len(logs), discard == 0.1).invert(slope)
    return LineFit(slope, logs[:kept], y[:kept], logs[kept:], y[kept:])


def maximum_likelihood(
    x: Data,
    *,
    unbiased: bool = False,
    discard: float = 0.0,
    inflation: float | None = None,
    calibrated: bool = False,
    prob: float = 0.95,
) -> MaximumLikelihood:
    """Return the dimension that makes the ratios most likely.

        d = N / S,   S = Σ_n log μ_n;   unbiased: d = (N − 1) / S

    2 d S follows the chi-square law with 2 N degrees of freedom, which gives the interval; the
    variance of the unbiased estimate is d² / (N − 2). Of the largest ratios only the number may be
    used, not the size, which noise and edges spoil first: with the smallest n kept, n stands for
    N and S is their sum and N − n times the largest. (To leave the others out altogether would
    bias d by 5 % where 1 % are left out.)

    Args:
        x: Points, shape (N, D); their neighbor graph; or distance ratios, shape (N,), N ≥ 3.
        unbiased: Whether to remove the bias d / (N − 1).
        discard: Fraction of the ratios that is censored so, in [0, 1).
        inflation: The factor f by which neighbors that share neighbors widen the variance; by
            default `dependence`'s, and 1 for bare ratios. With 1 the ratios count as independent.
        calibrated: Whether the answer, its error and its interval are corrected for N points, see
            `calibration`, which also says where that misleads.
        prob: The interval's confidence.

    Raises:
        ValueError: If there are fewer than 3 ratios, all are 1, or what is to be calibrated has
            another `discard` than 0 or 0.1, or fewer than 25 ratios.
    """
    from scipy.stats import chi2

    check_fraction("prob", prob)
    logs, graph = _logs(x)
    kept, total, scores = _censored(logs, discard)
    dimension = _checked((kept - unbiased) / total if total else math.inf)
    inflation = dependence.inflation(inflation, scores, graph, 2)
    effective = kept / inflation
    low, high = chi2(2 * effective).interval(prob)
    found = MaximumLikelihood(
        dimension=dimension,
        standard_error=dimension * math.sqrt(inflation / max(kept - 2, 1)),
        interval=(float(low) * inflation / (2 * total), float(high) * inflation / (2 * total)),
        prob=prob,
        num_ratios=len(logs),
        inflation=inflation,
    )
    if not calibrated:
        return found
    name = "twonn_censored" if discard else "twonn_unbiased" if unbiased else "twonn"
    return _calibrated(found, _curve(name, len(logs), discard in (0.0, 0.1)))


def model(
    ratios: Array, concentration: float = 1.0, rate: float = 0.01, inflation: float = 1.0
) -> None:
    """Pyro model of the ratios: a Gamma prior on d, a Pareto likelihood.

    The default prior is nearly flat up to d = 100. The log likelihood is divided by `inflation`,
    as ratios that share neighbors ask for.

    Sites:
        dimension: The intrinsic dimension d, latent, shape ().
        ratios: Observed, shape (N,), independent.
    """
    ratios = as_vector(ratios, name="ratios", min_size=1)
    check_in_range("inflation", inflation, 1.0)
    prior = dist.Gamma(ratios.new_tensor(concentration), ratios.new_tensor(rate))
    dimension = pyro.sample("dimension", prior)
    with pyro.plate("points", len(ratios)), pyro.poutine.scale(scale=1 / inflation):
        pyro.sample("ratios", dist.Pareto(torch.ones_like(dimension), dimension), obs=ratios)


@overload
def posterior(
    x: Data,
    concentration: float = 1.0,
    rate: float = 0.01,
    *,
    inflation: float | None = None,
    calibrated: Literal[False] = False,
) -> GammaPosterior: ...
@overload
def posterior(
    x: Data,
    concentration: float = 1.0,
    rate: float = 0.01,
    *,
    inflation: float | None = None,
    calibrated: Literal[True],
) -> CalibratedPosterior: ...
def posterior(
    x: Data,
    concentration: float = 1.0,
    rate: float = 0.01,
    *,
    inflation: float | None = None,
    calibrated: bool = False,
) -> GammaPosterior | CalibratedPosterior:
    """Return the exact posterior of d: the Gamma prior of `model` is conjugate.

        d | μ ~ Gamma(a + N / f, b + S / f),   S = Σ_n log μ_n
        log p(μ) = a log b − log Γ(a) + log Γ(a + N/f) − (a + N/f) log(b + S/f) − S/f

    Args:
        x: Points, shape (N, D); their neighbor graph; or distance ratios, shape (N,).
        concentration: The prior's shape a; 0 with rate 0 for the flat prior on log d.
        rate: The prior's rate b.
        inflation: The factor f by which neighbors that share neighbors widen the variance; by
            default `dependence`'s, and 1 for bare ratios. With 1 the ratios count as independent.

        calibrated: Whether the posterior is corrected for N points, see `calibration`, which also
            says where that misleads; the prior is then one on the uncorrected d.

    Raises:
        ValueError: If the prior is impossible, or fewer than 25 ratios are to be calibrated.

    Example:
        >>> posterior(torch.tensor([2.0, 4.0, 1.5]))
        GammaPosterior(d = 1.603, 95 % in [0.4368, 3.514])
    """
    check_in_range("concentration", concentration, 0.0)
    check_in_range("rate", rate, 0.0)
    logs, graph = _logs(x, min_size=1)
    inflation = dependence.inflation(inflation, logs, graph, 2)
    total, a, b = logs.sum().item() / inflation, concentration, rate
    after, beyond = a + len(logs) / inflation, b + total
    check_positive("rate + Σ log μ", beyond)
    improper = a == 0 or b == 0
    log_prior = 0.0 if improper else a * math.log(b) - math.lgamma(a)
    evidence = log_prior + math.lgamma(after) - after * math.log(beyond) - total
    found = GammaPosterior(after, beyond, math.nan if improper else evidence, inflation)
    return CalibratedPosterior(found, _curve("twonn", len(logs), True)) if calibrated else found


@exact.solves(model)
def solution(
    ratios: Array, concentration: float = 1.0, rate: float = 0.01, inflation: float = 1.0
) -> exact.Solution:
    """Return the exact answer to `model`, for `infer.exact.fit`."""
    ratios = as_vector(ratios, name="ratios")
    found = posterior(ratios, concentration, rate, inflation=inflation)
    law = dist.Gamma(ratios.new_tensor(found.concentration), ratios.new_tensor(found.rate))
    return exact.Solution({"dimension": law}, found.log_evidence)


def _ratios_of(graph: NeighborGraph) -> Tensor:
    check_in_range("the number of distinct points", len(graph), 3)
    ties = tied(graph)
    if ties > MOST_TIES:
        warnings.warn(
            f"{ties:.0%} of the points have both neighbors equally near, as on a lattice: "
            "TwoNN holds for continuous data",
            stacklevel=4,
        )
    return graph.distances[:, 1] / graph.distances[:, 0]


def _logs(x: Data, min_size: int = 3) -> tuple[Tensor, NeighborGraph | None]:
    """Return log μ in double precision, and the graph behind it if there is one."""
    if isinstance(x, NeighborGraph) or getattr(x, "ndim", 1) == 2:
        graph = as_graph(x, 2)
        return _ratios_of(graph).log(), graph
    return logs_of(x, min_size), None


def _censored(logs: Tensor, discard: float) -> tuple[int, float, Tensor]:
    """Return the number n kept, S, and what each point adds to S and n, d-free up to scale."""
    check_in_range("discard", discard, 0.0)
    kept = math.floor(len(logs) * (1 - discard) + 1e-9)
    check_in_range("the number of ratios kept", kept, 3)
    most = logs.kthvalue(kept).values
    total = logs.clamp(max=most).sum().item()
    # The score of d at its estimate: 1/d for each ratio whose size is used, less what it adds.
    return kept, total, (logs <= most).double() * total / kept - logs.clamp(max=most)


def _curve(name: str, num_ratios: int, known: bool) -> calibration.Curve:
    if not known:
        raise ValueError("discard must be 0.1, or 0 for the likelihood, for a calibrated answer")
    return calibration.curve(num_ratios, name)


def _calibrated(found: MaximumLikelihood, curve: calibration.Curve) -> MaximumLikelihood:
    low, high = (curve.invert(end) for end in found.interval)
    above = curve.invert(found.dimension + found.standard_error)
    below = curve.invert(max(found.dimension - found.standard_error, 1e-3 * found.dimension))
    dimension = curve.invert(found.dimension)
    return replace(
        found, dimension=dimension, standard_error=(above - below) / 2, interval=(low, high)
    )


def _checked(dimension: float) -> float:
    if not (math.isfinite(dimension) and dimension > 0):
        raise ValueError(f"ratios must not all be 1, got a dimension of {dimension}")
    return dimension
