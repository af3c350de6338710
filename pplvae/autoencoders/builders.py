"""Untrained autoencoders made in one line, which know how to be made again.

Each notes its sizes in `Autoencoder.recipe`, by which `files.load` calls it again.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pplvae import networks, randomness
from pplvae.autoencoders.model import Autoencoder
from pplvae.autoencoders.probabilistic import ProbabilisticPCA
from pplvae.networks import sizes_of
from pplvae.validation import check_whole

FIRST = 0.1  # of the usual size: the last weights of a convolutional encoder and decoder


class Transposed(nn.Module):
    """z ↦ Wᵀ z for the weight W of another linear layer, which it shares."""

    def __init__(self, of: nn.Linear) -> None:
        super().__init__()
        self.of = of

    def forward(self, z: Tensor) -> Tensor:
        """Return W^T z, shape (..., D), for z of shape (..., L)."""
        return F.linear(z, self.of.weight.mT)


def linear(
    data_dim: int,
    latent_dim: int,
    *,
    tied: bool = False,
    dtype: torch.dtype | None = None,
    seed: int | None = None,
) -> Autoencoder:
    """Return an autoencoder of two linear maps without biases: the center stands for those.

    Args:
        data_dim: The data's dimension D.
        latent_dim: The dimension L of the code.
        tied: Whether the decoder is the encoder's transpose: E(x) = W x, D(z) = W^T z.
        dtype: Floating-point type of the weights; torch's default where None.
        seed: Start of the random weights.

    Raises:
        ValueError: If a size is not a positive whole number.
    """
    data_dim, latent_dim = sizes_of("sizes", (data_dim, latent_dim))
    with randomness.scope(seed):
        down = nn.Linear(data_dim, latent_dim, bias=False)
        up = Transposed(down) if tied else nn.Linear(latent_dim, data_dim, bias=False)
    recipe = {
        "builder": "linear", "data_dim": data_dim, "latent_dim": latent_dim, "tied": bool(tied),
    }  # fmt: skip
    return _noted(Autoencoder(down, up, data_dim, latent_dim), recipe, dtype)


def mlp(
    data_dim: int,
    latent_dim: int,
    *,
    hidden_dims: Sequence[int] = (256,),
    activation: str = "relu",
    dtype: torch.dtype | None = None,
    seed: int | None = None,
) -> Autoencoder:
    """Return an autoencoder of two multilayer perceptrons, one the other's reverse.

    Args:
        data_dim: The data's dimension D.
        latent_dim: The dimension L of the code.
        hidden_dims: Sizes of the encoder's hidden layers, first to last.
        activation: One of `networks.ACTIVATIONS`.
        dtype: Floating-point type of the weights; torch's default where None.
        seed: Start of the random weights.

    Raises:
        ValueError: If a size is not a positive whole number or the activation is unknown.
    """
    data_dim, latent_dim = sizes_of("sizes", (data_dim, latent_dim))
    down = sizes_of("hidden_dims", hidden_dims)
    with randomness.scope(seed):
        encoder = networks.mlp(data_dim, down, latent_dim, activation=activation)
        decoder = networks.mlp(latent_dim, down[::-1], data_dim, activation=activation)
    recipe = {
        "builder": "mlp", "data_dim": data_dim, "latent_dim": latent_dim, "hidden_dims": down,
        "activation": activation,
    }  # fmt: skip
    return _noted(Autoencoder(encoder, decoder, data_dim, latent_dim), recipe, dtype)


def conv(
    shape: Sequence[int],
    latent_dim: int,
    *,
    channels: Sequence[int] = (32, 64),
    hidden_dims: Sequence[int] = (),
    kernel: int = 4,
    stride: int = 2,
    padding: int = 1,
    activation: str = "elu",
    dtype: torch.dtype | None = None,
    seed: int | None = None,
) -> Autoencoder:
    """Return an autoencoder of two convolutional networks, for images as rows of pixels.

    It starts near the one that always gives the mean: the last layers of encoder and decoder have
    a tenth of the usual first weights.

    Args:
        shape: Of one image, (H, W) or (C, H, W).
        latent_dim: The dimension L of the code.
        channels: Of the encoder's convolutions, first to last; the decoder has them in reverse.
        hidden_dims: Sizes of the dense layers between the convolutions and the code.
        kernel: Pixels of every window along each axis.
        stride: Pixels from one place of a window to the next.
        padding: Zeros added at either end of each axis.
        activation: One of `networks.ACTIVATIONS`.
        dtype: Floating-point type of the weights; torch's default where None.
        seed: Start of the random weights.

    Raises:
        ValueError: If a size is not a positive whole number, the windows do not fit the image, or
            the activation is unknown.
    """
    size, widths = sizes_of("shape", shape), sizes_of("channels", channels)
    hidden, (latent_dim,) = (
        sizes_of("hidden_dims", hidden_dims),
        sizes_of("latent_dim", [latent_dim]),
    )
    for name, value, least in (
        ("kernel", kernel, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
    ):
        check_whole(name, value, least)
    window = {"kernel": int(kernel), "stride": int(stride), "padding": int(padding)}
    with randomness.scope(seed):
        encoder = networks.conv_encoder(
            size, widths, latent_dim, hidden_dims=hidden, activation=activation, **window
        )
        decoder = networks.conv_decoder(
            latent_dim, widths[::-1], size, hidden_dims=hidden[::-1], activation=activation,
            **window,
        )  # fmt: skip
        _soften(encoder, decoder)
    recipe = {
        "builder": "conv", "shape": size, "latent_dim": latent_dim, "channels": widths,
        "hidden_dims": hidden, "activation": activation, **window,
    }  # fmt: skip
    data_dim = int(torch.Size(size).numel())
    return _noted(Autoencoder(encoder, decoder, data_dim, latent_dim), recipe, dtype)


def probabilistic(
    data_dim: int, latent_dim: int, *, dtype: torch.dtype | None = None
) -> Autoencoder:
    """Return a probabilistic PCA without weights, to be filled from a file."""
    data_dim, latent_dim = sizes_of("sizes", (data_dim, latent_dim))
    return ProbabilisticPCA.empty(data_dim, latent_dim, dtype)


BUILDERS: dict[str, Callable[..., Autoencoder]] = {
    "linear": linear,
    "mlp": mlp,
    "conv": conv,
    "probabilistic": probabilistic,
}


@torch.no_grad()
def _soften(*networks: nn.Module) -> None:
    """Shrink the last weights of each: from a loud start the first steps can silence all units."""
    for network in networks:
        weights = [p for p in network.parameters() if p.dim() > 1]
        weights[-1].mul_(FIRST)


def _noted(
    autoencoder: Autoencoder, recipe: dict[str, object], dtype: torch.dtype | None
) -> Autoencoder:
    autoencoder.recipe = recipe
    return autoencoder.to(dtype or torch.get_default_dtype())
