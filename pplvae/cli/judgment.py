"""What `pplvae vae evaluate` says of a VAE."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pplvae.data import Dataset
from pplvae.randomness import generator
from pplvae.vae import VAE, bounds
from pplvae.vae.bounds import Elbo, LogLikelihood, Terms
from pplvae.validation import as_vector, check_whole


@dataclass(frozen=True)
class Judgment:
    """How well a VAE explains N points.

    Attributes:
        name: What the data are called.
        elbo: The bound.
        log_likelihood: log p(x), with what its weights say of it.
        terms: The parts of the bound.
        proposal: Where the weights come from.
    """

    name: str
    elbo: Elbo
    log_likelihood: LogLikelihood
    terms: Terms
    proposal: str

    def numbers(self) -> dict[str, object]:
        """Return the numbers by name, in nats per point; None for what is not known."""
        found = self.log_likelihood
        ess = found.effective_sample_size
        said = {
            "data": self.name,
            "num_points": len(found.per_point),
            "elbo": self.elbo.value,
            "elbo_standard_error": self.elbo.standard_error,
            "reconstruction": self.elbo.reconstruction,
            "kl": self.elbo.kl,
            "log_likelihood": found.value,
            "log_likelihood_standard_error": found.standard_error,
            "proposal": self.proposal,
            "num_samples": found.num_samples,
            "bits_per_dimension": found.bits_per_dimension,
            "effective_sample_size_median": ess.median().item(),
            "effective_sample_size_least": ess.min().item(),
            "k_hat_above_0.7": found.unreliable,
            "mutual_information": self.terms.mutual_information,
            "kl_per_dimension": self.terms.kl_per_dimension.tolist(),
            "active_units": self.terms.num_active,
        }
        return {name: known(value) for name, value in said.items()}

    def json(self) -> str:
        """Return the numbers as JSON."""
        return json.dumps(self.numbers(), indent=2, allow_nan=False) + "\n"

    def __str__(self) -> str:
        found, ess = self.log_likelihood, self.log_likelihood.effective_sample_size
        latent_dim = len(self.terms.active)
        return "\n".join(
            f"{what:<22}{said}"
            for what, said in {
                self.name: f"{len(found.per_point)} points; all that follows in nats per point",
                "ELBO": f"{self.elbo.value:.2f} ± {self.elbo.standard_error:.2f}",
                "  reconstruction": f"{self.elbo.reconstruction:.2f}",
                "  KL(q ‖ p)": f"{self.elbo.kl:.2f}, of it mutual information "
                f"{self.terms.mutual_information:.2f}",
                "log p(x)": f"{found.value:.2f} ± {found.standard_error:.2f}{self._bits()}",
                "  weights": f"{found.num_samples} for each point, by the {self.proposal}",
                "  effective": f"{ess.median():.1f} in the median, {ess.min():.1f} at least",
                "  k-hat above 0.7": f"{found.unreliable:.1%} of the points",
                "KL per dimension": self._by_dimension(),
                "active units": f"{self.terms.num_active} of {latent_dim}",
            }.items()
        )

    def _bits(self) -> str:
        bits = self.log_likelihood.bits_per_dimension
        return "" if math.isnan(bits) else f", {bits:.4f} bits per dimension"

    def _by_dimension(self) -> str:
        if self.terms.kl_per_dimension.isnan().all():
            return "none: prior or guide do not factor"
        ordered = self.terms.kl_per_dimension.sort(descending=True).values.tolist()
        return " ".join(f"{value:.2f}" for value in ordered) + ", largest first"


def judge(
    vae: VAE, dataset: Dataset, *, proposal: str, num_samples: int | None, seed: int,
    progress: bool,
) -> Judgment:  # fmt: skip
    """Return how well a VAE explains data in the range that it models."""
    shared = {"seed": seed, "progress": progress}
    found = bounds.log_likelihood(
        vae, dataset.x, proposal=proposal, num_samples=num_samples, **shared
    )
    terms = bounds.terms(vae, dataset.x, **shared)
    elbo = bounds.elbo(vae, dataset.x, seed=seed)
    return Judgment(dataset.name, elbo, found, terms, proposal)


def chosen(dataset: Dataset, rows: Path | None, num_points: int | None, seed: int) -> Dataset:
    """Return the points to judge: of a file of row numbers, and of these so many at random.

    Raises:
        ValueError: If there are no such rows, or not so many.
    """
    if rows is not None:
        numbers = as_vector(np.load(rows), name="rows")
        if numbers.min() < 0 or numbers.max() >= len(dataset):
            last = len(dataset) - 1
            raise ValueError(f"rows must be in [0, {last}], got {numbers.max().item():g}")
        dataset = dataset.subset(numbers.long())
    if num_points is None:
        return dataset
    check_whole("num_points", num_points, 1, len(dataset), context=f"for {len(dataset)} points")
    return dataset.subset(torch.randperm(len(dataset), generator=generator(seed))[:num_points])


def known(value: object) -> object:
    """Return a number, or None where it is not one; the same of a list."""
    if isinstance(value, list):
        return [known(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
