"""The Pyro program that assumes a Gaussian mixture; how it is fitted is said elsewhere."""

import pyro
import pyro.distributions as dist
from pyro.ops.indexing import Vindex
from torch import Tensor

from pplvae.mixtures.columns import column_scales
from pplvae.mixtures.covariances import FORMS, Full
from pplvae.mixtures.distribution import MixtureOfNormals
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.validation import (
    Array,
    as_points,
    as_tensor,
    check_one_of,
    check_positive,
    check_whole,
)


def model(
    x: Array,
    num_components: int,
    *,
    covariance: str = "full",
    prior: NormalInverseWishart | None = None,
    concentration: float = 1.0,
    loc: Array | None = None,
    scale: Array | None = None,
    scale_spread: float = 1.0,
    correlation_concentration: float = 1.0,
    enumerate_assignments: bool = False,
    subsample_size: int | None = None,
) -> None:
    """Pyro model of the points: a Gaussian mixture with a prior that fits their place and units.

        w ~ Dirichlet(concentration),   loc_k ~ Normal(loc, scale),
        scale_k ~ LogNormal(log scale, scale_spread),   R_k R_kᵀ ~ LKJ(correlation_concentration),
        x_n ~ Σ_k w_k Normal(loc_k, L_k L_kᵀ)   with   L_k = diag(scale_k) R_k.

    By default `loc` and `scale` are the mean and the standard deviation of each column of the
    data. Such a prior has looked at the data, if only at their place and units; one known
    beforehand goes in by hand. A conjugate `prior` takes the place of all this, with Bartlett's
    independent numbers as sites: B_k lower triangular, Ψ = C Cᵀ,

        B_ii² ~ ChiSquared(ν − D + i),   B_ij ~ Normal(0, 1),   L_k = C B_k⁻¹,
        loc_k ~ Normal(m, L_k L_kᵀ / κ).

    These are of full covariances. Tied, there is one scale and one R, or one B, for all
    components; "diag" leaves R and the B_ij out; "spherical" has one scale for each component, its
    prior median the root mean square of `scale`. `covariances` has the law of B for each form.

    Args:
        x: Data, shape (N, D).
        num_components: The number of components K.
        covariance: Their form: "full", "tied", "diag" or "spherical".
        prior: A conjugate prior, as `gibbs.fit` has it, instead of the next five arguments.
        concentration: Of the symmetric Dirichlet prior of the weights.
        loc: Prior mean of the means, shape () or (D,), in units of x.
        scale: Prior standard deviation of the means and prior median of the components' scales,
            shape () or (D,), in units of x; a constant column counts as spread like the others.
        scale_spread: Standard deviation of the log scales.
        correlation_concentration: 1 for uniform correlation matrices, more for weaker ones.
        enumerate_assignments: Whether each point's component is a site of its own, for
            `TraceEnum_ELBO`, rather than summed out by the density.
        subsample_size: Points in a minibatch, drawn anew in each call; None for all. All N take
            (N, K, D) numbers.

    Sites:
        weights: Latent, shape (K,).
        locs: Latent, shape (K, D).
        scales: Latent, shape (K, D); tied (1, D), spherical (K, 1).
        correlation_trils: Latent, shape (K, D, D) or tied (1, D, D), where D > 1.
        pivots: B_ii², latent, shaped like `scales`, with a conjugate `prior` instead of these two.
        shears: B_ij, latent, shape (K, D (D − 1) / 2) or tied (1, …), likewise, where D > 1.
        scale_trils: Deterministic, shape (K, D, D).
        assignment: Discrete, in plate `data`, where `enumerate_assignments`.
        x: Observed, in plate `data`, shape (N, D).

    Raises:
        ValueError: If the data are not finite or, without a prior's scale, all the same; if a
            prior's parameter is not positive, or it has not the data's dimension.
    """
    x = as_points(x)
    check_whole("num_components", num_components, 1)
    check_one_of("covariance", covariance, FORMS)
    form = FORMS[covariance]
    if prior is None:
        found = _separate(
            x, num_components, form, concentration=concentration, loc=loc, scale=scale,
            scale_spread=scale_spread, correlation_concentration=correlation_concentration,
        )  # fmt: skip
    else:
        found = _conjugate(x, num_components, form, prior)
    weights, locs, scale_trils = found

    with pyro.plate("data", len(x), subsample_size=subsample_size, device=str(x.device)):
        batch = pyro.subsample(x, event_dim=1)
        if enumerate_assignments:
            choice = dist.Categorical(weights)
            k = pyro.sample("assignment", choice, infer={"enumerate": "parallel"})
            # Vindex, not locs[k]: particles and enumeration put dimensions on the left of both.
            locs, scale_trils = Vindex(locs)[..., k, :], Vindex(scale_trils)[..., k, :, :]
            pyro.sample("x", dist.MultivariateNormal(locs, scale_tril=scale_trils), obs=batch)
        else:
            pyro.sample("x", MixtureOfNormals(weights, locs, scale_trils), obs=batch)


def sites(
    mixture: GaussianMixture,
    prior: NormalInverseWishart | None = None,
    covariance: str = "full",
) -> dict[str, Tensor]:
    """Return the values of the model's latent sites that make `mixture`, under that prior.

    Covariances that are not of the form are replaced by the nearest that are.
    """
    form = FORMS[covariance]
    scales = form.nearest(mixture.scale_trils, mixture.weights)
    found = {"weights": mixture.weights, "locs": mixture.locs}
    return found | scale_sites(scales, form, mixture.dim, prior)


def scale_sites(
    scales: Tensor, form: Full, dim: int, prior: NormalInverseWishart | None
) -> dict[str, Tensor]:
    """Return the values of the sites that make the scales, shape (…, K, …) as the form has it."""
    if prior is not None:
        root = form.factor(form.reduce(prior.scatter.to(scales)))[0]
        pivots, shears = form.to_bartlett(root, scales, dim=dim)
        return {"pivots": pivots} | ({"shears": shears} if form.num_shears(dim) else {})
    if not form.linear:
        return {"scales": scales}
    widths = scales.square().sum(dim=-1).sqrt()
    return {"scales": widths} | (
        {"correlation_trils": scales / widths.unsqueeze(-1)} if dim > 1 else {}
    )


def _separate(
    x: Tensor,
    num_components: int,
    form: Full,
    *,
    concentration: float,
    loc: Array | None,
    scale: Array | None,
    scale_spread: float,
    correlation_concentration: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample weights, locs and scale_trils from independent priors."""
    loc = x.mean(dim=0) if loc is None else as_tensor(loc, name="loc").to(x)
    scale = column_scales(x) if scale is None else as_tensor(scale, name="scale").to(x)
    for name, value in (
        ("concentration", concentration),
        ("scale", scale),
        ("scale_spread", scale_spread),
        ("correlation_concentration", correlation_concentration),
    ):
        check_positive(name, value)
    dim = x.shape[1]
    concentrations = x.new_full((num_components,), concentration)
    weights = pyro.sample("weights", dist.Dirichlet(concentrations))
    loc, scale = loc.expand(num_components, dim), scale.expand(num_components, dim)
    locs = pyro.sample("locs", dist.Normal(loc, scale).to_event(2))
    num = 1 if form.tied else num_components
    widths = form.widths(scale[:num])
    scales = pyro.sample("scales", dist.LogNormal(widths.log(), scale_spread).to_event(2))
    if form.linear:
        scales = scales.unsqueeze(-1) * _correlation_trils(num, dim, correlation_concentration, x)
    trils = form.trils(scales, num_components, dim)
    return weights, locs, pyro.deterministic("scale_trils", trils, event_dim=3)


def _conjugate(
    x: Tensor, num_components: int, form: Full, prior: NormalInverseWishart
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample weights, locs and scale_trils from the conjugate prior."""
    dim = x.shape[1]
    prior.check_dim(dim)
    concentration = x.new_full((num_components,), prior.concentration)
    weights = pyro.sample("weights", dist.Dirichlet(concentration))
    root = form.factor(form.reduce(prior.scatter.to(x)))[0]
    degrees = x.new_full((1 if form.tied else num_components,), prior.degrees)
    pivots = pyro.sample("pivots", dist.Chi2(form.pivot_counts(degrees, dim)).to_event(2))
    shears = None
    if form.num_shears(dim):
        normal = dist.Normal(x.new_zeros(len(degrees), form.num_shears(dim)), 1.0)
        shears = pyro.sample("shears", normal.to_event(2))
    scales = form.from_bartlett(root, pivots, shears, dim=dim)
    trils = form.trils(scales, num_components, dim)
    scale_trils = pyro.deterministic("scale_trils", trils, event_dim=3)
    normal = dist.MultivariateNormal(prior.loc.to(x), scale_tril=scale_trils / prior.strength**0.5)
    return weights, pyro.sample("locs", normal.to_event(1)), scale_trils


def _correlation_trils(num: int, dim: int, concentration: float, like: Tensor) -> Tensor:
    """Sample Cholesky factors of correlations, shape (num, D, D); in one dimension, ones."""
    if dim == 1:  # LKJCholesky begins at two dimensions
        return like.new_ones(num, 1, 1)
    prior = dist.LKJCholesky(dim, like.new_full((num,), concentration))
    return pyro.sample("correlation_trils", prior.to_event(1))
