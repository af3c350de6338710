"""The exact answer, where a model is conjugate.

A model offers it by registering a function of its own arguments, which gives the posterior as
independent distributions by site and log p(x):

    @exact.solves(model)
    def solution(x, ...) -> exact.Solution: ...
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.distributions import Distribution

from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import Model, untouched
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
        model: A model for which an answer is registered with `solves`.
        data: The model's arguments.
        num_draws: How many draws S to take, in one chain.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the draws.

    Raises:
        ValueError: If no answer is registered for the model.
    """
    check_whole("num_draws", num_draws, 1)
    if not isinstance(model, Hashable) or model not in _SOLVERS:
        name = getattr(model, "__name__", repr(model))
        raise ValueError(
            f"model must have an exact answer registered with exact.solves, got {name}: "
            "use nuts.fit for draws that converge to its posterior"
        )
    meter = Meter()
    with untouched(seed) as seed, torch.no_grad():
        solution = _SOLVERS[model](*data)
        laws = solution.distributions
        draws = {name: law.sample(torch.Size([num_draws])) for name, law in laws.items()}
        log_q = [laws[name].log_prob(draws[name]).reshape(num_draws, -1).sum(1) for name in laws]
        return from_independent_draws(
            model,
            data,
            draws,
            torch.stack(log_q).sum(dim=0),
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            log_evidence=solution.log_evidence,
            method="exact",
        )
