"""An autoencoder on disk: one safetensors file, the recipe as JSON in its header. No pickle."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae.autoencoders.builders import BUILDERS
from pplvae.autoencoders.model import Autoencoder
from pplvae.networks import same_layers
from pplvae.storage import check_fits, read_weights, write_weights
from pplvae.validation import as_tensor, check_one_of, check_positive

FORMAT = "pplvae autoencoder 1"
KIND = "a saved autoencoder"


def save(autoencoder: Autoencoder, path: str | os.PathLike[str]) -> None:
    """Write an autoencoder to `path`, whole or not at all."""
    weights, recipe = autoencoder.state_dict(), autoencoder.recipe
    if recipe is not None and not same_layers(autoencoder, _made(recipe)):
        recipe = None  # layers were changed since it was built
    write_weights(Path(path), weights, form=FORMAT, recipe=recipe)


def load(path: str | os.PathLike[str], into: Autoencoder | None = None) -> Autoencoder:
    """Return the autoencoder at `path`; see `Autoencoder.load`."""
    path = Path(path)
    weights, recipe = read_weights(path, form=FORMAT, kind=KIND)
    found = _rebuilt(path, recipe, weights) if into is None else into
    if into is not None and recipe is not None:
        _check_layers(path, into, _rebuilt(path, recipe, weights))
    check_fits(path, weights, found.state_dict(), "the autoencoder")
    _check_numbers(path, found, weights)
    if into is None:
        found.to_empty(device=torch.get_default_device())
    found.load_state_dict(weights)
    return found


def _check_layers(path: Path, into: Autoencoder, saved: Autoencoder) -> None:
    if not same_layers(into, saved):
        raise ValueError(f"into must have the layers of {path}, got others:\n{into.summary()}")


def _check_numbers(path: Path, found: Autoencoder, weights: dict[str, Tensor]) -> None:
    """Refuse weights that are not finite, and a scale or a variance that is not positive."""
    learned = [name for name, _ in found.named_parameters(remove_duplicate=False)]
    try:
        for name in [*learned, "center"]:
            as_tensor(weights[name], name=name)
        for name in weights.keys() & {"scale", "variance"}:
            check_positive(name, weights[name])
    except ValueError as error:
        raise ValueError(f"path must name {KIND}, got {path}: {error}") from error


def _rebuilt(path: Path, recipe: dict[str, Any] | None, weights: dict[str, Tensor]) -> Autoencoder:
    if recipe is None:
        raise ValueError(
            f"into must be an autoencoder to take the weights of {path}, got None: its networks "
            "were not made by this library, or changed since, so they cannot be made again from "
            "the file"
        )
    try:
        return _made(recipe, dtype=weights["center"].dtype)
    except Exception as error:  # a recipe that was edited can be wrong in any way
        raise ValueError(f"path must name {KIND}, got {path}: {error}") from error


def _made(recipe: dict[str, Any], **options: Any) -> Autoencoder:
    """Return an autoencoder of the same layers, without numbers and so without their memory."""
    sizes = dict(recipe)
    builder = sizes.pop("builder")
    check_one_of("builder", builder, BUILDERS)
    with torch.device("meta"):
        return BUILDERS[builder](**sizes, **options)
