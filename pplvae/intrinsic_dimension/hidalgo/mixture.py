"""The Pyro model: a mixture of Paretos whose points hear from their neighbors.

    w ~ Dirichlet,   d_k ~ Gamma,   z_i ~ Categorical(w),   μ_i ~ Pareto(1, d_{z_i})

With no more than that it is the plain mixture. What the neighbors of point i say of its part
counts as a likelihood, by Bayes' rule the factor p(z_i = k | the others) / w̄_k, with w̄ the shares
of the parts when that was said. It is held fixed (see `coherence.Neighborhood`), and given it
the points are independent: z is summed out exactly, and the mode in (log d, w) is what
expectation-maximization with belief propagation ends at. What is left out is that at other d the
neighbors would say something else.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from pplvae.intrinsic_dimension.hidalgo.coherence import Neighborhood
from pplvae.validation import Array, as_vector, check_whole

CONCENTRATION, RATE = 1.0, 0.01  # of the Gamma prior of a dimension: nearly flat up to d = 100
SHARES = 2.0  # of the Dirichlet prior: keeps a part that has lost its points at a weight above 0


def model(
    ratios: Array,
    num_parts: int = 2,
    neighborhood: Neighborhood | None = None,
    *,
    zeta: float | None = 0.8,
    concentration: float = CONCENTRATION,
    rate: float = RATE,
) -> None:
    """Pyro model of the ratios of points of K parts.

    Args:
        ratios: μ = r₂ / r₁ of each point, shape (N,).
        num_parts: K.
        neighborhood: What the neighbors say, as `fit(...).neighborhood`; None for independent
            points.
        zeta: The odds ζ : 1 − ζ at which neighbors share a part; None for a latent one, uniform
            on (½, 1), where there is a neighborhood.
        concentration: Shape of the Gamma prior of each dimension.
        rate: Its rate.

    Sites:
        dimensions: d, latent, shape (K,).
        weights: w, latent, shape (K,).
        zeta: ζ, latent where asked for, shape ().
        part: z, discrete, shape (N,), to be summed out.
        neighbors: A factor, what the neighbors say of z.
        ratios: Observed, shape (N,).
    """
    check_whole("num_parts", num_parts, 1)
    ratios = as_vector(ratios, name="ratios")
    ones = torch.ones_like(ratios[:1]).expand(num_parts)
    prior = dist.Gamma(concentration * ones, rate * ones).to_event(1)
    dimensions = pyro.sample("dimensions", prior)
    weights = pyro.sample("weights", dist.Dirichlet(SHARES * ones))
    evidence = None if neighborhood is None else _evidence(neighborhood, zeta, ratios)
    with pyro.plate("points", len(ratios)) as rows:
        part = pyro.sample("part", dist.Categorical(weights), infer={"enumerate": "parallel"})
        if evidence is not None:
            pyro.factor("neighbors", Vindex(evidence)[..., rows, part])
        shape = Vindex(dimensions)[..., part]
        pyro.sample("ratios", dist.Pareto(torch.ones_like(shape), shape), obs=ratios)


def _evidence(neighborhood: Neighborhood, zeta: float | None, like: Tensor) -> Tensor:
    if zeta is not None:
        return neighborhood.evidence(zeta)
    half = torch.full_like(like[0], 0.5)
    return neighborhood.evidence(pyro.sample("zeta", dist.Uniform(half, 2 * half)))
