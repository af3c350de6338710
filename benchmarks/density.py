"""Densities beside scikit-learn, scipy and KDEpy: seconds on one thread, and which rule is right.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/density.py [speed] [search] [neighbors] [rules]
        [memory] [--rounds 3] [--samples 15]

`speed` sums 1e5 kernels at 1e4 points and fills grids, `search` looks for a bandwidth at N = 1e4,
`neighbors` is the density by k = 16 neighbors among 1e5 points at 1e4 others, `memory` what 1e6
points and 1e5 queries take in the plane. `rules` prints the mean KL(p ‖ p_h) of five rules over
15 samples of five laws, and by how much `kl` is above the best rule. Fifteen samples leave 13 % of
doubt about that on the normal law; with 300 it is 15 ± 3 %: the rules of thumb know that law, and
leave-one-out likelihood, whose maximum is found exactly, varies by 10 % in h. Each round times
every way in turn, in CPU seconds; the tables show medians over the rounds and of the ratio within
a round. Of the slow Gaussian sums of others, in which each query costs the same, a tenth of the
queries is timed and counted ten times. KDEpy takes part where it can be imported (`pip install
KDEpy`, or its folder in PYTHONPATH). All is float64.
"""

import argparse
import importlib.util
import math
import resource
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import gaussian_kde
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, NearestNeighbors
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, StudentT

from pplvae.density import bandwidth, kernel, neighbor

NUM_POINTS, NUM_QUERIES, NUM_SEARCHED = 100_000, 10_000, 10_000
SHARE = 10  # one in so many queries, for the slow sums of others
SAMPLE_SIZE = 1000
NUM_NEIGHBORS = 16
RULES = {name: kernel.BANDWIDTHS[name] for name in ("silverman", "scott", "isj", "kl", "lscv")}

Way = Callable[[], object]
Case = tuple[str, Way, dict[str, tuple[Way, float]]]  # what, ours, theirs with the goal


def bimodal(num: int, dim: int, seed: int) -> np.ndarray:
    """Return standardized points of two normals, shape (num, dim)."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(num, dim)) + np.where(random.random((num, 1)) < 0.5, -2.0, 2.0)
    return x / math.sqrt(5)


def sums(dim: int) -> Case:
    """Return the case of Gaussian sums."""
    data, x = bimodal(NUM_POINTS, dim, 0), bimodal(NUM_QUERIES, dim, 1)
    some, h = x[::SHARE], NUM_POINTS ** (-1 / (dim + 4))
    trees = {rtol: KernelDensity(bandwidth=h, rtol=rtol).fit(data) for rtol in (0.0, 1e-4)}
    theirs = gaussian_kde(data.T)
    return (
        f"Gaussian, D = {dim}",
        lambda: kernel.log_density(x, data, h, progress=False),
        {
            "scikit-learn, rtol = 0": (lambda: trees[0.0].score_samples(some), 15.0),
            "scikit-learn, rtol = 1e-4": (lambda: trees[1e-4].score_samples(some), 5.0),
            "scipy evaluate": (lambda: theirs.evaluate(some.T), 4.0),
            "scipy logpdf": (lambda: theirs.logpdf(some.T), 12.0),
        },
    )


def compact(name: str, theirs: str) -> Case:
    """Return the case of a compact kernel on a line."""
    data, x = bimodal(NUM_POINTS, 1, 0), bimodal(NUM_QUERIES, 1, 1)
    h = 2.2 * NUM_POINTS**-0.2
    tree = KernelDensity(bandwidth=h, kernel=theirs).fit(data)
    return (
        f"{name}, D = 1",
        lambda: kernel.log_density(x, data, h, kernel=name, progress=False),
        {f"scikit-learn, {theirs}": (lambda: tree.score_samples(x), 200.0)},
    )


def grids() -> list[Case]:
    """Return the cases of grids, none without KDEpy."""
    if importlib.util.find_spec("KDEpy") is None:
        print("no KDEpy: no grids")
        return []
    from KDEpy import FFTKDE  # pyright: ignore

    cases = []
    for num, dim, size in ((10_000, 1, 4096), (100_000, 1, 4096), (100_000, 2, 512)):
        data = bimodal(num, dim, 0)
        axes = [np.linspace(-4, 4, size)] * dim
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)

        def ours(data: np.ndarray = data, size: int = size) -> object:
            return kernel.on_grid(data, 0.1, num_points=size)

        def theirs(data: np.ndarray = data, points: np.ndarray = points) -> object:
            return FFTKDE(kernel="gaussian", bw=0.1).fit(data).evaluate(points)

        name = f"grid of {size}^{dim}, N = {num}"
        cases.append((name, ours, {"KDEpy FFT": (theirs, 1 / 1.5)}))
    return cases


def search() -> list[Case]:
    """Return the case of a bandwidth by likelihood."""
    data = bimodal(NUM_SEARCHED, 2, 0)
    widths = {"bandwidth": np.geomspace(0.05, 1.0, 20)}

    def theirs() -> object:
        return GridSearchCV(KernelDensity(), widths, cv=5).fit(data)

    return [
        (
            f"bandwidth by kl, N = {NUM_SEARCHED}, D = 2",
            lambda: bandwidth.kl(data, progress=False),
            {"GridSearchCV, 20 × 5": (theirs, 20.0)},
        )
    ]


def neighbors(dim: int) -> Case:
    """Return the case of a density by neighbors, scikit-learn's by brute force."""
    random = np.random.default_rng(0)
    data, x = random.normal(size=(NUM_POINTS, dim)), random.normal(size=(NUM_QUERIES, dim))
    tree = NearestNeighbors(n_neighbors=NUM_NEIGHBORS, algorithm="brute").fit(data)

    def theirs() -> object:
        radii = tree.kneighbors(x)[0][:, -1]
        volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
        return math.log(NUM_NEIGHBORS / NUM_POINTS) - volume - dim * np.log(radii)

    return (
        f"neighbors, D = {dim}",
        lambda: neighbor.log_density(x, data, NUM_NEIGHBORS, progress=False),
        {"scikit-learn, brute": (theirs, 1.3)},
    )


def memory() -> None:
    """Print the peak of what 1e6 points and 1e5 queries in the plane take above the data."""
    data, x = torch.randn(1_000_000, 2), torch.randn(100_000, 2)
    before = _peak()
    kernel.log_density(x, data, "scott", progress=False)
    print(f"1e6 points x 1e5 queries in the plane: {_peak() - before:.2f} GiB above the data")


def _peak() -> float:
    """Return the most memory that the process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def cpu_seconds(way: Way) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    way()
    return time.process_time() - start


def quick(way: Way) -> float:
    """Return the CPU seconds of a call, of the median of many where it is short."""
    first = cpu_seconds(way)
    if first > 0.5:
        return first
    return statistics.median(cpu_seconds(way) for _ in range(max(5, int(0.5 / (first + 1e-3)))))


def show(cases: list[Case], rounds: int) -> None:
    """Time all ways of all cases in turn and print a table."""
    print("\n| what | ours, s | other | its s | ratio | goal |\n|---|---|---|---|---|---|")
    for name, ours, others in cases:
        times: dict[str, list[float]] = {other: [] for other in others}
        own = []
        for _ in range(rounds):
            own.append(quick(ours))
            for other, (way, _) in others.items():
                times[other].append(quick(way) * (SHARE if name.startswith("Gaussian") else 1))
        for other, (_, goal) in others.items():
            ratio = statistics.median(t / o for t, o in zip(times[other], own, strict=True))
            print(
                f"| {name} | {statistics.median(own):.4g} | {other} | "
                f"{statistics.median(times[other]):.4g} | {ratio:.3g} | ≥ {goal:.3g} |",
                flush=True,
            )


def laws() -> dict[str, Distribution]:
    """Return the five laws of the table."""

    def mixture(weights: list[float], locs: list[float], scales: list[float]) -> Distribution:
        parts = Normal(torch.tensor(locs), torch.tensor(scales))
        return MixtureSameFamily(Categorical(torch.tensor(weights)), parts)

    skewed = [(0.125, 3 * ((2 / 3) ** k - 1), (2 / 3) ** k) for k in range(8)]
    return {
        "normal": Normal(0.0, 1.0),
        "bimodal": mixture([0.5, 0.5], [-3.0, 3.0], [0.5, 0.5]),
        "claw": mixture([0.5] + [0.1] * 5, [0.0, -1, -0.5, 0, 0.5, 1], [1.0] + [0.1] * 5),
        "skewed": mixture(*([part[i] for part in skewed] for i in range(3))),
        "t3": StudentT(3.0),
    }


def divergence(law: Distribution, data: Tensor, h: Tensor) -> float:
    """Return KL(p ‖ p_h) by Gauss and Legendre's rule on pieces of the quantile range."""
    ends = torch.as_tensor(np.r_[-np.geomspace(1e5, 8, 40), np.linspace(-8, 8, 401)[1:-1],
                                 np.geomspace(8, 1e5, 40)])  # fmt: skip
    nodes, weights = map(torch.as_tensor, np.polynomial.legendre.leggauss(8))
    half = 0.5 * ends.diff().unsqueeze(1)
    x = (ends[:-1].unsqueeze(1) + half * (nodes + 1)).flatten()
    log_p = law.log_prob(x)
    kept = log_p > -60
    x, log_p, weights = x[kept], log_p[kept], (half * weights).flatten()[kept]
    log_q = kernel.log_density(x, data, h, progress=False)
    return (weights * log_p.exp() * (log_p - log_q)).sum().item()


def rules(num_samples: int) -> None:
    """Print the mean KL(p ‖ p_h) of each rule, and that of the best h in hindsight."""
    print("\n| law |", " | ".join(RULES), "| best h | kl / best rule |")
    print("|---" * (len(RULES) + 3) + "|")
    for name, law in laws().items():
        torch.manual_seed(0)
        found = []
        for _ in range(num_samples):
            data = law.sample((SAMPLE_SIZE,))
            widths = {rule: find(data) for rule, find in RULES.items()}
            row = {rule: divergence(law, data, h) for rule, h in widths.items()}
            tried = (divergence(law, data, widths["kl"] * f) for f in np.geomspace(0.5, 2.5, 15))
            found.append([*row.values(), min(tried)])
        means = " | ".join(f"{mean:.4f}" for mean in np.mean(found, axis=0))
        print(f"| {name} | {means} | {_above_the_best(np.array(found))} |", flush=True)


def _above_the_best(found: np.ndarray) -> str:
    """Return the ratio of the mean of `kl` to that of the best rule, and its standard error."""
    rules = found[:, : len(RULES)]
    own, best = rules[:, [*RULES].index("kl")], rules[:, rules.mean(axis=0).argmin()]
    ratio = own.mean() / best.mean()
    error = (own - ratio * best).std(ddof=1) / math.sqrt(len(found)) / best.mean()
    return f"{ratio:.2f} ± {error:.2f}"


def main() -> None:
    """Time or compare what is asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = ["speed", "search", "neighbors", "rules", "memory"]
    parser.add_argument("parts", nargs="*", choices=[*every, []], default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=15)
    asked = parser.parse_args()
    parts = asked.parts or every
    if "memory" in parts:  # first: a peak does not come down
        memory()
    if "speed" in parts:
        lines = [compact("epanechnikov", "epanechnikov"), compact("uniform", "tophat"),
                 compact("triangle", "linear"), compact("cosine", "cosine")]  # fmt: skip
        show([*lines, *grids(), *(sums(dim) for dim in (1, 2, 10))], asked.rounds)
    if "search" in parts:
        show(search(), asked.rounds)
    if "neighbors" in parts:
        show([neighbors(dim) for dim in (10, 20, 50)], asked.rounds)
    if "rules" in parts:
        rules(asked.samples)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore", ".* far from all others")  # t3 has such points
    main()
