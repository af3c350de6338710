"""Where the PCA spectrum ends: rules that say how many components stand out from noise.

Each is a question asked of the eigenvalues λ_1 ≥ λ_2 ≥ … of the covariance matrix:

    threshold            do the first k hold the fraction asked for?
    participation ratio  (Σ λ)² / Σ λ², rounded: how many equal ones would be as uneven?
    Kaiser               is λ_k at least the average?
    broken stick         is its share above that of the k-th longest of p pieces of a stick broken
                         at random, (1/p) Σ_{i=k..p} 1/i?
    parallel analysis    is it above the k-th of noise in columns as variable as these?
    evidence             k that is most probable: a k-plane with normal noise around it

All are linear: a circle has two components, a curve that fills R^D has D. The first two always
find one; the others find none in a ball, where no direction stands out, but one in a single
column, where nothing could. Columns that do not vary are left out; p = min(N − 1, columns that
vary) is how many eigenvalues could differ from zero. The rules do not commute with a change of
units of one column: standardize columns that are not comparable first.

Reference:
    Guttman (1954) and Kaiser (1960); Frontier (1976) for the broken stick; Horn (1965) and
    Glorfeld (1995) for parallel analysis; Minka (2000), Automatic choice of dimensionality for PCA
"""

import math

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.intrinsic_dimension.spectrum import Spectrum, pca
from pplvae.validation import Array, check_whole


def rules(
    x: Array | Spectrum,
    *,
    variance_fraction: float = 0.95,
    seed: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Return how many components each rule keeps, by its name.

    Args:
        x: Points, shape (N, D), N ≥ 2, or their spectrum.
        variance_fraction: What the threshold asks for, in (0, 1]; a spectrum has its own.
        seed: For parallel analysis: an int for the same noise every time.
        progress: Whether more than a few seconds show a progress bar.
    """
    spectrum = _spectrum(x, variance_fraction)
    return {
        "threshold": spectrum.dimension,
        "participation ratio": round(spectrum.participation_ratio),
        "kaiser": kaiser(spectrum),
        "broken stick": broken_stick(spectrum),
        "parallel analysis": parallel_analysis(spectrum, seed=seed, progress=progress),
        "evidence": evidence(spectrum, progress=progress),
    }


def kaiser(x: Array | Spectrum) -> int:
    """Return how many eigenvalues are at least their average over the p that could be.

    For standardized columns that is the well-known 1. About half of the eigenvalues of noise pass.

    Args:
        x: Points, shape (N, D), N ≥ 2, or their spectrum.
    """
    eigenvalues = _possible(_spectrum(x))
    rounding = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return int((eigenvalues >= (1 - rounding) * eigenvalues.mean()).sum())


def broken_stick(x: Array | Spectrum) -> int:
    """Return how many of the first shares exceed the pieces of a stick broken at random.

    Args:
        x: Points, shape (N, D), N ≥ 2, or their spectrum.
    """
    eigenvalues = _possible(_spectrum(x))
    size = len(eigenvalues)
    reciprocals = torch.arange(1, size + 1).to(eigenvalues).reciprocal()
    pieces = reciprocals.flip(0).cumsum(0).flip(0) / size
    return _first(eigenvalues / eigenvalues.sum() >= pieces)


def parallel_analysis(
    x: Array | Spectrum, *, num_draws: int = 19, seed: int | None = None, progress: bool = True
) -> int:
    """Return how many of the first eigenvalues exceed those of all draws of noise.

    The noise is normal, independent between columns, and each column has the variance that it has
    in the data. If the data are such noise, the first passes by a chance of 1 / (draws + 1), 5 %.
    Permuting each column instead would keep the columns' own laws, which matter little to large
    eigenvalues, sums over many rows; and it would need the points, and N × D numbers to decompose
    for each draw. Of normal noise only the triangular factor need be drawn: with n = N − 1 ≥ D,
    chi of n − i + 1 degrees of freedom on the diagonal and N(0, 1) right of it (Bartlett, 1933).

    Args:
        x: Points, shape (N, D), N ≥ 2, or their spectrum.
        num_draws: How many times noise is drawn.
        seed: An int for the same noise every time.
        progress: Whether more than a few seconds show a progress bar.

    Raises:
        ValueError: If `num_draws` is not a whole number, at least 1.
    """
    check_whole("num_draws", num_draws, 1)
    spectrum = _spectrum(x)
    eigenvalues, scales = _possible(spectrum), spectrum.variances.double().sqrt()
    if len(eigenvalues) == 1:
        return 1
    scales, dof = scales[scales > 0], spectrum.num_points - 1
    with randomness.scope(seed):
        draws = tqdm(range(num_draws), "parallel analysis", disable=not progress, delay=3)
        noise = [torch.linalg.svdvals(_noise(dof, scales)).square() for _ in draws]
    return _first(eigenvalues > torch.stack(noise).amax(dim=0))


def evidence(x: Array | Spectrum, *, progress: bool = True) -> int:
    """Return the number of components k of greatest `log_evidence`.

    k = d − 1 and k = d are the same model, all directions free, and called d − 1: the answer where
    the spectrum has no flat end, as that of images, whose noise is not the same in all directions.
    Points exactly in a plane, but for rounding, have its dimension.

    Args:
        x: Points, shape (N, D), N ≥ 2, or their spectrum.
        progress: Whether more than a few seconds show a progress bar.
    """
    spectrum = _spectrum(x)
    num_possible = len(_possible(spectrum))
    if spectrum.rank < num_possible or num_possible == 1:
        return spectrum.rank
    return int(log_evidence(spectrum, progress=progress).argmax())


@torch.no_grad()
def log_evidence(x: Array | Spectrum, *, progress: bool = True) -> Tensor:
    """Return the log evidence of probabilistic PCA with k = 0 … d − 1 components, shape (d,).

    Minka's Laplace approximation, in nats, less what does not depend on k:

        log p(X | k) ≈ log p(U) − (n/2) Σ_{i≤k} log λ_i − (n (d − k)/2) log v
                       + ((m + k)/2) log 2π − ½ Σ_{i≤k} Σ_{j>i} log a_ij − (k/2) log n

    v is the mean of λ_{k+1} … λ_d, m = d k − k (k + 1)/2 the number of rotations,
    a_ij = n (1/λ̂_j − 1/λ̂_i) (λ_i − λ_j) the curvature along one, with λ̂_j = v for j > k, and
    log p(U) = Σ_{i≤k} [log Γ((d−i+1)/2) − ((d−i+1)/2) log π] − k log 2. Three things are added:

    - Where λ_i and λ_j are nearly equal, a_ij → 0 and the approximation has no bound, though an
      angle has at most π to turn: √(2π/a) ≤ π, so that a is at least 2/π.
    - n = N points in d = D columns need N > D. A plane with noise around it is one of columns as
      well as of rows, so for more columns than N − 1 they change places: n = D, d = N − 1.
    - An eigenvalue that rounding can make is raised to what rounding can make.

    Args:
        x: Points, shape (N, D), N ≥ 2, or their spectrum; columns that do not vary do not count.
        progress: Whether more than a few seconds show a progress bar.
    """
    spectrum = _spectrum(x)
    eigenvalues = _possible(spectrum)
    unit, rounding = eigenvalues[0], spectrum.rounding[: len(eigenvalues)].max().item()
    eigenvalues = (eigenvalues / unit).clamp(min=rounding)  # their squares are numbers, too
    num = max(spectrum.num_points, int((spectrum.variances > 0).sum()))
    ks = tqdm(range(len(eigenvalues)), "evidence", disable=not progress, delay=3)
    found = torch.stack([_evidence_but_for_kept_pairs(eigenvalues, k, num) for k in ks])
    gaps = eigenvalues.unsqueeze(1) - eigenvalues
    curvatures = num * gaps.square() / (eigenvalues.unsqueeze(1) * eigenvalues)
    pairs = _log_curvature(curvatures).triu(diagonal=1).sum(dim=0).cumsum(0)
    found = found - num / 2 * len(eigenvalues) * unit.log()
    return found - torch.cat([pairs.new_zeros(1), pairs[:-1]]) / 2


def _evidence_but_for_kept_pairs(eigenvalues: Tensor, k: int, num: int) -> Tensor:
    """Return the log evidence of k components less the log a_ij of i < j ≤ k."""
    kept, left = eigenvalues[:k], eigenvalues[k:]
    size, noise = len(eigenvalues), left.mean()
    halves = (size - torch.arange(k).to(kept)) / 2
    prior = (halves.lgamma() - halves * math.log(math.pi)).sum() - k * math.log(2)
    fit = -num / 2 * (kept.log().sum() + (size - k) * noise.log())
    num_rotations = size * k - k * (k + 1) // 2
    volume = (num_rotations + k) / 2 * math.log(2 * math.pi) - k / 2 * math.log(num)
    pull = num * (1 / noise - 1 / kept)
    curvatures = pull.unsqueeze(1) * (kept.unsqueeze(1) - left)
    return prior + fit + volume - _log_curvature(curvatures).sum() / 2


def _log_curvature(curvatures: Tensor) -> Tensor:
    return curvatures.clamp(min=2 / math.pi).log()


def _noise(dof: int, scales: Tensor) -> Tensor:
    """Return a matrix with the singular values, over √dof, of noise in columns so variable."""
    size = len(scales)
    normal = torch.randn(min(dof, size), size, dtype=torch.float64)
    if dof >= size:
        chi_square = torch.distributions.Chi2(dof - torch.arange(size, dtype=torch.float64))
        normal = normal.triu(diagonal=1) + chi_square.sample().sqrt().diag()
    return (normal / normal.norm(dim=0)).to(scales) * scales


def _spectrum(x: Array | Spectrum, variance_fraction: float = 0.95) -> Spectrum:
    return x if isinstance(x, Spectrum) else pca(x, variance_fraction)


def _possible(spectrum: Spectrum) -> Tensor:
    """Return the p eigenvalues that could differ from zero, float64."""
    varying = int((spectrum.variances > 0).sum())
    return spectrum.eigenvalues[: min(spectrum.num_points - 1, varying)].double()


def _first(passed: Tensor) -> int:
    """Return how many pass before one does not."""
    return int(passed.long().cumprod(0).sum())
