"""Stochastic variational inference: the guide q that makes the evidence bound largest.

    ELBO(q) = E_q [log p(x, θ) − log q(θ)] = log p(x) − KL(q(θ) ‖ p(θ | x)) ≤ log p(x)

The expectation is estimated on draws from q and climbed by Adam. The caller's Pyro parameter
store is left as it was; modules of a guide are trained in place.

Reference:
    Hoffman et al. (2013), Stochastic variational inference, https://jmlr.org/papers/v14/hoffman13a.html
    Kucukelbir et al. (2017), Automatic differentiation variational inference,
    https://jmlr.org/papers/v18/16-107.html
"""

from typing import Any

import torch

from pplvae.infer import families, gradients, guides
from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import Model, inspect, untouched
from pplvae.optimize import cosine, minimize
from pplvae.validation import check_whole

# The first gradients on many data are huge. With Adam's usual memory of 1000 squares the steps
# stay tiny after them: on 60,000 ratios the sd ended 1.5 times too wide.
BETAS = (0.9, 0.95)
WORTH_COMPILING = 100  # steps


def fit(
    model: Model,
    *data: Any,
    guide: str | Model = "full_rank",
    objective: str = "elbo",
    gradient: str = "reparameterized",
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
        data: Its arguments. It is several times as fast where a plate of draws can be put around
            it: index with `Vindex(locs)[..., z]` rather than `locs[z]`.
        guide: "mean_field", "full_rank" or "low_rank" for a normal in unconstrained space, "flow"
            for what is not normal, or a Pyro guide of your own with the model's arguments; its
            parameters start as they are.
        objective: "elbo"; "mean_field", with each site's KL in closed form where there is one;
            "iwae" or "renyi" (α = ½), with K = `num_particles`. The IWAE's guide is one to weigh
            draws with, by `importance.fit`: it ends up to twice as wide as the posterior, as the
            bound hardly tells, and its gradient is noisy.
        gradient: "reparameterized"; "score" or "baseline", as in `infer.gradients`.
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
        `diagnostics["converged"]` is 0 where the loss was still falling.

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
        name, run = families.as_guide(model, guide, program, init)
        leaves = guides.parameters(run, data)
        given = guides.together(model, run, data, program).given
        loss = gradients.loss(
            model, run, data, objective=objective, gradient=gradient,
            num_particles=num_particles, jit=num_steps >= WORTH_COMPILING,
        )  # fmt: skip
        guides.check_moves(loss(), leaves)
        history = minimize(
            loss, leaves, num_epochs=num_steps,
            learning_rate=learning_rate, betas=BETAS, schedule=cosine, seed=seed,
            progress=progress,
            description=f"SVI, {name}",
        )  # fmt: skip
        meter.gradients = history.num_steps * num_particles
        draws, log_q = guides.draw(run, data, program, num_draws, given)
        return from_independent_draws(
            model,
            data,
            draws,
            log_q if guides.has_density(run, data, program) else None,
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            trace=torch.tensor(history.losses, dtype=torch.float64),
            method=_method(name, objective, gradient),
            diagnostics={"converged": float(_settled(history.losses))},
        )


def _settled(losses: list[float]) -> bool:
    """Return whether the loss has stopped falling: its last tenth against the tenth from 60 %.

    A fall of a nat, or of five standard errors where these are more, is taken for one.
    """
    values, size = torch.tensor(losses, dtype=torch.float64), len(losses) // 10
    if size < 3:
        return False
    before, after = values[6 * size : 7 * size], values[-size:]
    error = ((before.var() + after.var()) / size).sqrt()
    return bool(before.mean() - after.mean() <= max(1.0, 5 * error.item()))


def _method(*words: str) -> str:
    """Return the engine's name with what is not the default of it."""
    plain, names = ("elbo", "reparameterized"), {"mean_field": "closed-form KL"}
    return ", ".join(["SVI", *(names.get(word, word) for word in words if word not in plain)])
