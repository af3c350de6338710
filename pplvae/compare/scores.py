"""How far draws of one method lie from those of the reference, and how sure that is.

For a scalar parameter with reference mean m, standard deviation s and distribution function G, and
the method's own m', s' and F,

    error = (m' − m) / s,   sd ratio = s' / s,   Wasserstein = ∫ |F(x) − G(x)| dx / s.

Each is known only up to its Monte Carlo error, which the effective sample sizes n' and n give:
about √((s'/s)² / n' + 1 / n) for the error and √(½ / n' + ½ / n) for the log of the ratio. The
Wasserstein distance is never 0 between finite samples: of one law it is on average

    E ∫ |F̂ − Ĝ| dx / s ≈ √(2/π) ∫ √(F(1 − F) / n' + G(1 − G) / n) dx / s,

for the difference at x is nearly normal with that variance; 1.29 √(1/n' + 1/n) for a normal law.
This noise floor is given as its Monte Carlo error: a distance of about the floor says nothing,
and for a normal law one of 2.5 floors has a chance of 1 in 1000 (simulated). With correlated draws
the floor is some 30 % too high, for the effective sample size is the least over the distribution.

Reference:
    del Barrio, Giné & Matrán (1999), Central limit theorems for the Wasserstein distance between
    the empirical and the true distributions, https://doi.org/10.1214/aop/1022677394
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pplvae.infer import Posterior
from pplvae.infer.evaluation import evaluate
from pplvae.infer.inference_data import diagnose, pareto_k, scalars
from pplvae.infer.program import Draws, inspect, num_draws, untouched
from pplvae.validation import as_tensor

Scores: TypeAlias = dict[str, dict[str, float]]

MOST_PREDICTIVE_DRAWS = 1000


def arrays(posterior: Posterior, method: str) -> dict[str, np.ndarray]:
    """Return each scalar parameter's draws, shape (C, S).

    Raises:
        ValueError: If they have nan or inf.
    """
    tensors = {n: as_tensor(v, name=f"{n} of {method}") for n, v in posterior.draws.items()}
    return scalars({n: v.detach().cpu().double().numpy() for n, v in tensors.items()})


def described(draws: np.ndarray, most: float = math.inf) -> dict[str, float]:
    """Return mean, sd, ESS (the least of bulk, tail and `most`) and R-hat of draws (C, S)."""
    found = diagnose(draws)
    return {
        "mean": float(draws.mean()),
        "sd": float(draws.std(ddof=1)),
        "ess": min(found["ess_bulk"], found["ess_tail"], most),
        "r_hat": found["r_hat"],
    }


def score(
    draws: np.ndarray, truth: np.ndarray, standard: dict[str, float], most: float = math.inf
) -> dict[str, float]:
    """Return the scores of one parameter.

    Args:
        draws: The method's, shape (C, S).
        truth: The reference's, shape (C', S').
        standard: What `described` says of the reference's.
        most: What the effective sample size cannot exceed: resampled draws repeat.
    """
    found = described(draws, most)
    scale, ratio = standard["sd"], found["sd"] / standard["sd"]
    distance, floor = wasserstein(draws, truth, (found["ess"], standard["ess"]))
    return {
        "mean": found["mean"],
        "sd": found["sd"],
        "error": (found["mean"] - standard["mean"]) / scale,
        "error_mc": float(np.sqrt(ratio**2 / found["ess"] + 1 / standard["ess"])),
        "sd_ratio": ratio,
        "sd_ratio_mc": float(ratio * np.sqrt(0.5 / found["ess"] + 0.5 / standard["ess"])),
        "wasserstein": distance / scale,
        "wasserstein_mc": floor / scale,
        "ess": found["ess"],
        "r_hat": found["r_hat"],
    }


def wasserstein(
    draws: np.ndarray, truth: np.ndarray, sizes: tuple[float, float]
) -> tuple[float, float]:
    """Return the Wasserstein-1 distance of two samples, and what chance alone makes of it.

    Args:
        draws: One sample, any shape.
        truth: The other.
        sizes: Their effective sample sizes n' and n.

    Returns:
        ∫ |F̂ − Ĝ| dx and its noise floor (see the module), in the samples' units.
    """
    ours, theirs = np.sort(draws, axis=None), np.sort(truth, axis=None)
    grid = np.sort(np.concatenate([ours, theirs]))
    f, g = (np.searchsorted(one, grid[:-1], "right") / len(one) for one in (ours, theirs))
    noise = np.sqrt(f * (1 - f) / sizes[0] + g * (1 - g) / sizes[1])
    steps = np.diff(grid)
    return float(np.abs(f - g) @ steps), float(math.sqrt(2 / math.pi) * noise @ steps)


def restarts_r_hat(restarts: Sequence[dict[str, np.ndarray]], name: str) -> float:
    """Return R-hat of one parameter with each restart as a chain; nan for a single one.

    Equal restarts hardly ever go beyond 1.05. Of M restarts, split in halves of n effective draws,

        R-hat ≈ 1 + (χ² / (2M − 1) − 1) / 2n   with χ² of 2M − 1 degrees of freedom,

    so that M = 2 with 400 effective draws each goes beyond 1.05 where χ²₃ > 63, with a chance of
    1e-13; with 40 draws, where χ²₃ > 9, of 3 % (5 % simulated, for R-hat is the larger of two:
    of the ranks and of their distances from the median). Two normal restarts of one width go
    beyond it where they lie 0.56 sds apart or more.
    """
    if len(restarts) == 1:
        return math.nan
    flat = [restart[name].reshape(-1) for restart in restarts]
    length = min(map(len, flat))
    return diagnose(np.stack([draws[:length] for draws in flat]))["r_hat"]


def evidence_range(restarts: Sequence[Posterior]) -> float:
    """Return how far apart the log evidences of restarts are, in nats; nan without two."""
    known = [p.log_evidence for p in restarts if p.log_evidence is not None]
    return max(known) - min(known) if len(known) > 1 else math.nan


def most_effective(posterior: Posterior) -> float:
    """Return the most independent draws that a posterior can have: those that it was made of."""
    return posterior.diagnostics.get("importance_ess", math.inf)


def tail_index(posterior: Posterior) -> float:
    """Return k-hat of a posterior's weights; −inf where they are all equal, nan without any."""
    if "pareto_k" in posterior.diagnostics:
        return posterior.diagnostics["pareto_k"]
    weights = posterior.sample_stats.get("log_weight")
    if weights is None or posterior.is_point:
        return math.nan
    return pareto_k(weights.detach().cpu().numpy())


def log_predictive(posterior: Posterior, held_out: tuple[Any, ...]) -> Tensor | None:
    """Return the predictive log density of each held-out point, in nats, shape (N,).

        log 1/S Σ_s p(x*_n | θ_s)

    Args:
        posterior: Whose draws to average over, some 1000 of them.
        held_out: The model and its arguments, with the points held out.

    Returns:
        The densities; None for a point estimate that has not all of the latent sites.

    Raises:
        ValueError: If the model's latent sites are not those of the draws.
    """
    model, *data = held_out
    with untouched(0):
        latent = inspect(model, *data).latent
        if posterior.is_point and not latent.keys() <= posterior.draws.keys():
            return None
        chosen = {name: _thinned(posterior, name, shape) for name, shape in latent.items()}
        found = evaluate(model, tuple(data), chosen).log_likelihood
    size = num_draws(chosen)
    terms = torch.cat([value.reshape(size, -1) for value in found.values()], dim=1)
    return terms.double().logsumexp(dim=0).cpu() - math.log(size)


def averaged(values: Tensor | None) -> tuple[float, float]:
    """Return the mean of independent values, shape (N,), and its standard error; nan of none."""
    if values is None:
        return math.nan, math.nan
    spread = values.std().item() if len(values) > 1 else math.nan
    return values.mean().item(), spread / math.sqrt(len(values))


def _thinned(posterior: Posterior, name: str, shape: torch.Size) -> Tensor:
    draws: Draws = posterior.draws
    if name not in draws or draws[name].shape[2:] != shape:
        got = tuple(draws[name].shape[2:]) if name in draws else "no such site"
        raise ValueError(
            f"held_out must be a model with the posterior's latent sites, got {name} of shape "
            f"{tuple(shape)} against {got} in the draws"
        )
    flat = draws[name].flatten(0, 1)
    keep = torch.linspace(0, len(flat) - 1, min(len(flat), MOST_PREDICTIVE_DRAWS)).long()
    return flat[keep]
