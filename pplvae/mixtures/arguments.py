"""What may come with the points of a fit: gaps, weights, and labels."""

import torch
from torch import Tensor

from pplvae.mixtures.expectation import NEVER
from pplvae.validation import Array, as_points, as_tensor

LEAST_WEIGHT = 1e-290  # times a squared residual it is still a number


def with_gaps(x: Array) -> Tensor:
    """Return points in which nan stands for what is missing."""
    raw = as_tensor(x, allow_nan=True)
    gaps = raw.isnan()
    filled = as_points(raw.masked_fill(gaps, 0.0))
    return filled.masked_fill(gaps.view_as(filled), torch.nan)


def check_columns(seen: Tensor) -> None:
    """Refuse points, seen where `seen`, shape (N, D), with a column in which none is."""
    empty = (~seen.any(dim=0)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"x must have a value in each column, got none in {empty}")


def weights(weights: Array, x: Tensor) -> Tensor:
    """Return how often each point counts, shape (N,)."""
    found = as_tensor(weights, name="weights").double().to(x.device)
    if found.shape != (len(x),):
        raise ValueError(f"weights must have shape ({len(x)},), got {tuple(found.shape)}")
    if (found < 0).any() or not (found > LEAST_WEIGHT).any():
        raise ValueError(f"weights must be at least 0, and some above {LEAST_WEIGHT:g}")
    return found


def labels(labels: Array, x: Tensor, num_components: int) -> Tensor:
    """Return the component of each point, shape (N,), −1 where it is not known."""
    found = as_tensor(labels, name="labels").to(x.device)
    if found.shape != (len(x),):
        raise ValueError(f"labels must have shape ({len(x)},), got {tuple(found.shape)}")
    if (found != found.round()).any() or (found < -1).any() or (found >= num_components).any():
        rule = f"whole numbers in [-1, {num_components - 1}], -1 where unknown"
        raise ValueError(f"labels must be {rule}, got {found.min():g} to {found.max():g}")
    return found.long()


def allowed(labels: Tensor, num_components: int) -> Tensor:
    """Return the log prior of the labels, shape (K, N): 0 for what may be, else `NEVER`."""
    places = torch.arange(num_components, device=labels.device).unsqueeze(-1)
    ruled_out = (labels >= 0) & (labels != places)
    return torch.zeros_like(ruled_out, dtype=torch.float64).masked_fill(ruled_out, NEVER)


def check_size(size: int, num_components: int) -> None:
    """Refuse no more points than components."""
    if size <= num_components:
        raise ValueError(f"x must hold at least {num_components + 1} points, got {size}")
