"""Laplace's approximation: a normal at the mode, as wide as the curvature there says.

In unconstrained space, with û the minimum of the potential U and H its Hessian there,

    q(u) = Normal(û, H⁻¹),   log p(x) ≈ − U(û) + n/2 log 2π − ½ log |H|.

The draws are mapped back to the sites' own spaces, with the Jacobian in their density.

Reference:
    Tierney & Kadane (1986), Accurate approximations for posterior moments and marginal densities,
    https://doi.org/10.1080/01621459.1986.10478240
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from pplvae.infer.mode import find_mode, precision_factor
from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import Model, untouched
from pplvae.infer.unconstrained import Potential
from pplvae.validation import check_whole

STRICT = (
    "the curvature at the mode must be positive in every direction (a model that is not "
    "identified has none: give `init`, or use nuts.fit)"
)


def fit(
    model: Model,
    *data: Any,
    num_draws: int = 4000,
    max_steps: int = 500,
    init: dict[str, Any] | None = None,
    pointwise: bool = True,
    seed: int | None = None,
) -> Posterior:
    """Return independent draws from the normal approximation at the mode.

    Args:
        model: A Pyro model with continuous latent sites.
        data: Its arguments.
        num_draws: How many draws S to take, in one chain.
        max_steps: Most L-BFGS steps towards the mode.
        init: Where sites start, in their own space; at random where not given.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the draws.

    Returns:
        The posterior; `log_evidence` is Laplace's formula.

    Raises:
        ValueError: If the point found is not a strict maximum, so that no normal fits.
    """
    check_whole("num_draws", num_draws, 1)
    check_whole("max_steps", max_steps, 1)
    meter = Meter()
    with untouched(seed) as seed:
        potential = Potential(model, data, init)
        mode, trace = find_mode(potential, max_steps)
        factor = precision_factor(potential.hessian(mode), STRICT)
        _check_reached(potential, mode, factor)
        noise = torch.randn(num_draws, len(mode), dtype=mode.dtype, device=mode.device)
        # H = L Lᵀ, so L⁻ᵀ ε has covariance H⁻¹
        flat = mode + torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT
        half_log_det = factor.diagonal().log().sum()
        log_constant = 0.5 * len(mode) * math.log(2 * math.pi)
        draws, log_jacobian = potential.constrain(flat)
        log_q = half_log_det - log_constant - 0.5 * noise.square().sum(dim=1) - log_jacobian
        meter.gradients = potential.calls + len(mode)
        return from_independent_draws(
            model,
            data,
            draws,
            log_q,
            meter=meter,
            pointwise=pointwise,
            seed=seed,
            log_evidence=(log_constant - half_log_det).item() - trace[-1].item(),
            trace=trace,
            method="Laplace",
        )


def _check_reached(potential: Potential, mode: Tensor, factor: Tensor) -> None:
    """Warn where a Newton step H⁻¹ ∇U would still go far, in standard deviations: |L⁻¹ ∇U|."""
    slope = potential.slope(mode)
    distance = torch.linalg.solve_triangular(factor, slope.unsqueeze(1), upper=False).norm().item()
    if not distance < 0.1:
        warnings.warn(
            f"the mode is still {distance:.2g} standard deviations away: raise max_steps",
            stacklevel=3,
        )
