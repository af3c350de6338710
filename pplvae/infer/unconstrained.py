"""A model's log joint on all of R^n, where optimizers and samplers move.

Each latent site θ is mapped to u = T(θ) by a smooth bijection onto the reals, and the potential is

    U(u) = − log p(x, T⁻¹(u)) − log |det ∂T⁻¹/∂u|.
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer.autoguide.initialization import init_to_uniform, init_to_value
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from pplvae.infer.program import Draws, Model, Program, inspect
from pplvae.validation import MOST_SHOWN, as_tensor


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

    Attributes:
        initial: A start, by site, in unconstrained space.
        calls: How often U has been computed.
    """

    def __init__(
        self, model: Model, data: tuple[Any, ...], init: dict[str, Any] | None = None
    ) -> None:
        program = inspect(model, *data)
        start, self._energy, self.transforms, _ = initialize_model(
            model, data, max_plate_nesting=program.max_plate_nesting,
            init_strategy=init_strategy(init, program),
        )  # fmt: skip
        self.initial: Draws = {name: value.detach() for name, value in start.items()}
        self.calls = 0

    def __call__(self, site_values: Draws) -> Tensor:
        """Return U in nats, shape (), for a value by site."""
        self.calls += 1
        # A search may step where the model's numbers overflow: that is an energy, not an error.
        with pyro.validation_enabled(False):
            return self._energy(site_values)

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
