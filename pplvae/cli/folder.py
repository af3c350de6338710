"""What `pplvae vae train` leaves in its folder."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pplvae import plots, vae
from pplvae.cli.choices import limits
from pplvae.cli.judgment import known
from pplvae.cli.units import NUMBERS, Units
from pplvae.data import Dataset
from pplvae.vae import IWAE, Objective, VAEFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 14  # reconstructions
MOST_LABELS = 20
MOST_POINTS = 10_000  # of the latent plane


def write(
    out: Path, fit: VAEFit, dataset: Dataset, *, objective: Objective, seed: int, units: Units,
    flags: dict[str, Any],
) -> None:  # fmt: skip
    """Write the VAE, its numbers, the rows that were held out, and pictures, for those of before.

    Args:
        out: The folder.
        fit: The training.
        dataset: The data as they were modeled.
        objective: What was climbed.
        seed: Start of the draws.
        units: The map that brought the data to where they were modeled.
        flags: Of the command line, to be written down.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(fit, dataset, objective, seed)
    numbers = _numbers(fit, dataset) | {
        "seed": seed,
        "units": units,
        "pictures": [f"{name}.png" for name in pictures],
        "flags": {name: _plain(value) for name, value in flags.items()},
    }
    for name in _pictures_of_before(out):
        (out / name).unlink(missing_ok=True)
    fit.vae.save(out / "vae.safetensors")
    (out / NUMBERS).write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    np.save(out / "held_out.npy", fit.held_out.numpy())
    with plots.own_figures():
        for name, draw in pictures.items():
            (out / f"{name}.png").write_bytes(plots.png(draw()))


def _pictures_of_before(out: Path) -> list[str]:
    """Return the pictures that an earlier run says it wrote here."""
    try:
        names = json.loads((out / NUMBERS).read_text())["pictures"]
        return [name for name in names if Path(name).name == name and name.endswith(".png")]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else known(value)


def said(fit: VAEFit) -> str:
    """Return what to print of a fit."""
    elbo, history = fit.elbo, fit.history
    points = "held-out" if len(fit.held_out) else "training"
    return (
        f"ELBO {elbo.value:.2f} ± {elbo.standard_error:.2f} nats per point on "
        f"{len(elbo.per_point)} {points} points: {elbo.reconstruction:.2f} for the reconstruction "
        f"less {elbo.kl:.2f} for the code{_bits(elbo.bits_per_dimension)}\n"
        f"{len(history.losses)} epochs, {history.num_steps} steps, {history.seconds:.0f} seconds; "
        f"epoch {history.best_epoch + 1} was kept"
    )


def _bits(bits: float) -> str:
    return "" if math.isnan(bits) else f"; {bits:.4f} bits per dimension"


def _numbers(fit: VAEFit, dataset: Dataset) -> dict[str, object]:
    elbo, history = fit.elbo, fit.history
    found = {
        "data": dataset.name,
        "num_points": len(dataset),
        "num_held_out": len(fit.held_out),
        "likelihood": type(fit.vae.likelihood).__name__,
        "latent_dim": fit.vae.latent_dim,
        "elbo": elbo.value,
        "elbo_standard_error": elbo.standard_error,
        "reconstruction": elbo.reconstruction,
        "kl": elbo.kl,
        "bits_per_dimension": elbo.bits_per_dimension,
        "num_epochs": len(history.losses),
        "best_epoch": history.best_epoch,
        "stopped_early": history.stopped_early,
        "num_steps": history.num_steps,
        "seconds": history.seconds,
    }
    return {name: known(value) for name, value in found.items()}


def _pictures(
    fit: VAEFit, dataset: Dataset, objective: Objective, seed: int
) -> "dict[str, Callable[[], Axes]]":
    """Return what draws each picture, by file name."""
    model, shape, ends = fit.vae, dataset.shape, limits(fit.vae.likelihood)
    shown = dataset.x[fit.held_out[:SHOWN]] if len(fit.held_out) else dataset.x[:SHOWN]
    pictures: dict[str, Callable[[], Axes]] = {"training": lambda: _training(fit, objective)}
    if dataset.is_image:
        pictures["reconstructions"] = lambda: plots.pairs(
            shown, model.reconstruct(shown), shape, limits=ends
        )
        pictures["samples"] = lambda: plots.mosaic(
            model.sample(100, noise=False, seed=seed), shape, columns=20, limits=ends
        )
    if model.latent_dim == 2:
        pictures["latent"] = lambda: _plane(model, dataset)
        if dataset.is_image:
            grid = vae.manifold.grid
            pictures["manifold"] = lambda: plots.manifold(grid(model), shape, limits=ends)
    return pictures


def _training(fit: VAEFit, objective: Objective) -> "Axes":
    name = f"IWAE$_{{{objective.num_particles}}}$" if isinstance(objective, IWAE) else None
    judged = name or "ELBO"
    return plots.training(fit.history, unit="nats per point", objective=name, judged=judged)


def _plane(model: vae.VAE, dataset: Dataset) -> "Axes":
    some = torch.arange(len(dataset))[:: -(-len(dataset) // MOST_POINTS)]
    labels = dataset.labels
    if labels is not None:
        labels = None if len(labels.unique()) > MOST_LABELS else labels[some]
    ax = plots.points(model.encode(dataset.x[some]), labels, centers=labels is not None)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax
