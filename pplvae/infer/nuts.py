"""The No-U-Turn sampler: draws that converge to the posterior itself.

Chains run one after another, chain c from seed + c, so that the draws do not depend on how many
cores the machine has.

Reference:
    Hoffman & Gelman (2014), The No-U-Turn Sampler, https://jmlr.org/papers/v15/hoffman14a.html
"""

from typing import Any

import torch
from pyro.infer import MCMC, NUTS

from pplvae import randomness
from pplvae.infer.posterior import Meter, Posterior, provenance
from pplvae.infer.program import Draws, Model, evaluate, inspect, untouched
from pplvae.infer.unconstrained import Potential
from pplvae.validation import check_in_range, check_whole


def fit(
    model: Model,
    *data: Any,
    num_draws: int = 1000,
    warmup_steps: int = 500,
    num_chains: int = 4,
    target_accept_prob: float = 0.8,
    max_tree_depth: int = 10,
    init: dict[str, Any] | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> Posterior:
    """Return draws of the No-U-Turn sampler.

    Args:
        model: A Pyro model with continuous latent sites.
        data: Its arguments.
        num_draws: Draws S kept in each chain, at least 4.
        warmup_steps: Steps before them, which set the step size and the mass matrix.
        num_chains: Chains C.
        target_accept_prob: Acceptance rate that the step size is set for; higher is more careful.
        max_tree_depth: Most doublings of a trajectory.
        init: Where sites start, in their own space; at random where not given.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the draws; chain c starts from seed + c.
        progress: Whether to show a progress bar for each chain.

    Returns:
        The posterior, with `diverging` and `lp` (the log joint) among its statistics. There is no
        log evidence: the sampler does not know the normalizer.
    """
    check_whole("num_draws", num_draws, 4)
    check_whole("num_chains", num_chains, 1)
    check_whole("warmup_steps", warmup_steps, 0)
    check_whole("max_tree_depth", max_tree_depth, 1)
    check_in_range("target_accept_prob", target_accept_prob, 0.01, 0.999)
    meter, seed, chains = Meter(), randomness.resolve(seed), []
    for chain in range(num_chains):
        with untouched((seed + chain) % (randomness.MAX_SEED + 1)):
            potential = Potential(model, data, init)
            kernel = NUTS(
                potential_fn=potential, target_accept_prob=target_accept_prob,
                max_tree_depth=max_tree_depth,
            )  # fmt: skip
            mcmc = MCMC(
                kernel, num_samples=num_draws, warmup_steps=warmup_steps,
                initial_params=potential.initial, transforms=potential.transforms,
                disable_progbar=not progress,
            )  # fmt: skip
            mcmc.run()
            diverging = torch.zeros(num_draws, dtype=torch.bool)
            diverging[mcmc.diagnostics()["divergences"]["chain 0"]] = True
            # Pyro's step sizes have the default dtype, which can be wider than the model's.
            samples = {n: v.to(potential.initial[n]) for n, v in mcmc.get_samples().items()}
            chains.append((samples, diverging))
            meter.gradients += potential.calls
    draws = {name: torch.cat([found[name] for found, _ in chains]) for name in chains[0][0]}
    with untouched(seed):
        found = evaluate(model, data, draws, pointwise=pointwise)
        program = inspect(model, *data)
    return Posterior(
        draws=_by_chain(draws | found.deterministic, num_chains),
        cost=meter.read(),
        method=f"NUTS, {num_chains} × ({warmup_steps} + {num_draws})",
        log_likelihood=_by_chain(found.log_likelihood, num_chains),
        observed=program.observed,
        sample_stats={
            "diverging": torch.stack([diverging for _, diverging in chains]),
            "lp": found.log_joint.reshape(num_chains, -1),
        },
        provenance=provenance(seed, program.dtype),
    )


def _by_chain(draws: Draws, num_chains: int) -> Draws:
    return {n: value.reshape(num_chains, -1, *value.shape[1:]) for n, value in draws.items()}
