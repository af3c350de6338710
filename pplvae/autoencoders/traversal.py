"""What each number of a code does: it is swept while the others stay at their medians.

A deterministic autoencoder has no prior, so a sweep runs between quantiles of the codes that data
have. Their axes are in no order, and nothing keeps the codes between the data's apart from them
within what the decoder has learned.
"""

import torch
from torch import Tensor

from pplvae.autoencoders.model import Autoencoder
from pplvae.validation import Array, check_in_range, check_whole


def traverse(
    autoencoder: Autoencoder, x: Array, *, num_steps: int = 11, share: float = 0.95
) -> Tensor:
    """Return points decoded along each axis of the code, shape (L, S, D).

    Args:
        autoencoder: The autoencoder.
        x: Points whose codes say how far to go, shape (N, D).
        num_steps: Steps S from one end to the other, even in quantiles.
        share: Which share of the codes is between the ends, in [0, 1].

    Raises:
        ValueError: If an argument is impossible.
    """
    check_whole("num_steps", num_steps, 2)
    check_in_range("share", share, 0, 1)
    codes = autoencoder.encode(x)
    places = torch.linspace(0.5 - 0.5 * share, 0.5 + 0.5 * share, num_steps).to(codes)
    size = codes.shape[1]
    swept = codes.median(dim=0).values.repeat(size, num_steps, 1)  # axis, step, number of the code
    quantiles = codes.sort(dim=0).values[(places * (len(codes) - 1)).round().long()]
    axes = torch.arange(size)
    swept[axes, :, axes] = quantiles.mT
    return autoencoder.decode(swept.flatten(0, 1)).unflatten(0, (size, num_steps))
