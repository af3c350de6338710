"""TwoNN's Pyro model: ratios with a Pareto law whose shape is the dimension."""

import pyro
import pyro.distributions as dist
import torch

from pplvae.validation import Array, as_vector, check_in_range


def model(
    ratios: Array, concentration: float = 1.0, rate: float = 0.01, inflation: float = 1.0
) -> None:
    """Pyro model of the ratios: a Gamma prior on d, a Pareto likelihood.

    The default prior is nearly flat up to d = 100. The log likelihood is divided by `inflation`,
    as ratios that share neighbors ask for.

    Sites:
        dimension: The intrinsic dimension d, latent, shape ().
        ratios: Observed, shape (N,), independent.
    """
    ratios = as_vector(ratios, name="ratios", min_size=1)
    check_in_range("inflation", inflation, 1.0)
    prior = dist.Gamma(ratios.new_tensor(concentration), ratios.new_tensor(rate))
    dimension = pyro.sample("dimension", prior)
    with pyro.plate("points", len(ratios)), pyro.poutine.scale(scale=1 / inflation):
        pyro.sample("ratios", dist.Pareto(torch.ones_like(dimension), dimension), obs=ratios)
