"""A Gaussian mixture's posterior by a normal approximation, started at EM's optimum.

The guide is a normal over the weights, means and covariances in unconstrained space, made by
variational inference or, by Laplace's method, from the curvature at the mode. It covers one of the
K! ways to number the components: its draws need no relabeling, and its log evidence is short of
the whole by about log K! where the components are well apart.
"""

from functools import partial
from typing import Any

from pplvae.infer import laplace, svi
from pplvae.infer import map as mode
from pplvae.mixtures.columns import column_scales
from pplvae.mixtures.covariances import FORMS
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.model import model, sites
from pplvae.mixtures.optimum import given_or_found
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.validation import Array, as_points, check_one_of

GUIDES = ("mean_field", "full_rank", "low_rank", "laplace", "map")


def fit(
    x: Array,
    num_components: int,
    *,
    covariance: str = "full",
    prior: NormalInverseWishart | None = None,
    guide: str = "mean_field",
    enumerate_assignments: bool = False,
    num_steps: int = 1000,
    learning_rate: float = 0.02,
    num_particles: int = 1,
    num_draws: int = 1000,
    start: GaussianMixture | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> MixturePosterior:
    """Fit a normal guide to the posterior of a Gaussian mixture.

    Args:
        x: Data, shape (N, D); the fit is in double precision.
        num_components: The number of components K.
        covariance: Their form: "full", "tied", "diag" or "spherical".
        prior: A conjugate prior; where None, that of `model`.
        guide: "mean_field", "full_rank" or "low_rank" by variational inference; "laplace", as wide
            as the curvature at the mode says; "map", the mode itself, one draw.
        enumerate_assignments: Whether Pyro sums the assignments out, rather than the density:
            the same posterior, many times slower.
        num_steps: Steps of Adam, each on all of the data, or most steps towards the mode.
        learning_rate: The first step size of Adam; it falls to 0 along a cosine.
        num_particles: Draws from the guide in each step.
        num_draws: Draws S taken from the fitted guide.
        start: Where the guide starts; EM's optimum where None.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: Start of the random draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are not more points than components, or an argument is impossible.
    """
    check_one_of("guide", guide, GUIDES)
    check_one_of("covariance", covariance, FORMS)
    x = as_points(x, min_points=num_components + 1).double()
    if prior is not None:
        prior.check_dim(x.shape[1])
    start = given_or_found(start, x, num_components, covariance, seed=seed, progress=progress)
    program = partial(
        model, num_components=num_components, covariance=covariance, prior=prior,
        enumerate_assignments=enumerate_assignments,
        loc=x.mean(dim=0), scale=column_scales(x),  # the model's own, found once for all steps
    )  # fmt: skip
    known: dict[str, Any] = {
        "init": sites(start, prior, covariance),
        "pointwise": pointwise,
        "seed": seed,
    }
    if guide == "map":
        found = mode.fit(program, x, max_steps=num_steps, **known)
    elif guide == "laplace":
        found = laplace.fit(program, x, max_steps=num_steps, num_draws=num_draws, **known)
    else:
        found = svi.fit(
            program, x, guide=guide, num_steps=num_steps, learning_rate=learning_rate,
            num_particles=num_particles, num_draws=num_draws, progress=progress, **known,
        )  # fmt: skip
    return MixturePosterior.of(found, start)
