"""A Gaussian mixture's posterior by block Gibbs sampling, under the conjugate prior.

The assignments given the mixture are independent, and the mixture given the assignments is of the
prior's family (n points, mean x̄ and scatter S about it in a component):

    p(k | x_n) ∝ w_k Normal(x_n | loc_k, Σ_k),      w ~ Dirichlet(α + n),
    Σ_k ~ InverseWishart(ν + n, Ψ + S + κ n / (κ + n) (x̄ − m)(x̄ − m)ᵀ),
    loc_k | Σ_k ~ Normal((κ m + n x̄) / (κ + n), Σ_k / (κ + n)).

Where the covariances have a simpler form, the inverse-Wishart law is restricted to it: all
components' points count for the one tied Σ, and variances are inverse gamma (`covariances`). How
a sweep through both is made quick is said in `sweeps`.

Reference:
    Diebolt & Robert (1994), Estimation of finite mixture distributions through Bayesian sampling;
    Gelman et al. (2013), Bayesian Data Analysis, section 3.6 and chapter 22.
"""

from dataclasses import replace
from functools import partial

from torch import Tensor
from tqdm import trange

from pplvae import randomness
from pplvae.infer import Posterior
from pplvae.infer.evaluation import evaluate
from pplvae.infer.posterior import Meter, provenance
from pplvae.infer.program import Draws, untouched
from pplvae.mixtures.covariances import FORMS, Full
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.model import model, scale_sites
from pplvae.mixtures.optimum import given_or_found
from pplvae.mixtures.posterior import MixturePosterior, scattered
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.mixtures.sweeps import Sampler
from pplvae.validation import Array, as_points, check_one_of, check_whole


def fit(
    x: Array,
    num_components: int,
    *,
    covariance: str = "full",
    prior: NormalInverseWishart | None = None,
    num_draws: int = 2000,
    warmup_steps: int = 500,
    num_chains: int = 4,
    permuted_starts: bool = False,
    start: GaussianMixture | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> MixturePosterior:
    """Return draws of the Gibbs sampler.

    Args:
        x: Data, shape (N, D); the fit is in double precision.
        num_components: The number of components K.
        covariance: Their form: "full", "tied", "diag" or "spherical".
        prior: The conjugate prior; `NormalInverseWishart.default` of the data where None.
        num_draws: Sweeps S kept in each chain.
        warmup_steps: Sweeps before them.
        num_chains: Chains C, run together, each from a start of its own: EM's means moved by two
            of their standard errors.
        permuted_starts: Whether chain c begins its numbering at the c-th component.
        start: Where the chains start instead of EM's optimum.
        pointwise: Whether to keep the C × S × N log-likelihoods.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Returns:
        The posterior, with the sites that the Pyro model has under this prior, and `lp` as NUTS
        has it.

    Raises:
        ValueError: If there are not more points than components, or an argument is impossible.
    """
    check_one_of("covariance", covariance, FORMS)
    check_whole("num_draws", num_draws, 1)
    check_whole("warmup_steps", warmup_steps, 0)
    check_whole("num_chains", num_chains, 1)
    meter, seed = Meter(), randomness.resolve(seed)
    x = as_points(x, min_points=num_components + 1).double()
    if prior is None:
        prior = NormalInverseWishart.default(x, num_components)
    prior.check_dim(x.shape[1])
    start = given_or_found(start, x, num_components, covariance, seed=seed, progress=progress)
    rng = randomness.generator(seed)
    starts = scattered(start, len(x), num_chains, permuted=permuted_starts, rng=rng)
    form = FORMS[covariance]
    sampler = Sampler(x, prior, randomness.generator(seed, x.device), form)
    state, kept = sampler.enter(starts), []
    for step in trange(warmup_steps + num_draws, desc="Gibbs", disable=not progress):
        state = sampler.sweep(state)
        if step >= warmup_steps:
            kept.append(state)
    found = _posterior(
        x, sampler.leave(kept), prior, form, pointwise=pointwise, seed=seed,
        method=f"Gibbs, {num_chains} × ({warmup_steps} + {num_draws})",
    )  # fmt: skip
    return MixturePosterior.of(replace(found, cost=meter.read()), start)


def _posterior(
    x: Tensor,
    draws: Draws,
    prior: NormalInverseWishart,
    form: Full,
    *,
    pointwise: bool,
    seed: int,
    method: str,
) -> Posterior:
    """Return the posterior of draws of weights, locs and scale_trils, shapes (C, S, …)."""
    num_chains, _, num_components, dim = draws["locs"].shape
    scales = form.nearest(draws["scale_trils"], draws["weights"])
    draws = draws | scale_sites(scales, form, dim, prior)
    flat = {name: value.flatten(0, 1) for name, value in draws.items() if name != "scale_trils"}
    program = partial(model, num_components=num_components, covariance=form.name, prior=prior)
    with untouched(seed):
        found = evaluate(program, (x,), flat, pointwise=pointwise)
    return Posterior(
        draws,
        method=method,
        log_likelihood={
            name: value.unflatten(0, (num_chains, -1))
            for name, value in found.log_likelihood.items()
        },
        observed={"x": x},
        sample_stats={"lp": found.log_joint.unflatten(0, (num_chains, -1))},
        provenance=provenance(seed, x.dtype),
    )
