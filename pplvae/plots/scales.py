"""Intrinsic dimension, not one number: by length scale, place, part of the data, and estimator."""

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from pplvae.intrinsic_dimension.abide import AdaptiveScale
from pplvae.intrinsic_dimension.hidalgo import Hidalgo
from pplvae.intrinsic_dimension.levina_bickel import Pointwise
from pplvae.intrinsic_dimension.scales import Profile
from pplvae.intrinsic_dimension.scaling import Slopes
from pplvae.intrinsic_dimension.spectrum import pca
from pplvae.neighbors import Data, NeighborGraph
from pplvae.plots.dimension import (
    ABOVE,
    SERIES,
    TRUTH,
    check_any,
    plain_logs,
    rounded,
    spanned,
)
from pplvae.plots.points import CLASSES
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array, as_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROBUST = 0.02, 0.98  # quantiles of the local dimensions between which colors differ
FAINTEST = 0.12  # opacity of a point that might be of any part


def dimension_profile(
    profile: Profile | Mapping[str, Profile],
    *,
    adaptive: AdaptiveScale | None = None,
    truth: float | None = None,
    prob: float = 0.95,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the dimension against the length scale, with its band and its plateaus.

    A plateau is a thick line at its dimension; of a single profile its scales are shaded too.

    Args:
        profile: From `scales.profile`, or several by name.
        adaptive: The answer of `scales.adaptive`, for a level line with its interval.
        truth: The dimension, where it is known.
        prob: What the bands and the interval hold, in (0, 1).
        ax: Where to draw.

    Raises:
        ValueError: If there is no profile, or the probability is impossible.
    """
    named = {profile.estimator: profile} if isinstance(profile, Profile) else profile
    check_any("profile", named)
    rows = len(named) + (adaptive is not None) + (truth is not None)
    ax = axes(ax, (5.2, 3.1 + 0.17 * rows))
    for (name, each), color, marker in zip(named.items(), cycle(SERIES), cycle("os^Dv")):
        _curve(ax, each, prob, {"color": color, "marker": marker, "label": _named(name, each)})
        for plateau in each.plateaus:
            ax.plot(plateau.scales, [plateau.dimension] * 2, color=color, linewidth=5, alpha=0.35,
                    solid_capstyle="butt")  # fmt: skip
            if len(named) == 1:
                ax.axvspan(*plateau.scales, color=color, alpha=0.08, linewidth=0)
    _levels(ax, adaptive, truth, prob)
    ax.set_xscale("log")
    plain_logs(ax.xaxis)
    ax.set(xlabel="length scale, in units of x", ylabel="dimension d", ylim=(0, None))
    ax.legend(**ABOVE, title=f"± one standard error; bands hold {100 * prob:g} %")
    return ax


def scaling_line(slopes: Slopes, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the mean log distance of each neighbor against its rank, and the pooled line."""
    ax = axes(ax)
    ranks, logs = array(slopes.ranks), array(slopes.log_distances)
    line = logs.mean() + (ranks - ranks.mean()) / slopes.dimension
    said = rounded(slopes.dimension, slopes.standard_error)
    ax.plot(ranks, logs, "o", markersize=4.5, color=COLORS["blue"], label="mean over the points")
    ax.plot(ranks, line, color=COLORS["vermilion"], zorder=1.9,
            label=f"slope 1 / d,  d = {said}")  # fmt: skip
    for place, offset in ((0, (7, -4)), (-1, (-2, -14))):
        ax.annotate(f"k = {len(ranks) if place else 1}", (ranks[place], logs[place]),
                    xytext=offset, textcoords="offset points", fontsize=9)  # fmt: skip
    rank = r"$\psi(k)$" if slopes.against == "digamma" else r"$\log\,k$"
    ax.set(xlabel=f"{rank}, of the rank k", ylabel=r"mean of $\log\,r_k$")
    ax.legend(frameon=False, loc="upper left")
    return ax


def local_dimension(
    points: Data,
    local: Array | Pointwise,
    *,
    limits: tuple[float, float] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw points colored by the dimension around each.

    Args:
        points: Distinct points, shape (N, D), D ≥ 2, or their neighbor graph; for D > 2 their
            first two principal components are shown.
        local: d at each, shape (N,), as `scaling.slopes(...).local`, or the posterior of each,
            `levina_bickel.pointwise(..., smooth=True)`; infinite ones get the last color.
        limits: The dimensions between which colors differ; by default few lie beyond.
        ax: Where to draw.

    Raises:
        ValueError: If there is not one number for each point, or none is finite.
    """
    plane, names = _plane(points)
    values = array(local.mean if isinstance(local, Pointwise) else local)
    finite = values[np.isfinite(values)]
    if values.shape != plane.shape[:1] or np.isnan(values).any() or not len(finite):
        raise ValueError(
            f"local must hold a dimension for each of {len(plane)} points, got {values.shape} "
            f"with {np.isfinite(values).sum()} finite"
        )
    low, high = np.quantile(finite, ROBUST) if limits is None else limits
    ax = axes(ax, (5.2, 4.0))
    order = np.random.default_rng(0).permutation(len(plane))
    colors = np.minimum(values, finite.max())[order]
    drawn = ax.scatter(*plane[order].T, c=colors, s=_size(plane), cmap="viridis", vmin=low,
                       vmax=high, linewidths=0)  # fmt: skip
    beyond = bool((values < low).any()) + 2 * bool((values > high).any())
    extend = ("neither", "min", "max", "both")[beyond]
    ax.figure.colorbar(drawn, ax=ax, label="local dimension", extend=extend)
    ax.set(**names)
    return ax


def dimension_parts(points: Data, hidalgo: Hidalgo, *, ax: "Axes | None" = None) -> "Axes":
    """Draw points colored by Hidalgo's parts, the fainter the less sure theirs is.

    Args:
        points: Distinct points, shape (N, D), D ≥ 2, or their neighbor graph; for D > 2 their
            first two principal components are shown.
        hidalgo: The parts; their dimensions with standard errors and shares are in the legend.
        ax: Where to draw.

    Raises:
        ValueError: If the parts are not those of so many points.
    """
    from matplotlib.colors import to_rgb

    plane, names = _plane(points)
    if len(hidalgo.probabilities) != len(plane):
        number = len(hidalgo.probabilities)
        raise ValueError(f"hidalgo must know each of {len(plane)} points, got {number}")
    colors = np.array([to_rgb(CLASSES[part % len(CLASSES)]) for part in range(hidalgo.num_parts)])
    shades = np.column_stack([colors[array(hidalgo.parts)], _opacity(hidalgo)])
    ax = axes(ax, (5.2, 4.0))
    order = np.random.default_rng(0).permutation(len(plane))
    ax.scatter(*plane[order].T, c=shades[order], s=_size(plane), linewidths=0)
    parts = zip(hidalgo.dimensions, hidalgo.standard_errors, hidalgo.weights, strict=True)
    for (d, error, weight), color in zip(parts, colors, strict=True):
        said = f"d = {rounded(d.item(), error.item())}  ({weight.item():.0%})"
        ax.scatter([], [], s=40, color=color, linewidths=0, label=said)
    ax.set(**names)
    ax.legend(
        **ABOVE, ncols=1 if hidalgo.num_parts > 2 else 2, handletextpad=0.1, columnspacing=1.0
    )
    return ax


def dimension_estimates(
    estimates: Mapping[str, tuple[float, float, float]],
    *,
    truth: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw estimators side by side, a dot and the bar of its interval in each row.

    Args:
        estimates: By name, the first on top: d and the ends of its interval, which are nan where
            it has none.
        truth: The dimension, where it is known.
        ax: Where to draw.

    Raises:
        ValueError: If there is no estimate, one is not finite, or an interval ends before it
            begins.
    """
    check_any("estimates", estimates)
    ax = axes(ax, (5.6, 0.9 + 0.34 * len(estimates)))
    for row, (name, (value, low, high)) in enumerate(estimates.items()):
        if not np.isfinite(value) or low > high:
            raise ValueError(f"{name} must be finite in an interval, got {value, low, high}")
        ax.plot([low, high], [row, row], color=COLORS["blue"], linewidth=2.4, alpha=0.45,
                solid_capstyle="butt")  # fmt: skip
        ax.plot(value, row, "o", color=COLORS["blue"], markersize=6)
        ax.annotate(spanned(value, low, high), (1.03, row), va="center", fontsize=9,
                    xycoords=("axes fraction", "data"))  # fmt: skip
    if truth is not None:
        ax.axvline(truth, **TRUTH, label=f"truth: {truth:g}")
        ax.legend(**ABOVE)
    ax.set(xlabel="dimension d", ylim=(len(estimates) - 0.5, -0.5))
    ax.set_yticks(range(len(estimates)), list(estimates))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=COLORS["grey"], alpha=0.3, linewidth=0.6)
    return ax


def _curve(ax: "Axes", profile: Profile, prob: float, look: dict[str, Any]) -> None:
    """Draw d against scale with its band; none where the error is unknown."""
    scales, (low, high) = array(profile.scales), profile.interval(prob)
    ax.plot(scales, array(profile.dimensions), linewidth=1.6, markersize=4.5, **look)
    ax.fill_between(scales, array(low), array(high), color=look["color"], alpha=0.2, linewidth=0)


def _levels(ax: "Axes", adaptive: AdaptiveScale | None, truth: float | None, prob: float) -> None:
    """Draw what holds at all scales."""
    if adaptive is not None:
        said = rounded(adaptive.dimension, adaptive.standard_error)
        ax.axhline(adaptive.dimension, color=COLORS["vermilion"], linewidth=1.4, linestyle="--",
                   label=f"adaptive: {said}")  # fmt: skip
        ax.axhspan(*adaptive.interval(prob), color=COLORS["vermilion"], alpha=0.15, linewidth=0)
    if truth is not None:
        ax.axhline(truth, **TRUTH, label=f"truth: {truth:g}")


def _named(name: str, profile: Profile) -> str:
    if not profile.plateaus:
        return f"{name}: no plateau"
    said = ", ".join(rounded(each.dimension, each.standard_error) for each in profile.plateaus)
    return f"{name}: {'plateau' if len(profile.plateaus) == 1 else 'plateaus'} at {said}"


def _plane(points: Data) -> tuple[np.ndarray, dict[str, str]]:
    """Return points of the plane, and what its axes are called where it is not theirs."""
    found = points.points if isinstance(points, NeighborGraph) else points
    if found is None:
        raise ValueError("points must have coordinates, got distances alone")
    x = as_points(found, name="points")
    if x.shape[1] < 2:
        raise ValueError(f"points must have at least 2 columns, got {x.shape[1]}")
    if x.shape[1] == 2:
        return array(x), {}
    axis = "principal component"
    names = {"xlabel": f"first {axis}", "ylabel": f"second {axis}"}
    return array(pca(x).project(x, 2)), names


def _opacity(hidalgo: Hidalgo) -> np.ndarray:
    """Return from `FAINTEST`, where all parts are as likely, to 0.9, where one is certain."""
    others = 1 - array(hidalgo.probabilities).max(axis=1)
    unsure = others / max(1 - 1 / hidalgo.num_parts, 0.5)
    return 0.9 - (0.9 - FAINTEST) * unsure.clip(0, 1)


def _size(plane: np.ndarray) -> float:
    return float(np.clip(20000 / len(plane), 1.5, 14))
