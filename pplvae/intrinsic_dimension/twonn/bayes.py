"""TwoNN's exact posterior: the Gamma prior is conjugate to the Pareto law."""

import math
from typing import Literal, overload

import pyro.distributions as dist

from pplvae.infer import exact
from pplvae.intrinsic_dimension import dependence
from pplvae.intrinsic_dimension.gamma import CalibratedPosterior, GammaPosterior, check_prior
from pplvae.intrinsic_dimension.ratio_law import check_untied, logs_and_graph
from pplvae.intrinsic_dimension.twonn.likelihood import censored, curve_for
from pplvae.intrinsic_dimension.twonn.pareto import model
from pplvae.neighbors import Data
from pplvae.validation import Array, as_vector


@overload
def posterior(
    x: Data,
    concentration: float = 1.0,
    rate: float = 0.01,
    *,
    discard: float = 0.0,
    inflation: float | None = None,
    calibrated: Literal[False] = False,
    progress: bool = True,
) -> GammaPosterior: ...
@overload
def posterior(
    x: Data,
    concentration: float = 1.0,
    rate: float = 0.01,
    *,
    discard: float = 0.0,
    inflation: float | None = None,
    calibrated: Literal[True],
    progress: bool = True,
) -> CalibratedPosterior: ...
def posterior(
    x: Data,
    concentration: float = 1.0,
    rate: float = 0.01,
    *,
    discard: float = 0.0,
    inflation: float | None = None,
    calibrated: bool = False,
    progress: bool = True,
) -> GammaPosterior | CalibratedPosterior:
    """Return the exact posterior of d: the Gamma prior of `model` is conjugate.

        d | μ ~ Gamma(a + N / f, b + S / f),   S = Σ_n log μ_n
        log p(μ) = a log b − log Γ(a) + log Γ(a + N/f) − (a + N/f) log(b + S/f) − S/f

    With `discard`, n stands for N and S is censored as for `maximum_likelihood`; the last S, of
    dμ / d log μ, is that of the n ratios alone.

    Args:
        x: Points, shape (N, D); their neighbor graph; or distance ratios, shape (N,).
        concentration: The prior's shape a; 0 with rate 0 for the flat prior on log d.
        rate: The prior's rate b.
        discard: Fraction of the ratios, the largest, of which only the number is used, in [0, 1).
        inflation: The factor f by which neighbors that share neighbors widen the variance; by
            default `dependence`'s, and 1 for bare ratios. With 1 the ratios count as independent.
        calibrated: Whether the posterior is corrected for N points, see `calibration`, which also
            says where that misleads; the prior is then one on the uncorrected d.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If the prior is impossible, most ratios are 1, or what is to be calibrated has
            another `discard` than 0 or 0.1, or fewer than 25 ratios.

    Example:
        >>> import torch
        >>> posterior(torch.tensor([2.0, 4.0, 1.5]))
        GammaPosterior(d = 1.603, 95 % in [0.4368, 3.514])
    """
    check_prior(concentration, rate)
    logs, graph = logs_and_graph(x, min_size=1, progress=progress)
    check_untied(logs)
    kept, total, scores = censored(logs, discard, 1)
    f, a, b = dependence.inflation(inflation, scores, graph, 2), concentration, rate
    after, beyond = a + kept / f, b + total / f
    improper = a == 0 or b == 0
    log_prior = 0.0 if improper else a * math.log(b) - math.lgamma(a)
    evidence = log_prior + math.lgamma(after) - after * math.log(beyond)
    evidence -= logs.sort().values[:kept].sum().item() / f
    found = GammaPosterior(after, beyond, math.nan if improper else evidence, f)
    return CalibratedPosterior(found, curve_for(len(logs), discard)) if calibrated else found


@exact.solves(model)
def solution(
    ratios: Array, concentration: float = 1.0, rate: float = 0.01, inflation: float = 1.0
) -> exact.Solution:
    """Return the exact answer to `model`, for `infer.exact.fit`."""
    ratios = as_vector(ratios, name="ratios")
    found = posterior(ratios, concentration, rate, inflation=inflation)
    law = dist.Gamma(ratios.new_tensor(found.concentration), ratios.new_tensor(found.rate))
    return exact.Solution({"dimension": law}, found.log_evidence)
