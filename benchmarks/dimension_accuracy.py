"""How far off DANCo and TwoNN are on 15 manifolds, and how often TwoNN's intervals hold the truth.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/dimension_accuracy.py

The manifolds are the benchmark of Campadelli et al. (2015) without M8, in the generator of Hein &
Audibert, `data.manifolds`. Their first table has means over the seeds; its last line is the mean
percentage error, 100 |estimate − d| / d of each draw, averaged over seeds and then over manifolds.
DANCo tries no more dimensions than the data have directions, which are d themselves on M10 and
M12; the last column is without that limit.

The second table is of points uniform on the flat torus, [0, 1]^d with opposite sides glued, and
the distances on it: neither edge nor curvature, so that what an interval misses is its own fault.
Of many draws, it says in how many TwoNN's 95 % interval holds d. The plain one takes the N ratios
as independent; the tempered one divides their number by the factor that `dependence` reads from
shared neighbors, and should be as wide as the estimates' true variance in units of d² / N. The
rows of R^(2d) are of the same points on a product of circles, where chords cut the corners: with
few points in many dimensions the estimate itself is then off, which no interval knows of.

Reference:
    Campadelli, Casiraghi, Ceruti & Rozza (2015), https://doi.org/10.1155/2015/759567
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from tqdm import tqdm

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.intrinsic_dimension import danco, twonn
from pplvae.intrinsic_dimension.gamma import GammaPosterior
from pplvae.neighbors import NeighborGraph

SETS = (
    "M1", "M2", "M3", "M4", "M5", "M6", "M7", "M9", "M10a", "M10b", "M10c", "M10d", "M11",
    "M12", "M13",
)  # fmt: skip
NEIGHBORS = 10  # of DANCo


def all_estimates(graph: NeighborGraph) -> dict[str, float]:
    """Return the dimension by each estimator."""
    found = danco.estimate(graph, NEIGHBORS, progress=False)
    unlimited = danco.estimate(graph, NEIGHBORS, max_dimension=100, progress=False)
    return {
        "TwoNN": twonn.maximum_likelihood(graph).dimension,
        "TwoNN, calibrated": twonn.maximum_likelihood(graph, calibrated=True).dimension,
        "DANCo, continuous": found.dimension,
        "DANCo, integer": found.integer,
        "continuous, up to 100": unlimited.dimension,
    }


def of_manifold(name: str, num_points: int, num_seeds: int) -> tuple[int, dict[str, list[float]]]:
    """Return the true dimension of a manifold and the estimates from each seed."""
    draws = []
    for seed in range(num_seeds):
        sample = manifolds.sample(name, num_points, seed=seed)
        draws.append(all_estimates(neighbors.graph(sample.x, NEIGHBORS + 1, progress=False)))
    truth = manifolds.FAMILIES[name].dimension
    return truth, {key: [draw[key] for draw in draws] for key in draws[0]}


def accuracy(num_points: int, num_seeds: int) -> None:
    """Print the table of the manifolds."""
    errors: dict[str, list[float]] = {}
    for name in SETS:
        truth, found = of_manifold(name, num_points, num_seeds)
        if not errors:
            header("manifold", "d", *found)
        line(name, truth, *(f"{statistics.mean(values):.2f}" for values in found.values()))
        for key, values in found.items():
            off = [100 * abs(value - truth) / truth for value in values]
            errors.setdefault(key, []).append(statistics.mean(off))
    means = [f"{statistics.mean(values):.2f}" for values in errors.values()]
    line("mean error, %", "", *means)


def on_torus(num_points: int, dimension: int, seed: int) -> NeighborGraph:
    """Return the graph of two neighbors of random points, by the distances on the torus."""
    source = torch.Generator().manual_seed(seed)
    squares = torch.zeros(num_points, num_points, dtype=torch.float64)
    for u in torch.rand(num_points, dimension, generator=source, dtype=torch.float64).T:
        steps = (u.unsqueeze(1) - u).abs()
        squares += torch.minimum(steps, 1 - steps).square()
    return neighbors.from_distances(squares.sqrt(), num_neighbors=2)


def in_space(num_points: int, dimension: int, seed: int) -> NeighborGraph:
    """Return the graph of two neighbors of random points, by the distances in R^(2d)."""
    sample = manifolds.sample("torus", num_points, dimension=dimension, seed=seed)
    return neighbors.graph(sample.x, 2, progress=False)


DISTANCES: dict[str, Callable[[int, int, int], NeighborGraph]] = {
    "torus": on_torus,
    "R^(2d)": in_space,
}


def coverage(dimensions: list[int], num_points: int, num_replicates: int) -> None:
    """Print the table of the torus."""
    header(
        "distances", "d", "mean estimate", "variance, d² / N", "factor", "plain", "tempered", "±"
    )
    for kind, graph_of in DISTANCES.items():
        for d in dimensions:
            seeds = tqdm(range(num_replicates), desc=f"{kind}, d = {d}", leave=False, disable=None)
            draws = [judged(graph_of(num_points, d, seed), d) for seed in seeds]
            estimates, factors, plain, tempered = zip(*draws, strict=True)
            variance = num_points * statistics.variance(estimates) / d**2
            means = [statistics.mean(column) for column in (factors, plain, tempered)]
            error = math.sqrt(means[-1] * (1 - means[-1]) / num_replicates)
            said = [f"{value:.3f}" for value in (*means[1:], error)]
            line(kind, d, f"{statistics.mean(estimates):.3f}", f"{variance:.2f}",
                 f"{means[0]:.2f}", *said)  # fmt: skip


def judged(graph: NeighborGraph, truth: int) -> tuple[float, float, bool, bool]:
    """Return estimate, factor, and whether the plain and the tempered interval hold the truth."""
    estimate = twonn.maximum_likelihood(graph).dimension
    plain, tempered = twonn.posterior(graph, inflation=1.0), twonn.posterior(graph)
    return estimate, tempered.inflation, holds(plain, truth), holds(tempered, truth)


def holds(posterior: GammaPosterior, truth: int) -> bool:
    """Return whether the 95 % interval of a posterior holds the truth."""
    low, high = posterior.interval(0.95)
    return low <= truth <= high


def header(*names: str) -> None:
    """Print the first lines of a table."""
    line(*names)
    line(*("---" for _ in names))


def line(*columns: object) -> None:
    """Print a line of a table."""
    print(f"| {' | '.join(map(str, columns))} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", nargs="+", choices=["manifolds", "torus"],
                        default=["manifolds", "torus"])  # fmt: skip
    parser.add_argument("--points", type=int, default=2500, help="of a manifold")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--torus-points", type=int, default=1000)
    parser.add_argument("--torus-dimensions", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--replicates", type=int, default=400, help="for a short run, 50")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if "manifolds" in given.what:
        print(f"{given.points} points, {given.seeds} seeds\n")
        accuracy(given.points, given.seeds)
    if "torus" in given.what:
        print(f"\n{given.torus_points} points, {given.replicates} draws\n")
        coverage(given.torus_dimensions, given.torus_points, given.replicates)


if __name__ == "__main__":
    main()
