"""A VAE on disk: one safetensors file, the recipe as JSON in its header. No pickle."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pplvae import randomness
from pplvae.networks import same_layers
from pplvae.storage import check_fits, read_weights, write_weights
from pplvae.vae.builders import BUILDERS
from pplvae.vae.likelihoods import LIKELIHOODS, Likelihood
from pplvae.vae.model import VAE
from pplvae.vae.posteriors import POSTERIORS, Posterior
from pplvae.vae.priors import PRIORS, Prior
from pplvae.validation import check_one_of

Law: TypeAlias = Likelihood | Prior | Posterior

FORMAT = "pplvae VAE 2"
KIND = "a saved VAE"
LAWS: dict[str, Mapping[str, Callable[..., Law]]] = {
    "likelihood": LIKELIHOODS,
    "prior": PRIORS,
    "posterior": POSTERIORS,
    "upper_posterior": POSTERIORS,
}


def save(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write `vae` to `path`, whole or not at all."""
    recipe = _recipe(vae)
    if recipe is not None and not same_layers(vae, _made(recipe)):
        recipe = None  # layers were changed since it was built
    write_weights(Path(path), vae.state_dict(), form=FORMAT, recipe=recipe)


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
    path = Path(path)
    weights, recipe = read_weights(path, form=FORMAT, kind=KIND)
    dtype = next((w.dtype for w in weights.values() if w.is_floating_point()), None)
    vae = _rebuilt(path, recipe, dtype=dtype) if into is None else into
    check_fits(path, weights, vae.state_dict(), "the VAE")
    for name, _ in vae.named_parameters(remove_duplicate=False):
        if not weights[name].isfinite().all():
            raise ValueError(f"path must name {KIND}, got {path}: {name} is not finite")
    vae.load_state_dict(weights)
    return vae


def _rebuilt(path: Path, recipe: dict[str, Any] | None, **options: Any) -> VAE:
    if recipe is None:
        raise ValueError(
            f"into must be a VAE to take the weights of {path}, got None: its networks were not "
            "made by a builder, or changed since, or a law has no name, so they cannot be made "
            "again from the file"
        )
    try:
        return _made(recipe, **options)
    except Exception as error:  # a recipe that was edited can be wrong in any way
        raise ValueError(f"path must name {KIND}, got {path}: {error}") from error


def _made(recipe: dict[str, Any], **options: Any) -> VAE:
    """Return a VAE of the same layers and laws."""
    recipe = dict(recipe)
    builder = recipe.pop("builder")
    check_one_of("builder", builder, BUILDERS)
    prior_dim = recipe.get("latent_dims", [recipe.get("latent_dim")])[-1]
    with randomness.scope(0):  # what is drawn is overwritten
        laws = {kind: _law(kind, recipe.pop(kind), prior_dim) for kind in LAWS if kind in recipe}
        return BUILDERS[builder](**recipe, **laws, **options)


def _law(kind: str, saved: tuple[str, dict[str, Any]], prior_dim: int) -> Law:
    name, options = saved
    check_one_of(kind, name, LAWS[kind])
    sizes = [prior_dim] if kind == "prior" else []
    return LAWS[kind][name](*sizes, **options)
