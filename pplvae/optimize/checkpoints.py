"""Checkpoints of a run: plain tensors and numbers, whole or not there, never unpickled."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae.storage import write_atomically

FORMAT = "pplvae checkpoint 2"


def checkpoint_seed(path: str | os.PathLike[str]) -> int | None:
    """Return the seed of the run that a checkpoint belongs to; None where there is no such file.

    Raises:
        ValueError: If the file is not a checkpoint.
    """
    return int(read(Path(path))["seed"]) if Path(path).exists() else None


def write(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run to `path`."""
    whole = {"format": FORMAT, **state}
    write_atomically(path, lambda temporary: torch.save(whole, temporary))


def read(path: Path) -> dict[str, Any]:
    """Return the state at `path`.

    Raises:
        ValueError: If the file is not a checkpoint.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        # torch's own message advises to load the file unsafely.
        raise ValueError(
            f"checkpoint {path} must be a checkpoint of this library, got a file that cannot be "
            f"read ({type(error).__name__}): name another file or delete it"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint {path} must be a checkpoint of this library, got another file"
        )
    return state


def check_fits(path: Path, name: str, theirs: list[Tensor], ours: list[Tensor]) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        ValueError: Naming the shapes on both sides.
    """
    found, wanted = _shapes(theirs), _shapes(ours)
    if found != wanted:
        raise ValueError(
            f"checkpoint {path} must hold {name} {wanted}, got {found}: "
            "it belongs to another model; name another file or delete it"
        )


def _shapes(tensors: list[Tensor]) -> str:
    shapes = [f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors]
    return ", ".join(shapes) or "none"
