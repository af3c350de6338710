"""How a search by leaves goes about some points: what a look at a few of them makes of it.

A few seekers are compared with all points, which tells how far their k-th neighbors are, and so

- into how large a share of the leaves a search must look: where it is most of them, larger leaves
  are less work;
- how many points a projection onto p principal directions leaves within reach: these cost a
  distance each, where the rest cost a product of p terms instead of D;
- whether the squares of such distances are so far below those of the data that float32 loses them.

A bad look costs time, not truth.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.neighbors.boxes import gaps, halved
from pplvae.neighbors.question import Question, in_parts, single_precision_holds

_LEAF = 400  # points, at least, and less than twice as many
_BOX_DIM = 12  # principal directions along which the leaves are laid out
_DIMS = (2, 4, 8, 16, 32, 64, 128)  # of projections to choose from
_SAMPLE = 256  # points that the directions are taken from
_MOST = 0.5  # of the leaves
_LEAST_SQUARE = 1e-30  # of a distance that float32 keeps well clear of underflow
# In units of one more term of a product, measured:
_COST_OF_PRODUCT = 16  # to pick from it
_COST_OF_DISTANCE = 128  # of one column, and of 40 more columns to handle it


class Plan(NamedTuple):
    """How to search.

    Attributes:
        rows: Which points are in which leaf, shape (L, m).
        real: Which of them stand there for the first time, shape (L, m).
        boxed: The coordinates that the leaves' boxes bound, shape (N, b), float64.
        directions: What products are taken along, shape (D, p), float64; None for all columns.
        dtype: Of the products.
    """

    rows: Tensor
    real: Tensor
    boxed: Tensor
    directions: Tensor | None
    dtype: torch.dtype


def plan(question: Question) -> Plan:
    """Return how to search a question's points for each other."""
    num_points = len(question.x)
    axes = _principal_axes(question)
    seekers = _spread(num_points, min(max(2**22 // num_points, 4), 32))
    boxed, reach = _survey(question, axes[:, :_BOX_DIM], seekers)
    rows, real = halved(boxed, 1 << (max(1, num_points // _LEAF).bit_length() - 1))
    inside = boxed[rows]
    distances = gaps(boxed[seekers], inside.amin(dim=1), inside.amax(dim=1), dtype=torch.float64)
    share = (distances < reach).double().mean().item()
    if share > _MOST and len(rows) > 1:
        rows, real = rows.view(len(rows) // 2, -1), real.view(len(rows) // 2, -1)
    dim = _cheapest_dim(question, axes, seekers, reach, share)
    directions = axes[:, :dim] if dim < question.x.shape[1] else None
    return Plan(rows, real, boxed, directions, _dtype(reach))


def _spread(num: int, size: int) -> Tensor:
    """Return `size` of `num` rows, evenly spread."""
    return torch.arange(size) * num // size


def _principal_axes(question: Question) -> Tensor:
    """Return the principal directions of a sample, a hair short of length 1, shape (D, P)."""
    sample = question.centered(question.x[_spread(len(question.x), _SAMPLE)])
    axes = torch.linalg.svd(sample - sample.mean(dim=0), full_matrices=False).Vh[: max(_DIMS)].T
    excess = (axes.T @ axes - torch.eye(axes.shape[1], dtype=axes.dtype)).norm()
    return axes / (1 + excess + len(axes) * 2.0**-50)


def _survey(question: Question, axes: Tensor, seekers: Tensor) -> tuple[Tensor, Tensor]:
    """Return all points along the axes, and the squares of the seekers' k-th distances."""
    origin = question.centered(question.x[seekers])
    boxed, squares = [], []
    for part in in_parts(question.x):
        points = question.centered(part)
        boxed.append(points @ axes)
        squares.append(points.square().sum(dim=1) - 2 * origin @ points.T)
    nearest = torch.cat(squares, dim=1).topk(question.num_neighbors + 1, largest=False)
    return torch.cat(boxed), nearest.values[:, -1] + origin.square().sum(dim=1)


def _cheapest_dim(
    question: Question, axes: Tensor, seekers: Tensor, reach: Tensor, share: float
) -> int:
    """Return the number of terms p with which products and distances together cost least."""
    num_points, full_dim = question.x.shape
    sample = question.x[:: max(1, num_points // 4096)]
    origin, sample = (question.centered(x) @ axes for x in (question.x[seekers], sample))
    costs = {full_dim: share * (full_dim + _COST_OF_PRODUCT)}
    for dim in _DIMS:
        if dim < full_dim:
            within = torch.cdist(origin[:, :dim], sample[:, :dim]) < reach.sqrt().unsqueeze(1)
            candidates = within.double().mean().item() * _COST_OF_DISTANCE * (full_dim + 40)
            costs[dim] = share * (dim + _COST_OF_PRODUCT) + candidates
    return min(costs, key=costs.__getitem__)


def _dtype(reach: Tensor) -> torch.dtype:
    """Return the dtype that tells squares of about `reach` from zero."""
    some = reach[reach > 0]
    lost = len(some) > 0 and some.median().item() < _LEAST_SQUARE
    return torch.float32 if single_precision_holds() and not lost else torch.float64
