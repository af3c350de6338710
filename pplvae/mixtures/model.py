"""The Pyro program that assumes a Gaussian mixture; how it is fitted is said elsewhere."""

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from pplvae.mixtures.mixture import column_scales
from pplvae.validation import Array, as_points, as_tensor, check_positive, check_whole


def model(
    x: Array,
    num_components: int,
    *,
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
    beforehand goes in by hand.

    Args:
        x: Data, shape (N, D).
        num_components: The number of components K.
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
        scale_trils: Deterministic, shape (K, D, D).
        assignment: Discrete, in plate `data`, where `enumerate_assignments`.
        x: Observed, in plate `data`, shape (N, D).

    Raises:
        ValueError: If the data are not finite or, without `scale`, all the same; if a prior's
            parameter is not positive.
    """
    x = as_points(x)
    check_whole("num_components", num_components, 1)
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
    scale_trils = pyro.deterministic("scale_trils", scale_trils, event_dim=3)

    with pyro.plate("data", len(x), subsample_size=subsample_size, device=str(x.device)):
        batch = pyro.subsample(x, event_dim=1)
        choice = dist.Categorical(weights)
        if enumerate_assignments:
            k = pyro.sample("assignment", choice, infer={"enumerate": "parallel"})
            # Vindex, not locs[k]: particles and enumeration put dimensions on the left of both.
            locs, scale_trils = Vindex(locs)[..., k, :], Vindex(scale_trils)[..., k, :, :]
            pyro.sample("x", dist.MultivariateNormal(locs, scale_tril=scale_trils), obs=batch)
        else:
            components = dist.MultivariateNormal(locs, scale_tril=scale_trils)
            pyro.sample("x", dist.MixtureSameFamily(choice, components), obs=batch)


def _correlation_trils(shape: torch.Size, concentration: Tensor) -> Tensor:
    """Sample Cholesky factors of correlation matrices, shape (K, D, D); in one dimension, ones."""
    num_components, dim = shape
    if dim == 1:  # LKJCholesky begins at two dimensions
        return torch.ones_like(concentration).expand(num_components, 1, 1)
    prior = dist.LKJCholesky(dim, concentration.expand(num_components))
    return pyro.sample("correlation_trils", prior.to_event(1))
