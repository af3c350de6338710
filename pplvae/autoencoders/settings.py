"""How an autoencoder is trained: the keywords that every `fit` of the room takes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypedDict

import torch

from pplvae.optimize import Schedule, checkpoint_seed, common_seed, cosine
from pplvae.optimize.logs import Callback
from pplvae.validation import Array, check_whole

PathName: TypeAlias = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """How to train; the same keywords for every `fit`, with the defaults of `Settings`."""

    num_epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule
    clip_norm: float | None
    validation: float | Array
    patience: int | None
    callbacks: Sequence[Callback]
    checkpoint: PathName | None
    checkpoint_seconds: float
    seed: int | None
    progress: bool


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        num_epochs: Most passes over the data.
        batch_size: Points in a batch.
        learning_rate: Adam's step size.
        schedule: Factor on the step size as a function of the progress in [0, 1].
        clip_norm: Largest norm of the whole gradient.
        validation: Fraction of the points to hold out, chosen at random, at least one of three or
            more points; 0 for none; or points to use for it, shape (H, D). The weights with the
            least error on them are kept.
        patience: Stop after so many epochs without a smaller error on the held-out points.
        callbacks: Called with a `logs.Epoch` after each epoch.
        checkpoint: A file to keep the state in and to go on from; of a training in several parts
            each has its own, whose name begins so. Where the training is over, its weights are
            given back as they are, with a warning if the learning rate is another. See
            `optimize.minimize`.
        checkpoint_seconds: Least time between two writes of it.
        seed: Start of the random draws; where None, that of the checkpoint if there is one.
        progress: Whether to show a progress bar, and the layers of a convolutional network.
    """

    num_epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    schedule: Schedule = cosine
    clip_norm: float | None = None
    validation: float | Array = 0.1
    patience: int | None = 20
    callbacks: Sequence[Callback] = ()
    checkpoint: PathName | None = None
    checkpoint_seconds: float = 60.0
    seed: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1)
        if self.patience is not None:
            check_whole("patience", self.patience, 1)

    def part(self, name: str) -> "Settings":
        """Return the settings of a part of a training, with a checkpoint of its own."""
        if self.checkpoint is None:
            return self
        path = Path(self.checkpoint)
        return replace(self, checkpoint=path.with_name(f"{path.name}-{name}"))

    def seeded(self, device: torch.device) -> "Settings":
        """Return the settings with the seed that the run is to have."""
        return replace(self, seed=start_seed(self.seed, self.checkpoint, device))


def start_seed(seed: int | None, checkpoint: PathName | None, device: torch.device) -> int:
    """Return the seed of a run: that of its checkpoint where None, the same on all processes."""
    if seed is None and checkpoint is not None:
        seed = checkpoint_seed(checkpoint)
    return common_seed(seed, device)
