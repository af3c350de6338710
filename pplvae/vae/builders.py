"""VAEs made in one line, which know how to be made again."""

from collections.abc import Sequence

import torch

from pplvae import networks, randomness
from pplvae.vae.likelihoods import Likelihood, as_likelihood
from pplvae.vae.model import VAE
from pplvae.validation import check_whole


def mlp(
    data_dim: int,
    latent_dim: int,
    *,
    hidden_dims: Sequence[int] = (200,),
    likelihood: str | Likelihood = "bernoulli",
    activation: str = "relu",
    dtype: torch.dtype | None = None,
    seed: int | None = None,
) -> VAE:
    """Return a VAE whose encoder and decoder are multilayer perceptrons.

    Args:
        data_dim: The data's dimension D.
        latent_dim: The latent dimension L.
        hidden_dims: Sizes of the encoder's hidden layers; the decoder has them in reverse.
        likelihood: "bernoulli", "gaussian" or a likelihood of your own.
        activation: One of `networks.ACTIVATIONS`.
        dtype: Floating-point type of the weights; torch's default where None.
        seed: Start of the random weights.

    Raises:
        ValueError: If a size is not a positive whole number or a name is unknown.
    """
    law, sizes = as_likelihood(likelihood), [*hidden_dims]
    for name, size in [("data_dim", data_dim), ("latent_dim", latent_dim)]:
        check_whole(name, size, 1)
    for size in sizes:
        check_whole("hidden_dims", size, 1)
    # NumPy's whole numbers cannot be written as JSON.
    data_dim, latent_dim, sizes = int(data_dim), int(latent_dim), [int(size) for size in sizes]
    with randomness.scope(seed):
        encoder = networks.mlp(data_dim, sizes, 2 * latent_dim, activation=activation)
        decoder = networks.mlp(
            latent_dim, sizes[::-1], law.outputs * data_dim, activation=activation
        )
    vae = VAE(encoder, decoder, law, latent_dim).to(dtype or torch.get_default_dtype())
    vae.recipe = {
        "data_dim": data_dim,
        "latent_dim": latent_dim,
        "hidden_dims": sizes,
        "activation": activation,
    }
    return vae
