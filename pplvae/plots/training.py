"""Curves: how a minimization went, how a score depends on a choice."""

from typing import TYPE_CHECKING

import numpy as np

from pplvae.optimize import History
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training(history: History, *, unit: str = "nats", ax: "Axes | None" = None) -> "Axes":
    """Draw −loss on training and held-out data after each epoch, and the epoch that was kept.

    Args:
        history: The minimization.
        unit: Of the loss.
        ax: Where to draw.
    """
    ax = axes(ax)
    epochs = np.arange(1, len(history.losses) + 1)
    ax.plot(epochs, -np.array(history.losses), color=COLORS["blue"], label="training")
    if history.validation:
        ax.plot(epochs, -np.array(history.validation), color=COLORS["orange"], label="held out")
        ax.axvline(history.best_epoch + 1, color=COLORS["grey"], linestyle="--", linewidth=1,
                   label="kept")  # fmt: skip
    values = -np.array([*history.losses, *history.validation])
    # The first epochs fall off the picture: what matters is where the curves settle.
    bottom = np.quantile(values, 0.03)
    top = values.max()
    ax.set(xlabel="epoch", ylabel=f"ELBO in {unit}")
    if top > bottom:
        ax.set_ylim(bottom, top + 0.08 * (top - bottom))
    ax.legend(loc="lower right", edgecolor="none", framealpha=0.9)
    return ax


def score(x: Array, y: Array, *, ax: "Axes | None" = None) -> "Axes":
    """Draw a score to be made small against a choice, shapes (n,), and mark the least."""
    ax = axes(ax)
    choices, values = array(x), array(y)
    ax.plot(choices, values, ".-", color=COLORS["blue"])
    best = values.argmin()
    ax.plot(choices[best], values[best], "o", color=COLORS["vermilion"], markersize=9, mfc="none")
    return ax
