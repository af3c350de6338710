"""Linear maps of Gaussians, and what some coordinates say of the others, by Cholesky factors.

With the coordinates reordered to (a, b), the blocks of the reordered factor say it all,

    L = [[L_aa, 0], [L_ba, L_bb]],   p(a) = Normal(loc_a, L_aa L_aaᵀ),
    p(b | a) = Normal(loc_b + L_ba L_aa⁻¹ (a − loc_a), L_bb L_bbᵀ),

for L_bb L_bbᵀ is the Schur complement. A x + b has means A loc + b and factors that triangularize
A L.

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, section 2.3.
"""

import torch
from torch import Tensor


def conditioned(trils: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the means of b move, shape (K, D − d), and the factors of b given a.

    Args:
        trils: Factors with the known coordinates a first, shape (K, D, D).
        residuals: a − loc_a, shape (K, d).
    """
    known = residuals.shape[1]
    to_a, a_to_b = trils.split([known, trils.shape[-1] - known], dim=-1)
    whitened = torch.linalg.solve_triangular(to_a[:, :known], residuals.unsqueeze(-1), upper=False)
    return (to_a[:, known:] @ whitened).squeeze(-1), a_to_b[:, known:]


def triangular(rows: Tensor) -> Tensor:
    """Return the lower Cholesky factors, shape (…, M, M), of A Aᵀ for A of shape (…, M, ≥ M)."""
    # From Aᵀ = Q R is A Aᵀ = Rᵀ R: the condition is not squared.
    r = torch.linalg.qr(rows.mT).R
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(r)
    return (signs.unsqueeze(-1) * r).mT


def rank(matrix: Tensor) -> int:
    """Return the rank of a matrix whose rows may differ in units."""
    norms = matrix.norm(dim=-1, keepdim=True)
    return int(torch.linalg.matrix_rank(matrix / norms.where(norms > 0, 1.0)))


def noise_tril(cov: Tensor) -> Tensor:
    """Return the lower Cholesky factor of a noise's covariance, shape (M, M).

    Raises:
        ValueError: If it is none.
    """
    tril, info = torch.linalg.cholesky_ex(cov)
    if info or not torch.allclose(cov, cov.mT):
        raise ValueError("noise_cov must be symmetric and positive definite")
    return tril
