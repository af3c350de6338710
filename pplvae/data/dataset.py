"""A table of points that knows what one point looks like."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pplvae.randomness import generator
from pplvae.validation import Array, as_points, as_vector, check_positive


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """N points in D dimensions, each a row of a table or a flattened image.

    Attributes:
        x: The points as they were stored, shape (N, D): images as float32 of the raw bytes, tables
            in their own floating-point type.
        shape: The shape of one point, of D numbers in all: (height, width), (channels, height,
            width), or (D,) for a table.
        labels: The class of each point, int64, shape (N,); None where there are none.
        name: What to call the data in tables and pictures.

    Raises:
        ValueError: If the parts do not fit together, or `x` holds nan or inf.
    """

    x: Tensor
    shape: tuple[int, ...]
    labels: Tensor | None = None
    name: str = "data"

    def __post_init__(self) -> None:
        x = as_points(self.x)
        shape = tuple(int(size) for size in self.shape)
        if min(shape, default=0) < 1 or math.prod(shape) != x.shape[1]:
            raise ValueError(f"shape must hold {x.shape[1]} numbers, as a row of x, got {shape}")
        labels = None if self.labels is None else _as_labels(self.labels, x)
        for field, value in {"x": x, "shape": shape, "labels": labels}.items():
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        classes = "no" if self.labels is None else len(self.labels.unique())
        size = "x".join(map(str, self.shape))
        return f"Dataset({self.name!r}: {len(self)} points of {size}, {classes} classes)"

    @property
    def is_image(self) -> bool:
        """Whether a point is a picture, (H, W) or (C, H, W), not a row of a table."""
        return len(self.shape) > 1

    def subset(self, indices: Array) -> "Dataset":
        """Return the points at `indices`, whole numbers or booleans, in that order."""
        chosen = torch.as_tensor(indices, device=self.x.device)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, x=self.x[chosen], labels=labels)

    def scaled(self) -> "Dataset":
        """Return the data in [0, 1], by one affine map for all columns.

            (x - min x) / (max x - min x)

        Distances keep their proportions, so the intrinsic dimension stays as it is.

        Raises:
            ValueError: If all numbers are the same, and there is nothing to scale.
        """
        low, high = self.x.min(), self.x.max()
        if low == high:
            raise ValueError(f"x must vary to be scaled, got {low.item()} everywhere")
        return replace(self, x=(self.x - low) / (high - low))

    def binarized(self, seed: int | None = None) -> "Dataset":
        """Return zeros and ones: each number is 1 with its scaled value as probability.

        Args:
            seed: An int for the same draw every time.

        Raises:
            ValueError: If all numbers are the same.

        Reference:
            Salakhutdinov & Murray (2008), On the quantitative analysis of deep belief networks,
            https://doi.org/10.1145/1390156.1390266
        """
        probs = self.scaled().x
        return replace(self, x=torch.bernoulli(probs, generator=generator(seed, probs.device)))

    def split(self, fractions: Sequence[float], seed: int | None = None) -> "tuple[Dataset, ...]":
        """Return disjoint parts of the data, each in random order, with their labels.

        Args:
            fractions: The share of the points in each part; what is left of 1 is left out.
            seed: An int for the same parts every time, on any device.

        Returns:
            One data set for each fraction, of N times that fraction points, rounded so that
            fractions that sum to 1 use every point once.

        Raises:
            ValueError: If a fraction is not positive, they sum to more than 1, or a part is empty.
        """
        shares = as_vector(np.asarray(fractions, dtype=np.float64), name="fractions")
        check_positive("fractions", shares)
        if shares.sum() > 1 + 1e-9:
            raise ValueError(f"fractions must sum to at most 1, got {shares.sum().item():g}")
        ends = (len(self) * shares.cumsum(0)).round().long().tolist()
        if min(np.diff([0, *ends])) == 0:
            rule = f"give each part at least one of {len(self)} points"
            raise ValueError(f"fractions must {rule}, got {shares.tolist()}")
        order = torch.randperm(len(self), generator=generator(seed))
        return tuple(
            self.subset(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)
        )


def _as_labels(labels: Array, x: Tensor) -> Tensor:
    labels = as_vector(labels, name="labels")
    if len(labels) != len(x):
        raise ValueError(f"labels must be one for each of {len(x)} points, got {len(labels)}")
    if (labels != labels.round()).any():
        raise ValueError(
            f"labels must be whole numbers, got {labels[labels != labels.round()][0]}"
        )
    return labels.to(x.device, torch.int64)
