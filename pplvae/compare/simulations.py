"""Simulated data sets of one model and design, and SVI of all of them in one run.

Simulations i = 1 … M are independent, so that the ELBO of a guide that is a product over them is
the sum of their ELBOs, and Adam, whose steps do not depend on a gradient's scale, fits each as if
it were alone. A mean-field guide is such a product.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform, Unit
from torch import Tensor

from pplvae.infer import Posterior, svi
from pplvae.infer.evaluation import log_joint_by_vmap, log_joint_in_plate, says_the_same
from pplvae.infer.program import Draws, Model, inspect, sample_sites

# Log p(x_i, θ_i) in nats of many simulations, shape (M,), from their data and parameters.
LogJoint: TypeAlias = Callable[[Draws, Draws], Tensor]

# One particle leaves the sd of TwoNN 3 % too wide, two 1.5 %.
SVI: dict[str, Any] = {"learning_rate": 0.05, "num_particles": 2, "pointwise": False}
MOST_LOST = 0.05  # of simulations whose data overflow


class Study:
    """A model and its design, to be simulated and fitted.

    Attributes:
        program: The model's anatomy.
        in_plate: Whether simulations can share a run in one more plate.
        together: Whether they can share a run at all, in a plate or by `torch.func.vmap`.
    """

    def __init__(self, model: Model, data: tuple[Any, ...]) -> None:
        self.model, self.data, self.program = model, data, inspect(model, *data)
        if not self.program.observed:
            raise ValueError("model must observe something to be calibrated, got no observed site")
        some = self._drawn_alone(2)
        self.shapes = {name: value.shape[1:] for name, value in some.items()}
        truth, seen = self._split(some)
        self.in_plate = self._agrees(self._log_joint_in_plate, truth, seen)
        self.together = self.in_plate or self._agrees(self._log_joint_by_vmap, truth, seen)

    def simulate(self, size: int) -> tuple[Draws, Draws]:
        """Return true parameters and data by site, shapes (M, …), of M = `size` simulations.

        Raises:
            ValueError: If more than 1 in 20 have data that are not finite.
        """
        many = math.ceil(size * (1 + MOST_LOST))
        drawn = self._drawn_in_plate(many) if self.in_plate else self._drawn_alone(many)
        truth, seen = self._split(drawn)
        finite = [value.reshape(many, -1).isfinite().all(dim=1) for value in seen.values()]
        good = torch.stack(finite).all(dim=0).nonzero().squeeze(1)[:size]
        if len(good) < size:
            raise ValueError(
                "model must draw finite data in 19 simulations of 20, got "
                f"{len(good)} of {many}: take a prior that leads to smaller numbers"
            )
        return _rows(truth, good), _rows(seen, good)

    def fit_together(self, truth: Draws, seen: Draws, **settings: Any) -> Posterior:
        """Return draws by one SVI of all simulations; its sites have M on an axis of their own."""
        # At its own truth a fit of too few steps would look better than it is.
        start = {name: value.roll(1, dims=0) for name, value in truth.items()}
        if self.in_plate:
            model = poutine.condition(self._in_plate(_size(truth)), self._placed(seen))
            start = self._placed(start)
        else:
            model = self._in_one_term(start, seen)
        return svi.fit(model, *self.data, init=start, **SVI, **settings)

    def fit_alone(self, seen: Draws, **settings: Any) -> Posterior:
        """Return draws by SVI of one simulation."""
        model = poutine.condition(self.model, seen)
        return svi.fit(model, *self.data, progress=False, **SVI, **settings)

    def _in_plate(self, size: int) -> Model:
        def plated(*data: Any) -> None:
            with pyro.plate("_simulations", size, dim=-1 - self.program.max_plate_nesting):
                self.model(*data)

        return plated

    def _in_one_term(self, start: Draws, seen: Draws) -> Model:
        """Return a program whose log joint is the sum of all simulations', computed by vmap."""
        # Told of as many terms as there are, the evaluation of draws keeps its memory bounded.
        terms = _size(start) * self.program.num_terms

        def joint(*data: Any) -> None:
            draws = {
                name: pyro.sample(name, _Flat(self.program.supports[name], value))
                for name, value in start.items()
            }
            log_joint = self._log_joint_by_vmap(draws, seen).sum()
            with pyro.plate("_terms", terms):
                pyro.factor("_log_joint", (log_joint / terms).expand(terms))

        return joint

    def _log_joint_in_plate(self, truth: Draws, seen: Draws) -> Tensor:
        model = poutine.condition(self.model, self._placed(seen))
        return log_joint_in_plate(model, self.data, self.program, truth)

    def _log_joint_by_vmap(self, truth: Draws, seen: Draws) -> Tensor:
        return log_joint_by_vmap(self.model, self.data, self.program, truth | seen)

    def _agrees(self, together: LogJoint, truth: Draws, seen: Draws) -> bool:
        """Return whether a way to take simulations together says the same as one by one."""
        with torch.no_grad(), poutine.block():
            alone = []
            for i in range(_size(truth)):
                model = poutine.condition(self.model, {n: v[i] for n, v in seen.items()})
                one = {name: value[i : i + 1] for name, value in truth.items()}
                alone.append(log_joint_in_plate(model, self.data, self.program, one))
            return says_the_same(lambda: together(truth, seen), torch.cat(alone))

    def _split(self, drawn: Draws) -> tuple[Draws, Draws]:
        """Return the continuous latent sites' values and the observed sites'."""
        latent, observed = self.program.latent, self.program.observed
        return {name: drawn[name] for name in latent}, {name: drawn[name] for name in observed}

    def _drawn_alone(self, size: int) -> Draws:
        runs = [_drawn(self.model, self.data) for _ in range(size)]
        return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}

    def _drawn_in_plate(self, size: int) -> Draws:
        drawn = _drawn(self._in_plate(size), self.data)
        return {name: drawn[name].reshape(size, *shape) for name, shape in self.shapes.items()}

    def _placed(self, values: Draws) -> Draws:
        """Return values, shapes (M, …), with an axis of 1 for each plate that a site is not in."""
        program, depth = self.program, self.program.max_plate_nesting
        dims = program.batch_dims | {n: len(shape) for n, shape in program.batch_shapes.items()}
        return {
            name: value.reshape(len(value), *[1] * (depth - dims[name]), *value.shape[1:])
            for name, value in values.items()
        }


class _Flat(ImproperUniform):
    """A density of 1 on a support, in which a draw is `start`."""

    def __init__(self, support: Any, start: Tensor) -> None:
        super().__init__(support, torch.Size(), start.shape)
        self.start = start

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.start.expand(torch.Size(sample_shape) + self.start.shape)


def _drawn(model: Model, data: tuple[Any, ...]) -> Draws:
    """Return one draw of all sites, the observed ones too."""
    with torch.no_grad(), poutine.block():
        sites = sample_sites(poutine.trace(poutine.uncondition(model)).get_trace(*data))
    terms = [name for name, site in sites.items() if isinstance(site["fn"], Unit)]
    if terms:
        raise ValueError(f"model must draw its data to be calibrated, got pyro.factor {terms}")
    kept = {n: s for n, s in sites.items() if not s["infer"].get("_deterministic")}
    return {name: site["value"] for name, site in kept.items()}


def _rows(values: Draws, rows: Tensor) -> Draws:
    return {name: value[rows] for name, value in values.items()}


def _size(values: Draws) -> int:
    """Return M, the common first axis."""
    return len(next(iter(values.values())))
