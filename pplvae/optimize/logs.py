"""What a training run says of itself after each epoch, and files to keep it in.

A callback is any function of an `Epoch`; one that returns True ends the run. The two here write a
CSV table and TensorBoard's event files.
"""

import csv as tables
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pplvae import distributed
from pplvae.storage import remove_left_over, write_atomically


@dataclass(frozen=True)
class Epoch:
    """One pass over the data.

    Attributes:
        number: Which, from 0.
        num_epochs: The most there will be.
        loss: The mean training loss in it.
        validation: The validation loss after it; None where none was asked for.
        best: Whether its parameters are the ones to keep so far: the validation loss is the least
            yet, or there is none.
        num_steps: Gradient steps taken so far.
        seconds: Wall-clock time so far, in seconds.
        learning_rate: The size of its last step.
        monitored: Means of what else the loss reported.
    """

    number: int
    num_epochs: int
    loss: float
    validation: float | None
    best: bool
    num_steps: int
    seconds: float
    learning_rate: float
    monitored: dict[str, float] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Return what there is to plot, by name."""
        said = {"loss": self.loss, "validation": self.validation, **self.monitored}
        known = {name: value for name, value in said.items() if value is not None}
        return known | {"learning_rate": self.learning_rate, "seconds": self.seconds}


Callback: TypeAlias = Callable[[Epoch], object]


def csv(path: str | os.PathLike[str]) -> Callback:
    """Return a callback that keeps a table with one row an epoch at `path`, whole at all times.

    A run that goes on from a checkpoint goes on with its table; a new one begins it anew.

    Raises:
        ValueError: If there is another file at `path`.
    """
    file = Path(path)
    _rows(file)  # before the training, not after its first epoch
    if distributed.rank() == 0:
        remove_left_over(file)

    def write(epoch: Epoch) -> None:
        if distributed.rank() > 0:
            return
        row = {"epoch": epoch.number, "num_steps": epoch.num_steps, **epoch.numbers()}
        rows = [old for old in _rows(file) if int(old["epoch"]) < epoch.number]
        text = io.StringIO()
        table = tables.DictWriter(text, [*row], extrasaction="ignore")
        table.writeheader()
        table.writerows([*rows, row])
        content = text.getvalue()
        write_atomically(file, lambda name: name.write_text(content, "utf-8", newline=""))

    return write


def _rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table that `csv` wrote; none where there is no file or an empty one."""
    if not file.exists() or not file.stat().st_size:
        return []
    try:
        table = tables.DictReader(io.StringIO(file.read_text("utf-8")))
        rows, names = list(table), table.fieldnames or []
    except (OSError, UnicodeDecodeError, tables.Error):
        rows, names = [], []
    numbered = all((row["epoch"] or "").isdecimal() for row in rows if "epoch" in row)
    if [*names[:2]] != ["epoch", "num_steps"] or not numbered:
        raise ValueError(f"path must be free or hold such a table, got {file}, another file")
    return rows


def tensorboard(folder: str | os.PathLike[str]) -> Callback:
    """Return a callback that writes TensorBoard's event files to `folder`.

    A run that goes on from a checkpoint goes on with its curves.

    Raises:
        ImportError: If the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ImportError("logs.tensorboard needs `pip install tensorboard`") from error
    writers: list[SummaryWriter] = []  # opened at the first epoch, whose number it must know

    def write(epoch: Epoch) -> None:
        if distributed.rank() > 0:
            return
        if not writers:
            writers.append(SummaryWriter(os.fspath(folder), purge_step=epoch.number))
        for name, value in epoch.numbers().items():
            writers[0].add_scalar(name, value, epoch.number)
        writers[0].flush()

    return write
