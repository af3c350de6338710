"""What an EM iteration costs beside scikit-learn, pomegranate and torchgmm, and how many it takes.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/mixtures.py [steps restarts strides stream]
        [--rounds 5] [--peers PYTHON]

PYTHON is an interpreter that can import pomegranate and torchgmm:

    python -m venv peers && peers/bin/pip install torch==2.13.0 pomegranate torchgmm

steps: an EM iteration in float64 on one thread, all packages from one start, as the difference of
a fit of n + 1 iterations and one of 1, over n, so without set-up. Medians of CPU seconds over
rounds in which the packages take turns, and of the ratios within a round. The others are timed
once, and torchgmm, which fails in double precision, in single.

restarts: ten starts, iterated ten times each, ours as one batch.

strides: E-steps until 1e-6 nats per point below where the climb ends, for three components at so
many standard deviations from one another; medians over five sets of 1000 points.

stream: ten million points of ten columns (800 MB) from a memory map: seconds, and the largest
resident size of the process, which holds the pages of the map that the system kept.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em

CASES = (
    (10_000, 2, 3, "full"),
    (10_000, 2, 3, "diag"),
    (100_000, 10, 10, "full"),
    (100_000, 10, 10, "tied"),
    (100_000, 10, 10, "diag"),
    (100_000, 10, 10, "spherical"),
    (100_000, 50, 20, "full"),
    (100_000, 50, 20, "diag"),
)
NUM_STARTS = 10


def points(num_points: int, dim: int, num_components: int) -> Tensor:
    """Return points of a mixture whose components overlap, shape (N, D)."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(num_points, dim, generator=rng, dtype=torch.float64)
    which = torch.randint(num_components, (num_points, 1), generator=rng)
    return x + 0.7 * which


def one_start(x: Tensor, num_components: int, covariance: str, seed: int = 0) -> GaussianMixture:
    """Return a mixture at random points, as wide as the data, of the form asked for."""
    whole = em.m_step(x, torch.ones(len(x), 1), covariance=covariance)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return GaussianMixture(
        x.new_full((num_components,), 1 / num_components),
        x[order[:num_components]],
        whole.scale_trils.repeat(num_components, 1, 1),
    )


def ours(x: Tensor, start: GaussianMixture, covariance: str) -> Callable[[int], float]:
    """Return what runs n EM iterations and gives log p per point."""

    def run(num_steps: int) -> float:
        fit = em.fit(
            x, start.num_components, covariance=covariance, start=start, max_steps=num_steps,
            tolerance=0.0, accelerate=False, progress=False,
        )  # fmt: skip
        return fit.log_likelihood / len(x)

    return run


def scikit_learn(x: Tensor, start: GaussianMixture, covariance: str) -> Callable[[int], float]:
    """Return the same of scikit-learn."""
    from sklearn.mixture import GaussianMixture as Reference

    precisions = torch.cholesky_inverse(start.scale_trils)
    shaped = {
        "full": precisions,
        "tied": precisions[0],
        "diag": precisions.diagonal(dim1=1, dim2=2),
        "spherical": precisions[:, 0, 0],
    }[covariance].numpy()

    def run(num_steps: int) -> float:
        model = Reference(
            start.num_components, covariance_type=covariance, max_iter=num_steps, tol=0.0,
            weights_init=start.weights.numpy(), means_init=start.locs.numpy(),
            precisions_init=shaped,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x.numpy())
        return float(model.lower_bound_)

    return run


def seconds(run: Callable[[int], float], num_steps: int) -> float:
    """Return the CPU seconds of an iteration."""
    spent = []
    for n in (1, num_steps + 1):
        begin = time.process_time()
        run(n)
        spent.append(time.process_time() - begin)
    return (spent[1] - spent[0]) / num_steps


def steps(rounds: int, peers: str | None) -> None:
    """Print the table of one iteration's cost."""
    print("| N, D, K, form | ours, ms | scikit-learn, ms | times faster | others |")
    print("|---|---|---|---|---|")
    for num_points, dim, num_components, covariance in CASES:
        x = points(num_points, dim, num_components)
        start = one_start(x, num_components, covariance)
        num_steps = max(10, min(100, 10**8 // (num_points * num_components * dim)))
        runs = [make(x, start, covariance) for make in (ours, scikit_learn)]
        times = [[seconds(run, num_steps) for run in runs] for _ in range(rounds)]
        mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        others = "" if peers is None else _others(peers, x, start, covariance, num_steps, mine)
        name = f"{num_points:,}, {dim}, {num_components}, {covariance}"
        print(
            f"| {name} | {1e3 * mine:.2f} | {1e3 * theirs:.2f} | {ratio:.1f} | {others} |",
            flush=True,
        )


PEERS = """
import json, sys, time, numpy as np, torch, warnings
warnings.simplefilter("ignore")
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
given, n = np.load(sys.argv[1]), int(sys.argv[2])
x, w, m, c = (torch.tensor(given[k]) for k in ("x", "weights", "locs", "covs"))
covariance, out = sys.argv[3], {}

def pomegranate(steps):
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel
    parts = [Normal(a, b if covariance == "full" else b.diagonal(), covariance)
             for a, b in zip(m, c)]
    GeneralMixtureModel(parts, priors=w, max_iter=steps, tol=-1e300).fit(x)

def torchgmm(steps):
    from torchgmm.bayes import GaussianMixture
    # Double precision fails (masked_scatter: same dtypes), as do its random start and given
    # means on a single batch (no model_copy).
    torch.set_default_dtype(torch.float32)
    model = GaussianMixture(len(w), covariance_type=covariance, init_strategy="kmeans++",
                            convergence_tolerance=-1e300, trainer_params=dict(
                                max_epochs=steps, accelerator="cpu", logger=False,
                                enable_progress_bar=False, enable_checkpointing=False))
    model.fit(x.float())
    if model.num_iter_ < steps:
        raise RuntimeError(f"stopped after {model.num_iter_} of {steps} iterations")

for name, run in (("pomegranate", pomegranate), ("torchgmm", torchgmm)):
    try:
        run(1)  # imports, and what is made once
        spent = []
        for steps in (1, n + 1):
            begin = time.process_time()
            run(steps)
            spent.append(time.process_time() - begin)
        out[name] = (spent[1] - spent[0]) / n
    except Exception as error:
        out[name] = f"{type(error).__name__}: {str(error)[:60]}"
print("RESULT", json.dumps(out))
"""


def _others(
    python: str,
    x: Tensor,
    start: GaussianMixture,
    covariance: str,
    num_steps: int,
    mine: float,
) -> str:
    """Return the other packages' times over ours, from a process of their own."""
    if covariance not in ("full", "diag"):
        return "not offered by both"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.npz"
        np.savez(path, x=x, weights=start.weights, locs=start.locs, covs=start.covs)
        command = [python, "-c", PEERS, str(path), str(num_steps), covariance]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    found = json.loads(lines[0].removeprefix("RESULT"))
    return ", ".join(
        f"{name} {value / mine:.1f}x" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.items()
    )


def restarts(rounds: int) -> None:
    """Print what ten starts cost side by side."""
    from sklearn.mixture import GaussianMixture as Reference

    from pplvae.mixtures.climb import Climber
    from pplvae.mixtures.covariances import FORMS, Parameters
    from pplvae.mixtures.paths import paths
    from pplvae.mixtures.points import Table
    from pplvae.mixtures.problem import Problem

    print("| N, D, K | ours, ms per iteration and start | scikit-learn, ms | times faster |")
    print("|---|---|---|---|")
    form, num_steps = FORMS["full"], 10
    for num_points, dim, num_components in ((1_000, 2, 3), (10_000, 2, 3), (100_000, 10, 10)):
        x = points(num_points, dim, num_components)
        x = (x - x.mean(dim=0)) / x.std(dim=0)
        begun = [one_start(x, num_components, "full", seed) for seed in range(NUM_STARTS)]
        batch = Parameters(
            torch.stack([start.weights.log() for start in begun]),
            torch.stack([start.locs for start in begun]),
            torch.stack([start.scale_trils for start in begun]),
        )
        ridge = 1e-6 * torch.eye(dim)
        problem = Problem(Table(x.mT.contiguous()), form, ridge, torch.eye(dim))
        times = []
        for _ in range(rounds):
            begin = time.process_time()
            Climber(problem).run(
                paths(batch), max_steps=num_steps, tolerance=0.0, accelerate=False
            )
            mine = time.process_time() - begin
            begin = time.process_time()
            model = Reference(
                num_components, n_init=NUM_STARTS, init_params="random_from_data",
                max_iter=num_steps, tol=0.0, random_state=0,
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(x.numpy())
            times.append((mine, time.process_time() - begin))
        each = [statistics.median(c) / num_steps / NUM_STARTS for c in zip(*times, strict=True)]
        ratio = statistics.median(b / a for a, b in times)
        name = f"{num_points:,}, {dim}, {num_components}"
        print(f"| {name} | {1e3 * each[0]:.3f} | {1e3 * each[1]:.3f} | {ratio:.1f} |", flush=True)


def strides() -> None:
    """Print how many E-steps the climb takes with and without longer strides."""
    print("| sd apart | EM | longer strides | ratio |")
    print("|---|---|---|---|")
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    for apart in (6.0, 3.0, 2.0, 1.5):
        counts = []
        for seed in range(5):
            truth = GaussianMixture(
                torch.ones(3) / 3, apart * corners, torch.eye(2).expand(3, 2, 2)
            )
            x = truth.sample(1000, seed=seed).x
            start, tight = em.init(x, 3, seed=0), {"tolerance": 1e-12, "max_steps": 20_000}
            fits = [
                em.fit(x, 3, start=start, jitter=0.0, accelerate=fast, progress=False, **tight)
                for fast in (False, True)
            ]
            counts.append([_reached(fit, fit.log_likelihood - 1e-6 * len(x)) for fit in fits])
        plain, fast = (statistics.median(column) for column in zip(*counts, strict=True))
        print(f"| {apart:g} | {plain:.0f} | {fast:.0f} | {plain / fast:.1f} |", flush=True)


def _reached(fit: em.EMFit, value: float) -> int:
    """Return at which E-step a climb came above a value, guesses not taken included."""
    taken = next(i for i, v in enumerate(fit.log_likelihoods) if v > value)
    return round(taken * fit.num_steps / (len(fit.log_likelihoods) - 1))


def stream() -> None:
    """Print the time and memory of a fit to more points than we care to hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        shape = (10_000_000, 10)
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
        rng = np.random.default_rng(0)
        for begin in range(0, shape[0], 10**6):
            which = rng.integers(3, size=(10**6, 1))
            out[begin : begin + 10**6] = rng.standard_normal((10**6, 10)) + 4.0 * which
        out.flush()
        del out
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        begin = time.perf_counter()
        fit = em.fit(np.load(path, mmap_mode="r"), 3, seed=0, progress=False)
        spent = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{fit}: {spent:.0f} s, {peak:.2f} GiB at most ({before:.2f} before)")


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description="What EM costs beside other packages.")
    parser.add_argument("what", nargs="*", default=["steps", "restarts", "strides"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="a Python that has pomegranate and torchgmm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n", flush=True)
    for what in args.what:
        if what == "steps":
            steps(args.rounds, args.peers)
        elif what == "restarts":
            restarts(args.rounds)
        elif what == "strides":
            strides()
        elif what == "stream":
            stream()
        else:
            sys.exit(f"what must be steps, restarts, strides or stream, got {what!r}")
        print()


if __name__ == "__main__":
    main()
