"""Points that do not fit in memory, block by block, as often as they are asked for."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from pplvae.validation import as_points

Blocks: TypeAlias = Iterable[Any] | Callable[[], Iterable[Any]]
BLOCK_ROWS = 2**16  # of a memory map


def is_in_blocks(x: Any) -> bool:
    """Return whether x is to be read block by block: a memory map, or no array at all.

    A list of numbers, or of rows of numbers, is an array.
    """
    if isinstance(x, np.memmap):
        return True
    if isinstance(x, list | tuple) and len(x):
        row = x[0]
        first = row[0] if isinstance(row, list | tuple) and len(row) else row
        return not isinstance(first, float | int | np.number)
    return not (isinstance(x, Tensor | float | int) or hasattr(x, "__array__"))


def reader(x: Any) -> Callable[[], Iterator[Tensor]]:
    """Return what reads the blocks from the start, each a checked tensor (B, D)."""
    readable = callable(x) or (isinstance(x, Iterable) and iter(x) is not x)
    if not readable:
        raise ValueError(
            "x must be an array, or blocks that can be read again and again (a list, a "
            f"DataLoader, a function that returns them), got {type(x).__name__}"
        )

    def read_blocks() -> Iterator[Tensor]:
        dim = None
        for block in _blocks(x):
            found = as_points(_points_of(block), name="a block of x")
            if dim is not None and found.shape[1] != dim:
                raise ValueError(f"blocks must have {dim} columns, got {found.shape[1]}")
            dim = found.shape[1]
            yield found

    return read_blocks


def _points_of(block: Any) -> Any:
    """Return the points of a block: of what a DataLoader gives, the first part."""
    if not isinstance(block, list | tuple):
        return block
    return block[0] if isinstance(block[0], Tensor | np.ndarray) else np.asarray(block)


def _blocks(x: Any) -> Iterator[Any]:
    if isinstance(x, np.memmap):
        for start in range(0, len(x), BLOCK_ROWS):
            yield np.array(x[start : start + BLOCK_ROWS])
    else:
        blocks: Any = x() if callable(x) else x
        yield from blocks
