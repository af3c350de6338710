"""A VAE on disk: one safetensors file, the recipe as JSON in its header. No pickle."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pplvae import randomness
from pplvae.storage import write_atomically
from pplvae.vae.builders import BUILDERS
from pplvae.vae.likelihoods import LIKELIHOODS, Likelihood
from pplvae.vae.model import VAE
from pplvae.vae.posteriors import POSTERIORS, Posterior
from pplvae.vae.priors import PRIORS, Prior
from pplvae.validation import check_one_of

Law: TypeAlias = Likelihood | Prior | Posterior

FORMAT = "pplvae VAE 2"
LAWS: dict[str, Mapping[str, Callable[..., Law]]] = {
    "likelihood": LIKELIHOODS,
    "prior": PRIORS,
    "posterior": POSTERIORS,
    "upper_posterior": POSTERIORS,
}


def save(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write `vae` to `path`, whole or not at all."""
    header = {"format": FORMAT, "recipe": json.dumps(_recipe(vae))}
    # Cloned, since safetensors refuses weights that share their memory.
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in vae.state_dict().items()
    }
    write_atomically(Path(path), lambda name: save_file(weights, name, metadata=header))


def _recipe(vae: VAE) -> dict[str, Any] | None:
    """Return the builder's recipe and the laws as (name, keywords); None where one has no name."""
    laws = {kind: _named(kind, getattr(vae, kind)) for kind in LAWS if hasattr(vae, kind)}
    if vae.recipe is None or None in laws.values():
        return None
    return vae.recipe | laws


def _named(kind: str, law: Law) -> tuple[str, dict[str, Any]] | None:
    names = [name for name, known in LAWS[kind].items() if known is type(law)]
    return (names[0], law.config()) if names else None


def load(path: str | os.PathLike[str], into: VAE | None = None) -> VAE:
    """Return the VAE at `path`; see `VAE.load`."""
    header, weights = _read(Path(path))
    if into is None:
        with randomness.scope(0):  # what is drawn is overwritten
            vae = _rebuild(Path(path), header, weights)
    else:
        vae = into
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
        kind = header.get("format", "a foreign safetensors file")
        raise ValueError(f"path must name a saved VAE, of format {FORMAT}, got {path}, {kind}")
    return header, weights


def _rebuild(path: Path, header: dict[str, str], weights: dict[str, Tensor]) -> VAE:
    recipe = json.loads(header["recipe"])
    if recipe is None:
        raise ValueError(
            f"into must be a VAE to take the weights of {path}, got None: its networks were not "
            "made by a builder, or a law has no name, so they cannot be made again from the file"
        )
    builder = recipe.pop("builder")
    check_one_of("builder", builder, BUILDERS)
    prior_dim = recipe.get("latent_dims", [recipe.get("latent_dim")])[-1]
    laws = {kind: _law(kind, recipe.pop(kind), prior_dim) for kind in LAWS if kind in recipe}
    dtype = next(w.dtype for w in weights.values() if w.is_floating_point())
    return BUILDERS[builder](**recipe, **laws, dtype=dtype)


def _law(kind: str, saved: tuple[str, dict[str, Any]], prior_dim: int) -> Law:
    name, options = saved
    check_one_of(kind, name, LAWS[kind])
    sizes = [prior_dim] if kind == "prior" else []
    return LAWS[kind][name](*sizes, **options)
