"""What the public functions ask of their arguments, refused in one voice.

Every message names the argument, the rule and the value: `num_neighbors must be in [1, 9] for 10
points, got 12`.
"""

from collections.abc import Collection
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = Tensor | np.ndarray
MOST_SHOWN = 10  # numbers that a message spells out


def as_tensor(x: Array, *, name: str = "x", allow_nan: bool = False) -> Tensor:
    """Return `x` as a finite floating-point tensor.

    Args:
        x: A tensor or an array of real numbers, or what NumPy can make one of, any shape.
        name: How the caller calls `x`, for the error message.
        allow_nan: Whether nan may stand for what is missing.

    Returns:
        A tensor of the same shape on the device of `x`; whole numbers and booleans become float64,
        half and lower precision becomes float32, other dtypes stay.

    Raises:
        ValueError: If `x` is not numeric, is complex, or holds nan or inf; what is masked in a
            masked array counts as nan.
    """
    if not isinstance(x, Tensor | np.ndarray) and hasattr(x, "__array__"):
        x = np.asarray(x)  # a table of pandas
    if isinstance(x, np.ma.MaskedArray):
        x = np.ma.filled(x.astype(np.float64), np.nan) if np.ma.is_masked(x) else x.data
    try:
        if not isinstance(x, Tensor):  # that stays on its device, whatever the default one
            x = torch.as_tensor(_wrappable(x) if isinstance(x, np.ndarray) else x)
    except (TypeError, ValueError, RuntimeError) as error:
        got = getattr(x, "dtype", type(x).__name__)
        raise ValueError(f"{name} must be an array of numbers, got {got}") from error
    if x.is_complex():
        raise ValueError(f"{name} must be real, got {x.dtype}")
    if not x.is_floating_point():
        x = x.to(torch.float64)
    elif x.dtype.itemsize < 4:
        x = x.float()
    bad = x.isinf() if allow_nan else ~x.isfinite()
    if bad.any():
        raise ValueError(f"{name} must be finite, got {int(bad.sum())} nan or inf")
    return x


def as_vector(x: Array, *, name: str = "x", min_size: int = 1) -> Tensor:
    """Return `x` as a finite floating-point vector, shape (N,).

    Args:
        x: Numbers, shape (N,) or (N, 1).
        name: How the caller calls `x`, for the error message.
        min_size: The least N that makes sense for the caller.

    Raises:
        ValueError: If `x` has another shape, too few numbers, or holds nan or inf.
    """
    x = as_tensor(x, name=name)
    if x.dim() == 2 and x.shape[1] == 1:
        x = x.squeeze(1)
    if x.dim() != 1:
        raise ValueError(f"{name} must have shape (N,), got {tuple(x.shape)}")
    if len(x) < min_size:
        raise ValueError(f"{name} must hold at least {min_size} numbers, got {len(x)}")
    return x


def as_points(x: Array, *, name: str = "x", min_points: int = 1) -> Tensor:
    """Return `x` as a finite floating-point tensor of points, shape (N, D).

    Args:
        x: Points, shape (N, D); a vector (N,) is read as N points on a line.
        name: How the caller calls `x`, for the error message.
        min_points: The least N that makes sense for the caller.

    Raises:
        ValueError: If `x` has not one or two axes, has no columns or too few points, or holds
            nan or inf.
    """
    x = as_tensor(x, name=name)
    if x.dim() == 1:
        x = x.unsqueeze(-1)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(x.shape)}")
    if len(x) < min_points:
        raise ValueError(f"{name} must hold at least {min_points} points, got {len(x)}")
    return x


def check_in_range(
    name: str, value: float, low: float, high: float = float("inf"), *, context: str = ""
) -> None:
    """Refuse a `value` outside [low, high], nan included; `context` ends in what sets the range.

    Raises:
        ValueError: If the value is outside.
    """
    if not low <= value <= high:
        rule = f"in [{low}, {high}]" if high != float("inf") else f"at least {low}"
        raise ValueError(f"{name} must be {rule}{context and ' ' + context}, got {value}")


def check_whole(
    name: str, value: int, low: int, high: float = float("inf"), *, context: str = ""
) -> None:
    """Refuse a `value` that is no whole number, or one outside [low, high].

    Raises:
        ValueError: If it is not an integer (booleans are none either), or outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    check_in_range(name, value, low, high, context=context)


def check_positive(name: str, value: float | Tensor) -> None:
    """Refuse a `value`, or a tensor with any entry, that is not positive and finite.

    Raises:
        ValueError: If it is zero, negative, infinite or nan.
    """
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    bad = tensor[~((tensor > 0) & tensor.isfinite())]
    if len(bad):
        rule = "finite" if (bad > 0).all() else "positive"
        got = value.tolist() if isinstance(value, Tensor) else value
        if tensor.numel() > MOST_SHOWN:
            got = f"{len(bad)} that are not, the first {bad[0]}"
        raise ValueError(f"{name} must be {rule}, got {got}")


def check_one_of(name: str, value: str, choices: Collection[str]) -> None:
    """Refuse a `value` that is not one of the `choices`.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(sorted(choices))}, got {value!r}")


def _wrappable(array: np.ndarray) -> np.ndarray:
    """Return the array as torch can take it; a copy only if it is, say, read-only or reversed."""
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
