"""Training an autoencoder: the squared error made small by the one gradient loop.

    loss = Σ_n ‖x_n − D(E(x̃_n))‖² / Σ_n ‖x_n − m‖²

with m the mean of the training points and x̃ = x, or x with noise on it. It is the share of the
variance that is lost: 1 for an autoencoder that always gives the mean, 0 for a perfect one.

Reference:
    Lecture 14 (26/10/2023), equation 1; the notes' cost function 1/n Σ [x − f(g(x))]²
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
from torch import Tensor

from pplvae import randomness
from pplvae.autoencoders.model import Autoencoder, centered, spread, squared_error, unexplained
from pplvae.autoencoders.settings import Options, Settings
from pplvae.networks import evaluating, in_mode
from pplvae.optimize import History, minibatches, minimize
from pplvae.validation import Array, as_points, check_in_range

Noise: TypeAlias = Callable[[Tensor], Tensor]

TRIED = 16  # points on which a noise is tried before the training


@dataclass(frozen=True, eq=False, repr=False)
class AutoencoderFit:
    """A trained autoencoder.

    Attributes:
        autoencoder: The autoencoder itself.
        error: The mean of ‖x − x̂‖² over the held-out points, in squared units of x; over the
            training points where none were held out.
        unexplained: The same as a share of the mean of ‖x − m‖², with m the training mean.
        history: `losses` are the unexplained share of the training points in each epoch, as
            training meets it, `validation` is the error of the held-out points after it in the
            same unit, the variance of the training points; `unexplained` is a share of their own.
            None for a closed form.
        held_out: Row numbers of the points that were not trained on, shape (H,); empty where
            these were given apart.
    """

    autoencoder: Autoencoder
    error: float
    unexplained: float
    history: History | None = field(repr=False)
    held_out: Tensor = field(repr=False)

    def encode(self, x: Array) -> Tensor:
        """Return the codes, shape (N, L), of points, shape (N, D)."""
        return self.autoencoder.encode(x)

    def decode(self, z: Array) -> Tensor:
        """Return the points, shape (N, D), that codes, shape (N, L), stand for."""
        return self.autoencoder.decode(z)

    def reconstruct(self, x: Array) -> Tensor:
        """Return D(E(x)), shape (N, D)."""
        return self.autoencoder.reconstruct(x)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the autoencoder, as `Autoencoder.save` does."""
        self.autoencoder.save(path)

    def __repr__(self) -> str:
        said = f"error {self.error:.4g}, {100 * self.unexplained:.3g} % of the variance"
        return f"{type(self).__name__}({self.autoencoder}, {said})"


@dataclass(frozen=True, eq=False)
class Parts:
    """What to train on, shape (N, D), what to judge by, (H, D), and the row numbers of that."""

    train: Tensor
    judge: Tensor
    held_out: Tensor

    @property
    def judged(self) -> Tensor:
        """The points on which an error is reported: the training points where none are held."""
        return self.judge if len(self.judge) else self.train

    @cached_property
    def mean(self) -> Tensor:
        """The mean of the training points, shape (D,)."""
        return centered(self.train)[1]


def fit(autoencoder: Autoencoder, x: Array, **options: Unpack[Options]) -> AutoencoderFit:
    """Train an autoencoder, in place, its center and scale set to those of the training points.

    The global random state and the modes of the networks are left as they were. The networks
    train in training mode and are judged in evaluation mode.

    Args:
        autoencoder: One of `mlp`, `conv`, or of your own networks.
        x: Points, shape (N, D).
        **options: See `Settings`.

    Raises:
        ValueError: If an argument is impossible or all points are the same.
        FloatingPointError: If the loss stops being finite.
    """
    settings = Settings(**options).seeded(autoencoder.center.device)
    parts = split(autoencoder, x, settings)
    with standardized(autoencoder, parts.train):
        return train(autoencoder, parts, settings)


def train(
    autoencoder: Autoencoder,
    parts: Parts,
    settings: Settings,
    *,
    noise: Noise | None = None,
    description: str = "training the autoencoder",
) -> AutoencoderFit:
    """Train an autoencoder in place, whose center and scale stay, on points that are checked.

    Args:
        autoencoder: The autoencoder.
        parts: The points.
        settings: How, with a seed.
        noise: What the encoder sees of a batch, (B, D); may draw from the global generator.
        description: What the progress bar says.
    """
    loss = _Loss(autoencoder, spread(parts.train), noise)
    judge = _Judge(loss, parts, settings) if len(parts.judge) else None
    with in_mode(autoencoder, training=True):
        history = minimize(
            loss,
            autoencoder.parameters(),
            minibatches(parts.train, batch_size=settings.batch_size),
            num_epochs=settings.num_epochs,
            learning_rate=settings.learning_rate,
            schedule=settings.schedule,
            clip_norm=settings.clip_norm,
            validate=judge,
            patience=None if judge is None else settings.patience,
            buffers=autoencoder.buffers(),
            callbacks=settings.callbacks,
            checkpoint=settings.checkpoint,
            checkpoint_seconds=settings.checkpoint_seconds,
            about=_about(autoencoder, parts, noise),
            seed=settings.seed,
            progress=settings.progress,
            description=description,
            shown="unexplained",
        )
    return fitted(autoencoder, parts, history)


def _about(autoencoder: Autoencoder, parts: Parts, noise: Noise | None) -> dict[str, Any]:
    """Return what must be the same where a training goes on from its checkpoint."""
    networks = autoencoder.encoder, autoencoder.decoder
    about = {"networks": networks, "held-out points": parts.judge, "noise": noise}
    # A dataclass says all in words. Other functions can share a name, and are told apart by what
    # they draw, though another kind of device draws otherwise.
    if noise is not None and not is_dataclass(noise):
        about["noisy points"] = tried(noise, parts)
    return about


def fitted(autoencoder: Autoencoder, parts: Parts, history: History | None) -> AutoencoderFit:
    """Return an autoencoder with its error on the points to judge by."""
    x = parts.judged
    found = autoencoder.reconstruct(x)
    share = unexplained(x, found, parts.mean)
    return AutoencoderFit(autoencoder, squared_error(x, found), share, history, parts.held_out)


@contextmanager
def standardized(autoencoder: Autoencoder, x: Tensor) -> Iterator[None]:
    """Give an autoencoder the center and scale of points; what is refused leaves it as it was."""
    center, scale = autoencoder.center.clone(), autoencoder.scale.clone()
    autoencoder.standardize(x)
    try:
        yield
    except ValueError:
        autoencoder.center.copy_(center)
        autoencoder.scale.copy_(scale)
        raise


def corrupt(x: Array, noise: Noise, seed: int | None = None) -> Tensor:
    """Return points with noise, shape (N, D).

    Args:
        x: Points, shape (N, D).
        noise: As for `denoising.fit`.
        seed: Start of the draws.
    """
    with randomness.scope(seed):
        return _noisy(as_points(x), noise)


def tried(noise: Noise, parts: Parts) -> Tensor:
    """Return what a noise makes of a few points, always the same.

    Raises:
        ValueError: If it is not points of that shape.
    """
    return corrupt(parts.train[:TRIED], noise, seed=0)


def _noisy(x: Tensor, noise: Noise) -> Tensor:
    """Return points with noise, drawn from torch's global generator; `x` stays as it is."""
    found = noise(x.clone())
    if not isinstance(found, Tensor) or found.shape != x.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"noise must keep the shape of a batch, {tuple(x.shape)}, got {got}")
    return found.to(x)


def split(autoencoder: Autoencoder, x: Array, settings: Settings) -> Parts:
    """Return the points to train on and those held out, in the autoencoder's dtype.

    Raises:
        ValueError: If they are not points of its dimension, are all the same, or none are left to
            train on.
    """
    points, validation = autoencoder.points(x), settings.validation
    spread(points)
    if not isinstance(validation, int | float | np.integer | np.floating):
        judge = autoencoder.points(validation, name="validation")
        return Parts(points, judge, torch.empty(0, dtype=torch.int64))
    check_in_range("validation", validation, 0.0, 0.9)
    num_held_out = round(float(validation) * len(points))
    if validation and len(points) > 2:  # of two, one alone would have no variance
        num_held_out = max(num_held_out, 1)
    if num_held_out == len(points):
        raise ValueError(
            f"validation must leave a point to train on, got {validation} of {len(points)} points"
        )
    order = torch.randperm(len(points), generator=randomness.generator(settings.seed))
    held_out, rest = order[:num_held_out], order[num_held_out:]
    return Parts(points[rest.to(points.device)], points[held_out.to(points.device)], held_out)


class _Loss:
    """The unexplained share of a batch."""

    def __init__(self, autoencoder: Autoencoder, unit: Tensor, noise: Noise | None) -> None:
        self.autoencoder, self.unit, self.noise = autoencoder, unit, noise

    def __call__(self, x: Tensor) -> Tensor:
        seen = x if self.noise is None else _noisy(x, self.noise)
        return self.of(x, seen)

    def of(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the share for points of which the encoder sees others."""
        return ((x - self.autoencoder(seen)) / self.unit).square().mean()


class _Judge:
    """The unexplained share of the held-out points, on one draw of the noise."""

    def __init__(self, loss: _Loss, parts: Parts, settings: Settings) -> None:
        x = parts.judge
        seen = x if loss.noise is None else corrupt(x, loss.noise, settings.seed)
        self.loss, self.num = loss, len(x)
        blocks = (part.split(settings.batch_size) for part in (x, seen))
        self.blocks = list(zip(*blocks, strict=True))

    def __call__(self) -> Tensor:
        with evaluating(self.loss.autoencoder):
            parts = [len(x) * self.loss.of(x, seen) for x, seen in self.blocks]
        return torch.stack(parts).sum() / self.num
