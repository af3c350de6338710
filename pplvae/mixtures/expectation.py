"""The E-step on blocks of points: two matrix products, for one mixture or for many at once.

    T F = log w_k p(z_n | k)  →  r = p(k | z_n), Σ log p(z_n)  →  r Fᵀ = moments

Exponents are to the base 2, as `exp2` is several times as fast as `exp`, and the largest of a
point's is taken off first, so nothing overflows. With P monomials and M = R K components a block
has so many points that P of them fit a processor's cache; memory does not grow with N.

The product loses digits where components lie far from the origin for their width: a covariance
errs by about 1e-15 (|loc| / σ)², relative. Beyond `FAR` each component is therefore taken about
its own mean, by triangular solves: slower, and right.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Full, Moments, Parameters

FAR = 1e6  # of (|loc| / σ)², from where a covariance could lose more than nine digits of sixteen
NEVER = -1e300  # the log weight of a component that a label rules out
_CACHE = 2**19  # numbers
_LOWEST = -1e308  # of a log joint
TOGETHER = 8  # probabilities that share a logarithm


class Block(NamedTuple):
    """Some points.

    Attributes:
        z: Shape (D, B).
        weights: How often each one counts, shape (B,); once where None.
        labels: 0 for the components it may come from and `NEVER` for the others, shape (K, B).
        features: Their monomials, shape (P, B), where these are kept.
    """

    z: Tensor
    weights: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None

    def take(self, part: slice) -> "Block":
        """Return some of the points."""
        rest = (None if own is None else own[..., part] for own in self[1:])
        return Block(self.z[:, part], *rest)


class Expected(NamedTuple):
    """What an E-step finds: Σ log p(z), shape (R,), and the moments."""

    log_likelihood: Tensor
    moments: Moments


def block_size(num_features: int, num_rows: int) -> int:
    """Return how many points to take at once, for P monomials and R K components."""
    return min(2**14, max(2**10, 1 << (_CACHE // max(num_features, num_rows)).bit_length() - 1))


def expect(form: Full, parameters: Parameters, blocks: Iterable[Block], total: Tensor) -> Expected:
    """Return the E-step of R mixtures.

    Args:
        form: Of the covariances.
        parameters: Of the mixtures.
        blocks: The points.
        total: Σ z zᵀ of all points, with their weights, shape (D, D).
    """
    if is_far(form, parameters):
        return _expect_about_means(form, parameters, blocks)
    num_mixtures, num_components, dim = parameters.locs.shape
    natural = form.natural(parameters) * math.log2(math.e)
    sums = torch.zeros_like(natural)
    log_likelihood = natural.new_zeros(num_mixtures)
    for features, block in _featured(form, blocks, natural.shape):
        logits = (natural.flatten(0, 1) @ features).view(num_mixtures, num_components, -1)
        log_likelihood += summed(logits, block)
        sums += (logits.flatten(0, 1) @ features.mT).view_as(sums)
    shared = form.remainder(parameters.scales, total)
    return Expected(log_likelihood * math.log(2) + shared, form.moments(sums, dim, total))


def normalize(logits: Tensor, block: Block) -> Tensor:
    """Turn log joints, shape (R, K, B), to base 2, into responsibilities times weights, in place.

    Returns:
        log p(z) times the weight, shape (R, B), to base 2.
    """
    top, whole = _shares(logits, block)
    log_probs = (top + whole.log2()).squeeze(1)
    return log_probs if block.weights is None else log_probs * block.weights


def summed(logits: Tensor, block: Block) -> Tensor:
    """Do as `normalize`, and return the sum over the points only, shape (R,): quicker."""
    if block.weights is not None:
        return normalize(logits, block).sum(dim=-1)
    top, whole = _shares(logits, block)
    return top.sum(dim=(1, 2)) + _log2_sum(whole.squeeze(1))


def _shares(logits: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Turn log joints into responsibilities times weights; return their top, and Σ 2^(· − top)."""
    if block.labels is not None:
        logits += block.labels
    # So far out that the squares overflow all logits are −inf, and none is a component's.
    top = logits.amax(dim=1, keepdim=True).clamp_min_(_LOWEST)
    logits.sub_(top).exp2_()
    whole = logits.sum(dim=1, keepdim=True)
    if block.weights is None:
        logits.div_(whole)
    else:
        logits.mul_(block.weights / whole)
    return top, whole


def _log2_sum(numbers: Tensor) -> Tensor:
    """Return Σ log2, shape (R,), of numbers (R, B) in [1, K]; a log costs as much as products."""
    even = numbers.shape[1] // TOGETHER * TOGETHER
    products = numbers[:, :even].unflatten(1, (TOGETHER, -1)).prod(dim=1)
    return products.log2().sum(dim=1) + numbers[:, even:].log2().sum(dim=1)


def log_probs(form: Full, parameters: Parameters, block: Block) -> Tensor:
    """Return log p(z) of the first mixture in nats, shape (B,), whatever the weights."""
    joint = _joint(form, parameters, block, 0)
    return (joint if block.labels is None else joint + block.labels).logsumexp(dim=0)


def is_far(form: Full, parameters: Parameters) -> bool:
    """Return whether the matrix product would lose too many digits."""
    locs, scales = parameters.locs, parameters.scales
    widths = scales.diagonal(dim1=-2, dim2=-1) if scales.dim() == 4 else scales
    return bool((locs.abs().amax(dim=-1) > math.sqrt(FAR) * widths.amin(dim=-1)).any())


def _featured(
    form: Full, blocks: Iterable[Block], shape: torch.Size
) -> Iterator[tuple[Tensor, Block]]:
    room: Tensor | None = None
    for block in blocks:
        if block.features is not None:
            yield block.features, block
            continue
        width = block.z.shape[1]
        if room is None or room.shape[1] != width:
            room = block.z.new_empty(shape[-1], width)
        form.fill(block.z, room)
        yield room, block


def _expect_about_means(form: Full, parameters: Parameters, blocks: Iterable[Block]) -> Expected:
    locs = parameters.locs
    counts, sums = torch.zeros_like(locs[..., 0]), torch.zeros_like(locs)
    squares = torch.zeros_like(form.outer(locs))
    log_likelihood = locs.new_zeros(len(locs))
    for block in blocks:
        for r in range(len(locs)):
            joint = _joint(form, parameters, block, r).mul_(math.log2(math.e)).unsqueeze(0)
            log_likelihood[r] += normalize(joint, block).sum() * math.log(2)
            for k, own in enumerate(joint[0]):
                residuals = block.z - locs[r, k].unsqueeze(-1)
                counts[r, k] += own.sum()
                sums[r, k] += residuals @ own
                squares[r, k] += form.weigh(residuals, own)
    return Expected(log_likelihood, Moments(counts, sums, form.pool(squares), locs))


def _joint(form: Full, parameters: Parameters, block: Block, r: int) -> Tensor:
    """Return log w_k p(z | k) of the r-th mixture, shape (K, B), in nats."""
    log_weights, locs, scales = (part[r] for part in parameters)
    dim = locs.shape[-1]
    half = 0.5 * dim * math.log(2 * math.pi)
    constants = (log_weights - form.log_det(scales, dim) - half).expand(len(locs))
    scales = scales.expand(len(locs), *scales.shape[1:])
    rows = [
        constants[k]
        - 0.5 * form.whiten(block.z - locs[k].unsqueeze(-1), scales[k]).square().sum(dim=0)
        for k in range(len(locs))
    ]
    return torch.stack(rows)
