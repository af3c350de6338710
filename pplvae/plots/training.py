"""Curves: how a minimization went, how a score depends on a choice."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pplvae.optimize import History
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training(
    history: History,
    *,
    unit: str = "nats",
    objective: str | None = None,
    judged: str = "ELBO",
    elbo: Sequence[float] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw −loss on training and held-out data after each epoch, and the epoch that was kept.

    Args:
        history: The minimization. Where it has watched the true ELBO beside another objective,
            say one with a weight on the KL, that is drawn too.
        unit: Of the loss.
        objective: What −loss is; the ELBO, or "objective" where the ELBO is drawn beside it.
        judged: What held-out points are judged by where the ELBO is drawn beside the objective.
        elbo: The ELBO after each epoch, in place of the one that the history has watched.
        ax: Where to draw.

    Raises:
        ValueError: If there are not as many numbers as epochs.
    """
    from matplotlib.ticker import MaxNLocator

    found = history.monitored.get("elbo") if elbo is None else elbo
    beside = found is not None
    objective = objective or ("objective" if beside else "ELBO")
    named = f"{objective}, training" if beside else "training"
    curves = {named: (COLORS["blue"], -np.array(history.losses))}
    if found is not None:
        curves["ELBO, training"] = (COLORS["green"], np.array(found, dtype=float))
    if history.validation:
        named = f"{judged}, held out" if beside else "held out"
        curves[named] = (COLORS["orange"], -np.array(history.validation))
    num_epochs = len(history.losses)
    ax = axes(ax)
    for name, (color, values) in curves.items():
        if len(values) != num_epochs:
            raise ValueError(f"{name} must hold {num_epochs} epochs, got {len(values)}")
        few = {"marker": "o", "markersize": 3} if num_epochs < 10 else {}
        ax.plot(np.arange(1, num_epochs + 1), values, color=color, label=name, **few)
    if history.validation:
        ax.axvline(history.best_epoch + 1, color=COLORS["grey"], linestyle="--", linewidth=1,
                   label="kept")  # fmt: skip
    ax.set(xlabel="epoch", ylabel=unit if beside else f"{objective} in {unit}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _cut(ax, [values for _, values in curves.values()])
    ax.legend(loc="lower right", edgecolor="none", framealpha=0.9)
    return ax


def _cut(ax: "Axes", curves: list[np.ndarray]) -> None:
    """Let the first epochs fall off the picture: what matters is where the curves settle."""
    share = min(0.25, max(0.03, 1 / max(1, len(curves[0]) - 1)))
    bottom = min(np.nanquantile(values, share) for values in curves)
    top = max(np.nanmax(values) for values in curves)
    if top > bottom:
        ax.set_ylim(bottom - 0.02 * (top - bottom), top + 0.08 * (top - bottom))


def bits_per_dimension(
    values: Mapping[str, tuple[float, float]],
    *,
    published: Mapping[str, float] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the code lengths of several fits, in bits per dimension, fewest on top.

    Args:
        values: By name, −log₂ p(x) / D and its standard error; bars show two of them.
        published: By name, numbers to stand beside; open circles without bars.
        ax: Where to draw.

    Raises:
        ValueError: If there is nothing to draw.
    """
    rows = {name: (*pair, False) for name, pair in values.items()}
    rows |= {name: (value, 0.0, True) for name, value in (published or {}).items()}
    if not rows:
        raise ValueError("values must hold at least one fit, got none")
    ax = axes(ax, (5.6, 0.6 + 0.36 * len(rows)))
    order = sorted(rows, key=lambda name: rows[name][0])
    for row, name in enumerate(order):
        value, error, open_circle = rows[name]
        color = COLORS["grey" if open_circle else "blue"]
        ax.errorbar(value, row, xerr=2 * error if error else None, fmt="o", color=color, capsize=3,
                    markersize=5, markerfacecolor="white" if open_circle else color)  # fmt: skip
        said = f"{value:.3f} ± {error:.3f}" if error else f"{value:.3f}"
        ax.annotate(said, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    ax.set(xlabel="bits per dimension", ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), order)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=COLORS["grey"], alpha=0.3, linewidth=0.6)
    ax.margins(x=0.1)
    return ax


def score(x: Array, y: Array, *, ax: "Axes | None" = None) -> "Axes":
    """Draw a score to be made small against a choice, shapes (n,), and mark the least."""
    ax = axes(ax)
    choices, values = array(x), array(y)
    ax.plot(choices, values, ".-", color=COLORS["blue"])
    best = values.argmin()
    ax.plot(choices[best], values[best], "o", color=COLORS["vermilion"], markersize=9, mfc="none")
    return ax
