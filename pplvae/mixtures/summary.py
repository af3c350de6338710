"""Mean and covariance of the points, in one go or block by block, with nan for what is missing.

The mean and scatter of blocks end to end come by the pairwise update of Chan et al., which loses
no digits to an offset: with n points before, and B in the block,

    mean' = mean + B / (n + B) δ,   S' = S + S_block + n B / (n + B) δ δᵀ,   δ = mean_block − mean.

Reference:
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LEAST = torch.finfo(torch.float64).tiny  # of a variance that has all its digits


@dataclass(frozen=True)
class Summary:
    """Mean and covariance of the points, shapes (D,) and (D, D), and which columns vary."""

    mean: Tensor
    cov: Tensor
    varies: Tensor
    size: int

    @property
    def scales(self) -> Tensor:
        """The columns' standard deviations; a constant one gets the others' root mean square."""
        variances = self.cov.diagonal()
        if not variances.isfinite().all() or (self.varies & (variances < LEAST)).any():
            raise ValueError(
                "x must have standard deviations between 1e-153 and 1e153, got columns beyond: "
                "change their units"
            )
        varies = self.varies
        if not varies.any():
            raise ValueError(f"x must vary, got {self.size} times the same point")
        return torch.where(varies, variances, variances[varies].mean()).sqrt()


class Running:
    """Mean, scatter and range of the blocks so far."""

    def __init__(self) -> None:
        self.size = 0
        self._mean: Any = 0.0
        self._scatter: Any = 0.0
        self._low: Any = torch.tensor(torch.inf)
        self._high: Any = torch.tensor(-torch.inf)

    def add(self, x: Tensor) -> None:
        """Take in a block, shape (B, D)."""
        center, num = x.mean(dim=0), len(x)
        residuals, shift = x - center, center - self._mean
        share = num / (self.size + num)
        self._mean = self._mean + share * shift
        self._scatter = self._scatter + residuals.mT @ residuals
        self._scatter = self._scatter + self.size * share * shift.outer(shift)
        self._low = torch.minimum(self._low.to(x), x.amin(dim=0))
        self._high = torch.maximum(self._high.to(x), x.amax(dim=0))
        self.size += num

    def summary(self) -> Summary:
        """Return that of all blocks so far."""
        varies = self._low < self._high
        return Summary(self._mean, self._scatter / self.size, varies, self.size)


def summarized(x: Tensor, seen: Tensor, weights: Tensor | None) -> Summary:
    """Return the summary of points with gaps; of each pair of columns where both are seen."""
    w = seen.double() if weights is None else seen * weights.unsqueeze(-1)
    filled = torch.where(seen, x, 0.0)
    # In two passes: the first is off by the rounding of the offset.
    mean = (w * filled).sum(dim=0) / w.sum(dim=0)
    residuals = torch.where(seen, x - mean, 0.0)
    shift = (w * residuals).sum(dim=0) / w.sum(dim=0)
    residuals = torch.where(seen, residuals - shift, 0.0)
    cov = ((residuals * w).mT @ residuals) / (w.mT @ seen.double()).clamp_min(1e-300)
    low = torch.where(seen, x, torch.inf).amin(dim=0)
    high = torch.where(seen, x, -torch.inf).amax(dim=0)
    return Summary(mean + shift, cov, low < high, len(x))
