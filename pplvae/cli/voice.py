"""What all commands share: how they refuse, and the flags that mean the same everywhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated

import typer

DATA = (
    "digits, mnist:DIR, frey:FILE, cifar10:DIR (mnist:DIR:test for the test images), "
    "manifold:NAME, or a .npy, .npz, .csv or .parquet file."
)
Device = Annotated[str, typer.Option(help="Where networks run: auto takes CUDA where it is.")]
Seed = Annotated[int, typer.Option(help="Start of all random draws.")]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]
FastMatmul = Annotated[
    bool, typer.Option(help="Allow faster matrix products where they are as exact.")
]


@contextmanager
def refusing() -> Iterator[None]:
    """Say in one line what was wrong, on stderr, and end with exit code 2."""
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        said = str(error).strip() or type(error).__name__
        # Pyro's lines below the first tell of a program that the caller has not written.
        typer.echo(f"pplvae: {said.splitlines()[0]}", err=True)
        raise typer.Exit(2) from error


def device_named(name: str) -> str:
    """Return a device that torch has here.

    Raises:
        ValueError: If it has none of that name.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be one that torch has here, got {name!r}") from error
    return name


def matrix_products(device: str, *, fast: bool) -> AbstractContextManager[object]:
    """Return a block in which matrix products may be the faster ones, if asked for."""
    from pplvae.precision import fast_matmul

    return fast_matmul(device) if fast else nullcontext()


def numbers(name: str, text: str) -> list[int]:
    """Return whole numbers from text such as "200,100"; none from "".

    Raises:
        ValueError: If it is no such text.
    """
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError(f"{name} must be whole numbers with commas, got {text!r}") from None
