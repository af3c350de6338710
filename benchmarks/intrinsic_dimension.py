"""What TwoNN and DANCo cost beside scikit-dimension, DADApy and the bare search for neighbors.

    .venv/bin/python benchmarks/intrinsic_dimension.py --peers PYTHON [--threads 1 2] [--mnist DIR]

PYTHON is an interpreter that can import the other packages. They are no extra of pplvae, because
DADApy 0.3.4 wants NumPy 1, older than the one that this project is tested with:

    python -m venv peers && peers/bin/pip install scikit-dimension dadapy

Every package runs in a process of its own, held to so many CPUs and threads, and is given the same
float64 array. After a warm-up on few points they take turns, round by round; the table shows
medians of the seconds and of the ratios within a round: CPU seconds with one thread, which a busy
machine spoils least, and wall seconds with more. What takes longer than `--limit` runs once; the
load is the machine's before. Ours is the answer as it comes: TwoNN's posterior, widened for shared
neighbors.

At 10 and 20 columns the points are normal. At 784 they are drawings: 28 x 28 pixels in 256 gray
levels, two pen strokes each (quadratic Bézier curves of random corners, one random width), so 13
dimensions; 74 % of the pixels are 0, of MNIST's 81 %. `--mnist` takes MNIST itself.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

OURS, SKDIM, DADAPY = "pplvae", "scikit-dimension", "DADApy"
SEARCH = "search"
HEADER = """
| what | threads | load | ours, s | search alone, s | theirs, s | times faster | of the search |
|---|---|---|---|---|---|---|---|"""
FASTER, OF_SEARCH = 2.0, 1.3  # than the faster peer, at least; times the search, at most
FEW = 200  # points to warm up on
STROKES, STEPS, SIDE = 2, 24, 28


@dataclass(frozen=True)
class Case:
    """An estimator on N points of D columns."""

    estimator: str
    num_points: int
    num_columns: int

    def __str__(self) -> str:
        return f"{self.estimator} {self.num_points:,} x {self.num_columns}"


CASES = (
    Case("TwoNN", 10_000, 10),
    Case("TwoNN", 100_000, 10),
    Case("TwoNN", 10_000, 784),
    Case("TwoNN", 30_000, 784),
    Case("DANCo", 2_500, 20),
)


# ── what is timed: each imports its package where it runs, in the package's own process ──


def twonn(x: np.ndarray, threads: int) -> float:
    """Return the posterior mean of our TwoNN."""
    from pplvae import neighbors
    from pplvae.intrinsic_dimension import twonn

    return twonn.posterior(neighbors.graph(x, 2, progress=False)).dimension


def danco(x: np.ndarray, threads: int) -> float:
    """Return our DANCo, its balls from the table that ships."""
    from pplvae.intrinsic_dimension import danco

    return danco.estimate(x, progress=False).dimension


def search(x: np.ndarray, threads: int, num_neighbors: int) -> float:
    """Return the mean of r₁ by our search alone."""
    from pplvae import neighbors

    found = neighbors.neighbors(x, num_neighbors, progress=False)
    return float(found.distances[:, 0].mean())


def skdim_twonn(x: np.ndarray, threads: int) -> float:
    """Return scikit-dimension's TwoNN, which has no option for threads."""
    from skdim.id import TwoNN  # pyright: ignore

    return float(TwoNN().fit(x).dimension_)


def skdim_danco(x: np.ndarray, threads: int, ver: str) -> float:
    """Return scikit-dimension's DANCo: "DANCo" draws its balls, "DANCoFit" has a table."""
    from skdim.id import DANCo  # pyright: ignore

    return float(DANCo(k=10, ver=ver, random_state=0).fit(x).dimension_)


def dadapy_twonn(x: np.ndarray, threads: int) -> float:
    """Return DADApy's TwoNN from two neighbors."""
    from dadapy import Data  # pyright: ignore

    data = Data(coordinates=x, maxk=2, n_jobs=threads, verbose=False)
    return float(data.compute_id_2NN()[0])


Run = Callable[[np.ndarray, int], float]
WAYS: dict[str, dict[str, tuple[str, Run]]] = {  # estimator → name → whose process, what
    "TwoNN": {
        OURS: (OURS, twonn),
        SEARCH: (OURS, partial(search, num_neighbors=2)),
        SKDIM: (SKDIM, skdim_twonn),
        DADAPY: (DADAPY, dadapy_twonn),
    },
    "DANCo": {
        OURS: (OURS, danco),
        SEARCH: (OURS, partial(search, num_neighbors=11)),
        SKDIM: (SKDIM, partial(skdim_danco, ver="DANCo")),
        f"{SKDIM}, DANCoFit": (SKDIM, partial(skdim_danco, ver="DANCoFit")),
    },
}


# ── processes ──


def serve(threads: int) -> None:
    """Answer each line of standard input, an estimator, a way and a file, with its seconds."""
    warnings.simplefilter("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    clock = time.process_time if threads == 1 else time.perf_counter
    for line in sys.stdin:
        estimator, name, path, rows = json.loads(line)
        x = np.load(path)[:rows]
        with contextlib.redirect_stdout(sys.stderr):
            start = clock()
            dimension = WAYS[estimator][name][1](x, threads)
            seconds = clock() - start
        print(json.dumps([seconds, dimension, peak()]), flush=True)


def peak() -> float:
    """Return the most memory that this process has held, in GiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Process:
    """A package in its own interpreter."""

    def __init__(self, python: str, threads: int) -> None:
        names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
        command = [python, "-W", "ignore", __file__, "--serve", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **limits},
        )  # fmt: skip

    def run(self, *asked: Any) -> tuple[float, float, float]:
        """Return the seconds that a run took, the dimension it found, and the peak in GiB."""
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline() if self.process.stdout else ""
        if not answer:
            raise RuntimeError(f"{asked} ended its process, see above")
        return tuple(json.loads(answer))

    def close(self) -> None:
        """End it: its input has no more lines."""
        self.process.communicate()


# ── data ──


def drawings(num: int, seed: int = 0) -> np.ndarray:
    """Return images of pen strokes, shape (num, 784), gray levels 0 to 255."""
    source, found = np.random.default_rng(seed), np.empty((num, SIDE * SIDE))
    t = np.linspace(0, 1, STEPS)[:, None]
    weights = np.hstack([(1 - t) ** 2, 2 * t * (1 - t), t**2])
    grid = np.arange(SIDE) + 0.5
    for i in range(num):
        corners = source.uniform(5, SIDE - 5, (STROKES, 3, 2))
        pen = source.uniform(0.7, 1.3)
        x, y = np.moveaxis(weights @ corners, -1, 0).reshape(2, -1, 1)
        along, across = (np.exp(-(((grid - z) / pen) ** 2) / 2) for z in (x, y))
        found[i] = (across[:, :, None] * along[:, None, :]).max(axis=0).ravel()
    return np.round(255 * found)


def points(case: Case, mnist: Path | None) -> np.ndarray:
    """Return the points of a case, shape (N, D), float64."""
    if case.num_columns < SIDE * SIDE:
        source = np.random.default_rng(0)
        return source.standard_normal((case.num_points, case.num_columns))
    if mnist is None:
        return drawings(case.num_points)
    from pplvae import data

    return data.mnist(mnist).x[: case.num_points].double().numpy()


# ── the table ──


def compared(
    case: Case, threads: int, pythons: dict[str, str], path: Path, given: argparse.Namespace
) -> str:
    """Return one line of the table, from fresh processes."""
    load = os.getloadavg()[0]
    processes = {name: Process(python, threads) for name, python in pythons.items()}
    try:
        return row(case, threads, load, *measured(case, processes, path, given))
    finally:
        for process in processes.values():
            process.close()


def measured(
    case: Case, processes: dict[str, Process], path: Path, given: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each way in each round, and the dimension it found."""
    ways = {name: who for name, (who, _) in WAYS[case.estimator].items() if who in processes}
    for name, who in ways.items():
        processes[who].run(case.estimator, name, str(path), FEW)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for done in range(given.rounds):
        for name, who in ways.items():
            if not done or max(spent[name]) <= given.limit:
                asked = case.estimator, name, str(path), case.num_points
                seconds, found[name], _ = processes[who].run(*asked)
                spent[name].append(seconds)
    return spent, found


def row(
    case: Case, threads: int, load: float, spent: dict[str, list[float]], found: dict[str, float]
) -> str:
    """Return one line of the table."""
    said = {name: f"{statistics.median(values):.3g}" for name, values in spent.items()}
    for name in said:
        said[name] += " (once)" if len(spent[name]) < len(spent[OURS]) else ""
        said[name] += f" (d = {found[name]:.3g})" if name != SEARCH else ""
    gains = [ratio(spent[name], spent[OURS]) for name in spent if name not in (OURS, SEARCH)]
    gain, share = min(gains, default=math.nan), ratio(spent[OURS], spent[SEARCH])
    theirs = "; ".join(f"{name} {said[name]}" for name in spent if name not in (OURS, SEARCH))
    verdicts = "" if not gain < FASTER else " (under)", "" if share <= OF_SEARCH else " (over)"
    columns = (
        case, threads, f"{load:.1f}", said[OURS], said[SEARCH], theirs,
        f"{gain:.1f}{verdicts[0]}", f"{share:.2f}{verdicts[1]}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, columns))} |"


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios within a round, of those that both ran."""
    return statistics.median(a / b for a, b in zip(above, below, strict=False))


def million(threads: int, path: Path) -> None:
    """Print what TwoNN on 1,000,000 x 10 takes."""
    case = Case("TwoNN", 1_000_000, 10)
    np.save(path, points(case, None))
    process = Process(sys.executable, threads)
    seconds, dimension, most = process.run(case.estimator, OURS, str(path), case.num_points)
    process.close()
    print(f"{case}, {threads} threads: {seconds:.0f} s, {most:.2f} GiB (d = {dimension:.3g})")


def versions(peers: str | None) -> dict[str, str]:
    """Return the interpreter of each package, and print which version it has."""
    found, said = {}, []
    for name, python in {OURS: sys.executable, SKDIM: peers, DADAPY: peers}.items():
        if python:
            ask = f"import importlib.metadata as m; print(m.version({name.lower()!r}))"
            ran = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
            found[name] = python
            said.append(f"{name} {ran.stdout.strip()}")
    print(", ".join(said), f"on {os.cpu_count()} CPUs")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="an interpreter that can import them")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60, help="seconds; slower ones run once")
    parser.add_argument("--largest", type=int, default=30_000_000, help="most N D of a case")
    parser.add_argument("--million", action="store_true", help="time and memory of 1,000,000 x 10")
    parser.add_argument("--mnist", type=Path, help="the folder of its files")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    pythons = versions(given.peers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "points.npy")
        if given.million:
            million(max(given.threads), path)
        print(HEADER)
        for case in CASES:
            if case.num_points * case.num_columns <= given.largest:
                np.save(path, points(case, given.mnist))
                for threads in given.threads:
                    print(compared(case, threads, pythons, path, given), flush=True)


if __name__ == "__main__":
    main()
