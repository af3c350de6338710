"""What one step of EM passes to the next: many mixtures at once, and the sums that make them.

Parameters come in batches: R mixtures of K components each, so that several are fitted at once.
"""

from typing import NamedTuple

from torch import Tensor


class Parameters(NamedTuple):
    """R mixtures of K components in D dimensions.

    Attributes:
        log_weights: Shape (R, K).
        locs: Shape (R, K, D).
        scales: As the form has it: full (R, K, D, D), lower Cholesky factors; tied (R, 1, D, D);
            diag (R, K, D), standard deviations; spherical (R, K, 1).
    """

    log_weights: Tensor
    locs: Tensor
    scales: Tensor

    def take(self, rows: Tensor | slice) -> "Parameters":
        """Return some of the R mixtures."""
        return Parameters(*(part[rows] for part in self))


class Moments(NamedTuple):
    """Sums over the points with the responsibilities as weights.

    Attributes:
        counts: Σ r, shape (R, K).
        sums: Σ r (z − origin), shape (R, K, D).
        squares: Σ r of what the form's `outer` makes of z − origin: full (R, K, D, D), diag
            (R, K, D), spherical (R, K, 1), tied their sum over all components, (R, 1, D, D).
        origins: What each component's are about, shape (R, K, D).
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    origins: Tensor

    def take(self, rows: Tensor) -> "Moments":
        """Return those of some of the R mixtures."""
        return Moments(*(part[rows] for part in self))
