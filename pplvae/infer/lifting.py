"""The power of lifting: least absolute deviations by EM's two steps (CS480 lecture 17).

A hard problem gets easy with one more variable. As |t| = ½ min_s [t²/s² + s²],

    min_w ‖Xw − y‖₁ = min_w min_s h(w, s),   h(w, s) = ½ Σ_n [t_n²/s_n² + s_n²],   t = Xw − y.

For fixed w the best s² is |t|; for fixed s the best w is weighted least squares. It is EM with a
point for the law of the latent s, and has EM's identity (`infer.decomposition`) without the logs:

    h(w, s) = ‖Xw − y‖₁ + ½ Σ_n (|t_n|/s_n − s_n)²,

where the first step takes the last term to 0. It is EM in earnest too: under Laplace noise of
scale b, −log p(y | w) is ‖Xw − y‖₁ / b and a constant. The Laplace law is a normal law whose
variance v is exponential with mean 2b²; given t, E[1/v] = 1/(b |t|): the same weights in the
M-step. So the answer is the most likely w under Laplace noise, and estimates the conditional
median: a few wild y do not move it far, wild rows of X can.

The normal equations of the second step are Xᵀu = 0 with u = t/s². Then for every w
‖Xw − y‖₁ max |u| ≥ uᵀ(Xw − y) = −uᵀy, which bounds the minimum from below: the steps end when
they meet the bound. (Small gains would not say so: a residual that has to leave 0 leaves slowly.)

Near a residual of 0 the weights 1/|t| have no bound. We keep s² above a floor ε, which makes |t| a
½ (t²/ε + ε) below ε: Huber's loss, at most N ε/2 above in all, and still never rising. w comes
near to a vertex of the linear program at a geometric rate; a slow one, where u is nearly ±1 at a
point that the vertex fits.

Reference:
    Andrews & Mallows (1974), Scale mixtures of normal distributions; Geman & Reynolds (1992),
    Constrained restoration and the recovery of discontinuities; Phillips (2002), Least absolute
    deviations estimation via the EM algorithm.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.infer.decomposition import Decomposition
from pplvae.infer.em import climb
from pplvae.validation import Array, as_points, as_vector, check_in_range, check_whole


@dataclass(frozen=True, eq=False, repr=False)
class LeastAbsoluteDeviations:
    """The weights that make ‖Xw − y‖₁ small, and how they were come by.

    Attributes:
        weights: w, shape (D,).
        residuals: Xw − y, shape (N,).
        gap: How far ‖Xw − y‖₁ may lie above its minimum: no farther, by duality.
        converged: Whether that is within the tolerance.
        objectives: min_s h(w, s) with s above its floor, at the start and after each step; but
            for rounding never rising, and ‖Xw − y‖₁ up to N ε/2.
        decompositions: After each step in w and before the next in s: h(w, s), ‖Xw − y‖₁ and
            ½ Σ (|t|/s − s)², the first the sum of the others.
    """

    weights: Tensor
    residuals: Tensor
    gap: float
    converged: bool
    objectives: list[float]
    decompositions: list[Decomposition]

    @property
    def loss(self) -> float:
        """‖Xw − y‖₁."""
        return self.residuals.abs().sum().item()

    @property
    def scale(self) -> float:
        """The most likely scale of Laplace noise, the mean |t|."""
        return self.loss / len(self.residuals)

    def __repr__(self) -> str:
        steps = len(self.objectives) - 1
        return (
            f"LeastAbsoluteDeviations({len(self.weights)} weights, {len(self.residuals)} points, "
            f"loss {self.loss:.6g}, {'' if self.converged else 'not '}converged after "
            f"{steps} steps)"
        )


def least_absolute_deviations(
    x: Array,
    y: Array,
    *,
    max_steps: int = 1000,
    tolerance: float = 1e-9,
    floor: float = 1e-10,
) -> LeastAbsoluteDeviations:
    """Return the w that minimizes ‖Xw − y‖₁, from least squares on; no intercept is added.

    Works in double precision. Where X lacks rank, or the minimum is no single point, it is one of
    several.

    Args:
        x: X, shape (N, D).
        y: Shape (N,).
        max_steps: Most steps.
        tolerance: Stop when ‖Xw − y‖₁ is proven to be this near its minimum, as a fraction of
            least squares' ‖Xw − y‖₁; a few N ε/2 are the best that can be.
        floor: The least s², as a fraction of least squares' mean |t|.

    Raises:
        ValueError: If the lengths differ, a number is nan or inf, or an argument is outside its
            range.
    """
    check_whole("max_steps", max_steps, 1)
    check_in_range("tolerance", tolerance, 0)
    check_in_range("floor", floor, 0, 1)
    x, y = as_points(x), as_vector(y, name="y")
    if len(x) != len(y):
        raise ValueError(f"y must hold a number for each of {len(x)} points, got {len(y)}")
    steps = _Steps(x.double(), y.double().to(x.device), floor, tolerance)
    found = climb(
        steps.expect,
        steps.maximize,
        steps.start,
        max_steps=max_steps,
        least_gain=0.0,  # it is the bound that ends it,
        strict=False,  # and no rounding error
    )
    taken = len(found.objectives) - 1
    return LeastAbsoluteDeviations(
        found.parameters.to(x),
        steps.residuals(found.parameters).to(x),
        steps.gap,
        steps.gap <= steps.enough,
        [-value for value in found.objectives],
        steps.decompositions[:taken],
    )


class _Lifted(NamedTuple):
    """Weights w, shape (D,), and s² for them, shape (N,)."""

    weights: Tensor
    squares: Tensor


class _Steps:
    """The two steps, with the terms of the identity between them and the distance left to go."""

    def __init__(self, x: Tensor, y: Tensor, floor: float, tolerance: float) -> None:
        self._x, self._y = x, y
        self.start = _least_squares(x, y)
        loss = self.residuals(self.start).abs().sum().item()
        # Residuals below what rounding leaves of Xw − y are 0, whatever the caller's floor.
        rounding = torch.finfo(y.dtype).eps * y.abs().max().item() or 1.0
        self._floor = max(floor * loss / len(y), rounding)
        self._bound, self.gap = 0.0, loss
        self.enough = tolerance * loss + rounding * len(y)
        self.decompositions: list[Decomposition] = []

    def residuals(self, weights: Tensor) -> Tensor:
        return self._x @ weights - self._y

    def expect(self, weights: Tensor) -> tuple[_Lifted, Tensor]:
        """Return the best s² and −h(w, s)."""
        residuals = self.residuals(weights)
        squares = residuals.abs().clamp(min=self._floor)
        return _Lifted(weights, squares), -0.5 * (residuals.square() / squares + squares).sum()

    def maximize(self, lifted: _Lifted) -> Tensor | None:
        """Return the best w, by its change, which rounds less; None at the end."""
        if self.gap <= self.enough:
            return None
        s = lifted.squares.sqrt()
        change = _least_squares(self._x / s.unsqueeze(1), -self.residuals(lifted.weights) / s)
        weights = lifted.weights + change
        residuals = self.residuals(weights)
        self.decompositions.append(_decompose(residuals, s))
        dual = residuals / lifted.squares
        bound = (dual @ residuals / dual.abs().max().clamp(min=1.0)).item()
        self._bound = max(self._bound, bound)
        self.gap = residuals.abs().sum().item() - self._bound
        return weights


def _decompose(residuals: Tensor, s: Tensor) -> Decomposition:
    """Return h(w, s) and the two terms it is the sum of, each by its own formula."""
    ratios = residuals.abs() / s
    return Decomposition(
        joint=0.5 * ((residuals / s).square() + s.square()).sum().item(),
        marginal=residuals.abs().sum().item(),
        conditional=0.5 * (ratios - s).square().sum().item(),
    )


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    """Return the w that minimizes ‖Xw − y‖₂, on the CPU the least of several, by pivoted QR."""
    driver = "gelsy" if x.device.type == "cpu" else "gels"
    return torch.linalg.lstsq(x, y.unsqueeze(1), driver=driver).solution.squeeze(1)
