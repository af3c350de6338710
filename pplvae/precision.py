"""Faster matrix products in single precision, only where they are as exact.

torch lets a backend round the factors of a float32 product to fewer bits ("medium"). Some
processors then take a faster route that loses nothing, others one with 8 bits: a probe tells.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

LARGEST_ERROR = 1e-5  # relative; 24 bits give about 3e-7 here, 10 bits 1e-3, 8 bits 3e-3


@contextmanager
def fast_matmul(device: torch.device | str = "cpu") -> Iterator[bool]:
    """Allow the faster matrix products for the block, if they are exact on this device.

    Args:
        device: Where the products are taken.

    Yields:
        Whether they are in use. torch's own setting comes back after the block.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        exact = relative_error(device) <= LARGEST_ERROR
        if not exact:
            torch.set_float32_matmul_precision(before)
        yield exact
    finally:
        torch.set_float32_matmul_precision(before)


def relative_error(device: torch.device | str = "cpu") -> float:
    """Return ‖float32 product − float64 product‖ / ‖float64 product‖ at torch's setting."""
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=draws).to(device) for _ in range(2))
    exact = a.double() @ b.double()
    return _norm((a @ b).double() - exact) / _norm(exact)


def _norm(x: Tensor) -> float:
    return x.norm().item()
