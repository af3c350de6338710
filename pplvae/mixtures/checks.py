"""What a Gaussian mixture refuses."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pplvae.validation import Array, as_tensor, check_whole


def numbers(value: Array | float, name: str) -> Tensor:
    """Return a tensor, of Python's own numbers in double precision."""
    return as_tensor(value if isinstance(value, Tensor) else np.asarray(value), name=name)


def checked(value: Array, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of that shape, refusing any other."""
    tensor = as_tensor(value, name=name)
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return tensor


def check_shapes(weights: Tensor, locs: Tensor, scale_trils: Tensor) -> None:
    """Refuse what is not (K,), (K, D), (K, D, D) of one dtype."""
    if weights.dim() != 1 or len(weights) == 0:
        raise ValueError(f"weights must have shape (K,), got {tuple(weights.shape)}")
    num_components = len(weights)
    if locs.dim() != 2 or len(locs) != num_components or locs.shape[1] == 0:
        raise ValueError(f"locs must have shape ({num_components}, D), got {tuple(locs.shape)}")
    expected = (num_components, locs.shape[1], locs.shape[1])
    if scale_trils.shape != expected:
        raise ValueError(f"scale_trils must have shape {expected}, got {tuple(scale_trils.shape)}")
    if not weights.dtype == locs.dtype == scale_trils.dtype:
        dtypes = f"{weights.dtype}, {locs.dtype} and {scale_trils.dtype}"
        raise ValueError(f"weights, locs and scale_trils must share a dtype, got {dtypes}")


def check_values(weights: Tensor, scale_trils: Tensor) -> None:
    """Refuse weights that are no distribution and matrices that are no Cholesky factors."""
    if (weights < 0).any() or abs(weights.sum().item() - 1) > 1e-5:
        raise ValueError(f"weights must be at least 0 and sum to one, got {weights.tolist()}")
    if (scale_trils.triu(1) != 0).any():
        raise ValueError("scale_trils must be lower triangular, got entries above the diagonal")
    diagonals = scale_trils.diagonal(dim1=-2, dim2=-1)
    if not (diagonals > 0).all():
        smallest = diagonals.min().item()
        raise ValueError(f"scale_trils must have positive diagonals, got {smallest}")


def check_dims(dims: Sequence[int], dim: int) -> list[int]:
    """Return `dims` as a list, refusing none, repeats, and any outside [0, dim − 1]."""
    dims = list(dims)
    for d in dims:
        check_whole("dims", d, 0, dim - 1, context=f"for {dim} dimensions")
    if not dims or len(set(dims)) < len(dims):
        raise ValueError(f"dims must name some coordinates, each once, got {dims}")
    return dims
