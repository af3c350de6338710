"""Whether a VAE's log p(x) can be believed, and which of its latent dimensions are in use."""

from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.style import COLORS, array, axes
from pplvae.vae.weights import LARGEST_K
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_K = -0.5, 1.5  # what lies outside is counted in the first and the last bar


def pareto_k(pareto_k: Array, ax: "Axes | None" = None) -> "Axes":
    """Draw how many points have which k-hat; those above 0.7 are not to be believed.

    Args:
        pareto_k: k-hat of each point's importance weights, shape (N,); nan is left out.
        ax: Where to draw.
    """
    ax = axes(ax)
    known = array(pareto_k)[~np.isnan(array(pareto_k))]
    edges = np.linspace(*SHOWN_K, 41)
    counts, _ = np.histogram(known.clip(*SHOWN_K), edges)
    bad = edges[:-1] >= LARGEST_K - 1e-9
    colors = np.where(bad, COLORS["vermilion"], COLORS["blue"])
    ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colors)
    ax.axvline(LARGEST_K, color=COLORS["black"], linewidth=1, linestyle="--")
    share = (known > LARGEST_K).mean() if len(known) else 0.0
    ax.text(0.99, 0.97, f"{share:.1%} above {LARGEST_K}", transform=ax.transAxes, ha="right",
            va="top", color=COLORS["vermilion"])  # fmt: skip
    ax.set(xlabel=r"Pareto $\hat k$ of the importance weights", ylabel="points", xlim=SHOWN_K)
    return ax


def latent_dimensions(kl_per_dimension: Array, active: Array, ax: "Axes | None" = None) -> "Axes":
    """Draw the KL of each latent dimension, the largest first, and whether it is active.

    Args:
        kl_per_dimension: In nats, shape (L,).
        active: Whether a dimension's mean moves with x, shape (L,).
        ax: Where to draw.
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes(ax)
    kl, used = array(kl_per_dimension), array(active).astype(bool)
    order = np.argsort(-kl)
    place = np.arange(1, len(kl) + 1)
    for chosen, color, name in [(used, "blue", "active"), (~used, "grey", "inactive")]:
        here = chosen[order]
        if here.any():
            ax.bar(place[here], kl[order][here], color=COLORS[color],
                   label=f"{int(here.sum())} {name}")  # fmt: skip
    ax.set(xlabel="latent dimension, by KL", ylabel="KL in nats", xlim=(0.4, len(kl) + 0.6))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax
