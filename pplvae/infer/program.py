"""What the engines ask of a Pyro model: its sites, their shapes, and how deep its plates nest.

A model is only a function. One run of it under a trace shows all that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pplvae import randomness

Model: TypeAlias = Callable[..., Any]
Draws: TypeAlias = dict[str, Tensor]

BLOCK = 2**18  # log-likelihood terms computed at once; each may need many numbers on its way


@dataclass(frozen=True)
class Program:
    """The anatomy of a model, seen in one run.

    Attributes:
        latent: Shape of each continuous latent site.
        enumerated: Discrete latent sites, which are summed out.
        supports: Pyro's constraint on each latent site, in this run.
        batch_dims: How many leading axes of each latent site come from plates and batches.
        observed: The data, by site.
        batch_shapes: Shape of each observed site's log-likelihood.
        deterministic: Shape of each deterministic site that no enumerated site moves.
        max_plate_nesting: How deep plates and batches nest.
        num_terms: How many log-likelihood terms of one draw are computed at once.
        dtype: The floating-point type of the latent sites.
        device: Where they live.
    """

    latent: dict[str, torch.Size]
    enumerated: tuple[str, ...]
    supports: dict[str, Any]
    batch_dims: dict[str, int]
    observed: dict[str, Tensor]
    batch_shapes: dict[str, torch.Size]
    deterministic: dict[str, torch.Size]
    max_plate_nesting: int
    num_terms: int
    dtype: torch.dtype
    device: torch.device


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
        ValueError: If it has no continuous latent site, a discrete one that cannot be enumerated,
            one whose support depends on another's value, several precisions to sum over, or sees
            a subsample of its data.
    """
    with poutine.block(), torch.no_grad():
        sites = sample_sites(poutine.trace(model).get_trace(*data))
        depth = max(map(depth_of, sites.values()), default=0)
        latent = {n: s for n, s in sites.items() if not s["is_observed"]}
        enumerated = tuple(n for n, s in latent.items() if s["fn"].support.is_discrete)
        _check_sites(sites, enumerated)
        if any(_edges(site["fn"]) for site in latent.values()):
            _check_edges(latent, sample_sites(poutine.trace(model).get_trace(*data)))
        wide = sites
        if enumerated:
            wide = sample_sites(enumerated_trace(model, data, depth))
            _check_precision(wide, depth)
    computed = {n: s for n, s in sites.items() if s["infer"].get("_deterministic")}
    observed = {n: s for n, s in sites.items() if s["is_observed"] and n not in computed}
    continuous = {n: s for n, s in latent.items() if n not in enumerated}
    first = next(iter(continuous.values()))["value"]
    return Program(
        latent={name: site["value"].shape for name, site in continuous.items()},
        enumerated=enumerated,
        supports={name: site["fn"].support for name, site in continuous.items()},
        batch_dims={name: len(site["fn"].batch_shape) for name, site in continuous.items()},
        observed={name: torch.as_tensor(s["value"]).detach() for name, s in observed.items()},
        batch_shapes={name: site["fn"].batch_shape for name, site in observed.items()},
        deterministic={
            name: site["value"].shape
            for name, site in computed.items()
            if site["value"].shape == wide[name]["value"].shape
        },
        max_plate_nesting=depth,
        num_terms=sum(wide[name]["fn"].batch_shape.numel() for name in observed),
        dtype=first.dtype,
        device=first.device,
    )


def _edges(law: Any) -> list[Tensor]:
    """Return the bounds of a law's support that are tensors, which may depend on other sites."""
    support = law.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    edges = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    return [edge for edge in edges if isinstance(edge, Tensor)]


def _check_edges(sites: dict[str, Any], again: dict[str, Any]) -> None:
    """Refuse supports that differ between two runs: one bijection would not serve all draws."""
    for name, site in sites.items():
        pairs = zip(_edges(site["fn"]), _edges(again[name]["fn"]), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise ValueError(
                f"sites must have a support that does not depend on others' values, got {name!r}: "
                "write it as low + (high - low) * share, with a share in [0, 1] as the site"
            )


def _check_sites(sites: dict[str, Any], discrete: tuple[str, ...]) -> None:
    hard = [name for name in discrete if not sites[name]["fn"].has_enumerate_support]
    if hard:
        raise ValueError(
            f"discrete latent sites must have finitely many values to be summed out, got {hard}"
        )
    if not any(not s["is_observed"] for n, s in sites.items() if n not in discrete):
        raise ValueError(
            "model must have a continuous latent site to infer, got "
            + (f"only the discrete {list(discrete)}" if discrete else "none")
        )
    check_sees_all(sites)


def _check_precision(sites: dict[str, Any], depth: int) -> None:
    """Refuse to sum discrete sites out of log densities in several precisions; Pyro cannot."""
    logs = {name: site["fn"].log_prob(site["value"]) for name, site in sites.items()}
    moved = {name: str(log.dtype) for name, log in logs.items() if log.dim() > depth}
    if len(set(moved.values())) > 1:
        raise ValueError(
            f"sites that discrete ones move must share a precision, got {moved}: convert the data"
        )


def check_sees_all(sites: dict[str, Any]) -> None:
    """Refuse sites in a plate that holds a part of the data only.

    Raises:
        ValueError: If there is such a plate.
    """
    partial = [f.name for s in sites.values() for f in s["cond_indep_stack"] if _subsamples(f)]
    if partial:
        raise ValueError(
            f"model must see all of its data, got a subsample in plate {partial[0]!r}"
        )


def sample_sites(trace: Any) -> dict[str, Any]:
    """Return the sample sites of a Pyro trace, without those that plates add."""
    nodes: Any = prune_subsample_sites(trace).nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}


def num_draws(draws: Draws) -> int:
    """Return S, the common first axis of the draws."""
    return len(next(iter(draws.values())))


def enumerated_trace(model: Model, data: tuple[Any, ...], depth: int) -> Any:
    """Return a trace in which every discrete site takes all of its values, on axes of its own."""
    enumerated = poutine.enum(config_enumerate(model), first_available_dim=-1 - depth)
    return poutine.trace(enumerated).get_trace(*data)


def _subsamples(frame: Any) -> bool:
    return frame.full_size is not None and frame.full_size != frame.size


def depth_of(site: Any) -> int:
    """Return how deep a site's plates nest, or its batch where it has not declared its plates."""
    batch = 0 if site["infer"].get("_deterministic") else len(site["fn"].batch_shape)
    return max([batch, *(-f.dim for f in site["cond_indep_stack"] if f.vectorized)])
