"""The ratios of the distances to the two nearest neighbors, of points or of their graph."""

from torch import Tensor

from pplvae.intrinsic_dimension.ratio_law import logs_and_graph
from pplvae.neighbors import Data, as_graph


def distance_ratios(x: Data, *, progress: bool = True) -> Tensor:
    """Return the ratio μ = r₂ / r₁ at each distinct point.

    A repeated point has r₁ = 0 and no ratio, so repeats are dropped first, with a warning. Points
    on a lattice, such as whole numbers, have neighbors at equal distances: that too gets one.

    Args:
        x: Points, shape (N, D), with at least 3 distinct ones; or their neighbor graph.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Returns:
        Ratios, all at least 1, float64, shape (N,), or fewer where points repeat.

    Raises:
        ValueError: If there are fewer than 3 distinct points.
    """
    graph = as_graph(x, 2, progress=progress)
    return graph.distances[:, 1] / graph.distances[:, 0]


def log_ratios(x: Data, *, progress: bool = True) -> Tensor:
    """Return log μ at each distinct point, float64, shape (N,); ratios themselves may be given.

    Raises:
        ValueError: As `distance_ratios`, or if a ratio is below 1.
    """
    return logs_and_graph(x, min_size=1, progress=progress)[0]
