"""Training a VAE: a bound on log p(x) climbed by stochastic variational inference.

The gradient of the ELBO is taken through z = m(x) + s(x) ε, the reparameterization, on one draw
of ε for each point (Pyro's `Trace_ELBO`); `objectives` has the other bounds and gradients.

Reference:
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114; Lecture 5 (28/10/2024)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyro
import torch
from torch import Tensor

from pplvae import randomness
from pplvae.infer.gradients import checked_once
from pplvae.networks import evaluating, in_mode
from pplvae.optimize import (
    History,
    Schedule,
    checkpoint_seed,
    common_seed,
    constant,
    minimize,
)
from pplvae.optimize.logs import Callback
from pplvae.vae import bounds
from pplvae.vae.model import VAE
from pplvae.vae.objectives import Objective, as_objective
from pplvae.vae.sources import Data, Source, as_source
from pplvae.validation import check_in_range, check_whole

HELD_OUT = 0.1  # of the points


@dataclass(frozen=True)
class VAEFit:
    """A trained VAE.

    Attributes:
        vae: The VAE itself, the one that was given.
        elbo: Its bound on the held-out points, in nats per point; on the training points where
            none were held out (at most 10,000 of a file or a loader).
        history: `losses` are −objective in each epoch, `validation` the negative of the true
            bound, without weights, on the held-out points after it, in nats per point.
        held_out: Row numbers of the points that were not trained on, shape (H,); empty where
            these were given apart.
    """

    vae: VAE = field(repr=False)
    elbo: bounds.Elbo
    history: History
    held_out: Tensor = field(repr=False)

    @property
    def elbos(self) -> list[float]:
        """The ELBO of the training points in each epoch, in nats per point, without weights.

        As training meets it: with dropout and the like, while the weights change.
        """
        return self.history.monitored.get("elbo", [-loss for loss in self.history.losses])


def fit(
    vae: VAE,
    x: Data,
    *,
    objective: str | Objective = "elbo",
    num_epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    eps: float = 1e-8,
    schedule: Schedule = constant,
    clip_norm: float | None = 100.0,
    validation: float | Data | None = None,
    patience: int | None = 20,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    seed: int | None = None,
    progress: bool = True,
) -> VAEFit:
    """Train `vae` on `x`, in place, by SVI with one Adam for all its parameters.

    Pyro's global parameter store, the global random state and the modes of the networks are left
    as they were. The networks train in training mode and are judged in evaluation mode.

    Args:
        vae: The VAE.
        x: Points, shape (N, D); a memory map of such rows, of which a batch at a time is read; or
            a loader that gives batches, (B, D) or images, alone or first in a tuple. Several
            processes share rows out themselves; each gives a loader of its own share, of as many
            batches as the others'. See `optimize.from_loader`.
        objective: What to climb: "elbo", "iwae", or an `ELBO(...)` or `IWAE(...)`.
        num_epochs: Most passes over the data.
        batch_size: Points in a batch; a loader has its own.
        learning_rate: Adam's step size.
        eps: Adam's ε.
        schedule: Factor on the step size as a function of the progress in [0, 1].
        clip_norm: Largest norm of the whole gradient of the mean objective.
        validation: Fraction of the points to hold out, chosen at random; 0 for none; or points to
            use for it, in any form that `x` has. By default 0.1, none of a loader. The weights
            with the best bound on them are kept.
        patience: Stop after so many epochs without a better bound on the held-out points.
        callbacks: Called with a `logs.Epoch` after each epoch, as `logs.csv(path)`; one that
            returns True ends the run.
        checkpoint: A file to keep the state in and to go on from. See `optimize.minimize`.
        checkpoint_seconds: Least time between two writes of it.
        seed: Start of the random draws; where None, that of the checkpoint if there is one.
        progress: Whether to show a progress bar, with the bound in nats per point.

    Raises:
        ValueError: If an argument is impossible, or the likelihood cannot have produced `x`.
        FloatingPointError: If the loss stops being finite.
    """
    check_whole("num_epochs", num_epochs, 1)
    check_whole("batch_size", batch_size, 1)
    objective, source = as_objective(objective), as_source(vae, x)
    seed = _seed(vae, seed, checkpoint)
    train, judge, held_out = _parts(source, validation, seed)
    loss = _Loss(vae, objective, train)
    validate = None if judge is None else _Judge(vae, objective.judged(), judge, batch_size)
    with pyro.get_param_store().scope(), in_mode(vae, training=True):
        history = minimize(
            loss,
            vae.parameters(),
            train.batches(batch_size),
            num_epochs=num_epochs,
            learning_rate=learning_rate,
            eps=eps,
            schedule=schedule,
            clip_norm=clip_norm,
            validate=validate,
            patience=None if judge is None else patience,
            buffers=vae.buffers(),
            before_step=loss.set_progress,
            callbacks=callbacks,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            about={"VAE": vae, "objective": objective},
            seed=seed,
            progress=progress,
            description="training the VAE",
            shown="−objective" if loss.says_more else "−ELBO",
        )
    return VAEFit(vae, _reached(source if judge is None else judge, seed), history, held_out)


class _Loss:
    """−objective of a batch, the mean over its points, in nats; the ELBO too where it is not."""

    def __init__(self, vae: VAE, objective: Objective, source: Source) -> None:
        self.vae, self.source, self.progress = vae, source, 0.0
        self.estimate = checked_once(lambda x: objective.estimate(vae, x, self.progress))
        self.says_more = not objective.is_elbo

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def __call__(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.source.ready(batch)
        loss, bound = self.estimate(self.vae.likelihood.prepare(x))
        return loss / len(x), {"elbo": bound / len(x)} if self.says_more else {}


class _Judge:
    """−bound of held-out points, the mean over all, in nats."""

    def __init__(self, vae: VAE, bound: Objective, source: Source, batch_size: int) -> None:
        self.vae, self.source, self.batch_size = vae, source, batch_size
        self.loss = checked_once(lambda x: bound(vae, x))

    def __call__(self) -> Tensor:
        with evaluating(self.vae):
            # What fits into memory with its gradient fits without it.
            parts = [self._of(batch) for batch in self.source.walk(self.batch_size)]
        if not parts:
            raise ValueError("validation must hold at least 1 batch, got 0")
        losses, sizes = zip(*parts, strict=True)
        return torch.stack(losses).sum() / sum(sizes)

    def _of(self, x: Tensor) -> tuple[Tensor, int]:
        return self.loss(self.vae.likelihood.prepare(x)), len(x)


def _reached(source: Source, seed: int) -> bounds.Elbo:
    """Return the ELBO of a source's points."""
    with randomness.scope(seed):  # a loader draws
        points = source.some()
    return bounds.elbo(source.vae, points, seed=seed)


def _seed(vae: VAE, seed: int | None, checkpoint: str | os.PathLike[str] | None) -> int:
    """Return the seed of the run: all processes must hold out the same points."""
    if seed is None and checkpoint is not None:
        seed = checkpoint_seed(checkpoint)
    return common_seed(seed, next(vae.parameters(), torch.empty(0)).device)


def _parts(
    source: Source, validation: float | Data | None, seed: int
) -> tuple[Source, Source | None, Tensor]:
    """Return what to train on, what to judge by, and the row numbers of the latter."""
    none = torch.empty(0, dtype=torch.int64)
    if validation is None:
        validation = HELD_OUT if source.has_rows else 0.0
    if not isinstance(validation, int | float | np.integer | np.floating):
        return source, as_source(source.vae, validation, name="validation"), none
    validation = float(validation)
    check_in_range("validation", validation, 0.0, 0.9)
    if validation and not source.has_rows:
        raise ValueError(f"validation must be data for a loader, got the fraction {validation}")
    if not validation:
        return source, None, none
    train, held_out = _split(len(source), validation, seed)
    return source.subset(train), source.subset(held_out) if len(held_out) else None, held_out


def _split(num_points: int, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the row numbers to train on and those held out, in random order."""
    order = torch.randperm(num_points, generator=randomness.generator(seed))
    num_held_out = round(validation * num_points)
    if num_held_out == num_points:
        raise ValueError(
            f"validation must leave a point to train on, got {validation} of {num_points} points"
        )
    return order[num_held_out:], order[:num_held_out]
