"""Points of known intrinsic dimension, to try an estimator on.

A manifold is the image of a chart, x = f(u), with u uniform in [0, 1]^d or standard normal. An
isometry into more dimensions changes no distance between points, so the dimension is d there too;
noise of standard deviation s fills all D dimensions, and the truth then holds at scales above s.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.data import charts
from pplvae.randomness import generator
from pplvae.validation import check_in_range, check_one_of, check_whole


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """Points with their true intrinsic dimension.

    Attributes:
        x: The points, float64, shape (N, D).
        dimension: The dimension of what they lie on.
        name: The manifold's name.
    """

    x: Tensor
    dimension: int
    name: str

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        size = f"{len(self)} points in R^{self.x.shape[1]}"
        return f"Sample({self.name!r}: {size}, dimension {self.dimension})"


@dataclass(frozen=True)
class Family:
    """A chart and where its parameters come from.

    Attributes:
        chart: Maps parameters, shape (N, dimension + surplus), to points, shape (N, D).
        dimension: The intrinsic dimension, or where it starts if the caller may choose.
        free: Whether the caller may choose.
        draw: `torch.rand` or `torch.randn`.
        surplus: How many more parameters than dimensions the chart takes.
    """

    chart: Callable[[Tensor], Tensor]
    dimension: int
    free: bool = False
    draw: Callable[..., Tensor] = torch.rand
    surplus: int = 0


FAMILIES = {
    "sphere": Family(charts.sphere, 2, free=True, draw=torch.randn, surplus=1),
    "ball": Family(charts.ball, 3, free=True, draw=torch.randn, surplus=2),
    "cube": Family(charts.identity, 3, free=True),
    "gaussian": Family(charts.identity, 3, free=True, draw=torch.randn),
    "torus": Family(charts.torus, 2, free=True),
    "paraboloid": Family(charts.paraboloid, 2, free=True),
    "helix": Family(charts.helix, 1),
    "swiss_roll": Family(charts.swiss_roll, 2),
    "s_curve": Family(charts.s_curve, 2),
    "moebius": Family(charts.moebius, 2),
    "M1": Family(charts.sphere, 10, draw=torch.randn, surplus=1),
    "M2": Family(charts.m2, 3),
    "M3": Family(charts.m3, 4),
    "M4": Family(charts.m4, 4),
    "M5": Family(charts.m5, 2),
    "M6": Family(charts.m6, 6),
    "M7": Family(charts.m7, 2),
    "M8": Family(charts.m6, 12),
    "M9": Family(charts.m9, 20),
    "M10a": Family(charts.m10, 10),
    "M10b": Family(charts.m10, 17),
    "M10c": Family(charts.m10, 24),
    "M10d": Family(charts.m10, 70),
    "M11": Family(charts.m11, 2),
    "M12": Family(charts.identity, 20, draw=torch.randn),
    "M13": Family(charts.m13, 1),
}
NAMES = tuple(FAMILIES)


def sample(
    name: str,
    num_samples: int,
    *,
    dimension: int | None = None,
    ambient: int | None = None,
    noise: float = 0.0,
    seed: int | None = None,
) -> Sample:
    """Return random points on a manifold of known dimension.

    Args:
        name: One of `NAMES`; M1 to M13 are the benchmark of Campadelli et al. (2015).
        num_samples: The number of points N.
        dimension: The intrinsic dimension d of a sphere (in R^(d+1)), ball, cube, gaussian, torus
            (flat, in R^(2 d)) or paraboloid (in R^(d+1)); fixed for the others.
        ambient: Place the points in so many dimensions D by a random isometry.
        noise: Standard deviation of normal noise added to every coordinate, in units of x.
        seed: An int for the same points every time, whatever `ambient` and `noise` do to them.

    Returns:
        The points, shape (N, D), and their dimension.

    Raises:
        ValueError: If the name is unknown, the manifold has another dimension or does not fit
            into `ambient`, or a number is out of range.
    """
    check_one_of("name", name, NAMES)
    check_whole("num_samples", num_samples, 1)
    check_in_range("noise", noise, 0.0, 1e100)
    family, source = FAMILIES[name], generator(seed)
    dimension = family.dimension if dimension is None else dimension
    low, high = (1, float("inf")) if family.free else (family.dimension, family.dimension)
    check_whole("dimension", dimension, low, high, context=f"for {name}")
    x = family.chart(_draw(family.draw, num_samples, dimension + family.surplus, source))
    if ambient is not None:
        check_whole("ambient", ambient, x.shape[1], context=f"for {name}")
        x = x @ torch.linalg.qr(_draw(torch.randn, ambient, x.shape[1], source)).Q.T
    if noise > 0:
        x = x + noise * _draw(torch.randn, *x.shape, source)
    return Sample(x, dimension, name)


def _draw(
    law: Callable[..., Tensor], num_rows: int, num_columns: int, source: torch.Generator
) -> Tensor:
    return law(num_rows, num_columns, generator=source, dtype=torch.float64)
