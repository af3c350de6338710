"""What the engines ask of a Pyro model: its sites, and log p(x, θ) of many draws at once.

A model is only a function. One run of it under a trace shows the latent sites and their shapes,
the observed ones, and how deep its plates nest; the same model conditioned on draws gives their
log joint.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pplvae import randomness

Model: TypeAlias = Callable[..., Any]
Draws: TypeAlias = dict[str, Tensor]
One: TypeAlias = Callable[[Draws], dict[tuple[str, str], Tensor]]  # what is said of one draw

TOLERANCE = 1e-4, 1e-4  # relative and absolute: right, not equal to the bit
BLOCK = 2**18  # log-likelihood terms computed at once; each may need many numbers on its way


@dataclass(frozen=True)
class Program:
    """The anatomy of a model, seen in one run.

    Attributes:
        latent: Shape of each latent site.
        supports: Pyro's constraint on each latent site, in this run.
        batch_dims: How many leading axes of each latent site come from plates and batches.
        observed: The data, by site.
        batch_shapes: Shape of each observed site's log-likelihood.
        deterministic: Shape of each deterministic site.
        max_plate_nesting: How deep plates and batches nest.
        dtype: The floating-point type of the latent sites.
        device: Where they live.
    """

    latent: dict[str, torch.Size]
    supports: dict[str, Any]
    batch_dims: dict[str, int]
    observed: dict[str, Tensor]
    batch_shapes: dict[str, torch.Size]
    deterministic: dict[str, torch.Size]
    max_plate_nesting: int
    dtype: torch.dtype
    device: torch.device

    @property
    def num_observations(self) -> int:
        """How many terms the log-likelihood of one draw has."""
        return sum(shape.numel() for shape in self.batch_shapes.values())


@dataclass(frozen=True)
class Evaluation:
    """What a model says of S draws of its latent sites.

    Attributes:
        log_joint: log p(x, θ_s) in nats, shape (S,).
        log_likelihood: log p(x_n | θ_s) in nats by observed site, shapes (S, N, …).
        deterministic: Values of the deterministic sites, shapes (S, …).
    """

    log_joint: Tensor
    log_likelihood: Draws
    deterministic: Draws


@contextmanager
def untouched(seed: int | None) -> Iterator[int]:
    """Seed the block, and put random states and Pyro's parameter store back after it.

    The block sees the caller's parameters; those that it adds are gone in the end.

    Yields:
        The seed in use.
    """
    store = pyro.get_param_store()
    with store.scope(store.get_state()), randomness.scope(seed) as seed:
        yield seed


def inspect(model: Model, *data: Any) -> Program:
    """Return the anatomy of `model`, from one run on `data` that draws from the prior.

    Raises:
        ValueError: If it has no latent site, or a discrete one, or sees a subsample of its data.
    """
    with poutine.block(), torch.no_grad():
        sites = sample_sites(poutine.trace(model).get_trace(*data))
    computed = {n: s for n, s in sites.items() if s["infer"].get("_deterministic")}
    observed = {n: s for n, s in sites.items() if s["is_observed"] and n not in computed}
    latent = {n: s for n, s in sites.items() if not s["is_observed"]}
    discrete = [n for n, s in latent.items() if s["fn"].support.is_discrete]
    if not latent:
        raise ValueError("model must have a latent site to infer, got none")
    if discrete:
        raise ValueError(
            f"model must have continuous latent sites only, got the discrete {discrete}: "
            "sum them out in the model"
        )
    partial = [f.name for s in sites.values() for f in s["cond_indep_stack"] if _subsamples(f)]
    if partial:
        raise ValueError(
            f"model must see all of its data, got a subsample in plate {partial[0]!r}"
        )
    first = next(iter(latent.values()))["value"]
    return Program(
        latent={name: site["value"].shape for name, site in latent.items()},
        supports={name: site["fn"].support for name, site in latent.items()},
        batch_dims={name: len(site["fn"].batch_shape) for name, site in latent.items()},
        observed={name: torch.as_tensor(s["value"]).detach() for name, s in observed.items()},
        batch_shapes={name: site["fn"].batch_shape for name, site in observed.items()},
        deterministic={name: site["value"].shape for name, site in computed.items()},
        max_plate_nesting=max(map(_depth, sites.values())),
        dtype=first.dtype,
        device=first.device,
    )


def evaluate(
    model: Model, data: tuple[Any, ...], draws: Draws, *, pointwise: bool = True
) -> Evaluation:
    """Return what `model` says of draws of its latent sites, in blocks of bounded memory.

    The draws of a block share one run, by `torch.func.vmap`. A model that does not bear it, or
    then says something else than of each draw alone, is run draw by draw.

    Args:
        model: The model.
        data: Its arguments.
        draws: Values of every latent site, shapes (S, …).
        pointwise: Whether to keep the S × N log-likelihoods.
    """
    program = inspect(model, *data)

    def one(draw: Draws) -> dict[tuple[str, str], Tensor]:
        trace: Any = poutine.trace(poutine.condition(model, draw)).get_trace(*data)
        trace.compute_log_prob()
        found = {("log_joint", ""): trace.log_prob_sum()}
        found |= {("value", n): trace.nodes[n]["value"] for n in program.deterministic}
        if pointwise:
            found |= {("log_prob", n): trace.nodes[n]["log_prob"] for n in program.observed}
        return found

    with torch.no_grad(), poutine.block():
        run = _together if _bears_vmap(one, draws) else _one_by_one
        parts = [run(one, block) for block in _blocks(program, draws)]
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return Evaluation(
        log_joint=found["log_joint", ""],
        log_likelihood={name: v for (kind, name), v in found.items() if kind == "log_prob"},
        deterministic={name: v for (kind, name), v in found.items() if kind == "value"},
    )


def runs_in_plate(model: Model, data: tuple[Any, ...], program: Program, draws: Draws) -> bool:
    """Return whether a model is right of draws of shapes (S, …) inside one more plate, outermost.

    That is how Pyro evaluates several particles at once.
    """
    depth, size = program.max_plate_nesting, num_draws(draws)
    placed = {
        name: draws[name].reshape(size, *[1] * (depth - program.batch_dims[name]), *shape)
        for name, shape in program.latent.items()
    }
    with torch.no_grad(), poutine.block():
        alone = [_log_joint(model, data, {n: v[s] for n, v in draws.items()}) for s in range(size)]
        try:
            with pyro.plate("_draws", size, dim=-1 - depth):
                together = _log_joint(model, data, placed, size)
        except Exception:  # what is wrong with the model itself has been raised above
            return False
    return torch.allclose(together, torch.cat(alone), *TOLERANCE, equal_nan=True)


def sample_sites(trace: Any) -> dict[str, Any]:
    """Return the sample sites of a Pyro trace, without those that plates add."""
    nodes: Any = prune_subsample_sites(trace).nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}


def num_draws(draws: Draws) -> int:
    """Return S, the common first axis of the draws."""
    return len(next(iter(draws.values())))


def _subsamples(frame: Any) -> bool:
    return frame.full_size is not None and frame.full_size != frame.size


def _depth(site: Any) -> int:
    """Return how deep a site's plates nest, or its batch where it has not declared its plates."""
    batch = 0 if site["infer"].get("_deterministic") else len(site["fn"].batch_shape)
    return max([batch, *(-f.dim for f in site["cond_indep_stack"] if f.vectorized)])


def _blocks(program: Program, draws: Draws) -> Iterator[Draws]:
    size = max(1, BLOCK // max(1, program.num_observations))
    for start in range(0, num_draws(draws), size):
        yield {name: value[start : start + size] for name, value in draws.items()}


def _bears_vmap(one: One, draws: Draws) -> bool:
    some = {name: value[:2] for name, value in draws.items()}
    alone = _one_by_one(one, some)
    try:
        together = _together(one, some)
    except Exception:  # a model is anyone's code; what is wrong with it has been raised above
        return False
    return all(
        torch.allclose(together[key], alone[key], *TOLERANCE, equal_nan=True) for key in alone
    )


def _together(one: One, draws: Draws) -> dict[tuple[str, str], Tensor]:
    # Checks look at values, which vmap forbids; warnings the caller has seen from one draw.
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.func.vmap(one)(draws)


def _one_by_one(one: One, draws: Draws) -> dict[tuple[str, str], Tensor]:
    results = [one({n: v[s] for n, v in draws.items()}) for s in range(num_draws(draws))]
    return {key: torch.stack([result[key] for result in results]) for key in results[0]}


def _log_joint(model: Model, data: tuple[Any, ...], draws: Draws, size: int = 1) -> Tensor:
    """Return log p(x, θ), shape (size,), of draws on the outermost axis."""
    trace: Any = poutine.trace(poutine.condition(model, draws)).get_trace(*data)
    trace.compute_log_prob()
    sites = [s for s in sample_sites(trace).values() if not s["infer"].get("_deterministic")]
    return torch.stack([s["log_prob"].reshape(size, -1).sum(dim=1) for s in sites]).sum(dim=0)
