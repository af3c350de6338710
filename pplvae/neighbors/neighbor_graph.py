"""The neighbor graph: found once, read by every estimator of dimension and by k-NN densities.

    x ──graph──▶ distances r_1 ≤ … ≤ r_k and indices of the neighbors of each distinct point

Estimators of dimension are about points that are all different: a repeated row is at distance 0
of its copy, where log r has no value, and it fakes a second neighbor at the distance of the first.
So one copy of each row is kept, and how often each was seen is reported beside it. They are about
continuous data, too: on a lattice many points have both nearest neighbors equally near, which a
graph knows of itself (`tied`). Both are said where the graph is made, once for all who read it.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pplvae.neighbors.caller import warn
from pplvae.neighbors.copies import distinct
from pplvae.neighbors.search import neighbors
from pplvae.validation import Array, as_points, as_tensor, check_whole

_MOST_ENTRIES = 2**24  # of a graph whose width is not given
_LEAST_WIDTH = 16  # which it has all the same
TIE = 1e-9  # of r_2, by which equally near neighbors may differ after rounding
MOST_TIES = 0.05  # of points with r_1 = r_2; images in 16 gray levels have 0.01 of them


@dataclass(frozen=True, eq=False)
class NeighborGraph:
    """The nearest neighbors of N distinct points.

    Attributes:
        distances: r_1 ≤ … ≤ r_k to them, shape (N, k), float64, all positive, in units of x.
        indices: Which of the distinct points they are, shape (N, k), int64.
        rows: At which row of the table each distinct point stands first, shape (N,), int64.
        multiplicities: How many rows are copies of it, itself included, shape (N,), int64.
        points: The distinct points, shape (N, D); None where only distances were given.
    """

    distances: Tensor = field(repr=False)
    indices: Tensor = field(repr=False)
    rows: Tensor = field(repr=False)
    multiplicities: Tensor = field(repr=False)
    points: Tensor | None = field(repr=False)

    def __len__(self) -> int:
        """Return N, the number of distinct points."""
        return len(self.distances)

    @property
    def num_neighbors(self) -> int:
        """How many neighbors k each point has."""
        return self.distances.shape[1]

    @property
    def num_repeats(self) -> int:
        """How many rows of the table repeat an earlier one."""
        return int(self.multiplicities.sum()) - len(self)

    @property
    def tied(self) -> float:
        """The share of the points whose two nearest neighbors are equally near, in [0, 1]."""
        if self.num_neighbors < 2:
            return 0.0
        first, second = self.distances[:, 0], self.distances[:, 1]
        return (second - first <= TIE * second).double().mean().item()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the data should know, in words: repeats that were dropped, and ties."""
        said = []
        if self.num_repeats:
            number = len(self) + self.num_repeats
            said.append(f"{self.num_repeats} of {number} points repeat another and were dropped")
        if self.tied > MOST_TIES:
            said.append(f"{self.tied:.0%} of the points have both neighbors equally near, as on a "
                        "lattice: estimators of dimension hold for continuous data")  # fmt: skip
        return tuple(said)

    @property
    def log_ratio(self) -> Tensor:
        """The log of r_2 / r_1, shape (N,)."""
        return (self.distances[:, 1] / self.distances[:, 0]).log()

    def narrowed(self, num_neighbors: int) -> "NeighborGraph":
        """Return the graph of the nearest `num_neighbors`.

        Raises:
            ValueError: If it has not so many.
        """
        context = f"for a graph of {self.num_neighbors} neighbors"
        check_whole("num_neighbors", num_neighbors, 1, self.num_neighbors, context=context)
        distances, indices = (part[:, :num_neighbors] for part in (self.distances, self.indices))
        return NeighborGraph(distances, indices, self.rows, self.multiplicities, self.points)

    def __repr__(self) -> str:
        again = f", {self.num_repeats} repeats dropped" if self.num_repeats else ""
        return f"NeighborGraph({len(self)} points, {self.num_neighbors} neighbors{again})"


Data: TypeAlias = Array | NeighborGraph  # what every estimator of dimension takes


def as_graph(x: Data, num_neighbors: int | None = None, *, progress: bool = True) -> NeighborGraph:
    """Return the graph of `num_neighbors` neighbors: of points, or narrowed from a wider graph.

    None leaves a graph as it is, and the number to `graph`.

    Raises:
        ValueError: As `graph`, or if a given graph has fewer neighbors.
    """
    if isinstance(x, NeighborGraph):
        return x if num_neighbors is None else x.narrowed(num_neighbors)
    return graph(x, num_neighbors, progress=progress)


@torch.no_grad()
def graph(x: Array, num_neighbors: int | None = None, *, progress: bool = True) -> NeighborGraph:
    """Return the neighbor graph of the distinct points of `x`.

    Args:
        x: Points, shape (N, D).
        num_neighbors: How many neighbors k of each point to keep; by default the greatest power
            of 2 up to N / 4 with which the graph has at most 2^24 entries, or 16.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If k is not in [1, number of distinct points − 1], or `x` holds nan or inf.

    Warns:
        UserWarning: If rows repeat, and one copy of each is kept; if many points have both nearest
            neighbors equally near; or if `x` looks like a table of distances.
    """
    x = as_points(x, min_points=2).detach()
    if _is_a_table(x):
        warn(f"x looks like a table of distances and is read as {len(x)} points in as many "
             "columns: neighbors.from_distances(x) reads the table")  # fmt: skip
    rows, multiplicities = distinct(x)
    width = _width(len(rows)) if num_neighbors is None else num_neighbors
    if len(rows) < len(x):
        _check_width(width, len(rows))
        x = x[rows]
    found = neighbors(x.double(), width, progress=progress)
    if not (found.distances[:, 0] > 0).all():
        raise ValueError(
            "x must not hold distinct points whose distance is below 1e-154 of the spread"
        )
    return _said(NeighborGraph(found.distances, found.indices, rows, multiplicities, x))


def from_distances(
    distances: Array, indices: Array | None = None, *, num_neighbors: int | None = None
) -> NeighborGraph:
    """Return the neighbor graph of points of which only distances are known.

    Args:
        distances: From each point to each, shape (N, N), symmetric, 0 on the diagonal; or, with
            `indices`, to its nearest others, nearest first, shape (N, k), as other packages give
            them.
        indices: Which points those others are, shape (N, k), whole numbers in [0, N − 1].
        num_neighbors: How many neighbors k of each point to keep, by default all.

    Raises:
        ValueError: If the table is not square, not symmetric, has negative entries or others than
            0 on the diagonal; if the nearest are not in order, are not as many as their indices,
            repeat, or hold the point itself or copies of it; or k is not in [1, number of
            distinct points − 1].

    Warns:
        UserWarning: If points are at distance 0 of others, and one of each is kept; or if many
            have both nearest neighbors equally near.
    """
    table = as_tensor(distances, name="distances").double()
    if indices is not None:
        found = _of_nearest(table, _whole(indices).to(table.device))
        return _said(found if num_neighbors is None else found.narrowed(num_neighbors))
    if table.dim() != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(
            f"distances must have shape (N, N), or come with indices, got {tuple(table.shape)}"
        )
    check_whole("the number of points", len(table), 2)
    if (table < 0).any() or (table.diagonal() != 0).any():
        raise ValueError("distances must be at least 0, and 0 from each point to itself")
    if not torch.allclose(table, table.mT, rtol=1e-6, atol=0.0):
        raise ValueError("distances must be the same both ways, got a table that is not symmetric")
    # A point's class is its first copy: argmax gives the first of the largest.
    first = (table == 0).to(torch.uint8).argmax(dim=1)
    rows, multiplicities = first.unique(return_counts=True)
    num_neighbors = len(rows) - 1 if num_neighbors is None else num_neighbors
    _check_width(num_neighbors, len(rows))
    table = table[rows][:, rows].fill_diagonal_(torch.inf)
    nearest = table.topk(num_neighbors, largest=False)
    if (nearest.values[:, 0] == 0).any():
        raise ValueError("distances must be 0 from all copies of a point to the same others")
    return _said(NeighborGraph(nearest.values, nearest.indices, rows, multiplicities, None))


def _of_nearest(distances: Tensor, indices: Tensor) -> NeighborGraph:
    """Return the graph of a table of nearest neighbors, each row of which is as it must be."""
    if distances.dim() != 2 or indices.shape != distances.shape:
        shapes = tuple(distances.shape), tuple(indices.shape)
        raise ValueError(f"distances and indices must share the shape (N, k), got {shapes}")
    check_whole("the number of neighbors", indices.shape[1], 1)
    rows = torch.arange(len(indices), device=indices.device)
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= len(rows):
        raise ValueError(f"indices must be in [0, {len(rows) - 1}], got {low} to {high}")
    own = int((indices == rows.unsqueeze(1)).any(dim=1).sum())
    if own:
        raise ValueError(f"indices must not hold a point itself, got {own} that do: drop it")
    if (indices.sort(dim=1).values.diff(dim=1) == 0).any():
        raise ValueError("indices must name each neighbor once, got rows that repeat one")
    if (distances.diff(dim=1) < 0).any():
        raise ValueError("distances must be nearest first, got rows that are not in order")
    if (distances <= 0).any():
        number = int((distances[:, 0] <= 0).sum())
        raise ValueError(f"distances must be positive, got {number} points at 0 from another: "
                         "drop repeats before the search")  # fmt: skip
    return NeighborGraph(distances, indices, rows, torch.ones_like(rows), None)


def _whole(indices: Array) -> Tensor:
    """Return row numbers as a tensor, int64."""
    table = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    if table.dtype.kind not in "iu":
        raise ValueError(f"indices must be whole numbers, got {table.dtype}")
    return torch.from_numpy(np.array(table, dtype=np.int64, order="C"))


def _is_a_table(x: Tensor) -> bool:
    """Return whether `x` is the same both ways, 0 on its diagonal and nowhere negative."""
    if len(x) < 3 or x.shape[0] != x.shape[1] or (x < 0).any():
        return False
    room = 1e-3 * x.max()  # for tables made by matrix products in single precision
    return bool((x.diagonal() <= room).all() and ((x - x.mT).abs() <= room).all())


def _said(found: NeighborGraph) -> NeighborGraph:
    for note in found.notes:
        warn(note)
    return found


def _width(num_points: int) -> int:
    check_whole("the number of distinct points", num_points, 3)
    most = max(2, min(num_points // 4, max(_LEAST_WIDTH, _MOST_ENTRIES // num_points)))
    return 1 << (most.bit_length() - 1)


def _check_width(num_neighbors: int, num_distinct: int) -> None:
    if num_distinct == 1:
        raise ValueError("points must differ, got copies of one")
    context = f"for {num_distinct} distinct points"
    check_whole("num_neighbors", num_neighbors, 1, num_distinct - 1, context=context)
