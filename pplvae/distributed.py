"""Several processes on one problem, through torch.distributed; nothing at all when alone.

The caller starts the processes and the process group (say with torchrun); the library then splits
its batches over the ranks, and sums what belongs together.
"""

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes, 1 when alone."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Return this process's number in [0, world_size), 0 when alone."""
    return dist.get_rank() if _active() else 0


def all_sum(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all ranks, the same on each; itself when alone."""
    if not _active():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def from_first(tensor: Tensor) -> Tensor:
    """Return rank 0's `tensor` on every rank; itself when alone."""
    if not _active():
        return tensor
    copy = tensor.detach().clone()
    dist.broadcast(copy, src=0)
    return copy


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()
