"""A Gaussian mixture's posterior by stochastic variational inference, started at EM's optimum.

The assignments are summed out, so the guide is a normal over the weights, means and covariances in
unconstrained space. It covers one of the K! ways to number the components: its draws need no
relabeling, and its log evidence is short of the whole by about log K! where the components are
well apart.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae import infer
from pplvae.infer import svi
from pplvae.mixtures import em
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.model import model
from pplvae.validation import Array, as_points


@dataclass(frozen=True)
class SVIFit:
    """What variational inference found.

    Attributes:
        mixture: The mixture of the posterior means of weights, locs and covariances.
        posterior: Draws of `weights`, `locs`, `scales`, `correlation_trils` and `scale_trils`.
        start: The mixture that the guide started at.
    """

    mixture: GaussianMixture
    posterior: infer.Posterior
    start: GaussianMixture = field(repr=False)

    def log_prob(self, x: Array, *, num_draws: int = 200) -> Tensor:
        """Return the posterior predictive log density, in nats, shape (N,).

            log p(x* | x) ≈ log 1/S Σ_s p(x* | θ_s)

        Args:
            x: Where to evaluate, shape (N, D).
            num_draws: How many draws S to average over.
        """
        mixtures = mixtures_of(self.posterior, num_draws)
        log_probs = torch.stack([mixture.log_prob(x) for mixture in mixtures])
        return log_probs.logsumexp(dim=0) - math.log(len(mixtures))


def fit(
    x: Array,
    num_components: int,
    *,
    guide: str = "mean_field",
    num_steps: int = 1000,
    learning_rate: float = 0.02,
    num_particles: int = 1,
    num_draws: int = 1000,
    start: GaussianMixture | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> SVIFit:
    """Fit a normal guide to the posterior of a Gaussian mixture.

    Args:
        x: Data, shape (N, D).
        num_components: The number of components K.
        guide: "mean_field", "full_rank" or "low_rank".
        num_steps: Steps of Adam, each on all of the data.
        learning_rate: The first step size; it falls to 0 along a cosine.
        num_particles: Draws from the guide in each step.
        num_draws: Draws S taken from the fitted guide.
        start: Where the guide starts; EM's optimum where None.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the random draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are not more points than components, or an argument is impossible.
    """
    x = as_points(x, min_points=num_components + 1)
    if start is None:
        start = em.fit(x, num_components, seed=seed, progress=progress).mixture
    posterior = svi.fit(
        _with_components(num_components),
        x,
        guide=guide,
        num_steps=num_steps,
        learning_rate=learning_rate,
        num_particles=num_particles,
        num_draws=num_draws,
        init=sites(start),
        pointwise=pointwise,
        seed=seed,
        progress=progress,
    )
    return SVIFit(mean_mixture(posterior), posterior, start)


def sites(mixture: GaussianMixture) -> dict[str, Tensor]:
    """Return the values of the model's latent sites that make `mixture`."""
    scales = mixture.scale_trils.square().sum(dim=-1).sqrt()
    found = {"weights": mixture.weights, "locs": mixture.locs, "scales": scales}
    if mixture.dim > 1:
        found["correlation_trils"] = mixture.scale_trils / scales.unsqueeze(-1)
    return found


def mean_mixture(posterior: infer.Posterior) -> GaussianMixture:
    """Return the mixture of the posterior means of weights, locs and covariances."""
    draws = {name: value.flatten(0, 1) for name, value in posterior.draws.items()}
    covs = (draws["scale_trils"] @ draws["scale_trils"].mT).mean(dim=0)
    weights = draws["weights"].mean(dim=0)
    return GaussianMixture(
        weights / weights.sum(), draws["locs"].mean(dim=0), torch.linalg.cholesky(covs)
    )


def mixtures_of(posterior: infer.Posterior, num_draws: int) -> list[GaussianMixture]:
    """Return the mixtures of evenly spaced draws of a posterior."""
    draws = {name: value.flatten(0, 1) for name, value in posterior.draws.items()}
    total = len(draws["weights"])
    chosen = torch.linspace(0, total - 1, min(num_draws, total)).long().tolist()
    return [
        GaussianMixture(draws["weights"][s], draws["locs"][s], draws["scale_trils"][s])
        for s in chosen
    ]


def _with_components(num_components: int) -> svi.Model:
    def mixture_model(x: Tensor) -> None:
        model(x, num_components)

    return mixture_model
