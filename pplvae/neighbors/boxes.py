"""Points halved into leaves, and the boxes around these.

The points are halved at the median of the column in which they spread widest, the halves again,
and so on. No point in a leaf is nearer than the box around it.

Reference:
    Friedman, Bentley, Finkel (1977), An algorithm for finding best matches in logarithmic
    expected time, https://doi.org/10.1145/355744.355745
"""

import torch
from torch import Tensor

from pplvae.neighbors.selection import GROUP

_TILE = 2**17  # distances between boxes and points that are held in a core's cache


def halved(points: Tensor, num_leaves: int) -> tuple[Tensor, Tensor]:
    """Return which points are in which leaf.

    Args:
        points: Shape (N, D).
        num_leaves: L, a power of 2.

    Returns:
        Rows of the points leaf by leaf, shape (L, m), with m a multiple of `GROUP`; and which of
        them stand there for the first time: some points fill a second place.
    """
    width = -(-len(points) // (num_leaves * GROUP)) * GROUP
    num_fillers = num_leaves * width - len(points)
    fillers = torch.arange(num_fillers) * len(points) // max(1, num_fillers)
    rows = torch.cat([torch.arange(len(points)), fillers])
    places = torch.arange(len(rows)).unsqueeze(0)
    while len(places) < num_leaves:
        inside = points[rows[places]]
        widest = (inside.amax(dim=1) - inside.amin(dim=1)).argmax(dim=1)
        column = widest.view(-1, 1, 1).expand(-1, inside.shape[1], 1)
        order = inside.gather(2, column).squeeze(2).argsort(dim=1)
        places = places.gather(1, order).view(2 * len(places), -1)
    return rows[places], places < len(points)


def gaps(points: Tensor, low: Tensor, high: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return the squared distance from each box to each point, shape (L, B).

    Args:
        points: Shape (B, D).
        low: The least corner of each box, shape (L, D).
        high: The greatest corner of each box, shape (L, D).
        dtype: Of the answer, which is rounded to it.
    """
    found = torch.empty(len(low), len(points), dtype=dtype)
    size = max(1, _TILE // len(low))
    centers, reaches = ((high + low) / 2).T.unsqueeze(2), ((high - low) / 2).T.unsqueeze(2)
    for part, room in zip(points.split(size), found.split(size, dim=1), strict=True):
        total = part.new_zeros(room.shape)
        for column, center, reach in zip(part.T.contiguous(), centers, reaches, strict=True):
            outside = (column - center).abs_().sub_(reach).clamp_(min=0)
            total.addcmul_(outside, outside)
        room.copy_(total)
    return found
