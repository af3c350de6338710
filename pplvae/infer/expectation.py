"""The two turns of EM for any Pyro model: what is known of z, and −E log p(x, z, θ) to descend.

z are the discrete sites (`Labels`), summed exactly or drawn, or continuous ones (`Sampled`). These
are drawn from Laplace's approximation r of p(z | x, θ) and weighed,

    z_s ~ r,   w_s = p(x, z_s, θ) / r(z_s),   log p(x, θ) ≈ log 1/S Σ_s w_s,

so that the approximation costs precision but no bias that more draws would not lessen. The random
numbers beneath the draws stay the same at every θ.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pplvae.infer.evaluation import says_the_same
from pplvae.infer.factors import Factors, Tables, factors
from pplvae.infer.mode import descend, precision_factor
from pplvae.infer.program import Draws, Model, inspect
from pplvae.infer.unconstrained import Potential

STRICT = "integrate must name sites whose posterior given the others has a strict mode"


class Space:
    """The values of some sites as one vector u of unconstrained space, shape (n,).

    Args:
        potential: Knows the sites' bijections and a start.
        names: Which sites.

    Attributes:
        start: Where the potential starts.
    """

    def __init__(self, potential: Potential, names: list[str]) -> None:
        self._inverses = {name: potential.transforms[name].inv for name in names}
        self._shapes = {name: potential.initial[name].shape for name in names}
        self.start = torch.cat([potential.initial[name].reshape(-1) for name in names])

    def sites(self, flat: Tensor) -> Draws:
        """Return the sites' values in their own spaces."""
        return {name: self._inverses[name](u) for name, u in self._split(flat).items()}

    def log_det(self, flat: Tensor) -> Tensor:
        """Return log |det ∂z/∂u|, shape ()."""
        inverses = [(self._inverses[name], u) for name, u in self._split(flat).items()]
        return torch.stack([t.log_abs_det_jacobian(u, t(u)).sum() for t, u in inverses]).sum()

    def _split(self, flat: Tensor) -> Draws:
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in named}


class Found(NamedTuple):
    """What an E-step at `at` (n,) found: shares of each value of z, or of `draws` (S, n)."""

    at: Tensor
    shares: Tables | Tensor
    draws: Tensor | None = None

    def effective_size(self) -> float:
        """Return how many draws of equal weight the weighted ones are worth."""
        assert isinstance(self.shares, Tensor)
        return 1 / self.shares.square().sum().item()


class Labels:
    """For discrete z: exact, or with the labels of `num_samples` draws.

    Args:
        model: The model.
        data: Its arguments.
        theta: The sites that are estimated.
        num_samples: Draws from p(z | x, θ); None for the exact expectation.
    """

    def __init__(
        self, model: Model, data: tuple[Any, ...], theta: Space, num_samples: int | None
    ) -> None:
        self._model, self._data, self._theta = model, data, theta
        self._program, self.gradients = inspect(model, *data), 0
        self._uniforms = self._at(theta.start).uniforms(num_samples) if num_samples else None

    def expect(self, at: Tensor) -> tuple[Found, Tensor]:
        """Return the posterior over each factor's table, and log p(x, θ)."""
        self.gradients += 1
        with torch.no_grad():
            found = self._at(at)
            uniforms = self._uniforms
            shares = found.marginals() if uniforms is None else found.shares(uniforms)
            return Found(at, shares), found.log_sum()

    def energy(self, found: Found, at: Tensor) -> Tensor:
        """Return −E log p(x, z, θ)."""
        self.gradients += 1
        assert isinstance(found.shares, dict)
        return -self._at(at).expectation(found.shares)

    def is_saddle(self, at: Tensor) -> bool:
        """Return whether log p(x, θ) curves upward in some direction of unconstrained space."""
        self.gradients += len(at)
        hessian: Any = torch.autograd.functional.hessian(lambda u: -self._at(u).log_sum(), at)
        if not hessian.isfinite().all():
            return False
        curvatures = torch.linalg.eigvalsh(hessian)
        rounding = torch.finfo(at.dtype).eps ** 0.5 * curvatures.abs().max()
        return bool(curvatures[0] < -rounding)

    def _at(self, at: Tensor) -> Factors:
        return factors(self._model, self._data, self._program, self._theta.sites(at))


class Sampled:
    """For continuous z, by weighted draws; discrete sites are summed out of log p(x, z, θ).

    Args:
        model: The model.
        data: Its arguments.
        theta: The sites that are estimated.
        missing: The sites z.
        num_samples: How many draws S.
    """

    def __init__(
        self,
        model: Model,
        data: tuple[Any, ...],
        theta: Space,
        missing: Space,
        *,
        num_samples: int,
    ) -> None:
        self._model, self._data, self._theta, self._missing = model, data, theta, missing
        self._program, self.gradients = inspect(model, *data), 0
        self._mode, self._noise = missing.start, _noise(num_samples, missing.start)
        self._log_joints = self._fastest()

    def expect(self, at: Tensor) -> tuple[Found, Tensor]:
        """Return draws of z, shape (S, n), with weights, shape (S,), and the log of their mean."""
        self._mode, _ = descend(lambda u: self._counted(at, u), self._mode)
        hessian: Any = torch.autograd.functional.hessian(
            lambda u: -self._log_joint(at, u), self._mode
        )
        self.gradients += len(self._mode)
        factor, noise = precision_factor(hessian, STRICT), self._noise
        # H = L Lᵀ, so L⁻ᵀ ε has covariance H⁻¹
        draws = self._mode + torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT
        log_r = factor.diagonal().log().sum() - 0.5 * noise.square().sum(dim=1)
        with torch.no_grad():
            log_p = self._log_joints(at, draws) + 0.5 * draws.shape[1] * math.log(2 * math.pi)
        log_weight = log_p - log_r
        shares = log_weight.softmax(dim=0)
        return Found(at, shares, draws), log_weight.logsumexp(dim=0) - math.log(len(noise))

    def energy(self, found: Found, at: Tensor) -> Tensor:
        """Return −Σ_s w_s log p(x, z_s, θ)."""
        assert isinstance(found.shares, Tensor)
        assert found.draws is not None
        self.gradients += len(found.draws)
        return -(found.shares * self._log_joints(at, found.draws)).sum()

    def draws(self, found: Found, size: int) -> Draws:
        """Return the first draws of z by site, shapes (size, …)."""
        assert found.draws is not None
        each = [self._missing.sites(u) for u in found.draws[:size]]
        return {name: torch.stack([values[name] for values in each]) for name in each[0]}

    def _counted(self, at: Tensor, u: Tensor) -> Tensor:
        self.gradients += 1
        return -self._log_joint(at, u)

    def _log_joint(self, at: Tensor, u: Tensor) -> Tensor:
        """Return log p(x, z, θ) + log |det ∂z/∂u|, shape ()."""
        values = self._theta.sites(at) | self._missing.sites(u)
        found = factors(self._model, self._data, self._program, values)
        return found.log_sum() + self._missing.log_det(u)

    def _fastest(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return how to evaluate many z at once, if the model bears it, else one by one."""

        def alone(at: Tensor, draws: Tensor) -> Tensor:
            return torch.stack([self._log_joint(at, u) for u in draws])

        def together(at: Tensor, draws: Tensor) -> Tensor:
            # Checks look at values, which vmap forbids; warnings have been seen from one draw.
            with pyro.validation_enabled(False), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.func.vmap(lambda u: self._log_joint(at, u))(draws)

        at, some = self._theta.start, self._missing.start + 0.1 * self._noise[:2]
        agree = says_the_same(lambda: together(at, some), alone(at, some))
        return together if agree else alone


def _noise(num_samples: int, like: Tensor) -> Tensor:
    """Return standard normal numbers, shape (S, n), that sum to 0: each comes with its negative.

    Where there are enough, their second moments are made those of the normal law too. Then the
    means and covariances of a normal p(z | x, θ) are exact, and the weights all the same.
    """
    half = torch.randn(num_samples // 2, len(like), dtype=like.dtype, device=like.device)
    if len(half) > len(like):
        factor = torch.linalg.cholesky(half.mT @ half / len(half))
        half = torch.linalg.solve_triangular(factor, half.mT, upper=False).mT
    return torch.cat([half, -half])
