import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, gibbs
from pplvae.mixtures.prior import NormalInverseWishart

NARROW = NormalInverseWishart(torch.zeros(2).double(), torch.eye(2).double(), 0.5, 8.0, 2.0)


def draw_from(prior: NormalInverseWishart, num: int, num_components: int) -> list[GaussianMixture]:
    """Mixtures from the prior, by scipy."""
    covs = scipy.stats.invwishart(df=prior.degrees, scale=prior.scatter.numpy()).rvs(
        (num * num_components), random_state=0
    )
    trils = torch.linalg.cholesky(torch.as_tensor(covs)).unflatten(0, (num, num_components))
    noise = torch.randn(num, num_components, len(prior.loc), 1)
    locs = prior.loc + (trils @ noise).squeeze(-1) / math.sqrt(prior.strength)
    law = torch.distributions.Dirichlet(torch.full((num_components,), prior.concentration))
    weights = law.sample((num,))
    return [GaussianMixture(*parts) for parts in zip(weights, locs, trils, strict=True)]


def features(mixture: GaussianMixture) -> Tensor:
    """Numbers that do not depend on the components' order, with their log where it is long."""
    weights, locs, covs = mixture.weights, mixture.locs, mixture.covs
    mean = weights @ locs
    within = torch.einsum("k,kij->ij", weights, covs)
    return torch.stack(
        [
            weights.square().sum(), *mean, locs.prod(dim=0).sum(), *within.diagonal().log(),
            within[0, 1], torch.logdet(covs).sum(), torch.logdet(covs).prod(),
        ]
    )  # fmt: skip


def test_one_component_has_the_posterior_of_the_textbook() -> None:
    """Normal–inverse-Wishart: loc is a Student t, Σ inverse-Wishart, in closed form."""
    x = torch.randn(40, 2) @ torch.tensor([[1.0, 0.4], [0.0, 0.7]]) + 5.0
    found = gibbs.fit(x, 1, prior=NARROW, num_draws=2000, warmup_steps=0, seed=0, progress=False)
    strength, degrees = 0.5 + 40, 8.0 + 40
    loc = x.sum(dim=0) / strength
    scatter = NARROW.scatter + (x - x.mean(dim=0)).T @ (x - x.mean(dim=0))
    scatter = scatter + 0.5 * 40 / strength * torch.outer(x.mean(dim=0), x.mean(dim=0))
    locs = found.draws["locs"].flatten(0, 1).squeeze(1)
    trils = found.draws["scale_trils"].flatten(0, 1).squeeze(1)
    for d in range(2):
        scale = math.sqrt(scatter[d, d].item() / strength / (degrees - 1))
        law = scipy.stats.t(df=degrees - 1, loc=loc[d].item(), scale=scale)
        # Draws of one component are independent: p-values below 1e-5 once in 50,000 runs.
        assert scipy.stats.kstest(locs[:, d].numpy(), law.cdf).pvalue > 1e-5
        law = scipy.stats.invgamma((degrees - 1) / 2, scale=scatter[d, d].item() / 2)
        variances = trils[:, d].square().sum(dim=-1).numpy()
        assert scipy.stats.kstest(variances, law.cdf).pvalue > 1e-5
    # log |Σ|: log |Ψ| − Σ_i log χ²(ν − i + 1)
    log_det = 2 * trils.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    chi2 = [torch.distributions.Chi2(torch.tensor(degrees - i)) for i in range(2)]
    sample = torch.logdet(scatter) - sum(law.sample((20_000,)).log() for law in chi2)
    assert scipy.stats.ks_2samp(log_det.numpy(), sample.numpy()).pvalue > 1e-5


@pytest.mark.slow
def test_the_joint_law_is_the_prior_s() -> None:
    """Geweke's test: θ | x by a sweep, x | θ by the model, in turn; θ keeps the prior's law.

    With 8 points of their own 30 lines of 400 turns each forget their start in a few turns; the
    spread of the lines' means is the Monte Carlo error.
    """
    lines, turns, size = 30, 400, 8
    expected = torch.stack([features(m) for m in draw_from(NARROW, 20_000, 2)])
    generator = torch.Generator().manual_seed(1)
    means = []
    for line, mixture in enumerate(draw_from(NARROW, lines, 2)):
        own, seen = mixture, []
        for turn in range(turns):
            x = own.sample(size, seed=turns * line + turn).x
            sampler = gibbs.Sampler(x, NARROW, generator)
            state = sampler.sweep(sampler.enter([own]))
            own = GaussianMixture(*(part[0, 0] for part in sampler.leave([state]).values()))
            seen.append(features(own))
        means.append(torch.stack(seen).mean(dim=0))
    found = torch.stack(means)
    error = (found.var(dim=0) / lines + expected.var(dim=0) / len(expected)).sqrt()
    off = (found.mean(dim=0) - expected.mean(dim=0)) / error
    # Nine numbers: the largest of so many t(29) exceeds 4.7 with probability 5e-4.
    assert off.abs().max() < 4.7, off


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform() -> None:
    """Simulation-based calibration on 100 data sets of 25 points."""
    ranks = []
    for seed, truth in enumerate(draw_from(NARROW, 100, 2)):
        found = gibbs.fit(
            truth.sample(25, seed=seed).x, 2, prior=NARROW, start=truth, num_chains=10,
            num_draws=95, warmup_steps=100, pointwise=False, permuted_starts=True, seed=seed,
            progress=False,
        )  # fmt: skip
        # Every fifth of the last sweeps, of ten chains: 190 draws or so, all but independent.
        parts = (found.draws[name][:, ::5] for name in ("weights", "locs", "scale_trils"))
        draws = [
            features(GaussianMixture(w, l, t))
            for w, l, t in zip(*(part.flatten(0, 1) for part in parts), strict=True)
        ]
        ranks.append((torch.stack(draws) < features(truth)).double().mean(dim=0))
    # Nine numbers: one below 1e-5 once in 10,000 runs.
    for values in torch.stack(ranks).T:
        assert scipy.stats.kstest(values.numpy(), "uniform").pvalue > 1e-5


def test_a_label_is_drawn_by_its_odds() -> None:
    """One point between two components: how often a sweep gives it to the first."""
    prior = NormalInverseWishart(torch.zeros(1), torch.eye(1), 1.0, 3.0)
    mixture = GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1)
    )
    x = torch.tensor([[0.2], [5.0]])
    sampler = gibbs.Sampler(x, prior, torch.Generator().manual_seed(0))
    moments = sampler._moments(sampler.enter([mixture] * 20_000))
    counts = moments[..., 0]
    assert (counts.sum(dim=1) == 2).all(), "each point is in one component"
    odds = mixture.responsibilities(x)[:, 0]
    expected = odds.sum().item()
    error = math.sqrt((odds * (1 - odds)).sum().item() / len(counts))
    assert abs(counts[:, 0].mean().item() - expected) < 5 * error


def test_tiny_concentrations_do_not_underflow() -> None:
    """Dirichlet(0.001) of two: the log of the smaller weight is far below −700 at times."""
    prior = NormalInverseWishart(torch.zeros(1), torch.eye(1), 1.0, 3.0, 1e-3)
    sampler = gibbs.Sampler(torch.randn(5, 1), prior, torch.Generator().manual_seed(0))
    far = GaussianMixture(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    state = sampler.enter([far] * 50)
    for _ in range(20):
        state = sampler.sweep(state)
    assert all(part.isfinite().all() for part in state)
    assert state.log_weights.min() < -1000


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of the points that each block adds: all of them are N, Σ z and Σ z zᵀ."""
    x = torch.randn(700, 2)
    mixture = em.fit(x, 2, seed=0, progress=False).mixture
    whole = []
    for size in (1000, 64):
        monkeypatch.setattr(gibbs, "block_size", lambda *_, size=size: size)
        sampler = gibbs.Sampler(x, NARROW, torch.Generator().manual_seed(0))
        whole.append(sampler._moments(sampler.enter([mixture])).sum(dim=1))
    torch.testing.assert_close(*whole)


def test_the_same_seed_gives_the_same_draws_and_touches_nothing() -> None:
    x, before = torch.randn(50, 2), torch.get_rng_state()
    one, two, other = (
        gibbs.fit(x, 2, num_draws=5, warmup_steps=2, seed=seed, progress=False)
        for seed in (3, 3, 4)
    )
    assert torch.equal(one.draws["locs"], two.draws["locs"])
    assert not torch.equal(one.draws["locs"], other.draws["locs"])
    assert torch.equal(before, torch.get_rng_state())


def test_has_what_the_pyro_model_has() -> None:
    """The sites, the log joint and the log-likelihoods, on a line and in the plane."""
    for dim in (1, 2):
        x = torch.randn(30, dim)
        prior = NormalInverseWishart.default(x, 2)
        found = gibbs.fit(
            x, 2, prior=prior, num_draws=4, warmup_steps=2, num_chains=2, seed=0, progress=False
        )
        names = {"weights", "locs", "scale_trils", "pivots"} | ({"shears"} if dim > 1 else set())
        assert set(found.draws) == names
        parts = (found.draws[name][1, 2] for name in ("weights", "locs", "scale_trils"))
        mixture = GaussianMixture(*parts)
        torch.testing.assert_close(found.log_likelihood["x"][1, 2], mixture.log_prob(x))
        assert found.sample_stats["lp"].shape == (2, 4)


def test_refuses_a_prior_of_another_dimension() -> None:
    with pytest.raises(ValueError, match="prior must have 3 dimensions, got NormalInverseWish"):
        gibbs.fit(torch.randn(30, 3), 2, prior=NARROW, seed=0, progress=False)
