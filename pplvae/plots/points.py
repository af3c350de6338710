"""Points in the plane, with labels, with the components of a mixture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pplvae.mixtures import GaussianMixture
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def points(
    x: Array,
    labels: Array | None = None,
    *,
    names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw points of the plane, colored by label.

    Args:
        x: Points, shape (N, 2).
        labels: Whole numbers, shape (N,).
        names: What the labels are called, least label first; themselves where None.
        ax: Where to draw.
    """
    ax = axes(ax, (4.6, 4.0))
    x = _plane(x)
    size = float(np.clip(6000 / len(x), 1, 12))
    if labels is None:
        ax.scatter(*x.T, s=size, color=COLORS["blue"], alpha=0.6, linewidths=0)
        return ax
    groups = np.unique(array(labels))
    called = names or [str(group) for group in groups]
    for color, group, name in zip(_colors(len(groups)), groups, called, strict=True):
        chosen = x[array(labels) == group]
        ax.scatter(*chosen.T, s=size, color=color, alpha=0.7, linewidths=0, label=name)
    if len(groups) <= 12:
        ax.legend(frameon=False, markerscale=3, handletextpad=0.1, loc="center left",
                  bbox_to_anchor=(1, 0.5))  # fmt: skip
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
    size = float(np.clip(6000 / len(x_plane), 1, 12))
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


def _colors(num: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    if num <= 20:
        palette = colormaps["tab10" if num <= 10 else "tab20"]
        return [palette(i) for i in range(num)]
    return [colormaps["turbo"](i) for i in np.linspace(0.05, 0.95, num)]
