"""log p(x) of a VAE, by weighted draws of the latent variables.

    p(x) = E_{z ~ r} w(z),   w = p(x, z) / r(z | x),   log p(x) ≈ log 1/S Σ_s w(z_s)

The proposal r is the guide, the prior, or the path between the prior and p(z | x) that annealed
importance sampling takes. The mean of w is p(x) for each; how many draws that takes is another
matter, of which the weights tell (`weights`).

Reference:
    Rezende, Mohamed & Wierstra (2014), https://arxiv.org/abs/1401.4082; Burda et al. (2016),
    https://arxiv.org/abs/1509.00519; Lecture 5 (28/10/2024), for the prior
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.networks import evaluating
from pplvae.vae import particles
from pplvae.vae.annealing import Annealing, draw_prior
from pplvae.vae.information import MEMORY, standard_error, widest
from pplvae.vae.model import VAE
from pplvae.vae.weights import LARGEST_K, Weighed, weigh
from pplvae.validation import Array, check_one_of, check_whole

Proposal = Callable[[VAE, Tensor, int], Tensor]


@dataclass(frozen=True, repr=False)
class LogLikelihood:
    """log p(x) of N points, estimated by weighted draws of z.

    Its expectation is a lower bound; it is short of log p(x) by about half of
    `monte_carlo_error`², where k-hat lets one believe that error.

    Attributes:
        value: The mean of log p(x), in nats per point.
        standard_error: Of that mean over the points and the draws, in nats per point.
        bits_per_dimension: −value / (D log 2); nan where x is not discrete.
        num_samples: Weights S for each point.
        per_point: log p(x), in nats, shape (N,).
        monte_carlo_error: The standard error of each by the delta method, in nats, shape (N,).
        effective_sample_size: (Σ w)² / Σ w² of each, shape (N,), at most S.
        pareto_k: k-hat of each point's weights, shape (N,): the estimate is not to be believed
            above 0.7; −inf where all weights are equal, as for a guide that is the posterior; nan
            for fewer than 30 draws.
    """

    value: float
    standard_error: float
    bits_per_dimension: float
    num_samples: int
    per_point: Tensor
    monte_carlo_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor

    @property
    def unreliable(self) -> float:
        """The share of points whose k-hat is above 0.7, of those that have one; nan for none."""
        known = self.pareto_k[~self.pareto_k.isnan()]
        return (known > LARGEST_K).double().mean().item() if len(known) else math.nan

    def __repr__(self) -> str:
        said = f"{self.value:.6g} ± {self.standard_error:.2g} nats per point"
        if not math.isnan(self.bits_per_dimension):
            said += f", {self.bits_per_dimension:.4g} bits per dimension"
        said += f"; {len(self.per_point)} points, {self.num_samples} draws each"
        if not math.isnan(self.unreliable):
            said += f", k-hat above {LARGEST_K} for {self.unreliable:.1%}"
        return f"LogLikelihood({said})"


@torch.no_grad()
def log_likelihood(
    vae: VAE,
    x: Array,
    *,
    num_samples: int | None = None,
    proposal: str | Proposal = "guide",
    batch_size: int = 500,
    memory: int = MEMORY,
    seed: int | None = None,
    progress: bool = True,
) -> LogLikelihood:
    """Return log p(x) of each point, the logarithm of the mean of S weights.

    Proposals: "guide" draws from q(z | x). "prior" is the lecture's Monte Carlo,
    p(x) = E_{p(z)} p(x | z), there to show why it fails: nearly no draw of z from the prior makes
    this x, so one weight is nearly all of their sum, the estimate is far too low, and k-hat and
    the effective sample size say so. "ais" is annealed importance sampling, which needs no guide
    and much time; an `annealing.Annealing` sets its pace. Or a function of the VAE, prepared
    points (B, D) and a number S that returns log weights (S, B).

    A seed gives the same numbers for the same `batch_size` and `memory`; for others the draws
    differ, and the estimates by as much as their errors say.

    Args:
        vae: The VAE.
        x: Points, shape (N, D).
        num_samples: Weights S for each point; by default 1000, with AIS 16 chains.
        proposal: Where z is drawn.
        batch_size: Points whose weights are held at once, at most.
        memory: Numbers that the widest layer gives at once, at most, where one draw of z for one
            point needs not more.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a number is not a positive whole one, the proposal is unknown, or the
            likelihood cannot have produced `x`.
    """
    law = _as_proposal(proposal)
    if num_samples is None:
        num_samples = 16 if isinstance(law, Annealing) else 1000
    check_whole("memory", memory, 1)
    x = checked(vae, x, num_samples=num_samples, batch_size=batch_size)
    batches = x.split(min(batch_size, max(1, memory // num_samples)))
    most = max(1, memory // widest(vae, x))
    with evaluating(vae), randomness.scope(seed):
        bar = tqdm(batches, desc="log p(x)", unit="batch", disable=not progress, delay=3)
        parts = [weigh(_log_weight(law, vae, batch, num_samples, most)) for batch in bar]
    return _log_likelihood(vae, x, parts, num_samples)


def checked(vae: VAE, x: Array, **counts: int) -> Tensor:
    """Return the points as the VAE's networks take them, or refuse them or a count below 1."""
    for name, count in counts.items():
        check_whole(name, count, 1)
    x = vae.points(x)
    vae.likelihood.check(x)
    return x


def bits_per_dimension(vae: VAE, x: Tensor, log_p: Tensor) -> float:
    """Return bits per dimension of discrete points, nan for a density."""
    if not vae.likelihood.discrete:
        return math.nan
    return -log_p.mean().item() / (x.shape[1] * math.log(2))


def _from_guide(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    return particles.draw(vae, x, num_samples).log_weight


def _from_prior(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    return draw_prior(vae, x, num_samples)[1]


PROPOSALS: dict[str, Proposal] = {
    "guide": _from_guide,
    "prior": _from_prior,
    "ais": Annealing(),
}


def _as_proposal(proposal: str | Proposal) -> Proposal:
    if callable(proposal):
        return proposal
    check_one_of("proposal", proposal, PROPOSALS)
    return PROPOSALS[proposal]


def _log_weight(law: Proposal, vae: VAE, x: Tensor, num_samples: int, most: int) -> Tensor:
    """Return log weights, shape (S, B), from at most so many draws at once."""
    size = max(1, most // num_samples)
    steps = [min(most, num_samples - done) for done in range(0, num_samples, most)]
    return torch.cat(
        [
            torch.cat([law(vae, block, step) for step in steps])
            for block in vae.likelihood.prepare(x).split(size)
        ],
        dim=1,
    )


def _log_likelihood(vae: VAE, x: Tensor, parts: list[Weighed], num_samples: int) -> LogLikelihood:
    log_mean = torch.cat([part.log_mean for part in parts])
    return LogLikelihood(
        value=log_mean.mean().item(),
        standard_error=standard_error(log_mean),
        bits_per_dimension=bits_per_dimension(vae, x, log_mean),
        num_samples=num_samples,
        per_point=log_mean,
        monte_carlo_error=torch.cat([part.error for part in parts]),
        effective_sample_size=torch.cat([part.effective_sample_size for part in parts]),
        pareto_k=torch.cat([part.pareto_k for part in parts]),
    )
