"""log p(x) of MNIST, binarized once, beside the published numbers of a public tutorial.

    .venv/bin/python benchmarks/vae_mnist.py DATA_DIR --out DIR [--seeds 0 1 2]

784-256-256, z = 128, ReLU, batches of 128, 30,000 steps of Adam (the published runs: RMSprop) on
50,000 images, with a mean-field guide, one bent by an inverse autoregressive flow of depth 2, a
masked autoregressive flow as the prior, or both. `bent` puts both flows around the trained
mean-field VAE and goes on for `--more` steps, `longer` goes on without them. The weights of the
epoch with the best ELBO on the last 10,000 training images are kept; log p(x) is estimated on the
10,000 test images by 1000 draws from the guide. The binarization is one draw, the same for all
seeds.

DIR keeps for each run its checkpoint, from which a run that was stopped goes on, its curve (CSV),
its weights and its result, which is not computed twice.

Reference:
    https://github.com/altosaar/variational-autoencoder, README
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae import data, optimize, precision, vae
from pplvae.optimize import logs
from pplvae.vae import VAE, bounds, posteriors, priors, published

L, BATCH, NUM_TRAIN = 128, 128, 50_000
# ELBO and log p(x) after 30,000 steps, in nats: of the test images, for the flow of the held-out
# ones (and log p(x) of the test images at the end of its 65,000 steps, -95.33).
PUBLISHED = {"mean-field": (-106.64, -100.31), "iaf": (-103.76, -97.71)}
KINDS = ("mean-field", "bent", "longer", "iaf", "flow-prior", "iaf-flow-prior")
GOES_ON = ("bent", "longer")  # from the mean-field VAE of the same seed


def build(kind: str, seed: int, trained: Path) -> VAE:
    """Return the VAE of a row of the table."""
    torch.manual_seed(seed)  # for the flows' weights
    options: dict[str, Any] = {}
    if "iaf" in kind or kind == "bent":
        options["posterior"] = posteriors.InverseAutoregressive(L, 2, context_dim=L)
    if "flow-prior" in kind or kind == "bent":
        options["prior"] = priors.FlowPrior(L, 2)
    if kind in GOES_ON:
        plain = VAE.load(trained)
        return vae.bend(plain, **options) if kind == "bent" else plain
    return published.jaanli(likelihood="bernoulli", dtype=torch.float32, seed=seed, **options)


def points(root: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return binary images to train on, to choose the epoch by, and to test on."""
    train = data.mnist(root).binarized(seed=0).x
    return train[:NUM_TRAIN], train[NUM_TRAIN:], data.mnist(root, "test").binarized(seed=1).x


def run(kind: str, seed: int, images: tuple[Tensor, Tensor, Tensor], given: Any) -> dict[str, Any]:
    """Train and judge one VAE, or go on with it, and return its numbers."""
    name = Path(given.out) / f"{kind}-{seed}"
    result = name.with_suffix(".json")
    if result.exists():
        return json.loads(result.read_text())
    train, held_out, test = images
    trained = Path(given.out) / f"mean-field-{seed}.safetensors"
    if kind in GOES_ON and not trained.exists():
        run("mean-field", seed, images, given)
    model = build(kind, seed, trained).to(given.device)
    steps = given.more if kind in GOES_ON else given.steps
    fit = vae.fit(
        model, train, num_epochs=max(1, round(steps * BATCH / len(train))),
        batch_size=BATCH, schedule=getattr(optimize, given.schedule), validation=held_out,
        patience=None, seed=seed, checkpoint=name.with_suffix(".checkpoint"),
        callbacks=[logs.csv(name.with_suffix(".csv"))],
    )  # fmt: skip
    model.save(name.with_suffix(".safetensors"))
    start = time.process_time()
    found = bounds.log_likelihood(model, test[: given.test], num_samples=given.samples, seed=seed)
    numbers = {
        "kind": kind, "seed": seed, "steps": fit.history.num_steps,
        "best_epoch": fit.history.best_epoch, "ms_per_step": 1e3 * fit.history.seconds
        / fit.history.num_steps, "held_out_elbo": fit.elbo.value,
        "test_elbo": bounds.elbo(model, test[: given.test], seed=seed).value,
        "test_log_p": found.value, "standard_error": found.standard_error,
        "unreliable": found.unreliable, "images": len(found.per_point),
        "samples": given.samples, "cpu_seconds_of_log_p": time.process_time() - start,
    }  # fmt: skip
    result.write_text(json.dumps(numbers, indent=1))
    return numbers


def line(kind: str, runs: list[dict[str, Any]]) -> str:
    """Return a row of the table: means over the seeds beside the published numbers."""
    said = [kind, str(len(runs)), f"{statistics.fmean(r['steps'] for r in runs):,.0f}"]
    for name in ("test_elbo", "test_log_p"):
        values = [r[name] for r in runs]
        spread = f" ± {statistics.stdev(values):.2f}" if len(runs) > 1 else ""
        said.append(f"{statistics.fmean(values):.2f}{spread}")
    error = statistics.fmean(r["standard_error"] for r in runs)
    beside = (f"{value:.2f}" for value in PUBLISHED.get(kind, ()))
    return " | ".join([*said, f"{error:.2f}", *beside])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="the folder of MNIST's four files")
    parser.add_argument("--out", required=True, help="where runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--steps", type=int, default=30_000, help="rounded to whole epochs")
    parser.add_argument("--more", type=int, default=10_000, help="steps that bent, longer go on")
    parser.add_argument("--schedule", choices=["constant", "cosine"], default="constant")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--samples", type=int, default=1000, help="draws for log p(x)")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    Path(given.out).mkdir(parents=True, exist_ok=True)
    images = points(given.data)
    found: dict[str, list[dict[str, Any]]] = {}
    with precision.fast_matmul(given.device):
        for seed in given.seeds:
            for kind in given.kinds:
                found.setdefault(kind, []).append(run(kind, seed, images, given))
                print(json.dumps(found[kind][-1]), flush=True)
    print("kind | seeds | steps | ELBO | log p(x) | standard error over the images | published")
    for kind, runs in found.items():
        print(line(kind, runs))


if __name__ == "__main__":
    main()
