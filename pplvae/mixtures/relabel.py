"""Relabeling: one numbering of a mixture's components for all draws of its posterior.

Nothing tells the K components apart, so the posterior is the same under all K! numberings, and
means, R-hat and ESS of a single component say nothing while draws switch between them. Each
draw is therefore renumbered to fit a reference mixture, by the permutation π that makes

    Σ_k |loc_{π(k)} − reference loc_k|²   (coordinates in units of the components' mean sd)

least, an assignment problem. The reference is the mean of the draws so renumbered, found by turns:
neither step can raise the sum of squares over all draws.

Reference:
    Stephens (2000), Dealing with label switching in mixture models,
    https://doi.org/10.1111/1467-9868.00265
"""

from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pplvae.infer import Posterior
from pplvae.mixtures.mixture import GaussianMixture

SITES = {
    "weights": 1, "locs": 2, "scales": 2, "correlation_trils": 3, "scale_trils": 3,
    "pivots": 2, "shears": 2,
}  # fmt: skip
MOST_TURNS = 50

Found = TypeVar("Found", bound=Posterior)


def relabel(
    posterior: Found,
    reference: GaussianMixture | None = None,
    *,
    start: GaussianMixture | None = None,
    sites: Collection[str] = (),
) -> Found:
    """Return the posterior with the components of each draw renumbered.

    Args:
        posterior: Of a mixture: draws of `weights`, shape (C, S, K), and `locs`, (C, S, K, D).
        reference: Whose numbering to take; the posterior's own where None, as its draw of highest
            `lp`, or its first one, numbers them.
        start: Whose numbering the posterior's own is to begin with, instead of a draw's.
        sites: Further sites whose first own axis is K, to be renumbered with `weights`, `locs`,
            `scales`, `scale_trils` and the model's other sites.

    Returns:
        The same draws, likelihoods and costs. `diagnostics["label_modes"]` counts the numberings
        that the draws had before.

    Raises:
        ValueError: If the draws are no mixture's, or the reference has other numbers of components
            or dimensions, or a site has not K components.
    """
    locs, scale = _located(posterior)
    names = _indexed(posterior, sites)
    begin = _start(posterior, locs, start if reference is None else reference)
    order = _matched(locs, scale, begin, turn=reference is None)
    index = torch.from_numpy(order).to(posterior.draws["locs"].device)
    moved = {name: _permuted(posterior.draws[name], index) for name in names}
    modes = {"label_modes": float(len(np.unique(order, axis=0)))}
    return replace(
        posterior,
        draws=posterior.draws | moved,
        diagnostics=posterior.diagnostics | modes,
    )


def num_numberings(posterior: Posterior) -> int:
    """Return between how many numberings of the components the draws of a mixture switch.

    Raises:
        ValueError: If the draws are no mixture's.
    """
    locs, scale = _located(posterior)
    order = _matched(locs, scale, _start(posterior, locs, None), turn=True)
    return len(np.unique(order, axis=0))


def _located(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Return the locs, shape (C·S, K, D), and the unit of each coordinate, shape (D,)."""
    draws = posterior.draws
    shapes = {name: tuple(draws[name].shape) for name in ("weights", "locs") if name in draws}
    if len(shapes) < 2 or len(shapes["locs"]) != 4 or shapes["weights"] != shapes["locs"][:3]:
        raise ValueError(
            "posterior must have draws of weights (C, S, K) and locs (C, S, K, D), "
            f"got {shapes or sorted(draws)}"
        )
    locs = _array(draws["locs"]).reshape(-1, *shapes["locs"][2:])
    if "scale_trils" in draws and draws["scale_trils"].dim() == 5:
        scale = np.sqrt(np.square(_array(draws["scale_trils"])).sum(axis=-1).mean(axis=(0, 1, 2)))
    else:
        scale = locs.std(axis=(0, 1))
    return locs, np.where(scale > 0, scale, 1.0)


def _indexed(posterior: Posterior, sites: Collection[str]) -> list[str]:
    """Return the sites to renumber: those known, where they are one for each component."""
    draws, components = posterior.draws, posterior.draws["weights"].shape[2]
    known = [
        name
        for name, axes in SITES.items()
        if name in draws and draws[name].dim() == 2 + axes and draws[name].shape[2] == components
    ]
    for name in sites:
        if name not in draws or draws[name].dim() < 3 or draws[name].shape[2] != components:
            got = tuple(draws[name].shape[2:]) if name in draws else "no such site"
            raise ValueError(f"sites must have {components} components, got {name} with {got}")
    return list(dict.fromkeys([*known, *sites]))


def _start(
    posterior: Posterior, locs: np.ndarray, reference: GaussianMixture | None
) -> np.ndarray:
    if reference is None:
        log_joint = posterior.sample_stats.get("lp")
        return locs[0 if log_joint is None else int(log_joint.reshape(-1).argmax())]
    found = _array(reference.locs)
    if found.shape != locs.shape[1:]:
        raise ValueError(
            f"reference must have {locs.shape[1]} components in {locs.shape[2]} dimensions, "
            f"got {reference}"
        )
    return found


def _matched(locs: np.ndarray, scale: np.ndarray, center: np.ndarray, *, turn: bool) -> np.ndarray:
    """Return which component of each draw takes each place, shape (S, K)."""
    scaled, center = locs / scale, center / scale
    order = _assigned(scaled, center)
    for _ in range(MOST_TURNS if turn else 0):
        center = np.take_along_axis(scaled, order[..., None], axis=1).mean(axis=0)
        before, order = order, _assigned(scaled, center)
        if (order == before).all():
            break
    return order


def _assigned(locs: np.ndarray, center: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    costs = np.square(center[None, :, None] - locs[:, None]).sum(axis=-1)
    order = costs.argmin(axis=-1)
    # Where the nearest components of all places differ, no assignment is better.
    for row in np.flatnonzero((np.sort(order, axis=1) != np.arange(locs.shape[1])).any(axis=1)):
        order[row] = linear_sum_assignment(costs[row])[1]
    return order


def _permuted(draws: Tensor, order: Tensor) -> Tensor:
    """Return draws (C, S, K, …) with the components of each in its own order, (C·S, K)."""
    flat = draws.flatten(0, 1)
    return flat[torch.arange(len(flat), device=flat.device)[:, None], order].reshape(draws.shape)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()
