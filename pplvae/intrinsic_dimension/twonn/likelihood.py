"""TwoNN by maximum likelihood: plain, unbiased, censored, calibrated."""

import math

from torch import Tensor

from pplvae.intrinsic_dimension import calibration, dependence
from pplvae.intrinsic_dimension.gamma import (
    CalibratedPosterior,
    GammaPosterior,
    MaximumLikelihood,
)
from pplvae.intrinsic_dimension.ratio_law import check_untied, logs_and_graph
from pplvae.neighbors import Data
from pplvae.validation import check_in_range


def maximum_likelihood(
    x: Data,
    *,
    unbiased: bool = False,
    discard: float = 0.0,
    inflation: float | None = None,
    calibrated: bool = False,
    progress: bool = True,
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
        unbiased: Whether to remove the bias d / (N − 1); a calibrated answer has none.
        discard: Fraction of the ratios that is censored so, in [0, 1).
        inflation: The factor f by which neighbors that share neighbors widen the variance; by
            default `dependence`'s, and 1 for bare ratios. With 1 the ratios count as independent.
        calibrated: Whether the answer, its error and its interval are corrected for N points, see
            `calibration`, which also says where that misleads.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If there are fewer than 3 ratios, most are 1, or what is to be calibrated has
            another `discard` than 0 or 0.1, or fewer than 25 ratios.
    """
    logs, graph = logs_and_graph(x, progress=progress)
    check_untied(logs)
    kept, total, scores = censored(logs, discard)
    inflation = dependence.inflation(inflation, scores, graph, 2)
    law = GammaPosterior(kept / inflation, total / inflation, math.nan, inflation)
    dimension = (kept - unbiased) / total
    error = dimension * math.sqrt(inflation / max(kept - 2, 1))
    if calibrated:
        # The balls' means are of the biased estimate.
        curve = curve_for(len(logs), discard)
        dimension, error = curve.corrected(kept / total, error)
        law = CalibratedPosterior(law, curve)
    return MaximumLikelihood(dimension, error, 1, 2, len(logs), inflation, law)


def censored(logs: Tensor, discard: float, least: int = 3) -> tuple[int, float, Tensor]:
    """Return the number n kept, S, and what each point adds to S and n, d-free up to scale.

    Args:
        logs: log μ, shape (N,).
        discard: The fraction that is censored, in [0, 1).
        least: How many must be kept.

    Raises:
        ValueError: If fewer are.
    """
    check_in_range("discard", discard, 0.0)
    kept = math.floor(len(logs) * (1 - discard) + 1e-9)
    check_in_range("the number of ratios kept", kept, least)
    most = logs.kthvalue(kept).values
    total = logs.clamp(max=most).sum().item()
    # The score of d at its estimate: 1/d for each ratio whose size is used, less what it adds.
    return kept, total, (logs <= most).double() * total / kept - logs.clamp(max=most)


def curve_for(num_ratios: int, discard: float) -> calibration.Curve:
    """Return the mean estimate of balls, with so many of the ratios censored.

    Raises:
        ValueError: If none was drawn.
    """
    if discard not in (0.0, 0.1):
        raise ValueError(f"discard must be 0 or 0.1 for a calibrated answer, got {discard}")
    return calibration.curve(num_ratios, "twonn_censored" if discard else "twonn")
