"""As many neighbors as each point can use: k* by likelihood ratio, and a density that has a slope.

Balls about x and about its (k + 1)-th neighbor j that both reach their k-th neighbors, of volumes
V_x and V_j, hold k points each. The likelihood ratio of two densities in them against one is

    D_k = -2k [log V_x + log V_j - 2 log(V_x + V_j) + log 4] = 4k log cosh(d log(r_x / r_j) / 2),

chi-square with one degree of freedom where the density is one. k* is the last of k = 3, 4, …
before D_k exceeds what it does by chance once in a million.

PAk lets log p change by a from one shell to the next inside the ball of k* neighbors. With v_l the
volume of the shell between neighbors l - 1 and l, F = log N p and a maximize

    L(F, a) = F k + a k(k + 1)/2 - Σ_l v_l exp(F + a l):
    Σ_l l w_l = (k + 1)/2,   w_l ∝ v_l exp(a l),   F = log k - log Σ_l v_l exp(a l),

so that a is the tilt that brings the mean rank, by volume, to the middle: one convex equation.
Where ties leave no volume to the outer shells it has no solution, and a is 0. The standard error
of F is √((4k + 2) / (k(k - 1))), about twice that of a constant density, 1 / √k.

Reference:
    Rodriguez, d'Errico, Facco & Laio (2018), Computing the free energy without collective
    variables, https://doi.org/10.1021/acs.jctc.7b00916
"""

import math

import torch
from torch import Tensor

SIGNIFICANCE = 1e-6  # the chance of a D_k too large where the density is constant
FIRST = 3  # the first k that is tried
_STEPS = 200


def sizes(distances: Tensor, others: Tensor, indices: Tensor, dimension: float) -> Tensor:
    """Return k* of each query, in [2, K - 1], shape (M,), int64.

    Args:
        distances: From each query to its nearest points, shape (M, K), K ≥ 4.
        others: From each point to its nearest others, shape (N, K).
        indices: Which points are nearest to each query, shape (M, K).
        dimension: d, which turns distances into volumes.
    """
    from scipy.stats import chi2

    most, rows = float(chi2(1).isf(SIGNIFICANCE)), torch.arange(len(indices)).to(indices)
    found = torch.full_like(rows, distances.shape[1] - 1)
    for k in range(FIRST, distances.shape[1]):
        reach = 2 * math.acosh(math.exp(most / (4 * k))) / dimension
        ratio = distances[rows, k - 1] / others[indices[rows, k], k - 1]
        passing = ratio.log().abs() <= reach
        found[rows[~passing]] = k - 1
        rows = rows[passing]
    return found


def with_slopes(distances: Tensor, sizes: Tensor, dimension: float) -> Tensor:
    """Return F of each query by PAk, but for the log of the unit ball's volume, shape (M,).

    Args:
        distances: From each query to its nearest points, shape (M, K), positive.
        sizes: k of each query, shape (M,), from 2 to K.
        dimension: d.
    """
    most = int(sizes.max())
    ranks = torch.arange(1, most + 1).to(distances)
    reach = distances.gather(1, sizes.unsqueeze(1) - 1)
    log_shells = _log_shells((distances[:, :most] / reach).log() * dimension)
    log_shells[ranks > sizes.unsqueeze(1)] = -math.inf
    tilts = _tilts(log_shells, ranks, 0.5 * (sizes + 1))
    # From the ball's edge, so that nothing overflows: l - k in the place of l.
    steps = tilts.unsqueeze(1) * (ranks - sizes.unsqueeze(1))
    inside = (log_shells + steps).logsumexp(1)
    log_ball = dimension * reach.squeeze(1).log()
    return sizes.log() - inside - tilts * sizes - log_ball


def _log_shells(log_volumes: Tensor) -> Tensor:
    """Return the logs of what each ball adds to the one inside it, shape (M, K)."""
    inner = log_volumes[:, :-1] - log_volumes[:, 1:]
    outer = torch.log(-torch.expm1(inner))
    return torch.cat([log_volumes[:, :1], log_volumes[:, 1:] + outer], dim=1)


def _tilts(log_shells: Tensor, ranks: Tensor, means: Tensor) -> Tensor:
    """Return the a at which Σ l w_l is the mean asked for, by safe Newton steps, shape (M,)."""
    a = torch.zeros_like(means)
    solvable = log_shells.where(ranks > means.unsqueeze(1), -math.inf).amax(1) > -math.inf
    low, high = torch.full_like(a, -math.inf), torch.full_like(a, math.inf)
    for _ in range(_STEPS):
        w = (log_shells + a.unsqueeze(1) * ranks).softmax(dim=1)
        mean = w @ ranks
        spread = (w * (ranks - mean.unsqueeze(1)).square()).sum(1)
        low, high = low.where(mean > means, a), high.where(mean < means, a)
        new = a + ((means - mean) / spread).clamp(-4.0, 4.0).where(solvable, 0.0)
        inside = (new >= low) & (new <= high)
        new = new.where(inside, 0.5 * (low + high))
        if (new - a).abs().max() < 1e-12:
            break
        a = new
    return a
