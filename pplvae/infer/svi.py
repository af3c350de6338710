"""Stochastic variational inference: the guide q that makes the evidence bound largest.

    ELBO(q) = E_q [log p(x, θ) − log q(θ)] = log p(x) − KL(q(θ) ‖ p(θ | x)) ≤ log p(x)

The expectation is estimated on draws from q and climbed by Adam. The caller's Pyro parameter
store is left as it was; modules of a guide are trained in place.

Reference:
    Hoffman et al. (2013), Stochastic variational inference, https://jmlr.org/papers/v14/hoffman13a.html
    Kucukelbir et al. (2017), Automatic differentiation variational inference,
    https://jmlr.org/papers/v18/16-107.html
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pplvae.infer import guides
from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import Model, inspect, runs_in_plate, untouched
from pplvae.optimize import cosine, minimize
from pplvae.validation import check_whole

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

    The guide's parameters alone are trained; the model's stay as they are. Those that a guide of
    your own has by `pyro.param` are trained as copies, and the store stays as it is; its modules
    (`pyro.module`, a `PyroModule`) are trained in place, as in any Pyro SVI.

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
        estimate on the draws, which lies above the ELBO; None where the guide has no density of
        the model's sites, as a point mass or a guide of your own with further sites.

    Raises:
        ValueError: If the guide is unknown, has nothing to train, gets no gradient, or leaves a
            latent site out.
        FloatingPointError: If the loss stops being finite.
    """
    check_whole("num_draws", num_draws, 1)
    check_whole("num_steps", num_steps, 1)
    check_whole("num_particles", num_particles, 1)
    meter = Meter()
    with untouched(seed) as seed:
        program = inspect(model, *data)
        guides.own_store()
        name, run = guides.as_guide(model, guide, program, init)
        leaves = guides.parameters(run, data)
        anatomy = guides.check_covers(run, data, program)
        guides.check_moves(negative_elbo(model, run)(*data), leaves)
        some, _ = guides.draw(run, data, anatomy, 2, together=False)
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
        draws, log_q = guides.draw(run, data, program, num_draws, together)
        return from_independent_draws(
            model,
            data,
            draws,
            log_q if guides.has_density(run, data, program) else None,
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            trace=torch.tensor(history.losses, dtype=torch.float64),
            method=f"SVI, {name}",
        )
