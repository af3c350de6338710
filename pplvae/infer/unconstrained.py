"""A model's log joint on all of R^n, where optimizers and samplers move.

Each latent site θ is mapped to u = T(θ) by a smooth bijection onto the reals, and the potential is

    U(u) = − log p(x, T⁻¹(u)) − log |det ∂T⁻¹/∂u|.

Its minimum is the mode of the density of u, which moves with the choice of T. The mode of θ itself
is the minimum without the determinant.
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer.autoguide.initialization import init_to_uniform, init_to_value
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from pplvae.infer.compiled import compile_energy
from pplvae.infer.program import Draws, Model, Program, inspect
from pplvae.validation import MOST_SHOWN, as_tensor

# Where a compiled graph is held against the model: multiples of standard normals from the start.
SPREADS = 0.0, 0.3, -0.3, 1.0, -1.0, 3.0, -3.0


def init_strategy(init: dict[str, Any] | None, program: Program) -> Callable[..., Any]:
    """Return Pyro's strategy that starts sites at `init`, and those not in it at random.

    The values are copied: an optimizer would move the caller's own tensors.

    Raises:
        ValueError: If `init` names no site of the model, or gives one a value of another shape; in
            a run of the strategy, if a value is outside the support of its site.
    """
    values = {name: _start(program, name, value) for name, value in (init or {}).items()}

    def start(site: Any) -> Any:
        # Only a run knows the support: it may depend on the start of other sites.
        if site["name"] in values:
            _check_supported(site["name"], values[site["name"]], site["fn"].support)
        return init_to_value(site, values=values, fallback=init_to_uniform)

    return start


def _check_supported(name: str, value: Tensor, support: Any) -> None:
    if not support.check(value).all():
        got = value.tolist() if value.numel() <= MOST_SHOWN else f"shape {tuple(value.shape)}"
        raise ValueError(f"init[{name!r}] must lie in the site's support {support}, got {got}")


def _start(program: Program, name: str, value: Any) -> Tensor:
    if name not in program.latent:
        raise ValueError(f"init must name sites among {list(program.latent)}, got {name!r}")
    value = as_tensor(value, name=f"init[{name!r}]").to(program.device, program.dtype)
    shape = program.latent[name]
    if value.shape != shape:
        raise ValueError(
            f"init[{name!r}] must have shape {tuple(shape)}, got {tuple(value.shape)}"
        )
    return value.detach().clone()


class Potential:
    """The potential U of a model on given data; counts its calls.

    Args:
        model: A Pyro model.
        data: Its arguments.
        init: Where sites start, in their own space; at random where not given.
        jacobian: Whether log |det ∂T⁻¹/∂u| counts in U. Without it the minimum of U is the mode in
            the sites' own spaces.

    Attributes:
        initial: A start, by site, in unconstrained space.
        calls: How often U has been computed.
    """

    def __init__(
        self,
        model: Model,
        data: tuple[Any, ...],
        init: dict[str, Any] | None = None,
        *,
        jacobian: bool = True,
    ) -> None:
        program = inspect(model, *data)
        start, self._energy, self.transforms, _ = initialize_model(
            model, data, max_plate_nesting=program.max_plate_nesting,
            init_strategy=init_strategy(init, program),
        )  # fmt: skip
        self.initial: Draws = {name: value.detach() for name, value in start.items()}
        self.jacobian, self.calls = jacobian, 0
        self._graph: Callable[..., Tensor] | None = None

    @property
    def compiled(self) -> bool:
        """Whether a compiled graph computes U."""
        return self._graph is not None

    def compile(self) -> bool:
        """Compute U and its slope by a compiled graph from now on, where it is right.

        Returns:
            Whether it is; where not, all stays as it was. A graph has no second derivative.
        """
        self._graph = None
        names = list(self.initial)
        points = self._points()
        self._graph = compile_energy(
            lambda *values: self._run(dict(zip(names, values, strict=True))), points
        )
        self.calls += self.compiled * len(points)
        return self.compiled

    def __call__(self, site_values: Draws) -> Tensor:
        """Return U in nats, shape (), for a value by site."""
        if self._graph is None:
            return self._run(site_values)
        self.calls += 1
        return self._graph(*(site_values[name] for name in self.initial))

    def _run(self, site_values: Draws) -> Tensor:
        """Return U by a run of the model."""
        self.calls += 1
        # A search may step where the model's numbers overflow: that is an energy, not an error.
        with pyro.validation_enabled(False):
            energy = self._energy(site_values)
            return energy if self.jacobian else energy + self._log_det(site_values)

    def _points(self) -> list[tuple[Tensor, ...]]:
        """Return values of the sites about the start, on opposite sides, the same every time."""
        start = self.flatten(self.initial)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start)
        around = [self.unflatten(start + spread * noise) for spread in SPREADS]
        return [tuple(point[name] for name in self.initial) for point in around]

    def _log_det(self, site_values: Draws) -> Tensor:
        """Return log |det ∂θ/∂u| of one value by site, shape ()."""
        return self.constrain(self.flatten(site_values).unsqueeze(0))[1].squeeze(0)

    def energy(self, flat: Tensor) -> Tensor:
        """Return U in nats, shape (), at u of shape (n,)."""
        return self(self.unflatten(flat))

    def slope(self, flat: Tensor) -> Tensor:
        """Return ∇U, shape (n,), at u of shape (n,)."""
        u = flat.detach().clone().requires_grad_()
        return torch.autograd.grad(self.energy(u), u)[0]

    def hessian(self, flat: Tensor) -> Tensor:
        """Return the second derivatives of U, shape (n, n), at u of shape (n,)."""
        hessian = torch.autograd.functional.hessian(self.energy, flat)
        assert isinstance(hessian, Tensor)
        return hessian

    def flatten(self, site_values: Draws) -> Tensor:
        """Return the values of all sites end to end, shape (n,)."""
        return torch.cat([site_values[name].reshape(-1) for name in self.initial])

    def unflatten(self, flat: Tensor) -> Draws:
        """Return values by site, shapes (…, *site), from flat ones, shape (…, n)."""
        sizes = [value.numel() for value in self.initial.values()]
        parts = flat.split(sizes, dim=-1)
        return {
            name: part.reshape(flat.shape[:-1] + value.shape)
            for (name, value), part in zip(self.initial.items(), parts, strict=True)
        }

    def constrain(self, flat: Tensor) -> tuple[Draws, Tensor]:
        """Return θ = T⁻¹(u) by site and log |det ∂θ/∂u|, shape (S,), for u of shape (S, n)."""
        draws, log_det = {}, flat.new_zeros(len(flat))
        for name, u in self.unflatten(flat).items():
            inverse = self.transforms[name].inv
            draws[name] = inverse(u)
            jacobian = inverse.log_abs_det_jacobian(u, draws[name])
            log_det = log_det + jacobian.reshape(len(flat), -1).sum(dim=1)
        return draws, log_det
