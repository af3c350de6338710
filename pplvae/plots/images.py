"""Images side by side: data, reconstructions, samples, a learned manifold.

Images are grey, (H, W) or (1, H, W), or colored, (3, H, W). Black is the least and white the
largest value of a picture, unless its `limits` say what they are: two pictures that are to be
compared need the same.
"""

from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.style import array, axes
from pplvae.validation import Array, check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Limits = tuple[float, float] | None


def mosaic(
    x: Array,
    shape: tuple[int, ...],
    *,
    columns: int = 10,
    limits: Limits = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw images in rows.

    Args:
        x: Images, shape (N, D), in any range of values.
        shape: Of one image: (H, W) or (C, H, W) with 1 or 3 channels.
        columns: Images in a row.
        limits: The values drawn black and white.
        ax: Where to draw.

    Raises:
        ValueError: If a row of `x` is no such image.
    """
    images = checked(array(x), shape)
    check_whole("columns", columns, 1)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    ax = axes(ax, (0.62 * columns, 0.62 * rows * shape[-2] / shape[-1]))
    return shown(ax, tiled(images, shape, columns, limits=limits))


def pairs(
    above: Array,
    below: Array,
    shape: tuple[int, ...],
    *,
    limits: Limits = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw each image over its reconstruction.

    Args:
        above: The originals, shape (N, D).
        below: Their reconstructions, shape (N, D).
        shape: Of one image.
        limits: The values drawn black and white.
        ax: Where to draw.
    """
    originals, images = array(above), array(below)
    if originals.shape != images.shape:
        raise ValueError(f"below must have shape {originals.shape}, got {images.shape}")
    both = np.concatenate([originals, images])
    return mosaic(both, shape, columns=len(images), limits=limits, ax=ax)


def manifold(
    grid: Array, shape: tuple[int, ...], *, limits: Limits = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw a grid of decoded images without gaps, as `vae.manifold.grid` gives them.

    Images of less than 16 pixels have no margins and would run together: lines are between them.

    Args:
        grid: Decoded points, shape (R, R, D).
        shape: Of one image.
        limits: The values drawn black and white.
        ax: Where to draw.
    """
    images = array(grid)
    if images.ndim != 3:
        raise ValueError(f"grid must have shape (R, R, D), got {images.shape}")
    rows, columns = images.shape[:2]
    images = checked(images.reshape(rows * columns, -1), shape, name="grid")
    ax = axes(ax, (6.0, 6.0 * rows * shape[-2] / (columns * shape[-1])))
    return shown(ax, tiled(images, shape, columns, gap=int(min(shape[-2:]) < 16), limits=limits))


def checked(images: np.ndarray, shape: tuple[int, ...], name: str = "x") -> np.ndarray:
    """Return images, shape (N, D), or refuse them or their shape with a ValueError."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise ValueError(f"shape must be (H, W), (1, H, W) or (3, H, W), got {shape}")
    size = int(np.prod(shape))
    if images.ndim != 2 or images.shape[1] != size or not len(images):
        raise ValueError(f"{name} must hold images of {size} numbers, got shape {images.shape}")
    return images


def tiled(
    x: np.ndarray, shape: tuple[int, ...], columns: int, *, gap: int = 1, limits: Limits = None
) -> np.ndarray:
    """Return one picture (height, width[, 3]) in [0, 1] of N images, white between them."""
    images = x.reshape(len(x), *(shape if len(shape) == 3 else (1, *shape)))
    low, high = (images.min(), images.max()) if limits is None else limits
    scaled = np.moveaxis((images - low) / (high - low if high > low else 1), 1, -1).clip(0, 1)
    height, width, depth = scaled.shape[1:]
    rows = -(-len(images) // columns)
    picture = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, depth))
    for i, image in enumerate(scaled):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture if depth == 3 else picture[..., 0]


def shown(ax: "Axes", picture: np.ndarray) -> "Axes":
    """Draw a picture with values in [0, 1], without a frame."""
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax
