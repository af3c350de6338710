"""Intrinsic dimension, one number for all points: how it is found, and how sure it is.

Where the dimension depends on the length scale or the place, see `scales`.
"""

from collections.abc import Mapping
from itertools import cycle
from textwrap import fill
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from pplvae.intrinsic_dimension.danco import Danco
from pplvae.intrinsic_dimension.gamma import (
    CalibratedPosterior,
    GammaPosterior,
    MaximumLikelihood,
)
from pplvae.intrinsic_dimension.grid import GridPosterior
from pplvae.intrinsic_dimension.predictive import PredictiveCheck
from pplvae.intrinsic_dimension.result import Estimated
from pplvae.intrinsic_dimension.spectrum import Spectrum
from pplvae.intrinsic_dimension.twonn import LineFit
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

DimensionPosterior: TypeAlias = GammaPosterior | CalibratedPosterior | GridPosterior
DimensionLaw: TypeAlias = DimensionPosterior | MaximumLikelihood | Estimated

SERIES = [COLORS[name] for name in ("blue", "orange", "green", "purple", "sky", "black")]
CUTS = [*SERIES[1:], COLORS["vermilion"]]
TRUTH = {"color": COLORS["black"], "linestyle": ":", "linewidth": 1.4, "zorder": 1}
ABOVE = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "frameon": False, "fontsize": 9,
         "title_fontsize": 9, "alignment": "left"}  # fmt: skip
TAIL = 1e-4  # of a posterior that is left out on each side
LEAST_DIVERGENCE = 1e-6  # nats, the end of a log axis
MOST_ON_AN_EVEN_AXIS = 30  # dimensions


def spectrum(
    spectrum: Spectrum, *, cuts: Mapping[str, int] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw the fraction of the variance each component holds, and where it is cut.

    Args:
        spectrum: The PCA spectrum.
        cuts: By rule, how many components it keeps, as `components.rules` says; those that agree
            share a line. Without it, only where the asked fraction of the variance is held.
        ax: Where to draw.
    """
    ax = axes(ax, (5.0 if cuts is None else 6.6, 3.4))
    explained = array(spectrum.explained)
    rank = np.arange(1, len(explained) + 1)
    ax.semilogy(rank, np.maximum(explained, explained.max() * 1e-6), ".-", color=COLORS["blue"])
    ax.set(xlabel="principal component", ylabel="fraction of the variance")
    if explained.max() < 8 * explained.min():
        plain_logs(ax.yaxis)
    if cuts is not None:
        _cuts(ax, cuts)
        return ax
    ax.axvline(spectrum.dimension, color=COLORS["vermilion"], linestyle="--", linewidth=1)
    ax.annotate(
        f"{spectrum.dimension} components\nhold {spectrum.variance_fraction:.0%}",
        (spectrum.dimension, explained.max()), xytext=(6, -4), textcoords="offset points",
        va="top", color=COLORS["vermilion"],
    )  # fmt: skip
    return ax


def twonn_line(fit: LineFit, *, ax: "Axes | None" = None) -> "Axes":
    """Draw TwoNN's points, those left out in grey, and the line through the others."""
    ax = axes(ax)
    finite = np.isfinite(array(fit.y_discarded))
    x, left_out = array(fit.x), array(fit.x_discarded)[finite]
    ax.plot(x, array(fit.y), ".", markersize=3, color=COLORS["blue"], label="ratios used")
    ax.plot(left_out, array(fit.y_discarded)[finite], ".", markersize=3, color=COLORS["grey"],
            label="left out")  # fmt: skip
    end = max(x.max(), np.quantile(left_out, 0.9) if len(left_out) else 0)
    said = f"slope d = {fit.slope:.2f}"
    if fit.dimension != fit.slope:
        said = f"slope {fit.slope:.2f},\ncalibrated d = {fit.dimension:.2f}"
    ax.plot([0, end], [0, fit.slope * end], color=COLORS["vermilion"], label=said)
    ax.set(xlabel=r"$\log\,\mu$,  $\mu = r_2 / r_1$", ylabel=r"$-\log(1 - F(\mu))$")
    ax.legend(frameon=False, markerscale=3)
    return ax


def pareto_quantiles(
    ratios: Array | PredictiveCheck, dimension: float | None = None, *, ax: "Axes | None" = None
) -> "Axes":
    """Draw the quantiles of log μ against those of TwoNN's law.

    Where the law holds the points lie on the diagonal.

    Args:
        ratios: Distance ratios μ, shape (N,), against the Pareto law; or `predictive.check`'s
            answer, against the posterior predictive law, which brings its p-value.
        dimension: The dimension d of the Pareto law; a check has its own.
        ax: Where to draw.

    Raises:
        ValueError: If ratios come without a dimension, or a check with one.
    """
    law, expected, observed = _quantiles(ratios, dimension)
    ax = axes(ax)
    ax.plot(expected, observed, ".", markersize=3, color=COLORS["blue"])
    end = max(expected[-1], observed[-1])
    ax.plot([0, end], [0, end], color=COLORS["vermilion"], linewidth=1)
    if isinstance(ratios, PredictiveCheck):
        ax.text(0.04, 0.96, f"p = {ratios.p_value:.2g}", transform=ax.transAxes, va="top")
    ax.set(xlabel=rf"quantiles of $\log\,\mu$, {law} law", ylabel=r"observed quantiles")
    return ax


def danco_divergence(danco: Danco, *, ax: "Axes | None" = None) -> "Axes":
    """Draw how far the data are from the ball of each dimension, and DANCo's two answers."""
    from matplotlib.ticker import MaxNLocator

    ax = axes(ax)
    nats = np.maximum(array(danco.divergences), LEAST_DIVERGENCE)
    dims = np.arange(1, len(nats) + 1)
    ax.semilogy(dims, nats, ".-", color=COLORS["blue"], linewidth=1.2)
    ax.axvline(danco.dimension, color=COLORS["vermilion"], linestyle="--", linewidth=1.2,
               label=f"continuous: {danco.dimension:.3g}")  # fmt: skip
    ax.plot(danco.integer, nats[danco.integer - 1], "o", color=COLORS["vermilion"], markersize=9,
            mfc="none", mew=1.6, label=f"whole: {danco.integer}")  # fmt: skip
    if len(dims) > MOST_ON_AN_EVEN_AXIS:
        ax.set_xscale("log")
        plain_logs(ax.xaxis)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="dimension d of the ball", ylabel="divergence from it in nats")
    ax.legend(**ABOVE, ncols=2)
    return ax


def dimension_posterior(
    posterior: DimensionLaw | Mapping[str, DimensionLaw],
    *,
    prob: float = 0.95,
    truth: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the posterior density of d, its central interval shaded.

    Args:
        posterior: Of a dimension, or several by name; of an estimate with a `law`, its law.
        prob: What the interval holds, in (0, 1).
        truth: The dimension, where it is known.
        ax: Where to draw.

    Raises:
        ValueError: If there is no posterior, one is no law of d, or the probability is impossible.
    """
    given = posterior if isinstance(posterior, Mapping) else {"d": posterior}
    check_any("posterior", given)
    named = {name: _law(each) for name, each in given.items()}
    ax = axes(ax, (5.0, 3.2 + 0.17 * len(named)))
    for (name, each), color, line in zip(named.items(), cycle(SERIES), cycle(["-", "--", "-."])):
        (low, high), (d, density) = each.interval(prob), _density(each)
        said = f"{name}: {spanned(each.dimension, low, high)}"
        ax.plot(d, density, color=color, linestyle=line, linewidth=1.8, label=said)
        within = np.linspace(low, high, 200)
        height = np.interp(within, d, density)
        ax.fill_between(within, height, color=color, alpha=0.15, linewidth=0)
        ax.vlines([low, high], 0, height[[0, -1]], color=color, linewidth=1)
    if truth is not None:
        ax.axvline(truth, **TRUTH, label=f"truth: {truth:g}")
    ax.set(xlabel="dimension d", ylabel="posterior density", ylim=(0, None))
    ax.legend(**ABOVE, title=f"mean and central {100 * prob:g} % interval")
    return ax


def rounded(value: float, error: float) -> str:
    """Return "value ± error" with two digits of the error, the value alone where it is unknown."""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.3g}"
    digits = _digits(error)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def spanned(value: float, low: float, high: float) -> str:
    """Return "value [low, high]", the value alone where the interval is unknown."""
    if not high > low:
        return f"{value:.3g}"
    digits = _digits((high - low) / 4)
    return f"{value:.{digits}f}  [{low:.{digits}f}, {high:.{digits}f}]"


def plain_logs(axis: "Axis") -> None:
    """Write plain numbers on an axis of logs that leave each other room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high < 300 * low else (1,)
    axis.set_major_locator(MaxNLocator(5) if high < 8 * low else LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def check_any(name: str, values: Mapping) -> None:
    """Refuse to draw nothing.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError(f"{name} must hold at least one, got none")


def _digits(error: float) -> int:
    """Return after how many decimals a number with this error ends."""
    return int(np.clip(1 - np.floor(np.log10(error)), 0, 6))


def _cuts(ax: "Axes", cuts: Mapping[str, int]) -> None:
    """Draw a line for each number of components, named after all the rules that keep it."""
    check_any("cuts", cuts)
    lines = zip(sorted(set(cuts.values())), cycle(CUTS), cycle(["--", "-.", ":"]))
    for kept, color, line in lines:
        rules = ", ".join(rule for rule, number in cuts.items() if number == kept)
        ax.axvline(
            kept, color=color, linestyle=line, linewidth=1.6, label=fill(f"{kept}: {rules}", 24)
        )
    ax.legend(title="components kept", alignment="left", loc="center left",
              bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)  # fmt: skip


def _quantiles(
    ratios: Array | PredictiveCheck, dimension: float | None
) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the law's name, its quantiles, and the observed ones."""
    if isinstance(ratios, PredictiveCheck):
        if dimension is not None:
            raise ValueError(f"dimension must be None for a check, got {dimension}")
        return "posterior predictive", array(ratios.expected), array(ratios.seen)
    if dimension is None:
        raise ValueError("dimension must be a number for bare ratios, got None")
    observed = np.sort(np.log(array(ratios)))
    fraction = (np.arange(len(observed)) + 0.5) / len(observed)
    return "Pareto", -np.log1p(-fraction) / dimension, observed


def _law(given: DimensionLaw) -> DimensionPosterior:
    law = getattr(given, "law", given)
    if not isinstance(law, DimensionPosterior):
        raise ValueError(f"posterior must be a law of d, got {type(given).__name__}")
    return law


def _density(posterior: DimensionPosterior) -> tuple[np.ndarray, np.ndarray]:
    """Return values of d, all but the tails, and the posterior density at them."""
    if isinstance(posterior, GridPosterior):
        d, probs = np.exp(array(posterior.log_dimensions)), array(posterior.probs)
        shown = (probs > TAIL) & (probs < 1 - TAIL)
        return d[shown], np.gradient(probs, d)[shown]
    calibrated = isinstance(posterior, CalibratedPosterior)
    plain = posterior.uncalibrated if calibrated else posterior
    d = torch.linspace(*plain.interval(1 - 2 * TAIL), 400, dtype=torch.float64)
    density = array(plain.distribution.log_prob(d).exp())
    if not calibrated:
        return array(d), density
    inverted = array(posterior.curve.invert(d))
    return inverted, density / np.gradient(inverted, array(d))
