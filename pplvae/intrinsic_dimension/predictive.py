"""Do the ratios look as TwoNN's law says? A posterior predictive check.

With d ~ Gamma(α, β), a new ratio has the Lomax law P(log μ > t) = (β / (β + t))^α. Against it
stand the ratios seen: quantile against quantile, and the greatest distance between the two
distribution functions (Kolmogorov, Smirnov). How great it may be is found by simulation, since the
law was fitted to the very ratios: data sets of exponentials, each with a rate of its own fitted.
Neighbors share neighbors, so N / f of them are drawn, f as in `dependence`.

Reference:
    Gelman, Meng & Stern (1996), Posterior predictive assessment of model fitness, Statistica
    Sinica 6; Lilliefors (1969), On the Kolmogorov-Smirnov test for the exponential distribution,
    https://doi.org/10.1080/01621459.1969.10500983
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae import randomness
from pplvae.intrinsic_dimension import twonn
from pplvae.intrinsic_dimension.gamma import CalibratedPosterior, GammaPosterior
from pplvae.intrinsic_dimension.ratio_law import logs_and_graph
from pplvae.intrinsic_dimension.result import OneLine
from pplvae.neighbors import Data
from pplvae.validation import check_whole

_MOST = 10_000  # points of a simulated data set: √N times the distance hardly depends on N


@dataclass(frozen=True, eq=False, repr=False)
class PredictiveCheck(OneLine):
    """How far the ratios are from TwoNN's law.

    Attributes:
        p_value: The share of simulated data sets that are as far.
        distance: The greatest distance between the distribution functions, in [0, 1].
        seen: log μ, ascending, shape (N,).
        expected: The quantiles of the posterior predictive law at (i − ½) / N, shape (N,).
    """

    p_value: float
    distance: float
    seen: Tensor = field(repr=False)
    expected: Tensor = field(repr=False)


def check(
    x: Data,
    posterior: GammaPosterior | CalibratedPosterior | None = None,
    *,
    num_samples: int = 400,
    seed: int | None = None,
    progress: bool = True,
) -> PredictiveCheck:
    """Return how well TwoNN's law holds.

    Args:
        x: Points, shape (N, D); their neighbor graph; or distance ratios, shape (N,).
        posterior: Of d; by default `twonn.posterior(x)`. Of a calibrated one, the uncalibrated
            is the law of these ratios.
        num_samples: How many data sets are simulated.
        seed: Start of the draws.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: As `twonn.posterior`, or if num_samples is less than 20, or the posterior is
            no Gamma law.
    """
    check_whole("num_samples", num_samples, 20)
    logs, graph = logs_and_graph(x, min_size=1, progress=progress)
    posterior = twonn.posterior(x if graph is None else graph) if posterior is None else posterior
    if isinstance(posterior, CalibratedPosterior):
        posterior = posterior.uncalibrated
    if not isinstance(posterior, GammaPosterior):
        got = type(posterior).__name__
        raise ValueError(f"posterior must be a GammaPosterior, as of twonn.posterior, got {got}")
    seen = logs.sort().values
    shape, rate = posterior.concentration, posterior.rate
    survival = (-shape * torch.log1p(seen / rate)).exp()
    distance = _distance(1 - survival).item()
    steps = (torch.arange(len(seen)).to(seen) + 0.5) / len(seen)
    expected = rate * torch.expm1(-torch.log1p(-steps) / shape)
    num_points = max(3, round(len(seen) / posterior.inflation))
    simulated = _simulated(min(num_points, _MOST), num_samples, seed)
    far = distance * num_points**0.5
    # One more on both sides: the data themselves are one such data set if the law holds.
    p_value = (int((simulated >= far).sum()) + 1) / (num_samples + 1)
    return PredictiveCheck(p_value, distance, seen, expected)


def _simulated(num_points: int, num_samples: int, seed: int | None) -> Tensor:
    """Return √N times the distance of exponentials from the law fitted to them, shape (S,)."""
    with randomness.scope(seed):
        found = []
        for _ in range(num_samples):
            draws = torch.empty(num_points, dtype=torch.float64).exponential_().sort().values
            found.append(_distance(-torch.expm1(-draws / draws.mean())))
    return torch.stack(found) * num_points**0.5


def _distance(cumulative: Tensor) -> Tensor:
    """Return max |F_n − F| for F at the sorted data, shape (N,)."""
    size = len(cumulative)
    ranks = torch.arange(size).to(cumulative)
    return torch.maximum((ranks + 1) / size - cumulative, cumulative - ranks / size).max()
