"""Schedules: a factor as a function of the progress t in [0, 1] of a run.

    constant   1
    cosine     ½ (1 + cos π t)                 a step size that falls to 0
    warmup     min(1, t / rise)                a weight that starts at 0 and stays at 1
    cyclical   min(1, (t M mod 1) / rise)      the same M times over, at 1 in the end

Reference:
    Loshchilov & Hutter (2017), https://arxiv.org/abs/1608.03983;
    Bowman et al. (2016), https://arxiv.org/abs/1511.06349 (warm-up of a KL);
    Fu et al. (2019), https://arxiv.org/abs/1903.10145 (cyclical)
"""

import math
from collections.abc import Callable
from typing import TypeAlias

from pplvae.validation import check_in_range, check_whole

Schedule: TypeAlias = Callable[[float], float]


def constant(progress: float) -> float:
    """Return the factor 1, whatever the progress in [0, 1]."""
    return 1.0


def cosine(progress: float) -> float:
    """Return the factor ½ (1 + cos π t), which falls from 1 to 0, for t in [0, 1]."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup(rise: float) -> Schedule:
    """Return the schedule that rises evenly from 0 to 1 over the first share `rise` of the run.

    Raises:
        ValueError: If the share is not in (0, 1].
    """
    return cyclical(1, rise)


def cyclical(num_cycles: int, rise: float = 0.5) -> Schedule:
    """Return the schedule that rises from 0 to 1 in the first share `rise` of each cycle.

    Raises:
        ValueError: If there is no cycle or the share is not in (0, 1].
    """
    check_whole("num_cycles", num_cycles, 1)
    check_in_range("rise", rise, 1e-9, 1.0)

    def factor(progress: float) -> float:
        return min(1.0, (progress * num_cycles) % 1.0 / rise) if progress < 1 else 1.0

    return factor
