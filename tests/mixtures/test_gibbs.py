import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, gibbs, sweeps
from pplvae.mixtures.covariances import FORMS
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.mixtures.sweeps import Sampler

NARROW = NormalInverseWishart(torch.zeros(2).double(), torch.eye(2).double(), 0.5, 8.0, 2.0)


def draw_from(
    prior: NormalInverseWishart, num: int, num_components: int, form: str = "full"
) -> list[GaussianMixture]:
    """Mixtures from the prior, by scipy."""
    dim, nu = len(prior.loc), prior.degrees
    shape = (num, 1 if form == "tied" else num_components)
    if form in ("full", "tied"):
        law = scipy.stats.invwishart(df=nu, scale=prior.scatter.numpy())
        covs = torch.as_tensor(law.rvs(math.prod(shape), random_state=0)).unflatten(0, shape)
    elif form == "diag":
        law = scipy.stats.invgamma((nu + dim - 1) / 2, scale=prior.scatter.diagonal() / 2)
        covs = torch.as_tensor(law.rvs((*shape, dim), random_state=0)).diag_embed()
    else:
        law = scipy.stats.invgamma(dim * (nu + dim + 1) / 2 - 1, scale=prior.scatter.trace() / 2)
        covs = torch.as_tensor(law.rvs((*shape, 1), random_state=0)).expand(*shape, dim)
        covs = covs.diag_embed()
    trils = torch.linalg.cholesky(covs).expand(num, num_components, dim, dim)
    noise = torch.randn(num, num_components, dim, 1)
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
    found = gibbs.fit(x, 1, prior=NARROW, num_draws=1000, warmup_steps=0, seed=0,
                      pointwise=False, progress=False)  # fmt: skip
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


def variance_law(form: str, x: list[Tensor], k: int, d: int) -> tuple[float, float]:
    """Shape and scale of the inverse gamma that Σ_k,dd follows given the points of each one."""
    prior, dim = NARROW, 2
    scatters = []
    for own in x:
        mean, strength = own.mean(dim=0), prior.strength + len(own)
        residuals, away = own - mean, mean - prior.loc
        pull = prior.strength * len(own) / strength
        scatters.append(residuals.T @ residuals + pull * torch.outer(away, away))
    nu, scatter = prior.degrees + len(x[k]), prior.scatter + scatters[k]
    if form == "tied":
        nu = prior.degrees + sum(map(len, x))
        scatter = prior.scatter + sum(scatters)
    if form in ("full", "tied"):
        return (nu - dim + 1) / 2, scatter[d, d].item() / 2
    if form == "diag":
        return (nu + dim - 1) / 2, scatter[d, d].item() / 2
    return dim * (nu + dim + 1) / 2 - 1, scatter.trace().item() / 2


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_where_labels_are_certain_it_has_the_posterior_of_the_textbook(form: str) -> None:
    """Two clusters 100 sd apart: each draw is independent, and its law known."""
    x = [torch.randn(30, 2) @ torch.tensor([[1.0, 0.6], [0.0, 0.7]]), torch.randn(50, 2) + 100.0]
    start = GaussianMixture(
        torch.ones(2) / 2, torch.tensor([[0.0, 0.0], [100.0, 100.0]]), torch.eye(2).repeat(2, 1, 1)
    )
    found = gibbs.fit(
        torch.cat(x), 2, covariance=form, prior=NARROW, start=start, num_draws=500,
        warmup_steps=5, seed=0, pointwise=False, progress=False,
    )  # fmt: skip
    weights = scipy.stats.beta(NARROW.concentration + 30, NARROW.concentration + 50)
    draws = found.draws["weights"][..., 0].flatten().numpy()
    # Seven numbers of each form: a p-value below 1e-5 once in 3000 runs.
    assert scipy.stats.kstest(draws, weights.cdf).pvalue > 1e-5
    covs = found.draws["scale_trils"] @ found.draws["scale_trils"].mT
    for k, d in ((0, 0), (0, 1), (1, 1)):
        a, b = variance_law(form, x, k, d)
        draws = covs[..., k, d, d].flatten().numpy()
        assert scipy.stats.kstest(draws, scipy.stats.invgamma(a, scale=b).cdf).pvalue > 1e-5
        strength = NARROW.strength + len(x[k])
        loc = x[k].sum(dim=0)[d].item() / strength
        law = scipy.stats.t(2 * a, loc, math.sqrt(b / a / strength))
        draws = found.draws["locs"][..., k, d].flatten().numpy()
        assert scipy.stats.kstest(draws, law.cdf).pvalue > 1e-5
    if form == "tied":
        assert (covs[..., 0, :, :] == covs[..., 1, :, :]).all()
    if form in ("diag", "spherical"):
        assert (covs[..., 0, 1] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        "full",
        *(pytest.param(name, marks=pytest.mark.study) for name in ("tied", "diag", "spherical")),
    ],
)
def test_the_joint_law_is_the_prior_s(form: str) -> None:
    """Geweke's test: θ | x by a sweep, x | θ by the model, in turn; θ keeps the prior's law.

    With 8 points of their own 24 lines of 200 turns each forget their start in a few turns; the
    spread of the lines' means is the Monte Carlo error.
    """
    lines, turns, size = 24, 200, 8
    expected = torch.stack([features(m) for m in draw_from(NARROW, 20_000, 2, form)])
    generator = torch.Generator().manual_seed(1)
    means = []
    for line, mixture in enumerate(draw_from(NARROW, lines, 2, form)):
        own, seen = mixture, []
        for turn in range(turns):
            x = own.sample(size, seed=turns * line + turn).x
            sampler = Sampler(x, NARROW, generator, FORMS[form])
            state = sampler.sweep(sampler.enter([own]))
            own = GaussianMixture(*(part[0, 0] for part in sampler.leave([state]).values()))
            seen.append(features(own))
        means.append(torch.stack(seen).mean(dim=0))
    found = torch.stack(means)
    error = (found.var(dim=0) / lines + expected.var(dim=0) / len(expected)).sqrt()
    off = (found.mean(dim=0) - expected.mean(dim=0)) / error.where(error > 0, 1.0)
    # Nine numbers, four forms: the largest of so many t(23) exceeds 5.2 with probability 1e-3.
    assert off.abs().max() < 5.2, off


@pytest.mark.slow
@pytest.mark.study
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
    sampler = Sampler(x, prior, torch.Generator().manual_seed(0), FORMS["full"])
    counts = sampler._moments(sampler.enter([mixture] * 20_000)).counts
    assert (counts.sum(dim=1) == 2).all(), "each point is in one component"
    odds = mixture.responsibilities(x)[:, 0]
    expected = odds.sum().item()
    error = math.sqrt((odds * (1 - odds)).sum().item() / len(counts))
    assert abs(counts[:, 0].mean().item() - expected) < 5 * error


def test_tiny_concentrations_do_not_underflow() -> None:
    """Dirichlet(0.001) of two: the log of the smaller weight is far below −700 at times."""
    prior = NormalInverseWishart(torch.zeros(1), torch.eye(1), 1.0, 3.0, 1e-3)
    sampler = Sampler(torch.randn(5, 1), prior, torch.Generator().manual_seed(0), FORMS["full"])
    far = GaussianMixture(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    state = sampler.enter([far] * 50)
    for _ in range(20):
        state = sampler.sweep(state)
    assert all(part.isfinite().all() for part in state)
    assert state.log_weights.min() < -1000


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_blocks_do_not_matter(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of the points that each block adds: all of them are N, Σ z and Σ z zᵀ."""
    x = torch.randn(700, 2)
    mixture = em.init(x, 2, seed=0)
    whole = []
    for size in (1000, 64):
        monkeypatch.setattr(sweeps, "block_size", lambda *_, size=size: size)
        sampler = Sampler(x, NARROW, torch.Generator().manual_seed(0), FORMS[form])
        moments = sampler._moments(sampler.enter([mixture]))
        whole.append([part.sum(dim=1) for part in moments])
    torch.testing.assert_close(*whole)
    z = sampler._z
    torch.testing.assert_close(whole[0][1][0], z.sum(dim=1))
    expected = FORMS[form].reduce(z @ z.T)
    torch.testing.assert_close(whole[0][2][0], expected)


def test_the_same_seed_gives_the_same_draws_and_touches_nothing() -> None:
    x, before = torch.randn(50, 2), torch.get_rng_state()
    one, two, other = (
        gibbs.fit(
            x,
            2,
            num_draws=5,
            warmup_steps=2,
            start=em.init(x, 2, seed=seed),
            seed=seed,
            progress=False,
        )
        for seed in (3, 3, 4)
    )
    assert torch.equal(one.draws["locs"], two.draws["locs"])
    assert not torch.equal(one.draws["locs"], other.draws["locs"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("dim", [1, 2])
def test_has_what_the_pyro_model_has(form: str, dim: int) -> None:
    """The sites, and the log-likelihoods, on a line and in the plane."""
    x = torch.randn(30, dim)
    found = gibbs.fit(
        x, 2, covariance=form, start=em.init(x, 2, seed=0), num_draws=4, warmup_steps=2,
        num_chains=2, seed=0, progress=False,
    )  # fmt: skip
    names = {"weights", "locs", "scale_trils", "pivots"}
    has_shears = dim > 1 and form in ("full", "tied")
    assert set(found.draws) == names | ({"shears"} if has_shears else set())
    parts = (found.draws[name][1, 2] for name in ("weights", "locs", "scale_trils"))
    mixture = GaussianMixture(*parts)
    torch.testing.assert_close(found.log_likelihood["x"][1, 2], mixture.log_prob(x))
    assert found.sample_stats["lp"].shape == (2, 4)


def test_refuses_a_prior_of_another_dimension() -> None:
    with pytest.raises(ValueError, match="prior must have 3 dimensions, got NormalInverseWish"):
        gibbs.fit(torch.randn(30, 3), 2, prior=NARROW, seed=0, progress=False)


def test_refuses_a_form_it_has_not() -> None:
    with pytest.raises(ValueError, match=r"covariance must be one of .*, got 'round'"):
        gibbs.fit(torch.randn(30, 3), 2, covariance="round", seed=0, progress=False)
