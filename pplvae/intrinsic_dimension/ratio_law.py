"""The law of the generalized ratios of neighbor distances: see `gride`.

The n₁ points within r_n₁ are some of the n₂ − 1 within r_n₂, each by a chance of μ^(−d), so that

    μ = r_n₂ / r_n₁,   μ^(−d) ~ Beta(n₁, n₂ − n₁),
    p(μ | d) = d (μ^d − 1)^(n₂ − n₁ − 1) / (B(n₂ − n₁, n₁) μ^((n₂ − 1) d + 1)),   μ ≥ 1.

With y = d log μ, the score and the information of log d are

    Σ 1 + (n₂ − n₁ − 1) y / (e^y − 1) − n₁ y,    J = Σ 1 + (n₂ − n₁ − 1) (y / (2 sinh(y/2)))².

The score is convex and falls in d, so that Newton's method from below never oversteps its root.

Reference:
    Denti et al. (2022), The generalized ratios intrinsic dimension estimator,
    https://doi.org/10.1038/s41598-022-20991-1
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.neighbors.caller import warn
from pplvae.neighbors.neighbor_graph import TIE
from pplvae.validation import Array, as_tensor, as_vector, check_whole

MOST_TIED = 0.5  # of the ratios; where more are 1, the two nearest neighbors say nothing of d
_MOST_STEPS = 100  # of Newton's method; 6 are the rule
_NO_CHANCE = math.log(1e-9)


class Gride(dist.TorchDistribution):
    """The law of μ = r_n₂ / r_n₁ in d dimensions.

    Args:
        dimension: The dimension d, positive.
        n1: The nearer neighbor's rank, from 1.
        n2: The farther neighbor's rank, above `n1`.

    Raises:
        ValueError: If the ranks are not whole, or `n2` is not above `n1`.
    """

    has_rsample = True

    def __init__(
        self,
        dimension: Tensor | float,
        n1: Tensor | int = 1,
        n2: Tensor | int = 2,
        *,
        validate_args: bool | None = None,
    ) -> None:
        d = torch.as_tensor(dimension)
        d = d if d.is_floating_point() else d.to(torch.get_default_dtype())
        ranks = (torch.as_tensor(n, dtype=d.dtype, device=d.device) for n in (n1, n2))
        self.dimension, self.n1, self.n2 = broadcast_all(d, *ranks)
        super().__init__(self.dimension.shape, validate_args=validate_args)
        if self._validate_args and not (self.n1 < self.n2).all():
            raise ValueError(f"n2 must be above n1, got n1 = {n1} and n2 = {n2}")

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the arguments must be."""
        ranks = dict.fromkeys(("n1", "n2"), constraints.positive_integer)
        return {"dimension": constraints.positive, **ranks}

    @property
    def support(self) -> constraints.Constraint:
        """Where the law lives: from 1."""
        return constraints.greater_than_eq(1.0)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Gride":
        """Return the same law over a larger batch shape."""
        shape = torch.Size(batch_shape)
        parts = (part.expand(shape) for part in (self.dimension, self.n1, self.n2))
        return Gride(*parts, validate_args=self._validate_args)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return μ = (1 + G / H)^(1/d), G ~ Gamma(n₂ − n₁), H ~ Gamma(n₁): differentiable in d."""
        shape = torch.Size(sample_shape)
        outer, inner = (
            dist.Gamma(rank, torch.ones_like(rank)).sample(shape)
            for rank in (self.n2 - self.n1, self.n1)
        )
        return (torch.log1p(outer / inner) / self.dimension).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(μ | d) in nats, the shape of μ and of the batch broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        log_ratio = value.log()
        return log_likelihood(log_ratio, self.dimension, self.n1, self.n2) - log_ratio


def solve(
    logs: Tensor, n1: Tensor | int, n2: Tensor | int, *, count: float, rate: float = 0.0
) -> float:
    """Return the d at which the score of log d vanishes; ranks may differ from point to point.

        count + Σ (n₂ − n₁ − 1) y / (e^y − 1) = d (rate + Σ n₁ log μ),   y = d log μ

    Args:
        logs: log μ, shape (N,).
        n1: The nearer neighbor's rank, one or shape (N,).
        n2: The farther neighbor's rank, one or shape (N,).
        count: N, N − 1, or N and what a prior adds.
        rate: What a prior adds.

    Raises:
        ValueError: If all ratios are 1.
    """
    check_untied(logs, 1.0)
    rate = rate + (n1 * logs).sum().item()
    dimension, power = count / rate, n2 - n1 - 1
    for _ in range(_MOST_STEPS):
        fall, bend = _falls(dimension * logs)
        height = count + (power * fall).sum().item() - dimension * rate
        slope = (power * (fall - bend)).sum().item() - dimension * rate
        step = height / slope
        dimension *= 1 - step
        if abs(step) < 1e-13:
            break
    return dimension


def score_and_information(
    logs: Tensor, dimension: float, n1: Tensor | int, n2: Tensor | int
) -> tuple[Tensor, float]:
    """Return the score of log d of each point, shape (N,), and the observed information J."""
    y, power = dimension * logs, n2 - n1 - 1
    fall, bend = _falls(y)
    return 1 + power * fall - n1 * y, (1 + power * bend).sum().item()


def logs_and_graph(
    x: Data, n1: int = 1, n2: int = 2, min_size: int = 3, *, progress: bool = True
) -> tuple[Tensor, NeighborGraph | None]:
    """Return log μ in double precision, and the graph behind it if there is one.

    Args:
        x: Points, shape (N, D); their neighbor graph; or ratios, shape (N,).
        n1: The nearer neighbor's rank, from 1.
        n2: The farther neighbor's rank, above `n1`.
        min_size: How many ratios there must be, where they are given.
        progress: Whether a search of more than a few seconds shows a progress bar.

    Raises:
        ValueError: If the ranks are not 1 ≤ n1 < n2 ≤ N − 1, or as `logs_of`.
    """
    check_ranks(n1, n2)
    if not (isinstance(x, NeighborGraph) or hasattr(x, "ndim")):
        x = as_tensor(x)  # lists of lists are points too
    if isinstance(x, NeighborGraph) or x.ndim == 2:
        graph = as_graph(x, n2, progress=progress)
        return (graph.distances[:, n2 - 1] / graph.distances[:, n1 - 1]).log(), graph
    return logs_of(x, min_size, n1, n2), None


def logs_of(ratios: Array, min_size: int, n1: int = 1, n2: int = 2) -> Tensor:
    """Return log μ in double precision.

    Raises:
        ValueError: If there are too few ratios, or one is below 1.

    Warns:
        UserWarning: If no ratio is anywhere near 1, as by the law some are: these are points.
    """
    given = as_vector(ratios, name="ratios", min_size=min_size).double()
    least = given.min().item()
    if least < 1:
        raise ValueError(f"ratios must be at least 1, got {least:.6g}")
    logs = given.log()
    if least > 1 and _log_chance(logs, n1, n2) < _NO_CHANCE:
        warn(f"the smallest of {len(logs)} ratios is {least:.3g}, where the law has some near 1: "
             "points on a line have the shape (N, 1)")  # fmt: skip
    return logs


def _log_chance(logs: Tensor, n1: int, n2: int) -> float:
    """Return the log of the chance that the law, fitted, has no ratio below the smallest."""
    from scipy.special import betainc, psi

    dimension = (psi(n2) - psi(n1)) / logs.mean().item()  # E log μ is that over d
    chance = float(betainc(n1, n2 - n1, math.exp(-dimension * logs.min().item())))
    return len(logs) * math.log(chance) if chance else -math.inf


def check_untied(logs: Tensor, most: float = MOST_TIED) -> None:
    """Refuse ratios of which more than a part, or all, are 1 but for rounding.

    On a lattice, d is then a matter of rounding, or of the prior.

    Raises:
        ValueError: If they are.
    """
    tied = (logs <= TIE).double().mean().item()
    if tied > most or tied == 1:
        all_or_most = "all" if tied == 1 else "mostly"
        raise ValueError(
            f"ratios must not {all_or_most} be 1, as on a lattice, got {tied:.0%} that are"
        )


def check_ranks(n1: int, n2: int) -> None:
    """Refuse ranks that are not whole numbers 1 ≤ n1 < n2.

    Raises:
        ValueError: If they are not.
    """
    check_whole("n1", n1, 1)
    check_whole("n2", n2, n1 + 1, context=f"for n1 = {n1}")


def log_likelihood(logs: Tensor, dimension: Tensor, n1: Tensor | int, n2: Tensor | int) -> Tensor:
    """Return the log density of log μ: that of μ, and log μ more."""
    y, power = dimension * logs, torch.as_tensor(n2 - n1 - 1).to(logs)
    # Where the power is 0, so is the derivative at μ = 1, which 0 log 0 would make nan.
    inner = torch.where(power == 0, torch.ones_like(y), -torch.expm1(-y))
    n1, n2 = (torch.as_tensor(n).to(logs) for n in (n1, n2))
    log_beta = (n2 - n1).lgamma() + n1.lgamma() - n2.lgamma()
    return dimension.log() + power * inner.log() - n1 * y - log_beta


def _falls(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return y / (e^y − 1) and (y / (2 sinh(y/2)))², both 1 at y = 0."""
    safe = torch.where(y > 0, y, 1.0)
    fall, bend = safe / torch.expm1(safe), (safe / 2 / torch.sinh(safe / 2)).square()
    return torch.where(y > 0, fall, 1.0), torch.where(y > 0, bend, 1.0)
