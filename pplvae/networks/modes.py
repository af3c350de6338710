"""Training mode and evaluation mode, for as long as a block of code lasts."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put all parts of a module in training or evaluation mode for the block, then back."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def evaluating(module: nn.Module) -> AbstractContextManager[None]:
    """Switch dropout, batch norm and the like off for the block."""
    return in_mode(module, training=False)
