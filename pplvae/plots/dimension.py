"""Intrinsic dimension: the PCA spectrum, and TwoNN's line and its check."""

from typing import TYPE_CHECKING

import numpy as np

from pplvae.intrinsic_dimension.spectrum import Spectrum
from pplvae.intrinsic_dimension.twonn import LineFit
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectrum(spectrum: Spectrum, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the fraction of the variance each component holds, and where the asked one is held."""
    ax = axes(ax)
    explained = array(spectrum.explained)
    rank = np.arange(1, len(explained) + 1)
    ax.semilogy(rank, np.maximum(explained, explained.max() * 1e-6), ".-", color=COLORS["blue"])
    ax.axvline(spectrum.dimension, color=COLORS["vermilion"], linestyle="--", linewidth=1)
    ax.annotate(
        f"{spectrum.dimension} components\nhold {spectrum.variance_fraction:.0%}",
        (spectrum.dimension, explained.max()), xytext=(6, -4), textcoords="offset points",
        va="top", color=COLORS["vermilion"],
    )  # fmt: skip
    ax.set(xlabel="principal component", ylabel="fraction of the variance")
    return ax


def twonn_line(fit: LineFit, *, ax: "Axes | None" = None) -> "Axes":
    """Draw TwoNN's points, those left out in grey, and the line whose slope is the dimension."""
    ax = axes(ax)
    finite = np.isfinite(array(fit.y_discarded))
    x, left_out = array(fit.x), array(fit.x_discarded)[finite]
    ax.plot(x, array(fit.y), ".", markersize=3, color=COLORS["blue"], label="ratios used")
    ax.plot(left_out, array(fit.y_discarded)[finite], ".", markersize=3, color=COLORS["grey"],
            label="left out")  # fmt: skip
    end = max(x.max(), np.quantile(left_out, 0.9) if len(left_out) else 0)
    ax.plot([0, end], [0, fit.dimension * end], color=COLORS["vermilion"],
            label=f"slope d = {fit.dimension:.2f}")  # fmt: skip
    ax.set(xlabel=r"$\log\,\mu$,  $\mu = r_2 / r_1$", ylabel=r"$-\log(1 - F(\mu))$")
    ax.legend(frameon=False, markerscale=3)
    return ax


def pareto_quantiles(ratios: Array, dimension: float, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the quantiles of log μ against those of the Pareto law with this dimension.

    Where the law holds the points lie on the diagonal.

    Args:
        ratios: Distance ratios μ, shape (N,).
        dimension: The dimension d.
        ax: Where to draw.
    """
    ax = axes(ax)
    observed = np.sort(np.log(array(ratios)))
    fraction = (np.arange(len(observed)) + 0.5) / len(observed)
    expected = -np.log1p(-fraction) / dimension
    ax.plot(expected, observed, ".", markersize=3, color=COLORS["blue"])
    end = max(expected[-1], observed[-1])
    ax.plot([0, end], [0, end], color=COLORS["vermilion"], linewidth=1)
    ax.set(xlabel=r"quantiles of $\log\,\mu$, Pareto law", ylabel=r"observed quantiles")
    return ax
