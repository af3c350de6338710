"""Autoencoders: reconstructions under originals, codes, components, error against code size."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.images import Limits, checked, mosaic
from pplvae.plots.latent import traversals
from pplvae.plots.points import points
from pplvae.plots.style import COLORS, array, axes
from pplvae.validation import Array, as_points, as_tensor, check_whole

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
ROUNDING = 1e-12  # of the largest error: what is less is 0 but for the precision of float32


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
        ValueError: If there are no rows or no images, they are not of one shape, or hold nan or
            inf.
    """
    images = [array(as_tensor(row, name=f"rows[{name!r}]")) for name, row in rows.items()]
    sizes = sorted({image.shape for image in images})
    if len(sizes) != 1 or 0 in sizes[0]:
        raise ValueError(f"rows must be images of one shape (N, D), got {sizes or 'none'}")
    return traversals(
        np.stack(images), shape, names=[*rows], share=None, limits=limits, ax=ax
    )  # fmt: skip


def codes(z: Array, labels: Array | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """Draw codes in the plane, colored by label.

    Codes of more than two numbers are drawn along their two principal axes, and the share of their
    variance that these hold is said. Codes that are all the same have no such axes: their first
    two numbers are drawn.

    Args:
        z: Codes, shape (N, L), L ≥ 2.
        labels: Whole numbers, shape (N,).
        ax: Where to draw.

    Raises:
        ValueError: If there are no codes, they have fewer than two numbers or hold nan or inf, or
            the labels are not one for each.
    """
    found = array(as_points(z, name="z"))
    if found.shape[1] < 2:
        raise ValueError(f"z must have shape (N, L) with L at least 2, got {found.shape}")
    if labels is not None and array(labels).shape != found.shape[:1]:
        got = f"shape {array(labels).shape}"
        raise ValueError(f"labels must be one for each of {len(found)} codes, got {got}")
    drawn, names = _plane(found)
    ax = points(drawn, labels, ax=ax)
    ax.set(xlabel=names[0], ylabel=names[1])
    return ax


def _plane(z: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return codes in the plane, shape (N, 2), and what its axes are."""
    centered = z - z.mean(axis=0)
    if z.shape[1] == 2 or (z == z[0]).all():
        return z[:, :2], ["$z_1$", "$z_2$"]
    _, lengths, directions = np.linalg.svd(centered, full_matrices=False)
    variances = (lengths / lengths[0]) ** 2
    shares = 100 * variances / variances.sum()
    names = [f"principal axis {i + 1} of z ({shares[i]:.0f} %)" for i in range(2)]
    return centered @ directions[:2].T, names


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

    Raises:
        ValueError: If there are no directions, they are no such images, or hold nan or inf.
    """
    images = checked(array(as_tensor(directions, name="directions")), shape, name="directions")
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
            An error of 0, which no logarithm shows, stands on the lower edge, which then is 0; so
            does one of rounding, less than 1e-12 of the largest.
        unit: Of the errors.
        ax: Where to draw.

    Raises:
        ValueError: If there is no model, or one without an error, a size is not a positive whole
            number, or an error is negative, nan or inf.
    """
    found = {name: _errors(name, by_size) for name, by_size in errors.items()}
    if not found or not all(found.values()):
        raise ValueError(f"errors must hold at least one number for each model, got {errors}")
    every = [error for by_size in found.values() for error in by_size.values()]
    least = ROUNDING * max(every)
    zero = _edge([error for error in every if error > least])
    ax = axes(ax)
    for name, by_size in found.items():
        heights = [error if error > least else zero for error in by_size.values()]
        color, line, marker = _drawn(name)
        ax.plot(list(by_size), heights, linestyle=line, marker=marker, color=COLORS[color],
                label=name, markersize=8 if line == "none" else 5, clip_on=False,
                markerfacecolor="none" if line == "none" else COLORS[color])  # fmt: skip
    _say_sizes(ax, sorted({size for by_size in found.values() for size in by_size}))
    _say_errors(ax, zero, shown=min(every) <= least)
    ax.set(xlabel="size L of the code", ylabel=unit)
    ax.legend(frameon=False)
    return ax


def _errors(name: str, by_size: Mapping[int, float]) -> dict[int, float]:
    """Return a model's errors by size, smallest first."""
    for size, error in by_size.items():
        check_whole(f"sizes in errors[{name!r}]", size, 1)
        if not 0 <= error < math.inf:
            rule = f"errors[{name!r}][{size}] must be finite and at least 0"
            raise ValueError(f"{rule}, got {error}")
    return {size: float(by_size[size]) for size in sorted(by_size)}


def _edge(errors: list[float]) -> float:
    """Return where to draw 0 below errors on a logarithmic axis, between two of its numbers."""
    if not errors:
        return 0.0
    power = 10.0 ** math.floor(math.log10(min(errors)))
    return max(part * power for part in (0.32, 0.7, 1.4, 3.2) if part * power < min(errors) / 2)


def _say_sizes(ax: "Axes", sizes: list[int]) -> None:
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    ax.set_xticks([], minor=True)


def _say_errors(ax: "Axes", zero: float, *, shown: bool) -> None:
    """Put plain numbers on a logarithmic axis, and 0 at its lower edge where it is shown."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if zero > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set(ylim=(0.0, 1.0), yticks=[])
    if shown:
        ax.set_ylim(bottom=zero)
        ax.annotate("0", (0, 0), (-7, 0), xycoords="axes fraction", textcoords="offset points",
                    ha="right", va="center")  # fmt: skip


def _drawn(name: str) -> tuple[str, str, str]:
    """Return the color, line and marker of a model."""
    known = (look for kind, look in MODELS.items() if name.lower().startswith(kind))
    return next(known, ("grey", "--", "x"))
