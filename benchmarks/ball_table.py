"""Make `pplvae/intrinsic_dimension/balls.npz`, the means over balls that ship with the package.

Draws of N points from the unit d-ball, of each the statistics that DANCo and the calibration of
other estimators read. About 15 minutes of one core, the same table every time:

    OMP_NUM_THREADS=1 python benchmarks/ball_table.py
"""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import neighbors
from pplvae.intrinsic_dimension import balls, danco, twonn
from pplvae.neighbors import NeighborGraph

DRAWS = {25: 200, 50: 150, 100: 120, 200: 80, 400: 60, 800: 40, 1600: 24, 3200: 16, 6400: 10,
         12_800: 6, 25_600: 3}  # fmt: skip
MOST_NEIGHBORS = 16
DEGREES = 5, 7  # of the polynomial in log N and in log d


def statistics(x: Tensor) -> dict[str, float]:
    """Return every statistic of the table for one draw, shape (N, d)."""
    graph = neighbors.graph(x, MOST_NEIGHBORS, progress=False)
    plain = 1 / graph.log_ratio.mean().item()
    return {
        **danco.statistics(graph.narrowed(balls.TABLE_NEIGHBORS + 1)),
        "twonn": plain,
        "twonn_unbiased": plain * (len(graph) - 1) / len(graph),
        "twonn_censored": censored(graph.log_ratio),
        "twonn_line": twonn.linear_fit(graph).dimension,
        **{f"gride_{n}": gride(graph, n) for n in (1, 2, 4, 8)},
        "levina_bickel": levina_bickel(graph.narrowed(10)),
    }


def censored(logs: Tensor, discard: float = 0.1) -> float:
    """Return TwoNN's estimate of which the largest ratios are censored."""
    kept = int(len(logs) * (1 - discard) + 1e-9)
    return kept / logs.clamp_max(logs.sort().values[kept - 1]).sum().item()


def gride(graph: NeighborGraph, n: int) -> float:
    """Return the d of greatest likelihood of r_2n / r_n, by Newton's steps in log d."""
    logs = (graph.distances[:, 2 * n - 1] / graph.distances[:, n - 1]).log()
    d = np.log(2) / logs.mean().item()
    for _ in range(20):
        y = (d * logs).clamp_min(1e-9)
        score = (1 + (n - 1) * y / y.expm1() - n * y).mean().item()
        d *= np.exp(score / (1 + (n - 1) * (y / (2 * (y / 2).sinh())).square().mean().item()))
    return float(d)


def levina_bickel(graph: NeighborGraph) -> float:
    """Return the estimate from log r_k / r_j, pooled harmonically."""
    return 1 / (graph.distances[:, -1:] / graph.distances[:, :-1]).log().mean().item()


def smoothed(draws: np.ndarray, name: str) -> np.ndarray:
    """Return the means of one statistic, shape (G, M), without most of their noise.

    A polynomial in log N and log d, fitted to log means by least squares, each in units of its
    standard error. What it leaves is noise (chi-square per degree of freedom about 1). On a line
    the angles are of another kind, and their two statistics stay as drawn.

    Args:
        draws: Means and squares of the draws, shape (2, G, M).
        name: The statistic's name.
    """
    means, squares = draws
    first = int(name in ("angle", "concentration"))
    num_draws = np.array(list(DRAWS.values()))[:, None]
    spread = np.maximum(squares - means**2, 0) / means**2  # relative, about c / N
    num_points = np.array(list(DRAWS))[:, None]
    constant = (spread * num_points * num_draws).sum(0) / (num_draws - 1).sum()
    weights = np.sqrt(num_points * num_draws / constant)[:, first:].ravel()
    places = unit(np.log(num_points)), unit(np.log(np.array(balls.DIMENSIONS[first:])))
    parts = (
        np.polynomial.chebyshev.chebvander(u.ravel(), n)
        for u, n in zip(places, DEGREES, strict=True)
    )
    terms = np.einsum("ga,mb->gmab", *parts).reshape(len(weights), -1)
    logs = np.log(means[:, first:]).ravel()
    found = np.linalg.lstsq(terms * weights[:, None], logs * weights)[0]
    rest = (terms @ found - logs) * weights
    print(f"{name}: chi-square {rest @ rest / (len(rest) - len(found)):.2f} per degree of freedom")
    fitted = np.exp(terms @ found).reshape(len(num_points), -1)
    return np.hstack([means[:, :first], fitted])


def unit(values: np.ndarray) -> np.ndarray:
    """Return values mapped to [-1, 1]."""
    return 2 * (values - values.min()) / (values.max() - values.min()) - 1


def main() -> None:
    """Draw, smooth and write."""
    shape = len(DRAWS), len(balls.DIMENSIONS)
    cells = [(size, dim) for size in DRAWS for dim in balls.DIMENSIONS]
    found = [squares_too(size, dim) for size, dim in tqdm(cells)]
    means = {}
    for name in found[0]:
        draws = np.array([cell[name] for cell in found]).T.reshape(2, *shape)
        means[name] = smoothed(draws, name)
    table = balls.Balls(np.array(list(DRAWS)), np.array(balls.DIMENSIONS), means)
    balls.write(table, balls.TABLE)


def squares_too(num_points: int, dimension: int) -> dict[str, tuple[float, float]]:
    """Return the mean of each statistic over the draws, and of its square."""
    draws = [statistics(balls.draw(num_points, dimension, i)) for i in range(DRAWS[num_points])]
    values = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    return {name: (float(v.mean()), float((v**2).mean())) for name, v in values.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
