"""Points in the plane, with labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = ("blue", "orange", "green", "vermilion", "purple", "sky", "black", "grey")
CLASSES = [*(COLORS[name] for name in NAMED), "#7F4A1E", "#D9C400"]


def points(
    x: Array,
    labels: Array | None = None,
    *,
    names: Sequence[str] | None = None,
    centers: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw points of the plane, colored by label, in an order that hides no label.

    Args:
        x: Points, shape (N, 2).
        labels: Whole numbers, shape (N,).
        names: What the labels are called, least label first; themselves where None.
        centers: Whether to write each name at the median of its points too.
        ax: Where to draw.
    """
    ax = axes(ax, (4.6, 4.0))
    x = plane(x)
    size = dot_size(x)
    if labels is None:
        ax.scatter(*x.T, s=size, color=COLORS["blue"], alpha=0.6, linewidths=0)
        return ax
    groups, rank = np.unique(array(labels), return_inverse=True)
    called = [str(group) for group in groups] if names is None else [*names]
    colors = np.array(class_colors(len(groups)))
    order = np.random.default_rng(0).permutation(len(x))
    ax.scatter(*x[order].T, s=size, color=colors[rank[order]], alpha=0.7, linewidths=0)
    for i, name in enumerate(called):
        ax.scatter([], [], s=40, color=colors[i], linewidths=0, label=name)
        if centers:
            write(ax, np.median(x[rank == i], axis=0), name, colors[i])
    if len(groups) <= 12:
        ax.legend(frameon=False, handletextpad=0.1, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plane(x: Array) -> np.ndarray:
    """Return points of the plane, shape (N, 2), refusing any others."""
    found = array(x)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise ValueError(f"x must have shape (N, 2), got {found.shape}")
    return found


def dot_size(x: np.ndarray) -> float:
    """Return how large to draw points, the smaller the more there are."""
    return float(np.clip(12000 / len(x), 1.5, 12))


def write(
    ax: "Axes", place: np.ndarray, name: str, color: np.ndarray, *, size: float = 13
) -> None:
    """Write a name on top of points, in a darker shade of their color (r, g, b)."""
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    ax.text(place[0], place[1], name, color=color * 0.75, fontsize=size, fontweight="bold",
            ha="center", va="center", path_effects=halo)  # fmt: skip


def class_colors(num: int) -> list[tuple[float, ...]]:
    """Return colors (r, g, b) that also color-blind people tell apart, up to ten of them."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    if num <= len(CLASSES):
        return [to_rgb(color) for color in CLASSES[:num]]
    if num <= 20:
        return [colormaps["tab20"](i)[:3] for i in range(num)]
    return [colormaps["turbo"](i)[:3] for i in np.linspace(0.05, 0.95, num)]
