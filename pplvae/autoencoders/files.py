"""An autoencoder on disk: one safetensors file, the recipe as JSON in its header. No pickle."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from pplvae import randomness
from pplvae.autoencoders.builders import BUILDERS
from pplvae.autoencoders.model import Autoencoder
from pplvae.networks import same_layers
from pplvae.storage import check_fits, read_weights, write_weights
from pplvae.validation import check_one_of

FORMAT = "pplvae autoencoder 1"


def save(autoencoder: Autoencoder, path: str | os.PathLike[str]) -> None:
    """Write an autoencoder to `path`, whole or not at all."""
    weights, recipe = autoencoder.state_dict(), autoencoder.recipe
    if recipe is not None and not same_layers(autoencoder, _made(recipe)):
        recipe = None  # layers were changed since it was built
    write_weights(Path(path), weights, form=FORMAT, recipe=recipe)


def load(path: str | os.PathLike[str], into: Autoencoder | None = None) -> Autoencoder:
    """Return the autoencoder at `path`; see `Autoencoder.load`."""
    path = Path(path)
    weights, recipe = read_weights(path, form=FORMAT, kind="a saved autoencoder")
    found = _rebuilt(path, recipe, weights) if into is None else into
    check_fits(path, weights, found.state_dict(), "the autoencoder")
    found.load_state_dict(weights)
    return found


def _rebuilt(path: Path, recipe: dict[str, Any] | None, weights: dict[str, Tensor]) -> Autoencoder:
    if recipe is None:
        raise ValueError(
            f"into must be an autoencoder to take the weights of {path}, got None: its networks "
            "were not made by this library, or changed since, so they cannot be made again from "
            "the file"
        )
    try:
        return _made(recipe, dtype=weights["center"].dtype)
    except (KeyError, TypeError) as error:
        raise ValueError(f"path must name a saved autoencoder, got {path}: {error}") from error


def _made(recipe: dict[str, Any], **options: Any) -> Autoencoder:
    """Return an autoencoder of the same layers."""
    sizes = dict(recipe)
    builder = sizes.pop("builder")
    check_one_of("builder", builder, BUILDERS)
    with randomness.scope(0):  # what is drawn is overwritten
        return BUILDERS[builder](**sizes, **options)
