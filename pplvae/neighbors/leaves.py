"""Points laid out in leaves, and lower bounds on their distances.

No point in a leaf is nearer than the box around it. And with c the center of a leaf, a' = a - c
and b' = b - c, one product gives

    |a - b|² = |a'|² + |b'|² - 2 a'·b'

to within a rounding error that is small beside the leaf, however far from the origin it is. Both
hold of projections y onto orthogonal directions, too: no two are farther apart than the points.
"""

import torch
from torch import Tensor

from pplvae.neighbors.boxes import gaps
from pplvae.neighbors.plan import Plan
from pplvae.neighbors.question import Question, part_rows

_CENTER = 32  # of a leaf's points, whose median is its center


class Leaves:
    """A question's points leaf by leaf: L leaves of m places, one after another.

    With v the roundoff of float64, and t the points in the question's coordinates, projections are
    computed to within E |t|, E = (D √D + 8) v, on directions that are a hair short of orthonormal.
    So |a - b| ≥ |y_a - y_b| - E (|t_a| + |t_b|), and for any ε

        |a - b|² ≥ (1 - ε) |y_a - y_b|² - (2 E² / ε) (|t_a|² + |t_b|²).

    Here it is 2^-25: at least so much of |y_a - y_b|² is gone with 2^-24 of |a'|² + |b'|².

    The product, in a dtype of roundoff u, errs by at most (3p + 11) u (|a'|² + |b'|²): 4u for the
    stored coordinates, (p + 3) u for the stored norms, 2(p + 2) u for the sum of p + 2 terms. The
    distances that the bounds are held against err by (D + 4) v |a - b|². The factors below leave
    room for higher orders, and for terms lost to underflow.

    Attributes:
        rows: Which point stands at each place, shape (L m,).
        real: Whether it stands there first, shape (L m,); no bound is finite at its second place.
        num: L.
        width: m.
    """

    def __init__(self, question: Question, plan: Plan) -> None:
        self.num, self.width = plan.rows.shape
        self.rows, self.real = plan.rows.flatten(), plan.real.flatten()
        full_dim = question.x.shape[1]
        dim = full_dim if plan.directions is None else plan.directions.shape[1]
        self.dtype, info = plan.dtype, torch.finfo(plan.dtype)
        self.shrink = 1 - (3 * dim + 20) * info.eps / 2 - 2.0**-24 - (4 * full_dim + 32) * 2.0**-53
        error, slack = full_dim**1.5 + 8, 16 * (dim + 2) * info.tiny
        # Columns: y, a 1, and what the bounds lose; a bound is then one product of p + 2 terms.
        self.points = torch.ones(len(self.rows), dim + 2, dtype=torch.float64)
        size = part_rows(question.x)
        for rows, points in zip(self.rows.split(size), self.points.split(size), strict=True):
            t = question.centered(question.x[rows])
            points[:, :dim] = t if plan.directions is None else t @ plan.directions
            points[:, -1] = -slack - error**2 * 2.0**-80 * t.square().sum(dim=1)
        inside = self.points.view(self.num, self.width, -1)
        self.center = inside[:, :: max(1, self.width // _CENTER)].median(dim=1).values
        self.center[:, dim:] = 0
        self.boxed = plan.boxed[self.rows]
        boxes = self.boxed.view(self.num, self.width, -1)
        self.low, self.high = boxes.amin(dim=1), boxes.amax(dim=1)
        self.loss = inside[..., -1].amin(dim=1, keepdim=True).to(self.dtype)
        self.points[~self.real, -1] = torch.inf

    def places(self, leaf: int) -> Tensor:
        """Return the places of a leaf, shape (m,)."""
        return torch.arange(leaf * self.width, (leaf + 1) * self.width)

    def gaps(self, places: Tensor) -> Tensor:
        """Return lower bounds on the squared distances to all leaves, shape (L, B)."""
        found = gaps(self.boxed[places], self.low, self.high, dtype=self.dtype).mul_(self.shrink)
        return found.add_(self.loss).add_(self.points[places, -1].to(self.dtype))

    def seen(self, leaf: int, places: Tensor) -> Tensor:
        """Return the factors of those who look at a leaf, shape (B, p + 2)."""
        factors = (self.points.index_select(0, places) - self.center[leaf]).to(self.dtype)
        factors[:, -1].add_(factors[:, :-2].square().sum(dim=1), alpha=self.shrink)
        return factors

    def factors(self, leaf: int) -> Tensor:
        """Return a leaf's own: their product with others' is a bound on |a - b|²."""
        seen = self.seen(leaf, self.places(leaf))
        return torch.cat([-2 * seen[:, :-2], seen[:, -1:], seen[:, -2:-1]], dim=1)
