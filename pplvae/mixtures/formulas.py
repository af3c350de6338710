"""The steps of EM as they stand in the books, for one mixture; what they mean is said in `em`."""

import torch
from torch import Tensor

from pplvae.mixtures import starts
from pplvae.mixtures.columns import column_scales
from pplvae.mixtures.covariances import FORMS
from pplvae.mixtures.joint import told_apart
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.randomness import generator
from pplvae.validation import (
    Array,
    as_points,
    as_tensor,
    check_in_range,
    check_one_of,
    check_whole,
)

COVARIANCES = tuple(FORMS)


def e_step(mixture: GaussianMixture, x: Array) -> tuple[Tensor, Tensor]:
    """Return the responsibilities p(k | x_n), shape (N, K), and Σ_n log p(x_n), shape (), in nats.

    Args:
        mixture: The mixture at hand.
        x: Data, shape (N, D).

    Raises:
        ValueError: If a point is so far out that its density is 0 under every component.
    """
    joint = told_apart(mixture.joint_log_prob(x).mT).mT
    log_prob = joint.logsumexp(dim=-1, keepdim=True)
    return (joint - log_prob).exp(), log_prob.sum()


def m_step(
    x: Array, responsibilities: Array, jitter: float = 0.0, *, covariance: str = "full"
) -> GaussianMixture:
    """Return the mixture that is most likely under soft labels.

    Args:
        x: Data, shape (N, D).
        responsibilities: Soft labels r, shape (N, K), rows summing to one.
        jitter: Added to the diagonal of each covariance, as a fraction of each column's variance
            in all of x (of the varying columns' mean variance, where a column is constant).
        covariance: The form of the covariances, one of `COVARIANCES`.

    Raises:
        ValueError: If the shapes do not fit, or the covariance of a component is singular.
    """
    check_one_of("covariance", covariance, COVARIANCES)
    check_in_range("jitter", jitter, 0)
    x, r = as_points(x), as_tensor(responsibilities, name="responsibilities")
    if r.dim() != 2 or len(r) != len(x):
        raise ValueError(f"responsibilities must have shape ({len(x)}, K), got {tuple(r.shape)}")
    form, r = FORMS[covariance], r.to(x).mT
    counts = r.sum(dim=1)
    locs = r @ x / counts.unsqueeze(-1)
    parts = zip(locs, r, strict=True)
    squares = torch.stack([form.weigh((x - loc).mT, own) for loc, own in parts]).unsqueeze(0)
    covs = form.pool(squares) / form.pool(form.spread(counts.unsqueeze(0)))
    if jitter:
        covs = covs + jitter * form.reduce(column_scales(x).square().diag())
    scales, singular = form.factor(covs)
    if singular.any():
        flat = singular.expand(1, len(r))[0].nonzero().flatten().tolist()
        raise ValueError(f"jitter must be larger: components {flat} are singular, got {jitter}")
    trils = form.trils(scales, len(r), x.shape[1])[0]
    return GaussianMixture(counts / counts.sum(), locs, trils)


def init(
    x: Array, num_components: int, *, jitter: float = 1e-6, seed: int | None = None
) -> GaussianMixture:
    """Return a start: k-means centers as means, the data's covariance for all, equal weights.

    The centers are drawn by k-means++ and moved by a few of Lloyd's steps, columns in units of
    their standard deviations. The covariance is wide on purpose: components that begin narrow
    close in on a few points more often.

    Args:
        x: Data, shape (N, D), with N > K.
        num_components: The number of components K.
        jitter: Added to the diagonal of the covariance, as in `m_step`.
        seed: Where the draws start.

    Raises:
        ValueError: If there are not more points than components, all points are the same, or
            they are singular even with the jitter.
    """
    check_whole("num_components", num_components, 1)
    x = as_points(x, min_points=num_components + 1)
    try:
        whole = m_step(x, x.new_ones(len(x), 1), jitter)
    except ValueError as error:
        if "singular" not in str(error):
            raise
        message = f"jitter must be larger for points without volume, got {jitter}"
        raise ValueError(message) from None
    z = ((x - whole.locs) / column_scales(x)).double()
    owners = starts.clusters(z, num_components, 1, generator(seed))[0]
    groups = [x[owners == k] if (owners == k).any() else x for k in range(num_components)]
    return GaussianMixture(
        x.new_full((num_components,), 1 / num_components),
        torch.stack([group.mean(dim=0) for group in groups]),
        whole.scale_trils.repeat(num_components, 1, 1),
    )
