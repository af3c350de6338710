"""The units of data and the range in which a VAE models them: one affine map, that of training.

    modeled = (x − low) / (high − low)

New data must go through the map of the data that the VAE was trained on; their own least and
largest numbers say nothing of it. `train` keeps it in numbers.json, beside the VAE.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from pplvae.data import Dataset
from pplvae.randomness import generator
from pplvae.vae.levels import Levels
from pplvae.vae.likelihoods import Bernoulli, ContinuousBernoulli, Likelihood
from pplvae.validation import check_in_range

Units: TypeAlias = tuple[float, float] | None  # low and high; None for data that stay as they are
NUMBERS = "numbers.json"


def range_of(dataset: Dataset, law: Likelihood) -> Units:
    """Return the map that brings the data of a training to the range that a likelihood models.

    Tables and levels stay as they are. Images that are in [0, 1] already have the range [0, 1].

    Raises:
        ValueError: If all numbers of images are the same and outside [0, 1].
    """
    if isinstance(law, Levels) or not dataset.is_image:
        return None
    low, high = dataset.x.min().item(), dataset.x.max().item()
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low == high:
        raise ValueError(f"x must vary to be scaled, got {low} everywhere")
    return low, high


def as_modeled(
    dataset: Dataset, law: Likelihood, units: Units, seed: int | None = None
) -> Dataset:
    """Return the data in the range that a VAE models.

    A Bernoulli that binarizes nothing gets images binarized once.

    Args:
        dataset: The data as they were stored.
        law: The VAE's likelihood.
        units: The map of the data that the VAE was trained on.
        seed: Start of the draws of zeros and ones.

    Raises:
        ValueError: If numbers lie outside the map's range where the likelihood knows none there.
    """
    if units is None:
        return dataset
    low, high = units
    if isinstance(law, Bernoulli | ContinuousBernoulli):
        for end in (dataset.x.min().item(), dataset.x.max().item()):
            check_in_range("x", end, low, high, context="as the data of the training")
    x = (dataset.x - low) / (high - low)
    if isinstance(law, Bernoulli) and law.binarize is None:
        x = torch.bernoulli(x, generator=generator(seed, x.device))
    return replace(dataset, x=x)


def as_stored(x: Tensor, units: Units) -> Tensor:
    """Return points of a VAE in the units of the data that it was trained on."""
    return x if units is None else units[0] + (units[1] - units[0]) * x


def given(low: float | None, high: float | None) -> Units:
    """Return the map that flags name, None where they name none.

    Raises:
        ValueError: If only one is given, or `low` is not below `high`.
    """
    if low is None and high is None:
        return None
    if low is None or high is None:
        raise ValueError(f"low and high must be given together, got {low} and {high}")
    if not low < high:
        raise ValueError(f"high must be above low, got {high:g} for low {low:g}")
    return low, high


def kept(file: Path) -> dict[str, Units]:
    """Return the map beside a VAE's file under "units", or nothing where there is none."""
    try:
        units = json.loads(file.with_name(NUMBERS).read_text())["units"]
        return {"units": None if units is None else given(*map(float, units))}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def of_training(file: Path, dataset: Dataset, law: Likelihood) -> Units:
    """Return the map of the data that a VAE was trained on, from the file beside it.

    Raises:
        ValueError: If it is not there, and the data are images whose range it would say.
    """
    known = kept(file)
    if known:
        return known["units"]
    if isinstance(law, Levels) or not dataset.is_image:
        return None
    raise ValueError(
        f"low and high must be given, the least and largest number of the data that {file} was "
        f"trained on, got none: no {NUMBERS} of `vae train` beside it says them"
    )
