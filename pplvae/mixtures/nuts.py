"""A Gaussian mixture's posterior by the No-U-Turn sampler, with the assignments summed out.

The density and its slope cost an E-step each (see `distribution`). The chains begin about EM's
optimum, which is where the posterior's mass is: one of the K! places alike, between which no
chain is expected to go. Their numberings are made one afterwards.
"""

from functools import partial

from pplvae import randomness
from pplvae.infer import nuts
from pplvae.mixtures.covariances import FORMS
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.model import model, sites
from pplvae.mixtures.optimum import given_or_found
from pplvae.mixtures.posterior import MixturePosterior, joined, scattered
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.validation import Array, as_points, check_one_of, check_whole


def fit(
    x: Array,
    num_components: int,
    *,
    covariance: str = "full",
    prior: NormalInverseWishart | None = None,
    num_draws: int = 1000,
    warmup_steps: int = 500,
    num_chains: int = 4,
    permuted_starts: bool = False,
    target_accept_prob: float = 0.8,
    max_tree_depth: int = 10,
    jit: bool | None = None,
    start: GaussianMixture | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> MixturePosterior:
    """Return draws of the No-U-Turn sampler.

    Args:
        x: Data, shape (N, D); the fit is in double precision.
        num_components: The number of components K.
        covariance: Their form: "full", "tied", "diag" or "spherical".
        prior: A conjugate prior; where None, that of `model`.
        num_draws: Draws S kept in each chain, at least 4.
        warmup_steps: Steps before them, which set the step size and the mass matrix.
        num_chains: Chains C, each from a start of its own: EM's means moved by two of their
            standard errors.
        permuted_starts: Whether chain c begins its numbering at the c-th component.
        target_accept_prob: Acceptance rate that the step size is set for; higher is more careful.
        max_tree_depth: Most doublings of a trajectory.
        jit: Whether to compile the potential; None compiles for chains of 100 steps or more.
        start: Where the chains start instead of EM's optimum.
        pointwise: Whether to keep the C × S × N log-likelihoods.
        seed: Start of the draws; chain c starts from seed + c.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If there are not more points than components, or an argument is impossible.
    """
    check_whole("num_chains", num_chains, 1)
    check_one_of("covariance", covariance, FORMS)
    x = as_points(x, min_points=num_components + 1).double()
    seed = randomness.resolve(seed)
    if prior is not None:
        prior.check_dim(x.shape[1])
    start = given_or_found(start, x, num_components, covariance, seed=seed, progress=progress)
    rng = randomness.generator(seed)
    starts = scattered(start, len(x), num_chains, permuted=permuted_starts, rng=rng)
    program = partial(model, num_components=num_components, covariance=covariance, prior=prior)
    chains = [
        nuts.fit(
            program, x, num_draws=num_draws, warmup_steps=warmup_steps, num_chains=1,
            target_accept_prob=target_accept_prob, max_tree_depth=max_tree_depth, jit=jit,
            init=sites(own, prior, covariance), pointwise=pointwise, progress=progress,
            seed=(seed + chain) % (randomness.MAX_SEED + 1),
        )
        for chain, own in enumerate(starts)
    ]  # fmt: skip
    method = f"NUTS, {num_chains} × ({warmup_steps} + {num_draws})"
    return MixturePosterior.of(joined(chains, method), start)
