"""Ranks of true parameters among posterior draws: their distribution function in its band.

The band holds the whole curve of uniform ranks with a given probability. It joins the central
intervals of the binomial law of M F(r) at each rank, all of one probability 1 − γ, with γ as large
as simulated uniform ranks allow.

Reference:
    Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete uniformity and its
    applications, https://doi.org/10.1007/s11222-022-10090-6
"""

from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array, as_vector, check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPEATS = 4000  # of simulated ranks: the band's own probability is known to 0.003


def calibration(
    ranks: Array, num_draws: int, *, prob: float = 0.95, ax: "Axes | None" = None
) -> "Axes":
    """Draw the distribution function of ranks less the uniform one, in its simultaneous band.

    A hill says that ranks are low: the posterior lies too high; a valley the opposite. First up,
    then down says that it is too narrow; first down, then up, too wide. What leaves the band is
    red.

    Args:
        ranks: Of the truth among the draws, whole numbers in [0, L], shape (M,).
        num_draws: The number of draws L.
        prob: How often the band holds the whole curve of uniform ranks, in (0, 1).
        ax: Where to draw.

    Raises:
        ValueError: If a rank or the probability is impossible.
    """
    rank = array(_checked(ranks, num_draws)).astype(int)
    low, high = rank_band(len(rank), num_draws, prob)
    grid = np.arange(num_draws + 1)
    cumulated = np.bincount(rank, minlength=num_draws + 1).cumsum() / len(rank)
    curve = cumulated - (grid + 1) / (num_draws + 1)
    outside = (curve < low - 1e-12) | (curve > high + 1e-12)
    ax = axes(ax)
    ax.fill_between(grid, low, high, step="mid", color=COLORS["sky"], alpha=0.3, linewidth=0,
                    label=f"uniform ranks, {100 * prob:g} %")  # fmt: skip
    ax.axhline(0, color=COLORS["grey"], linewidth=1)
    ax.step(grid, curve, where="mid", color=COLORS["blue"], linewidth=1.6,
            label=f"{len(rank)} simulations")  # fmt: skip
    if outside.any():
        ax.step(grid, np.where(outside, curve, np.nan), ".-", where="mid", markersize=3,
                color=COLORS["vermilion"], linewidth=2.2, label="outside")  # fmt: skip
    reach = 1.15 * max(np.abs(curve).max(), high.max(), -low.min())
    ax.set(xlabel=f"rank of the truth among {num_draws} draws", ylabel="ECDF − uniform",
           xlim=(0, num_draws), ylim=(-reach, reach))  # fmt: skip
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False,
              fontsize="small", columnspacing=1.2, handlelength=1.4)  # fmt: skip
    return ax


def rank_band(num_ranks: int, num_draws: int, prob: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and largest ECDF − uniform at each rank, shapes (L + 1,).

    Args:
        num_ranks: M.
        num_draws: L.
        prob: How often the whole curve of uniform ranks lies within, in (0, 1).
    """
    from scipy.stats import binom

    if not 0 < prob < 1:
        raise ValueError(f"prob must be in (0, 1), got {prob}")
    size = num_draws + 1
    uniform = np.arange(1, size) / size
    rng = np.random.default_rng(0)
    counts = rng.multinomial(num_ranks, np.full(size, 1 / size), size=REPEATS)[:, :-1].cumsum(1)
    below = binom.cdf(counts, num_ranks, uniform)
    above = binom.sf(counts - 1, num_ranks, uniform)
    tail = np.quantile(np.minimum(below, above).min(axis=1), 1 - prob)
    low, high = binom.ppf([[tail], [1 - tail]], num_ranks, uniform) / num_ranks - uniform
    return np.append(low, 0.0), np.append(high, 0.0)


def _checked(ranks: Array, num_draws: int) -> Array:
    check_whole("num_draws", num_draws, 1)
    ranks = as_vector(ranks, name="ranks", min_size=1)
    bad = ranks[(ranks < 0) | (ranks > num_draws) | (ranks != ranks.round())]
    if len(bad):
        raise ValueError(f"ranks must be whole numbers in [0, {num_draws}], got {bad[0].item():g}")
    return ranks
