"""Densities side by side: the mean log density of points that none of them has seen.

With q fitted to some points and M others x_m drawn from p,

    1/M Σ_m log q(x_m)  ≈  E_p log q = -H(p) - KL(p ‖ q),

in nats per point: no q does better on average than p itself, and the difference of two is that of
their divergences from p. As the same points are hard for all, a difference is known far better
than its terms: the standard error of mean_m (log q(x_m) - log q'(x_m)) is taken from the
differences. Only densities can be ranked so: what does not integrate to one can get any score.

Reference:
    Lecture 5 (28/10/2024), parametric against non-parametric; Gneiting & Raftery (2007), Strictly
    proper scoring rules, https://doi.org/10.1198/016214506000001437
"""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.compare.density_fits import FITS, NON_PARAMETRIC, Evaluate, Evaluated, Settings
from pplvae.compare.held_out import DensityComparison, HeldOut, num_zeros
from pplvae.validation import Array, as_points, check_one_of, check_whole

LogDensity: TypeAlias = Callable[[Tensor], Array]
UNRANKED = ("k-NN",)
ATOM = 0.05  # of the points at one value of a column


def densities(
    x: Array,
    estimates: Iterable[str] | Mapping[str, str | LogDensity] = tuple(FITS),
    *,
    held_out: float | Array = 0.2,
    num_neighbors: int = 10,
    num_epochs: int = 60,
    num_samples: int = 500,
    seed: int | None = None,
    progress: bool = True,
) -> DensityComparison:
    """Return how well densities explain points that they have not seen.

    What does not apply to the data, or fails, is a row that says so. The k-NN estimate is no
    density and is not ranked: in its unbiased form its mean estimates what p itself would get.

    Args:
        x: Points, shape (N, D).
        estimates: Some of "histogram", "kernel", "k-NN", "mixture", "flow" and "VAE", which are
            fitted here; or by name such a word, or a log density of one's own, fitted to x:
            a function of points, shape (M, D), to nats, (M,). Of those only two things are asked:
            that they integrate to one, and have not seen the held-out points.
        held_out: The share of the points that is held out, at random, in (0, 1); or other points
            of the same law, shape (M, D): needed for log densities of one's own, which would
            else have seen them.
        num_neighbors: The k of "k-NN".
        num_epochs: Most passes over the points of "flow" and "VAE".
        num_samples: Weighted draws for each log p(x) of "VAE".
        seed: Start of the split and of all random draws.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If nothing is to be compared, a name is unknown, an argument is impossible, or
            log densities are given without points to judge them by.
    """
    for name, value in {
        "num_neighbors": num_neighbors, "num_epochs": num_epochs, "num_samples": num_samples
    }.items():  # fmt: skip
        check_whole(name, value, 1)
    asked = _asked(estimates)
    seed = randomness.resolve(seed)
    given = any(callable(own) for own in asked.values())
    train, test = _split(as_points(x, min_points=2).double(), held_out, seed, given=given)
    settings = Settings(num_neighbors, num_epochs, num_samples, seed, progress=False)
    bar = tqdm(asked.items(), desc="densities", disable=not progress)
    found = {name: _judged(name, own, train, test, settings) for name, own in bar}
    return DensityComparison(found, len(train), len(test), _doubts(train))


def _asked(
    estimates: Iterable[str] | Mapping[str, str | LogDensity],
) -> dict[str, str | LogDensity]:
    asked: dict[str, str | LogDensity] = (
        dict(estimates) if isinstance(estimates, Mapping) else {n: n for n in estimates}
    )
    if not asked:
        raise ValueError("estimates must name at least 1, got none")
    for own in asked.values():
        if not callable(own):
            check_one_of("estimates", own, FITS)
    return asked


def _split(x: Tensor, held_out: float | Array, seed: int, *, given: bool) -> tuple[Tensor, Tensor]:
    """Return the points to fit to and those to judge by."""
    if not isinstance(held_out, float | int | np.floating):
        test = as_points(held_out, name="held_out", min_points=2).to(x)
        if test.shape[1] != x.shape[1]:
            raise ValueError(f"held_out and x must share D, got {test.shape[1]} and {x.shape[1]}")
        return x, test
    if given:
        raise ValueError(
            f"held_out must be points where a log density is given, got {held_out}: the one given "
            "has seen all of x"
        )
    size = round(held_out * len(x)) if 0 < held_out < 1 else 0
    if not 2 <= size <= len(x) - 2:
        raise ValueError(f"held_out must leave 2 points on each side of {len(x)}, got {held_out}")
    order = torch.randperm(len(x), generator=randomness.generator(seed)).to(x.device)
    test, train = x[order].tensor_split([size])
    return train, test


def _judged(
    name: str, own: str | LogDensity, train: Tensor, test: Tensor, settings: Settings
) -> HeldOut:
    """Return what one estimate gets; none, and why, where it does not apply."""
    kind = "given" if callable(own) else "parametric"
    kind = "non-parametric" if own in NON_PARAMETRIC else kind
    started, ranked = time.process_time(), own not in UNRANKED
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            evaluate = _given(own) if callable(own) else _fitted(own, train, settings)
            found = evaluate(test)
            _check(name, found.log_density, len(test))
        except Exception as error:  # one of one's own may raise anything
            said = (str(error) or type(error).__name__).splitlines()[0]
            seconds = time.process_time() - started
            return HeldOut(None, kind, f"not here: {said}", ranked, seconds)
    seconds, zeros = time.process_time() - started, num_zeros(found.log_density)
    said = [found.note, *(str(w.message) for w in caught if issubclass(w.category, UserWarning))]
    if zeros:
        said.insert(0, f"density 0 at {zeros} of {len(test)} points")
    note = "; ".join(dict.fromkeys(part for part in said if part))

    def log_density(points: Tensor) -> Tensor:
        return evaluate(as_points(points).to(train)).log_density

    return HeldOut(found.log_density, kind, note, ranked, seconds, log_density)


def _fitted(name: str, train: Tensor, settings: Settings) -> Evaluate:
    constant = (train == train[0]).all(dim=0).nonzero().flatten().tolist()
    if constant:
        raise ValueError(f"x must vary in every column to have a density, not in {constant[:5]}")
    return FITS[name](train, settings)


def _given(own: LogDensity) -> Evaluate:
    return lambda points: Evaluated(torch.as_tensor(own(points)).detach().to(points))


def _check(name: str, log_density: Tensor, num_points: int) -> None:
    if log_density.shape != (num_points,):
        shape = tuple(log_density.shape)
        raise ValueError(f"{name} must give one number for each of {num_points}, got {shape}")
    bad = int((log_density.isnan() | log_density.isposinf()).sum())
    if bad:
        raise ValueError(f"{name} must give numbers below infinity, got {bad} nan or inf")


def _doubts(train: Tensor) -> list[str]:
    """Say where the data have atoms, on which a density can be as large as one likes."""
    most = max(
        (column.unique(return_counts=True)[1].max().item() / len(train), i)
        for i, column in enumerate(train.unbind(dim=1))
    )
    share, column = most
    if share <= ATOM or len(train) < 1 / ATOM:
        return []
    return [
        f"column {column} has one value in {share:.0%} of the rows: on such an atom a density can "
        "be as large as one likes, so that the best may only be the sharpest"
    ]
