"""TwoNN: the intrinsic dimension, from each point's two nearest neighbors.

Where the density is constant on the scale of the second neighbor, the ratio of the two distances
does not depend on it and follows a Pareto law whose shape is the dimension d:

    μ = r₂ / r₁,   p(μ | d) = d μ^(−d − 1),   P(μ > t | d) = t^(−d),   t ≥ 1.

So log μ is exponential with rate d, the sum S = Σ_n log μ_n is Gamma(N, d), and everything has a
closed form. The ratios of neighboring points share neighbors, so that the N of them say less than
independent ones would: intervals computed here are somewhat too narrow (about 0.88 for 0.95).

Reference:
    Facco et al. (2017), Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information, https://doi.org/10.1038/s41598-017-11873-y; Lecture 5 (28/10/2024)
"""

import math
import warnings
from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pplvae.infer import exact
from pplvae.neighbors import neighbor_distances
from pplvae.validation import Array, as_points, as_vector, check_in_range, check_positive

MOST_TIES = 0.05  # of points with r₁ = r₂; images in 16 gray levels have 0.01 of them


@dataclass(frozen=True)
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
        standard_error: Its standard error for independent ratios.
        interval: Exact confidence interval for independent ratios.
        prob: The interval's confidence.
        num_ratios: N.
    """

    dimension: float
    standard_error: float
    interval: tuple[float, float]
    prob: float
    num_ratios: int


@dataclass(frozen=True)
class GammaPosterior:
    """The exact posterior of d, Gamma(concentration, rate).

    Attributes:
        concentration: Its shape.
        rate: Its rate.
        log_evidence: log p(μ_1 … μ_N) in nats.
    """

    concentration: float
    rate: float
    log_evidence: float

    @property
    def dimension(self) -> float:
        """The posterior mean of d."""
        return self.concentration / self.rate

    mean = dimension

    @property
    def standard_error(self) -> float:
        """The posterior standard deviation of d."""
        return math.sqrt(self.concentration) / self.rate

    stddev = standard_error

    @property
    def distribution(self) -> dist.Gamma:
        """The posterior as a Pyro distribution, in double precision."""
        concentration = torch.tensor(self.concentration, dtype=torch.float64)
        return dist.Gamma(concentration, torch.tensor(self.rate, dtype=torch.float64))

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the central interval of d that holds `prob`."""
        from scipy.stats import gamma

        _check_fraction("prob", prob)
        low, high = gamma(self.concentration, scale=1 / self.rate).interval(prob)
        return float(low), float(high)

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"GammaPosterior(d = {self.dimension:.4g}, 95 % in [{low:.4g}, {high:.4g}])"


def distance_ratios(x: Array, *, progress: bool = True) -> Tensor:
    """Return the ratio μ = r₂ / r₁ at each distinct point.

    A repeated point has r₁ = 0 and no ratio, so repeats are dropped first, with a warning. Points
    on a lattice, such as whole numbers, have neighbors at equal distances: that too gets one.

    Args:
        x: Points, shape (N, D), with at least 3 distinct ones.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Ratios, all at least 1, shape (N,), or fewer where points repeat.

    Raises:
        ValueError: If there are fewer than 3 distinct points.
    """
    x = as_points(x, min_points=3)
    distinct = _distinct(x)
    if len(distinct) < 3:
        raise ValueError(f"x must hold at least 3 distinct points, got {len(distinct)}")
    first, second = neighbor_distances(distinct, 2, progress=progress).unbind(dim=1)
    ties = (first == second).double().mean().item()
    if ties > MOST_TIES:
        warnings.warn(
            f"{ties:.0%} of the points have both neighbors equally near, as on a lattice: "
            "TwoNN holds for continuous data",
            stacklevel=2,
        )
    return second / first


def linear_fit(ratios: Array, *, discard: float = 0.1) -> LineFit:
    """Return the line through the origin of the ratios' distribution function.

        −log(1 − F(μ)) = d log μ

    F is i / N at the i-th smallest ratio. The largest ratios are left out: they are the noisiest,
    and F = 1 at the last.

    Args:
        ratios: Distance ratios, shape (N,); or points, shape (N, D).
        discard: Fraction of the ratios to leave out, in (0, 1).

    Raises:
        ValueError: If nothing is left, or all ratios used are 1.
    """
    ratios = _as_ratios(ratios)
    _check_fraction("discard", discard)
    num_ratios = len(ratios)
    kept = math.floor(num_ratios * (1 - discard) + 1e-9)
    check_in_range("the number of ratios kept", kept, 1)
    x = ratios.log().sort().values
    y = -torch.log1p(-torch.arange(1, num_ratios + 1).to(x) / num_ratios)
    slope = (x[:kept] @ y[:kept] / x[:kept].square().sum()).item()
    return LineFit(_checked(slope), x[:kept], y[:kept], x[kept:], y[kept:])


def maximum_likelihood(
    ratios: Array, *, unbiased: bool = False, prob: float = 0.95
) -> MaximumLikelihood:
    """Return the dimension that makes the ratios most likely.

        d = N / S,   S = Σ_n log μ_n;   unbiased: d = (N − 1) / S

    2 d S follows the chi-square law with 2 N degrees of freedom, which gives the interval; the
    variance of the unbiased estimate is d² / (N − 2).

    Args:
        ratios: Distance ratios, shape (N,), N ≥ 3; or points, shape (N, D).
        unbiased: Whether to remove the bias d / (N − 1).
        prob: The interval's confidence.

    Raises:
        ValueError: If there are fewer than 3 ratios, or all are 1.
    """
    from scipy.stats import chi2

    _check_fraction("prob", prob)
    ratios = _as_ratios(ratios)
    num_ratios, total = len(ratios), ratios.log().sum().item()
    dimension = _checked((num_ratios - unbiased) / total if total else math.inf)
    low, high = chi2(2 * num_ratios).interval(prob)
    return MaximumLikelihood(
        dimension=dimension,
        standard_error=dimension / math.sqrt(num_ratios - 2),
        interval=(float(low) / (2 * total), float(high) / (2 * total)),
        prob=prob,
        num_ratios=num_ratios,
    )


def model(ratios: Array, concentration: float = 1.0, rate: float = 0.01) -> None:
    """Pyro model of the ratios: a Gamma prior on d, a Pareto likelihood.

    The default prior is nearly flat up to d = 100.

    Sites:
        dimension: The intrinsic dimension d, latent, shape ().
        ratios: Observed, shape (N,), independent.
    """
    ratios = as_vector(ratios, name="ratios", min_size=1)
    prior = dist.Gamma(ratios.new_tensor(concentration), ratios.new_tensor(rate))
    dimension = pyro.sample("dimension", prior)
    with pyro.plate("points", len(ratios)):
        pyro.sample("ratios", dist.Pareto(torch.ones_like(dimension), dimension), obs=ratios)


def posterior(ratios: Array, concentration: float = 1.0, rate: float = 0.01) -> GammaPosterior:
    """Return the exact posterior of d: the Gamma prior of `model` is conjugate.

        d | μ ~ Gamma(a + N, b + S),   S = Σ_n log μ_n
        log p(μ) = a log b − log Γ(a) + log Γ(a + N) − (a + N) log(b + S) − S

    Args:
        ratios: Distance ratios, shape (N,); or points, shape (N, D).
        concentration: The prior's shape a; 0 with rate 0 for the flat prior on log d.
        rate: The prior's rate b.

    Raises:
        ValueError: If the prior is impossible.

    Example:
        >>> posterior(torch.tensor([2.0, 4.0, 1.5]))
        GammaPosterior(d = 1.603, 95 % in [0.4368, 3.514])
    """
    check_in_range("concentration", concentration, 0.0)
    check_in_range("rate", rate, 0.0)
    ratios = _as_ratios(ratios, min_size=1)
    total, a, b = ratios.log().sum().item(), concentration, rate
    after, beyond = a + len(ratios), b + total
    check_positive("rate + Σ log μ", beyond)
    improper = a == 0 or b == 0
    log_prior = 0.0 if improper else a * math.log(b) - math.lgamma(a)
    evidence = log_prior + math.lgamma(after) - after * math.log(beyond) - total
    return GammaPosterior(after, beyond, math.nan if improper else evidence)


@exact.solves(model)
def solution(ratios: Array, concentration: float = 1.0, rate: float = 0.01) -> exact.Solution:
    """Return the exact answer to `model`, for `infer.exact.fit`."""
    found, ratios = posterior(ratios, concentration, rate), as_vector(ratios, name="ratios")
    law = dist.Gamma(ratios.new_tensor(found.concentration), ratios.new_tensor(found.rate))
    return exact.Solution({"dimension": law}, found.log_evidence)


def _as_ratios(ratios: Array, min_size: int = 3) -> Tensor:
    """Return ratios in double precision; a table of points is turned into its ratios."""
    if getattr(ratios, "ndim", 1) == 2:
        return distance_ratios(ratios).double()
    ratios = as_vector(ratios, name="ratios", min_size=min_size).double()
    if (ratios < 1).any():
        raise ValueError(f"ratios must be at least 1, got {ratios.min().item():.6g}")
    return ratios


def _distinct(x: Tensor) -> Tensor:
    """Return `x` without the rows that repeat an earlier one, in their order."""
    rows, place = torch.unique(x, dim=0, return_inverse=True)
    if len(rows) == len(x):
        return x
    warnings.warn(
        f"{len(x) - len(rows)} of {len(x)} points repeat another and were dropped", stacklevel=3
    )
    earliest = torch.full_like(place[: len(rows)], len(x))
    earliest.scatter_reduce_(0, place, torch.arange(len(x), device=x.device), "amin")
    return x[earliest.sort().values]


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}")


def _checked(dimension: float) -> float:
    if not (math.isfinite(dimension) and dimension > 0):
        raise ValueError(f"ratios must not all be 1, got a dimension of {dimension}")
    return dimension
