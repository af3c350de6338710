"""Tables and stacks of images from NumPy's own files, .npy and .npz."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile

from pplvae.data.dataset import Dataset
from pplvae.data.files import broken, find, opening_of
from pplvae.validation import as_points, as_vector

T = TypeVar("T")


def npy(path: str | Path) -> Dataset:
    """Return the array of an .npy file.

    Args:
        path: An array (N, D), or (N, H, W) or (N, C, H, W) with one to four channels for images.

    Returns:
        The points in their own floating-point type; whole numbers become float64, in images
        float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such array, is cut short, or holds nan, inf or Python objects.
    """
    path, array = _read(Path(path), "an .npy file of numbers", _mapped)
    return _from_array(path, array)


def npz(path: str | Path) -> Dataset:
    """Return the array `x` of an .npz file, or its only one with two axes or more.

    Args:
        path: A file with such an array, as for `npy`, and perhaps `labels` or `y`, shape (N,).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such array, or not one alone, or it is as `npy` refuses it.
    """
    path, arrays = _read(Path(path), "an .npz file of numbers", _members)
    names = ["x"] if "x" in arrays else [n for n, array in arrays.items() if array.ndim > 1]
    if len(names) != 1:
        found = f"{len(names)} such, of {', '.join(arrays) or 'none'}"
        raise broken(path, "an .npz file with `x` or one array of two axes or more", found)
    labels = next((arrays[name] for name in ("labels", "y") if name in arrays), None)
    return _from_array(path, arrays[names[0]], labels)


def _read(path: Path, expected: str, reader: Callable[[Path], T]) -> tuple[Path, T]:
    path = find(path, expected)
    try:
        return path, reader(path)
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise broken(path, expected, f"{opening_of(path)} ({error})") from error


def _mapped(path: Path) -> np.ndarray:
    # Mapped, not read: a header that promises more than the file holds allocates nothing.
    return np.lib.format.open_memmap(path, mode="r")


def _members(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
        return {name: array for name, array in archive.items() if isinstance(array, np.ndarray)}


def _from_array(path: Path, array: np.ndarray, labels: np.ndarray | None = None) -> Dataset:
    found = f"{array.dtype} of shape {array.shape}"
    if array.ndim not in (1, 2, 3, 4) or array.dtype.kind not in "fiub":
        raise broken(path, "numbers of shape (N, D), (N, H, W) or (N, C, H, W)", found)
    if array.ndim == 4 and array.shape[1] > 4:
        raise broken(path, "images (N, C, H, W) of one to four channels", found)
    whole = np.float64 if array.ndim < 3 else np.float32
    array = np.array(array, array.dtype.newbyteorder("=") if array.dtype.kind == "f" else whole)
    shape = array.shape[1:] or (1,)
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    x = as_points(array.reshape(len(array), math.prod(shape)), name=str(path))
    codes = None if labels is None else as_vector(labels, name=f"labels in {path}")
    return Dataset(x, shape, codes, path.stem)
