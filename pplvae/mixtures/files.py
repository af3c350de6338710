"""A mixture in a file: its three tensors, and a line that says what they are (safetensors)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from pplvae.storage import read_weights, write_weights

FORMAT = "pplvae GaussianMixture 1"

Made = TypeVar("Made")


def write(path: str | os.PathLike[str], parts: dict[str, Tensor]) -> None:
    """Write tensors to `path`, whole or not at all."""
    write_weights(Path(path), parts, form=FORMAT)


def read(path: str | os.PathLike[str], make: Callable[[dict[str, Tensor]], Made]) -> Made:
    """Return what `make` makes of the tensors that `write` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut off, holds something else, or nothing can be made of it.
    """
    weights, _ = read_weights(Path(path), form=FORMAT, kind="a saved mixture")
    try:
        return make(weights)
    except (KeyError, ValueError) as error:
        raise ValueError(f"path must name a saved mixture, got {path}: {error}") from error
