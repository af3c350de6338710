"""Where EM starts: k-means++ and a few of Lloyd's steps, for many starts at once.

k-means++ draws each center among the points with odds in proportion to the squared distance from
the nearest center so far, so that the centers are apart but outliers are not all of them.

Reference:
    Arthur & Vassilvitskii (2007), k-means++: the advantages of careful seeding.
"""

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Full, Moments, Parameters
from pplvae.mixtures.problem import Problem

LLOYD_STEPS = 10
SAME = 1e-12  # of |a|² + |b|², below which two points are one: what the product's rounding leaves


def clusters(
    z: Tensor,
    num_components: int,
    num_starts: int,
    rng: torch.Generator,
    *,
    weights: Tensor | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Return in which cluster each point is, shape (R, M).

    Args:
        z: Points, shape (M, D), in coordinates in which distances mean something.
        num_components: The number of clusters K.
        num_starts: How many times R to start.
        rng: Where random numbers come from, on the CPU.
        weights: How often each point counts, shape (M,).
        labels: The cluster of each point where it is known, else −1, shape (M,); the clusters
            of known points start at their mean.
    """
    weights = z.new_ones(len(z)) if weights is None else weights
    norms = z.square().sum(dim=1)
    centers = _spread_out(z, norms, weights, num_components, num_starts, rng)
    if labels is not None:
        known = _one_hot(labels.expand(1, -1).clamp_min(0), num_components) * (labels >= 0)
        sizes = (known * weights).sum(dim=-1, keepdim=True)
        centers = torch.where(sizes > 0, (known * weights) @ z / sizes, centers)
    for _ in range(LLOYD_STEPS):
        owners = _one_hot(_owners(z, centers, labels), num_components) * weights
        sizes = owners.sum(dim=-1, keepdim=True)
        centers = torch.where(sizes > 0, owners @ z / sizes, centers)
    return _owners(z, centers, labels)


def _spread_out(
    z: Tensor, norms: Tensor, weights: Tensor, num: int, num_starts: int, rng: torch.Generator
) -> Tensor:
    """Return k-means++ centers, shape (R, K, D)."""
    odds, nearest, chosen = weights.expand(num_starts, -1), None, []
    for _ in range(num):
        uniforms = torch.rand(num_starts, 1, generator=rng, dtype=torch.float64).to(z)
        cumulated = odds.cumsum(dim=1)
        place = torch.searchsorted(cumulated, uniforms * cumulated[:, -1:], right=True)
        chosen.append(place.squeeze(1).clamp_max(len(z) - 1))
        center = z[chosen[-1]]
        sums = norms + center.square().sum(dim=1, keepdim=True)
        distances = sums - 2 * center @ z.mT
        distances = torch.where(distances > SAME * sums, distances, 0.0)
        nearest = distances if nearest is None else torch.minimum(nearest, distances)
        odds = nearest * weights
        # Once every point coincides with a center, any is as good as another.
        odds = torch.where(odds.sum(dim=1, keepdim=True) > 0, odds, weights)
    return z[torch.stack(chosen, dim=1)]


def _owners(z: Tensor, centers: Tensor, labels: Tensor | None) -> Tensor:
    """Return the cluster with the nearest center, shape (R, M), or the one that is known."""
    found = (centers @ z.mT - 0.5 * centers.square().sum(dim=-1, keepdim=True)).argmax(dim=1)
    return found if labels is None else torch.where(labels >= 0, labels, found)


def _one_hot(owners: Tensor, num: int) -> Tensor:
    """Return 1 where a point is a cluster's and 0 elsewhere, shape (R, K, M)."""
    places = torch.arange(num, device=owners.device).unsqueeze(-1)
    return (owners.unsqueeze(1) == places).double()


def mixtures(
    problem: Problem,
    z: Tensor,
    owners: Tensor,
    num_components: int,
    weights: Tensor | None = None,
) -> Parameters:
    """Return R mixtures from clusters, by turns narrow and wide.

    Every other one takes each cluster's weight and covariance; the rest equal weights and the
    covariance within the clusters for all, as components that begin narrow close in on a few
    points more often. A cluster without volume gets the latter anyway.

    Args:
        problem: What is to be climbed.
        z: Points, shape (M, D).
        owners: In which cluster each one is, shape (R, M).
        num_components: The number of clusters K.
        weights: How often each point counts, shape (M,).
    """
    form, hard = problem.form, _one_hot(owners, num_components)
    if weights is not None:
        hard = hard * weights
    counts = hard.sum(dim=-1)
    sums = hard @ z
    means = sums / counts.clamp_min(1e-300).unsqueeze(-1)
    squares = torch.stack([_squares(form, z, own) for own in hard])
    about = squares - form.spread(counts) * form.outer(means)
    moments = Moments(counts, sums, form.pool(squares), torch.zeros_like(sums))
    log_weights, locs, scales = problem.maximize(moments)[0]
    singular = form.factor(form.pool(about) / form.pool(form.spread(counts)) + problem.ridge)[1]
    within = about.sum(dim=1, keepdim=True) / form.spread(counts).sum(dim=1, keepdim=True)
    wide, closed = form.factor(within + problem.ridge)
    wide = torch.where(form.spread(closed), problem.pooled, wide).expand_as(scales)
    is_wide = torch.arange(len(owners), device=z.device).unsqueeze(-1) % 2 == 1
    scales = torch.where(form.spread(is_wide | singular), wide, scales)
    log_weights = torch.where(is_wide, 0.0, log_weights).log_softmax(dim=-1)
    return Parameters(log_weights, torch.where(counts.unsqueeze(-1) > 0, locs, 0.0), scales)


def _squares(form: Full, z: Tensor, hard: Tensor) -> Tensor:
    """Return Σ over the points of each cluster of their squares, as the form has them."""
    return torch.stack([form.weigh(z.mT, own) for own in hard])
