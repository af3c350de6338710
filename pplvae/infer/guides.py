"""What SVI asks of a guide: its parameters, whether it covers the model, draws with their density.

A guide q(θ) is a Pyro program over the model's latent sites. Its draws can be weighed by
p(x, θ) / q(θ) only where q is a density of these sites and of no others.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.autoguide import guides as autoguides
from torch import Tensor, nn
from torch.distributions import biject_to

from pplvae.infer.evaluation import bears_vmap, runs_in_plate
from pplvae.infer.program import BLOCK, Draws, Model, Program, inspect, sample_sites


def own_store() -> None:
    """Make the parameter store one to train in: plain parameters are copies, modules their own.

    What `pyro.module` has left is dropped: a module computes with its own tensors whatever the
    store holds, and is to enter it with them. A PyroModule's parameters stay as they are.
    """
    store = pyro.get_param_store()
    state = store.get_state()
    params = {
        name: value if isinstance(value, nn.Parameter) else value.detach().clone().requires_grad_()
        for name, value in state["params"].items()
        if "$$$" not in name  # how pyro.module joins the names of a module and its parameter
    }
    store.clear()
    constraints = {name: state["constraints"][name] for name in params}
    store.set_state({"params": params, "constraints": constraints})


def parameters(guide: Model, data: tuple[Any, ...]) -> list[Tensor]:
    """Return the unconstrained leaves that a run of the guide reads.

    Raises:
        ValueError: If it reads none.
    """
    found = leaves(guide, data)
    if not found:
        raise ValueError("guide must have a parameter to train, got none")
    return found


def leaves(program: Model, data: tuple[Any, ...]) -> list[Tensor]:
    """Return the unconstrained leaves that a run of a model or guide reads."""
    with poutine.block():
        trace: Any = poutine.trace(program, param_only=True).get_trace(*data)
    return [s["value"].unconstrained() for s in trace.nodes.values() if s["type"] == "param"]


def check_moves(loss: Tensor, leaves: list[Tensor]) -> None:
    """Refuse a loss that depends on none of the leaves: training would do nothing, silently.

    Raises:
        ValueError: If no leaf gets a gradient.
    """
    if loss.requires_grad:
        slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
        if any(slope is not None for slope in slopes):
            return
    raise ValueError(
        f"guide must compute with its parameters, got no gradient for any of its {len(leaves)}: "
        "what it gives to pyro.param or pyro.module is not what it draws with"
    )


def check_covers(guide: Model, data: tuple[Any, ...], program: Program) -> Program:
    """Return the anatomy of a guide, which must sample all latent sites of the model.

    Raises:
        ValueError: If it leaves one out.
    """
    if isinstance(guide, autoguides.AutoGuide):
        return program
    anatomy = inspect(guide, *data)
    missing = [name for name in program.latent if name not in anatomy.latent]
    if missing:
        raise ValueError(f"guide must sample every latent site of the model, got no {missing}")
    return anatomy


def has_density(guide: Model, data: tuple[Any, ...], program: Program) -> bool:
    """Return whether the guide's log density is one of the model's latent sites.

    It is not where a site is a point mass, or where sites that the model lacks count in it. Pyro's
    automatic guides draw such sites in unconstrained space, and then set each of the model's to a
    Delta with the Jacobian as its density: right where the former have as many numbers.
    """
    with torch.no_grad(), poutine.block():
        sites = sample_sites(poutine.trace(guide).get_trace(*data))
    latent = {name: site for name, site in sites.items() if not site["is_observed"]}
    extra = [site for name, site in latent.items() if name not in program.latent]
    deltas = [latent[name] for name in program.latent if _is_delta(latent[name]["fn"])]
    if isinstance(guide, autoguides.AutoGuide):
        drawn = sum(site["value"].numel() for site in extra if not _is_delta(site["fn"]))
        return drawn == sum(_num_free(program, site["name"]) for site in deltas)
    return not extra and all(site["fn"].log_prob(site["value"]).any() for site in deltas)


def _num_free(program: Program, name: str) -> int:
    """Return how many numbers a site of the model has in unconstrained space."""
    shape = biject_to(program.supports[name]).inverse_shape(program.latent[name])
    return torch.Size(shape).numel()


def unwrapped(law: Any) -> Any:
    """Return the distribution that others wrap: an event's, a mask's, a transform's."""
    while hasattr(law, "base_dist"):
        law = law.base_dist
    return law


def _is_delta(law: Any) -> bool:
    return isinstance(unwrapped(law), Delta)


class Together(NamedTuple):
    """How several draws of a guide can be had and weighed in one run."""

    given: bool  # the guide gives them, in a plate
    in_plate: bool  # and the model takes them, in the same plate
    mapped: bool  # or by vmap


def together(model: Model, guide: Model, data: tuple[Any, ...], program: Program) -> Together:
    """Return how several draws of a guide can be had and weighed in one run.

    Raises:
        ValueError: If the guide leaves a latent site of the model out.
    """
    anatomy = check_covers(guide, data, program)
    some, _ = draw(guide, data, anatomy, 2, together=False)
    # Pyro's own guides run in a plate, but their sites are not to be set from outside.
    given = anatomy is program or runs_in_plate(guide, data, anatomy, some)
    in_plate = given and runs_in_plate(model, data, program, some)
    known = given and not in_plate and isinstance(guide, autoguides.AutoGuide)
    return Together(given, in_plate, known and bears_vmap(model, data, program, some))


def draw(
    guide: Model, data: tuple[Any, ...], program: Program, num_draws: int, together: bool
) -> tuple[Draws, Tensor]:
    """Return draws from the guide, shapes (S, …), and their log density, shape (S,)."""
    size = max(1, BLOCK // max(1, program.num_terms)) if together else 1
    with torch.no_grad():
        parts = [
            draw_block(guide, data, program, min(size, num_draws - start))
            for start in range(0, num_draws, size)
        ]
    draws = {name: torch.cat([part[name] for part, _ in parts]) for name in program.latent}
    return draws, torch.cat([log_q for _, log_q in parts])


def draw_block(
    guide: Model, data: tuple[Any, ...], program: Program, size: int
) -> tuple[Draws, Tensor]:
    """Return draws of one run, shapes (S, …), and their log density, shape (S,)."""
    depth = program.max_plate_nesting
    plate = pyro.plate("_draws", size, dim=-1 - depth) if size > 1 else nullcontext()
    with poutine.block():
        with plate:
            trace = poutine.trace(guide).get_trace(*data)
        trace.compute_log_prob()
    sites = sample_sites(trace)
    terms = [
        site["log_prob"].reshape(size, -1).sum(dim=1)
        for site in sites.values()
        if not site["is_observed"]
    ]
    draws = {
        name: sites[name]["value"].reshape(torch.Size([size]) + shape)
        for name, shape in program.latent.items()
    }
    return draws, torch.stack(terms).sum(dim=0)
