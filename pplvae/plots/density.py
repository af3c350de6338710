"""Densities: bars under curves, what a bandwidth does, contours, who is typical, who explains."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pplvae.density import Histogram
from pplvae.density import histogram as bars
from pplvae.density.kernel import log_density
from pplvae.density.sweep import Sweep
from pplvae.plots.images import checked, shown, tiled
from pplvae.plots.points import dot_size, plane
from pplvae.plots.style import COLORS, array, axes, panels
from pplvae.validation import Array, as_vector, check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = ("vermilion", "green", "purple", "orange", "black")
MASSES = (0.1, 0.3, 0.5, 0.7, 0.9)
GRID = 100  # places along each axis where a density is evaluated
SPANS = 0.25, 4.0  # of the best width: too narrow, too wide
ABOVE: dict[str, Any] = {
    "loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "frameon": False, "fontsize": 9
}  # fmt: skip


def histogram(
    histogram: Histogram,
    *,
    curves: Mapping[str, tuple[Array, ...]] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a histogram's bars with their standard errors, and density curves over them.

    Args:
        histogram: The histogram.
        curves: By label, where each density was evaluated, shape (M,), its values, (M,), and, for
            a band, their standard errors, (M,).
        ax: Where to draw.
    """
    ax = axes(ax)
    edges, density = array(histogram.edges), array(histogram.density)
    ax.stairs(density, edges, fill=True, color=COLORS["sky"], alpha=0.45)
    full = array(histogram.counts) > 0
    centers = 0.5 * (edges[1:] + edges[:-1])
    ax.errorbar(centers[full], density[full], array(histogram.error)[full], fmt="none",
                ecolor=COLORS["blue"], elinewidth=1)  # fmt: skip
    for name, (label, (x, values, *error)) in zip(cycle(SERIES), (curves or {}).items()):
        places, heights = array(x), array(values)
        ax.plot(places, heights, color=COLORS[name], label=label)
        for own in map(array, error):
            ax.fill_between(places, heights - own, heights + own, color=COLORS[name], alpha=0.2,
                            linewidth=0)  # fmt: skip
    if curves:
        ax.legend(**ABOVE, ncols=1 + (len(curves) > 3))
    ax.set(ylabel="density", ylim=(0, None))
    return ax


def bandwidths(sweep: Sweep, data: Array, *, axes: "Sequence[Axes] | None" = None) -> "list[Axes]":
    """Draw Gaussian kernels of three widths over the bars, and what each width costs beside it.

    The cost is KL(p ‖ p_h) above its least value, in a band of two standard errors, which has a
    valley; and the divergence between the estimates of two halves, which falls for ever.

    Args:
        sweep: From `density.sweep.bandwidths(data)`.
        data: The sample on a line, shape (N,).
        axes: Two to draw on.

    Raises:
        ValueError: If the data are not on a line.
    """
    left, right = axes or panels(2, columns=2, size=(4.6, 3.2))
    _three_widths(left, sweep, as_vector(data, name="data"))
    factors, loss, error = map(array, (sweep.factors, sweep.divergence, sweep.error))
    right.fill_between(factors, loss - 2 * error, loss + 2 * error, color=COLORS["vermilion"],
                       alpha=0.2, linewidth=0)  # fmt: skip
    right.plot(factors, loss, color=COLORS["vermilion"],
               label=r"KL($p$ ‖ $p_h$) above its least")  # fmt: skip
    right.plot(factors[sweep.best], 0.0, "o", color=COLORS["vermilion"], markersize=6)
    right.plot(factors, array(sweep.halves), color=COLORS["blue"], linestyle="--",
               label="KL between two halves")  # fmt: skip
    right.axvline(1.0, color=COLORS["grey"], linewidth=1, linestyle=":")
    right.annotate("Silverman", (1.0, 1.0), xycoords=("data", "axes fraction"), rotation=90,
                   xytext=(3, -3), textcoords="offset points", va="top", fontsize=8,
                   color=COLORS["grey"])  # fmt: skip
    right.set_xscale("log")
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10) if factors[0] <= t <= factors[-1]]
    right.set_xticks(ticks, [f"{t:g}" for t in ticks])
    right.minorticks_off()
    top = min(loss.max(), 5 * max(np.median(loss), 0.02))
    right.set(xlabel="width, in Silverman's", ylabel="nats", ylim=(-0.04 * top, 1.05 * top))
    right.legend(**ABOVE)
    right.spines[["top", "right"]].set_visible(False)
    return [left, right]


def contours(
    log_density: Callable[..., Any],
    x: Array,
    *,
    masses: Sequence[float] = MASSES,
    num_grid: int = GRID,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw points of the plane, and contours of a density that enclose given shares of them.

    Args:
        log_density: From points, shape (M, 2), to log densities, (M,).
        x: The points, shape (N, 2).
        masses: The shares, each in (0, 1).
        num_grid: Places along each axis where the density is evaluated.
        ax: Where to draw.

    Raises:
        ValueError: If a share is outside, or the points are not in the plane.
    """
    inside = sorted(masses)
    if not inside or not 0 < inside[0] <= inside[-1] < 1:
        raise ValueError(f"masses must be in (0, 1), got {list(masses)}")
    check_whole("num_grid", num_grid, 2)
    found, ax = plane(x), axes(ax, (4.6, 4.0))
    low, high = found.min(axis=0), found.max(axis=0)
    margin = 0.08 * (high - low)
    columns, rows = np.meshgrid(
        *(np.linspace(*ends, num_grid) for ends in zip(low - margin, high + margin, strict=True))
    )
    places = torch.from_numpy(np.stack([columns.ravel(), rows.ravel()], axis=1))
    values = array(log_density(places)).reshape(columns.shape)
    own = array(log_density(torch.from_numpy(found)))
    levels = np.unique(np.quantile(own[np.isfinite(own)], 1 - np.array(inside[::-1])))
    values = values.clip(min=levels[0] - 10)  # contours cannot be drawn up to −inf
    top, half = max(values.max(), levels[-1]) + 1.0, 0.5 * np.ptp(levels)
    ax.contourf(columns, rows, values, [*levels, top], cmap="Blues", alpha=0.75,
                vmin=levels[0] - half, vmax=levels[-1] + half)  # fmt: skip
    ax.contour(columns, rows, values, levels, colors=COLORS["blue"], linewidths=0.8,
               linestyles="solid")  # fmt: skip
    ax.scatter(*found.T, s=0.5 * dot_size(found), color=COLORS["black"], alpha=0.35, linewidths=0)
    return ax


def typical(
    log_density: Array,
    error: Array | None = None,
    *,
    images: Array | None = None,
    shape: tuple[int, ...] | None = None,
    rows: Array | None = None,
    num: int = 6,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the log densities of points from the most to the least typical, and both ends.

    Args:
        log_density: log p of each point, in nats, shape (N,).
        error: Its standard error, shape (N,), for a band.
        images: The points, shape (N, D), of which both ends are shown; row numbers without.
        shape: Of one image.
        rows: The row number of each point, shape (N,); their order where None.
        num: How many of each end.
        ax: Where to draw.

    Raises:
        ValueError: If there are fewer points than two ends, or the images are none.
    """
    heights = array(as_vector(log_density, name="log_density", min_size=2))
    check_whole("num", num, 1, len(heights) // 2, context=f"for {len(heights)} points")
    order = np.argsort(-heights, kind="stable")
    ax, share = axes(ax, (6.4, 3.8)), 100 * (np.arange(len(order)) + 0.5) / len(order)
    if error is not None:
        own = array(error)[order]
        ax.fill_between(share, heights[order] - own, heights[order] + own, color=COLORS["sky"],
                        alpha=0.5, linewidth=0, label="± one standard error")  # fmt: skip
    ax.plot(share, heights[order], color=COLORS["blue"], linewidth=1.8)
    called = np.arange(len(order)) if rows is None else array(rows)
    for name, ends in (("most", order[:num]), ("least", order[-num:])):
        if images is None or shape is None:
            _numbers(ax, name, called[ends])
        else:
            _pictures(ax, name, tiled(checked(array(images)[ends], shape, "images"), shape, num))
    ax.set(xlabel="share of the points that are more typical, %", ylabel="log density, nats",
           xlim=(0, 100))  # fmt: skip
    if error is not None:
        ax.legend(**ABOVE)
    return ax


def held_out(
    names: Sequence[str],
    means: Array,
    gaps: Array,
    errors: Array,
    *,
    ranked: Sequence[bool] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw mean held-out log densities less the best one's, a row for each estimate.

    What is not ranked is a hollow dot. What is −∞, or not known, is said at the side.

    Args:
        names: The estimates, the first on top.
        means: Mean log densities, in nats per point, shape (n,); nan for none.
        gaps: The same less that of the best density, shape (n,).
        errors: Standard errors of the gaps, shape (n,).
        ranked: Which are densities; all where None.
        ax: Where to draw.

    Raises:
        ValueError: If there is no estimate.
    """
    from matplotlib.ticker import MaxNLocator

    if not names:
        raise ValueError("names must name at least one estimate, got none")
    ax = axes(ax, (5.8, 0.9 + 0.36 * len(names)))
    solid = [True] * len(names) if ranked is None else list(ranked)
    for row, (mean, gap, error) in enumerate(zip(*map(array, (means, gaps, errors)), strict=True)):
        color = COLORS["blue" if solid[row] else "grey"]
        if np.isfinite(gap):
            ax.errorbar(gap, row, xerr=2 * np.nan_to_num(error), fmt="o", color=color,
                        markersize=6, elinewidth=2.2,
                        mfc=color if solid[row] else "white")  # fmt: skip
        said = f"{mean:.2f}" if np.isfinite(mean) else ("−∞" if mean == -math.inf else "n/a")
        ax.annotate(said.replace("-", "−") + ("" if solid[row] else "*"), (1.03, row), va="center",
                    xycoords=("axes fraction", "data"), fontsize=9)  # fmt: skip
    ax.annotate("mean", (1.03, 1.0), xycoords="axes fraction", fontsize=9, va="bottom",
                color=COLORS["grey"])  # fmt: skip
    if not all(solid):
        ax.annotate("* no density", (1.03, 0.0), xycoords="axes fraction", fontsize=8, va="top",
                    xytext=(0, -6), textcoords="offset points", color=COLORS["grey"])  # fmt: skip
    ax.axvline(0, color=COLORS["grey"], linewidth=1, linestyle=":")
    ax.set(xlabel="less than the best density, nats per point (± 2 standard errors)",
           ylim=(len(names) - 0.5, -0.5))  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_yticks(range(len(names)), list(names))
    ax.tick_params(axis="y", length=0)
    return ax


def _three_widths(ax: "Axes", sweep: Sweep, data: torch.Tensor) -> None:
    best = sweep.bandwidths[sweep.best]
    low, high = data.min().item(), data.max().item()
    grid = torch.linspace(low, high, 400, dtype=torch.float64)
    named = {"best width": 1.0, "a quarter of it": SPANS[0], "four times": SPANS[1]}
    curves = {
        label: (grid, log_density(grid, data.double(), times * best, progress=False).exp())
        for label, times in named.items()
    }
    histogram(bars(data), curves=curves, ax=axes(ax))


def _numbers(ax: "Axes", end: str, rows: np.ndarray) -> None:
    """Write the row numbers of one end where the curve is not."""
    side, place = ("right", (0.98, 0.93)) if end == "most" else ("left", (0.03, 0.05))
    said = f"{end} typical rows: " + ", ".join(map(str, rows))
    ax.annotate(said, place, xycoords="axes fraction", fontsize=9, ha=side)


def _pictures(ax: "Axes", end: str, picture: np.ndarray) -> None:
    """Show the images of one end where the curve is not."""
    inner = ax.inset_axes((0.36, 0.74, 0.62, 0.18) if end == "most" else (0.04, 0.04, 0.62, 0.18))
    shown(inner, picture).set_title(f"{end} typical", fontsize=9, pad=2)
