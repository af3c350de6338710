"""An autoencoder on disk: one safetensors file, the recipe as JSON in its header. No pickle."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pplvae import randomness
from pplvae.autoencoders.builders import BUILDERS
from pplvae.autoencoders.model import Autoencoder
from pplvae.storage import write_atomically
from pplvae.validation import check_one_of

FORMAT = "pplvae autoencoder 1"


def save(autoencoder: Autoencoder, path: str | os.PathLike[str]) -> None:
    """Write an autoencoder to `path`, whole or not at all."""
    header = {"format": FORMAT, "recipe": json.dumps(autoencoder.recipe)}
    # Cloned, since safetensors refuses weights that share their memory, as tied ones do.
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in autoencoder.state_dict().items()
    }
    write_atomically(Path(path), lambda name: save_file(weights, name, metadata=header))


def load(path: str | os.PathLike[str], into: Autoencoder | None = None) -> Autoencoder:
    """Return the autoencoder at `path`; see `Autoencoder.load`."""
    header, weights = _read(Path(path))
    found = _rebuilt(Path(path), header, weights) if into is None else into
    _check_fits(Path(path), weights, found.state_dict())
    found.load_state_dict(weights)
    return found


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.exists():
        raise FileNotFoundError(
            f"path must name a saved autoencoder, got {path}, which does not exist"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path must name a saved autoencoder, got {path}: {error}") from error
    if header.get("format") != FORMAT:
        kind = header.get("format", "a foreign safetensors file")
        raise ValueError(
            f"path must name a saved autoencoder, of format {FORMAT}, got {path}, {kind}"
        )
    return header, weights


def _rebuilt(path: Path, header: dict[str, str], weights: dict[str, Tensor]) -> Autoencoder:
    recipe = json.loads(header["recipe"])
    if recipe is None:
        raise ValueError(
            f"into must be an autoencoder to take the weights of {path}, got None: its networks "
            "were not made by this library, so they cannot be made again from the file"
        )
    builder = recipe.pop("builder")
    check_one_of("builder", builder, BUILDERS)
    with randomness.scope(0):  # what is drawn is overwritten
        return BUILDERS[builder](**recipe, dtype=weights["center"].dtype)


def _check_fits(path: Path, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    """Refuse other names, shapes or dtypes, before any weight is overwritten."""
    for name in sorted(theirs.keys() | ours.keys()):
        found, wanted = _said(theirs.get(name)), _said(ours.get(name))
        if found != wanted:
            raise ValueError(
                f"the weights in {path} must fit the autoencoder, got {found} for {name}, not "
                f"{wanted}"
            )


def _said(weight: Tensor | None) -> str:
    if weight is None:
        return "nothing"
    return f"{list(weight.shape)} {str(weight.dtype).removeprefix('torch.')}"
