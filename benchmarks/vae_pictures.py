"""Pictures to hold beside the papers': manifolds of MNIST and Frey faces, samples of CIFAR-10.

    .venv/bin/python benchmarks/vae_pictures.py DATA_DIR --out DIR [--what mnist frey cifar10]

The architectures of Auto-Encoding Variational Bayes with two latent dimensions, decoded on a grid
of the prior's quantiles as in its figure 4; and a convolutional VAE with discretized logistics for
color. DATA_DIR holds mnist/, frey/frey_rawface.mat and cifar-10-batches-bin/. Each row of the
table says the bounds on a tenth of the data (MNIST: the test images) that was not trained on.

Reference:
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from pplvae import data, plots, precision, vae
from pplvae.data import Dataset
from pplvae.storage import write_atomically
from pplvae.vae import VAE, DiscretizedLogistic, bounds, manifold, published

Case = tuple[Dataset, Dataset, VAE, dict[str, int]]  # to train on, to judge by, what, how long


def mnist(root: Path) -> Case:
    """Return MNIST and the paper's 784-500-2."""
    train, test = (data.mnist(root / "mnist", part).scaled() for part in ("train", "test"))
    return train, test, published.aevb("mnist", 2, seed=0), {"num_epochs": 60, "batch_size": 100}


def frey(root: Path) -> Case:
    """Return the Frey faces and the paper's 560-200-2."""
    faces = data.frey_faces(root / "frey" / "frey_rawface.mat").scaled()
    train, test = faces.split([0.9, 0.1], seed=0)
    return train, test, published.aevb("frey", 2, seed=0), {"num_epochs": 600, "batch_size": 100}


def cifar10(root: Path) -> Case:
    """Return CIFAR-10 and a convolutional VAE with 128 latent dimensions."""
    images = data.cifar10(root / "cifar-10-batches-bin")
    train, test = images.split([0.9, 0.1], seed=0)
    model = vae.conv(
        images.shape, 128, channels=(64, 128), hidden_dims=(512,), seed=0, dtype=torch.float32,
        likelihood=DiscretizedLogistic(),
    )  # fmt: skip
    return train, test, model, {"num_epochs": 15, "batch_size": 64}


CASES: dict[str, Callable[[Path], Case]] = {"mnist": mnist, "frey": frey, "cifar10": cifar10}


def draw(name: str, model: VAE, test: Dataset, out: Path) -> None:
    """Write the pictures of one VAE."""
    limits = (0.0, 255.0) if name == "cifar10" else (0.0, 1.0)
    pictures = {"reconstructions": plots.pairs(
        test.x[:12], model.reconstruct(test.x[:12]), test.shape, limits=limits
    )}  # fmt: skip
    if model.latent_dim == 2:
        grid = manifold.grid(model, 20)
        pictures["manifold"] = plots.manifold(grid, test.shape, limits=limits)
    samples = model.sample(60, seed=0)
    pictures["samples"] = plots.mosaic(samples, test.shape, columns=12, limits=limits)
    for kind, ax in pictures.items():
        png = plots.png(ax)
        write_atomically(out / f"{name}-{kind}.png", lambda file, png=png: file.write_bytes(png))


def main() -> None:
    """Train, draw and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="where pictures go")
    parser.add_argument("--what", nargs="+", choices=list(CASES), default=list(CASES))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print("data | epochs | held-out ELBO, nats | log p(x) ≥, nats | bits per dimension")
    for name in given.what:
        train, test, model, options = CASES[name](given.data)
        with precision.fast_matmul("cpu"):
            fit = vae.fit(model, train.x, validation=0.05, patience=None, seed=0, **options)  # type: ignore[arg-type]
        elbo = bounds.elbo(model, test.x, seed=0)
        found = bounds.log_likelihood(model, test.x[:500], num_samples=200, seed=0)
        epochs, said = len(fit.history.losses), f"{elbo.value:.2f} ± {elbo.standard_error:.2f}"
        print(f"{name} | {epochs} | {said} | {found.value:.2f} | "
              f"{found.bits_per_dimension:.3f}", flush=True)  # fmt: skip
        draw(name, model, test, given.out)


if __name__ == "__main__":
    main()
