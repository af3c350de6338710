"""An autoencoder: a code z = E(x) of L numbers, and a reconstruction x̂ = D(z) from it.

    (E*, D*) = argmin Σ_n ‖x_n − D(E(x_n))‖²

Both are networks, here around the center m and the one scale s of the data: E takes (x − m) / s,
and D gives (x̂ − m) / s, so that neither the place nor the unit of x matters to the training.
Nothing is random: unlike a VAE it gives each x one code, and no law to draw new points from.

Reference:
    Lecture 14 (26/10/2023), equation 1; FYS5429, lecture of 23/4/2024: h = f(x; φ), x̃ = g(h; θ)
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pplvae import networks
from pplvae.validation import Array, as_points, check_whole

BLOCK = 1000  # points that go through the networks together


class Autoencoder(nn.Module):
    """An encoder and a decoder, deterministic both.

    Args:
        encoder: Maps (B, D) to (B, L).
        decoder: Maps (B, L) to (B, D).
        data_dim: The data's dimension D.
        latent_dim: The dimension L of the code.

    Attributes:
        center: m, taken from x before the encoder and added after the decoder, shape (D,).
        scale: s, by which x is divided and multiplied there, shape ().
        recipe: How a builder made it, so that `load` can make it again; None for networks of your
            own.

    Raises:
        ValueError: If a dimension is not a positive whole number.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, data_dim: int, latent_dim: int
    ) -> None:
        super().__init__()
        check_whole("data_dim", data_dim, 1)
        check_whole("latent_dim", latent_dim, 1)
        self.encoder, self.decoder = encoder, decoder
        self.data_dim, self.latent_dim = int(data_dim), int(latent_dim)
        like = next(decoder.parameters(), torch.empty(0))
        self.register_buffer("center", like.new_zeros(self.data_dim))
        self.register_buffer("scale", like.new_ones(()))
        self.recipe: dict[str, Any] | None = None

    def codes(self, x: Tensor) -> Tensor:
        """Return E(x), shape (B, L), with its gradient."""
        found = self.encoder((x - self.center) / self.scale)
        return _of_size(found, self.latent_dim, "the encoder")

    def outputs(self, z: Tensor) -> Tensor:
        """Return D(z), shape (B, D), with its gradient."""
        found = _of_size(self.decoder(z), self.data_dim, "the decoder")
        return self.center + self.scale * found

    def forward(self, x: Tensor) -> Tensor:
        """Return D(E(x)), shape (B, D), with its gradient."""
        return self.outputs(self.codes(x))

    def encode(self, x: Array) -> Tensor:
        """Return the codes, shape (N, L), of points, shape (N, D).

        Raises:
            ValueError: If they are no such points.
        """
        return self._in_blocks(self.codes, self.points(x))

    def decode(self, z: Array) -> Tensor:
        """Return the points, shape (N, D), that codes, shape (N, L), stand for.

        Raises:
            ValueError: If they are no such codes.
        """
        return self._in_blocks(self.outputs, self._like_weights(z, "z", self.latent_dim))

    def reconstruct(self, x: Array) -> Tensor:
        """Return D(E(x)), shape (N, D)."""
        return self._in_blocks(self, self.points(x))

    def error(self, x: Array) -> float:
        """Return the mean over the points of ‖x − D(E(x))‖², in squared units of x."""
        points = self.points(x)
        return squared_error(points, self.reconstruct(points))

    def summary(self) -> networks.Summary:
        """Return what each layer gives for one point and how many numbers it learns."""
        return networks.summary(self, (self.data_dim,))

    def points(self, x: Array, *, name: str = "x") -> Tensor:
        """Return finite points, shape (N, D), of the networks' dtype and on their device.

        Double precision of numbers far from 0 is lost to networks in single: take off their mean
        before, or make the networks of that dtype.

        Raises:
            ValueError: If they are no such points, or too large for the dtype.
        """
        return self._like_weights(x, name, self.data_dim)

    @torch.no_grad()
    def standardize(self, x: Tensor) -> None:
        """Take the center and the scale from points, shape (N, D).

        Raises:
            ValueError: If all points are the same.
        """
        away, center = centered(x)
        self.center.copy_(center)
        self.scale.copy_(_root_mean_square(away))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors, with the recipe as JSON in its header."""
        from pplvae.autoencoders.files import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], into: "Autoencoder | None" = None) -> "Autoencoder":
        """Return the autoencoder that `save` wrote.

        Args:
            path: The file.
            into: An autoencoder with the same networks to take the weights; needed where the saved
                one was not made by this library.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, or the weights do not fit.
        """
        from pplvae.autoencoders.files import load

        return load(path, into)

    def __repr__(self) -> str:
        number = sum(parameter.numel() for parameter in self.parameters())
        name = type(self).__name__
        return f"{name}({self.data_dim} → {self.latent_dim} numbers, {number:,} parameters)"

    def _like_weights(self, x: Array, name: str, columns: int) -> Tensor:
        x = as_points(x, name=name).detach()
        if x.shape[1] != columns:
            raise ValueError(f"{name} must have {columns} columns, got {x.shape[1]}")
        found = x.to(self.center)
        if found.dtype != x.dtype and not found.isfinite().all():
            largest = x.abs().max().item()
            raise ValueError(f"{name} must be within {found.dtype}, got numbers up to {largest}")
        return found

    @torch.no_grad()
    def _in_blocks(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with networks.evaluating(self):
            return torch.cat([network(block) for block in x.split(BLOCK)])


def _of_size(found: Tensor, columns: int, name: str) -> Tensor:
    """Refuse what would only fit by being repeated."""
    if found.shape[-1] != columns:
        raise ValueError(f"{name} must give {columns} columns, got {found.shape[-1]}")
    return found


def squared_error(x: Tensor, reconstruction: Tensor) -> float:
    """Return the mean over N points of ‖x − x̂‖², for two tensors of shape (N, D)."""
    return x.shape[1] * _mean_square(x, reconstruction).item()


def unexplained(x: Tensor, reconstruction: Tensor, center: Tensor) -> float:
    """Return the mean of ‖x − x̂‖² as a share of that of ‖x − m‖², in any unit; nan of none."""
    unit = torch.stack([(block - center).abs().max() for block in x.split(BLOCK)]).max()
    lost = _mean_square(x, reconstruction, unit)
    return (lost / _mean_square(x, center.expand_as(x), unit)).item()


def _mean_square(x: Tensor, other: Tensor, unit: float | Tensor = 1.0) -> Tensor:
    """Return the mean of ((x − y) / unit)² over all numbers, in double precision, shape ()."""
    # In blocks, because whole copies in double precision may not fit beside the data.
    blocks = zip(x.split(BLOCK), other.split(BLOCK), strict=True)
    sums = [((a - b).double() / unit).square().sum() for a, b in blocks]
    return torch.stack(sums).sum() / x.numel()


def centered(x: Tensor, *, name: str = "x") -> tuple[Tensor, Tensor]:
    """Return x − m, shape (N, D), and the mean m of points, shape (D,).

    Raises:
        ValueError: If all points are the same.
    """
    from_first = x - x[0]  # in two steps, because the mean of large numbers is itself rounded
    if not from_first.any():
        raise ValueError(f"{name} must vary, got {len(x)} copies of one point in {x.dtype}")
    shift = from_first.mean(dim=0)
    return from_first.sub_(shift), x[0] + shift


def spread(x: Tensor, *, name: str = "x") -> Tensor:
    """Return the root mean square of x − m over all N points and D columns, in units of x.

    Raises:
        ValueError: If all points are the same.
    """
    return _root_mean_square(centered(x, name=name)[0])


def _root_mean_square(away: Tensor) -> Tensor:
    """Return the root mean square of numbers, which are overwritten, shape ()."""
    unit = torch.stack(away.aminmax()).abs().max()  # so that squares neither overflow nor vanish
    return unit * away.div_(unit).square_().mean().sqrt()
