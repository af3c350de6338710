"""The points of a fit, in coordinates of order one: a table in memory, or a stream.

    z = A⁻¹ (x − c)

c is the mean and A lower triangular: for forms of covariance that any linear map keeps it is the
Cholesky factor of the data's covariance, for the others it scales the columns, or all of them
alike. There offsets and units of the data are gone, and no digits are lost to them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Full, Parameters
from pplvae.mixtures.expectation import Block, Expected, block_size, expect, log_probs

_MOST_KEPT = 2**20  # monomials that are worth keeping from step to step


class Frame(NamedTuple):
    """The coordinates z = A⁻¹ (x − c): `center` c, shape (D,), and `scale` A, shape (D, D)."""

    center: Tensor
    scale: Tensor

    def to_z(self, x: Tensor) -> Tensor:
        """Return z, shape (D, B), of points x of shape (B, D)."""
        return torch.linalg.solve_triangular(self.scale, (x - self.center).mT, upper=False)

    @property
    def log_det(self) -> float:
        """The log of |dx / dz|."""
        return self.scale.diagonal().log().sum().item()


class Points(Protocol):
    """What a fit asks of its points."""

    size: int  # how many
    mass: float  # the sum of their weights

    def expect(self, form: Full, parameters: Parameters) -> Expected:
        """Return the E-step of R mixtures."""
        ...

    def worst(self, form: Full, parameters: Parameters, num: int) -> Tensor:
        """Return the `num` points, shape (num, D), that the first mixture explains worst."""
        ...


class Table:
    """Points in memory, feature-major: z (D, N), weights (N,) and labels (K, N) or None."""

    def __init__(
        self, z: Tensor, weights: Tensor | None = None, labels: Tensor | None = None
    ) -> None:
        self.block, self.size = Block(z.contiguous(), weights, labels), z.shape[1]
        self.mass = self.size if weights is None else weights.sum().item()
        self.total = (z if weights is None else z * weights) @ z.mT
        self._kept: dict[str, list[Block]] = {}

    def expect(self, form: Full, parameters: Parameters) -> Expected:
        """Return the E-step of R mixtures."""
        return expect(form, parameters, self._blocks(form, parameters), self.total)

    def worst(self, form: Full, parameters: Parameters, num: int) -> Tensor:
        """Return the points that the first mixture explains worst, shape (num, D)."""
        parts = [log_probs(form, parameters, block) for block in self._blocks(form, parameters)]
        return self.block.z[:, torch.cat(parts).topk(num, largest=False).indices].mT

    def _blocks(self, form: Full, parameters: Parameters) -> Iterable[Block]:
        if form.name in self._kept:
            return self._kept[form.name]
        num_features = form.num_features(len(self.block.z))
        if num_features * self.size <= _MOST_KEPT:
            features = self.block.z.new_empty(num_features, self.size)
            form.fill(self.block.z, features)
            self._kept[form.name] = [self.block._replace(features=features)]
            return self._kept[form.name]
        width = block_size(num_features, parameters.log_weights.numel())
        return _cut(self.block, width)


class Stream:
    """Points that are read anew in each step, as blocks of shape (B, D)."""

    def __init__(self, read: Callable[[], Iterator[Tensor]], frame: Frame, size: int) -> None:
        self._read, self._frame, self.size, self.mass = read, frame, size, float(size)
        self.total = frame.center.new_zeros(2 * frame.center.shape)
        for z in self._coordinates():
            self.total += z @ z.mT

    def expect(self, form: Full, parameters: Parameters) -> Expected:
        """Return the E-step of R mixtures."""
        return expect(form, parameters, self._blocks(form, parameters), self.total)

    def worst(self, form: Full, parameters: Parameters, num: int) -> Tensor:
        """Return the points that the first mixture explains worst, shape (num, D)."""
        lowest, points = self.total.new_empty(0), self.total.new_empty(len(self.total), 0)
        for block in self._blocks(form, parameters):
            values = torch.cat([lowest, log_probs(form, parameters, block)])
            lowest, order = values.topk(min(num, len(values)), largest=False)
            points = torch.cat([points, block.z], dim=1)[:, order]
        return points.mT

    def _coordinates(self) -> Iterator[Tensor]:
        size = 0
        for x in self._read():
            size += len(x)
            yield self._frame.to_z(x)
        if size != self.size:
            raise ValueError(
                "x must give the same blocks each time it is read, "
                f"got {self.size} points first and {size} later"
            )

    def _blocks(self, form: Full, parameters: Parameters) -> Iterator[Block]:
        num_features = form.num_features(parameters.locs.shape[-1])
        width = block_size(num_features, parameters.log_weights.numel())
        for z in self._coordinates():
            yield from _cut(Block(z), width)


def _cut(block: Block, width: int) -> Iterator[Block]:
    for start in range(0, block.z.shape[1], width):
        yield block.take(slice(start, start + width))
