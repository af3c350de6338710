"""Densities in one dimension: histograms with error bars, curves over them."""

from itertools import cycle
from typing import TYPE_CHECKING

from pplvae.density import Histogram
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def histogram(
    histogram: Histogram,
    *,
    curves: dict[str, tuple[Array, Array]] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a histogram's bars with their standard errors, and density curves over them.

    Args:
        histogram: The histogram.
        curves: By label, where each density was evaluated, shape (M,), and its values, (M,).
        ax: Where to draw.
    """
    ax = axes(ax)
    edges, density = array(histogram.edges), array(histogram.density)
    ax.stairs(density, edges, fill=True, color=COLORS["sky"], alpha=0.45)
    full = array(histogram.counts) > 0
    centers = 0.5 * (edges[1:] + edges[:-1])
    ax.errorbar(centers[full], density[full], array(histogram.error)[full], fmt="none",
                ecolor=COLORS["blue"], elinewidth=1)  # fmt: skip
    colors = cycle(COLORS[name] for name in ("vermilion", "green", "purple", "orange", "black"))
    for label, (x, values) in (curves or {}).items():
        ax.plot(array(x), array(values), color=next(colors), label=label)
    if curves:
        ax.legend(frameon=False)
    ax.set(ylabel="density", ylim=(0, None))
    return ax
