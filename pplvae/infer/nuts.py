"""The No-U-Turn sampler: draws that converge to the posterior itself.

Chains run one after another on one thread, chain c from seed + c, so that the draws do not depend
on how many cores the machine has.

Reference:
    Hoffman & Gelman (2014), The No-U-Turn Sampler, https://jmlr.org/papers/v15/hoffman14a.html
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import MCMC, NUTS

from pplvae import randomness
from pplvae.infer.evaluation import evaluate
from pplvae.infer.posterior import Meter, Posterior, provenance
from pplvae.infer.program import Draws, Model, inspect, untouched
from pplvae.infer.unconstrained import Potential
from pplvae.validation import check_in_range, check_whole

MIN_STEPS = 100  # of a chain, below which compiling its potential costs more than it saves


def fit(
    model: Model,
    *data: Any,
    num_draws: int = 1000,
    warmup_steps: int = 500,
    num_chains: int = 4,
    target_accept_prob: float = 0.8,
    max_tree_depth: int = 10,
    jit: bool | None = None,
    init: dict[str, Any] | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> Posterior:
    """Return draws of the No-U-Turn sampler.

    Args:
        model: A Pyro model with continuous latent sites; discrete ones are summed out.
        data: Its arguments.
        num_draws: Draws S kept in each chain, at least 4.
        warmup_steps: Steps before them, which set the step size and the mass matrix.
        num_chains: Chains C.
        target_accept_prob: Acceptance rate that the step size is set for; higher is more careful.
        max_tree_depth: Most doublings of a trajectory.
        jit: Whether to compile the potential, some three times faster, where that is right (see
            `infer.compiled`); where not, the model is run as it is. None compiles for chains of
            100 steps or more.
        init: Where sites start, in their own space; at random where not given.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the draws; chain c starts from seed + c.
        progress: Whether to show a progress bar for each chain.

    Returns:
        The posterior. Its statistics of each draw, by ArviZ's names: `lp`, the log joint;
        `diverging`; `energy`, U plus the kinetic energy at the start of the trajectory, which
        keeps it but for the error of its steps; `n_steps`, gradients taken; `tree_depth`,
        doublings begun; `acceptance_rate`, the mean over the trajectory; `step_size`. There is no
        log evidence: the sampler does not know the normalizer.
    """
    check_whole("num_draws", num_draws, 4)
    check_whole("num_chains", num_chains, 1)
    check_whole("warmup_steps", warmup_steps, 0)
    check_whole("max_tree_depth", max_tree_depth, 1)
    check_in_range("target_accept_prob", target_accept_prob, 0.01, 0.999)
    meter, seed, chains = Meter(), randomness.resolve(seed), []
    compiles = warmup_steps + num_draws >= MIN_STEPS if jit is None else jit
    for chain in range(num_chains):
        with untouched((seed + chain) % (randomness.MAX_SEED + 1)), _one_thread():
            potential = Potential(model, data, init)
            if compiles:
                potential.compile()
            kernel = _Kernel(
                potential, target_accept_prob=target_accept_prob, max_tree_depth=max_tree_depth
            )
            chains.append(_run_chain(kernel, num_draws, warmup_steps, progress))
            meter.gradients += potential.calls
    draws, stats = (
        {name: torch.stack([chain[part][name] for chain in chains]) for name in chains[0][part]}
        for part in (0, 1)
    )
    with untouched(seed):
        flat = {name: value.flatten(0, 1) for name, value in draws.items()}
        found = evaluate(model, data, flat, pointwise=pointwise)
        program = inspect(model, *data)
    return Posterior(
        draws=draws | _by_chain(found.deterministic, num_chains),
        cost=meter.read(),
        method=f"NUTS, {num_chains} × ({warmup_steps} + {num_draws})",
        log_likelihood=_by_chain(found.log_likelihood, num_chains),
        observed=program.observed,
        sample_stats={"lp": found.log_joint.reshape(num_chains, -1), **stats},
        provenance=provenance(seed, program.dtype),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread in the block.

    With more it sums many numbers (some 30,000) in as many parts: a rounding error, which a
    trajectory makes large.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Kernel(NUTS):
    """Pyro's sampler that keeps what it knows of each draw, but does not tell."""

    def __init__(self, potential: Potential, **settings: Any) -> None:
        super().__init__(potential_fn=potential, **settings)
        self.potential = potential
        self._energy, self._rows = math.nan, []

    def sample(self, params: Any) -> Any:
        calls, mean = self.potential.calls, self._mean_accept_prob
        params = super().sample(params)
        draw = self._t - (self._warmup_steps or 0)
        if draw > 0:
            steps = self.potential.calls - calls
            # Pyro keeps the mean over the draws so far.
            rate = min(max(mean + (self._mean_accept_prob - mean) * draw, 0.0), 1.0)
            row = self._energy, steps, steps.bit_length(), rate, float(self.step_size)
            self._rows.append(row)
        return params

    def _sample_r(self, name: str) -> Any:
        r, unscaled = super()._sample_r(name)
        potential: Any = self._potential_energy_last
        self._energy = float(self._kinetic_energy(unscaled) + potential)
        return r, unscaled

    def stats(self) -> Draws:
        """Return the statistics of each draw by ArviZ's names, shapes (S,)."""
        names = "energy", "n_steps", "tree_depth", "acceptance_rate", "step_size"
        columns = zip(*self._rows, strict=True)
        return {name: torch.tensor(c) for name, c in zip(names, columns, strict=True)}


def _run_chain(
    kernel: _Kernel, num_draws: int, warmup_steps: int, progress: bool
) -> tuple[Draws, Draws]:
    """Return the draws of one chain, shapes (S, …), and their statistics, shapes (S,)."""
    start = kernel.potential.initial
    mcmc = MCMC(
        kernel, num_samples=num_draws, warmup_steps=warmup_steps, initial_params=start,
        transforms=kernel.potential.transforms, disable_progbar=not progress,
    )  # fmt: skip
    mcmc.run()
    diverging = torch.zeros(num_draws, dtype=torch.bool)
    diverging[mcmc.diagnostics()["divergences"]["chain 0"]] = True
    # Pyro's step sizes have the default dtype, which can be wider than the model's.
    draws = {name: value.to(start[name]) for name, value in mcmc.get_samples().items()}
    return draws, {"diverging": diverging, **kernel.stats()}


def _by_chain(draws: Draws, num_chains: int) -> Draws:
    return {n: value.reshape(num_chains, -1, *value.shape[1:]) for n, value in draws.items()}
