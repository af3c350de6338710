"""VAEs made in one line, which know how to be made again.

Each notes its sizes in `VAE.recipe`, by which `files.load` calls it again. See also `published`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict, TypeVar, Unpack

import torch
from torch import nn

from pplvae import networks, randomness
from pplvae.networks import sizes_of
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.likelihoods import Likelihood, as_likelihood
from pplvae.vae.model import VAE
from pplvae.vae.posteriors import Posterior, as_posterior
from pplvae.vae.priors import Prior, as_prior
from pplvae.validation import check_whole

AnyVAE = TypeVar("AnyVAE", bound=VAE)


class Options(TypedDict, total=False):
    """What every builder takes besides its sizes.

    Attributes:
        likelihood: The name of a likelihood, or one of your own; "bernoulli" by default.
        prior: The name of a prior, or one of your own; "standard_normal" by default.
        posterior: The name of a posterior, or one of your own; "diagonal" by default.
        dtype: Floating-point type of the weights; torch's default where None.
        seed: Start of the random weights.
    """

    likelihood: str | Likelihood
    prior: str | Prior
    posterior: str | Posterior
    dtype: torch.dtype | None
    seed: int | None


def mlp(
    data_dim: int,
    latent_dim: int,
    *,
    hidden_dims: Sequence[int] = (200,),
    decoder_dims: Sequence[int] | None = None,
    activation: str = "relu",
    squash: bool = False,
    **options: Unpack[Options],
) -> VAE:
    """Return a VAE whose encoder and decoder are multilayer perceptrons.

    Args:
        data_dim: The data's dimension D.
        latent_dim: The latent dimension L.
        hidden_dims: Sizes of the encoder's hidden layers, first to last; empty for a linear map.
        decoder_dims: Sizes of the decoder's; the encoder's in reverse where None.
        activation: One of `networks.ACTIVATIONS`.
        squash: Whether the first D of the decoder's numbers, say the means of a Gaussian, go
            through a sigmoid into (0, 1).
        **options: See `Options`.

    Raises:
        ValueError: If a size is not a positive whole number or a name is unknown.
    """
    data_dim, latent_dim = _size("data_dim", data_dim), _size("latent_dim", latent_dim)
    down = sizes_of("hidden_dims", hidden_dims)
    up = down[::-1] if decoder_dims is None else sizes_of("decoder_dims", decoder_dims)
    with randomness.scope(options.get("seed")):
        laws = _laws(options, latent_dim, latent_dim)
        taken, given = laws.posterior.outputs(latent_dim), laws.likelihood.outputs * data_dim
        encoder = networks.mlp(data_dim, down, taken, activation=activation)
        decoder = networks.mlp(latent_dim, up, given, activation=activation)
        decoder = decoder.append(networks.Squash(data_dim)) if squash else decoder
    vae = VAE(encoder, decoder, laws.likelihood, latent_dim, laws.prior, laws.posterior)
    vae.recipe = {
        "builder": "mlp", "data_dim": data_dim, "latent_dim": latent_dim, "hidden_dims": down,
        "decoder_dims": up, "activation": activation, "squash": squash,
    }  # fmt: skip
    return _typed(vae, options)


def linear(data_dim: int, latent_dim: int, **options: Unpack[Options]) -> VAE:
    """Return a VAE whose encoder and decoder are linear maps.

    With its default likelihood, a Gaussian of one learned scale, it is probabilistic principal
    component analysis, and its best bound is the likelihood of that.

    Args:
        data_dim: The data's dimension D.
        latent_dim: The latent dimension L.
        **options: See `Options`.

    Reference:
        Tipping & Bishop (1999), https://doi.org/10.1111/1467-9868.00196; Lucas, Tucker, Grosse &
        Norouzi (2019), https://arxiv.org/abs/1911.02469
    """
    return mlp(data_dim, latent_dim, hidden_dims=(), **with_likelihood("gaussian", options))


def conv(
    shape: Sequence[int],
    latent_dim: int,
    *,
    channels: Sequence[int] = (32, 64),
    hidden_dims: Sequence[int] = (256,),
    kernel: int = 4,
    stride: int = 2,
    padding: int = 1,
    activation: str = "relu",
    **options: Unpack[Options],
) -> VAE:
    """Return a VAE whose encoder and decoder are convolutional, for images as rows of pixels.

    Args:
        shape: Of one image, (H, W) or (C, H, W).
        latent_dim: The latent dimension L.
        channels: Of the encoder's convolutions, first to last; the decoder has them in reverse.
        hidden_dims: Sizes of the dense layers between the convolutions and the code.
        kernel: Pixels of every window along each axis.
        stride: Pixels from one place of a window to the next.
        padding: Zeros added at either end of each axis.
        activation: One of `networks.ACTIVATIONS`.
        **options: See `Options`.

    Raises:
        ValueError: If a size is not a positive whole number, the windows do not fit the image, or
            a name is unknown.
    """
    size, latent_dim = sizes_of("shape", shape), _size("latent_dim", latent_dim)
    widths, hidden = sizes_of("channels", channels), sizes_of("hidden_dims", hidden_dims)
    window = {"kernel": int(kernel), "stride": int(stride), "padding": int(padding)}
    with randomness.scope(options.get("seed")):
        laws = _laws(options, latent_dim, latent_dim)
        encoder = networks.conv_encoder(
            size, widths, laws.posterior.outputs(latent_dim), hidden_dims=hidden,
            activation=activation, **window,
        )  # fmt: skip
        decoder = networks.conv_decoder(
            latent_dim, widths[::-1], size, outputs=laws.likelihood.outputs,
            hidden_dims=hidden[::-1], activation=activation, **window,
        )  # fmt: skip
    vae = VAE(encoder, decoder, laws.likelihood, latent_dim, laws.prior, laws.posterior)
    vae.recipe = {
        "builder": "conv", "shape": size, "latent_dim": latent_dim, "channels": widths,
        "hidden_dims": hidden, "activation": activation, **window,
    }  # fmt: skip
    return _typed(vae, options)


def hierarchical(
    data_dim: int,
    latent_dims: Sequence[int],
    *,
    hidden_dims: Sequence[int] = (200, 200),
    upper_hidden_dims: Sequence[int] = (100, 100),
    upper_posterior: str | Posterior = "diagonal",
    activation: str = "tanh",
    **options: Unpack[Options],
) -> HierarchicalVAE:
    """Return a VAE with two layers of latent variables, all of its maps multilayer perceptrons.

    Args:
        data_dim: The data's dimension D.
        latent_dims: L1 of the variables that make x, and L2 of those that make them.
        hidden_dims: Sizes of the hidden layers from x to z1; in reverse from z1 to x.
        upper_hidden_dims: Sizes of those from z1 to z2; in reverse from z2 to z1.
        upper_posterior: q(z2 | z1), as `posterior` is q(z1 | x).
        activation: One of `networks.ACTIVATIONS`.
        **options: See `Options`; the prior is that of z2.

    Raises:
        ValueError: If a size is not a positive whole number or a name is unknown.
    """
    data_dim, dims = _size("data_dim", data_dim), sizes_of("latent_dims", latent_dims)
    if len(dims) != 2:
        raise ValueError(f"latent_dims must be two numbers, L1 and L2, got {dims}")
    lower, upper = dims
    down, above = sizes_of("hidden_dims", hidden_dims), sizes_of("hidden_dims", upper_hidden_dims)

    def perceptron(fan_in: int, sizes: list[int], fan_out: int) -> nn.Module:
        return networks.mlp(fan_in, sizes, fan_out, activation=activation)

    with randomness.scope(options.get("seed")):
        laws, top = _laws(options, lower, upper), _fitting(upper_posterior, upper)
        vae = HierarchicalVAE(
            perceptron(data_dim, down, laws.posterior.outputs(lower)),
            perceptron(lower, down[::-1], laws.likelihood.outputs * data_dim),
            laws.likelihood,
            dims,
            upper_encoder=perceptron(lower, above, top.outputs(upper)),
            upper_decoder=perceptron(upper, above[::-1], 2 * lower),
            prior=laws.prior,
            posterior=laws.posterior,
            upper_posterior=top,
        )
    vae.recipe = {
        "builder": "hierarchical", "data_dim": data_dim, "latent_dims": dims, "hidden_dims": down,
        "upper_hidden_dims": above, "activation": activation,
    }  # fmt: skip
    return _typed(vae, options)


BUILDERS: dict[str, Callable[..., VAE]] = {"mlp": mlp, "conv": conv, "hierarchical": hierarchical}


class Laws(NamedTuple):
    """The parts of a VAE that are no networks."""

    likelihood: Likelihood
    prior: Prior
    posterior: Posterior


def _laws(options: Options, latent_dim: int, prior_dim: int) -> Laws:
    """Return the laws of given names, for a posterior and a prior of these dimensions."""
    return Laws(
        as_likelihood(options.get("likelihood", "bernoulli")),
        as_prior(options.get("prior", "standard_normal"), prior_dim),
        _fitting(options.get("posterior", "diagonal"), latent_dim),
    )


def _fitting(posterior: str | Posterior, latent_dim: int) -> Posterior:
    """Return a posterior that says how many numbers it needs."""
    law = as_posterior(posterior, latent_dim)
    if type(law).outputs is Posterior.outputs:
        raise ValueError(
            "posterior must say its `outputs`, so that a builder can fit an encoder to it, got "
            f"{type(law).__name__}"
        )
    return law


def with_likelihood(likelihood: str | Likelihood, options: Options) -> Options:
    """Return the options, with this likelihood where they name none."""
    return {"likelihood": likelihood, **options}


def _typed(vae: AnyVAE, options: Options) -> AnyVAE:
    return vae.to(options.get("dtype") or torch.get_default_dtype())


def _size(name: str, size: int) -> int:
    """Return a positive whole number as Python's own: NumPy's cannot be written as JSON."""
    check_whole(name, size, 1)
    return int(size)
