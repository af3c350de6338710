"""How data are dealt to the gradient loop: a function of a generator that gives one epoch.

Rows in memory or in a file are dealt in a new random order each epoch; a loader, say torch's
`DataLoader`, deals as it likes.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pplvae import distributed, randomness
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
        full, rest = divmod(self.num_rows, self.batch_size)
        return full + (rest >= distributed.world_size())

    @property
    def about(self) -> dict[str, Any]:
        """What must be the same where a run goes on from its checkpoint."""
        return {"data": self.tensors[0], "batch_size": self.batch_size}

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
    indices, back = np.unique(chosen.cpu().numpy(), return_inverse=True)
    found = np.asarray(rows[indices])[back.reshape(-1)]
    # torch knows the byte order of this machine only, and files come in both.
    return torch.from_numpy(found.astype(found.dtype.newbyteorder("="), copy=False))


class from_loader:
    """Deals the batches of an iterable that can be walked again and again, say a `DataLoader`.

    An epoch depends on its generator alone, so that a run can be resumed: for each walk NumPy's
    and Python's generators and those of a `DataLoader` and its samplers are started anew, and a
    sampler that has `set_epoch` is told of a new one; torch's own is up to the caller.

    Args:
        loader: Gives batches: a tensor or array, or a sequence whose first is one, as torch's
            `TensorDataset` gives them with labels behind.
        name: What the caller calls it, for the error messages.

    Raises:
        ValueError: If it can be walked only once or not at all, or a batch is no such thing.
    """

    def __init__(self, loader: Iterable[Any], *, name: str = "loader") -> None:
        if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
            raise ValueError(
                f"{name} must give its batches each time it is walked, as a DataLoader does, got "
                f"{type(loader).__name__}"
            )
        self.loader, self.name = loader, name

    def __len__(self) -> int:
        """Return the number of batches in an epoch, where the loader says."""
        return len(self.loader)  # type: ignore[arg-type]

    def __call__(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        _start_anew(self.loader, generator)
        for batch in self.loader:
            points = batch[0] if isinstance(batch, list | tuple) and batch else batch
            if not isinstance(points, Tensor | np.ndarray):
                raise ValueError(
                    f"{self.name} must give tensors or arrays, got {type(points).__name__}"
                )
            yield [torch.as_tensor(points)]


def _start_anew(loader: Iterable[Any], generator: torch.Generator) -> None:
    """Start all that a loader draws from, torch's global generator aside."""
    common = int(torch.randint(randomness.MAX_SEED, (), generator=generator))
    own = randomness.derive(common, distributed.rank())
    random.seed(own)
    np.random.seed(own)  # noqa: NPY002
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None)
    for part in (loader, batch_sampler, *samplers):
        if isinstance(own_generator := getattr(part, "generator", None), torch.Generator):
            own_generator.manual_seed(own)
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(common)
