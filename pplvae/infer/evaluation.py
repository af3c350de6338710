"""log p(x, θ) of many draws at once: in one more plate, by vmap, or one by one.

Discrete latent sites z of finitely many values are summed out, p(x, θ) = Σ_z p(x, z, θ), each
value on an axis of its own.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from pplvae.infer.program import (
    BLOCK,
    Draws,
    Model,
    Program,
    depth_of,
    enumerated_trace,
    inspect,
    num_draws,
    sample_sites,
)

Said: TypeAlias = dict[tuple[str, str], Tensor]  # what a model says of S draws, shapes (S, …)
Say: TypeAlias = Callable[[Draws], Said]

TOLERANCE = 1e-4, 1e-4  # relative and absolute: right, not equal to the bit


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


def evaluate(
    model: Model, data: tuple[Any, ...], draws: Draws, *, pointwise: bool = True
) -> Evaluation:
    """Return what `model` says of draws of its latent sites, in blocks of bounded memory.

    The draws of a block share one run, by `torch.func.vmap`. A model that does not bear it, or
    then says something else than of each draw alone, is run draw by draw. Where enumerated sites
    tie observations together (a Markov chain), so that these are not independent given θ, there
    are no pointwise log-likelihoods.

    Args:
        model: The model.
        data: Its arguments.
        draws: Values of every latent site, shapes (S, …).
        pointwise: Whether to keep the S × N log-likelihoods.
    """
    program = inspect(model, *data)

    def say(draws: Draws) -> Said:
        return _say(model, data, program, draws, pointwise)

    with torch.no_grad(), poutine.block():
        run = _fastest(say, program, draws)
        parts = [run(block) for block in _blocks(program, draws)]
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    log_likelihood = {name: v for (kind, name), v in found.items() if kind == "log_prob"}
    if program.enumerated and pointwise and _ties(found):
        log_likelihood = {}
    return Evaluation(
        log_joint=found["log_joint", ""],
        log_likelihood=log_likelihood,
        deterministic={name: v for (kind, name), v in found.items() if kind == "value"},
    )


def runs_in_plate(model: Model, data: tuple[Any, ...], program: Program, draws: Draws) -> bool:
    """Return whether a model is right of draws of shapes (S, …) inside one more plate, outermost.

    That is how Pyro evaluates several particles at once.
    """
    return _agrees(log_joint_in_plate, model, data, program, draws)


def bears_vmap(model: Model, data: tuple[Any, ...], program: Program, draws: Draws) -> bool:
    """Return whether a model is right of draws of shapes (S, …) under `torch.func.vmap`."""
    return _agrees(log_joint_by_vmap, model, data, program, draws)


def _agrees(
    log_joint: Callable[..., Tensor],
    model: Model,
    data: tuple[Any, ...],
    program: Program,
    draws: Draws,
) -> bool:
    """Return whether a way to take several draws at once says the same as one by one."""
    with torch.no_grad(), poutine.block():
        alone = [
            log_joint_in_plate(model, data, program, {n: v[s : s + 1] for n, v in draws.items()})
            for s in range(num_draws(draws))
        ]
        return says_the_same(lambda: log_joint(model, data, program, draws), torch.cat(alone))


def says_the_same(together: Callable[[], Tensor], alone: Tensor) -> bool:
    """Return whether a way to take several draws at once runs, and finds what each alone did.

    Args:
        together: The way: a program is anyone's code, and what it raises here is a no. What is
            wrong with the program itself has been raised by each alone.
        alone: What was found one by one.
    """
    try:
        found = together()
    except Exception:
        return False
    return torch.allclose(found.to(alone), alone, *TOLERANCE, equal_nan=True)


def log_joint_in_plate(
    model: Model, data: tuple[Any, ...], program: Program, draws: Draws
) -> Tensor:
    """Return log p(x, θ_s) in nats, shape (S,), by one run of `model` in a plate of S draws."""
    trace = _trace_in_plate(model, data, program, draws)
    return _log_joint(trace, bool(program.enumerated), num_draws(draws))


def log_joint_by_vmap(
    model: Model, data: tuple[Any, ...], program: Program, draws: Draws
) -> Tensor:
    """Return log p(x, θ_s) in nats, shape (S,), by one run of `model` under `torch.func.vmap`."""

    def one(draw: Draws) -> Tensor:
        trace = _conditioned_trace(model, data, program, draw, program.max_plate_nesting)
        return _log_joint(trace, bool(program.enumerated)).squeeze(0)

    with poutine.block(), pyro.validation_enabled(False):  # checks look at values
        return torch.func.vmap(one)(draws)


def log_evidence_of_discrete(model: Model, data: tuple[Any, ...]) -> float | None:
    """Return log p(x) in nats of a model all of whose latent sites are summed out, else None."""
    with torch.no_grad(), poutine.block():
        sites = sample_sites(poutine.trace(model).get_trace(*data))
        latent = [site["fn"] for site in sites.values() if not site["is_observed"]]
        if not all(law.support.is_discrete and law.has_enumerate_support for law in latent):
            return None
        trace = enumerated_trace(model, data, max(map(depth_of, sites.values()), default=0))
        trace.compute_log_prob()
        return _log_joint(trace, enumerated=True).item()


def _blocks(program: Program, draws: Draws) -> Iterator[Draws]:
    size = max(1, BLOCK // max(1, program.num_terms))
    for start in range(0, num_draws(draws), size):
        yield {name: value[start : start + size] for name, value in draws.items()}


def _say(
    model: Model, data: tuple[Any, ...], program: Program, draws: Draws, pointwise: bool
) -> Said:
    """Return what a model says of S draws, by one run in a plate of them."""
    size, trace = num_draws(draws), _trace_in_plate(model, data, program, draws)
    said = {("log_joint", ""): _log_joint(trace, bool(program.enumerated), size)}
    for name, shape in program.deterministic.items():
        said["value", name] = trace.nodes[name]["value"].reshape(size, *shape)
    if pointwise:
        for name, value in _pointwise(trace, program, size).items():
            said["log_prob", name] = value
        prior = [trace.nodes[name]["log_prob"].reshape(size, -1) for name in program.latent]
        said["log_prior", ""] = torch.cat(prior, dim=1).sum(dim=1)
    return said


def _fastest(say: Say, program: Program, draws: Draws) -> Say:
    """Return the fastest way to let a model speak of draws that says the same as one by one."""

    def mapped(draws: Draws) -> Said:
        one = torch.func.vmap(lambda draw: say({n: v.unsqueeze(0) for n, v in draw.items()}))
        return {key: value.squeeze(1) for key, value in one(draws).items()}

    def alone(draws: Draws) -> Said:
        parts = [say({n: v[s : s + 1] for n, v in draws.items()}) for s in range(num_draws(draws))]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    # vmap takes any model without branches on values; Pyro's enumeration is one, a plate takes it.
    together = _quietly(say if program.enumerated else mapped)
    return together if _agree(together, alone, {n: v[:2] for n, v in draws.items()}) else alone


def _quietly(say: Say) -> Say:
    def quiet(draws: Draws) -> Said:
        # Checks look at values, which vmap forbids; warnings the caller has seen from one draw.
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return say(draws)

    return quiet


def _agree(together: Say, alone: Say, draws: Draws) -> bool:
    expected = alone(draws)
    try:
        found = together(draws)
    except Exception:  # a model is anyone's code; what is wrong with it has been raised above
        return False
    return all(
        torch.allclose(found[key], expected[key], *TOLERANCE, equal_nan=True) for key in expected
    )


def _trace_in_plate(model: Model, data: tuple[Any, ...], program: Program, draws: Draws) -> Any:
    """Return the trace of a model at S draws in one more plate, outermost; at one, without it."""
    size, depth = num_draws(draws), program.max_plate_nesting
    if size == 1:
        return _conditioned_trace(model, data, program, {n: v[0] for n, v in draws.items()}, depth)
    placed = {
        name: draws[name].reshape(size, *[1] * (depth - program.batch_dims[name]), *shape)
        for name, shape in program.latent.items()
    }

    def in_plate(*data: Any) -> None:
        with pyro.plate("_draws", size, dim=-1 - depth):
            model(*data)

    return _conditioned_trace(in_plate, data, program, placed, depth + 1)


def _conditioned_trace(
    model: Model, data: tuple[Any, ...], program: Program, draw: Draws, depth: int
) -> Any:
    """Return the trace of a model at given values, with log probabilities."""
    conditioned = poutine.condition(model, draw)
    if program.enumerated:
        trace: Any = enumerated_trace(conditioned, data, depth)
    else:
        trace = poutine.trace(conditioned).get_trace(*data)
    trace.compute_log_prob()
    return trace


def _log_joint(trace: Any, enumerated: bool, size: int = 1) -> Tensor:
    """Return log p(x, θ_s), shape (S,), of a trace; S > 1 draws are in the plate `_draws`."""
    sites = sample_sites(trace)
    if not enumerated:
        terms = [s for s in sites.values() if not s["infer"].get("_deterministic")]
        return torch.stack([s["log_prob"].reshape(size, -1).sum(dim=1) for s in terms]).sum(dim=0)
    trace.pack_tensors()
    plates, factors = trace.plate_to_symbol, OrderedDict()
    for site in sites.values():
        frames = frozenset(plates[f.name] for f in site["cond_indep_stack"] if f.vectorized)
        factors.setdefault(frames, []).append(site["packed"]["log_prob"])
    summed = set(trace.symbol_to_dim) - set(plates.values())
    kept = frozenset({plates["_draws"]} if "_draws" in plates else ())
    return contract_to_tensor(factors, summed, target_ordinal=kept).reshape(size)


def _pointwise(trace: Any, program: Program, size: int) -> Draws:
    """Return log p(x_n | θ_s) by observed site, the discrete sites of its plates summed out."""
    sites = sample_sites(trace)
    found = {name: sites[name]["log_prob"] for name in program.observed}
    for name in program.enumerated:
        for other in program.observed:
            if sites[name]["cond_indep_stack"] == sites[other]["cond_indep_stack"]:
                found[other] = found[other] + sites[name]["log_prob"]
    depth = program.max_plate_nesting + (size > 1)
    return {
        name: _summed_out(value, depth).reshape(size, *program.batch_shapes[name])
        for name, value in found.items()
    }


def _summed_out(log_prob: Tensor, depth: int) -> Tensor:
    """Return the log of the sum over the values of discrete sites, the axes left of `depth`."""
    extra = log_prob.dim() - depth
    return log_prob.logsumexp(dim=list(range(extra))) if extra > 0 else log_prob


def _ties(found: Said) -> bool:
    """Whether the log-likelihoods do not add up: then the x_n are not independent given θ."""
    log_prior, total = found["log_prior", ""], found["log_joint", ""]
    terms = [
        v.reshape(len(v), -1).sum(dim=1) for (kind, _), v in found.items() if kind == "log_prob"
    ]
    together = torch.stack([log_prior, *terms]).sum(dim=0)
    return together.shape != total.shape or not torch.allclose(together, total, *TOLERANCE)
