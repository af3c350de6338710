"""What Hidalgo found: the parts, their dimensions and how sure, and how many parts there are."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae.infer import Posterior
from pplvae.intrinsic_dimension.gamma import check_fraction
from pplvae.intrinsic_dimension.hidalgo.coherence import Neighborhood


@dataclass(frozen=True, eq=False, repr=False)
class Hidalgo:
    """The parts of a data set with their dimensions; parts in order of dimension.

    The N points are the distinct ones, in the order of the neighbor graph.

    Attributes:
        dimensions: Of each part, shape (K,).
        standard_errors: Of them, neighbors shared, shape (K,).
        weights: The shares of the parts, shape (K,).
        probabilities: Of each point's part, shape (N, K).
        log_likelihood: log p(μ | d) at the most likely d, all labelings summed, in nats.
        converged: Whether EM, and after it SVI, came to an end. NUTS: see its posterior's summary.
        inflations: The factor by which shared neighbors widen each variance, shape (K,).
        method: "em", "svi" or "nuts".
        posterior: Draws of `dimensions` and `weights`; by "em" one point, its `trace` the climb.
            Its spread is that of independent ratios, and its evidence, where it has one, takes
            what neighbors say for given: it does not tell how many parts there are.
        neighborhood: What neighbors say, to give to `model`; None without coherence.
    """

    dimensions: Tensor
    standard_errors: Tensor
    weights: Tensor
    probabilities: Tensor
    log_likelihood: float
    converged: bool
    inflations: Tensor
    method: str
    posterior: Posterior
    neighborhood: Neighborhood | None

    @property
    def num_parts(self) -> int:
        """K."""
        return len(self.dimensions)

    @property
    def parts(self) -> Tensor:
        """The likeliest part of each point, shape (N,)."""
        return self.probabilities.argmax(dim=1)

    @property
    def dimension(self) -> float:
        """Σ_k w_k d_k: the dimension to expect at a point taken at random."""
        return (self.weights @ self.dimensions).item()

    @property
    def standard_error(self) -> float:
        """The standard error of `dimension`, at these weights and for independent parts."""
        return (self.weights * self.standard_errors).norm().item()

    def intervals(self, prob: float = 0.95) -> Tensor:
        """Return central intervals of the parts' dimensions that hold `prob`, shape (K, 2).

        Those of a Gamma law with mean d and its standard error.
        """
        return _intervals(self.dimensions, self.standard_errors, prob)

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the central interval of `dimension` that holds `prob`."""
        mean, error = torch.tensor([[self.dimension], [self.standard_error]], dtype=torch.float64)
        low, high = _intervals(mean, error, prob)[0].tolist()
        return low, high

    def __repr__(self) -> str:
        parts = zip(self.dimensions, self.standard_errors, self.weights, strict=True)
        said = ", ".join(f"d = {d:.3g} ± {e:.2g} in {w:.0%}" for d, e, w in parts)
        return f"Hidalgo({said} of {len(self.probabilities)} points, by {self.method})"


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """How many parts the data have.

    Attributes:
        best: The fit of the number of parts with the highest score.
        scores: Approximate log evidence in nats of K = 1, 2, …, shape (most_parts,).
        fits: The fit of each K.
    """

    best: Hidalgo
    scores: Tensor
    fits: list[Hidalgo] = field(default_factory=list)

    @property
    def num_parts(self) -> int:
        """The number of parts with the highest score."""
        return self.best.num_parts

    def __repr__(self) -> str:
        scores = ", ".join(f"{score:.1f}" for score in (self.scores - self.scores.max()).tolist())
        return f"Selection({self.num_parts} parts, scores {scores}: {self.best})"


def _intervals(mean: Tensor, error: Tensor, prob: float) -> Tensor:
    from scipy.stats import gamma

    check_fraction("prob", prob)
    means, errors = mean.cpu().numpy(), error.cpu().numpy()
    low, high = gamma((means / errors) ** 2, scale=errors**2 / means).interval(prob)
    return torch.stack([torch.as_tensor(low), torch.as_tensor(high)], dim=1).to(mean)
