"""Expectation-maximization: climb log p(x, θ) where some latent z makes it hard to climb.

Whatever the law q(z | x), with q(x) the data (CS480 lecture 17),

    KL(q(x, z) ‖ p(x, z | θ)) = KL(q(x) ‖ p(x | θ)) + E_q(x) KL(q(z | x) ‖ p(z | x, θ)).

The first term on the right is what we want small. EM makes the left side small in two turns:

    E-step: q(z | x) = p(z | x, θ), which takes the last term to 0;
    M-step: θ = argmax E_q log p(x, z | θ), a maximum likelihood as if z had been seen.

The left side falls in the M-step and the last term cannot be negative, so no step loses
likelihood. With draws from p(z | x, θ) in place of the E-step's expectation this is Monte Carlo
EM: it ends near the maximum, and a step can lose by chance. With a prior on θ all of it holds of
log p(x, θ). We differ from the lecture in a sign: its Monte Carlo form of the left side is
−1/n Σ_i E_q [log q(z | x_i) − log p(x_i, z)], but the KL divergence is E_q [log q − log p]: the
minus in front has to go, or minimizing over θ would make the data unlikely.

Reference:
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm;
    Csiszár & Tusnády (1984), Information geometry and alternating minimization procedures;
    Wei & Tanner (1990), A Monte Carlo implementation of the EM algorithm,
    https://doi.org/10.1080/01621459.1990.10474930
"""

import math
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import pyro
import torch
from torch import Tensor

from pplvae.infer.decomposition import (
    Decomposition,
    decomposition,
    decomposition_of_draws,
)
from pplvae.infer.evaluation import Evaluation, evaluate
from pplvae.infer.expectation import Found, Labels, Sampled, Space
from pplvae.infer.mode import descend
from pplvae.infer.posterior import Meter, Posterior, provenance
from pplvae.infer.program import Draws, Model, Program, inspect, untouched
from pplvae.infer.unconstrained import Potential
from pplvae.validation import check_in_range, check_whole

__all__ = [
    "Climb",
    "Decomposition",
    "Restart",
    "climb",
    "decomposition",
    "decomposition_of_draws",
    "fit",
]

P = TypeVar("P")
Q = TypeVar("Q")

SAMPLES = 1000  # in a sampled E-step, where nothing else is asked for
MOST_CURVED = 300  # numbers in θ up to which the curvature at the end is looked at
FEW, MANY = 10, 100  # L-BFGS steps of an M-step; with nothing to integrate it is all there is


@dataclass(frozen=True)
class Climb(Generic[P, Q]):
    """Where alternating the two steps led.

    Attributes:
        parameters: The θ it ended at.
        expectations: What the E-step says of z at that θ.
        objectives: log p(x, θ) in nats at the start and after each step taken. They begin anew
            where a start did.
        converged: Whether the next step would change it by less than the least gain.
    """

    parameters: P
    expectations: Q
    objectives: list[float]
    converged: bool


@dataclass(frozen=True)
class Restart(Generic[P]):
    """An M-step's word that θ is a new start, not to be held against what came before."""

    parameters: P


def climb(
    e_step: Callable[[P], tuple[Q, Tensor | float]],
    m_step: Callable[[Q], P | Restart[P] | None],
    start: P,
    *,
    max_steps: int,
    least_gain: float,
    strict: bool = True,
    on_step: Callable[[], Any] | None = None,
) -> Climb[P, Q]:
    """Return where EM leads from `start`; one E-step for each M-step, and one for the start.

    Args:
        e_step: Takes θ, gives the q(z | x) that the M-step wants and log p(x, θ) in nats.
        m_step: Takes that q, gives the next θ; a `Restart` where this begins anew; None where
            there is none, which ends the climb.
        start: The first θ.
        max_steps: Most M-steps.
        least_gain: Converged when a step gains less than this, in nats; where not strict, when it
            changes the objective by less.
        strict: Whether a step that loses is not taken and ends the climb. A sampled E-step knows
            the objective up to its noise only: then a loss says little.
        on_step: Called after each step.

    Raises:
        FloatingPointError: If the objective is nan.
    """
    parameters, (expectations, value) = start, e_step(start)
    objectives, converged = [_known(value)], False
    for _ in range(max_steps):
        proposal = m_step(expectations)
        if proposal is None:
            break
        if isinstance(proposal, Restart):
            objectives, proposal = [], cast("P", proposal.parameters)
        found, value = e_step(proposal)
        if on_step:
            on_step()
        gain = _known(value) - objectives[-1] if objectives else math.inf
        if gain >= 0 or not strict:
            parameters, expectations = proposal, found
            objectives.append(float(value))
        if (gain if strict else abs(gain)) < least_gain:
            converged = True
            break
    return Climb(parameters, expectations, objectives, converged)


def fit(
    model: Model,
    *data: Any,
    integrate: Collection[str] = (),
    num_samples: int | None = None,
    max_steps: int = 1000,
    tolerance: float = 1e-8,
    init: dict[str, Any] | None = None,
    pointwise: bool = True,
    seed: int | None = None,
) -> Posterior:
    """Return the θ that maximizes log p(x, θ) with z summed out: one draw, without spread.

    z are the discrete sites and those that `integrate` names, θ all others. The maximum is that of
    θ's own density, without the Jacobian of unconstrained space: the posterior mode, under flat
    priors the most likely θ. It is a local one, that of the start: give a good one. The M-step is
    a few steps of L-BFGS; they gain, and EM needs no more to never lose.

    Where z is discrete the E-step is exact; with `num_samples` it draws labels from p(z | x, θ)
    instead. Where `integrate` names sites it draws these from the Laplace approximation of
    p(z | x, θ), with importance weights, and discrete sites stay summed out. The random numbers
    stay the same from step to step, so that the climb is steady. Where there is no z at all, the
    M-step alone finds the mode: plain MAP.

    Args:
        model: A Pyro model.
        data: Its arguments.
        integrate: Continuous latent sites to integrate out.
        num_samples: Draws in each E-step, for `integrate` in pairs; 1000 there if not given.
        max_steps: Most EM steps.
        tolerance: Converged when a step gains less than this, in nats over all data.
        init: Where sites start, in their own space; at random where not given.
        pointwise: Whether to keep the log-likelihoods of the points.
        seed: Start of the draws.

    Returns:
        The posterior: θ, `trace` −log p(x, θ) before the first step and after each,
        `diagnostics` whether it converged, and to no saddle. With `integrate` log p(x, θ) is an
        estimate, `importance_ess` the effective size of the last E-step's sample; deterministic
        sites that z moves are left out, and so are log-likelihoods, as the points share a z.

    Raises:
        ValueError: If `integrate` names what is no continuous latent site or leaves no θ, if
            `num_samples` is given with no z, or if p(z | x, θ) has no strict mode.
    """
    check_whole("max_steps", max_steps, 1)
    check_in_range("tolerance", tolerance, 0)
    meter = Meter()
    with untouched(seed) as seed:
        program, potential = inspect(model, *data), Potential(model, data, init)
        _check_missing(program, integrate, num_samples)
        theta = Space(potential, [name for name in program.latent if name not in integrate])
        missing = [name for name in program.latent if name in integrate]
        if missing:
            z = Space(potential, missing)
            steps = Sampled(model, data, theta, z, num_samples=num_samples or SAMPLES)
        else:
            steps = Labels(model, data, theta, num_samples)
        most = FEW if missing or program.enumerated else MANY
        with pyro.validation_enabled(False):  # a search may step where numbers overflow
            found = climb(
                steps.expect,
                lambda q: descend(lambda u: steps.energy(q, u), q.at, most)[0],
                theta.start,
                max_steps=max_steps,
                least_gain=tolerance,
                strict=not missing and num_samples is None,
            )
            converged = found.converged and not _on_saddle(steps, found.parameters)
        point = {name: value.unsqueeze(0) for name, value in theta.sites(found.parameters).items()}
        said, effective = _say(model, data, point, steps, found.expectations, pointwise)
        meter.gradients = steps.gradients
        value = torch.tensor(found.objectives, dtype=torch.float64)
        return Posterior(
            draws={name: v.unsqueeze(0) for name, v in (point | said.deterministic).items()},
            trace=-value,
            cost=meter.read(),
            method=_method(program, missing, num_samples),
            log_likelihood={name: v.unsqueeze(0) for name, v in said.log_likelihood.items()},
            observed=program.observed,
            sample_stats={"lp": value[-1:].to(program.dtype).unsqueeze(0)},
            diagnostics={"converged": float(converged), **effective},
            provenance=provenance(seed, program.dtype),
        )


def _on_saddle(steps: Labels | Sampled, at: Tensor) -> bool:
    """Return whether EM has stopped where log p(x, θ) still rises to a side, and warn if so."""
    if isinstance(steps, Sampled) or len(at) > MOST_CURVED or not steps.is_saddle(at):
        return False
    warnings.warn(
        "EM has stopped at a saddle, as where components are alike: give another init",
        stacklevel=3,
    )
    return True


def _say(
    model: Model,
    data: tuple[Any, ...],
    point: Draws,
    steps: Labels | Sampled,
    q: Found,
    pointwise: bool,
) -> tuple[Evaluation, dict[str, float]]:
    """Return what the model says at θ, and the effective size of the draws of z where they weigh.

    Where z is continuous, that is what it says at two draws of z alike.
    """
    if isinstance(steps, Labels):
        return evaluate(model, data, point, pointwise=pointwise), {}
    two = {name: v.expand(2, *v.shape[1:]) for name, v in point.items()} | steps.draws(q, 2)
    said = evaluate(model, data, two, pointwise=False)
    fixed = {n: v[:1] for n, v in said.deterministic.items() if torch.equal(v[0], v[1])}
    return replace(said, deterministic=fixed), {"importance_ess": q.effective_size()}


def _method(program: Program, missing: list[str], num_samples: int | None) -> str:
    if missing or num_samples is not None:
        return "EM, Monte Carlo"
    return "EM" if program.enumerated else "EM, nothing to integrate (MAP)"


def _check_missing(program: Program, integrate: Collection[str], num_samples: int | None) -> None:
    names = list(program.latent)
    if isinstance(integrate, str) or not set(integrate) < set(names):
        raise ValueError(
            f"integrate must name some of the continuous latent sites {names} and leave one, "
            f"got {integrate if isinstance(integrate, str) else list(integrate)}"
        )
    if num_samples is not None:
        check_whole("num_samples", num_samples, 2 if integrate else 1)
        if not integrate and not program.enumerated:
            raise ValueError(f"num_samples must be None with nothing to draw, got {num_samples}")


def _known(value: Tensor | float) -> float:
    value = float(value)
    if math.isnan(value):
        raise FloatingPointError("the objective must be a number, got nan")
    return value
