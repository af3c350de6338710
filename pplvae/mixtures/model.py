"""The Pyro program that assumes a Gaussian mixture; how it is fitted is said elsewhere."""

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from pplvae.mixtures.distribution import MixtureOfNormals
from pplvae.mixtures.mixture import GaussianMixture, column_scales
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.validation import Array, as_points, as_tensor, check_positive, check_whole


def model(
    x: Array,
    num_components: int,
    *,
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

    Args:
        x: Data, shape (N, D).
        num_components: The number of components K.
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
        scales: Latent, shape (K, D).
        correlation_trils: Latent, shape (K, D, D), where D > 1.
        pivots: B_ii², latent, shape (K, D), with a conjugate `prior` instead of these two.
        shears: B_ij, latent, shape (K, D (D − 1) / 2), likewise, where D > 1.
        scale_trils: Deterministic, shape (K, D, D).
        assignment: Discrete, in plate `data`, where `enumerate_assignments`.
        x: Observed, in plate `data`, shape (N, D).

    Raises:
        ValueError: If the data are not finite or, without a prior's scale, all the same; if a
            prior's parameter is not positive, or it has not the data's dimension.
    """
    x = as_points(x)
    check_whole("num_components", num_components, 1)
    if prior is None:
        found = _separate(
            x, num_components, concentration=concentration, loc=loc, scale=scale,
            scale_spread=scale_spread, correlation_concentration=correlation_concentration,
        )  # fmt: skip
    else:
        found = _conjugate(x, num_components, prior)
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
    mixture: GaussianMixture, prior: NormalInverseWishart | None = None
) -> dict[str, Tensor]:
    """Return the values of the model's latent sites that make `mixture`, under that prior."""
    found = {"weights": mixture.weights, "locs": mixture.locs}
    return found | scale_sites(mixture.scale_trils, prior)


def scale_sites(scale_trils: Tensor, prior: NormalInverseWishart | None) -> dict[str, Tensor]:
    """Return the values of the sites that make the factors, shape (…, K, D, D)."""
    dim, own = scale_trils.shape[-1], {}
    if prior is None:
        scales = scale_trils.square().sum(dim=-1).sqrt()
        own["scales"] = scales
        if dim > 1:
            own["correlation_trils"] = scale_trils / scales.unsqueeze(-1)
        return own
    spread = torch.linalg.cholesky(prior.scatter.to(scale_trils))
    bartlett = torch.linalg.solve_triangular(scale_trils, spread, upper=False)
    own["pivots"] = bartlett.diagonal(dim1=-2, dim2=-1).square()
    if dim > 1:
        row, column = torch.tril_indices(dim, dim, -1, device=scale_trils.device)
        own["shears"] = bartlett[..., row, column]
    return own


def _separate(
    x: Tensor,
    num_components: int,
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
    shape = torch.Size([num_components, x.shape[1]])
    weights = pyro.sample("weights", dist.Dirichlet(x.new_full(shape[:1], concentration)))
    loc, scale = loc.expand(shape), scale.expand(shape)
    locs = pyro.sample("locs", dist.Normal(loc, scale).to_event(2))
    scales = pyro.sample("scales", dist.LogNormal(scale.log(), scale_spread).to_event(2))
    correlation_trils = _correlation_trils(shape, x.new_tensor(correlation_concentration))
    scale_trils = scales.unsqueeze(-1) * correlation_trils
    return weights, locs, pyro.deterministic("scale_trils", scale_trils, event_dim=3)


def _conjugate(
    x: Tensor, num_components: int, prior: NormalInverseWishart
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample weights, locs and scale_trils from the conjugate prior."""
    dim = x.shape[1]
    prior.check_dim(dim)
    concentration = x.new_full((num_components,), prior.concentration)
    weights = pyro.sample("weights", dist.Dirichlet(concentration))
    spread = torch.linalg.cholesky(prior.scatter.to(x))
    bartlett = _bartlett(num_components, prior.degrees, x.new_zeros(dim))
    scale_trils = torch.linalg.solve_triangular(bartlett, spread, upper=False, left=False)
    scale_trils = pyro.deterministic("scale_trils", scale_trils, event_dim=3)
    normal = dist.MultivariateNormal(prior.loc.to(x), scale_tril=scale_trils / prior.strength**0.5)
    return weights, pyro.sample("locs", normal.to_event(1)), scale_trils


def _bartlett(num_components: int, degrees: float, like: Tensor) -> Tensor:
    """Sample lower triangular B, shape (K, D, D), with Bᵀ B ~ Wishart(ν, I)."""
    dim = len(like)
    counts = degrees - dim + 1 + torch.arange(dim).to(like)
    pivots = dist.Chi2(counts.expand(num_components, dim)).to_event(2)
    factor = pyro.sample("pivots", pivots).sqrt().diag_embed()
    if dim == 1:
        return factor
    row, column = torch.tril_indices(dim, dim, -1)
    shears = pyro.sample(
        "shears", dist.Normal(like.new_zeros(num_components, len(row)), 1.0).to_event(2)
    )
    # A product rather than an assignment: whatever has batched the sites, it follows.
    places = torch.nn.functional.one_hot(row * dim + column, dim * dim).to(like)
    return factor + (shears @ places).unflatten(-1, (dim, dim))


def _correlation_trils(shape: torch.Size, concentration: Tensor) -> Tensor:
    """Sample Cholesky factors of correlation matrices, shape (K, D, D); in one dimension, ones."""
    num_components, dim = shape
    if dim == 1:  # LKJCholesky begins at two dimensions
        return torch.ones_like(concentration).expand(num_components, 1, 1)
    prior = dist.LKJCholesky(dim, concentration.expand(num_components))
    return pyro.sample("correlation_trils", prior.to_event(1))
