"""Importance sampling: draws from a proposal q, weighed by what they should have been.

For θ_s ~ q with weights w_s = p(x, θ_s) / q(θ_s), and w̄_s = w_s / Σ w,

    p(x) ≈ 1/S Σ_s w_s,   E[f(θ) | x] ≈ Σ_s w̄_s f(θ_s).

The largest weights are smoothed by a generalized Pareto law, whose shape k says whether to believe
them (`inference_data.smooth`); the evidence is the mean of the raw ones, which is unbiased. Draws
of equal weight come from resampling the proposals with probabilities w̄, so evenly that θ_s comes
S w̄_s times, rounded up or down.

References:
    Rubin (1987), The calculation of posterior distributions by data augmentation: Comment,
    https://doi.org/10.1080/01621459.1987.10478461
    Smith & Gelfand (1992), Bayesian statistics without tears,
    https://doi.org/10.1080/00031305.1992.10475856
    Douc, Cappé & Moulines (2005), Comparison of resampling schemes for particle filtering,
    https://doi.org/10.1109/ISPA.2005.195385
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pplvae.infer import guides
from pplvae.infer.evaluation import TOLERANCE, evaluate, runs_in_plate
from pplvae.infer.inference_data import import_arviz, smooth
from pplvae.infer.laplace import STRICT
from pplvae.infer.mode import find_mode, precision_factor
from pplvae.infer.posterior import Cost, Meter, Posterior, from_independent_draws, log_mean_error
from pplvae.infer.program import Draws, Model, Program, inspect, untouched
from pplvae.infer.unconstrained import Potential
from pplvae.validation import check_one_of, check_whole

DEGREES_OF_FREEDOM = 5.0  # tails heavier than those of a posterior near normal bound the weights
MAX_STEPS = 500  # of the search for the mode


@dataclass(frozen=True)
class Proposals:
    """Draws to choose from.

    Attributes:
        draws: Values of every latent site, shapes (S, …).
        log_weight: log p(x, θ_s) − log q(θ_s) in nats, shape (S,).
        name: Where they come from.
        cost: What they took before they were weighed.
    """

    draws: Draws
    log_weight: Tensor
    name: str
    cost: Cost


def fit(
    model: Model,
    *data: Any,
    proposal: str | Posterior = "laplace",
    num_draws: int = 4000,
    num_proposals: int | None = None,
    init: dict[str, Any] | None = None,
    pointwise: bool = True,
    seed: int | None = None,
) -> Posterior:
    """Return draws of equal weight, resampled from those of a proposal.

    A proposal of large weight comes several times. However many draws there are, and however
    independent they look, they tell no more than `diagnostics["importance_ess"]` of them would,
    and only `diagnostics["distinct_draws"]` differ.

    Args:
        model: A Pyro model with continuous latent sites.
        data: Its arguments.
        proposal: "laplace" for Student's t with five degrees of freedom at the mode, as wide as
            the curvature there says, in unconstrained space; "prior" for the model's own; or a
            posterior of this model and data with `log_weight`, whose own draws are resampled.
        num_draws: How many draws to return, in one chain.
        num_proposals: How many to take from "laplace" or "prior"; by default four for each draw.
        init: For "laplace", where the search for the mode starts, by site; at random where not
            given.
        pointwise: Whether to keep the log-likelihoods of the draws.
        seed: Start of the draws.

    Returns:
        The posterior. `log_evidence` is the logarithm of the mean raw weight; the diagnostics are
        `pareto_k`, `importance_ess` = 1 / Σ w̄² of the proposals, `log_evidence_error` by the
        delta method, and `distinct_draws`. The cost of a posterior's own fit is included.

    Raises:
        ValueError: If the proposal is unknown, or a posterior without weights or of another model
            or other data; or if all proposals lie outside the support of the model.
        FloatingPointError: If a weight is infinite or nan.
    """
    check_whole("num_draws", num_draws, 1)
    import_arviz()
    meter = Meter()
    with untouched(seed) as seed:
        if isinstance(proposal, Posterior):
            _check_not_given(num_proposals=num_proposals, init=init)
            found = _from_posterior(model, data, proposal)
        else:
            num_proposals = 4 * num_draws if num_proposals is None else num_proposals
            found = _from_law(model, data, proposal, num_proposals, init)
        meter.cpu -= found.cost.cpu_seconds
        meter.wall -= found.cost.wall_seconds
        meter.gradients = found.cost.gradient_evaluations
        weights, diagnostics = _weights(found)
        chosen = resample(weights, num_draws)
        return from_independent_draws(
            model,
            data,
            {name: value[chosen] for name, value in found.draws.items()},
            None,
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            log_evidence=found.log_weight.logsumexp(dim=0).item() - math.log(len(weights)),
            diagnostics=diagnostics | {"distinct_draws": float(len(chosen.unique()))},
            method=f"importance, {found.name}",
        )


def resample(weights: Tensor, num_draws: int) -> Tensor:
    """Return indices, shape (num_draws,), in random order: each in proportion to its weight.

    Systematic resampling: evenly spaced points from one random start, on the weights laid end to
    end. An index comes num_draws · w̄ times on average, and always that rounded up or down.

    Args:
        weights: Not negative and not all zero, shape (S,).
        num_draws: How many indices to return.
    """
    order = torch.randperm(len(weights))
    edges = weights[order].cumsum(dim=0)
    points = (torch.arange(num_draws) + torch.rand((), dtype=edges.dtype)) / num_draws
    last = int((edges < edges[-1]).sum())  # the last of positive weight, if rounding passes it
    found = torch.searchsorted(edges, points * edges[-1], right=True).clamp(max=last)
    return order[found][torch.randperm(num_draws)]


def _weights(found: Proposals) -> tuple[Tensor, dict[str, float]]:
    """Return the smoothed weights w̄ of proposals, shape (S,), and what these say of themselves."""
    _check_weights(found)
    log_smoothed, k = smooth(found.log_weight.cpu().numpy())
    weights = torch.from_numpy(log_smoothed).exp()
    return weights, {
        "pareto_k": k,
        "importance_ess": 1 / weights.square().sum().item(),
        "log_evidence_error": log_mean_error(found.log_weight),
    }


def _check_weights(found: Proposals) -> None:
    bad = int((found.log_weight.isnan() | found.log_weight.isposinf()).sum())
    if bad:
        raise FloatingPointError(
            f"{bad} of {len(found.log_weight)} weights are infinite or nan: the model's numbers "
            "overflow at these proposals; give draws from svi.fit as the proposal"
        )
    if found.log_weight.isneginf().all():
        raise ValueError(
            "proposal must have draws in the support of the model, got none among "
            f"{len(found.log_weight)} of {found.name}"
        )


def _from_law(
    model: Model,
    data: tuple[Any, ...],
    proposal: str,
    num_proposals: int,
    init: dict[str, Any] | None,
) -> Proposals:
    check_one_of("proposal", proposal, ("laplace", "prior"))
    check_whole("num_proposals", num_proposals, 2)
    if proposal == "laplace":
        draws, log_q, num_gradients = _draw_at_mode(model, data, num_proposals, init)
    else:
        _check_not_given(init=init)
        (draws, log_q), num_gradients = _draw_from_prior(model, data, num_proposals), 0
    log_joint = evaluate(model, data, draws, pointwise=False).log_joint
    cost = Cost(gradient_evaluations=num_gradients)
    return Proposals(draws, log_joint - log_q, proposal, cost)


def _draw_at_mode(
    model: Model, data: tuple[Any, ...], num: int, init: dict[str, Any] | None
) -> tuple[Draws, Tensor, int]:
    """Return draws of Student's t at the mode, log q of each, and the number of gradients."""
    potential = Potential(model, data, init)
    mode, _ = find_mode(potential, MAX_STEPS)
    factor = precision_factor(potential.hessian(mode), STRICT)
    normal = dist.MultivariateNormal(mode, precision_matrix=factor @ factor.mT)
    law = dist.MultivariateStudentT(DEGREES_OF_FREEDOM, mode, normal.scale_tril)
    flat = law.sample(torch.Size([num]))
    draws, log_jacobian = potential.constrain(flat)
    return draws, law.log_prob(flat) - log_jacobian, potential.calls + len(mode)


def _draw_from_prior(model: Model, data: tuple[Any, ...], num: int) -> tuple[Draws, Tensor]:
    """Return draws of the latent sites as the model makes them, and log p(θ) of each."""
    program = inspect(model, *data)
    prior = poutine.block(model, expose=list(program.latent))
    some, _ = guides.draw(prior, data, program, 2, together=False)
    # The plates of the data are there all the same, unseen.
    anatomy = replace(inspect(prior, *data), max_plate_nesting=program.max_plate_nesting)
    together = runs_in_plate(prior, data, anatomy, some)
    return guides.draw(prior, data, program, num, together)


def _from_posterior(model: Model, data: tuple[Any, ...], proposal: Posterior) -> Proposals:
    program, stats = inspect(model, *data), proposal.sample_stats
    _check_is_of(program, proposal)
    draws = {name: proposal.draws[name].flatten(end_dim=1) for name in program.latent}
    if "lp" in stats:
        _check_log_joint(model, data, draws, stats["lp"].flatten())
    return Proposals(draws, stats["log_weight"].flatten(), proposal.method, proposal.cost)


def _check_log_joint(model: Model, data: tuple[Any, ...], draws: Draws, known: Tensor) -> None:
    """Refuse draws that the model does not know, by a few of them."""
    some = {name: value[:10] for name, value in draws.items()}
    found = evaluate(model, data, some, pointwise=False).log_joint
    if not torch.allclose(found, known[:10], *TOLERANCE, equal_nan=True):
        raise ValueError(
            "proposal must be a posterior of this model and these data, got log joint "
            f"{known[0]:.6g} for a draw that has {found[0]:.6g} here"
        )


def _check_is_of(program: Program, proposal: Posterior) -> None:
    if "log_weight" not in proposal.sample_stats:
        raise ValueError(
            "proposal must have the log_weight of its draws, as from svi.fit or laplace.fit, got "
            f"none of {proposal.method}"
        )
    expected = {name: tuple(shape) for name, shape in program.latent.items()}
    computed = set(program.deterministic)
    got = {n: tuple(v.shape[2:]) for n, v in proposal.draws.items() if n not in computed}
    if got != expected:
        raise ValueError(f"proposal must have the sites {expected} of the model, got {got}")
    for name, values in proposal.observed.items():
        if name not in program.observed or not torch.equal(values, program.observed[name]):
            raise ValueError(f"proposal must be of the same data, got another {name}")


def _check_not_given(**settings: Any) -> None:
    for name, value in settings.items():
        if value is not None:
            raise ValueError(f"{name} must be None with this proposal, got {value}")
