"""How wide a sample is: deviations, quartiles and the number of points that weights leave.

Weights count as points of unequal worth: N becomes (Σ w)² / Σ w² (Kish), a quantile is where the
interpolated cumulative weight stands, a variance has 1 - Σ w² in place of 1 - 1/N, for Σ w = 1.
Equal weights give the usual figures.
"""

import torch
from torch import Tensor

from pplvae.validation import Array, as_vector


def normalized(weights: Array | None, num_points: int) -> Tensor | None:
    """Return weights that sum to one, shape (N,), float64; None for None.

    Raises:
        ValueError: If there are not N of them, one is negative, or all are zero.
    """
    if weights is None:
        return None
    weights = as_vector(weights, name="weights").double()
    if len(weights) != num_points:
        raise ValueError(
            f"weights must be one for each of {num_points} points, got {len(weights)}"
        )
    if (weights < 0).any() or not (weights > 0).any():
        least, most = weights.min().item(), weights.max().item()
        raise ValueError(f"weights must be at least 0 and not all 0, got {least} to {most}")
    weights = weights / weights.max()  # their sum cannot overflow now
    return weights / weights.sum()


def counted(data: Tensor, weights: Array | None) -> tuple[Tensor, Tensor | None]:
    """Return the points that have weight, and their shares.

    Raises:
        ValueError: If fewer than two have.
    """
    shares = normalized(weights, len(data))
    if shares is None:
        return data, None
    kept = shares > 0
    if kept.sum() < 2:
        raise ValueError("weights must be positive for at least 2 points, got 1")
    return data[kept], shares[kept]


def effective_size(weights: Tensor | None, num_points: int) -> float:
    """Return Kish's number of points, 1 / Σ w² for weights that sum to one."""
    return num_points if weights is None else 1 / weights.square().sum().item()


def interquartile_range(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return x_(3/4) - x_(1/4) along the first axis, interpolated linearly, in float64.

    Args:
        x: Numbers, shape (N, ...).
        weights: Worth of each, shape (N,), for x of shape (N, D) only.
    """
    # `torch.quantile` takes no more than 2^24 numbers.
    ordered, order = x.double().sort(dim=0)
    if weights is None:
        return _quantile(ordered, 0.75) - _quantile(ordered, 0.25)
    columns = zip(ordered.unbind(1), weights[order].unbind(1), strict=True)
    return torch.stack([_weighted_range(values, w) for values, w in columns])


def deviation(data: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the standard deviation of each column, shape (D,), float64.

    Raises:
        ValueError: If a column does not vary.
    """
    # From the first row, a column that does not vary is exactly zero, wherever it stands.
    shifted = data.double() - data[0]
    scale = shifted.abs().amax(dim=0)
    constant = (scale == 0).nonzero().flatten().tolist()
    if constant:
        raise ValueError(f"data must vary in every column, got one value all along {constant}")
    units = shifted / scale  # squares of scaled numbers do not underflow
    if weights is None:
        return scale * units.std(dim=0)
    variance = weights @ (units - weights @ units).square()
    return scale * (variance / (1 - weights.square().sum())).sqrt()


def _quantile(ordered: Tensor, share: float) -> Tensor:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


def _weighted_range(ordered: Tensor, weights: Tensor) -> Tensor:
    """Return the interquartile range of one column in order."""
    kept = weights > 0
    ordered, weights = ordered[kept], weights[kept]
    if len(ordered) == 1:
        return ordered.new_zeros(())
    # From the middle of the first weight to that of the last: for equal weights, i / (N - 1).
    reached = torch.cat([weights.new_zeros(1), (0.5 * (weights[1:] + weights[:-1])).cumsum(0)])
    quarters = reached[-1] * torch.tensor([0.25, 0.75], dtype=weights.dtype, device=weights.device)
    above = torch.searchsorted(reached, quarters).clamp(1, len(reached) - 1)
    share = (quarters - reached[above - 1]) / (reached[above] - reached[above - 1])
    return torch.lerp(ordered[above - 1], ordered[above], share).diff().squeeze()
