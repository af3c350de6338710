"""Estimators of one gradient: how much they vary, and what an evaluation costs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ESTIMATORS = {"reparameterized": "blue", "score": "vermilion", "baseline": "orange"}
FEW_DOTS, MOST_DOTS = 6, 300


def gradients(
    sds: Mapping[str, Array], milliseconds: Mapping[str, float], ax: "Axes | None" = None
) -> "Axes":
    """Draw the standard deviation of an evaluation by each estimator, on a log axis.

    A bar marks the root mean square over coordinates, dots the coordinates: where there are many,
    evenly spaced quantiles of them. Coordinates that do not vary are left out.

    Args:
        sds: By estimator, of each coordinate, in nats per unit of the parameter, shapes (P,).
        milliseconds: By estimator, CPU time of one evaluation.
        ax: Where to draw.
    """
    from matplotlib.patheffects import withStroke

    ax = axes(ax, size=(5.4, 0.55 * len(sds) + 1.3))
    for row, (name, value) in enumerate(sds.items()):
        color, value = COLORS[ESTIMATORS.get(name, "grey")], np.sort(array(value).reshape(-1))
        size, shown = np.sqrt((value**2).mean()), _spaced(value[value > 0])
        few = len(shown) <= FEW_DOTS
        spread = np.zeros(len(shown)) if few else 0.16 * np.sin(2.4 * np.arange(len(shown)))
        ax.plot(shown, row + spread, "o", color=color, mew=0, markersize=6 if few else 4,
                alpha=0.8 if few else 0.35)  # fmt: skip
        ax.plot(size, row, "|", color=color, markersize=24, markeredgewidth=3,
                path_effects=[withStroke(linewidth=6, foreground="white")])  # fmt: skip
        number = f"{size:,.0f}" if 1000 <= size < 1e6 else f"{size:.3g}"
        ax.annotate(f"{number} rms, {milliseconds[name]:.2g} CPU-ms", (1.03, row), va="center",
                    color=COLORS["black"], xycoords=("axes fraction", "data"))  # fmt: skip
    ax.set_xscale("log")
    ax.set_yticks(range(len(sds)), list(sds))
    ax.set(xlabel="sd of one evaluation, nats per unit of the parameter",
           ylim=(len(sds) - 0.5, -0.5))  # fmt: skip
    return ax


def _spaced(ordered: np.ndarray) -> np.ndarray:
    """Return at most `MOST_DOTS` of the sorted values, the least and the largest among them."""
    if len(ordered) <= MOST_DOTS:
        return ordered
    return ordered[np.linspace(0, len(ordered) - 1, MOST_DOTS).round().astype(int)]
