"""Points in the plane, with labels, with the components of a mixture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pplvae.mixtures import GaussianMixture
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
    x = _plane(x)
    size = float(np.clip(12000 / len(x), 1.5, 12))
    if labels is None:
        ax.scatter(*x.T, s=size, color=COLORS["blue"], alpha=0.6, linewidths=0)
        return ax
    groups, rank = np.unique(array(labels), return_inverse=True)
    called = [str(group) for group in groups] if names is None else [*names]
    colors = np.array(_colors(len(groups)))
    order = np.random.default_rng(0).permutation(len(x))
    ax.scatter(*x[order].T, s=size, color=colors[rank[order]], alpha=0.7, linewidths=0)
    for i, name in enumerate(called):
        ax.scatter([], [], s=40, color=colors[i], linewidths=0, label=name)
        if centers:
            _write(ax, np.median(x[rank == i], axis=0), name, colors[i])
    if len(groups) <= 12:
        ax.legend(frameon=False, handletextpad=0.1, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def mixture(x: Array, mixture: GaussianMixture, *, ax: "Axes | None" = None) -> "Axes":
    """Draw points colored by component, and each component's ellipse of two standard deviations.

    Args:
        x: Points, shape (N, 2).
        mixture: A mixture in two dimensions.
        ax: Where to draw.
    """
    x_plane = _plane(x)
    ax = axes(ax, (4.6, 4.0))
    colors = np.array(_colors(mixture.num_components))
    size = float(np.clip(12000 / len(x_plane), 1.5, 12))
    ax.scatter(*x_plane.T, s=size, color=colors[array(mixture.predict(x))], alpha=0.45,
               linewidths=0)  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for loc, tril, color in zip(array(mixture.locs), array(mixture.scale_trils), colors,
                                strict=True):  # fmt: skip
        ax.plot(*(loc[:, None] + 2 * tril @ circle), color="white", linewidth=2.6)
        ax.plot(*(loc[:, None] + 2 * tril @ circle), color=color, linewidth=1.3)
    return ax


def _plane(x: Array) -> np.ndarray:
    found = array(x)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise ValueError(f"x must have shape (N, 2), got {found.shape}")
    return found


def _write(ax: "Axes", place: np.ndarray, name: str, color: np.ndarray) -> None:
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    ax.text(place[0], place[1], name, color=color * 0.75, fontsize=13, fontweight="bold",
            ha="center", va="center", path_effects=halo)  # fmt: skip


def _colors(num: int) -> list[tuple[float, ...]]:
    """Return colors (r, g, b) that also color-blind people tell apart, up to ten of them."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    if num <= len(CLASSES):
        return [to_rgb(color) for color in CLASSES[:num]]
    if num <= 20:
        return [colormaps["tab20"](i)[:3] for i in range(num)]
    return [colormaps["turbo"](i)[:3] for i in np.linspace(0.05, 0.95, num)]
