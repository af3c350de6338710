"""Walls that reflect and axes that close: where the mass beyond an edge belongs.

A kernel near the edge of the support lays mass beyond it, and the estimate is half too low there.
With the draw X' of the plain estimate, reflection estimates the law of X' folded back between the
walls, a closed axis that of X' modulo the period. So the density at x is the sum of the plain one
over all that falls on x, its images

    x + 2 k L and 2 a - x + 2 k L between walls at a and a + L,   x + k P around a period P,

it integrates to one over the support, and a draw is a plain draw, folded.

Reference:
    Schuster (1985), Incorporating support constraints into nonparametric estimators of densities,
    https://doi.org/10.1080/03610928508828965
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.validation import Array

_FAR = 80.0  # what r² must exceed that of the nearest image by, for exp(-r²/2) to be nothing
Sides = tuple[float | Array | None, float | Array | None]


@dataclass(frozen=True, eq=False)
class Walls:
    """What stands along each axis, nothing where both are infinite.

    Attributes:
        low: Lower wall of each axis, shape (D,), -inf for none.
        high: Upper wall, shape (D,), inf for none.
        period: Length of a closed axis, shape (D,), inf for one that is open.
    """

    low: Tensor
    high: Tensor
    period: Tensor

    def hold(self, x: Tensor) -> Tensor:
        """Return which points are between the walls, shape (M,)."""
        return ((x >= self.low) & (x <= self.high)).all(dim=1)

    def fold(self, x: Tensor) -> Tensor:
        """Return points folded back between the walls, or into [0, P), shape (M, D)."""
        return torch.stack([self._folded(x[:, j], j) for j in range(x.shape[1])], dim=1)

    def images(self, x: Tensor, reach: Tensor, *, gaussian: bool) -> Iterator[Tensor]:
        """Yield all that falls on x, (M, D) at a time, x itself first.

        Args:
            x: Points that are folded already, shape (M, D).
            reach: Width of the kernel along each axis, shape (D,).
            gaussian: Whether the kernel goes on beyond its width.
        """
        axes = [
            self._along(x[:, j], j, reach[j].item(), gaussian=gaussian) for j in range(x.shape[1])
        ]
        for columns in itertools.product(*axes):
            yield torch.stack(columns, dim=1)

    def _folded(self, x: Tensor, axis: int) -> Tensor:
        low, high, period = (t[axis].item() for t in (self.low, self.high, self.period))
        if period < math.inf:
            return x.remainder(period)
        if low > -math.inf and high < math.inf:
            length = high - low
            x = low + length - ((x - low).remainder(2 * length) - length).abs()
        elif low > -math.inf:
            x = low + (x - low).abs()
        elif high < math.inf:
            x = high - (high - x).abs()
        return x.clamp(low, high)

    def _along(self, x: Tensor, axis: int, reach: float, *, gaussian: bool) -> list[Tensor]:
        """Return the images along one axis, shape (M,) each."""
        low, high, period = (t[axis].item() for t in (self.low, self.high, self.period))
        if period < math.inf:
            return [x + k * period for k in _turns(period, reach, gaussian=gaussian)]
        if low == -math.inf or high == math.inf:
            walls = [wall for wall in (low, high) if math.isfinite(wall)]
            return [x, *(2 * wall - x for wall in walls)]
        twice = 2 * (high - low)
        turns = _turns(high - low, reach, gaussian=gaussian)
        shifts = [k * twice for k in turns]
        last = (max(turns) + 1) * twice  # mirrored images start at one side: one more at the other
        return [*(x + s for s in shifts), *(2 * low - x + s for s in [*shifts, last])]


def walls(reflect: Sides | None, period: float | Array | None, data: Tensor) -> Walls | None:
    """Return walls as the caller says them, or None where there are none.

    Raises:
        ValueError: If walls do not enclose the data, or an axis has both walls and a period.
    """
    if reflect is None and period is None:
        return None
    dim = data.shape[1]
    low, high = _sides(reflect)
    out = Walls(
        _side(low, -math.inf, data, "reflect"),
        _side(high, math.inf, data, "reflect"),
        _side(period, math.inf, data, "period"),
    )
    if not (out.period > 0).all():
        raise ValueError(f"period must be positive, got {out.period.tolist()}")
    both = out.period.isfinite() & (out.low.isfinite() | out.high.isfinite())
    if both.any():
        raise ValueError(f"reflect and period must not share an axis, got both along {_at(both)}")
    outside = (~out.hold(data)).sum().item()
    if outside or (out.low == out.high).any():
        got = [list(pair) for pair in zip(out.low.tolist(), out.high.tolist(), strict=True)]
        raise ValueError(
            f"reflect must enclose all data, got walls {got[:dim]} with {outside} points outside"
        )
    return out


def _sides(reflect: Sides | None) -> Sides:
    if reflect is None:
        return None, None
    if not isinstance(reflect, tuple | list) or len(reflect) != 2:
        raise ValueError(f"reflect must be (low, high), with None for no wall, got {reflect}")
    return reflect[0], reflect[1]


def _side(value: float | Array | None, missing: float, data: Tensor, name: str) -> Tensor:
    """Return one number per axis, float64."""
    given = missing if value is None else value
    # In the precision of the data, where a point may stand at the wall.
    try:
        side = torch.as_tensor(given, device=data.device).to(data.dtype).double()
    except (TypeError, ValueError, RuntimeError) as error:
        rule = "must be one number or one for each axis (-inf or inf for no wall)"
        raise ValueError(f"{name} {rule}, got {value}") from error
    if side.shape not in ((), (1,), (data.shape[1],)) or side.isnan().any():
        raise ValueError(f"{name} must be one number or one for each axis, got {value}")
    return side.expand(data.shape[1])


def _turns(length: float, reach: float, *, gaussian: bool) -> list[int]:
    """Return the whole numbers of turns, 0 first, after which an image still counts."""
    ratio = reach / length
    most = math.ceil(math.sqrt(1 + _FAR * ratio**2)) if gaussian else math.ceil(ratio) + 1
    return [0, *(sign * k for k in range(1, most + 1) for sign in (1, -1))]


def _at(flags: Tensor) -> list[int]:
    return flags.nonzero().flatten().tolist()
