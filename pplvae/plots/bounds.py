"""The ladder of evidence bounds, up to log p(x)."""

from typing import TYPE_CHECKING

from pplvae.plots.style import COLORS, array, axes, color_of
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_SPAN = 1e-3  # nats


def bounds(
    num_particles: Array,
    bounds: Array,
    errors: Array,
    exact: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw lower bounds of log p(x) against their numbers of particles K.

    Args:
        num_particles: The numbers K, shape (n,).
        bounds: IWAE_K in nats, shape (n,); K = 1 is the ELBO.
        errors: Their standard errors in nats, shape (n,); bars show two of them.
        exact: log p(x) in nats, where it is known.
        ax: Where to draw.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    ax = axes(ax)
    sizes = array(num_particles)
    ax.errorbar(sizes, array(bounds), 2 * array(errors), fmt="o-", color=COLORS["blue"],
                markersize=4.5, linewidth=1.6, capsize=2.5,
                label=r"IWAE$_K$ ± 2 standard errors")  # fmt: skip
    if exact is not None:
        ax.axhline(exact, color=color_of("exact"), linewidth=1.6, linestyle="--",
                   label=r"exact log $p(x)$")  # fmt: skip
    _widen(ax)
    ax.set_xscale("log")
    ax.set_xticks(sizes)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set(xlabel="particles K  (1 is the ELBO)", ylabel="bound in nats")
    ax.legend(frameon=False, loc="lower right")
    return ax


def _widen(ax: "Axes") -> None:
    """Leave a perfect guide's bounds a line: let nobody read rounding errors off the axis."""
    low, high = ax.get_ylim()
    if high - low < LEAST_SPAN:
        ax.set_ylim(0.5 * (low + high - LEAST_SPAN), 0.5 * (low + high + LEAST_SPAN))
