"""Nearest neighbors, found exactly, and the graph of them that every estimator reads."""

from pplvae.neighbors.neighbor_graph import Data, NeighborGraph, as_graph, from_distances, graph
from pplvae.neighbors.search import Neighbors, neighbor_distances, neighbors

__all__ = [
    "Data",
    "NeighborGraph",
    "Neighbors",
    "as_graph",
    "from_distances",
    "graph",
    "neighbor_distances",
    "neighbors",
]
