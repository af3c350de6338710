"""Autoencoders on MNIST and the Frey faces: squared error, denoising, traversals, pictures.

    .venv/bin/python benchmarks/autoencoders.py MNIST_DIR --out DIR [--frey FILE] [--what ...]

What there is to do: `sizes` trains each model at each code size on the 60,000 training images in
[0, 1] and says ‖x − x̂‖² per test image; the VAE's reconstruction is the mean of p(x | z) at the
mean of q(z | x). `denoising` puts noise of σ = 0.5 on them and says the gain in PSNR on the test
images. `frey` trains at L = 2 and 6 and draws what each number of the code does.

DIR keeps the pictures, and for each run its checkpoint, from which one that was stopped goes on.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae import autoencoders, data, optimize, plots, precision, vae
from pplvae.autoencoders import convolutional, denoising, linear, stacked
from pplvae.autoencoders.model import squared_error
from pplvae.plots import autoencoders as pictures
from pplvae.storage import write_atomically

Model = Any  # with encode and reconstruct
HIDDEN = (512, 256)


def train_pca(x: Tensor, latent_dim: int, given: Any) -> Model:
    """Return PCA by the SVD."""
    return linear.fit(x, latent_dim)


def train_linear(x: Tensor, latent_dim: int, given: Any) -> Model:
    """Return the linear autoencoder by gradient descent, tied."""
    return linear.fit(x, latent_dim, method="gradient", tied=True, seed=0, num_epochs=2000,
                      checkpoint=given.out / f"linear-{latent_dim}")  # fmt: skip


def train_stacked(x: Tensor, latent_dim: int, given: Any) -> Model:
    """Return three autoencoders, one on the code of the other, tuned."""
    found = stacked.fit(
        x, (*HIDDEN, latent_dim), num_epochs=given.epochs, at_once=latent_dim == 30,
        checkpoint=given.out / f"stacked-{latent_dim}", seed=0,
    )  # fmt: skip
    print(found, flush=True)
    return found


def train_convolutional(x: Tensor, latent_dim: int, given: Any) -> Model:
    """Return a convolutional autoencoder."""
    return convolutional.fit(
        x, (28, 28), latent_dim, channels=given.channels, hidden_dims=(256,), seed=0,
        num_epochs=given.epochs, checkpoint=given.out / f"convolutional-{latent_dim}",
    )  # fmt: skip


def train_vae(x: Tensor, latent_dim: int, given: Any) -> Model:
    """Return a VAE with the stack's layers and a Gaussian of one learned scale."""
    model = vae.mlp(784, latent_dim, hidden_dims=HIDDEN, likelihood=vae.Gaussian(start=0.3),
                    squash=True, seed=0)  # fmt: skip
    vae.fit(model, x, num_epochs=given.epochs, schedule=optimize.cosine, seed=0,
            checkpoint=given.out / f"vae-{latent_dim}")  # fmt: skip
    return model


TRAINERS: dict[str, Callable[[Tensor, int, Any], Model]] = {
    "PCA": train_pca,
    "linear": train_linear,
    "stacked": train_stacked,
    "convolutional": train_convolutional,
    "VAE": train_vae,
}


def write(ax: Any, name: str, given: Any) -> None:
    """Write a picture."""
    png = plots.png(ax)
    write_atomically(given.out / f"{name}.png", lambda file: file.write_bytes(png))


def images(given: Any, split: str) -> data.Dataset:
    """Return MNIST in [0, 1]."""
    return data.mnist(given.mnist, split).scaled()


def sizes(given: Any) -> None:
    """Print the test error of each model at each size, and draw it."""
    train, test = images(given, "train"), images(given, "test")
    errors: dict[str, dict[int, float]] = {}
    rows = {"original": test.x[:12]}
    print("model | L | test error | seconds", flush=True)
    for latent_dim in given.sizes:
        for name in given.models:
            start = time.monotonic()
            model = TRAINERS[name](train.x, latent_dim, given)
            found = model.reconstruct(test.x)
            error = (test.x - found).square().sum(dim=1).mean().item()
            errors.setdefault(name, {})[latent_dim] = error
            print(
                f"{name} | {latent_dim} | {error:.3f} | {time.monotonic() - start:.0f}", flush=True
            )
            draw(name, latent_dim, model, test, rows, given)
    write_atomically(
        given.out / "sizes.json", lambda file: file.write_text(json.dumps(errors, indent=1))
    )
    write(pictures.code_sizes(errors), "sizes", given)
    largest = [name for name in rows if name == "original" or name.endswith(str(given.sizes[-1]))]
    shown = {name.split(",")[0]: rows[name] for name in largest}
    write(pictures.image_rows(shown, test.shape, limits=(0, 1)), "reconstructions", given)


def draw(
    name: str,
    latent_dim: int,
    model: Model,
    test: data.Dataset,
    rows: dict[str, Tensor],
    given: Any,
) -> None:
    """Draw a model's codes and components, and note some reconstructions."""
    rows[f"{name}, {latent_dim}"] = model.reconstruct(test.x[:12])
    if latent_dim == 2:
        ax = pictures.codes(model.encode(test.x[:5000]), test.labels[:5000])  # type: ignore[index]
        write(ax, f"codes-{name}", given)
    if isinstance(model, linear.LinearFit):
        ax = pictures.components(model.directions[:20], test.shape)
        write(ax, f"components-{name}-{latent_dim}", given)


def gain(model: Model, clean: Tensor, noisy: Tensor) -> float:
    """Return by how many dB PSNR is higher after denoising than before."""
    denoised = model.reconstruct(noisy)
    return denoising.decibel(squared_error(clean, noisy) / squared_error(clean, denoised))


def denoise(given: Any) -> None:
    """Print the gains in PSNR, and draw noisy images, what is made of them, and the truth."""
    train, test = images(given, "train"), images(given, "test")
    kinds = {
        "gaussian": denoising.Gaussian(0.5),
        "masking": denoising.Masking(0.5),
        "salt and pepper": denoising.SaltAndPepper(0.3),
    }
    for name in given.noises:
        noise = kinds[name]
        model = autoencoders.conv(
            train.shape, 64, channels=given.channels, hidden_dims=(256,), seed=0
        )
        found = denoising.fit(
            train.x, model, noise=noise, patience=None, num_epochs=given.epochs,
            checkpoint=given.out / f"denoising-{name.replace(' ', '-')}", seed=0,
        )  # fmt: skip
        print(found, flush=True)
        assert found.plain is not None
        noisy = denoising.corrupt(test.x, noise, seed=0)
        models = {"trained without": found.plain, "denoised": found}
        gains = {name: gain(model, test.x, noisy) for name, model in models.items()}
        print(f"gain on the test images, dB: {gains}", flush=True)
        noisy = noisy[:12]
        rows = {"noisy": noisy, "trained without": found.plain.reconstruct(noisy),
                "denoised": found.reconstruct(noisy), "truth": test.x[:12]}  # fmt: skip
        write(pictures.image_rows(rows, test.shape, limits=(0, 1)), f"denoising-{name}", given)


def frey(given: Any) -> None:
    """Draw what each number of a face's code does."""
    faces = data.frey_faces(given.frey).scaled()
    for latent_dim in (2, 6):
        found = stacked.fit(
            faces.x, (200, 100, latent_dim), num_epochs=given.frey_epochs, seed=0,
            checkpoint=given.out / f"frey-{latent_dim}", learning_rate=3e-3,
        )  # fmt: skip
        print(f"Frey, L = {latent_dim}: {found}", flush=True)
        swept = autoencoders.traverse(found.autoencoder, faces.x)
        ax = plots.traversals(swept, faces.shape, limits=(0, 1))
        ax.set_xlabel("quantile of the codes, 2.5 % to 97.5 %")
        write(ax, f"frey-{latent_dim}", given)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mnist", help="the folder of MNIST's four files")
    parser.add_argument("--frey", help="the file frey_rawface.mat")
    parser.add_argument("--out", type=Path, required=True, help="where pictures and runs are kept")
    parser.add_argument("--what", nargs="+", choices=["sizes", "denoising", "frey"],
                        default=["sizes", "denoising"])  # fmt: skip
    parser.add_argument("--models", nargs="+", choices=list(TRAINERS), default=list(TRAINERS))
    parser.add_argument("--noises", nargs="+", default=["gaussian"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 8, 30])
    parser.add_argument("--epochs", type=int, default=20, help="of each part of a training")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--frey-epochs", type=int, default=200)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with precision.fast_matmul("cpu"):
        for what in given.what:
            {"sizes": sizes, "denoising": denoise, "frey": frey}[what](given)


if __name__ == "__main__":
    main()
