"""Nearest neighbors, exactly: the common ground of densities and intrinsic dimensions.

Three ways lead to the answer of a full sort in float64, in memory of the order of the data:

- `tree`: in few dimensions, a k-d tree (scipy);
- `leafwise`: for a few neighbors of each of many points among themselves, products of leaves of
  near points, where these cannot be ruled out;
- `product`: otherwise, one product of the queries with all points.

Products of matrices are fast, but their rounding hides small distances. So they only bound the
distances from below; those that matter are computed from the differences of the original rows.
"""

import torch
from torch import Tensor

from pplvae.neighbors import leafwise, product, tree
from pplvae.neighbors.question import Neighbors, Question
from pplvae.validation import Array, as_points, check_whole

# On a CPU, where each way wins, measured on normal data:
LEAFWISE_MIN_DIM = 7
LEAFWISE_MIN_POINTS = 4096
LEAFWISE_MAX_NEIGHBORS = 16
TREE_MAX_DIM = 8  # of the others


def neighbor_distances(x: Array, num_neighbors: int, *, progress: bool = True) -> Tensor:
    """Return the distances from each point to its nearest others, nearest first.

    Args:
        x: Points, shape (N, D), with N ≥ 2.
        num_neighbors: How many neighbors k to keep; the point itself is not one, its copies are.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Distances, shape (N, k), in the units and the dtype of `x`.

    Raises:
        ValueError: If k is not in [1, N - 1].

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
    are listed is left open.

    Args:
        x: Points, shape (N, D).
        num_neighbors: How many neighbors k to keep.
        queries: Where to look from, shape (M, D); by default from the points themselves, none of
            which is then a neighbor of its own (though its copies are).
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Distances and indices, both of shape (M, k).

    Raises:
        ValueError: If k is not in [1, N - 1] (in [1, N] with queries), if the queries have not the
            D of the points, or if the points spread over more than 1e300.
    """
    own = queries is None
    x = as_points(x, min_points=2 if own else 1).detach()
    seekers = x if queries is None else as_points(queries, name="queries").detach()
    if seekers.shape[1] != x.shape[1]:
        raise ValueError(f"x and queries must share D, got {x.shape[1]} and {seekers.shape[1]}")
    context = f"for {len(x)} points"
    check_whole("num_neighbors", num_neighbors, 1, len(x) - own, context=context)
    question = Question(x, seekers, num_neighbors, own)
    with torch.autocast(x.device.type, enabled=False):  # it would round the products
        found = _answer(question, progress=progress)
    return Neighbors((found.distances * question.scale).to(x.dtype), found.indices)


def _answer(question: Question, *, progress: bool) -> Neighbors:
    if question.x.device.type == "cpu":
        if _suits_leaves(question):
            return leafwise.search(question, progress=progress)
        if question.x.shape[1] <= TREE_MAX_DIM:
            return tree.search(question)
    return product.search(question, progress=progress)


def _suits_leaves(question: Question) -> bool:
    num_points, dim = question.x.shape
    few = question.num_neighbors <= LEAFWISE_MAX_NEIGHBORS
    return question.own and few and num_points >= LEAFWISE_MIN_POINTS and dim >= LEAFWISE_MIN_DIM
