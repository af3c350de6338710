"""Stochastic variational inference: the guide q that makes the evidence bound largest.

    ELBO(q) = E_q [log p(x, θ) − log q(θ)] = log p(x) − KL(q(θ) ‖ p(θ | x)) ≤ log p(x)

The expectation is estimated on draws from q and climbed by Adam. The caller's Pyro parameter
store is left as it was.

Reference:
    Hoffman et al. (2013), Stochastic variational inference, https://jmlr.org/papers/v14/hoffman13a.html
    Kucukelbir et al. (2017), Automatic differentiation variational inference,
    https://jmlr.org/papers/v18/16-107.html
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import guides as autoguides
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import (
    BLOCK,
    Draws,
    Model,
    Program,
    inspect,
    runs_in_plate,
    sample_sites,
    untouched,
)
from pplvae.infer.unconstrained import init_strategy
from pplvae.optimize import cosine, minimize
from pplvae.validation import check_in_range, check_one_of

GUIDES: dict[str, type[autoguides.AutoContinuous]] = {
    "mean_field": autoguides.AutoDiagonalNormal,
    "full_rank": autoguides.AutoMultivariateNormal,
    "low_rank": autoguides.AutoLowRankMultivariateNormal,
}


# The first gradients on many data are huge. With Adam's usual memory of 1000 squares the steps
# stay tiny after them: on 60,000 ratios the sd ended 1.5 times too wide.
BETAS = (0.9, 0.95)


def negative_elbo(
    model: Model, guide: Model, elbo: Trace_ELBO | None = None
) -> Callable[..., Tensor]:
    """Return the loss −ELBO of a model and guide, a function of their arguments, in nats.

    Args:
        model: Pyro model.
        guide: Pyro guide of the same arguments.
        elbo: The estimator; one-particle `Trace_ELBO` by default.
    """
    estimator, checks = elbo or Trace_ELBO(), [is_validation_enabled()]

    def loss(*data: Any) -> Tensor:
        # What Pyro can find wrong with a program it finds at the first call.
        with pyro.validation_enabled(bool(checks and checks.pop())):
            return estimator.differentiable_loss(model, guide, *data)

    return loss


def fit(
    model: Model,
    *data: Any,
    guide: str | Model = "full_rank",
    num_steps: int = 1000,
    learning_rate: float = 0.05,
    num_particles: int = 10,
    num_draws: int = 4000,
    init: dict[str, Any] | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> Posterior:
    """Fit a guide to the posterior of `model` and return independent draws from it.

    The guide's parameters alone are trained; the model's stay as they are in Pyro's store.

    Args:
        model: A Pyro model with continuous latent sites.
        data: Its arguments.
        guide: "mean_field", "full_rank" or "low_rank" for a normal in unconstrained space, or a
            Pyro guide of your own with the model's arguments; its parameters start as they are.
        num_steps: Steps of Adam; the step size falls to 0 along a cosine.
        learning_rate: The first step size.
        num_particles: Draws from the guide in each step, evaluated together where the programs
            can take several at once.
        num_draws: How many draws S to take from the fitted guide, in one chain.
        init: Where sites start, in their own space; at random where not given.
            For a guide of the library's.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Returns:
        The posterior. `trace` is −ELBO at each step, `log_evidence` the importance-sampling
        estimate on the draws, which lies above the ELBO.

    Raises:
        ValueError: If the guide is unknown, has nothing to train, or leaves a latent site out.
        FloatingPointError: If the loss stops being finite.
    """
    check_in_range("num_draws", num_draws, 1)
    meter = Meter()
    with untouched(seed) as seed:
        _copy_parameters()
        program = inspect(model, *data)
        name, run = _as_guide(model, guide, program, init)
        leaves = _parameters(run, data)
        anatomy = _check_covers(run, data, program)
        some, _ = _draw(run, data, anatomy, 2, together=False)
        # Pyro's own guides run in a plate, but their sites are not to be set from outside.
        together = anatomy is program or runs_in_plate(run, data, anatomy, some)
        both = together and runs_in_plate(model, data, program, some)
        elbo = Trace_ELBO(
            num_particles=num_particles, max_plate_nesting=program.max_plate_nesting,
            vectorize_particles=both and num_particles > 1,
        )  # fmt: skip
        loss = negative_elbo(model, run, elbo)
        history = minimize(
            lambda: loss(*data), leaves, num_epochs=num_steps,
            learning_rate=learning_rate, betas=BETAS, schedule=cosine, seed=seed,
            progress=progress,
            description=f"SVI, {name}",
        )  # fmt: skip
        meter.gradients = history.num_steps * num_particles
        draws, log_q = _draw(run, data, program, num_draws, together)
        return from_independent_draws(
            model,
            data,
            draws,
            log_q,
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            trace=torch.tensor(history.losses, dtype=torch.float64),
            method=f"SVI, {name}",
        )


def _copy_parameters() -> None:
    """Put copies in the place of the store's parameters, so that the originals are not trained."""
    store = pyro.get_param_store()
    state = store.get_state()
    for name, value in state["params"].items():
        state["params"][name] = value.detach().clone().requires_grad_()
    store.set_state(state)


def _forget(guide: str) -> None:
    """Drop what another guide of this class has left: Pyro names their parameters alike."""
    store = pyro.get_param_store()
    for name in [name for name in store if name.startswith(f"{guide}.")]:
        del store[name]


def _as_guide(
    model: Model, guide: str | Model, program: Program, init: dict[str, Any] | None
) -> tuple[str, Model]:
    if isinstance(guide, str):
        check_one_of("guide", guide, GUIDES)
        _forget(GUIDES[guide].__name__)
        made = GUIDES[guide](model, init_loc_fn=init_strategy(init, program))
        return guide.replace("_", "-"), made
    if init is not None:
        raise ValueError(f"init must be None with a guide of your own, got {init}")
    return "own guide", guide


def _parameters(guide: Model, data: tuple[Any, ...]) -> list[Tensor]:
    """Return the unconstrained leaves that a run of the guide reads."""
    with poutine.block():
        trace: Any = poutine.trace(guide, param_only=True).get_trace(*data)
    leaves = [s["value"].unconstrained() for s in trace.nodes.values() if s["type"] == "param"]
    if not leaves:
        raise ValueError("guide must have a parameter to train, got none")
    return leaves


def _check_covers(guide: Model, data: tuple[Any, ...], program: Program) -> Program:
    """Return the anatomy of a guide, which must sample all latent sites of the model."""
    if isinstance(guide, autoguides.AutoGuide):
        return program
    anatomy = inspect(guide, *data)
    missing = [name for name in program.latent if name not in anatomy.latent]
    if missing:
        raise ValueError(f"guide must sample every latent site of the model, got no {missing}")
    return anatomy


def _draw(
    guide: Model, data: tuple[Any, ...], program: Program, num_draws: int, together: bool
) -> tuple[Draws, Tensor]:
    """Return draws from the guide, shapes (S, …), and their log density, shape (S,)."""
    size = max(1, BLOCK // max(1, program.num_observations)) if together else 1
    parts = [
        _draw_block(guide, data, program, min(size, num_draws - start))
        for start in range(0, num_draws, size)
    ]
    draws = {name: torch.cat([part[name] for part, _ in parts]) for name in program.latent}
    return draws, torch.cat([log_q for _, log_q in parts])


def _draw_block(
    guide: Model, data: tuple[Any, ...], program: Program, size: int
) -> tuple[Draws, Tensor]:
    depth = program.max_plate_nesting
    plate = pyro.plate("_draws", size, dim=-1 - depth) if size > 1 else nullcontext()
    with torch.no_grad(), poutine.block(), plate:
        trace = poutine.trace(guide).get_trace(*data)
    trace.compute_log_prob()
    sites = sample_sites(trace)
    terms = [site["log_prob"].reshape(size, -1).sum(dim=1) for site in sites.values()]
    draws = {
        name: sites[name]["value"].reshape(torch.Size([size]) + shape)
        for name, shape in program.latent.items()
    }
    return draws, torch.stack(terms).sum(dim=0)
