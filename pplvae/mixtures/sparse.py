"""How many components, by a prior that empties those not needed.

With too many components, and weights w ~ Dirichlet(α) whose α is far below half the number of a
component's free parameters, the posterior gives the superfluous ones no points.

Reference:
    Rousseau & Mengersen (2011), https://doi.org/10.1111/j.1467-9868.2011.00781.x;
    Malsiner-Walli, Frühwirth-Schnatter & Grün (2016), https://doi.org/10.1007/s11222-014-9500-2.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pplvae import randomness
from pplvae.mixtures import em, gibbs
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.validation import Array, as_points, check_in_range, check_positive, check_whole

BLOCK = 2**22  # numbers held at once where labels are drawn


@dataclass(frozen=True, eq=False, repr=False)
class OverfittedMixture:
    """How many components hold points, a posteriori, under a prior that empties the others.

    Attributes:
        probs: p(k components hold points | x) for k = 1 … most, shape (most,).
        num_occupied: That number in each draw, shape (C, S).
        posterior: The draws, with all components; most are empty.
    """

    probs: Tensor
    num_occupied: Tensor
    posterior: MixturePosterior

    @property
    def num_components(self) -> int:
        """The most probable number."""
        return int(self.probs.argmax()) + 1

    def __repr__(self) -> str:
        chains = ", ".join(f"{mean:.1f}" for mean in self.num_occupied.double().mean(dim=1))
        return (
            f"OverfittedMixture({self.num_components} of {len(self.probs)} components hold "
            f"points, with probability {self.probs.max():.2f}; by chain {chains})"
        )


def overfitted(
    x: Array,
    most: int,
    *,
    concentration: float = 0.01,
    num_draws: int = 1000,
    warmup_steps: int = 1000,
    num_chains: int = 4,
    seed: int | None = None,
    progress: bool = True,
) -> OverfittedMixture:
    """Return how many of `most` components the data take, by Gibbs with a sparse Dirichlet prior.

    With a concentration below half the number of a component's free parameters, the posterior
    gives components beyond those needed no weight as N grows (Rousseau & Mengersen 2011); for the
    sample at hand it must be much smaller (Malsiner-Walli et al. 2016 take 0.01). Full
    covariances; the prior is `NormalInverseWishart.default` but for the concentration.

    Args:
        x: Data, shape (N, D), with N > most.
        most: Surely more components than needed.
        concentration: Of the weights' Dirichlet prior, below 1.
        num_draws: Sweeps kept in each chain.
        warmup_steps: Sweeps before them, in which components empty out.
        num_chains: Chains. Where they differ in `num_occupied`, none has seen the posterior.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are not more points than components, or an argument is impossible.
    """
    check_whole("most", most, 2)
    check_positive("concentration", concentration)
    check_in_range("concentration", concentration, 0, 1)
    x, seed = as_points(x, min_points=most + 1).double(), randomness.resolve(seed)
    prior = replace(NormalInverseWishart.default(x, most), concentration=concentration)
    posterior = gibbs.fit(
        x, most, prior=prior, start=em.init(x, most, seed=seed), num_draws=num_draws,
        warmup_steps=warmup_steps, num_chains=num_chains, pointwise=False, seed=seed,
        progress=progress,
    )  # fmt: skip
    occupied = _num_occupied(posterior, x, randomness.generator(seed, x.device))
    counts = occupied.flatten().bincount(minlength=most + 1)[1:]
    return OverfittedMixture(counts / counts.sum(), occupied, posterior)


def _num_occupied(posterior: MixturePosterior, x: Tensor, rng: torch.Generator) -> Tensor:
    """Return how many components hold points in each draw, shape (C, S): labels are drawn anew."""
    names = "weights", "locs", "scale_trils"
    parts = [posterior.draws[name].flatten(0, 1) for name in names]
    size = max(1, BLOCK // (parts[1][0].numel() * len(x)))
    found = []
    for weights, locs, trils in zip(*(part.split(size) for part in parts), strict=True):
        residuals = torch.linalg.solve_triangular(trils, x.T - locs.unsqueeze(-1), upper=False)
        heights = weights.log() - trils.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        log_odds = heights.unsqueeze(-1) - 0.5 * residuals.square().sum(dim=-2)
        gumbel = -torch.empty_like(log_odds).exponential_(generator=rng).log()
        labels = (log_odds + gumbel).argmax(dim=1)
        found.append(torch.zeros_like(weights).scatter_(1, labels, 1.0).sum(dim=1).long())
    return torch.cat(found).view(posterior.num_chains, posterior.num_draws)
