"""A mixture of normals as a Pyro distribution, with the components summed out.

    log p(x) = log Σ_k w_k Normal(x | loc_k, L_k L_kᵀ)

Its density and slopes cost as much as an E-step of EM (see `fisher`), so that SVI and NUTS do.
Derivatives in x, and points that differ from mixture to mixture, go by triangular solves.

Reference:
    Bishop (2006), Pattern Recognition and Machine Learning, section 9.2.
"""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pplvae.mixtures.fisher import exact_log_prob, log_prob


class MixtureOfNormals(TorchDistribution):
    """A mixture of K normals in D dimensions, or a batch of such.

    Args:
        weights: Mixing weights, shape (…, K), summing to one.
        locs: Means, shape (…, K, D).
        scale_trils: Lower Cholesky factors of the covariances, shape (…, K, D, D).

    Raises:
        ValueError: If the shapes do not fit; with validation, if a value is outside its range.
    """

    arg_constraints: ClassVar[Any] = {  # pyright: ignore
        "weights": constraints.simplex,
        "locs": constraints.independent(constraints.real, 2),
        "scale_trils": constraints.independent(constraints.lower_cholesky, 1),
    }
    support: ClassVar[Any] = constraints.real_vector  # pyright: ignore
    has_rsample = False

    def __init__(
        self,
        weights: Tensor,
        locs: Tensor,
        scale_trils: Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        _check_shapes(weights, locs, scale_trils)
        self.weights, self.locs, self.scale_trils = weights, locs, scale_trils
        self._own_shape = _broadcast(weights.shape[:-1], locs.shape[:-2], scale_trils.shape[:-3])
        super().__init__(self._own_shape, locs.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MixtureOfNormals":
        """Return the same mixtures in a larger batch; no number is copied."""
        new: Any = self._get_checked_instance(MixtureOfNormals, _instance)
        for name in (*self.arg_constraints, "_own_shape"):
            setattr(new, name, getattr(self, name))
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The mean, shape (…, D)."""
        found = (self.weights.unsqueeze(-1) * self.locs).sum(dim=-2)
        return found.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, shape (…, D)."""
        within = self.scale_trils.square().sum(dim=-1)
        between = (self.locs - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-1) * (within + between)).sum(dim=-2)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own
        """Return independent points, shape (…, D)."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            cumulated = self.weights.cumsum(dim=-1)
            uniform = torch.rand(shape, dtype=self.weights.dtype, device=self.weights.device)
            passed = cumulated[..., :-1] <= uniform.unsqueeze(-1) * cumulated[..., -1:]
            chosen = torch.nn.functional.one_hot(passed.sum(dim=-1), self.weights.shape[-1])
            chosen = chosen.to(self.locs)[..., None]
            noise = torch.randn(
                shape + self.event_shape, dtype=self.locs.dtype, device=self.locs.device
            )
            moved = (self.scale_trils @ noise[..., None, :, None]).squeeze(-1)
            return (chosen * (self.locs + moved)).sum(dim=-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x) in nats, shape (…), of points of shape (…, D)."""
        if self._validate_args:
            self._validate_sample(value)
        own, points = self._own_shape, value.shape[:-1]
        parts = _log(self.weights), self.locs, self.scale_trils
        if value.requires_grad or _share_an_axis(own, points):
            log_weights, locs, trils = (part.double() for part in parts)
            found = exact_log_prob(log_weights, locs, trils, value.double())
        else:
            log_weights, locs, trils = (_flat(part, own, n) for n, part in enumerate(parts, 1))
            x = value.reshape(-1, value.shape[-1])
            found = log_prob(log_weights, locs, trils, x)
            found = _interleaved(found, own, points)
        found = found.to(torch.promote_types(self.locs.dtype, value.dtype))
        return found.expand(_broadcast(found.shape, self.batch_shape))


def _log(weights: Tensor) -> Tensor:
    """Return log weights in double precision; a weight of zero counts as the least number."""
    return weights.double().clamp_min(torch.finfo(torch.float64).tiny).log()


def _broadcast(*shapes: torch.Size) -> torch.Size:
    """Return the shape that all broadcast to; torch's own is slow where they are the same."""
    return shapes[0] if len(set(shapes)) == 1 else torch.broadcast_shapes(*shapes)


def _flat(part: Tensor, own: torch.Size, axes: int) -> Tensor:
    """Return a parameter with the batch as one axis, in double precision."""
    event = part.shape[part.dim() - axes :]
    return part.expand(own + event).reshape(-1, *event).double()


def _share_an_axis(own: torch.Size, points: torch.Size) -> bool:
    """Return whether some points are for some of the mixtures only."""
    pairs = zip(reversed(own), reversed(points), strict=False)
    return any(a > 1 and b > 1 for a, b in pairs)


def _interleaved(found: Tensor, own: torch.Size, points: torch.Size) -> Tensor:
    """Return numbers (R, N) in the shape that the batch and the points broadcast to."""
    if own.numel() == 1:
        return found.view(_broadcast(own, points))
    depth = max(len(own), len(points))
    left, right = ([1] * (depth - len(shape)) + list(shape) for shape in (own, points))
    pairs = zip(range(depth), range(depth, 2 * depth), strict=True)
    found = found.view(*left, *right).permute([axis for pair in pairs for axis in pair])
    return found.reshape([a * b for a, b in zip(left, right, strict=True)])


def _check_shapes(weights: Tensor, locs: Tensor, scale_trils: Tensor) -> None:
    """Refuse what is not (…, K), (…, K, D) and (…, K, D, D)."""
    shapes = [tuple(part.shape) for part in (weights, locs, scale_trils)]
    fits = all(len(shape) > axes for axes, shape in enumerate(shapes))
    if not fits or not (
        shapes[0][-1] == shapes[1][-2] == shapes[2][-3]
        and shapes[1][-1] == shapes[2][-2] == shapes[2][-1]
    ):
        raise ValueError(
            "weights, locs and scale_trils must have shapes (…, K), (…, K, D) and (…, K, D, D), "
            f"got {', '.join(map(str, shapes))}"
        )
