"""How data are dealt to the gradient loop: a function of a generator that gives one epoch.

Rows in memory or in a file are dealt in a new random order each epoch; a loader, say torch's
`DataLoader`, deals as it likes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pplvae import distributed
from pplvae.validation import check_whole

Batch: TypeAlias = Sequence[Tensor]
Batches: TypeAlias = Callable[[torch.Generator], Iterable[Batch]]
Rows: TypeAlias = Tensor | np.ndarray


def one_batch(generator: torch.Generator) -> Iterable[Batch]:
    """Return one empty batch: the epoch of a loss that holds its data itself is one step."""
    return [()]


class minibatches:
    """Deals rows in batches, in a new random order each epoch.

    Args:
        tensors: Tensors, or arrays such as NumPy's memory maps, that share their first axis,
            shapes (N, …). Of an array only the rows of a batch are read.
        batch_size: Rows in a batch over all processes; the last one may be smaller. Processes get
            equal shares: the rows of a batch that are left over, fewer than processes, are left
            out.

    Raises:
        ValueError: If the lengths differ, or the batch size is below the number of processes.
    """

    def __init__(self, *tensors: Rows, batch_size: int) -> None:
        sizes = {len(tensor) for tensor in tensors}
        if len(sizes) != 1:
            raise ValueError(f"tensors must share their first axis, got lengths {sorted(sizes)}")
        check_whole("batch_size", batch_size, distributed.world_size())
        (self.num_rows,) = sizes
        self.tensors, self.batch_size = tensors, batch_size

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.num_rows // self.batch_size)

    def __call__(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        world, rank = distributed.world_size(), distributed.rank()
        first = self.tensors[0]
        order = torch.randperm(self.num_rows, generator=generator)
        order = order.to(first.device) if isinstance(first, Tensor) else order
        for rows in order.split(self.batch_size):
            shared = rows[: len(rows) // world * world]
            if len(shared):
                yield [take(tensor, shared[rank::world]) for tensor in self.tensors]


def take(rows: Rows, chosen: Tensor) -> Tensor:
    """Return the chosen rows, read from the file where they lie in one."""
    if isinstance(rows, Tensor):
        return rows[chosen]
    # In the order of the file, which a disk likes, then in the order asked for.
    indices, back = np.unique(chosen.numpy(), return_inverse=True)
    return torch.from_numpy(np.asarray(rows[indices])[back.reshape(-1)])


class from_loader:
    """Deals the batches of an iterable that can be walked again and again, say a `DataLoader`.

    Args:
        loader: Gives batches: a tensor or array, or a sequence whose first is one, as torch's
            `TensorDataset` gives them with labels behind.

    Raises:
        ValueError: If it can be walked only once, or a batch is no such thing.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if iter(loader) is loader:
            raise ValueError(
                "loader must be walked once an epoch, got an iterator, which is walked only once"
            )
        self.loader = loader

    def __len__(self) -> int:
        """Return the number of batches in an epoch, where the loader says."""
        return len(self.loader)  # type: ignore[arg-type]

    def __call__(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch; a loader's order comes from torch's global generator."""
        for batch in self.loader:
            points = batch[0] if isinstance(batch, list | tuple) else batch
            if not isinstance(points, Tensor | np.ndarray):
                raise ValueError(f"loader must give tensors, got {type(points).__name__}")
            yield [torch.as_tensor(points)]
