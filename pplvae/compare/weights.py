"""Importance weights of a guide's draws, log p(x, θ) − log q(θ).

The engines sum discrete sites of the model out. A guide may draw them itself: then they count in
both densities, and the two programs need only run at the same values.
"""

from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor

from pplvae.infer import guides
from pplvae.infer.evaluation import TOLERANCE, evaluate
from pplvae.infer.program import BLOCK, Draws, Model, check_sees_all, inspect, sample_sites


def log_weights(model: Model, guide: Model, data: tuple[Any, ...], num_draws: int) -> Tensor:
    """Return log p(x, θ_s) − log q(θ_s) in nats of draws from a guide, shape (S,).

    Many draws share one run where the programs bear one more plate, in blocks of bounded memory.

    Args:
        model: A Pyro model.
        guide: A Pyro guide of the same arguments.
        data: Their arguments.
        num_draws: How many draws S.

    Raises:
        ValueError: If the guide leaves a site of the model out that is not to be summed out, or
            has no density of the model's sites, or they see a subsample of their data.
    """
    with torch.no_grad(), poutine.block():
        sites = sample_sites(poutine.trace(guide).get_trace(*data))
    if any(s["fn"].support.is_discrete and not s["is_observed"] for s in sites.values()):
        return _discrete_log_weights(model, guide, data, num_draws)
    program = inspect(model, *data)
    together = guides.together(model, guide, data, program).given
    if not guides.has_density(guide, data, program):
        raise ValueError(
            "guide must have a density of the model's latent sites, got a point mass or sites "
            f"that the model lacks among {list(sites)}"
        )
    draws, log_q = guides.draw(guide, data, program, num_draws, together)
    return evaluate(model, data, draws, pointwise=False).log_joint - log_q


def _discrete_log_weights(
    model: Model, guide: Model, data: tuple[Any, ...], num_draws: int
) -> Tensor:
    with torch.no_grad(), poutine.block():
        traces = _traces(model, guide, data)
        _check_sites(*traces)
        sites = [s for trace in traces for s in _drawn(trace).values()]
        depth = max(len(s["fn"].batch_shape) for s in sites)
        terms = sum(s["log_prob"].numel() for s in sites)
        size = max(1, BLOCK // terms) if _bears_plate(model, guide, data, depth) else 1
        parts = [
            _difference(*_traces(model, guide, data, here, depth), here)
            for here in (min(size, num_draws - start) for start in range(0, num_draws, size))
        ]
    return torch.cat(parts)


def _traces(
    model: Model, guide: Model, data: tuple[Any, ...], size: int = 1, depth: int = 0,
    values: Draws | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Return traces of the model and of the guide at the same draws, with log probabilities."""
    with pyro.plate("_draws", size, dim=-1 - depth) if size > 1 else nullcontext():
        drawn: Any = poutine.trace(poutine.condition(guide, values or {})).get_trace(*data)
        found = {name: site["value"] for name, site in sample_sites(drawn).items()}
        joint: Any = poutine.trace(poutine.condition(model, found)).get_trace(*data)
    joint.compute_log_prob()
    drawn.compute_log_prob()
    return joint, drawn


def _difference(joint: Any, drawn: Any, size: int = 1) -> Tensor:
    """Return log p(x, θ_s) − log q(θ_s), shape (S,), of traces in a plate of S draws."""
    log_p, log_q = (
        torch.stack([s["log_prob"].reshape(size, -1).sum(dim=1) for s in _drawn(trace).values()])
        for trace in (joint, drawn)
    )
    return log_p.sum(dim=0) - log_q.sum(dim=0)


def _drawn(trace: Any) -> dict[str, Any]:
    """Return the sites that have a density."""
    sites = sample_sites(trace)
    return {n: site for n, site in sites.items() if not site["infer"].get("_deterministic")}


def _check_sites(joint: Any, drawn: Any) -> None:
    """Refuse a guide of other sites than the model's latent ones, points, and subsamples."""
    theirs, ours = _drawn(joint), _drawn(drawn)
    missing = [name for name, site in theirs.items() if not site["is_observed"]]
    extra = [name for name in ours if name not in theirs]
    if missing or extra:
        raise ValueError(
            "guide with discrete sites must sample every latent site of the model and no other, "
            f"got {f'no {missing}' if missing else extra}"
        )
    points = [name for name, site in ours.items() if isinstance(site["fn"], Delta)]
    if points:
        raise ValueError(f"guide must have a density of its sites, got a point mass of {points}")
    check_sees_all(theirs)


def _bears_plate(model: Model, guide: Model, data: tuple[Any, ...], depth: int) -> bool:
    """Return whether two draws in a plate, outermost, are weighed as each alone."""
    alone = _drawn(_traces(model, guide, data)[1])
    try:
        joint, drawn = _traces(model, guide, data, 2, depth)
        together = _difference(joint, drawn, 2)
    except Exception:  # what is wrong with the programs themselves has been raised above
        return False
    sites = _drawn(drawn)
    draws = {n: sites[n]["value"].reshape(2, *alone[n]["value"].shape) for n in sites}
    single = [
        _difference(*_traces(model, guide, data, values={n: v[s] for n, v in draws.items()}))
        for s in range(2)
    ]
    return torch.allclose(together, torch.cat(single), *TOLERANCE, equal_nan=True)
