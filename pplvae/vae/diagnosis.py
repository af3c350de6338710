"""What is wrong with a trained VAE, in plain words.

Four things go wrong without an error: the code says nothing of x (posterior collapse); the guide
is far from p(z | x), so that the ELBO is far from log p(x); the encoder gives points a worse guide
than its family could; and the weights that are to correct for this have too heavy a tail.

Reference:
    Burda et al. (2016), https://arxiv.org/abs/1509.00519 (active units); Cremer et al. (2018),
    https://arxiv.org/abs/1801.03558 (amortization); Yao et al. (2018),
    https://arxiv.org/abs/1802.02538 (k-hat of a guide)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae import randomness
from pplvae.networks import evaluating
from pplvae.vae import bounds
from pplvae.vae.amortization import AmortizationGap, amortization_gap
from pplvae.vae.bounds import Elbo, LogLikelihood, Terms
from pplvae.vae.model import VAE
from pplvae.vae.weights import LARGEST_K
from pplvae.validation import Array, check_whole

LEAST_KL = 0.01  # nats; a latent dimension with less says nothing
LEAST_ACTIVE = 0.25  # share of latent dimensions; some to spare are no failure
MOST_UNRELIABLE = 0.05  # share of points with a large k-hat
MOST_GAP = 0.25  # of the KL, or of a nat where that is less: log p(x) − ELBO
MOST_AMORTIZATION = 0.1  # of the same: what the encoder gives away


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """How a VAE does on N points, and what is wrong with it.

    Attributes:
        log_likelihood: log p(x) by draws from the guide, with k-hat of each point.
        elbo: The bound.
        amortization: What a guide made for each point would gain.
        terms: The parts of the bound, and the latent dimensions in use.
        rows: Row numbers in x of the N points, shape (N,).
        worst: Row numbers in x of the points that are explained worst, the worst first.
    """

    log_likelihood: LogLikelihood
    elbo: Elbo
    amortization: AmortizationGap
    terms: Terms
    rows: Tensor
    worst: Tensor

    @property
    def pareto_k(self) -> Tensor:
        """The k-hat of each point, shape (N,)."""
        return self.log_likelihood.pareto_k

    @property
    def gap(self) -> Tensor:
        """The estimate of log p(x) less the ELBO of each point, in nats, shape (N,)."""
        return self.log_likelihood.per_point - self.elbo.per_point

    @property
    def collapsed(self) -> Tensor:
        """The numbers of the latent dimensions that are inactive or have a KL below 0.01 nats."""
        unused = ~self.terms.active | (self.terms.kl_per_dimension < LEAST_KL)
        return unused.nonzero()[:, 0]

    def failures(self) -> list[str]:
        """Return what is wrong and what to try; nothing where all is well."""
        found = [self._not_finite(), self._collapse(), self._far(), self._slack(), self._tails()]
        return [said for said in found if said]

    def __repr__(self) -> str:
        lines = [f"Diagnosis of {len(self.rows)} points, in nats per point"]
        lines += [f"  {name:<21}{said}" for name, said in self._table().items()]
        lines += [f"  {'failure':<21}{said}" for said in self.failures()] or ["  no failures"]
        return "\n".join(lines)

    def _table(self) -> dict[str, str]:
        judged, terms = self.log_likelihood, self.terms
        of = f"unused of {len(terms.active)}"
        return {
            "log p(x)": f"{judged.value:.2f} ± {judged.standard_error:.2g}",
            "ELBO": f"{self.elbo.value:.2f}, below by {self.gap.mean():.2g}",
            "amortization gap": f"{self.amortization.value:.2g} ± "
            f"{self.amortization.standard_error:.1g}",
            "k-hat above 0.7": f"{judged.unreliable:.1%} of the points",
            "KL": f"{terms.kl:.2f}, of it mutual information {terms.mutual_information:.2f}",
            "latent dimensions": f"{terms.num_active} active, {len(self.collapsed)} {of}",
            "worst rows": ", ".join(str(row) for row in self.worst[:5].tolist()),
        }

    def _not_finite(self) -> str:
        bad = int((~self.log_likelihood.per_point.isfinite()).sum())
        return f"log p(x) is infinite or nan for {bad} of {len(self.rows)} points" if bad else ""

    def _collapse(self) -> str:
        size, unused = len(self.terms.active), len(self.collapsed)
        if size - unused >= LEAST_ACTIVE * size:
            return ""
        return (
            f"posterior collapse: {unused} of {size} latent dimensions say nothing of x; warm the "
            "KL weight up, or give free bits"
        )

    def _far(self) -> str:
        if not self.gap.mean() > MOST_GAP * self._unit():
            return ""
        return (
            f"the ELBO is {self.gap.mean():.2g} nats below log p(x): the guide is far from "
            "p(z | x); try a richer posterior, or train on the IWAE"
        )

    def _slack(self) -> str:
        value, error = self.amortization.value, self.amortization.standard_error
        if not (value > MOST_AMORTIZATION * self._unit() and not value < 2 * error):
            return ""
        return (
            f"the encoder gives away {value:.2g} nats of what a guide could reach for each point "
            "alone: train longer, or give it a larger network"
        )

    def _tails(self) -> str:
        share = self.log_likelihood.unreliable
        if not share > MOST_UNRELIABLE:
            return ""
        return (
            f"k-hat is above {LARGEST_K} for {share:.0%} of the points: log p(x) of these is "
            "not to be believed; take more draws, or proposal='ais'"
        )

    def _unit(self) -> float:
        """Return what gaps are measured by: the price of the code, or a nat where that is less."""
        return max(1.0, self.terms.kl)


def diagnose(
    vae: VAE,
    x: Array,
    *,
    num_samples: int = 1000,
    num_points: int = 500,
    num_steps: int = 200,
    num_worst: int = 10,
    seed: int | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Return what is wrong with a VAE on points, best ones that it was not trained on.

    Args:
        vae: The VAE.
        x: Points, shape (N, D).
        num_samples: Draws of z for log p(x) of each point.
        num_points: Points looked at, taken at random where there are more.
        num_steps: Steps of the guide made for each point; see `amortization_gap`.
        num_worst: How many of the worst points to name.
        seed: Start of the draws.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If a number is impossible, or the likelihood cannot have produced `x`.
    """
    for name, number in [
        ("num_samples", num_samples), ("num_points", num_points), ("num_worst", num_worst),
    ]:  # fmt: skip
        check_whole(name, number, 1)
    x = vae.points(x)
    vae.likelihood.check(x)
    with evaluating(vae), randomness.scope(seed) as seed:
        rows = torch.randperm(len(x), device=x.device)[:num_points].sort().values
        # One draw of what is binarized for all: drawn again, zeros and ones stay as they are.
        x = vae.likelihood.prepare(x[rows])
    judged = bounds.log_likelihood(vae, x, num_samples=num_samples, seed=seed, progress=progress)
    order = judged.per_point.nan_to_num(nan=-math.inf).argsort()
    return Diagnosis(
        log_likelihood=judged,
        elbo=bounds.elbo(vae, x, num_samples=min(num_samples, 100), seed=seed),
        amortization=amortization_gap(vae, x, num_steps=num_steps, seed=seed, progress=progress),
        terms=bounds.terms(vae, x, seed=seed, progress=progress),
        rows=rows,
        worst=rows[order[:num_worst]],
    )
