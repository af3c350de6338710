"""Autoencoders: reconstructions under originals, codes, components, error against code size."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.images import Limits, mosaic
from pplvae.plots.latent import traversals
from pplvae.plots.points import points
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How each kind of model is drawn, in every picture. PCA and a linear autoencoder lie on each
# other, so one is a line and the other open circles.
MODELS = {
    "pca": ("black", "-", "."),
    "linear": ("sky", "none", "o"),
    "stacked": ("blue", "-", "s"),
    "denoising": ("purple", "-", "v"),
    "conv": ("vermilion", "-", "^"),
    "vae": ("green", "-", "D"),
}


def image_rows(
    rows: Mapping[str, Array],
    shape: tuple[int, ...],
    *,
    limits: Limits = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a named row for each set of images: originals, reconstructions; noisy, clean, truth.

    Args:
        rows: Images by name, top to bottom, each of shape (N, D).
        shape: Of one image.
        limits: The values drawn black and white.
        ax: Where to draw.

    Raises:
        ValueError: If there are no rows, or they are not of one shape.
    """
    images = [array(row) for row in rows.values()]
    sizes = sorted({image.shape for image in images})
    if len(sizes) != 1:
        raise ValueError(f"rows must be images of one shape (N, D), got {sizes or 'none'}")
    return traversals(
        np.stack(images), shape, names=[*rows], share=None, limits=limits, ax=ax
    )  # fmt: skip


def codes(z: Array, labels: Array | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """Draw codes in the plane, colored by label.

    Codes of more than two numbers are drawn along their two principal axes, and the share of their
    variance that these hold is said.

    Args:
        z: Codes, shape (N, L), L ≥ 2.
        labels: Whole numbers, shape (N,).
        ax: Where to draw.

    Raises:
        ValueError: If the codes have fewer than two numbers.
    """
    found = array(z)
    if found.ndim != 2 or found.shape[1] < 2:
        raise ValueError(f"z must have shape (N, L) with L at least 2, got {found.shape}")
    names = ["$z_1$", "$z_2$"]
    if found.shape[1] > 2:
        centered = found - found.mean(axis=0)
        _, lengths, directions = np.linalg.svd(centered, full_matrices=False)
        shares = 100 * lengths**2 / (lengths**2).sum()
        found = centered @ directions[:2].T
        names = [f"principal axis {i + 1} of z ({shares[i]:.0f} %)" for i in range(2)]
    ax = points(found, labels, ax=ax)
    ax.set(xlabel=names[0], ylabel=names[1])
    return ax


def components(
    directions: Array,
    shape: tuple[int, ...],
    *,
    columns: int = 10,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw learned directions as images, zero in mid-grey.

    Args:
        directions: Of unit length, as `LinearFit.directions`, or the weights of any layer that
            sees the pixels, shape (L, D).
        shape: Of one image.
        columns: Images in a row.
        ax: Where to draw.
    """
    images = array(directions)
    most = float(np.abs(images).max()) or 1.0
    return mosaic(images, shape, columns=columns, limits=(-most, most), ax=ax)


def code_sizes(
    errors: Mapping[str, Mapping[int, float]],
    *,
    unit: str = "‖x − x̂‖² per point",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw reconstruction error against the size of the code, a curve for each model.

    Args:
        errors: By name of the model, its error by code size L. A name that begins with a kind,
            such as "PCA", "linear", "stacked", "convolutional" or "VAE", has that kind's color.
        unit: Of the errors.
        ax: Where to draw.

    Raises:
        ValueError: If there is no model, or one without an error.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not errors or not all(errors.values()):
        raise ValueError(f"errors must hold at least one number for each model, got {errors}")
    ax = axes(ax)
    for name, by_size in errors.items():
        color, line, marker = _drawn(name)
        sizes = sorted(by_size)
        ax.plot(sizes, [by_size[size] for size in sizes], linestyle=line, marker=marker,
                color=COLORS[color], label=name, markersize=8 if line == "none" else 5,
                markerfacecolor="none" if line == "none" else COLORS[color])  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="size L of the code", ylabel=unit)
    ticks = sorted({size for by_size in errors.values() for size in by_size})
    ax.set_xticks(ticks, [str(size) for size in ticks], minor=False)
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False)
    return ax


def _drawn(name: str) -> tuple[str, str, str]:
    """Return the color, line and marker of a model."""
    known = (look for kind, look in MODELS.items() if name.lower().startswith(kind))
    return next(known, ("grey", "--", "x"))
