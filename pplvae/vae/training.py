"""Training a VAE: the ELBO climbed by stochastic variational inference, batch by batch.

The gradient of the bound is taken through z = m(x) + s(x) ε, the reparameterization, on one draw
of ε for each point (Pyro's `Trace_ELBO`).

Reference:
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; Lecture 5 (28/10/2024)
"""

import math
import os
from dataclasses import dataclass, field

import pyro
import torch
from torch import Tensor, nn

from pplvae import distributed, randomness
from pplvae.infer import svi
from pplvae.optimize import (
    History,
    Schedule,
    checkpoint_seed,
    constant,
    minibatches,
    minimize,
)
from pplvae.vae import bounds
from pplvae.vae.model import VAE, evaluating, in_mode
from pplvae.validation import Array, check_in_range, check_whole


@dataclass(frozen=True)
class VAEFit:
    """A trained VAE.

    Attributes:
        vae: The VAE itself, the one that was given.
        elbo: Its bound on the held-out points, in nats per point; on all points where none were
            held out.
        history: −ELBO after each epoch, in nats per point, on training and held-out points.
        held_out: Row numbers of the points that were not trained on, shape (H,).
    """

    vae: VAE = field(repr=False)
    elbo: bounds.Elbo
    history: History
    held_out: Tensor = field(repr=False)


def fit(
    vae: VAE,
    x: Array,
    *,
    num_epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    schedule: Schedule = constant,
    clip_norm: float | None = 100.0,
    validation: float = 0.1,
    patience: int | None = 20,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    seed: int | None = None,
    progress: bool = True,
) -> VAEFit:
    """Train `vae` on `x`, in place, by SVI and `Trace_ELBO`.

    Pyro's global parameter store, the global random state and the modes of the networks are left
    as they were. The networks train in training mode and are judged in evaluation mode; buffers
    such as batch-norm averages are kept with the best weights, but not in a checkpoint.

    Args:
        vae: The VAE.
        x: Points, shape (N, D).
        num_epochs: Most passes over the data.
        batch_size: Points in a batch.
        learning_rate: Adam's step size.
        schedule: Factor on the step size as a function of the progress in [0, 1].
        clip_norm: Largest norm of the gradient of the mean −ELBO.
        validation: Fraction of the points to hold out, chosen at random; 0 for none. The weights
            with the best bound on them are kept.
        patience: Stop after so many epochs without a better bound on the held-out points.
        checkpoint: A file to keep the state in and to go on from. See `optimize.minimize`.
        checkpoint_seconds: Least time between two writes of it.
        seed: Start of the random draws; where None, that of the checkpoint if there is one.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If an argument is impossible, or the likelihood cannot have produced `x`.
        FloatingPointError: If the loss stops being finite.
    """
    check_in_range("validation", validation, 0.0, 0.9)
    check_whole("num_epochs", num_epochs, 1)
    check_whole("batch_size", batch_size, 1)
    x = vae.points(x)
    vae.likelihood.check(x)
    if seed is None and checkpoint is not None:
        seed = checkpoint_seed(checkpoint)
    # All processes must hold out the same points.
    start = torch.tensor(randomness.resolve(seed), device=x.device)
    seed = int(distributed.from_first(start))
    train, held_out = _split(len(x), validation, seed)
    loss, best = svi.negative_elbo(vae.joint, vae.recognition), _BestBuffers(vae)

    def mean_loss(batch: Tensor) -> Tensor:
        return loss(vae.likelihood.prepare(batch)) / len(batch)

    def validate() -> Tensor:
        batches = x[held_out].split(1000)
        with evaluating(vae):
            total = torch.stack([mean_loss(b) * len(b) for b in batches]).sum()
        best.judge(total.item())
        return total / len(held_out)

    with pyro.get_param_store().scope(), in_mode(vae, training=True), best:
        history = minimize(
            mean_loss,
            [parameter for parameter in vae.parameters() if parameter.requires_grad],
            minibatches(x[train], batch_size=min(batch_size, len(train))),
            num_epochs=num_epochs,
            learning_rate=learning_rate,
            schedule=schedule,
            clip_norm=clip_norm,
            validate=validate if len(held_out) else None,
            patience=patience if len(held_out) else None,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            seed=seed,
            progress=progress,
            description="training the VAE",
        )
    judged = x[held_out] if len(held_out) else x
    return VAEFit(vae, bounds.elbo(vae, judged, seed=seed), history, held_out)


def _split(num_points: int, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the row numbers to train on and those held out, in random order."""
    order = torch.randperm(num_points, generator=randomness.generator(seed))
    num_held_out = round(validation * num_points)
    if num_held_out == num_points:
        raise ValueError(
            f"validation must leave a point to train on, got {validation} of {num_points} points"
        )
    return order[num_held_out:], order[:num_held_out]


class _BestBuffers:
    """Puts a module's buffers back, at the end of the block, to what they were at its best."""

    def __init__(self, module: nn.Module) -> None:
        self.buffers, self.least = list(module.buffers()), math.inf
        self.kept = self.buffers

    def judge(self, loss: float) -> None:
        if loss < self.least:
            self.least, self.kept = loss, [buffer.clone() for buffer in self.buffers]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        for buffer, kept in zip(self.buffers, self.kept, strict=True):
            buffer.copy_(kept)
