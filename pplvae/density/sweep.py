"""What the width of a kernel does: both readings of the lecture's line, over many widths.

The lecture takes h where Δ(h) = KL(p_1 ‖ p_2) is least. With p_1 the truth and p_2 = p_h the
estimate, Δ has a valley, and leave-one-out likelihood finds it (`bandwidth.kl`). With p_1 and p_2
the estimates of two halves of the sample it has none: wider kernels make any two samples look
alike, so that Δ falls for ever as h grows and picks nothing.

    KL(p_1 ‖ p_2) = E_m [(p_1 log(p_1 / p_2) - p_1 + p_2) / m],   m = (p_1 + p_2) / 2,

is a mean over draws from both of what is never negative.

Reference:
    Lecture 5 (28/10/2024)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.density import kernel
from pplvae.density.leave_one_out import leave_one_out
from pplvae.density.thumb import silverman
from pplvae.validation import Array, as_points, as_vector, check_positive

FACTORS = torch.logspace(-1, 0.75, 29, dtype=torch.float64)  # of Silverman's width: 0.1 to 5.6
NUM_DRAWS = 1000  # from each half


@dataclass(frozen=True, eq=False)
class Sweep:
    """A Gaussian kernel at n widths.

    Attributes:
        factors: What Silverman's widths were multiplied by, shape (n,).
        bandwidths: The widths, shape (n, D), in the units of each column.
        divergence: KL(p ‖ p_h), less its least value here, in nats, shape (n,).
        error: The standard error of that difference, shape (n,), from those point by point.
        halves: KL(p_1 ‖ p_2) between the estimates of two halves of the sample, shape (n,).
    """

    factors: Tensor
    bandwidths: Tensor
    divergence: Tensor
    error: Tensor
    halves: Tensor

    @property
    def best(self) -> int:
        """Which of the widths has the least divergence from the truth."""
        return int(self.divergence.argmin())

    def __repr__(self) -> str:
        low, high, best = (f"{self.factors[i].item():.3g}" for i in (0, -1, self.best))
        return f"Sweep({len(self.factors)} widths, {low} to {high} times Silverman's, best {best})"


def bandwidths(
    data: Array,
    factors: Array | None = None,
    *,
    seed: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Return how far Gaussian kernel estimates of many widths are from the truth.

    Args:
        data: Points, shape (N, D), N ≥ 4.
        factors: What to multiply Silverman's widths by, shape (n,); from 0.1 to 5.6 where None.
        seed: Start of the random draws, of the halves and from their estimates.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a factor is not positive, or a column does not vary, in a half either.
    """
    data = as_points(data, name="data", min_points=4).double()
    factors = (FACTORS if factors is None else as_vector(factors, name="factors")).to(data)
    check_positive("factors", factors)
    base, seed = silverman(data), randomness.resolve(seed)
    order = torch.randperm(len(data), generator=randomness.generator(seed)).to(data.device)
    first, second = data[order].tensor_split(2)
    logs, halves = [], []
    for factor in tqdm(factors.tolist(), desc="widths", disable=not progress, delay=3):
        logs.append(leave_one_out(data, factor * base, progress=False))
        halves.append(_between(first, second, factor * base, seed))
    found = torch.stack(logs)
    loss = found[found.mean(1).argmax()] - found
    return Sweep(
        factors=factors,
        bandwidths=factors.unsqueeze(1) * base,
        divergence=loss.mean(1),
        error=loss.std(1) / math.sqrt(len(data)),
        halves=torch.stack(halves),
    )


def _between(first: Tensor, second: Tensor, width: Tensor, seed: int) -> Tensor:
    """Return KL(p_1 ‖ p_2) of two estimates of one width, by the same draws for all widths."""
    both = [kernel.fit(half, width) for half in (first, second)]
    x = torch.cat([own.sample(NUM_DRAWS, seed=seed) for own in both])
    one, two = (own.log_density(x, progress=False) for own in both)
    gain = one - two  # log p_1 / p_2; p_1 / m = 2 sigmoid(gain)
    return 2 * (gain.sigmoid() * gain - gain.sigmoid() + (-gain).sigmoid()).mean()
