"""A VAE on disk: one safetensors file, the recipe as JSON in its header. No pickle."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pplvae.storage import write_atomically
from pplvae.vae.builders import mlp
from pplvae.vae.likelihoods import LIKELIHOODS
from pplvae.vae.model import VAE

FORMAT = "pplvae VAE 1"


def save(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write `vae` to `path`, whole or not at all."""
    names = {law: name for name, law in LIKELIHOODS.items()}
    kind = names.get(type(vae.likelihood))
    recipe = None
    if vae.recipe is not None and kind is not None:
        recipe = vae.recipe | {"likelihood": kind, "options": vae.likelihood.config()}
    header = {"format": FORMAT, "recipe": json.dumps(recipe)}
    # Cloned, since safetensors refuses weights that share their memory.
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in vae.state_dict().items()
    }
    write_atomically(Path(path), lambda name: save_file(weights, name, metadata=header))


def load(path: str | os.PathLike[str], into: VAE | None = None) -> VAE:
    """Return the VAE at `path`; see `VAE.load`."""
    header, weights = _read(Path(path))
    vae = _rebuild(Path(path), header, weights) if into is None else into
    _check_fits(Path(path), weights, vae.state_dict())
    vae.load_state_dict(weights)
    return vae


def _check_fits(path: Path, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    """Refuse other names, shapes or dtypes, before any weight is overwritten."""
    for name in sorted(theirs.keys() | ours.keys()):
        found, wanted = _said(theirs.get(name)), _said(ours.get(name))
        if found != wanted:
            raise ValueError(
                f"the weights in {path} must fit the VAE, got {found} for {name}, not {wanted}"
            )


def _said(weight: Tensor | None) -> str:
    if weight is None:
        return "nothing"
    return f"{list(weight.shape)} {str(weight.dtype).removeprefix('torch.')}"


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.exists():
        raise FileNotFoundError(f"path must name a saved VAE, got {path}, which does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path must name a saved VAE, got {path}: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"path must name a saved VAE, got {path}, a foreign safetensors file")
    return header, weights


def _rebuild(path: Path, header: dict[str, str], weights: dict[str, Tensor]) -> VAE:
    recipe = json.loads(header["recipe"])
    if recipe is None:
        raise ValueError(
            f"into must be a VAE to take the weights of {path}, got None: its networks were not "
            "made by a builder, so they cannot be made again from the file"
        )
    likelihood = LIKELIHOODS[recipe.pop("likelihood")](**recipe.pop("options"))
    dtype = next(w.dtype for w in weights.values() if w.is_floating_point())
    return mlp(**recipe, likelihood=likelihood, dtype=dtype)
