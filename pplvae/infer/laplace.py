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

from pplvae.infer.posterior import Meter, Posterior, from_independent_draws
from pplvae.infer.program import Model, untouched
from pplvae.infer.unconstrained import Potential
from pplvae.validation import check_whole


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
        factor = _cholesky(_hessian(potential, mode))
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


def find_mode(potential: Potential, max_steps: int) -> tuple[Tensor, Tensor]:
    """Return the minimum û of the potential, shape (n,), and U at each step, in nats.

    By L-BFGS with a strong Wolfe line search, from the potential's start.
    """
    u = potential.flatten(potential.initial).clone().requires_grad_()
    eps, energies = torch.finfo(u.dtype).eps, []
    optimizer = torch.optim.LBFGS(
        [u], max_iter=max_steps, line_search_fn="strong_wolfe",
        tolerance_grad=eps**0.5, tolerance_change=eps,
    )  # fmt: skip

    def closure() -> Tensor:
        energy = _energy(potential, u)
        (u.grad,) = torch.autograd.grad(energy, u)
        energies.append(energy.detach())
        return energies[-1]

    optimizer.step(closure)
    closure()
    return u.detach(), torch.stack(energies)


def _check_reached(potential: Potential, mode: Tensor, factor: Tensor) -> None:
    """Warn where a Newton step H⁻¹ ∇U would still go far, in standard deviations: |L⁻¹ ∇U|."""
    u = mode.clone().requires_grad_()
    (slope,) = torch.autograd.grad(_energy(potential, u), u)
    distance = torch.linalg.solve_triangular(factor, slope.unsqueeze(1), upper=False).norm().item()
    if not distance < 0.1:
        warnings.warn(
            f"the mode is still {distance:.2g} standard deviations away: raise max_steps",
            stacklevel=3,
        )


def _energy(potential: Potential, flat: Tensor) -> Tensor:
    return potential(potential.unflatten(flat))


def _hessian(potential: Potential, flat: Tensor) -> Tensor:
    hessian = torch.autograd.functional.hessian(lambda u: _energy(potential, u), flat)
    assert isinstance(hessian, Tensor)
    return hessian


def _cholesky(hessian: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(0.5 * (hessian + hessian.mT))
    if info.item() or not factor.isfinite().all():
        least = torch.linalg.eigvalsh(hessian.nan_to_num()).min().item()
        raise ValueError(
            "the curvature at the mode must be positive in every direction, got least eigenvalue "
            f"{least:.3g}: the model may not be identified; give `init`, or use nuts.fit"
        )
    return factor
