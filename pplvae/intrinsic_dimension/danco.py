"""DANCo: the dimension from distances and angles together, against balls of known dimension.

Of each point, the k nearest neighbors give two things that concentrate as the dimension grows:

- the nearest distance in units of the next one beyond, ρ = r_1 / r_(k+1), with the law
  p(ρ | δ) = k δ ρ^(δ−1) (1 − ρ^δ)^(k−1), and δ fitted to all points by maximum likelihood;
- the k (k − 1) / 2 angles between the directions to its neighbors, each point's fitted with a von
  Mises law of mean ν_i and concentration τ_i; ν their circular mean, τ their mean.

The same (δ, ν, τ) of N points uniform in the unit d-ball are a function of d: the dimension is
the d whose laws are nearest in Kullback-Leibler divergence, of the distances' law plus of the
angles'. Both are closed forms. Between whole d the statistics are interpolated, not the
divergence. Whether d is 1 or more the distances alone decide, and then the continuous answer too:
on a line all angles are 0 or π, so that ν and τ say nothing of how near to a line the data are,
and none stand between those of a line and those of a surface. Edges, which fool the
distances in many dimensions, fool the balls just as much, so that the answer is right at d = 70
where other estimators say 40.

Reference:
    Ceruti et al. (2014), DANCo: an intrinsic dimensionality estimator exploiting angle and norm
    concentration, https://doi.org/10.1016/j.patcog.2014.02.013; Lecture 5 (28/10/2024) names it.
"""

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pplvae.intrinsic_dimension import balls, ratio_law, spectrum
from pplvae.intrinsic_dimension.result import OneLine
from pplvae.neighbors import Data, NeighborGraph, as_graph, graph
from pplvae.validation import check_whole

MOST_NEIGHBORS = 25  # beyond, the alternating sum of binomials loses its digits
MOST_CONCENTRATED = 1e3  # τ of a point whose angles are all equal, which has none
_LARGEST = balls.DIMENSIONS[-1]
_STEPS = 2001  # of the continuous search, in log d; a parabola then refines it
_BLOCK_BYTES = 2**26


@dataclass(frozen=True, eq=False, repr=False)
class Danco(OneLine):
    """The dimension whose ball looks most like the data.

    Attributes:
        dimension: The continuous answer, the d of least divergence in [1, largest tried].
        integer: The whole d of least divergence; 1 where the distances, without the angles, are
            nearer to those of a line than of a disk.
        distance: δ, the law of the distances: the dimension without calibration.
        angle: ν, the circular mean of the angles, in radians.
        concentration: τ, their mean concentration.
        divergences: From the data to the ball of dimension 1, 2, …, in nats, shape (M,).
        num_points: N, the number of distinct points.
        num_neighbors: k.
    """

    dimension: float
    integer: int
    distance: float
    angle: float
    concentration: float
    divergences: Tensor = field(repr=False)
    num_points: int = field(repr=False)
    num_neighbors: int = field(repr=False)


def estimate(
    x: Data,
    num_neighbors: int = 10,
    *,
    max_dimension: int | None = None,
    cache: Path | str | bool = True,
    progress: bool = True,
) -> Danco:
    """Return the dimension whose ball has the distances and angles of the data.

    The balls for 10 neighbors ship with the package; those for other k take some seconds at the
    first call with that many points and are kept (see `balls`). The answer is the same each time.

    Args:
        x: Points, shape (N, D); or their graph of k + 1 neighbors or more.
        num_neighbors: How many neighbors k, in [3, 25].
        max_dimension: The largest dimension tried, at most 100; by default that or the number of
            directions in which the data vary, D or fewer.
        cache: Where balls are kept: a folder, True for the user's own, False for nowhere.
        progress: Whether a call of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If a number is out of range, there are fewer than k + 2 distinct points, or
            only their distances were given: angles need coordinates.

    Warns:
        UserWarning: If the largest dimension tried looks best though the data vary in
            more directions.
    """
    check_whole("num_neighbors", num_neighbors, 3, MOST_NEIGHBORS)
    found = as_graph(x, num_neighbors + 1, progress=progress)
    directions = _directions(_points(found))
    largest = min(directions, _LARGEST) if max_dimension is None else max_dimension
    check_whole("max_dimension", largest, 1, _LARGEST)
    own = statistics(found)
    references = _balls(len(found), num_neighbors, largest, cache, progress)

    def divergences(dims: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theirs = _at(references, len(found), own["angle"], dims)
        return _divergences(own, theirs, num_neighbors)

    of_distances, of_angles = divergences(np.arange(1.0, largest + 1))
    of_whole = of_distances + of_angles
    on_a_line = len(of_whole) == 1 or of_distances[0] < of_distances[1]
    integer = 1 if on_a_line else int(of_whole[1:].argmin()) + 2
    if integer == largest < directions:
        warnings.warn(f"no dimension beyond {largest} was tried, and it looks best", stacklevel=2)
    dims = np.geomspace(1.0, max(largest, 2), _STEPS)
    of_distances, of_angles = divergences(dims)
    dimension = _lowest(dims, of_distances if on_a_line else of_distances + of_angles)
    return Danco(
        dimension=min(dimension, float(largest)),
        integer=integer,
        **own,
        divergences=torch.from_numpy(of_whole),
        num_points=len(found),
        num_neighbors=num_neighbors,
    )


def _directions(points: Tensor) -> int:
    """Return in how many directions the data vary, or any number above the largest tried."""
    points = points.double() - points[0].double()
    points = points / points.abs().max()  # squares of tiny numbers would be 0
    some = points[:: max(1, len(points) // (4 * _LARGEST))]
    rank = spectrum.pca(some).rank
    return rank if rank > _LARGEST else spectrum.pca(points).rank


def statistics(found: NeighborGraph) -> dict[str, float]:
    """Return `distance`, `angle` and `concentration`: δ, ν and τ.

    Args:
        found: The graph of k + 1 neighbors.
    """
    angle, concentration = _angles(found.narrowed(found.num_neighbors - 1))
    return {"distance": _distance(found), "angle": angle, "concentration": concentration}


def distance_divergence(ratio: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Return KL(p(ρ | δ) ‖ p(ρ | δ')) in nats from the ratio q = δ' / δ.

        KL = q H_k − 1 − H_(k−1) − log q − (k − 1) Σ_(j=0..k) (−1)^j C(k, j) ψ(1 + j / q)

    with H_k = 1 + 1/2 + … + 1/k.

    Args:
        ratio: q, any shape.
        num_neighbors: k, at most 25: the terms of the sum cancel.
    """
    from scipy.special import comb, digamma

    k = num_neighbors
    harmonic = (1 / np.arange(1.0, k + 1)).sum()
    terms = np.arange(k + 1.0)
    signed = (-1.0) ** terms * comb(k, terms)
    alternating = digamma(1 + terms / np.expand_dims(ratio, -1)) @ signed
    rest = ratio * harmonic - 1 - (harmonic - 1 / k) - np.log(ratio)
    return rest - (k - 1) * alternating


def angle_divergence(
    angle: float, concentration: float, angles: np.ndarray, concentrations: np.ndarray
) -> np.ndarray:
    """Return the divergence in nats from one von Mises law to others, of the shape of theirs.

    KL = log I_0(τ') − log I_0(τ) + A(τ) (τ − τ' cos(ν − ν')),   A = I_1 / I_0
    """
    from scipy.special import i0e, i1e

    def log_bessel(x: np.ndarray) -> np.ndarray:
        return np.log(i0e(x)) + x

    own = np.asarray(concentration)
    slope = i1e(own) / i0e(own)
    along = concentrations * np.cos(angle - angles)
    return log_bessel(concentrations) - log_bessel(own) + slope * (own - along)


def _distance(found: NeighborGraph) -> float:
    """Return δ, where ρ = r_1 / r_(k+1) is most likely."""
    logs = (found.distances[:, -1] / found.distances[:, 0]).log()
    if not logs.sum() > 0:
        raise ValueError("x must not have all its neighbors at one distance, as in a lattice")
    return ratio_law.solve(logs, 1, found.num_neighbors, count=len(logs))


def _angles(found: NeighborGraph) -> tuple[float, float]:
    """Return ν and τ of the angles between the directions to all neighbors."""
    points, k = _points(found), found.num_neighbors
    upper = torch.ones(k, k, dtype=torch.bool, device=points.device).triu(1)
    size = max(1, _BLOCK_BYTES // (8 * k * max(k, points.shape[1])))
    sums, total = torch.zeros(2, dtype=torch.float64, device=points.device), 0.0
    for rows in torch.arange(len(found), device=points.device).split(size):
        steps = points[found.indices[rows]].double() - points[rows].double().unsqueeze(1)
        steps /= found.distances[rows, :k].unsqueeze(2)
        cosines = (steps @ steps.mT)[:, upper].clamp(-1, 1)
        mean = torch.stack([cosines.mean(1), (1 - cosines.square()).sqrt().mean(1)])
        lengths = mean.norm(dim=0)
        sums += (mean / lengths.clamp_min(1e-300)).sum(dim=1)
        total += _concentration(lengths).sum().item()
    cosine, sine = sums.tolist()
    return math.atan2(sine, cosine), total / len(found)


def _concentration(lengths: Tensor) -> Tensor:
    """Return the τ with I_1(τ) / I_0(τ) equal to the mean resultant length.

    Best and Fisher's approximation, then Newton's steps.
    """
    η = lengths.clamp(1e-12, 1 - 0.5 / MOST_CONCENTRATED)
    low, middle = 2 * η + η**3 + 5 * η**5 / 6, -0.4 + 1.39 * η + 0.43 / (1 - η)
    high = 1 / (η**3 - 4 * η**2 + 3 * η)
    τ = torch.where(η < 0.53, low, torch.where(η < 0.85, middle, high))
    for _ in range(3):
        slope = torch.special.i1e(τ) / torch.special.i0e(τ)
        τ = τ - (slope - η) / (1 - slope / τ - slope.square())
    return τ


def _balls(
    num_points: int, num_neighbors: int, largest: int, cache: Path | str | bool, progress: bool
) -> balls.Balls:
    """Return the balls to compare with, from the package where it has them."""
    table = balls.table()
    if num_neighbors == balls.TABLE_NEIGHBORS and num_points >= table.num_points[0]:
        return table
    name = f"danco-k{num_neighbors}-n{num_points}-d{balls.reaching(largest)[-1]}"
    return balls.kept(
        name,
        lambda: balls.simulate(
            lambda points: statistics(graph(points, num_neighbors + 1, progress=False)),
            num_points,
            max_dimension=largest,
            progress=progress,
        ),
        cache,
    )


def _at(
    references: balls.Balls, num_points: int, angle: float, dims: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the balls' statistics at any dimensions, whole or not.

    On a line all angles are 0 or π, and which is commoner is a matter of N and k, not of the
    dimension: the ball of dimension 1 takes the one that is nearer to the data's `angle`.
    """
    angles = references.at(num_points, "angle").copy()
    angles[0] = math.pi if angle > math.pi / 2 else 0.0
    found = {"angle": balls.interpolated(references.dimensions, angles, dims)}
    for name in ("distance", "concentration"):
        logs = np.log(references.at(num_points, name))
        found[name] = np.exp(balls.interpolated(references.dimensions, logs, dims))
    return found


def _divergences(
    own: dict[str, float], theirs: dict[str, np.ndarray], num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the divergences from the data to each ball, of the distances and of the angles."""
    of_distances = distance_divergence(theirs["distance"] / own["distance"], num_neighbors)
    laws = own["angle"], own["concentration"], theirs["angle"], theirs["concentration"]
    return of_distances, angle_divergence(*laws)


def _lowest(dims: np.ndarray, divergences: np.ndarray) -> float:
    """Return where the parabola through the lowest value and its neighbors is lowest."""
    best = int(divergences.argmin())
    if best in (0, len(dims) - 1):
        return float(dims[best])
    left, middle, right = divergences[best - 1 : best + 2]
    shift = (left - right) / (2 * (left - 2 * middle + right))
    return float(dims[best] * (dims[1] / dims[0]) ** shift)


def _points(found: NeighborGraph) -> Tensor:
    if found.points is None:
        raise ValueError("x must hold points: angles need coordinates, got distances alone")
    return found.points
