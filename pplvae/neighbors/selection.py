"""The few small ones among many numbers: what a search picks from its products."""

import torch
from torch import Tensor

from pplvae.neighbors.question import Neighbors

GROUP = 16  # values that one minimum stands for


def lowest(values: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return the lowest `num` of each row and their columns, ascending.

    `topk` is slow over many columns. The lowest `num` are among the `num` groups of columns with
    the lowest minima: any other group has as many values below its own.

    Args:
        values: Shape (B, C), with C a multiple of `GROUP`.
        num: How many, at most C.
    """
    num_groups = values.shape[1] // GROUP
    if num_groups <= num:
        return values.topk(num, largest=False)
    minima = values.view(-1, GROUP, num_groups).amin(dim=1)
    groups = minima.topk(num, largest=False, sorted=False).indices
    strides = num_groups * torch.arange(GROUP, device=values.device)
    members = (groups.unsqueeze(2) + strides).flatten(start_dim=1)
    found = values.gather(1, members).topk(num, largest=False)
    return found.values, members.gather(1, found.indices)


def below(values: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Return which candidates' values are below the limits of which seekers.

    Only groups of candidates whose minimum is below are looked into, and few are.

    Args:
        values: Shape (C, S), with C a multiple of `GROUP`.
        limit: Of each seeker, shape (S,).

    Returns:
        Candidates and seekers of all values below, int64, both of shape (P,).
    """
    groups = values.unflatten(0, (GROUP, -1))
    group, seeker = (groups.amin(dim=0) < limit).nonzero().unbind(dim=1)
    members = groups[:, group, seeker]
    member, hit = (members < limit[seeker]).nonzero().unbind(dim=1)
    return member * groups.shape[1] + group[hit], seeker[hit]


def nearest(distances: Tensor, indices: Tensor, num: int) -> Neighbors:
    """Return the `num` nearest of each row, ascending, equal distances by index."""
    indices, order = indices.sort(dim=1)
    distances, nearest = distances.gather(1, order).sort(dim=1, stable=True)
    return Neighbors(distances[:, :num], indices.gather(1, nearest)[:, :num])


def nearest_of_pairs(rows: Tensor, indices: Tensor, distances: Tensor, num: int) -> Neighbors:
    """Return the `num` nearest of each row, ascending, equal distances by index, of pairs.

    Args:
        rows: Shape (P,), each of 0, …, B - 1 at least `num` times.
        indices: Shape (P,).
        distances: Of the pairs, shape (P,).
        num: How many.
    """
    order = indices.argsort()
    order = order[distances[order].argsort(stable=True)]
    order = order[rows[order].argsort(stable=True)]
    counts = rows.bincount()
    ranks = torch.arange(num, device=rows.device)
    chosen = order[(counts.cumsum(0) - counts).unsqueeze(1) + ranks]
    return Neighbors(distances[chosen], indices[chosen])
