"""What nuts.fit costs beside a bare pyro.infer.MCMC(NUTS) on the same model, data and start.

    .venv/bin/python benchmarks/nuts.py [--quick]

The three ways run in turn, several rounds, each from the same seed of the round. The table shows
medians of CPU seconds for one chain, its evaluation afterwards included for ours, and the ratio to
Pyro's. Compiling is counted, the first import of the compiler (once in a process) is not.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_uniform, init_to_value
from torch import Tensor

from pplvae.infer import nuts
from pplvae.intrinsic_dimension import twonn
from pplvae.mixtures import em
from pplvae.mixtures.model import model as mixture
from pplvae.mixtures.svi import sites

Case = tuple[Callable[..., None], tuple[Any, ...], dict[str, Tensor]]


def schools(y: Tensor, sigma: Tensor) -> None:
    """Eight schools, not centered."""
    loc = pyro.sample("loc", dist.Normal(y.new_tensor(0.0), 5.0))
    scale = pyro.sample("scale", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        z = pyro.sample("z", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(loc + scale * z, sigma), obs=y)


def marginalized(x: Tensor) -> None:
    """Three components, summed out by the density."""
    mixture(x, 3)


def enumerated(x: Tensor) -> None:
    """Three components, summed out by Pyro."""
    mixture(x, 3, enumerate_assignments=True)


def cases() -> dict[str, Case]:
    """Return model, data and start by name."""
    torch.manual_seed(0)
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((1000,))
    x = torch.cat([torch.randn(100, 2) + 4 * k for k in range(3)])
    start = sites(em.fit(x, 3, seed=0, progress=False).mixture)
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return {
        "TwoNN, N = 1000": (twonn.model, (ratios,), {}),
        "eight schools": (schools, (effects, errors), {}),
        "mixture, marginalized": (marginalized, (x,), start),
        "mixture, enumerated": (enumerated, (x,), start),
    }


def ours(case: Case, steps: tuple[int, int], seed: int, jit: bool) -> None:
    """Run one chain of nuts.fit."""
    model, data, init = case
    nuts.fit(
        model, *data, warmup_steps=steps[0], num_draws=steps[1], num_chains=1, jit=jit, init=init,
        seed=seed, progress=False,
    )  # fmt: skip


def bare(case: Case, steps: tuple[int, int], seed: int) -> None:
    """Run one chain of Pyro's own."""
    model, data, init = case
    pyro.set_rng_seed(seed)
    start = init_to_value(values=init, fallback=init_to_uniform)
    kernel = NUTS(model, init_strategy=start, max_plate_nesting=1)
    MCMC(kernel, num_samples=steps[1], warmup_steps=steps[0], disable_progbar=True).run(*data)


def seconds(run: Callable[[], None]) -> float:
    """Return the processor time of a run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def row(case: Case, steps: tuple[int, int], rounds: int) -> dict[str, float]:
    """Return median CPU seconds of each way, the ways taken in turn."""
    spent: dict[str, list[float]] = {"jit": [], "plain": [], "Pyro": []}
    for seed in range(rounds):
        spent["jit"].append(seconds(lambda seed=seed: ours(case, steps, seed, jit=True)))
        spent["plain"].append(seconds(lambda seed=seed: ours(case, steps, seed, jit=False)))
        spent["Pyro"].append(seconds(lambda seed=seed: bare(case, steps, seed)))
    return {name: statistics.median(values) for name, values in spent.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short chains, one round")
    quick = parser.parse_args().quick
    steps, rounds = ((50, 100), 1) if quick else ((500, 1000), 3)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    ours((schools, cases()["eight schools"][1], {}), (1, 4), 0, jit=True)
    print(f"CPU-s of one chain of {steps[0]} + {steps[1]}, median of {rounds}")
    print(f"{'model':24}{'jit':>8}{'plain':>8}{'Pyro':>8}{'jit/Pyro':>10}{'plain/Pyro':>12}")
    for name, case in cases().items():
        found = row(case, steps, rounds)
        columns = "".join(f"{found[way]:8.1f}" for way in ("jit", "plain", "Pyro"))
        jit, plain = found["jit"] / found["Pyro"], found["plain"] / found["Pyro"]
        print(f"{name:24}{columns}{jit:10.2f}{plain:12.2f}", flush=True)


if __name__ == "__main__":
    main()
