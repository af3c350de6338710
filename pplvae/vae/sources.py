"""Where a VAE's data come from: memory, a file, or a loader.

Each deals batches for training and walks its points in order; `ready` turns what it deals into
points of the VAE's dtype on its device. Of a file only the rows of a batch are ever in memory.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pplvae.optimize import Batches, from_loader, minibatches, take
from pplvae.vae.model import VAE
from pplvae.validation import Array

Data: TypeAlias = Array | Iterable[Any]
MOST = 10_000  # points of a file or a loader on which a bound is reported
BLOCK = 1000  # rows of a file that are looked at together


class Source:
    """Points of a VAE. A subclass says how they are dealt.

    Args:
        vae: The VAE.
        name: What the caller calls the points, for the error messages.
    """

    has_rows = True  # whether there is a number of points, and one can be asked for by its own

    def __init__(self, vae: VAE, name: str) -> None:
        self.vae, self.name = vae, name

    def __len__(self) -> int:
        raise NotImplementedError

    def batches(self, batch_size: int) -> Batches:
        """Return what deals the points for training."""
        raise NotImplementedError

    def blocks(self, batch_size: int) -> Iterable[Tensor]:
        """Return all points in order, as they are dealt."""
        raise NotImplementedError

    def ready(self, batch: Tensor) -> Tensor:
        """Return points, shape (B, D), for what was dealt."""
        raise NotImplementedError

    def subset(self, rows: Tensor) -> "Source":
        """Return the points of these numbers."""
        raise NotImplementedError

    def walk(self, batch_size: int) -> Iterator[Tensor]:
        """Yield all points once, in order, so many at a time; a loader's in its own batches."""
        return map(self.ready, self.blocks(batch_size))

    def some(self) -> Tensor:
        """Return points to report a bound on: all that are in memory, else the first 10,000."""
        found, size = list[Tensor](), 0
        for block in self.walk(BLOCK):
            found.append(block)
            size += len(block)
            if size >= MOST:
                break
        return torch.cat(found)[:MOST]


class Memory(Source):
    """Points in a tensor, checked once."""

    def __init__(self, vae: VAE, name: str, x: Tensor) -> None:
        super().__init__(vae, name)
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, batch_size: int) -> Batches:
        """Return random minibatches."""
        return minibatches(self.x, batch_size=batch_size)

    def blocks(self, batch_size: int) -> Iterable[Tensor]:
        """Return blocks of rows."""
        return self.x.split(batch_size)

    def ready(self, batch: Tensor) -> Tensor:
        """Return the batch itself."""
        return batch

    def subset(self, rows: Tensor) -> Source:
        """Return the points of these numbers."""
        return Memory(self.vae, self.name, self.x[rows.to(self.x.device)])

    def some(self) -> Tensor:
        """Return all points."""
        return self.x


class File(Source):
    """Rows of a memory map; what is dealt are their numbers."""

    def __init__(self, vae: VAE, name: str, array: np.ndarray, rows: Tensor) -> None:
        super().__init__(vae, name)
        self.array, self.rows = array, rows

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int) -> Batches:
        """Return random minibatches of row numbers."""
        return minibatches(self.rows, batch_size=batch_size)

    def blocks(self, batch_size: int) -> Iterable[Tensor]:
        """Return blocks of row numbers."""
        return self.rows.split(batch_size)

    def ready(self, batch: Tensor) -> Tensor:
        """Return the rows, read from the file."""
        return self.vae.points(_flat(take(self.array, batch)), name=self.name)

    def subset(self, rows: Tensor) -> Source:
        """Return the points of these numbers."""
        return File(self.vae, self.name, self.array, self.rows[rows])


class Loader(Source):
    """Batches that something else deals; each is checked."""

    has_rows = False

    def __init__(self, vae: VAE, name: str, loader: Iterable[Any]) -> None:
        super().__init__(vae, name)
        self.deal = from_loader(loader, name=name)

    def batches(self, batch_size: int) -> Batches:
        """Return the loader's own batches."""
        return self.deal

    def blocks(self, batch_size: int) -> Iterable[Tensor]:
        """Return the loader's own batches."""
        return (batch for (batch,) in self.deal(torch.default_generator))

    def ready(self, batch: Tensor) -> Tensor:
        """Return the batch, checked."""
        return _checked(self.vae, _flat(batch), self.name)


def as_source(vae: VAE, data: Data, name: str = "x") -> Source:
    """Return data as a source, all that can be looked at beforehand checked.

    Raises:
        ValueError: If they are not finite points of the VAE's dimension, or the likelihood cannot
            have produced them.
    """
    if isinstance(data, np.memmap):
        source = File(vae, name, data, torch.arange(len(data)))
        for block in source.walk(BLOCK):
            vae.likelihood.check(block)
        return source
    if isinstance(data, Tensor | np.ndarray | list | tuple):
        return Memory(vae, name, _checked(vae, data, name))  # type: ignore[arg-type]
    return Loader(vae, name, data)


def _checked(vae: VAE, x: Array, name: str) -> Tensor:
    """Return points that the likelihood can have produced."""
    points = vae.points(x, name=name)
    vae.likelihood.check(points)
    return points


def _flat(batch: Tensor) -> Tensor:
    """Return images, shape (B, …), as points, shape (B, D)."""
    return batch.flatten(1) if batch.dim() > 2 else batch
