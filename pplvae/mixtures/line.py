"""A mixture on a line: its distribution function, and the inverse of it, to all digits of a tail.

F(x) = Σ_k w_k Φ((x − loc_k) / σ_k)
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MOST_HALVINGS = 2200  # of the widest bracket of doubles


class Line(NamedTuple):
    """The components with weight of a mixture in one dimension, each (K,); double."""

    log_weights: Tensor
    locs: Tensor
    scales: Tensor

    @classmethod
    def of(cls, *parts: Tensor) -> "Line":
        """Return the line of weights (K,), locs (K, 1) and scale_trils (K, 1, 1)."""
        weights, locs, scales = (part[parts[0] > 0].double() for part in parts)
        return cls((weights / weights.sum()).log(), locs.flatten(), scales.flatten())

    def cdf(self, x: Tensor, *, upper: bool) -> Tensor:
        """Return P(X ≤ x), or P(X > x) where `upper`, shape as of x."""
        residuals = x.unsqueeze(-1) - self.locs
        signed = (-residuals if upper else residuals) / self.scales
        # Not `ndtr`: it takes the lower tail as a difference from one half.
        return 0.5 * torch.special.erfc(-math.sqrt(0.5) * signed) @ self.log_weights.exp()

    def quantile(self, probs: Tensor, *, upper: bool) -> Tensor:
        """Return where `cdf` has these values in [0, 1], shape as of `probs`."""
        # Always the tail below one half, of the mixture or of its mirror image.
        tails = torch.minimum(probs, 1 - probs)
        signs = torch.where((probs <= 0.5) != upper, 1.0, -1.0).to(probs)
        return signs * _quantiles(self, tails, signs)


def _quantiles(line: Line, probs: Tensor, signs: Tensor) -> Tensor:
    """Return where F = probs, shape of `probs`, in [0, ½], by Newton's steps on log F.

    F is that of the mixture whose means are times the sign. log F is smooth and nearly concave
    also far out in the tail. The root lies between the least and the greatest quantile of the
    components, and a step that leaves what is left of that bracket halves it instead.
    """
    locs, log_probs = signs.unsqueeze(-1) * line.locs, probs.log()
    ends = locs + line.scales * torch.special.ndtri(probs).unsqueeze(-1)
    low, high = ends.amin(dim=-1), ends.amax(dim=-1)
    x = low / 2 + high / 2
    for _ in range(MOST_HALVINGS):
        z = (x.unsqueeze(-1) - locs) / line.scales
        log_cdf = (line.log_weights + torch.special.log_ndtr(z)).logsumexp(dim=-1)
        heights = line.log_weights - line.scales.log() - 0.5 * z.square()
        log_pdf = heights.logsumexp(dim=-1) - 0.5 * math.log(2 * math.pi)
        gap = log_cdf - log_probs
        low, high = torch.where(gap < 0, x, low), torch.where(gap < 0, high, x)
        step, middle = x - gap * (log_cdf - log_pdf).exp(), low / 2 + high / 2
        found = (gap == 0) | ((step - x).abs() <= torch.finfo(x.dtype).eps * x.abs())
        found |= (middle <= low) | (middle >= high)  # also where both are −inf
        if found.all():
            break
        step = torch.where((step > low) & (step < high), step, middle)
        x = torch.where(found, x, step)
    return x
