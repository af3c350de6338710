"""TwoNN's line: the slope of −log(1 − F) against log μ, as Facco et al. fit it."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae.intrinsic_dimension import calibration
from pplvae.intrinsic_dimension.gamma import check_fraction
from pplvae.intrinsic_dimension.ratio_law import check_untied, logs_and_graph
from pplvae.intrinsic_dimension.result import OneLine
from pplvae.neighbors import Data
from pplvae.validation import check_in_range


@dataclass(frozen=True, eq=False, repr=False)
class LineFit(OneLine):
    """The line through the origin of −log(1 − F) against log μ.

    Attributes:
        dimension: d, its slope or what that means once calibrated.
        slope: Its slope.
        x: log μ of the ratios used, sorted, shape (n,).
        y: −log(1 − F) at them, shape (n,).
        x_discarded: log μ of the largest ratios, left out, shape (N − n,).
        y_discarded: −log(1 − F) at them; infinite for the last.
    """

    dimension: float
    slope: float
    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    x_discarded: Tensor = field(repr=False)
    y_discarded: Tensor = field(repr=False)


def linear_fit(
    x: Data, *, discard: float = 0.1, calibrated: bool = False, progress: bool = True
) -> LineFit:
    """Return the line through the origin of the ratios' distribution function.

        −log(1 − F(μ)) = d log μ

    F is i / N at the i-th smallest ratio. The largest ratios are left out: they are the noisiest,
    and F = 1 at the last.

    Args:
        x: Points, shape (N, D); their neighbor graph; or distance ratios, shape (N,).
        discard: Fraction of the ratios to leave out, in (0, 1).
        calibrated: Whether `dimension` is corrected for N points, see `calibration`; `slope` is
            not.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If nothing is left, most ratios or all used are 1, or what is to be
            calibrated has another `discard` than 0.1.
    """
    check_fraction("discard", discard)
    logs = logs_and_graph(x, progress=progress)[0].sort().values
    kept = math.floor(len(logs) * (1 - discard) + 1e-9)
    check_in_range("the number of ratios kept", kept, 1)
    check_untied(logs)
    check_untied(logs[:kept], 1.0)
    y = -torch.log1p(-torch.arange(1, len(logs) + 1).to(logs) / len(logs))
    slope = (logs[:kept] @ y[:kept] / logs[:kept].square().sum()).item()
    dimension = slope
    if calibrated:
        if discard != 0.1:
            raise ValueError(f"discard must be 0.1 for a calibrated line, got {discard}")
        dimension = calibration.curve(len(logs), "twonn_line").invert(slope)
    return LineFit(dimension, slope, logs[:kept], y[:kept], logs[kept:], y[kept:])
