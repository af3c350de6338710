"""The sweeps of the Gibbs sampler: labels given mixtures, mixtures given labels, in many chains.

A sweep is two matrix products for all chains at once (see `expectation`): the log odds, and the
moments of the points beyond each component's upper end in the cumulated odds, where one uniform
number a point decides; their differences are the components' own. Odds and weights stay in
logarithms. The coordinates are z = C⁻¹ (x − mean), with Ψ = C Cᵀ, in which the prior's scatter
is the unit matrix (its diagonal one, for covariances along the axes).
"""

import math

import torch
from torch import Tensor

from pplvae.infer.program import Draws
from pplvae.mixtures.covariances import Full, Moments, Parameters
from pplvae.mixtures.expectation import block_size
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.prior import NormalInverseWishart


class Sampler:
    """The two conditionals on given points, for C chains at once.

    Args:
        x: Points, shape (N, D), in double precision.
        prior: The conjugate prior.
        rng: Where random numbers come from, on the points' device.
        form: Of the covariances.
    """

    def __init__(
        self, x: Tensor, prior: NormalInverseWishart, rng: torch.Generator, form: Full
    ) -> None:
        prior.check_dim(x.shape[1])
        self._prior, self._rng, self._form = prior, rng, form
        self._center = x.mean(dim=0)
        root = form.factor(form.reduce(prior.scatter.to(x)))[0]
        self._scale = form.trils(root.unsqueeze(0), 1, x.shape[1])[0]
        self._loc = self._to_z(prior.loc.to(x).unsqueeze(0)).squeeze(1)
        self._z = self._to_z(x)
        self._total = self._z @ self._z.mT if form.tied else x.new_zeros(())
        self._scatter = form.reduce(torch.eye(x.shape[1]).to(x))
        self._before = prior.strength * form.outer(self._loc)
        self._room = x.new_empty(0, 0)

    def enter(self, mixtures: list[GaussianMixture]) -> Parameters:
        """Return the state of chains at given mixtures."""
        weights, locs, trils = (
            torch.stack([getattr(own, name) for own in mixtures]).to(self._z)
            for name in ("weights", "locs", "scale_trils")
        )
        locs = self._to_z(locs.flatten(0, 1)).T.reshape(locs.shape)
        trils = torch.linalg.solve_triangular(self._scale, trils, upper=False)
        log_weights = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        return Parameters(log_weights, locs, self._form.nearest(trils, weights))

    def leave(self, states: list[Parameters]) -> Draws:
        """Return S states as draws of the sites, shapes (C, S, …)."""
        log_weights, locs, scales = (
            torch.stack(part, dim=1) for part in zip(*states, strict=True)
        )
        trils = self._form.trils(scales, *locs.shape[2:])
        return {
            "weights": log_weights.exp().clamp_min(torch.finfo(log_weights.dtype).tiny),
            "locs": self._center + locs @ self._scale.T,
            "scale_trils": self._scale @ trils,
        }

    def sweep(self, state: Parameters) -> Parameters:
        """Return the state after new assignments, and new mixtures given these."""
        return self._draw(self._moments(state))

    def _to_z(self, x: Tensor) -> Tensor:
        """Return z, shape (D, N), of points (N, D)."""
        return torch.linalg.solve_triangular(self._scale, (x - self._center).T, upper=False)

    def _moments(self, state: Parameters) -> Moments:
        """Draw the assignments; return the moments of each component's points."""
        natural = self._form.natural(state) * math.log2(math.e)
        chains, components, width = natural.shape
        beyond = natural.new_zeros(chains, components + 1, width)
        size = block_size(width, chains * components)
        for z in self._z.split(size, dim=1):
            features = self._features(z, width)
            odds = (natural.flatten(0, 1) @ features).view(chains, components, -1)
            odds.sub_(odds.amax(dim=1, keepdim=True)).exp2_()
            ends = odds.cumsum(dim=1)
            place = self._uniform(chains, 1, z.shape[1])
            passed = (ends[:, :-1] <= place.mul_(ends[:, -1:])).to(z)
            beyond[:, 0] += features.sum(dim=1)
            beyond[:, 1:-1] += (passed.flatten(0, 1) @ features.T).unflatten(0, (chains, -1))
        sums = beyond[:, :-1] - beyond[:, 1:]
        return self._form.moments(sums, state.locs.shape[-1], self._total)

    def _features(self, z: Tensor, width: int) -> Tensor:
        """Return the monomials of some points, shape (P, B)."""
        whole = z.shape == self._z.shape
        if whole and len(self._room):  # the same in every sweep
            return self._room
        if self._room.shape[1] != z.shape[1]:
            self._room = z.new_empty(width, z.shape[1])
        self._form.fill(z, self._room)
        return self._room

    def _draw(self, moments: Moments) -> Parameters:
        """Draw mixtures given the moments of their components' points."""
        prior, form, dim = self._prior, self._form, moments.sums.shape[-1]
        counts, sums, squares, _ = moments
        strength = prior.strength + counts
        locs = (prior.strength * self._loc + sums) / strength.unsqueeze(-1)
        about = self._before - form.spread(strength) * form.outer(locs)
        root, singular = form.factor(self._scatter + squares + form.pool(about))
        if singular.any():
            raise ValueError(f"prior.scatter must be wider for points so far apart, got {prior}")

        freedom = form.pivot_counts(prior.degrees + form.pool(counts), dim)
        concentration = prior.concentration + counts
        chi2, gammas = self._gamma(freedom / 2, concentration + 1)
        num_shears = form.num_shears(dim)
        shears = self._normal(*freedom.shape[:-1], num_shears) if num_shears else None
        scales = form.from_bartlett(root, 2 * chi2, shears, dim=dim)
        noise = form.color(scales, self._normal(*locs.shape))
        locs = locs + noise / strength.sqrt().unsqueeze(-1)

        # Gamma(a) = Gamma(a + 1) U^(1/a), whose logarithm does not underflow where a is small.
        log_weights = gammas.log() + self._uniform(*counts.shape).log() / concentration
        return Parameters(log_weights.log_softmax(dim=-1), locs, scales)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._rng, dtype=self._z.dtype, device=self._z.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._rng, dtype=self._z.dtype, device=self._z.device)

    def _gamma(self, *concentrations: Tensor) -> list[Tensor]:
        """Draw from Gamma(a, 1), for each of several shapes."""
        flat = torch.cat([part.flatten() for part in concentrations])
        # torch's public sampler takes no generator.
        draws = torch._standard_gamma(  # pyright: ignore[reportPrivateImportUsage]
            flat, generator=self._rng
        ).split([part.numel() for part in concentrations])
        return [own.view_as(part) for own, part in zip(draws, concentrations, strict=True)]
