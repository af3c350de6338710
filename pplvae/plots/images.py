"""Images side by side: data, reconstructions, samples, a learned manifold."""

from typing import TYPE_CHECKING

import numpy as np

from pplvae.plots.style import array, axes
from pplvae.validation import Array, check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mosaic(
    x: Array, shape: tuple[int, ...], *, columns: int = 10, ax: "Axes | None" = None
) -> "Axes":
    """Draw images in rows.

    Args:
        x: Images, shape (N, D), in any range of values.
        shape: Of one image: (H, W) or (C, H, W) with 1 or 3 channels.
        columns: Images in a row.
        ax: Where to draw.

    Raises:
        ValueError: If a row of `x` is no such image.
    """
    images = _checked(array(x), shape)
    check_whole("columns", columns, 1)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    ax = axes(ax, (0.62 * columns, 0.62 * rows * shape[-2] / shape[-1]))
    picture = _tiled(images.reshape(len(images), *shape), rows, columns)
    ax.imshow(picture, cmap="gray", interpolation="nearest")
    ax.set_axis_off()
    return ax


def pairs(
    above: Array, below: Array, shape: tuple[int, ...], *, ax: "Axes | None" = None
) -> "Axes":
    """Draw each image over its reconstruction.

    Args:
        above: The originals, shape (N, D).
        below: Their reconstructions, shape (N, D).
        shape: Of one image.
        ax: Where to draw.
    """
    originals, images = array(above), array(below)
    if originals.shape != images.shape:
        raise ValueError(f"below must have shape {originals.shape}, got {images.shape}")
    return mosaic(np.concatenate([originals, images]), shape, columns=len(images), ax=ax)


def manifold(grid: Array, shape: tuple[int, ...], *, ax: "Axes | None" = None) -> "Axes":
    """Draw a grid of decoded images without gaps, as `vae.manifold.grid` gives them.

    Args:
        grid: Decoded points, shape (R, R, D).
        shape: Of one image.
        ax: Where to draw.
    """
    images = array(grid)
    if images.ndim != 3:
        raise ValueError(f"grid must have shape (R, R, D), got {images.shape}")
    rows, columns = images.shape[:2]
    images = _checked(images.reshape(rows * columns, -1), shape, name="grid")
    ax = axes(ax, (6.0, 6.0 * shape[-2] / shape[-1]))
    picture = _tiled(images.reshape(-1, *shape), rows, columns, gap=0)
    ax.imshow(picture, cmap="gray", interpolation="nearest")
    ax.set_axis_off()
    return ax


def _checked(images: np.ndarray, shape: tuple[int, ...], name: str = "x") -> np.ndarray:
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise ValueError(f"shape must be (H, W), (1, H, W) or (3, H, W), got {shape}")
    size = int(np.prod(shape))
    if images.ndim != 2 or images.shape[1] != size or not len(images):
        raise ValueError(f"{name} must hold images of {size} numbers, got shape {images.shape}")
    return images


def _tiled(images: np.ndarray, rows: int, columns: int, gap: int = 1) -> np.ndarray:
    """Return one picture (height, width[, 3]) in [0, 1], white between the images."""
    colored = images.ndim == 4
    channels = np.moveaxis(images, 1, -1) if colored else images[..., None]
    low, high = channels.min(), channels.max()
    scaled = (channels - low) / (high - low if high > low else 1)
    height, width, depth = scaled.shape[1:]
    picture = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, depth))
    for i, image in enumerate(scaled):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture if depth == 3 else picture[..., 0]
