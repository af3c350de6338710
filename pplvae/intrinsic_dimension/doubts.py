"""What speaks against a dimension, in plain words: see `summary`.

Reference:
    Eckmann & Ruelle (1992), Fundamental limitations for estimating dimensions,
    https://doi.org/10.1016/0167-2789(92)90023-G, for the number of points
"""

import math

import torch
from torch import Tensor

from pplvae.intrinsic_dimension import lattice
from pplvae.intrinsic_dimension.answers import LEAST_P, Answers
from pplvae.intrinsic_dimension.scales import Profile
from pplvae.neighbors import NeighborGraph

FALL = 1.3  # beyond which the dimension depends on the scale; of clean balls and such it is 1.2
RISE = 1.5
SURE = 3.0  # standard errors that make a difference
DISAGREEMENT = 1.25  # between estimators that are otherwise trusted
COARSE = 10  # steps of a grid within which the nearest neighbors feel it


def doubts(graph: NeighborGraph, found: Answers, dimension: float) -> list[str]:
    """Return all that a reader of the answer `dimension` should know."""
    said = [*_of_data(graph, dimension)]
    said += _under_noise(found) if found.noisy else _without_noise(found)
    if found.pca is not None and dimension > found.pca.rank:
        said.append(f"the data vary in {found.pca.rank} directions only")
    return said


def _of_data(graph: NeighborGraph, dimension: float) -> list[str]:
    """Return what the points themselves say, whatever the estimators."""
    said, most = list(graph.notes), 2 * math.log10(len(graph))
    if graph.points is not None:
        said += _of_values(graph, graph.points)
    if dimension > most:
        said.append(f"{len(graph):,} points show at most about {most:.1f} dimensions by "
                    "themselves: the answer leans on what balls of so many show")  # fmt: skip
    return said


def _of_values(graph: NeighborGraph, points: Tensor) -> list[str]:
    """Return on which grid the values are, if they are."""
    steps = lattice.steps(points)
    if steps is None:
        return []
    low, high = steps.min().item(), steps.max().item()
    sizes = f"{high:.4g}" if high - low < 1e-6 * high else f"{low:.4g} to {high:.4g}"
    near = graph.distances[:, 0].median().item() / low
    kind = "whole numbers" if (points == points.round()).all() else "on a grid"
    matters = "so that it matters little"
    if near < COARSE:
        matters = "and estimators for continuous data lean on nearer ones"
    return [f"all values are {kind}, in steps of {sizes}: the nearest neighbor is {near:.3g} of "
            f"the least steps away, {matters}"]  # fmt: skip


def _under_noise(found: Answers) -> list[str]:
    """Return why the nearest neighbors are not believed, and what the wider ones lack."""
    said = f"the nearest neighbors mean {found.near:.1f} dimensions, the eighth {found.far:.1f}: "
    if found.near < found.far:
        said += "near-copies of points, or densely sampled curves"
    elif found.pca is not None and found.near > found.pca.rank:
        said += "points equally spaced, as in time series and on grids"
    else:
        said += "noise at small scales"
    if found.adaptive.capped <= 0.5:
        return [said]
    return [said, f"the adaptive scale ends at the graph's {found.adaptive.width} neighbors: "
                  "a wider graph may say less"]  # fmt: skip


def _without_noise(found: Answers) -> list[str]:
    """Return where estimators that are otherwise trusted do not fit the data or each other."""
    said = []
    if not found.calibrated.curve.covers(found.posterior.dimension):
        said.append("no ball of so many dimensions was drawn: the calibration is extrapolated")
    said += _of_scales(found.profile)
    if found.danco is not None:
        own, other = found.danco.dimension, found.calibrated.dimension
        unsure = SURE * found.calibrated.standard_error
        if max(own / other, other / own) > DISAGREEMENT and abs(own - other) > unsure:
            said.append(f"estimators disagree: DANCo says {own:.1f}, calibrated TwoNN {other:.1f}")
    if found.parts:
        each = (f"about {part.share:.0%} of the points have {part.dimension:.1f} ± "
                f"{part.standard_error:.1f}" for part in found.parts)  # fmt: skip
        said.append(f"several dimensions in one data set (hidalgo): {', '.join(each)}")
    elif found.check.p_value <= LEAST_P:
        said.append(f"the ratios do not follow TwoNN's law (p = {found.check.p_value:.2g}): "
                    "uneven density, or parts too small or too alike to tell")  # fmt: skip
    return said


def _of_scales(profile: Profile) -> list[str]:
    """Return what the profile says of larger scales, should the dimension fall or rise."""
    least, eighth = int(profile.dimensions.argmin()), int((profile.neighbors == 8).nonzero())
    if _differ(profile, 0, least, FALL):
        return [f"the dimension falls with the scale, {_from_to(profile, 0, least)}: noise at "
                "small scales, a small extent in some directions, or clusters"]  # fmt: skip
    if _differ(profile, eighth, 0, RISE):
        return [f"the dimension rises with the scale, {_from_to(profile, 0, eighth)}: the data "
                "bend within that length"]  # fmt: skip
    return []


def _differ(profile: Profile, high: int, low: int, times: float) -> bool:
    """Return whether the dimension at one scale is so many times that at another, surely."""
    d, errors = profile.dimensions, profile.standard_errors
    unsure = SURE * torch.hypot(errors[high], errors[low])
    return bool((d[high] > times * d[low]) & (d[high] - d[low] > unsure))


def _from_to(profile: Profile, start: int, end: int) -> str:
    (near, far), (short, long) = (
        values[[start, end]].tolist() for values in (profile.dimensions, profile.scales)
    )
    return f"from {near:.1f} at lengths of about {short:.3g} to {far:.1f} at {long:.3g}"
