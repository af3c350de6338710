"""What every Bayesian fit of a mixture returns: draws in one numbering, and their densities.

The posterior predictive density is the mean of the draws' densities, and their spread at a point
is how unsure the density there is:

    p(x* | x) = E[p(x* | θ) | x] ≈ 1/S Σ_s p(x* | θ_s).

Both are the same whatever the components' numbers; the components themselves are not, so the
draws are renumbered first (see `relabel`), and R-hat, ESS and means are of the renumbered ones.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from pplvae import infer
from pplvae.infer import Posterior
from pplvae.mixtures.checks import check_dims
from pplvae.mixtures.distribution import MixtureOfNormals
from pplvae.mixtures.maps import triangular
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.relabel import relabel
from pplvae.validation import Array, as_points, check_in_range, check_whole

BLOCK = 2**22  # log densities held at once where they are summed up
APART = 2.0  # standard errors of a mean, by which starts of chains differ


@dataclass(frozen=True, eq=False)
class PredictiveDensity:
    """The density at some points, and how sure it is.

    Attributes:
        density: Posterior mean of p(x), the posterior predictive density, shape (N,).
        low: Lower end of the central interval of p(x), shape (N,).
        high: Upper end, shape (N,).
        prob: Mass of the interval.
    """

    density: Tensor
    low: Tensor
    high: Tensor
    prob: float

    def __repr__(self) -> str:
        return f"PredictiveDensity({len(self.density)} points, {self.prob:.0%} intervals)"


@dataclass(frozen=True, eq=False, repr=False)
class MixturePosterior(Posterior):
    """The posterior of a Gaussian mixture, its draws in one numbering of the components.

    Attributes:
        start: The mixture that the fit began at, where it is known; it numbers the components.
    """

    start: GaussianMixture | None = field(default=None)

    @classmethod
    def of(cls, posterior: Posterior, start: GaussianMixture | None = None) -> "MixturePosterior":
        """Return a mixture's posterior with its draws renumbered, if they are not so already.

        Args:
            posterior: With draws of `weights`, `locs` and `scale_trils`, as of any engine on the
                Pyro model, or as `infer.load` gives it.
            start: Whose numbering to begin with.

        Raises:
            ValueError: If the draws are no mixture's.
        """
        known = {part.name: getattr(posterior, part.name) for part in fields(Posterior)}
        found = cls(**known, start=start)
        if "label_modes" in posterior.diagnostics:
            return found
        return relabel(found, start=start)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "MixturePosterior":
        """Return what `save` wrote, but for the start.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds no posterior of a mixture.
        """
        return cls.of(infer.load(path))

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The mixture of the posterior means of weights, locs and covariances."""
        weights, locs, trils = self._flat()
        mean = weights.mean(dim=0)
        covs = (trils @ trils.mT).mean(dim=0)
        return GaussianMixture(mean / mean.sum(), locs.mean(dim=0), torch.linalg.cholesky(covs))

    @property
    def label_modes(self) -> int:
        """Between how many numberings of the components the draws switched."""
        return int(self.diagnostics["label_modes"])

    def __repr__(self) -> str:
        components, dim = self.draws["locs"].shape[2:]
        return (
            f"MixturePosterior({self.method}: {components} components in {dim} dimensions, "
            f"{self.num_chains} chains × {self.num_draws} draws, {self.label_modes} label modes; "
            f"{self.cost.cpu_seconds:.1f} CPU-s)"
        )

    def marginal(self, dims: Sequence[int]) -> "MixturePosterior":
        """Return the posterior of the mixture that x[dims] follows, numbered alike.

        It has weights, means and factors only.

        Raises:
            ValueError: If `dims` is empty, repeats itself, or is outside [0, D − 1].
        """
        dims = check_dims(dims, self.draws["locs"].shape[-1])
        draws = {
            "weights": self.draws["weights"],
            "locs": self.draws["locs"][..., dims],
            "scale_trils": triangular(self.draws["scale_trils"][..., dims, :]),
        }
        start = None if self.start is None else self.start.marginal(dims)
        return replace(self, draws=draws, log_likelihood={}, observed={}, start=start)

    def log_prob(self, x: Array, *, num_draws: int = 200) -> Tensor:
        """Return the posterior predictive log density in nats, shape (N,).

        Args:
            x: Where to evaluate, shape (N, D).
            num_draws: How many draws S to average over, evenly spaced; all where there are fewer.
        """
        parts = [found.logsumexp(dim=0) for found in self._blocks(x, num_draws)]
        count = min(num_draws, self.num_chains * self.num_draws)
        return torch.stack(parts).logsumexp(dim=0) - math.log(count)

    def log_prob_draws(self, x: Array, *, num_draws: int = 200) -> Tensor:
        """Return log p(x | θ_s) in nats of evenly spaced draws, shape (S, N)."""
        return torch.cat(list(self._blocks(x, num_draws)))

    def density(self, x: Array, *, prob: float = 0.95, num_draws: int = 1000) -> PredictiveDensity:
        """Return the posterior mean and the central interval of the density at x, shape (N, D).

        Args:
            x: Where to evaluate.
            prob: Mass of the interval, in [0, 1].
            num_draws: How many draws to take, evenly spaced; all where there are fewer.

        Raises:
            ValueError: If the mass is outside.
        """
        check_in_range("prob", prob, 0, 1)
        check_whole("num_draws", num_draws, 1)
        found, ends = [], [(1 - prob) / 2, (1 + prob) / 2]
        for points in as_points(x).split(max(1, BLOCK // num_draws)):
            values = self.log_prob_draws(points, num_draws=num_draws).exp()
            low, high = values.quantile(values.new_tensor(ends), dim=0)
            found.append((values.mean(dim=0), low, high))
        mean, low, high = (torch.cat(parts) for parts in zip(*found, strict=True))
        return PredictiveDensity(mean, low, high, prob)

    def _flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights, locs and scale_trils of all draws, shapes (C·S, …)."""
        names = "weights", "locs", "scale_trils"
        weights, locs, trils = (self.draws[name].flatten(0, 1) for name in names)
        return weights, locs, trils

    def _blocks(self, x: Array, num_draws: int) -> Iterator[Tensor]:
        """Yield log p(x | θ_s) of some draws at a time, shapes (B, N)."""
        check_whole("num_draws", num_draws, 1)
        parts = self._flat()
        x = as_points(x).to(parts[1])
        if x.shape[1] != parts[1].shape[-1]:
            raise ValueError(f"x must have {parts[1].shape[-1]} columns, got {x.shape[1]}")
        total = len(parts[0])
        chosen = torch.linspace(0, total - 1, min(num_draws, total), device=x.device).long()
        for some in chosen.split(max(1, BLOCK // len(x))):
            mixtures = MixtureOfNormals(
                *(part[some].unsqueeze(1) for part in parts), validate_args=False
            )
            yield mixtures.log_prob(x)


def joined(chains: list[Posterior], method: str) -> Posterior:
    """Return posteriors of one chain each as one posterior of them all."""
    first, costs = chains[0], [chain.cost for chain in chains]
    cost = infer.Cost(*(sum(getattr(c, name) for c in costs) for name in vars(infer.Cost())))
    parts = {
        name: {key: torch.cat([getattr(c, name)[key] for c in chains]) for key in found}
        for name in ("draws", "log_likelihood", "sample_stats")
        if (found := getattr(first, name))
    }
    return replace(first, cost=cost, method=method, **parts)


def scattered(
    start: GaussianMixture,
    num_points: int,
    num_chains: int,
    *,
    permuted: bool,
    rng: torch.Generator,
) -> list[GaussianMixture]:
    """Return a start for each chain: the means apart by two of their standard errors.

    Args:
        start: The first one's neighborhood.
        num_points: How many points N the posterior has seen, of which w_k N set a mean.
        num_chains: How many.
        permuted: Whether chain c begins its numbering at the c-th component, so that K chains
            have K numberings.
        rng: Where random numbers come from, on the CPU.
    """
    weights, locs, trils = (
        part.double() for part in (start.weights, start.locs, start.scale_trils)
    )
    errors = APART * trils / (1 + num_points * weights).sqrt()[:, None, None]
    found = []
    for chain in range(num_chains):
        order = torch.arange(len(weights), device=locs.device).roll(-chain if permuted else 0)
        noise = torch.randn(*locs.shape, 1, generator=rng, dtype=torch.float64).to(locs)
        moved = locs + (errors @ noise).squeeze(-1)
        found.append(GaussianMixture(weights[order], moved[order], trils[order]))
    return found
