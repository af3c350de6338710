"""Faster matrix products in single precision, only where they are as exact.

torch lets a backend round the factors of a float32 product to fewer bits ("medium"). Some
processors then take a faster route that loses nothing, others one with 8 bits: a probe tells.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LARGEST_ERROR = 1e-5  # relative; 24 bits give about 3e-7 here, 10 bits 1e-3, 8 bits 3e-3
PROBE = (128, 784, 400)  # rows, inner and columns of a layer of a small network


@contextmanager
def fast_matmul(device: torch.device | str = "cpu") -> Iterator[bool]:
    """Allow the faster matrix products for the block, if they are exact on this device.

    Args:
        device: Where the products are taken.

    Yields:
        Whether they are allowed. Not where each backend has been set by itself: that is kept.
        torch's own settings come back after the block.
    """
    try:
        before = torch.get_float32_matmul_precision(), _by_backend()
    except RuntimeError:  # torch's word for settings that no single name describes
        yield False
        return
    torch.set_float32_matmul_precision("medium")
    try:
        exact = relative_error(device) <= LARGEST_ERROR
        if not exact:
            _restore(*before)
        yield exact
    finally:
        _restore(*before)


def relative_error(device: torch.device | str = "cpu") -> float:
    """Return ‖float32 product − float64 product‖ / ‖float64 product‖ at torch's setting."""
    rows, inner, columns = PROBE
    draws = torch.Generator().manual_seed(0)
    a = torch.randn(rows, inner, generator=draws, dtype=torch.float32)
    b = torch.randn(inner, columns, generator=draws, dtype=torch.float32)
    exact = a.double() @ b.double()
    found = (a.to(device) @ b.to(device)).cpu().double()
    return ((found - exact).norm() / exact.norm()).item()


def _backends() -> list[Any]:
    """Return the backends that this version of torch sets one by one as well."""
    named = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    return [backend for backend in named if hasattr(backend, "fp32_precision")]


def _by_backend() -> list[str]:
    return [backend.fp32_precision for backend in _backends()]


def _restore(setting: str, by_backend: list[str]) -> None:
    torch.set_float32_matmul_precision(setting)
    # The call above leaves "ieee" where there was "none", which follows the settings above it.
    for backend, own in zip(_backends(), by_backend, strict=True):
        backend.fp32_precision = own
