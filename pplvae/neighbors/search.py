"""Nearest neighbors, exactly: the common ground of densities and intrinsic dimensions.

Three ways lead to the answer of a full sort in float64, in memory of the order of the data and
the answer:

- `leafwise`: for a few neighbors of each of many points among themselves, products of leaves of
  near points, where these cannot be ruled out;
- `tree`: otherwise in few dimensions, a k-d tree (scipy), which cannot part copies of a point;
- `product`: otherwise, one product of the queries with all points.

Products of matrices are fast, but their rounding hides small distances. So they only bound the
distances from below; those that matter are computed from the differences of the original rows.
"""

import torch
from torch import Tensor

from pplvae.neighbors import leafwise, product, tree
from pplvae.neighbors.copies import most_copies
from pplvae.neighbors.question import Neighbors, Question
from pplvae.validation import Array, as_points, check_whole

# On a CPU, where each way wins, measured on normal data:
LEAFWISE_MIN_DIM = 7
LEAFWISE_MIN_POINTS = 4096
LEAFWISE_MAX_NEIGHBORS = 16
TREE_MAX_DIM = 8  # of the others
MOST_COPIES = 1000  # of a point in a tree, where each looks at all others


def neighbor_distances(x: Array, num_neighbors: int, *, progress: bool = True) -> Tensor:
    """Return the distances from each point to its nearest others, nearest first.

    Args:
        x: Points, shape (N, D), with N ≥ 2.
        num_neighbors: How many neighbors k to keep; the point itself is not one, its copies are.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Distances, shape (N, k), in the units of `x`, and its dtype where that is float32 or more.

    Raises:
        ValueError: As `neighbors`.

    Example:
        >>> neighbor_distances(torch.tensor([[0.0], [1.0], [3.0]]), 2)
        tensor([[1., 3.],
                [1., 2.],
                [2., 3.]])
    """
    return neighbors(x, num_neighbors, progress=progress).distances


@torch.no_grad()
def neighbors(
    x: Array, num_neighbors: int, queries: Array | None = None, *, progress: bool = True
) -> Neighbors:
    """Return the nearest points of `x` to each query, or to each of its own points.

    Points at equal distances are listed by index; which of several that tie for the last place
    are listed is left open. Distances below 1e-150 of the data's spread lose digits.

    Args:
        x: Points, shape (N, D).
        num_neighbors: How many neighbors k to keep.
        queries: Where to look from, shape (M, D); by default from the points themselves, none of
            which is then a neighbor of its own (though its copies are).
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Distances and indices, both of shape (M, k).

    Raises:
        ValueError: If there are no points or no queries, or they hold nan or inf; if k is not in
            [1, N - 1] (in [1, N] with queries); if the queries have not the D of the points, or
            are on another device; or if all spread over more than 1e300, or than float32 holds
            where `x` is in it.
    """
    own = queries is None
    x = as_points(x, min_points=2 if own else 1).detach()
    seekers = x if queries is None else as_points(queries, name="queries").detach()
    if seekers.shape[1] != x.shape[1]:
        raise ValueError(f"x and queries must share D, got {x.shape[1]} and {seekers.shape[1]}")
    if seekers.device != x.device:
        raise ValueError(f"x and queries must share a device, got {x.device} and {seekers.device}")
    context = f"for {len(x)} points"
    check_whole("num_neighbors", num_neighbors, 1, len(x) - own, context=context)
    question = Question(x, seekers, num_neighbors, own)
    with torch.autocast(x.device.type, enabled=False):  # it would round the products
        found = _answer(question, progress=progress)
    distances = (found.distances * question.scale).to(x.dtype)
    if distances.isinf().any():
        raise ValueError(f"x must spread over less than {torch.finfo(x.dtype).max:.3g}, for it is "
                         f"in {x.dtype}, got distances beyond: give it in float64")  # fmt: skip
    return Neighbors(distances, found.indices)


def _answer(question: Question, *, progress: bool) -> Neighbors:
    num_points, dim = question.x.shape
    if question.x.device.type != "cpu":
        return product.search(question, progress=progress)
    crowded = dim <= TREE_MAX_DIM and num_points > MOST_COPIES < most_copies(question.x)
    few = question.num_neighbors <= LEAFWISE_MAX_NEIGHBORS and num_points >= LEAFWISE_MIN_POINTS
    if question.own and few and (dim >= LEAFWISE_MIN_DIM or crowded):
        return leafwise.search(question, progress=progress)
    way = product if dim > TREE_MAX_DIM or crowded else tree
    return way.search(question, progress=progress)
