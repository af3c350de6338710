"""Kullback-Leibler divergences, in nats.

KL(p || q) = E_p[log p(x) - log q(x)] is the price of coding draws of p by a code made for q. It is
never negative, is zero only where p = q, and is not symmetric. In closed form for discrete and
normal distributions, by sampling for the rest.

Reference:
    Kullback & Leibler (1951), On information and sufficiency,
    https://doi.org/10.1214/aoms/1177729694
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.distributions import Distribution

from pplvae.randomness import scope
from pplvae.validation import Array, as_tensor, check_in_range, check_positive, check_whole


def discrete_kl(p: Array, q: Array) -> Tensor:
    """Return Σ_k p_k log(p_k / q_k) for discrete distributions.

    A term with p_k = 0 adds nothing; one with q_k = 0 < p_k makes the divergence infinite.

    For P = (.36, .48, .16) and Q = (1/3, 1/3, 1/3) this gives KL(P || Q) = 0.0853 and
    KL(Q || P) = 0.0975. The lecture notes' 0.0964 is KL(Q || P) with 1/3 rounded to .333.

    Args:
        p: Probabilities, shape (..., K), summing to one over the last axis.
        q: Probabilities, shape (..., K), likewise.

    Returns:
        Divergences in nats, of the broadcast shape (...).

    Raises:
        ValueError: If a probability is negative, they do not sum to one, or p and q differ in K.
    """
    p, q = _probabilities("p", p), _probabilities("q", q)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"p and q must share K, got {p.shape[-1]} and {q.shape[-1]}")
    terms = torch.xlogy(p, p) - torch.xlogy(p, q)
    return terms.sum(dim=-1).clamp(min=0)


def normal_kl(loc1: Array, cov1: Array, loc2: Array, cov2: Array) -> Tensor:
    """Return KL(Normal(μ1, Σ1) || Normal(μ2, Σ2)) for full covariances.

        ½ [log |Σ2| / |Σ1| - D + tr(Σ2⁻¹ Σ1) + (μ2 - μ1)ᵀ Σ2⁻¹ (μ2 - μ1)]

    The lecture notes lose the ½ on all terms but the first. Here all comes from Cholesky factors:
    with Σ = L Lᵀ, the trace is |L2⁻¹ L1|² and the last term |L2⁻¹ (μ2 - μ1)|².

    Args:
        loc1: Mean of the first, shape (..., D).
        cov1: Covariance of the first, shape (..., D, D).
        loc2: Mean of the second, shape (..., D).
        cov2: Covariance of the second, shape (..., D, D).

    Returns:
        Divergences in nats, of the broadcast shape (...).

    Raises:
        ValueError: If a covariance is not symmetric and positive definite, or the shapes differ
            in D.
    """
    m1, m2 = _with_last_axis("loc1", loc1), _with_last_axis("loc2", loc2)
    dim = m1.shape[-1]
    if m2.shape[-1] != dim:
        raise ValueError(f"loc1 and loc2 must share D, got {dim} and {m2.shape[-1]}")
    tril1, tril2 = _cholesky("cov1", cov1, dim), _cholesky("cov2", cov2, dim)
    dtype = reduce(torch.promote_types, [t.dtype for t in (m1, m2, tril1, tril2)])
    shift, tril1, tril2 = (m2 - m1).to(dtype), tril1.to(dtype), tril2.to(dtype)

    ratio = torch.linalg.solve_triangular(tril2, tril1, upper=False)
    shift = torch.linalg.solve_triangular(tril2, shift.unsqueeze(-1), upper=False)

    log_dets = 2 * (_log_diagonal(tril2) - _log_diagonal(tril1))
    trace, distance = ratio.square().sum(dim=(-2, -1)), shift.square().sum(dim=(-2, -1))
    return 0.5 * (log_dets - dim + trace + distance)


def standard_normal_kl(loc: Array, scale: Array) -> Tensor:
    """Return KL(Normal(m, diag s²) || Normal(0, I)), the VAE's price for its latent code.

        ½ Σ_d [s_d² + m_d² - 1 - log s_d²]

    Args:
        loc: Means m, shape (..., L).
        scale: Standard deviations s, shape (..., L).

    Returns:
        Divergences in nats, of the broadcast shape (...).

    Raises:
        ValueError: If a scale is not positive.
    """
    loc, scale = _with_last_axis("loc", loc), _with_last_axis("scale", scale)
    check_positive("scale", scale)
    return (0.5 * (scale.square() + loc.square() - 1) - scale.log()).sum(dim=-1)


@dataclass(frozen=True)
class MonteCarloKL:
    """A divergence estimated from draws.

    Attributes:
        value: The estimate in nats, of the batch shape of the distributions.
        standard_error: Its standard error in nats, of the same shape.
        num_samples: How many draws it is the mean of.
    """

    value: Tensor
    standard_error: Tensor
    num_samples: int


def monte_carlo_kl(
    p: Distribution, q: Distribution, num_samples: int, *, seed: int | None = None
) -> MonteCarloKL:
    """Estimate KL(p || q) as the mean of log p(x) - log q(x) over draws x from p.

    Args:
        p: Where to draw from, a torch or Pyro distribution.
        q: The distribution compared with it, of the same event shape.
        num_samples: How many draws, at least 2.
        seed: Where the draws start; None for a fresh start.

    Returns:
        The estimate and its standard error, for each element of the batch. Infinite, with standard
        error nan, where log q of a draw is minus infinity.

    Raises:
        ValueError: If there are fewer than 2 draws, the event shapes differ, or a draw is outside
            the support of a q that validates its arguments.
    """
    check_whole("num_samples", num_samples, 2)
    if p.event_shape != q.event_shape:
        shapes = f"{tuple(p.event_shape)} and {tuple(q.event_shape)}"
        raise ValueError(f"p and q must share their event shape, got {shapes}")
    with scope(seed):
        draws = p.sample(torch.Size([num_samples]))
    with torch.no_grad():
        differences = p.log_prob(draws) - q.log_prob(draws)
    error = differences.std(dim=0) / num_samples**0.5
    return MonteCarloKL(differences.mean(dim=0), error, num_samples)


def _with_last_axis(name: str, x: Array) -> Tensor:
    x = as_tensor(x, name=name)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one axis and entry, got {tuple(x.shape)}")
    return x


def _probabilities(name: str, p: Array) -> Tensor:
    p = _with_last_axis(name, p)
    check_in_range(f"the smallest of {name}", p.min().item(), 0)
    totals = p.sum(dim=-1)
    off = (totals - 1).abs()
    if (off > max(1e-6, 100 * torch.finfo(p.dtype).eps)).any():
        worst = totals.flatten()[off.argmax()].item()
        raise ValueError(f"{name} must sum to one, got {worst:.6g}")
    return p


def _cholesky(name: str, cov: Array, dim: int) -> Tensor:
    """Return the lower Cholesky factor of a covariance, shape (..., D, D), after checking it."""
    cov = as_tensor(cov, name=name)
    if cov.shape[-2:] != (dim, dim):
        raise ValueError(f"{name} must have shape (..., {dim}, {dim}), got {tuple(cov.shape)}")
    largest = cov.abs().amax(dim=(-2, -1), keepdim=True)
    asymmetry = (cov - cov.mT).abs()
    if (asymmetry > torch.finfo(cov.dtype).eps ** 0.5 * largest).any():
        raise ValueError(f"{name} must be symmetric, got entries {asymmetry.max():.3g} apart")
    tril, failed = torch.linalg.cholesky_ex(cov)
    if failed.any():
        smallest = torch.linalg.eigvalsh(cov).min().item()
        raise ValueError(f"{name} must be positive definite, got eigenvalue {smallest:.3g}")
    return tril


def _log_diagonal(tril: Tensor) -> Tensor:
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
