"""Balls of known dimension: what a statistic is, on average, where the dimension is known.

Every estimator of dimension is biased for finitely many points, chiefly by the edge: in many
dimensions most points lie near it, and their neighbors on one side only. N points uniform in the
unit ball of each dimension d show by how much. The mean of a statistic over such draws depends on
d, N and the number of neighbors k alone, so it is found once:

- `table()` ships with the package for k = 10, d from 1 to 100, N from 25 to 25,600;
- other k are drawn when asked for and kept in the user's cache folder, which may be missing,
  read-only or broken: then they are drawn anew.

Between the d and between the N that were drawn, the means are interpolated by monotone cubics in
log d and log N; past the largest N by a straight line in log N, on which they nearly lie.

Reference:
    Ceruti et al. (2014), DANCo: an intrinsic dimensionality estimator exploiting angle and norm
    concentration, https://doi.org/10.1016/j.patcog.2014.02.013
"""

import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor
from tqdm import tqdm

from pplvae.data import manifolds
from pplvae.randomness import derive
from pplvae.storage import write_atomically

DIMENSIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100)
VERSION = 1  # of what is drawn and kept; a file of another version is not read
TABLE = Path(__file__).with_name("balls.npz")
TABLE_NEIGHBORS = 10
LEAST_POINTS = 25  # of the table
MOST_POINTS = 6400  # more are not drawn but extrapolated to
_ENOUGH_POINTS = 12_800  # in all draws of one dimension
_LEAST_DRAWS, _MOST_DRAWS = 4, 200
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

Statistics: TypeAlias = Callable[[Tensor], Mapping[str, float]]  # of points, shape (N, d)


@dataclass(frozen=True, eq=False)
class Balls:
    """Means of statistics over draws of N points from the unit ball in d dimensions.

    Attributes:
        num_points: The N drawn, ascending, shape (G,).
        dimensions: The d drawn, ascending, shape (M,).
        means: The mean of each statistic by its name, each of shape (G, M).
    """

    num_points: np.ndarray
    dimensions: np.ndarray
    means: Mapping[str, np.ndarray]

    def at(self, num_points: int, name: str) -> np.ndarray:
        """Return the means of one statistic for N points, shape (M,).

        For N outside those drawn, a straight line in log N through the nearest two.
        """
        return interpolated(self.num_points, self.means[name], np.asarray(float(num_points)))

    def __repr__(self) -> str:
        sizes = f"N = {self.num_points[0]} to {self.num_points[-1]}"
        dims = f"d = {self.dimensions[0]} to {self.dimensions[-1]}"
        return f"Balls({', '.join(self.means)}: {sizes}, {dims})"


def interpolated(places: np.ndarray, values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return values between places, by monotone cubics in the log of the place.

    Outside the places it is the straight line, in that log, through the nearest two.

    Args:
        places: Positive and ascending, shape (M,).
        values: The values there, shape (M, *).
        where: Places asked for, positive, shape (*W).

    Returns:
        Values, shape (*W, *).
    """
    from scipy.interpolate import PchipInterpolator

    if len(places) == 1:
        return np.broadcast_to(values[0], np.shape(where) + values.shape[1:])
    known, asked = np.log(places), np.log(where)
    inside = np.clip(asked, known[0], known[-1])
    low = (values[1] - values[0]) / (known[1] - known[0])
    high = (values[-1] - values[-2]) / (known[-1] - known[-2])
    below, above = np.minimum(asked - inside, 0), np.maximum(asked - inside, 0)
    beyond = np.multiply.outer(below, low) + np.multiply.outer(above, high)
    return PchipInterpolator(known, values)(inside) + beyond


@cache
def table() -> Balls:
    """Return the means that ship with the package, for k = 10.

    Its statistics are those of DANCo (`distance`, `angle`, `concentration`) and the means of the
    estimates `twonn`, `twonn_unbiased`, `twonn_censored`, `twonn_line` (the last two without the
    largest tenth of the ratios), `gride_1`, `gride_2`, `gride_4`, `gride_8` (of the neighbors n
    and 2 n) and `levina_bickel` (pooled harmonically). `benchmarks/ball_table.py` makes it.
    """
    return _read(TABLE)


def simulate(
    statistics: Statistics,
    num_points: int,
    *,
    max_dimension: int = DIMENSIONS[-1],
    progress: bool = True,
) -> Balls:
    """Return the means of statistics over fresh draws, the same draws every time.

    For N > 6400, balls of 1600, 3200 and 6400 points are drawn, to extrapolate from.

    Args:
        statistics: Maps points, shape (N, d), to named numbers.
        num_points: N.
        max_dimension: The d drawn reach it, or 100 at most.
        progress: Whether a progress bar is shown.
    """
    sizes = [num_points] if num_points <= MOST_POINTS else [MOST_POINTS // 4, MOST_POINTS // 2]
    sizes += [MOST_POINTS] if num_points > MOST_POINTS else []
    dims = reaching(max_dimension)
    cells = [(size, dim) for size in sizes for dim in dims]
    bar = tqdm(cells, desc="reference balls", delay=3, disable=not progress, leave=False)
    means = [mean(statistics, size, dim) for size, dim in bar]
    shape = len(sizes), len(dims)
    table = {name: np.array([cell[name] for cell in means]).reshape(shape) for name in means[0]}
    return Balls(np.array(sizes), np.array(dims), table)


def reaching(max_dimension: int) -> tuple[int, ...]:
    """Return the dimensions that are drawn to interpolate up to the given one, at least two."""
    below = sum(dim < max_dimension for dim in DIMENSIONS)
    return DIMENSIONS[: max(below + 1, 2)]


def mean(
    statistics: Statistics, num_points: int, dimension: int, num_draws: int | None = None
) -> dict[str, float]:
    """Return the mean of each statistic over draws from the unit ball of one dimension.

    Args:
        statistics: Maps points, shape (N, d), to named numbers.
        num_points: N.
        dimension: d.
        num_draws: By default as many as make 12,800 points, within [4, 200].
    """
    wanted = -(-_ENOUGH_POINTS // num_points)
    num_draws = num_draws or min(max(wanted, _LEAST_DRAWS), _MOST_DRAWS)
    draws = [statistics(draw(num_points, dimension, index)) for index in range(num_draws)]
    return {name: float(np.mean([values[name] for values in draws])) for name in draws[0]}


def draw(num_points: int, dimension: int, index: int) -> Tensor:
    """Return one of the draws: points uniform in the unit ball, float64, shape (N, d)."""
    seed = derive(VERSION, num_points, dimension, index)
    return manifolds.sample("ball", num_points, dimension=dimension, seed=seed).x


def kept(name: str, make: Callable[[], Balls], folder: Path | str | bool = True) -> Balls:
    """Return what an earlier call kept under this name, or make it and keep it.

    The file holds its name as well, so that one of other balls, put in its place, is not believed.

    Args:
        name: What tells these balls from all others: the statistics, k, N and the largest d.
        make: Makes them.
        folder: Where to keep them; True for the user's cache folder, False to keep nothing.
    """
    place = user_cache() if folder is True else folder or None
    if place is None:
        return make()
    path = Path(place) / f"balls-{VERSION}-{name}.npz"
    with suppress(*_UNREADABLE):
        return _read(path, name)
    made = make()
    with suppress(OSError):
        write_atomically(path, lambda file: write(made, file, name))
    return made


def user_cache() -> Path | None:
    """Return the user's cache folder for this package, None where the user has no home.

    That is `pplvae` in $XDG_CACHE_HOME where it is set, else in ~/.cache, in ~/Library/Caches on
    macOS and in %LOCALAPPDATA% on Windows.
    """
    named = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    )
    if named and Path(named).is_absolute():
        return Path(named) / "pplvae"
    below = {"darwin": "Library/Caches", "win32": "AppData/Local"}.get(sys.platform, ".cache")
    with suppress(RuntimeError):
        return Path.home() / below / "pplvae"
    return None


def write(balls: Balls, path: Path, name: str = "") -> None:
    """Write balls, and what they are called, to an .npz file, of plain arrays only."""
    arrays = {f"mean_{name}": values for name, values in balls.means.items()}
    arrays |= {"num_points": balls.num_points, "dimensions": balls.dimensions}
    arrays |= {"name": np.array(name)} if name else {}
    np.savez(path, allow_pickle=False, **arrays)


def _read(path: Path, name: str = "") -> Balls:
    """Return balls of that name from a file; one of `_UNREADABLE` where it does not hold them."""
    with path.open("rb") as handle:
        file = np.load(handle, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError(f"{path} must hold several arrays, got one")
        arrays = {each: file[each] for each in file.files}
    if name != str(arrays.pop("name", "")):
        raise ValueError(f"{path} must hold the balls {name!r}")
    sizes, dims = (_places(arrays.pop(each)) for each in ("num_points", "dimensions"))
    means = {each.removeprefix("mean_"): values for each, values in arrays.items()}
    for each, values in means.items():
        whole = values.dtype.kind == "f" and values.shape == (len(sizes), len(dims))
        if not (whole and np.isfinite(values).all()):
            raise ValueError(f"{path} must hold finite means, got {each} {values.shape}")
    return Balls(sizes, dims, means)


def _places(values: np.ndarray) -> np.ndarray:
    """Return the N or the d that were drawn: whole, positive, ascending, shape (M,)."""
    if values.dtype.kind not in "iu" or values.ndim != 1 or not len(values):
        raise ValueError(f"numbers drawn must be whole, got {values.dtype} {values.shape}")
    if values[0] < 1 or (np.diff(values) <= 0).any():
        raise ValueError(f"numbers drawn must ascend from 1, got {values.tolist()}")
    return values
