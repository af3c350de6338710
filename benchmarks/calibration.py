"""What calibration of TwoNN by SVI costs: all data sets in one run, or each alone.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py

Prints CPU seconds, medians of 3 seeds. One by one is measured on 10 data sets and scaled up.
"""

import statistics

import torch

from pplvae.compare.calibrate import calibrate
from pplvae.compare.simulations import Study
from pplvae.intrinsic_dimension import twonn

RATIOS = torch.full((100,), 2.0, dtype=torch.float64)
SEEDS, NUM_SIMULATIONS, FEW = (0, 1, 2), 1000, 10
SETTINGS = {"guide": "mean_field", "num_steps": 1000, "num_draws": 199}


def together(seed: int) -> float:
    """Return the CPU seconds of a whole calibration, and print what it found."""
    found = calibrate(
        twonn.model, RATIOS, num_simulations=NUM_SIMULATIONS, seed=seed, progress=False
    )
    print(
        f"seed {seed}: {found.cost.cpu_seconds:.1f} CPU-s\n{found}\n{found.failures() or 'pass'}"
    )
    return found.cost.cpu_seconds


def alone(seed: int) -> float:
    """Return the CPU seconds that as many fits one by one would take."""
    study = Study(twonn.model, (RATIOS,))
    _, seen = study.simulate(FEW)
    fits = [
        study.fit_alone({name: value[i] for name, value in seen.items()}, seed=seed, **SETTINGS)
        for i in range(FEW)
    ]
    return sum(fit.cost.cpu_seconds for fit in fits) / FEW * NUM_SIMULATIONS


if __name__ == "__main__":
    fast = statistics.median(map(together, SEEDS))
    slow = statistics.median(map(alone, SEEDS))
    print(f"{NUM_SIMULATIONS} simulations together: {fast:.1f} CPU-s")
    print(f"one by one: {slow:.0f} CPU-s, {slow / fast:.0f} times as long")
