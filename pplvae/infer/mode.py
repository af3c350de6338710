"""The mode of a model, and the curvature there: where Laplace, MAP, importance and EM begin."""

from collections.abc import Callable

import torch
from torch import Tensor

from pplvae.infer.unconstrained import Potential


def find_mode(potential: Potential, max_steps: int) -> tuple[Tensor, Tensor]:
    """Return the minimum û of the potential, shape (n,), and U on the way and at it, in nats."""
    return descend(potential.energy, potential.flatten(potential.initial), max_steps)


def descend(
    energy: Callable[[Tensor], Tensor], start: Tensor, max_steps: int = 100
) -> tuple[Tensor, Tensor]:
    """Return the lowest point that L-BFGS with a strong Wolfe line search meets from `start`.

    Args:
        energy: Takes a point of shape (n,), gives a number of shape ().
        start: The first point.
        max_steps: Most steps.

    Returns:
        The point, shape (n,), and the energies on the way, that of the point at the end.
    """
    u, lowest, energies = start.detach().clone().requires_grad_(), start.detach(), list[Tensor]()
    eps, least = torch.finfo(u.dtype).eps, torch.inf
    optimizer = torch.optim.LBFGS(
        [u], max_iter=max_steps, line_search_fn="strong_wolfe",
        tolerance_grad=eps**0.5, tolerance_change=eps,
    )  # fmt: skip

    def closure() -> Tensor:
        nonlocal lowest, least
        value = energy(u)
        (u.grad,) = torch.autograd.grad(value, u)
        energies.append(value.detach())
        if value.item() < least:
            least, lowest = value.item(), u.detach().clone()
        return energies[-1]

    optimizer.step(closure)
    return lowest, torch.stack([*energies, energies[0].new_tensor(least)])


def precision_factor(hessian: Tensor, said: str) -> Tensor:
    """Return the lower Cholesky factor L of a curvature H = L Lᵀ, shape (n, n).

    Args:
        hessian: H, shape (n, n).
        said: What must hold, for the refusal: it is followed by the least eigenvalue.

    Raises:
        ValueError: If it is not positive in every direction.
    """
    factor, info = torch.linalg.cholesky_ex(0.5 * (hessian + hessian.mT))
    if info.item() or not factor.isfinite().all():
        least = torch.linalg.eigvalsh(hessian.nan_to_num()).min().item()
        raise ValueError(f"{said}, got least eigenvalue {least:.3g}")
    return factor
