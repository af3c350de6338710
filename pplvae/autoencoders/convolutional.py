"""The convolutional autoencoder: for images, by windows that look the same everywhere.

A layer of K filters of F × F pixels, moved S at a time over an image with P zeros at either end,
turns (D, H, W) into (K, H', W') with W' = (W − F + 2 P) / S + 1 and H' alike
(`networks.output_size`), and learns K (D F² + 1) numbers, whatever the size of the image. The
decoder has the same layers transposed, from the last to the first.

Reference:
    Lecture 14 (26/10/2023), after cs231n.stanford.edu; Masci, Meier, Cireșan & Schmidhuber (2011),
    https://doi.org/10.1007/978-3-642-21735-7_7
"""

from collections.abc import Sequence
from typing import Unpack

from tqdm import tqdm

from pplvae import distributed
from pplvae.autoencoders.builders import conv
from pplvae.autoencoders.settings import Options, Settings
from pplvae.autoencoders.training import AutoencoderFit, split, train
from pplvae.validation import Array, as_points


def fit(
    x: Array,
    shape: Sequence[int],
    latent_dim: int,
    *,
    channels: Sequence[int] = (32, 64),
    hidden_dims: Sequence[int] = (),
    kernel: int = 4,
    stride: int = 2,
    padding: int = 1,
    activation: str = "elu",
    **options: Unpack[Options],
) -> AutoencoderFit:
    """Train a convolutional autoencoder on images, in their dtype and on their device.

    Before the first step it prints each layer's output shape and how many numbers it learns,
    unless `progress` is False; `.autoencoder.summary()` has the same table.

    Args:
        x: Images as rows of pixels, shape (N, D).
        shape: Of one image, (H, W) or (C, H, W), any size and number of channels.
        latent_dim: The dimension L of the code.
        channels: Of the encoder's convolutions, first to last; the decoder has them in reverse.
        hidden_dims: Sizes of the dense layers between the convolutions and the code.
        kernel: Pixels of every window along each axis.
        stride: Pixels from one place of a window to the next.
        padding: Zeros added at either end of each axis.
        activation: One of `networks.ACTIVATIONS`.
        **options: See `training.Settings`.

    Raises:
        ValueError: If an argument is impossible, the windows do not fit the image, or all images
            are the same.
        FloatingPointError: If the loss stops being finite.
    """
    x = as_points(x, min_points=2).detach()
    settings = Settings(**options).seeded(x.device)
    autoencoder = conv(
        shape, latent_dim, channels=channels, hidden_dims=hidden_dims, kernel=kernel,
        stride=stride, padding=padding, activation=activation, dtype=x.dtype, seed=settings.seed,
    ).to(x.device)  # fmt: skip
    parts = split(autoencoder, x, settings)
    autoencoder.standardize(parts.train)
    if settings.progress and distributed.rank() == 0:
        tqdm.write(repr(autoencoder.summary()))
    return train(
        autoencoder, parts, settings, description="training the convolutional autoencoder"
    )
