"""Posteriors by several methods on one axis."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from pplvae.density import kernel
from pplvae.plots.style import array, axes, color_of
from pplvae.validation import Array, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ["-", "--", "-.", ":"]


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
    for i, (name, value) in enumerate(flat.items()):
        if not value.max() > value.min():
            ax.axvline(value[0].item(), color=color_of(name), linewidth=1.6, label=name)
            continue
        density = kernel.log_density(grid, value).exp()
        ax.plot(array(grid), array(density), STYLES[i % len(STYLES)], color=color_of(name),
                linewidth=2.4 if name == "exact" else 1.6, label=name)  # fmt: skip
    ax.set(xlabel=label, ylabel="posterior density", ylim=(0, None))
    ax.legend(frameon=False)
    return ax
