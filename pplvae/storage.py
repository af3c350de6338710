"""Files that are whole or not there: written under a temporary name, then renamed.

Tensors go into safetensors files, which hold numbers and text and nothing that could run. The
header names the format, so that a file of another kind is refused, and may hold a recipe as JSON.
"""

import glob
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename that file to `path`.

    A reader, or a run that is killed meanwhile, never sees half a file. Missing folders are made.
    The temporary name keeps the ending of `path`, which some writers go by.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path, write)
    except FileNotFoundError:  # another process called `remove_left_over` meanwhile
        _write(path, write)


def remove_left_over(path: Path) -> None:
    """Remove the temporary files of writers of `path` that were killed.

    That of a writer at work is removed too, who then writes it again.
    """
    for temporary in path.parent.glob(f".{'[0-9a-f]' * 8}.{glob.escape(path.name)}"):
        temporary.unlink(missing_ok=True)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # the user's umask; safetensors makes private files
        write(temporary)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class Saved(NamedTuple):
    """What a file of tensors holds.

    Attributes:
        weights: The tensors by name.
        recipe: How to make again what they belong to; None where it was not noted.
    """

    weights: dict[str, Tensor]
    recipe: dict[str, Any] | None


def write_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    form: str,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors to a safetensors file, whole or not at all.

    Args:
        path: The file.
        weights: The tensors by name; they may share their memory, as tied weights do.
        form: The name and version of the format, such as "pplvae VAE 2".
        recipe: How to make again what they belong to.
    """
    copies = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    header = {"format": form, "recipe": json.dumps(recipe)}
    write_atomically(path, lambda name: save_file(copies, name, metadata=header))


def read_weights(path: Path, *, form: str, kind: str) -> Saved:
    """Return what `write_weights` wrote.

    Args:
        path: The file.
        form: The format that it must have.
        kind: What it is, for messages: "a saved VAE".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut off, foreign, of another format, or its recipe is no recipe.
    """
    if not path.exists():
        raise FileNotFoundError(f"path must name {kind}, got {path}, which does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path must name {kind}, got {path}: {error}") from error
    found = header.get("format", "a foreign safetensors file")
    if found != form:
        raise ValueError(f"path must name {kind}, of format {form}, got {path}, {found}")
    try:
        recipe = json.loads(header.get("recipe", "null"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path must name {kind}, got {path}, whose recipe is no JSON") from error
    if not isinstance(recipe, dict | None):
        raise ValueError(f"path must name {kind}, got {path}, of the recipe {recipe!r}")
    return Saved(weights, recipe)


def check_fits(
    path: Path, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], kind: str
) -> None:
    """Refuse weights of other names, shapes or dtypes, before any is overwritten.

    Raises:
        ValueError: If those of the file at `path` are not those of `kind`, "the VAE".
    """
    for name in sorted(theirs.keys() | ours.keys()):
        found, wanted = _said(theirs.get(name)), _said(ours.get(name))
        if found != wanted:
            raise ValueError(
                f"the weights in {path} must fit {kind}, got {found} for {name}, not {wanted}"
            )


def _said(weight: Tensor | None) -> str:
    if weight is None:
        return "nothing"
    return f"{list(weight.shape)} {str(weight.dtype).removeprefix('torch.')}"
