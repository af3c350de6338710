"""The units of the data's columns."""

import torch
from torch import Tensor


def column_scales(x: Tensor) -> Tensor:
    """Return the standard deviation of each column, shape (D,), in units of x.

    A constant column has none: it gets the root mean square of the others'.

    Args:
        x: Points, shape (N, D).

    Raises:
        ValueError: If every column is constant.
    """
    scales = x.std(dim=0, correction=0)
    # A constant column can have a standard deviation of rounding errors.
    varies = (x.amin(dim=0) < x.amax(dim=0)) & (scales > 0)
    if not varies.any():
        raise ValueError(f"x must vary, got {len(x)} times the same point")
    return torch.where(varies, scales, scales[varies].square().mean().sqrt())
