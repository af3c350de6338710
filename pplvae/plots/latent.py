"""Ways through a latent space, decoded: along its axes, between points."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.images import Limits, checked, shown, tiled
from pplvae.plots.style import array, axes
from pplvae.validation import Array, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def traversals(
    images: Array,
    shape: tuple[int, ...],
    *,
    names: Sequence[str] | None = None,
    share: float | None = 0.95,
    limits: Limits = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a row for each latent axis that is swept, as a `traverse` gives them.

    That of `vae.manifold` goes by quantiles of the prior, that of `autoencoders` by those of the
    codes of data.

    Args:
        images: Decoded points, shape (A, S, D).
        shape: Of one image.
        names: Of the axes; z_1, z_2, … where None.
        share: What `traverse` was given: the probability, or the share of the codes, between first
            and last column, whose quantiles are said below them; None says nothing.
        limits: The values drawn black and white.
        ax: Where to draw.

    Raises:
        ValueError: If the images are no such thing, or hold nan or inf.
    """
    images = array(as_tensor(images, name="images"))
    picture, rows, columns = _picture(images, shape, limits)
    ax = axes(ax, _size(picture, shape))
    called = [f"$z_{{{i + 1}}}$" for i in range(rows)] if names is None else [*names]
    if len(called) != rows:
        raise ValueError(f"names must be one for each of {rows} axes, got {len(called)}")
    shown(ax, picture).set_axis_on()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_yticks(_centers(picture.shape[0], rows), called)
    ax.set_xticks([])
    if share is not None:
        ends = _centers(picture.shape[1], columns)[[0, -1]]
        probs = [50 - 50 * share, 50, 50 + 50 * share]
        ax.set_xticks([ends[0], ends.mean(), ends[1]], [f"{prob:g} %" for prob in probs])
        ax.set_xlabel("quantile of the latent variable")
    return ax


def interpolation(
    images: Array,
    shape: tuple[int, ...],
    *,
    ends: tuple[Array, Array] | None = None,
    limits: Limits = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the ways between points, one in a row, as `vae.manifold.interpolate` gives them.

    Args:
        images: Decoded points, shape (N, S, D), or (S, D) for one way.
        shape: Of one image.
        ends: The points themselves, set apart on the left and on the right, each of shape (N, D),
            or (D,) for one way.
        limits: The values drawn black and white.
        ax: Where to draw.

    Raises:
        ValueError: If the images are no such thing, or the ends do not belong to them.
    """
    found = array(images)
    found = found[None] if found.ndim == 2 else found
    parts = [found] if ends is None else _between(found, ends)
    if limits is None:
        limits = min(part.min() for part in parts), max(part.max() for part in parts)
    pictures = [_picture(part, shape, limits)[0] for part in parts]
    gap = np.ones((len(pictures[0]), max(2, shape[-1] // 4), *pictures[0].shape[2:]))
    strips = [piece for picture in pictures for piece in (picture, gap)][:-1]
    picture = np.concatenate(strips, axis=1)
    return shown(axes(ax, _size(picture, shape)), picture)


def _between(images: np.ndarray, ends: tuple[Array, Array]) -> list[np.ndarray]:
    """Return the images with their ends, shapes (N, 1, D), before and after them."""
    first, last = (np.atleast_2d(array(end))[:, None] for end in ends)
    if len(first) != len(images) or len(last) != len(images):
        got = f"{len(first)} and {len(last)}"
        raise ValueError(f"ends must be one on each side of {len(images)} ways, got {got}")
    return [first, images, last]


def _picture(
    images: np.ndarray, shape: tuple[int, ...], limits: Limits
) -> tuple[np.ndarray, int, int]:
    """Return the picture of images (R, C, D), and R and C."""
    if images.ndim != 3 or not images.size:
        raise ValueError(f"images must have shape (A, S, D), got {images.shape}")
    rows, columns = images.shape[:2]
    flat = checked(images.reshape(rows * columns, -1), shape, name="images")
    return tiled(flat, shape, columns, limits=limits), rows, columns


def _size(picture: np.ndarray, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the inches of a figure in which an image is 0.62 wide, with room for labels."""
    inches = 0.62 / (shape[-1] + 1)
    return picture.shape[1] * inches + 0.5, picture.shape[0] * inches + 0.5


def _centers(size: int, number: int) -> np.ndarray:
    """Return the middles of so many equal parts of a length in pixels, one pixel between them."""
    return (np.arange(number) + 0.5) * (size + 1) / number - 1
