"""A posterior of a dimension on a grid of log d, where no closed form is to be had.

The posterior of log d has one peak and falls off exponentially or faster on both sides, and of
such a function the trapezoidal sum over an even grid is exact to rounding once the step is below
the width of the peak. So log p is found at a few points, a cubic through them at many.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae.intrinsic_dimension.gamma import check_fraction
from pplvae.validation import Array

_TAIL = 40.0  # nats below the mode at which the grid ends
_ENDS = 20  # places tried for it, from 8 widths to 550
_COARSE, _FINE = 257, 16385  # points at which log p is found, and of the grid


@dataclass(frozen=True, eq=False)
class GridPosterior:
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
    log_dimensions: Tensor = field(repr=False)
    probs: Tensor = field(repr=False)

    @property
    def mean(self) -> float:
        """The posterior mean of d."""
        return self.dimension

    @property
    def stddev(self) -> float:
        """The posterior standard deviation of d."""
        return self.standard_error

    def quantile(self, probs: Array) -> Tensor:
        """Return the d below which the given parts of the posterior lie, shape of `probs`.

        Raises:
            ValueError: If a part is not in (0, 1).
        """
        wanted = torch.as_tensor(probs).to(self.probs)
        if not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"probs must be in (0, 1), got {wanted.tolist()}")
        above = torch.searchsorted(self.probs, wanted).clamp(1, len(self.probs) - 1)
        low, high = self.probs[above - 1], self.probs[above]
        left, right = self.log_dimensions[above - 1], self.log_dimensions[above]
        return (left + (right - left) * (wanted - low) / (high - low)).exp()

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the central interval of d that holds `prob`."""
        check_fraction("prob", prob)
        low, high = self.quantile(torch.tensor([0.5 - prob / 2, 0.5 + prob / 2])).tolist()
        return low, high

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"GridPosterior(d = {self.dimension:.4g}, 95 % in [{low:.4g}, {high:.4g}])"


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
