"""Checkpoints of a run: plain tensors and numbers, whole or not there, never unpickled."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pplvae.optimize.batches import take
from pplvae.storage import write_atomically

FORMAT = "pplvae checkpoint 4"
ROWS = 16  # of the data, evenly spaced, by which they are known again
SAME = 1e-3  # of the spread of a column: what another number of threads rounds is far below
ROUNDING = 100.0  # machine precisions of its numbers, for a column that is constant but for those

# What a run has of the same name.
KEPT = (
    "about", "seed", "losses", "validation", "monitored", "num_steps", "best", "best_epoch",
    "best_loss", "stopped", "position", "totals", "count", "rate", "learning_rate",
)  # fmt: skip
BESIDE = ("parameters", "buffers", "optimizer", "seconds", "random_state")

Mark: TypeAlias = str | tuple[int, Tensor]


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
    whole = isinstance(state, dict) and state.keys() >= {*KEPT, *BESIDE}
    if not whole or state.get("format") != FORMAT:
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


def marks(about: Mapping[str, Any]) -> dict[str, Mark]:
    """Return that by which the parts of a run are known again.

    Of rows of numbers these are their number and some of them; of anything else its words.
    """
    return {name: _mark(part) for name, part in about.items()}


def check_about(path: Path, theirs: Mapping[str, Mark], ours: Mapping[str, Mark]) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        ValueError: Naming what differs.
    """
    names = [name for name in {**theirs, **ours} if not _same(theirs.get(name), ours.get(name))]
    if names:
        raise ValueError(
            f"checkpoint {path} must be of the run that is to go on, got one with other "
            f"{', '.join(names)}: name another file or delete it"
        )


def _mark(part: Any) -> Mark:
    if not isinstance(part, Tensor | np.ndarray):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(part))
    chosen = torch.linspace(0, len(part) - 1, min(ROWS, len(part))).long()
    rows = take(part, chosen.to(part.device) if isinstance(part, Tensor) else chosen)
    rows = rows.detach().cpu() if rows.is_floating_point() else rows.cpu().double()
    return len(part), rows.unsqueeze(-1).flatten(1)


def _same(theirs: Mark | None, ours: Mark | None) -> bool:
    if not isinstance(theirs, tuple) or not isinstance(ours, tuple):
        return theirs == ours
    (size, rows), (other_size, others) = theirs, ours
    if size != other_size or rows.shape != others.shape:
        return False
    eps = max(torch.finfo(part.dtype).eps for part in (rows, others))
    rows, others = rows.double(), others.double()
    # Each column by itself: numbers as large as a year would hide all beside them.
    allowed = SAME * _lengths(rows - rows.mean(dim=0)) + ROUNDING * eps * _lengths(rows)
    return bool((_lengths(rows - others) <= allowed).all())


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=0)


def _shapes(tensors: list[Tensor]) -> str:
    shapes = [f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors]
    return ", ".join(shapes) or "none"
