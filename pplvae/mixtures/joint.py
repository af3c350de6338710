"""log p(x, k) of many points and all components of a mixture at once.

A matrix product gives all of them, log w_k p(x | k) = T F(z) as in `covariances`, with z the point
whitened by the covariance of the whole. It errs by about

    ½ ε ((|loc| + σ_max) / σ_min)²   (ε = 2e-16; location and widths of a component among the z),

so components for which that is more than 1e-12 nats are taken by triangular solves, as are few
points, and calls whose gradients are wanted.

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, sections 2.3 and 9.2.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.mixtures.covariances import FORMS, Full, Parameters
from pplvae.mixtures.expectation import block_size

MANY = 100_000  # N K D, from which the matrix product is worth its preparation
NEAR = 2.0**12  # of ((|loc| + σ_max) / σ_min)², up to which it keeps 1e-12 nats
HUGE = 1e100  # its square, times a precision, is still a number


def mean_and_cov(weights: Tensor, locs: Tensor, trils: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) of the whole: within components and between them."""
    mean = weights @ locs
    away = (locs - mean).unsqueeze(-1)
    return mean, torch.einsum("k,kij->ij", weights, trils @ trils.mT + away * away.mT)


def log_joints(weights: Tensor, locs: Tensor, trils: Tensor, x: Tensor) -> Iterator[Tensor]:
    """Yield log p(x, k) in nats, shapes (K, B), for blocks of the points (N, D); double inside."""
    weights, locs, trils = weights.double(), locs.double(), trils.double()
    product = _product(weights, locs, trils) if _is_worth_it(x, weights, locs, trils) else None
    by_solves = range(len(locs)) if product is None else product.far
    num_features = locs.shape[1] if product is None else product.natural.shape[1]
    size = block_size(num_features, len(locs))
    room = locs.new_empty(num_features * size if product else 0)  # the same pages for all blocks
    for part in x.split(size):
        points = part.double().mT
        joint = product.joint(points, room) if product else room.new_empty(len(locs), len(part))
        for k in by_solves:
            residuals = points - locs[k].unsqueeze(-1)
            joint[k] = weights[k].log() + _normal_log_prob(residuals, trils[k])
        yield joint


def told_apart(joint: Tensor) -> Tensor:
    """Return log p(x, k), shape (K, N), if each point has a density.

    Raises:
        ValueError: If one has none.
    """
    if joint.amax(dim=0).isneginf().any():
        raise ValueError("x must lie within 1e150 standard deviations of some component")
    return joint


class _Product(NamedTuple):
    """log p(x, k) = T F(z), z = inverse (x − center), of all components but those `far` out."""

    form: Full
    center: Tensor
    inverse: Tensor
    natural: Tensor
    far: list[int]

    def joint(self, points: Tensor, room: Tensor) -> Tensor:
        """Return log p(x, k), shape (K, B), for points (D, B), with `room` for ≥ P B numbers."""
        size = self.natural.shape[1], points.shape[1]
        features = room[: math.prod(size)].view(size)
        self.form.fill(self.inverse @ (points - self.center), features)
        return self.natural @ features


def _is_worth_it(x: Tensor, *parts: Tensor) -> bool:
    """Return whether there are many points, not too far out, and no gradients to take."""
    learned = torch.is_grad_enabled() and any(part.requires_grad for part in (x, *parts))
    if learned or x.numel() * len(parts[0]) < MANY:
        return False
    low, high = x.aminmax()
    return bool((low >= -HUGE) & (high <= HUGE))


def _product(weights: Tensor, locs: Tensor, trils: Tensor) -> _Product | None:
    """Return the matrix product for these components; None where whitening costs the digits."""
    mean, whole = mean_and_cov(weights, locs, trils)
    form = FORMS["full" if trils.tril(-1).any() else "diag"]
    cov = whole if form.linear else whole.diagonal().diag()
    tril, info = torch.linalg.cholesky_ex(cov)
    inverse = torch.linalg.solve_triangular(tril, torch.eye(len(cov)).to(tril), upper=False)
    condition = (inverse.abs() @ tril.abs()).sum(dim=-1).amax()  # Skeel's: units do not matter
    if info or not condition.square() <= NEAR:
        return None
    locs, trils = (locs - mean) @ inverse.mT, inverse @ trils
    widths = torch.linalg.svdvals(trils)
    near = ((locs.norm(dim=-1) + widths[:, 0]) / widths[:, -1]).square() <= NEAR
    log_weights = weights.log() - tril.diagonal().log().sum()
    scales = trils if form.linear else trils.diagonal(dim1=-2, dim2=-1)
    natural = form.natural(Parameters(log_weights[None], locs[None], scales[None]))[0]
    far = (~near).nonzero().flatten().tolist()
    return _Product(form, mean.unsqueeze(-1), inverse, natural, far)


def _normal_log_prob(residuals: Tensor, scale_tril: Tensor) -> Tensor:
    """Return log Normal(residual | 0, L Lᵀ), shape (B,), for residuals (D, B) and L (D, D)."""
    whitened = torch.linalg.solve_triangular(scale_tril, residuals, upper=False)
    log_normalizer = scale_tril.diagonal().log().sum() + 0.5 * len(whitened) * math.log(
        2 * math.pi
    )
    return -0.5 * whitened.square().sum(dim=0) - log_normalizer
