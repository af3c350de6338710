"""What a search for neighbors is asked, and the distances that answer it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

_PART_ENTRIES = {"cpu": 2**17}  # of a float64 copy that stays in a core's cache
_MOST_ENTRIES = 2**22  # of one elsewhere, where each call costs more than a cache saves


class Neighbors(NamedTuple):
    """The nearest points to each query, nearest first.

    Attributes:
        distances: Shape (M, k), in the units and the dtype of the points.
        indices: Which rows of the points they are, shape (M, k), int64.
    """

    distances: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Question:
    """What is asked, and the coordinates (x - center) / scale it is answered in.

    The center is a value of the data in each column, so columns that do not vary vanish, and a
    median, so an outlier does not push the others off the origin, where bounds are tight. The
    scale is a power of two just above the spread: squares neither overflow nor underflow, and
    division by it is exact.
    """

    x: Tensor
    queries: Tensor
    num_neighbors: int
    own: bool  # whether the queries are the points themselves

    @cached_property
    def center(self) -> Tensor:
        """The median of a thousand points spread over the data, shape (D,), float64."""
        return self.x[:: max(1, len(self.x) // 1000)].double().median(dim=0).values

    @cached_property
    def scale(self) -> float:
        """The power of two just above the largest entry once centered."""
        parts = [*in_parts(self.x), *([] if self.own else in_parts(self.queries))]
        spread = max((part.double() - self.center).abs().max().item() for part in parts)
        if spread > 1e300:
            name = "x" if self.own else "x and queries"
            raise ValueError(f"{name} must spread over at most 1e300, got {spread:.3g}")
        return 2.0 ** math.frexp(spread)[1]

    @property
    def num_others(self) -> int:
        """How many points a query can have as neighbors."""
        return len(self.x) - self.own

    def centered(self, points: Tensor) -> Tensor:
        """Return (points - center) / scale, float64."""
        return (points.double() - self.center).div_(self.scale)

    def distances(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return |query_row - x_column| / scale, shape (P,), float64, from the original rows."""
        # One tensor, for small ones that stay between large ones that go leave memory in holes.
        found = torch.empty(len(rows), dtype=torch.float64, device=self.x.device)
        parts = (part.split(part_rows(self.x)) for part in (found, rows, columns))
        for out, row, column in zip(*parts, strict=True):
            difference = self.queries[row].double().sub_(self.x[column]).div_(self.scale)
            torch.linalg.vector_norm(difference, dim=1, out=out)
        return found


def part_rows(points: Tensor) -> int:
    """Return of how many points a float64 copy is small."""
    return max(1, _PART_ENTRIES.get(points.device.type, _MOST_ENTRIES) // points.shape[1])


def in_parts(points: Tensor) -> tuple[Tensor, ...]:
    """Return the points in parts whose float64 copies are small."""
    return points.split(part_rows(points))


def single_precision_holds() -> bool:
    """Whether float32 products are float32 all through, not TF32 or bfloat16 inside."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch's answer once its newer switches have been set
        return False
