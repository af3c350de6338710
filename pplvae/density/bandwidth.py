"""How wide a kernel should be, by five rules.

`silverman` (the lecture's) and `scott` are right for one normal distribution and wipe out the
valleys between modes; `isj` finds the least squared error on a line by diffusion, with no normal
reference; `kl` is the lecture's other rule, the width of least divergence KL(p ‖ p_h), by
leave-one-out likelihood; `lscv` is its like for the squared error. Each returns the standard
deviations of a Gaussian kernel, one per column; others take them times their canonical ratio.
"""

from typing import Protocol

from torch import Tensor

from pplvae.density.diffusion import isj
from pplvae.density.leave_one_out import kl, leave_one_out, lscv
from pplvae.density.thumb import scott, silverman
from pplvae.validation import Array

__all__ = [
    "Rule", "isj", "kl", "leave_one_out", "lscv", "scott", "silverman"
]  # fmt: skip


class Rule(Protocol):
    """A rule: data, shape (N, D), and weights, shape (N,), to widths, shape (D,)."""

    def __call__(self, data: Array, /, *, weights: Array | None = None) -> Tensor:
        """Return one bandwidth per column."""
        ...
