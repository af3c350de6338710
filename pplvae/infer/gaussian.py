"""Linear-Gaussian models: posterior and evidence by linear algebra.

Where all latent numbers are real and every law is normal with a mean linear in them and a spread
that does not depend on them, the log joint is a quadratic function,

    −log p(x, u) = U(û) + ½ (u − û)ᵀ H (u − û),

so that u | x ~ Normal(û, H⁻¹) and log p(x) = −U(û) + n/2 log 2π − ½ log |H|, exactly. Whether it
is quadratic is found out by its slope, which must be g(0) + H u at points far and near.

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, section 2.3.3
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pplvae.infer.evaluation import evaluate
from pplvae.infer.program import Draws, Model, inspect
from pplvae.infer.unconstrained import Potential

MOST = 2000  # latent numbers; their Hessian has so many rows and columns
SCALES = (0.1, 1.0, 30.0)  # how far from 0 the slope is looked at
NUM_CHECKS = 20
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass(frozen=True)
class Gaussian:
    """The exact posterior Normal(û, H⁻¹) of a linear-Gaussian model, H = L Lᵀ.

    Attributes:
        potential: What maps its numbers to sites.
        mode: û, shape (n,).
        factor: L, shape (n, n).
        log_evidence: log p(x) in nats.
    """

    potential: Potential
    mode: Tensor
    factor: Tensor
    log_evidence: float

    @property
    def log_peak(self) -> float:
        """The log density at the mode, in nats."""
        half_log_det = self.factor.diagonal().log().sum().item()
        return half_log_det - 0.5 * len(self.mode) * math.log(2 * math.pi)

    def draw(self, num_draws: int) -> tuple[Draws, Tensor]:
        """Return draws by site, shapes (S, …), and their log density, shape (S,)."""
        noise = torch.randn(num_draws, len(self.mode)).to(self.mode)
        steps = torch.linalg.solve_triangular(self.factor.mT, noise.mT, upper=True).mT
        draws = self.potential.unflatten(self.mode + steps)
        return draws, self.log_peak - 0.5 * noise.square().sum(dim=1)


def solve(model: Model, data: tuple[Any, ...]) -> Gaussian | None:
    """Return the exact posterior of a linear-Gaussian model, None where it is not one."""
    program = inspect(model, *data)
    size = sum(shape.numel() for shape in program.latent.values())
    real = all(_is_real(support) for support in program.supports.values())
    if not real or program.enumerated or size > MOST:
        return None
    potential = Potential(model, data)
    origin = torch.zeros_like(potential.flatten(potential.initial))
    start, hessian = potential.slope(origin), potential.hessian(origin)
    factor, info = torch.linalg.cholesky_ex(0.5 * (hessian + hessian.mT))
    if info.item() or not _is_quadratic(potential, start, hessian):
        return None
    mode = -torch.cholesky_solve(start.unsqueeze(1), factor).squeeze(1)
    energy = potential.energy(mode).item()
    half_log_det = factor.diagonal().log().sum().item()
    found = Gaussian(
        potential, mode, factor, 0.5 * size * math.log(2 * math.pi) - half_log_det - energy
    )
    return found if _holds_everywhere(model, data, found) else None


def _holds_everywhere(model: Model, data: tuple[Any, ...], found: Gaussian) -> bool:
    """Whether p(x, u) / q(u) is log p(x) at draws of q, and at draws eight times as far out."""
    near, log_q = found.draw(NUM_CHECKS)
    mode = found.potential.unflatten(found.mode)
    off, log_joint = log_q.new_zeros(()), log_q
    for far in (1.0, 8.0):
        draws = {name: mode[name] + far * (near[name] - mode[name]) for name in near}
        log_joint = evaluate(model, data, draws, pointwise=False).log_joint
        # log q(û + f δ) − log q(û) = f² (log q(û + δ) − log q(û))
        there = found.log_peak + far**2 * (log_q - found.log_peak)
        off = torch.maximum(off, (log_joint - there - found.log_evidence).abs().max())
    return off.item() <= rounding(log_joint)


def rounding(log_joint: Tensor) -> float:
    """Return how far log joints, shape (S,), may be off by rounding, in nats."""
    return 1e-6 + 1000 * torch.finfo(log_joint.dtype).eps * (1 + log_joint.abs().max().item())


def _is_real(support: Any) -> bool:
    return getattr(support, "base_constraint", support) is constraints.real


def _is_quadratic(potential: Potential, start: Tensor, hessian: Tensor) -> bool:
    tolerance = TOLERANCE.get(start.dtype, 1e-3)
    for scale in SCALES:
        point = scale * torch.randn_like(start)
        for side in (point, -point):  # a kink at the origin shows on one of them
            expected = start + hessian @ side
            error = (potential.slope(side) - expected).norm()
            if not error <= tolerance * (start.norm() + (hessian @ side).norm()):
                return False
    return True
