"""A posterior of a dimension on a grid of log d, where no closed form is to be had.

The posterior of log d has one peak and falls off exponentially or faster on both sides, and of
such a function the trapezoidal sum over an even grid is exact to rounding once the step is below
the width of the peak. So log p is found at a few points, a cubic through them at many.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.intrinsic_dimension.gamma import Posterior

_TAIL = 40.0  # nats below the mode at which the grid ends
_ENDS = 20  # places tried for it, from 8 widths to 550
_COARSE, _FINE = 257, 16385  # points at which log p is found, and of the grid


@dataclass(frozen=True, eq=False, repr=False)
class GridPosterior(Posterior):
    """The posterior of d, on a grid of log d.

    Attributes:
        dimension: The posterior mean of d.
        standard_error: The posterior standard deviation of d.
        log_evidence: log p(data) in nats, its log likelihood divided by `inflation`.
        inflation: The factor f by which shared neighbors widen the variance; 1 for independence.
        log_dimensions: The grid, shape (G,), float64.
        probs: The chance of a smaller d at each of its points, shape (G,).
    """

    dimension: float
    standard_error: float
    log_evidence: float
    inflation: float
    log_dimensions: Tensor
    probs: Tensor

    def _quantile(self, probs: Tensor) -> Tensor:
        above = torch.searchsorted(self.probs, probs).clamp(1, len(self.probs) - 1)
        low, high = self.probs[above - 1], self.probs[above]
        left, right = self.log_dimensions[above - 1], self.log_dimensions[above]
        return (left + (right - left) * (probs - low) / (high - low)).exp()


def posterior(
    log_joint: Callable[[Tensor], Tensor], mode: Tensor, width: float, *, inflation: float = 1.0
) -> GridPosterior:
    """Return the posterior that a log joint density of the data and log d gives.

    Args:
        log_joint: log p(data, log d) in nats, of values of log d, shape (G,) to (G,); one peak.
        mode: The log d at which it is greatest, or near it, shape ().
        width: About the standard deviation of log d there.
        inflation: The factor that the log joint's likelihood is divided by, for the record.
    """
    from scipy.interpolate import CubicSpline

    low, high = (_end(log_joint, mode, side * width) for side in (-1, 1))
    coarse = torch.linspace(low, high, _COARSE).to(mode)
    heights = log_joint(coarse)
    top = heights.max()
    spline = CubicSpline(coarse.cpu().numpy(), (heights - top).cpu().numpy())
    grid = torch.linspace(low, high, _FINE, dtype=torch.float64)
    density = torch.as_tensor(spline(grid.numpy())).exp()
    steps = (density[1:] + density[:-1]) * (high - low) / (2 * (_FINE - 1))
    probs = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    weights, dimensions = density / density.sum(), grid.exp()
    mean = (weights @ dimensions).item()
    return GridPosterior(
        dimension=mean,
        standard_error=(weights @ (dimensions - mean).square()).sqrt().item(),
        log_evidence=top.item() + probs[-1].log().item(),
        inflation=inflation,
        log_dimensions=grid,
        probs=probs / probs[-1],
    )


def _end(log_joint: Callable[[Tensor], Tensor], mode: Tensor, step: float) -> float:
    """Return the nearest of several places, ever farther, that lies deep enough in a tail."""
    reaches = 8 * step * 1.25 ** torch.arange(_ENDS).to(mode)
    heights = log_joint(torch.cat([mode.unsqueeze(0), mode + reaches]))
    deep = heights[1:] < heights[0] - _TAIL
    if not deep.any():
        raise ValueError("log_joint must fall off on both sides of its mode")
    return (mode + reaches[deep.int().argmax()]).item()
