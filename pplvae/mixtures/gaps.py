"""Points of which some coordinates are missing: exact EM, one pattern of coordinates at a time.

The coordinates o that are seen are Gaussian too, and the sums that the M-step wants of the others
m are their expectations given those seen,

    E[z_m | z_o, k] = loc_m + B (z_o − loc_o),   B = Σ_mo Σ_oo⁻¹,   cov = Σ_mm − B Σ_om,

so that about the means all sums are linear in those of z_o: with A = (I, B) stacked,

    Σ r z = A Σ r z_o,   Σ r z zᵀ = A (Σ r z_o z_oᵀ) Aᵀ + (Σ r) cov.

It is right where whether a coordinate is missing does not depend on its value given the others.

Reference:
    Ghahramani & Jordan (1994), Supervised learning from incomplete data via an EM approach.
"""

import torch
from torch import Tensor

from pplvae.mixtures.covariances import FORMS, Full, Moments, Parameters
from pplvae.mixtures.expectation import Expected, log_probs
from pplvae.mixtures.points import Table


class Gappy:
    """Points z, shape (D, N), with nan where a coordinate is missing."""

    def __init__(
        self, z: Tensor, weights: Tensor | None = None, labels: Tensor | None = None
    ) -> None:
        self.size = z.shape[1]
        self.mass = self.size if weights is None else weights.sum().item()
        self._parts: list[tuple[Tensor, Table]] = []
        patterns, place = torch.unique(~z.isnan().mT, dim=0, return_inverse=True)
        for i, seen in enumerate(patterns):
            own, dims = (place == i).nonzero().squeeze(-1), seen.nonzero().squeeze(-1)
            picked = [None if part is None else part[..., own] for part in (weights, labels)]
            self._parts.append((dims, Table(z[dims][:, own], *picked)))

    def expect(self, form: Full, parameters: Parameters) -> Expected:
        """Return the E-step of R mixtures, its moments about their means."""
        covs, locs = _covs(form, parameters), parameters.locs
        found = [_lifted(parameters, covs, *part) for part in self._parts]
        counts, sums, squares = (
            torch.stack([getattr(own.moments, name) for own in found]).sum(dim=0)
            for name in ("counts", "sums", "squares")
        )
        log_likelihood = torch.stack([own.log_likelihood for own in found]).sum(dim=0)
        return Expected(
            log_likelihood, Moments(counts, sums, form.pool(form.reduce(squares)), locs)
        )

    def worst(self, form: Full, parameters: Parameters, num: int) -> Tensor:
        """Return the points that the first mixture explains worst; 0 in place of what is missing.

        Log densities in different numbers of dimensions are compared as means over them.
        """
        covs, dim = _covs(form, parameters), parameters.locs.shape[-1]
        values, points = [], []
        for dims, part in self._parts:
            own, _ = _marginal(parameters, covs, dims)
            values.append(log_probs(FORMS["full"], own, part.block) / len(dims))
            z = part.block.z
            points.append(z.new_zeros(dim, z.shape[1]).index_copy(0, dims, z))
        order = torch.cat(values).topk(num, largest=False).indices
        return torch.cat(points, dim=1)[:, order].mT


def _covs(form: Full, parameters: Parameters) -> Tensor:
    trils = form.trils(parameters.scales, *parameters.locs.shape[1:])
    return trils @ trils.mT


def _marginal(parameters: Parameters, covs: Tensor, dims: Tensor) -> tuple[Parameters, Tensor]:
    """Return the mixtures of some coordinates, and which have none, shape (R,).

    A covariance that is singular to rounding is no reason to stop: a guess of where steps lead may
    be one. The unit matrix stands in for it.
    """
    trils, info = torch.linalg.cholesky_ex(covs[..., dims[:, None], dims])
    singular = info != 0
    eye = torch.eye(len(dims), dtype=covs.dtype, device=covs.device)
    trils = torch.where(singular[..., None, None], eye, trils)
    own = Parameters(parameters.log_weights, parameters.locs[..., dims], trils)
    return own, singular.any(dim=-1)


def _lifted(parameters: Parameters, covs: Tensor, dims: Tensor, part: Table) -> Expected:
    """Return the E-step on coordinates `dims` as moments of all coordinates about the means."""
    own, singular = _marginal(parameters, covs, dims)
    log_likelihood, moments = part.expect(FORMS["full"], own)
    log_likelihood = log_likelihood.masked_fill(singular, -torch.inf)
    shift, counts = moments.origins - own.locs, moments.counts.unsqueeze(-1)
    sums = moments.sums + counts * shift
    cross = moments.sums.unsqueeze(-1) * shift.unsqueeze(-2)
    squares = moments.squares + cross + cross.mT
    squares = squares + counts.unsqueeze(-1) * shift.unsqueeze(-1) * shift.unsqueeze(-2)
    # A = Σ_:o Σ_oo⁻¹ has I in the rows o and B in the others; cov is 0 but between the missing.
    slopes = torch.cholesky_solve(covs[..., dims, :], own.scales).mT
    left = covs - slopes @ covs[..., dims, :]
    squares = slopes @ squares @ slopes.mT + counts.unsqueeze(-1) * left
    sums = (slopes @ sums.unsqueeze(-1)).squeeze(-1)
    return Expected(log_likelihood, Moments(moments.counts, sums, squares, parameters.locs))
