"""The exact answer, where a model is conjugate.

A model offers it by registering a function of its own arguments, which gives the posterior as
independent distributions by site and log p(x):

    @exact.solves(model)
    def solution(x, ...) -> exact.Solution: ...

A linear-Gaussian model need not: see `infer.gaussian`.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from pplvae.infer import gaussian
from pplvae.infer.evaluation import log_evidence_of_discrete
from pplvae.infer.gaussian import Gaussian
from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import Draws, Model, untouched
from pplvae.validation import check_whole


@dataclass(frozen=True)
class Solution:
    """A posterior in closed form.

    Attributes:
        distributions: The posterior of each latent site, independent of the others.
        log_evidence: log p(x) in nats.
    """

    distributions: dict[str, Distribution]
    log_evidence: float

    def draw(self, num_draws: int) -> tuple[Draws, Tensor]:
        """Return draws by site, shapes (S, …), and their log density, shape (S,)."""
        laws = self.distributions
        draws = {name: law.sample(torch.Size([num_draws])) for name, law in laws.items()}
        log_q = [laws[name].log_prob(draws[name]).reshape(num_draws, -1).sum(1) for name in laws]
        return draws, torch.stack(log_q).sum(dim=0)


Solver = TypeVar("Solver", bound=Callable[..., Solution])

_SOLVERS: dict[Model, Callable[..., Solution]] = {}


def solves(model: Model) -> Callable[[Solver], Solver]:
    """Register the decorated function as the exact answer to `model`."""

    def register(solver: Solver) -> Solver:
        _SOLVERS[model] = solver
        return solver

    return register


def fit(
    model: Model,
    *data: Any,
    num_draws: int = 4000,
    pointwise: bool = True,
    seed: int | None = None,
) -> Posterior:
    """Return independent draws from the exact posterior of a conjugate model.

    Args:
        model: A model for which an answer is registered with `solves`, or a linear-Gaussian one.
        data: The model's arguments.
        num_draws: How many draws S to take, in one chain.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the draws.

    Raises:
        ValueError: If no answer is registered for the model, and it is not linear-Gaussian.
    """
    check_whole("num_draws", num_draws, 1)
    meter = Meter()
    with untouched(seed) as seed:
        solution = _solve(model, data)
        if solution is None:
            name = getattr(model, "__name__", repr(model))
            raise ValueError(
                "model must have an exact answer registered with exact.solves, or be "
                f"linear-Gaussian, got {name}: use nuts.fit for draws that converge to it"
            )
        draws, log_q = solution.draw(num_draws)
        found = from_independent_draws(
            model,
            data,
            draws,
            log_q,
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            log_evidence=solution.log_evidence,
            method="exact",
        )
    _check_exact(found.sample_stats["log_weight"].flatten(), solution.log_evidence, model)
    return found


def _check_exact(log_weight: Tensor, log_evidence: float, model: Model) -> None:
    """Refuse an answer whose p(x, θ) / q(θ) is not the evidence at each of its draws."""
    off = (log_weight - log_evidence).abs().max().item()
    if not off <= gaussian.rounding(log_weight):
        raise ValueError(
            f"the exact answer registered for {getattr(model, '__name__', model)!r} must be its "
            f"posterior and evidence, got log p(x, θ) − log q(θ) up to {off:.3g} nats away from it"
        )


def log_evidence(model: Model, *data: Any) -> float | None:
    """Return log p(x) in nats where it is known exactly, None where it is not.

    That is where `fit` has an answer, and for models whose latent sites can all be summed out.
    """
    with untouched(0):
        summed = log_evidence_of_discrete(model, data)
        if summed is not None:
            return summed
        solution = _solve(model, data)
    return None if solution is None else solution.log_evidence


def _solve(model: Model, data: tuple[Any, ...]) -> Solution | Gaussian | None:
    if isinstance(model, Hashable) and model in _SOLVERS:
        with torch.no_grad():
            return _SOLVERS[model](*data)
    return gaussian.solve(model, data)
