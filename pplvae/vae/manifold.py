"""What a two-dimensional latent space has learned: the data along its axes.

An even grid on the unit square, pushed through the inverse normal distribution function, is a grid
of equal prior probability in z; decoded, it shows the learned manifold.

Reference:
    Kingma & Welling (2014), figure 4, https://arxiv.org/abs/1312.6114
"""

import torch
from torch import Tensor

from pplvae.vae.model import VAE
from pplvae.validation import check_whole


def grid(vae: VAE, num_steps: int = 20) -> Tensor:
    """Return p(x | z)'s mean on a grid of prior quantiles, shape (num_steps, num_steps, D).

    Rows run from high to low in the second latent axis, columns from low to high in the first, as
    in a plot of the latent plane.

    Args:
        vae: A VAE with latent_dim = 2.
        num_steps: Points along each axis.

    Raises:
        ValueError: If the latent space is not two-dimensional.
    """
    check_whole("num_steps", num_steps, 2)
    if vae.latent_dim != 2:
        raise ValueError(f"vae must have latent_dim 2 for a grid, got {vae.latent_dim}")
    quantiles = (torch.arange(num_steps, dtype=torch.float64) + 0.5) / num_steps
    z = torch.special.ndtri(quantiles)
    second, first = torch.meshgrid(z.flip(0), z, indexing="ij")
    decoded = vae.decode(torch.stack([first, second], dim=-1).reshape(-1, 2))
    return decoded.reshape(num_steps, num_steps, -1)
