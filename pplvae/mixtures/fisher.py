"""Σ log p(x) of mixtures and its slopes in one run: what an E-step knows.

    log p(x) = log Σ_k w_k Normal(x | loc_k, L_k L_kᵀ)

The slopes are sums over the points with the responsibilities r = p(k | x) as weights (Fisher's
identity): with y = L_k⁻¹ (x − loc_k) and N_k = Σ r,

    ∂/∂ log w_k = N_k,   ∂/∂ loc_k = L_k⁻ᵀ Σ r y,   ∂/∂ L_k = tril(L_k⁻ᵀ (Σ r y yᵀ − N_k I)).

All of it comes from the moments Σ r (1, x, x xᵀ), which two matrix products a block of points
give (see `expectation`). So a run forward leaves the slopes behind, and the way back costs
nothing where all points have the same weight in the loss, as they have in an evidence bound;
else it is one more run. Memory: N numbers a mixture, and a block.

The run is an operator of torch's own registry, `pplvae::mixture`: what records a program, as
`infer.compiled` or torch.jit do, sees one operation, and the choice of the way to compute it stays
with the numbers at hand. Second derivatives go by triangular solves in plain torch, with
(R, N, K, D) numbers.

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, sections 9.2 and 9.4.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pplvae.mixtures.covariances import FORMS, Parameters
from pplvae.mixtures.expectation import Block, block_size, is_far, normalize

FULL = FORMS["full"]
SMALL = 2**17  # numbers; below, the many small operations of the product's way cost more
_library = torch.library.Library("pplvae", "FRAGMENT")


def log_prob(log_weights: Tensor, locs: Tensor, trils: Tensor, x: Tensor) -> Tensor:
    """Return log p(x) of R mixtures in double precision, shape (R, N), for points (N, D)."""
    tracked = any(part.requires_grad for part in (log_weights, locs, trils))
    slopes = tracked and torch.is_grad_enabled()
    return _Density.apply(log_weights, locs, trils, x, slopes)[0]  # pyright: ignore


def exact_log_prob(log_weights: Tensor, locs: Tensor, scale_trils: Tensor, x: Tensor) -> Tensor:
    """Return log p(x) in nats, shape (…), by triangular solves: slower, any derivative.

    Args:
        log_weights: Shape (…, K).
        locs: Shape (…, K, D).
        scale_trils: Shape (…, K, D, D).
        x: Points, shape (…, D).
    """
    # An inverse for each component, rather than a solve for each of its points.
    inverses = torch.linalg.solve_triangular(scale_trils, _eye(scale_trils), upper=False)
    whitened = torch.einsum("...ij,...j->...i", inverses, x.unsqueeze(-2) - locs)
    constants = _constants(log_weights, scale_trils)
    return (constants - 0.5 * whitened.square().sum(dim=-1)).logsumexp(dim=-1)


class _Density(torch.autograd.Function):
    """Of (log_weights, locs, trils, x, whether to keep slopes): log p(x), and three slopes."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return torch.ops.pplvae.mixture.default(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *saved, ctx.kept = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*saved, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:  # pyright: ignore
        *inputs, x = ctx.saved_tensors[:4]
        if torch.is_grad_enabled():  # a slope that is to have a slope itself

            def plain(log_weights: Tensor, locs: Tensor, trils: Tensor) -> Tensor:
                parts = log_weights.unsqueeze(1), locs.unsqueeze(1), trils.unsqueeze(1)
                return exact_log_prob(*parts, x.to(locs))

            return *torch.func.vjp(plain, *inputs)[1](grad), None, None
        slopes = ctx.saved_tensors[4:]
        found = torch.ops.pplvae.mixture_slopes.default(grad, *inputs, x, *slopes, ctx.kept)
        return *found, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        *parts, x, slopes = inputs
        if in_dims[3] is not None:
            return _one_by_one(info, in_dims, inputs)
        size = info.batch_size
        parts = [
            part.expand(size, *part.shape) if axis is None else part.movedim(axis, 0)
            for part, axis in zip(parts, in_dims[:3], strict=True)
        ]
        found = _Density.apply(*(part.flatten(0, 1) for part in parts), x, slopes)
        assert isinstance(found, tuple)
        return tuple(part.unflatten(0, (size, -1)) for part in found), (0, 0, 0, 0)


def _one_by_one(info: Any, in_dims: Any, inputs: Any) -> Any:
    """Return what `_Density` gives where the points themselves are a batch."""
    parts = []
    for s in range(info.batch_size):
        one = [
            value if axis is None else value.select(axis, s)
            for value, axis in zip(inputs, in_dims, strict=True)
        ]
        parts.append(_Density.apply(*one))
    return tuple(torch.stack(columns) for columns in zip(*parts, strict=True)), (0, 0, 0, 0)


class _Slopes(NamedTuple):
    """Σ_n ∂ log p(x_n): by log_weights (R, K), locs (R, K, D) and trils (R, K, D, D)."""

    log_weights: Tensor
    locs: Tensor
    trils: Tensor


def _mixture(
    log_weights: Tensor, locs: Tensor, trils: Tensor, x: Tensor, slopes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log p(x), shape (R, N), and the slopes of its sum, or zeros."""
    found, sums = _evaluate(Parameters(log_weights, locs, trils), x, None, slopes)
    return found, sums.log_weights, sums.locs, sums.trils


def _mixture_slopes(
    grad: Tensor, log_weights: Tensor, locs: Tensor, trils: Tensor, x: Tensor,
    by_weights: Tensor, by_locs: Tensor, by_trils: Tensor, kept: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the slopes of Σ grad log p(x), from those of Σ log p(x) where these serve."""
    scale = grad[:, 0]
    if kept and bool((grad == scale.unsqueeze(1)).all()):
        return (
            by_weights * scale[:, None],
            by_locs * scale[:, None, None],
            by_trils * scale[:, None, None, None],
        )
    return _evaluate(Parameters(log_weights, locs, trils), x, grad, True)[1]


def _evaluate(
    parameters: Parameters, x: Tensor, weights: Tensor | None, slopes: bool
) -> tuple[Tensor, _Slopes]:
    """Return log p(x), and the slopes of its sum or zeros; `weights` of the points are (R, N)."""
    small = parameters.locs.numel() * len(x) <= SMALL
    way = None if small else _Natural.of(parameters, x)
    way = way or _Whitened(parameters, x)
    found = parameters.locs.new_empty(len(parameters.locs), len(x))
    for start in range(0, len(x), way.size):
        part = slice(start, start + way.size)
        joint = way.joint(part)
        found[:, part] = normalize(joint, Block(joint))
        if slopes:
            way.add(joint if weights is None else joint.mul_(weights[:, None, part]))
    found.mul_(math.log(2))
    if not slopes:
        return found, _Slopes(*map(torch.zeros_like, parameters))
    return found, _slopes(parameters.scales, *way.moments())


class _Natural:
    """log w_k p(x | k) to base 2 and the moments, as products with the monomials of x."""

    def __init__(self, parameters: Parameters, x: Tensor, center: Tensor) -> None:
        self._x, self._center, self._parameters = x, center, parameters
        self._natural = FULL.natural(parameters) * math.log2(math.e)
        self._sums = torch.zeros_like(self._natural)
        self.size = block_size(self._natural.shape[-1], self._natural.shape[:2].numel())
        self._room = self._natural.new_empty(0, 0)

    @classmethod
    def of(cls, parameters: Parameters, x: Tensor) -> "_Natural | None":
        """Return the way about the points' mean; None where it would lose digits."""
        center = x.mean(dim=0, dtype=torch.float64)
        log_weights, locs, trils = parameters
        locs = locs - center
        units = trils.square().sum(dim=-1).amax(dim=(0, 1)).sqrt()
        if is_far(FULL, Parameters(log_weights, locs / units, trils / units[:, None])):
            return None
        return cls(Parameters(log_weights, locs, trils), x, center)

    def joint(self, part: slice) -> Tensor:
        """Return log2 w_k p(x | k) of some of the points, shape (R, K, B)."""
        z = (self._x[part] - self._center).T.contiguous()
        rows, width = self._natural.flatten(0, 1), z.shape[1]
        if self._room.shape[1] != width:
            self._room = rows.new_empty(rows.shape[1], width)
        FULL.fill(z, self._room)
        return (rows @ self._room).view(*self._natural.shape[:2], width)

    def add(self, responsibilities: Tensor) -> None:
        """Add the moments of the points that `joint` saw last."""
        self._sums += (responsibilities.flatten(0, 1) @ self._room.mT).view_as(self._sums)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return Σ r, Σ r y and Σ r y yᵀ of the whitened residuals y."""
        _, locs, trils = self._parameters
        counts, sums, squares, _ = FULL.moments(self._sums, locs.shape[-1], locs.new_zeros(()))
        # Σ r (z − loc)(z − loc)ᵀ = Σ r z zᵀ − s locᵀ − loc (s − N loc)ᵀ, with s = Σ r z
        residuals = sums - counts.unsqueeze(-1) * locs
        squares = squares - sums.unsqueeze(-1) * locs.unsqueeze(-2)
        squares = squares - locs.unsqueeze(-1) * residuals.unsqueeze(-2)
        inverse = torch.linalg.solve_triangular(trils, _eye(trils), upper=False)
        firsts = (inverse @ residuals.unsqueeze(-1)).squeeze(-1)
        return counts, firsts, inverse @ squares @ inverse.mT


class _Whitened:
    """The same by the residuals y themselves: quick for few points, and right for all."""

    def __init__(self, parameters: Parameters, x: Tensor) -> None:
        log_weights, self._locs, self._trils = parameters
        self._x = x
        self._constants = _constants(log_weights, self._trils).unsqueeze(-1) * math.log2(math.e)
        self._counts = self._firsts = self._seconds = log_weights.new_zeros(())
        self.size = max(1, SMALL // self._locs.numel())
        self._whitened = self._locs

    def joint(self, part: slice) -> Tensor:
        residuals = self._x[part].T - self._locs.unsqueeze(-1)
        self._whitened = torch.linalg.solve_triangular(self._trils, residuals, upper=False)
        squares = self._whitened.square().sum(dim=-2)
        return torch.add(self._constants, squares, alpha=-0.5 * math.log2(math.e))

    def add(self, responsibilities: Tensor) -> None:
        weighed = self._whitened * responsibilities.unsqueeze(-2)
        self._counts = self._counts + responsibilities.sum(dim=-1)
        self._firsts = self._firsts + weighed.sum(dim=-1)
        self._seconds = self._seconds + weighed @ self._whitened.mT

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._counts, self._firsts, self._seconds


def _slopes(trils: Tensor, counts: Tensor, firsts: Tensor, seconds: Tensor) -> _Slopes:
    """Return the slopes from the moments of the whitened residuals."""
    excess = seconds - counts[..., None, None] * _eye(trils)
    both = torch.cat([excess, firsts.unsqueeze(-1)], dim=-1)
    both = torch.linalg.solve_triangular(trils.mT, both, upper=True)
    return _Slopes(counts, both[..., -1], both[..., :-1].tril())


def _eye(trils: Tensor) -> Tensor:
    return torch.eye(trils.shape[-1], dtype=trils.dtype, device=trils.device)


def _constants(log_weights: Tensor, trils: Tensor) -> Tensor:
    """Return log w − log |L| − D/2 log 2π, shape (…, K)."""
    half = 0.5 * trils.shape[-1] * math.log(2 * math.pi)
    return log_weights - trils.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1) - half


_library.define(
    "mixture(Tensor log_weights, Tensor locs, Tensor trils, Tensor x, bool slopes)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "mixture_slopes(Tensor grad, Tensor log_weights, Tensor locs, Tensor trils, Tensor x,"
    " Tensor by_weights, Tensor by_locs, Tensor by_trils, bool kept) -> (Tensor, Tensor, Tensor)"
)
_library.impl("mixture", _mixture, "CompositeExplicitAutograd")
_library.impl("mixture_slopes", _mixture_slopes, "CompositeExplicitAutograd")
