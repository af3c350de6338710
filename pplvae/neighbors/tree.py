"""Neighbors in few dimensions, by a k-d tree."""

import torch

from pplvae.neighbors.question import Neighbors, Question
from pplvae.neighbors.selection import nearest


def search(question: Question) -> Neighbors:
    """Search by a k-d tree, which takes differences of the coordinates, so nothing cancels.

    Neighboring queries open the same leaves, so in the order of the tree, where these stay in the
    processor's cache, the points find their neighbors two to three times as fast.
    """
    from scipy.spatial import KDTree

    points, queries = (
        part.double().div(question.scale).numpy() for part in (question.x, question.queries)
    )
    tree = KDTree(points, balanced_tree=False)
    order = torch.as_tensor(tree.indices) if question.own else torch.arange(len(queries))
    num = question.num_neighbors + question.own
    found = tree.query(queries[order.numpy()], num, workers=torch.get_num_threads())
    distances, indices = (torch.as_tensor(part).view(-1, num) for part in found)
    if question.own:  # not the first column: among its copies a point may stand anywhere, or none
        distances[indices == order.unsqueeze(1)] = torch.inf
    back = order.argsort()
    return nearest(distances[back], indices[back], question.num_neighbors)
