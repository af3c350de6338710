"""Reproducible randomness that leaves the caller's own untouched.

A stochastic call takes `seed`. An int gives the same draws every time, on any number of cores;
None takes a fresh seed from the operating system, so that the global generator never advances.
"""

import hashlib
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

MAX_SEED = 2**32 - 1  # the largest that NumPy takes as well


def resolve(seed: int | None) -> int:
    """Return `seed` itself, or a fresh one from the operating system where it is None.

    Raises:
        ValueError: If it is not a whole number in [0, 2^32 - 1].
    """
    if seed is None:
        return secrets.randbelow(MAX_SEED + 1)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"seed must be a whole number or None, got {seed!r}")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be in [0, {MAX_SEED}], got {seed}")
    return int(seed)


def derive(seed: int, *place: int) -> int:
    """Return a seed for one place in a computation (an epoch, a rank) far from the others."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=4).digest()
    return int.from_bytes(digest)


def generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator of its own on `device`, started at `seed`."""
    return torch.Generator(device).manual_seed(resolve(seed))


def reseed(seed: int) -> None:
    """Start torch's global generators at `seed`; a CUDA that is not in use stays untouched."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def scope(seed: int | None) -> Iterator[int]:
    """Seed torch, NumPy and Python for the block, then put their states back.

    For code that draws from the global generators, as Pyro does.

    Args:
        seed: Where the block's draws start; None for a fresh start.

    Yields:
        The seed in use.
    """
    seed = resolve(seed)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else []):
        reseed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield seed
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
