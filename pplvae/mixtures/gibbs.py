"""A Gaussian mixture's posterior by block Gibbs sampling, under the conjugate prior.

The assignments given the mixture are independent, and the mixture given the assignments is of the
prior's family (n points, mean x̄ and scatter S about it in a component):

    p(k | x_n) ∝ w_k Normal(x_n | loc_k, Σ_k),      w ~ Dirichlet(α + n),
    Σ_k ~ InverseWishart(ν + n, Ψ + S + κ n / (κ + n) (x̄ − m)(x̄ − m)ᵀ),
    loc_k | Σ_k ~ Normal((κ m + n x̄) / (κ + n), Σ_k / (κ + n)).

A sweep is two matrix products for all chains at once (see `expectation`): the log odds, and the
moments of the points beyond each component's upper end in the cumulated odds, where one uniform
number a point decides; their differences are the components' own. Odds and weights stay in
logarithms. The coordinates are z = C⁻¹ (x − mean), with Ψ = C Cᵀ, in which the prior's scatter
is the unit matrix.

Reference:
    Diebolt & Robert (1994), Estimation of finite mixture distributions through Bayesian sampling;
    Gelman et al. (2013), Bayesian Data Analysis, section 3.6 and chapter 22.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from tqdm import trange

from pplvae import randomness
from pplvae.infer import Posterior
from pplvae.infer.evaluation import evaluate
from pplvae.infer.posterior import Meter, provenance
from pplvae.infer.program import Draws, untouched
from pplvae.mixtures import em
from pplvae.mixtures.covariances import FORMS, Parameters
from pplvae.mixtures.expectation import block_size
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.model import model, scale_sites
from pplvae.mixtures.posterior import MixturePosterior, scattered
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.validation import Array, as_points, check_whole

FULL = FORMS["full"]


def fit(
    x: Array,
    num_components: int,
    *,
    prior: NormalInverseWishart | None = None,
    num_draws: int = 2000,
    warmup_steps: int = 500,
    num_chains: int = 4,
    permuted_starts: bool = False,
    start: GaussianMixture | None = None,
    pointwise: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> MixturePosterior:
    """Return draws of the Gibbs sampler.

    Args:
        x: Data, shape (N, D); the fit is in double precision.
        num_components: The number of components K.
        prior: The conjugate prior; `NormalInverseWishart.default` of the data where None.
        num_draws: Sweeps S kept in each chain.
        warmup_steps: Sweeps before them.
        num_chains: Chains C, run together, each from a start of its own: EM's means moved by two
            of their standard errors.
        permuted_starts: Whether chain c begins its numbering at the c-th component.
        start: Where the chains start instead of EM's optimum.
        pointwise: Whether to keep the C × S × N log-likelihoods.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Returns:
        The posterior, with the sites that the Pyro model has under this prior, and `lp` as NUTS
        has it.

    Raises:
        ValueError: If there are not more points than components, or an argument is impossible.
    """
    check_whole("num_draws", num_draws, 1)
    check_whole("warmup_steps", warmup_steps, 0)
    check_whole("num_chains", num_chains, 1)
    meter, seed = Meter(), randomness.resolve(seed)
    x = as_points(x, min_points=num_components + 1).double()
    if prior is None:
        prior = NormalInverseWishart.default(x, num_components)
    if start is None:
        start = em.fit(x, num_components, seed=seed, progress=progress).mixture
    rng = randomness.generator(seed)
    starts = scattered(start, len(x), num_chains, permuted=permuted_starts, rng=rng)
    sampler = Sampler(x, prior, randomness.generator(seed, x.device))
    state, kept = sampler.enter(starts), []
    for step in trange(warmup_steps + num_draws, desc="Gibbs", disable=not progress):
        state = sampler.sweep(state)
        if step >= warmup_steps:
            kept.append(state)
    found = _posterior(
        x, sampler.leave(kept), prior, pointwise=pointwise, seed=seed,
        method=f"Gibbs, {num_chains} × ({warmup_steps} + {num_draws})",
    )  # fmt: skip
    return MixturePosterior.of(replace(found, cost=meter.read()), start)


def _posterior(
    x: Tensor,
    draws: Draws,
    prior: NormalInverseWishart,
    *,
    pointwise: bool,
    seed: int,
    method: str,
) -> Posterior:
    """Return the posterior of draws of weights, locs and scale_trils, shapes (C, S, …)."""
    num_chains, _, num_components = draws["weights"].shape
    draws = draws | scale_sites(draws["scale_trils"], prior)
    flat = {name: value.flatten(0, 1) for name, value in draws.items() if name != "scale_trils"}
    program = partial(model, num_components=num_components, prior=prior)
    with untouched(seed):
        found = evaluate(program, (x,), flat, pointwise=pointwise)
    return Posterior(
        draws,
        method=method,
        log_likelihood={
            name: value.unflatten(0, (num_chains, -1))
            for name, value in found.log_likelihood.items()
        },
        observed={"x": x},
        sample_stats={"lp": found.log_joint.unflatten(0, (num_chains, -1))},
        provenance=provenance(seed, x.dtype),
    )


class Sampler:
    """The two conditionals on given points, for C chains at once.

    Args:
        x: Points, shape (N, D), in double precision.
        prior: The conjugate prior.
        rng: Where random numbers come from, on the points' device.
    """

    def __init__(self, x: Tensor, prior: NormalInverseWishart, rng: torch.Generator) -> None:
        prior.check_dim(x.shape[1])
        self._prior, self._rng = prior, rng
        self._center = x.mean(dim=0)
        self._scale = torch.linalg.cholesky(prior.scatter.to(x))
        self._loc = self._to_z(prior.loc.to(x).unsqueeze(0)).squeeze(1)
        self._z = self._to_z(x)
        self._places = torch.arange(1, x.shape[1] + 1).to(x)
        self._room = x.new_empty(0, 0)

    def enter(self, mixtures: list[GaussianMixture]) -> Parameters:
        """Return the state of chains at given mixtures."""
        weights, locs, trils = (
            torch.stack([getattr(own, name) for own in mixtures]).to(self._z)
            for name in ("weights", "locs", "scale_trils")
        )
        locs = self._to_z(locs.flatten(0, 1)).T.reshape(locs.shape)
        trils = torch.linalg.solve_triangular(self._scale, trils, upper=False)
        return Parameters(weights.clamp_min(torch.finfo(weights.dtype).tiny).log(), locs, trils)

    def leave(self, states: list[Parameters]) -> Draws:
        """Return S states as draws of the sites, shapes (C, S, …)."""
        log_weights, locs, trils = (torch.stack(part, dim=1) for part in zip(*states, strict=True))
        return {
            "weights": log_weights.exp().clamp_min(torch.finfo(log_weights.dtype).tiny),
            "locs": self._center + locs @ self._scale.T,
            "scale_trils": self._scale @ trils,
        }

    def sweep(self, state: Parameters) -> Parameters:
        """Return the state after new assignments, and new mixtures given these."""
        return self._draw(self._moments(state), state.locs.shape[-1])

    def _to_z(self, x: Tensor) -> Tensor:
        """Return z, shape (D, N), of points (N, D)."""
        return torch.linalg.solve_triangular(self._scale, (x - self._center).T, upper=False)

    def _moments(self, state: Parameters) -> Tensor:
        """Draw the assignments; return the moments of each component, shape (C, K, P)."""
        natural = FULL.natural(state) * math.log2(math.e)
        chains, components, width = natural.shape
        beyond = natural.new_zeros(chains, components + 1, width)
        size = block_size(width, chains * components)
        for z in self._z.split(size, dim=1):
            features = self._features(z, width)
            odds = (natural.flatten(0, 1) @ features).view(chains, components, -1)
            odds.sub_(odds.amax(dim=1, keepdim=True)).exp2_()
            ends = odds.cumsum(dim=1)
            place = torch.rand(
                chains, 1, z.shape[1], generator=self._rng, dtype=z.dtype, device=z.device
            )
            passed = (ends[:, :-1] <= place.mul_(ends[:, -1:])).to(z)
            beyond[:, 0] += features.sum(dim=1)
            beyond[:, 1:-1] += (passed.flatten(0, 1) @ features.T).unflatten(0, (chains, -1))
        return beyond[:, :-1] - beyond[:, 1:]

    def _features(self, z: Tensor, width: int) -> Tensor:
        """Return the monomials of some points, shape (P, B)."""
        whole = z.shape == self._z.shape
        if whole and len(self._room):  # the same in every sweep
            return self._room
        if self._room.shape[1] != z.shape[1]:
            self._room = z.new_empty(width, z.shape[1])
        FULL.fill(z, self._room)
        return self._room

    def _draw(self, moments: Tensor, dim: int) -> Parameters:
        """Draw mixtures given the moments of their components' points."""
        prior, prior_loc = self._prior, self._loc
        counts, sums, squares, _ = FULL.moments(moments, dim, moments.new_zeros(()))
        strength = (prior.strength + counts).unsqueeze(-1)
        locs = (prior.strength * prior_loc + sums) / strength
        scatter = squares + prior.strength * prior_loc.outer(prior_loc)
        scatter -= (strength * locs).unsqueeze(-1) * locs.unsqueeze(-2)
        scatter.diagonal(dim1=-2, dim2=-1).add_(1.0)

        degrees = (prior.degrees - dim + counts).unsqueeze(-1) + self._places
        concentration = prior.concentration + counts
        gammas = self._gamma(torch.cat([degrees / 2, (concentration + 1).unsqueeze(-1)], dim=-1))
        noise = torch.randn(
            *scatter.shape[:-1], dim + 1, generator=self._rng, dtype=locs.dtype, device=locs.device
        )
        bartlett = noise[..., :dim].tril(-1) + (2 * gammas[..., :dim]).sqrt().diag_embed()
        trils = torch.linalg.cholesky(scatter)
        trils = torch.linalg.solve_triangular(bartlett, trils, upper=False, left=False)
        locs = locs + (trils @ noise[..., dim:]).squeeze(-1) / strength.sqrt()

        # Gamma(a) = Gamma(a + 1) U^(1/a), whose logarithm does not underflow where a is small.
        uniform = torch.rand(
            counts.shape, generator=self._rng, dtype=locs.dtype, device=locs.device
        )
        log_weights = gammas[..., dim].log() + uniform.log() / concentration
        return Parameters(log_weights.log_softmax(dim=-1), locs, trils)

    def _gamma(self, concentration: Tensor) -> Tensor:
        """Draw from Gamma(a, 1): torch's public sampler takes no generator."""
        return torch._standard_gamma(  # pyright: ignore[reportPrivateImportUsage]
            concentration, generator=self._rng
        )
