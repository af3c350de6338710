"""The mode: the one value of the sites that the posterior density is largest at.

    θ̂ = argmax_θ log p(x, θ)

in the sites' own spaces, so without the Jacobian of the map to unconstrained space; with flat
priors it is the maximum of the likelihood. A mode is a point, not an approximation of a posterior:
its loss −log p(x, θ̂) lies below −log p(x) as often as not, and says nothing of its quality. It
depends on how θ is written: the mode of log θ is another than the log of this one.

Reference:
    Nocedal & Wright (2006), Numerical Optimization, ch. 7 (L-BFGS),
    https://doi.org/10.1007/978-0-387-40065-5
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from pplvae.infer.compiled import value_and_slopes
from pplvae.infer.mode import find_mode
from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import Model, untouched
from pplvae.infer.unconstrained import Potential
from pplvae.validation import check_whole


def fit(
    model: Model,
    *data: Any,
    max_steps: int = 500,
    num_starts: int = 1,
    init: dict[str, Any] | None = None,
    pointwise: bool = True,
    seed: int | None = None,
) -> Posterior:
    """Return the mode as a posterior of one draw.

    Args:
        model: A Pyro model with continuous latent sites; discrete ones are summed out.
        data: Its arguments.
        max_steps: Most L-BFGS steps from each start.
        num_starts: How many starts to climb from; the highest mode counts. Sites that are not in
            `init` start elsewhere each time.
        init: Where sites start, in their own space; at random where not given.
        pointwise: Whether to keep the N log-likelihoods.
        seed: Of the random starts.

    Returns:
        One chain of one draw. `trace` is −log p(x, θ) at each step from the start that won, and
        `diagnostics["converged"]` 1.0 where the slope has vanished there, else 0.0. There is no
        log evidence: a point has none, and log p(x, θ̂) can exceed the exact one.

    Raises:
        ValueError: If log p(x, θ) is not finite where the climb ends, as where it has no maximum.
    """
    check_whole("max_steps", max_steps, 1)
    check_whole("num_starts", num_starts, 1)
    meter = Meter()
    with untouched(seed) as seed:
        climbs = [_climb(model, data, init, max_steps) for _ in range(num_starts)]
        potential, mode, trace = min(climbs, key=lambda climb: climb[2][-1].nan_to_num(torch.inf))
        draws, _ = potential.constrain(mode.unsqueeze(0))
        _check_finite([*trace[-2:], *draws.values()])
        converged = _slope_vanishes(potential, mode)
        meter.gradients = sum(climbed.calls for climbed, _, _ in climbs)
        return from_independent_draws(
            model,
            data,
            draws,
            None,
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            trace=trace,
            method="MAP",
            diagnostics={"converged": float(converged)},
        )


def _climb(
    model: Model, data: tuple[Any, ...], init: dict[str, Any] | None, max_steps: int
) -> tuple[Potential, Tensor, Tensor]:
    """Return the potential, its minimum û, shape (n,), and its values on the way."""
    potential = Potential(model, data, init, jacobian=False)
    return potential, *find_mode(potential, max_steps)


def _check_finite(values: list[Tensor]) -> None:
    if not all(value.isfinite().all() for value in values):
        raise ValueError(
            f"log p(x, θ) must have a finite maximum, got {-values[0].item():.4g} where the climb "
            "ended: it may grow without bound there; give `init`, or a prior that keeps away"
        )


def _slope_vanishes(potential: Potential, mode: Tensor) -> bool:
    """Return whether ∇U is as small as the rounding of U lets one get it; warn where not.

    Where a step gains less than ε |U|, the slope is about |U| √(2ε) for a curvature of |U|.
    """
    value, slope = value_and_slopes(lambda u: potential(potential.unflatten(u)), (mode,))
    least = torch.finfo(mode.dtype).eps ** 0.4 * max(1.0, abs(value.item()))
    steepest = slope.abs().max().item()
    if not steepest <= least:
        warnings.warn(
            f"the slope at the mode is still {steepest:.2g}: raise max_steps, or give `init`; "
            "log p(x, θ) may have no maximum",
            stacklevel=3,
        )
    return steepest <= least
