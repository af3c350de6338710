"""Inference methods on one axis: posteriors, how far each is off, how fast it gets there."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pplvae.density import kernel
from pplvae.plots.style import COLORS, array, axes, color_of, panels
from pplvae.validation import Array, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Variants of a method share its color, and differ by how their lines are broken.
LINES = {
    "exact": "-",
    "nuts": (0, (6, 2)),
    "svi, mean": (0, (4, 1.5)),
    "svi, low": (0, (5, 1.5, 1, 1.5)),
    "svi, flow": (0, (1, 1)),
    "svi": "-",
    "laplace": (0, (5, 1.5, 1, 1.5)),
    "importance": (0, (1, 1.2)),
    "em": "-",
    "map": (0, (2, 2)),
}
OTHER_LINES = ["-", "--", "-.", ":"]  # of unknown methods, and of a name that repeats a look
MARKERS = {
    "nuts": "s", "svi, low": "X", "svi, flow": "*", "svi": "o", "laplace": "^", "importance": "D",
    "em": "v", "map": "P",
}  # fmt: skip

FAR = 2.0  # reference sds, or sd ratios from 1


def posteriors(draws: Mapping[str, Array], *, label: str = "", ax: "Axes | None" = None) -> "Axes":
    """Draw the density of one parameter by each method, smoothed by a Gaussian kernel.

    A method whose draws are all the same, a point estimate, is drawn as an upright line.

    Args:
        draws: By method, draws of a scalar parameter, any shape.
        label: The parameter's name, with its unit.
        ax: Where to draw.
    """
    ax = axes(ax)
    flat = {name: as_tensor(value).double().reshape(-1) for name, value in draws.items()}
    smooth = [value for value in flat.values() if value.max() > value.min()]
    pooled = torch.cat(smooth or list(flat.values()))
    low, high = pooled.quantile(torch.tensor([0.0005, 0.9995], dtype=pooled.dtype))
    margin = 0.1 * (high - low)
    grid = torch.linspace(float(low - margin), float(high + margin), 300, dtype=pooled.dtype)
    lines = _lines(flat)
    for name, value in flat.items():
        look: dict[str, Any] = {"color": color_of(name), "linestyle": lines[name], "label": name}
        if not value.max() > value.min():
            ax.axvline(value[0].item(), linewidth=1.6, **look)
            continue
        density = kernel.log_density(grid, value).exp()
        ax.plot(array(grid), array(density), linewidth=2.4 if name == "exact" else 1.6, **look)
    ax.set(xlabel=label, ylabel="posterior density", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def accuracy(
    parameters: Sequence[str],
    errors: Mapping[str, tuple[Array, Array]],
    sd_ratios: Mapping[str, tuple[Array, Array]],
    *,
    believed: tuple[float, float] = (0.2, 0.1),
    axes: "Sequence[Axes] | None" = None,
) -> "list[Axes]":
    """Draw how far means and sds are off, a row for each parameter, on two panels.

    What lies more than 2 away is an arrow at the edge.

    Args:
        parameters: Names of P scalar parameters, the first on top.
        errors: By method, the errors of the means in reference sds and their Monte Carlo errors,
            shapes (P,).
        sd_ratios: By method, the ratios of the sds to the reference's and their Monte Carlo
            errors, shapes (P,).
        believed: How far from 0 an error and from 1 a ratio may be; a grey band.
        axes: Two to draw on.
    """
    chosen = list(axes or panels(2, columns=2, size=(3.9, max(1.9, 0.9 + _height(parameters)))))
    rows = np.arange(len(parameters))
    for ax, values, center, limit in zip(
        chosen, (errors, sd_ratios), (0.0, 1.0), believed, strict=True
    ):
        _rows(ax, values, rows, (max(center - FAR, 0.0 if center else -FAR), center + FAR))
        ax.axvspan(center - limit, center + limit, color=COLORS["grey"], alpha=0.18, linewidth=0)
        ax.axvline(center, color=COLORS["black"], linewidth=1)
        ax.set(yticks=rows, yticklabels=list(parameters), ylim=(len(rows) - 0.5, -0.5))
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    chosen[0].set_xlabel("error of the mean, reference sds")
    chosen[1].set(xlabel="sd / reference sd", yticklabels=[])
    chosen[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return chosen


def convergence(
    curves: Mapping[str, tuple[Array, Array]],
    *,
    floor: float = 0.0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw error against CPU seconds, both in logs, a curve for each method.

    Args:
        curves: By method, CPU seconds and rms errors in reference sds of its budgets, shapes (n,).
        floor: The reference's own Monte Carlo error, below which nothing can be told; no line
            where 0.
        ax: Where to draw.
    """
    ax = axes(ax, (6.6, 3.4))
    lines = _lines(curves)
    for name, (seconds, error) in curves.items():
        ax.loglog(array(seconds), array(error), linestyle=lines[name], color=color_of(name),
                  **_marker(name), label=name)  # fmt: skip
    if floor > 0:
        ax.axhline(floor, color=COLORS["black"], linestyle="--", linewidth=1,
                   label="reference's own error")  # fmt: skip
    ax.set(xlabel="CPU seconds", ylabel="rms error of the means, reference sds")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _rows(
    ax: "Axes",
    values: Mapping[str, tuple[Array, Array]],
    rows: np.ndarray,
    limits: tuple[float, float],
) -> None:
    offsets = np.linspace(-0.28, 0.28, len(values)) if len(values) > 1 else [0.0]
    for offset, (name, (center, error)) in zip(offsets, values.items(), strict=True):
        x, y, color = array(center), rows + offset, color_of(name)
        inside = (x >= limits[0]) & (x <= limits[1])
        ax.errorbar(x[inside], y[inside], xerr=array(error)[inside], linestyle="none",
                    color=color, elinewidth=1.3, label=name, **_marker(name))  # fmt: skip
        for beyond, edge, arrow in zip((x < limits[0], x > limits[1]), limits, "<>", strict=True):
            if beyond.any():
                ax.plot(np.full(beyond.sum(), edge), y[beyond], arrow, color=color, markersize=7)


def _height(parameters: Sequence[str]) -> float:
    return 0.42 * len(parameters)


def _lines(methods: Iterable[str]) -> dict[str, Any]:
    """Return how each method's line is broken: always the same, unless two would look alike."""
    taken: dict[str, Any] = {}
    for name in methods:
        used = [line for other, line in taken.items() if color_of(other) == color_of(name)]
        known = _looked_up(name, LINES)
        choices = [line for line in (known, *OTHER_LINES) if line is not None]
        taken[name] = next((line for line in choices if line not in used), choices[0])
    return taken


def _marker(method: str) -> dict[str, Any]:
    marker = _looked_up(method, MARKERS) or "o"
    hollow = {"markerfacecolor": "white"} if method.lower().startswith("svi, mean") else {}
    return {"marker": marker, "markersize": 8 if marker == "*" else 5, **hollow}


def _looked_up(method: str, table: Mapping[str, Any]) -> Any:
    name = method.lower()
    return next((value for key, value in table.items() if name.startswith(key)), None)
