"""What importance weights say of log p(x), and of themselves, for many points at once.

    p(x) ≈ 1/S Σ_s w_s,   sd[log p(x)] ≈ sd(w) / (mean(w) √S),   ESS = (Σ w)² / Σ w²

The shape k of the generalized Pareto law of the largest weights says whether to believe these: the
weights have 1/k finite moments, and above k = 0.7 no affordable S will do. A proposal that misses
a mode of p(z | x) goes unseen by all of them.

Reference:
    Vehtari et al. (2024), Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646;
    Zhang & Stephens (2009), https://doi.org/10.1198/tech.2009.08017, for the fit
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.infer import inference_data

LARGEST_K = 0.7  # above it, importance sampling needs more draws than can be had
LEAST_LOG = -700.0  # logarithms of weights, against the largest, that are no underflow


@dataclass(frozen=True)
class Weighed:
    """What S weights say of each of B points.

    Attributes:
        log_mean: The logarithm of the mean weight, in nats, shape (B,).
        error: Its standard error by the delta method, in nats, shape (B,).
        effective_sample_size: Of the S draws, shape (B,).
        pareto_k: The shape k of the largest weights, shape (B,).
    """

    log_mean: Tensor
    error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor


def weigh(log_weight: Tensor) -> Weighed:
    """Return what log weights, shape (S, B), say."""
    size = len(log_weight)
    total = log_weight.logsumexp(0)
    concentration = (2 * (log_weight - total)).exp().sum(0)
    excess = (size * concentration - 1).clamp(min=0) / (size - 1 if size > 1 else math.nan)
    return Weighed(total - math.log(size), excess.sqrt(), 1 / concentration, pareto_k(log_weight))


def pareto_k(log_weight: Tensor) -> Tensor:
    """Return k of each point's weights, shape (B,), as `infer.inference_data.pareto_k` has it.

    That one is asked where weights are tied, zero, infinite or equal; all other points are worked
    out at once.

    Args:
        log_weight: log p(x, z_s) − log q(z_s | x) in nats, shape (S, B).
    """
    wide, size = log_weight.double(), len(log_weight)
    k = torch.full_like(wide[0], math.nan)
    plain = _are_plain(wide, torch.finfo(log_weight.dtype).eps)
    odd = ~plain
    if size >= inference_data.LEAST_DRAWS and plain.any():
        k[plain] = _tail_shape(wide[:, plain])
        odd |= k.isnan()
    for point in odd.nonzero()[:, 0].tolist():
        k[point] = inference_data.pareto_k(log_weight[:, point].cpu().numpy())
    return k.to(log_weight.dtype)


def _are_plain(wide: Tensor, eps: float) -> Tensor:
    """Whether a point's weights are finite and, where there are several, clearly differ."""
    span = wide.amax(0) - wide.amin(0)
    apart = span > 1e-5 + 256 * eps * wide.abs().amax(0)
    return wide.isfinite().all(0) & (apart | (len(wide) == 1))


def _tail_shape(wide: Tensor) -> Tensor:
    """Return k of finite weights, shape (B,); nan where no tail starts between two of them."""
    size = len(wide)
    tail = math.ceil(min(size / 5, 3 * math.sqrt(size)))
    top = wide.topk(tail + 1, dim=0).values
    starts = (top[-1] < top[-2]) & (top[-1] - top[0] > LEAST_LOG)
    weight = (top - top[0]).exp()
    return torch.where(starts, _shape((weight[:-1] - weight[-1]).flip(0)), math.nan)


def _shape(tail: Tensor) -> Tensor:
    """Return the Pareto shape of excesses that rise along the first axis, shape (M, B).

    The posterior mean over a grid of b = −k/σ, drawn towards ½ as by ten more excesses.
    """
    size = len(tail)
    num = 30 + int(math.sqrt(size))
    place = torch.arange(1, num + 1, dtype=tail.dtype, device=tail.device).unsqueeze(-1)
    quartile = tail[int(size / 4 + 0.5) - 1]
    b = (1 - (num / (place - 0.5)).sqrt()) / (3 * quartile) + 1 / tail[-1]
    k = torch.stack([(-row * tail).log1p().mean(0) for row in b])
    log_likelihood = size * ((-b / k).log() - k - 1)
    weight = log_likelihood.softmax(0)
    weight = torch.where(weight < 10 * torch.finfo(weight.dtype).eps, 0.0, weight)
    mean_b = (weight * b).sum(0) / weight.sum(0)
    return (size * (-mean_b * tail).log1p().mean(0) + 5) / (size + 10)
