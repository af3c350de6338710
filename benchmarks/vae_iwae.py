"""The importance-weighted autoencoder of Burda et al. on MNIST, beside their numbers.

    .venv/bin/python benchmarks/vae_iwae.py DATA_DIR --out DIR [--epochs 3280] [--minutes 30]

784-200-200-50, tanh, all 60,000 images binarized anew whenever they are seen, batches of 20, Adam
with ε = 1e-4. Stage i = 1 … 8 has 3^(i−1) epochs, 3280 in all, and the step size
1e-4 round(10^(1 − (i − 1) / 7), 1). A shorter run is the beginning of that one. The weights are
the last ones. The curve, one row an epoch, has log p(x) of 500 test images by 50 draws, which
decides nothing. At the end −log p(x) of the test images is estimated by 5000 draws.

DIR keeps for each run its checkpoint, from which a run that was stopped goes on, its curve (CSV),
its weights and its result, which is not computed twice.

Reference:
    Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, table 1, and
    https://github.com/yburda/iwae
"""

import argparse
import bisect
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae import data, precision, vae
from pplvae.optimize import logs
from pplvae.vae import IWAE, VAE, bounds, published

BATCH, STAGES, FULL, FIRST_RATE = 20, 8, 3280, 1e-3
PUBLISHED = {1: 86.76, 5: 85.54, 50: 84.78}  # −log p(x) in nats, by k


def schedule(progress: float) -> float:
    """Return the factor on the first step size at a share of all 3280 epochs."""
    ends = [(3**i - 1) // 2 for i in range(1, STAGES + 1)]
    stage = min(bisect.bisect_right(ends, progress * FULL + 1e-6), STAGES - 1)
    return round(10 ** (1 - stage / (STAGES - 1)), 1) / 10


def watch(model: VAE, test: Tensor, path: Path) -> logs.Callback:
    """Return a callback that keeps the curve."""
    table = logs.csv(path)

    def write(epoch: logs.Epoch) -> None:
        found = bounds.log_likelihood(model, test[:500], num_samples=50, seed=0, progress=False)
        table(replace(epoch, monitored=epoch.monitored | {"test_log_p": found.value}))

    return write


def learn(model: VAE, k: int, x: Tensor, seed: int, **options: Any) -> vae.VAEFit:
    """Train by the recipe."""
    return vae.fit(
        model, x, objective=IWAE(k), num_epochs=FULL, batch_size=BATCH, eps=1e-4,
        learning_rate=FIRST_RATE, schedule=schedule, clip_norm=None, validation=0.0, seed=seed,
        **options,
    )  # fmt: skip


def run(k: int, train: Tensor, test: Tensor, given: Any) -> dict[str, Any]:
    """Train and judge one VAE, or go on with it, and return its numbers."""
    name = Path(given.out) / f"k{k}-{given.seed}"
    result = name.with_suffix(".json")
    if result.exists():
        return json.loads(result.read_text())
    model = published.iwae(mean=train.mean(0), dtype=torch.float32, seed=given.seed)
    model = model.to(given.device)

    def over(epoch: logs.Epoch) -> bool:
        return epoch.number + 1 >= given.epochs or epoch.seconds >= 60 * given.minutes

    fit = learn(
        model, k, train, given.seed, checkpoint=name.with_suffix(".checkpoint"),
        callbacks=[watch(model, test, name.with_suffix(".csv")), over],
    )  # fmt: skip
    model.save(name.with_suffix(".safetensors"))
    few = test[: given.test]
    found = bounds.log_likelihood(model, few, num_samples=given.samples, seed=given.seed)
    numbers = {
        "k": k, "seed": given.seed, "epochs": len(fit.history.losses),
        "ms_per_step": 1e3 * fit.history.seconds / fit.history.num_steps,
        "nll": -found.value, "standard_error": found.standard_error,
        "unreliable": found.unreliable, "images": len(few), "samples": given.samples,
        "elbo": bounds.elbo(model, few, seed=given.seed).value,
        "active": bounds.terms(model, train[:500], seed=given.seed, progress=False).num_active,
        "published": PUBLISHED.get(k, math.nan),
    }  # fmt: skip
    result.write_text(json.dumps(numbers, indent=1))
    return numbers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="the folder of MNIST's four files")
    parser.add_argument("--out", required=True, help="where runs are kept")
    parser.add_argument("--epochs", type=int, default=FULL)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of training, each k")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--samples", type=int, default=5000, help="draws for log p(x)")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    Path(given.out).mkdir(parents=True, exist_ok=True)
    # On the device at once: a table of 60,000 images, from which batches are taken.
    train, test = (
        data.mnist(given.data, part).scaled().x.to(given.device) for part in ("train", "test")
    )
    with precision.fast_matmul(given.device):
        found = [run(k, train, test, given) for k in given.k]
    print("k | epochs of 3280 | −log p(x) | standard error over the images | active | published")
    for row in found:
        print(
            f"{row['k']} | {row['epochs']} | {row['nll']:.2f} | {row['standard_error']:.2f} | "
            f"{row['active']} | {row['published']:.2f}"
        )


if __name__ == "__main__":
    main()
