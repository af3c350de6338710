"""Simulation-based calibration: does an engine keep what its posteriors promise?

Draw parameters from the prior and data from the likelihood, and infer the ones from the others:

    θ* ~ p(θ),   x* ~ p(x | θ*),   θ_1 … θ_L ~ q(θ | x*),   rank = #{l: θ_l < θ*}.

If q(θ | x) is p(θ | x), the rank is uniform on 0 … L. Ranks heaped at both ends say that q is too
narrow, in the middle too wide, at one end that it is moved to the other. This judges an engine on
one model and design, over data such as the prior foresees.

Reference:
    Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
    calibration, https://arxiv.org/abs/1804.06788
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.compare.calibration import Calibration, check_size
from pplvae.compare.simulations import Study
from pplvae.infer import Posterior
from pplvae.infer.inference_data import scalars
from pplvae.infer.posterior import Meter
from pplvae.infer.program import Draws, Model, untouched
from pplvae.randomness import derive
from pplvae.validation import as_tensor

__all__ = ["Calibration", "calibrate"]

Fit: TypeAlias = Callable[[Draws, int], Posterior]


def calibrate(
    model: Model,
    *data: Any,
    fit: Fit | None = None,
    num_simulations: int = 1000,
    num_draws: int = 199,
    guide: str = "mean_field",
    num_steps: int = 1000,
    seed: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Return the ranks of true parameters among draws from the posteriors that an engine infers.

    Simulated data take the place of observed values by conditioning, not as arguments: a prior
    that looks at its data (`mixtures.model`) stays the one of `data`, in simulations and fits.

    By default SVI is judged. A mean-field guide of M simulations is M mean-field guides, so that
    one run of SVI fits all, in a plate or by `torch.func.vmap`; each starts at the truth of
    another. With another guide, or a model that bears neither, it takes as long as M fits.

    Args:
        model: A Pyro model with observations.
        data: Its arguments, which fix the design: sizes and covariates.
        fit: Another engine, called with simulated data by observed site and with a seed. It must
            use the seed: the same random numbers for each data set would tie their ranks together.

                lambda seen, seed: exact.fit(model, seen["x"], num_draws=199, seed=seed)
                lambda seen, seed: nuts.fit(poutine.condition(model, seen), *data, seed=seed)

            Of more draws than needed every so manieth is taken. Autocorrelated draws make ranks
            uneven however right the engine: let it take enough that those left are independent.
        num_simulations: The number of simulations M, at least 100.
        num_draws: The number of draws L from each posterior, one less than a multiple of 20.
        guide: By name, see `svi.fit`; where there is no `fit`.
        num_steps: Steps of SVI; where there is no `fit`.
        seed: Start of the random numbers.
        progress: Whether to show a progress bar.

    Returns:
        The ranks of the latent sites' numbers; those that never vary are left out.

    Raises:
        ValueError: If the model observes nothing or cannot draw what it observes; if the data of
            more than 1 in 20 simulations overflow (fewer are drawn again: a choice by the data
            alone leaves ranks uniform); if `fit` returns too few draws or leaves a site out.
    """
    check_size(num_simulations, num_draws)
    meter = Meter()
    settings = {"guide": guide, "num_steps": num_steps, "num_draws": num_draws}
    with untouched(seed) as seed:
        study = Study(model, data)
        truth, seen = study.simulate(num_simulations)
        if fit is None and guide == "mean_field" and study.together:
            # Not the seed itself: guide and prior would draw the same numbers.
            own = derive(seed, 0)
            posterior = study.fit_together(truth, seen, seed=own, progress=progress, **settings)
            found = _found(posterior, truth, num_draws)
        else:
            engine = fit or (lambda seen, seed: study.fit_alone(seen, seed=seed, **settings))
            found = _fit_each(engine, (truth, seen), num_draws, seed=seed, progress=progress)
    meter.gradients = found.gradients
    ranks = _by_parameter(found.ranks, truth)
    return Calibration(ranks, num_draws, found.method, meter.read(), seed)


class _Found(NamedTuple):
    """What fits have shown: ranks by site, the engine and its gradient evaluations."""

    ranks: Draws
    method: str
    gradients: int


def _found(posterior: Posterior, truth: Draws, size: int) -> _Found:
    cost = posterior.cost.gradient_evaluations
    return _Found(_ranks(posterior, truth, size), posterior.method, cost)


def _fit_each(
    engine: Fit, simulated: tuple[Draws, Draws], size: int, *, seed: int, progress: bool
) -> _Found:
    """Fit each simulation by itself; true parameters and data have them on their first axis."""
    truth, seen = simulated
    num = len(next(iter(truth.values())))
    parts = []
    for i in tqdm(range(num), "calibration", disable=not progress, leave=False):
        with untouched(derive(seed, i)) as own:
            posterior = engine({name: value[i] for name, value in seen.items()}, own)
        parts.append(_found(posterior, {n: value[i] for n, value in truth.items()}, size))
    ranks = {name: torch.stack([part.ranks[name] for part in parts]) for name in truth}
    return _Found(ranks, parts[0].method, sum(part.gradients for part in parts))


def _ranks(found: Posterior, truth: Draws, size: int) -> Draws:
    """Return how many of `size` draws lie below the truth, by site, in the shape of its truth.

    Raises:
        ValueError: If there are fewer draws, or none of a site, or they are not finite.
    """
    missing = [name for name in truth if name not in found.draws]
    if missing:
        raise ValueError(f"fit must return draws of every latent site, got none of {missing}")
    num = found.num_chains * found.num_draws
    if num < size:
        raise ValueError(f"fit must return at least num_draws = {size} draws, got {num}")
    spaced = torch.arange(size) * num // size
    return {name: _below(found.draws[name], value, spaced, name) for name, value in truth.items()}


def _below(draws: Tensor, truth: Tensor, spaced: Tensor, name: str) -> Tensor:
    draws = as_tensor(draws, name=f"draws of {name}").detach()
    shape = draws.shape[2:]
    if shape.numel() != truth.numel():
        raise ValueError(
            f"draws of {name} must have shape {tuple(truth.shape)}, got {tuple(shape)}"
        )
    flat = draws.reshape(-1, *truth.shape)[spaced.to(draws.device)]
    return (flat < truth.to(flat)).sum(dim=0).cpu()


def _by_parameter(ranks: Draws, truth: Draws) -> dict[str, Tensor]:
    """Return the ranks of each number that varies, shapes (M,), by a name like `locs[0, 1]`."""
    found, values = (
        scalars({name: value.unsqueeze(0).cpu().numpy() for name, value in some.items()})
        for some in (ranks, truth)
    )
    varying = [name for name, value in values.items() if value.min() < value.max()]
    return {name: torch.from_numpy(found[name][0].copy()) for name in varying}
