"""One look: colors that color-blind people tell apart, quiet axes, one color per method."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008), Color universal design
COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#222222",
    "grey": "#999999",
}
METHODS = {
    "exact": "black",
    "nuts": "blue",
    "svi": "orange",
    "laplace": "green",
    "em": "vermilion",
    "map": "purple",
    "importance": "sky",
}


def color_of(method: str) -> str:
    """Return the color of an inference method, the same in every picture; grey if unknown."""
    name = method.lower()
    known = next((color for key, color in METHODS.items() if name.startswith(key)), "grey")
    return COLORS[known]


def axes(ax: "Axes | None", size: tuple[float, float] = (5.0, 3.4)) -> "Axes":
    """Return `ax`, or a new one of `size` inches, without the upper and right frame."""
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def panels(num: int, columns: int = 1, size: tuple[float, float] = (4.8, 2.9)) -> "list[Axes]":
    """Return `num` axes of one figure in rows, each `size` inches."""
    from matplotlib import pyplot as plt

    rows = -(-num // columns)
    figure = plt.figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return [figure.add_subplot(rows, columns, i + 1) for i in range(num)]


@contextmanager
def own_figures() -> Iterator[None]:
    """Close the figures that the block has opened and left open."""
    from matplotlib import pyplot as plt

    before = set(plt.get_fignums())
    try:
        yield
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def png(ax: "Axes", dots_per_inch: int = 160) -> bytes:
    """Return the figure that `ax` belongs to as PNG, and close it."""
    from matplotlib import pyplot as plt

    figure, stream = ax.get_figure(root=True), io.BytesIO()
    assert figure is not None
    figure.savefig(stream, format="png", dpi=dots_per_inch, bbox_inches="tight")
    plt.close(figure)
    return stream.getvalue()


def array(x: Any) -> np.ndarray:
    """Return a tensor or an array as NumPy, on the host."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
