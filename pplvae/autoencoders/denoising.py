"""The denoising autoencoder: noise is put on its input, and it has to give back the clean data.

    cost = 1/N Σ_n ‖x_n − D(E(x̃_n))‖²,   x̃_n = x_n with noise, drawn anew each time it is seen

It cannot copy what it sees and must learn what the data are like. Noise is Gaussian, x̃ = x + σ ε;
masking, where a share of the numbers is lost; or salt and pepper, where a share is black or white.
A gain in PSNR = 10 log₁₀(range² / mean squared error) says by how much it is nearer to the truth
than its input was. An autoencoder that has seen no noise denoises too, by what its code cannot
hold, but worse; it is trained beside.

Reference:
    The notes' denoising autoencoder; Vincent, Larochelle, Bengio & Manzagol (2008),
    https://doi.org/10.1145/1390156.1390294
"""

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from pplvae.autoencoders.builders import mlp
from pplvae.autoencoders.model import Autoencoder, squared_error, unexplained
from pplvae.autoencoders.settings import Options, Settings
from pplvae.autoencoders.training import (
    AutoencoderFit,
    Noise,
    Parts,
    corrupt,
    split,
    standardized,
    train,
    tried,
)
from pplvae.validation import Array, as_points, check_in_range, check_positive


@dataclass(frozen=True)
class Gaussian:
    """x + σ ε, with ε standard normal.

    Args:
        scale: σ, in units of x.
    """

    scale: float = 0.5

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x with noise drawn from torch's global generator, same shape."""
        return x + self.scale * torch.randn_like(x)


@dataclass(frozen=True)
class Masking:
    """A share of the numbers, chosen at random, is set to one value.

    Args:
        share: Probability that a number is lost, in (0, 1].
        value: What stands in its place.
    """

    share: float = 0.25
    value: float = 0.0

    def __post_init__(self) -> None:
        _check_share(self.share)
        _check_finite(value=self.value)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x with noise drawn from torch's global generator, same shape."""
        return torch.where(torch.rand_like(x) < self.share, self.value, x)


@dataclass(frozen=True)
class SaltAndPepper:
    """A share of the numbers, chosen at random, is set to black or to white, half of it each.

    Args:
        share: Probability that a number is lost, in (0, 1].
        black: The least value.
        white: The largest.
    """

    share: float = 0.25
    black: float = 0.0
    white: float = 1.0

    def __post_init__(self) -> None:
        _check_share(self.share)
        _check_finite(black=self.black, white=self.white)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x with noise drawn from torch's global generator, same shape."""
        draws = torch.rand_like(x)
        pepper = torch.where(draws < 0.5 * self.share, self.black, x)
        return torch.where(draws >= 1 - 0.5 * self.share, self.white, pepper)


def _check_share(share: float) -> None:
    check_positive("share", share)
    check_in_range("share", share, 0, 1)


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


@dataclass(frozen=True, eq=False, repr=False)
class DenoisingFit(AutoencoderFit):
    """A denoising autoencoder: `error` and `unexplained` are of x̂ from noisy x against clean x.

    Attributes:
        noisy_error: The mean of ‖x − x̃‖² over the same points, in squared units of x.
        plain: The same networks, trained without noise, and their error on the same noisy points;
            None where it was not asked for.
        peak: The range of the training points, by which PSNR is measured, in units of x.
        noise: What was put on x.
    """

    noisy_error: float = field(kw_only=True)
    plain: AutoencoderFit | None = field(kw_only=True)
    peak: float = field(kw_only=True)
    noise: Noise = field(kw_only=True)

    @property
    def gain(self) -> float:
        """By how much PSNR is higher after denoising than before, in dB."""
        return decibel(self.noisy_error) - decibel(self.error)

    @property
    def plain_gain(self) -> float:
        """The gain of the autoencoder that was trained without noise, in dB; nan without one."""
        if self.plain is None:
            return math.nan
        return decibel(self.noisy_error) - decibel(self.plain.error)

    @property
    def psnr(self) -> float:
        """The PSNR of the denoised points, in dB."""
        return decibel(self.peak**2 * self.autoencoder.data_dim) - decibel(self.error)

    def __repr__(self) -> str:
        said = f"{self.psnr:.2f} dB, {self.gain:+.2f} dB by denoising"
        beside = "" if self.plain is None else f", {self.plain_gain:+.2f} dB if trained without"
        return f"DenoisingFit({self.autoencoder}, {self.noise}: PSNR {said}{beside})"


def fit(
    x: Array,
    autoencoder: int | Autoencoder,
    *,
    noise: Noise = Gaussian(),
    plain: bool = True,
    **options: Unpack[Options],
) -> DenoisingFit:
    """Train an autoencoder to give clean points back for noisy ones.

    The held-out points are judged, during and after the training, on one draw of the noise.

    Args:
        x: Clean points, shape (N, D).
        autoencoder: An untrained one of `mlp`, `conv` or your own networks, which is trained in
            place; or a dimension L of the code, for `mlp(D, L)` in the dtype of `x`.
        noise: `Gaussian(…)`, `Masking(…)`, `SaltAndPepper(…)`, or a function from a batch, shape
            (B, D), to a noisy one that draws from torch's global generator. It gets a copy, and is
            tried on a few points first.
        plain: Whether to train the same networks without noise as well, to compare.
        **options: See `training.Settings`.

    Raises:
        ValueError: If an argument is impossible or all points are the same.
        FloatingPointError: If the loss stops being finite.
    """
    if not callable(noise) or isinstance(noise, type):
        raise ValueError(f"noise must be a function of a batch, as Gaussian(), got {noise!r}")
    x = as_points(x, min_points=2).detach()
    settings = Settings(**options)
    settings = replace(settings, seed=_begun(settings).seeded(x.device).seed)
    if not isinstance(autoencoder, Autoencoder):
        autoencoder = mlp(x.shape[1], autoencoder, dtype=x.dtype, seed=settings.seed).to(x.device)
    parts = split(autoencoder, x, settings)
    tried(noise, parts)
    with standardized(autoencoder, parts.train):
        # First, while the autoencoder is untrained, also where an interrupted run goes on.
        beside = _plain(copy.deepcopy(autoencoder), parts, settings) if plain else None
        found = train(autoencoder, parts, settings, noise=noise, description="training to denoise")
    return _compared(found, beside, parts, noise, settings.seed)


def _begun(settings: Settings) -> Settings:
    """Return the settings of the part whose checkpoint is there, or of the plain one."""
    path = settings.checkpoint
    return settings if path is not None and Path(path).exists() else settings.part("plain")


def _plain(autoencoder: Autoencoder, parts: Parts, settings: Settings) -> AutoencoderFit:
    return train(autoencoder, parts, settings.part("plain"), description="training without noise")


def decibel(ratio: float) -> float:
    """Return 10 log10 of a squared error, or of the ratio of two; −inf of 0."""
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf


def _compared(
    found: AutoencoderFit,
    plain: AutoencoderFit | None,
    parts: Parts,
    noise: Noise,
    seed: int | None,
) -> DenoisingFit:
    """Return both fits with their errors on one draw of the noise."""
    clean, noisy = parts.judged, corrupt(parts.judged, noise, seed)

    def on_noisy(fit: AutoencoderFit) -> AutoencoderFit:
        found = fit.reconstruct(noisy)
        share = unexplained(clean, found, parts.mean)
        return replace(fit, error=squared_error(clean, found), unexplained=share)

    judged = on_noisy(found)
    return DenoisingFit(
        judged.autoencoder, judged.error, judged.unexplained, judged.history, judged.held_out,
        noisy_error=squared_error(clean, noisy),
        plain=None if plain is None else on_noisy(plain),
        peak=(parts.train.max() - parts.train.min()).item(),
        noise=noise,
    )  # fmt: skip
