import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from pplvae.infer import Posterior, em
from pplvae.infer.expectation import Labels, Space
from pplvae.infer.program import inspect
from pplvae.infer.unconstrained import Potential
from pplvae.intrinsic_dimension import twonn
from pplvae.mixtures import em as mixture_em
from pplvae.mixtures import model as mixture_model
from pplvae.randomness import generator

START = {"locs": torch.tensor([-1.0, 5.0]).double(), "scales": torch.ones(2).double()}


def two_normals(x: Tensor) -> None:
    """Two Gaussians on a line under priors so flat that the mode is the most likely mixture."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 1e6).to_event(1))
    scales = pyro.sample("scales", dist.Uniform(torch.full((2,), 1e-3), 1e3).to_event(1))
    pyro.deterministic("variances", scales**2)
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[z], scales[z]), obs=x)


def regression(x: Tensor, y: Tensor) -> None:
    """As one writes it: the product does not take several w at once."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def noisy_regression(x: Tensor, y: Tensor) -> None:
    """Noise of an unknown sd under a flat prior."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.Uniform(torch.tensor(1e-3), 1e3))
    pyro.deterministic("variance", noise**2)
    pyro.deterministic("predicted", x @ w)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, noise), obs=y)


@pytest.fixture(scope="module")
def x() -> Tensor:
    draws = generator(0)
    one, other = (torch.randn(n, generator=draws, dtype=torch.float64) for n in (150, 100))
    return torch.cat([one, 0.7 * other + 4.0])


@pytest.fixture(scope="module")
def exact(x: Tensor) -> Posterior:
    """EM on two normals, run once."""
    torch.set_default_dtype(torch.float64)
    return em.fit(two_normals, x, init=START, seed=0)


# The driver.


def halve(theta: float) -> tuple[float, float]:
    """An E-step for the objective −θ² where the M-step halves θ."""
    return theta / 2, -(theta**2)


def test_takes_one_e_step_for_each_m_step() -> None:
    seen, bar = [], []

    def e_step(theta: float) -> tuple[float, float]:
        seen.append(theta)
        return halve(theta)

    found = em.climb(
        e_step, lambda q: q, 8.0, max_steps=3, least_gain=0.0, on_step=lambda: bar.append(1)
    )
    assert seen == [8.0, 4.0, 2.0, 1.0]
    assert len(bar) == 3
    assert found.parameters == 1.0
    assert found.expectations == 0.5
    assert found.objectives == [-64.0, -16.0, -4.0, -1.0]
    assert not found.converged
    assert em.climb(halve, lambda q: q, 8.0, max_steps=9, least_gain=13.0).converged


def test_a_step_that_loses_is_taken_only_where_the_objective_is_noisy() -> None:
    values = iter([0.0, 5.0, 4.0, 4.5])

    def e_step(theta: int) -> tuple[int, float]:
        return theta, next(values)

    found = em.climb(e_step, lambda q: q + 1, 0, max_steps=9, least_gain=0.1)
    assert (found.parameters, found.objectives, found.converged) == (1, [0.0, 5.0], True)
    values = iter([0.0, 5.0, 4.0, 4.5])
    found = em.climb(e_step, lambda q: q + 1, 0, max_steps=3, least_gain=0.1, strict=False)
    assert found.parameters == 3
    assert found.objectives == [0.0, 5.0, 4.0, 4.5]
    assert not found.converged


def test_a_restart_may_lose_and_begins_the_trace_anew() -> None:
    def m_step(q: float) -> float | em.Restart[float] | None:
        return em.Restart(32.0) if q == 2.0 else None if q < 2.0 else q

    found = em.climb(halve, m_step, 8.0, max_steps=2, least_gain=0.0)
    assert found.objectives == [-(32.0**2)]
    assert found.parameters == 32.0
    ended = em.climb(halve, lambda q: None if q < 2.0 else q, 8.0, max_steps=99, least_gain=0.0)
    assert (ended.parameters, ended.converged) == (2.0, False)


def test_says_when_the_objective_is_lost() -> None:
    with pytest.raises(FloatingPointError, match="the objective must be a number, got nan"):
        em.climb(lambda p: (p, math.nan), lambda q: q, 0.0, max_steps=3, least_gain=0.0)


# KL(q(x, z) ‖ p(x, z)) = KL(q(x) ‖ p(x)) + E KL(q(z | x) ‖ p(z | x)).


def test_the_three_terms_are_divergences() -> None:
    """Of whole tables, over x too: then the entropy of the data is counted on both sides."""
    q_x = torch.full((5,), 0.2)
    log_p = torch.randn(5, 3).flatten().log_softmax(dim=0).reshape(5, 3)
    log_q = torch.randn(5, 3).log_softmax(dim=1)
    found, entropy = em.decomposition(log_p, log_q), math.log(5)
    q, p = dist.Categorical(q_x), dist.Categorical(logits=log_p.logsumexp(dim=1))
    joint_q = dist.Categorical(logits=(log_q + q_x.log().unsqueeze(1)).flatten())
    joint_p = dist.Categorical(logits=log_p.flatten())
    given = torch.distributions.kl_divergence(
        dist.Categorical(logits=log_q), dist.Categorical(logits=log_p)
    ).mean()
    kl = torch.distributions.kl_divergence
    assert found.joint - entropy == pytest.approx(kl(joint_q, joint_p).item())
    assert found.marginal - entropy == pytest.approx(kl(q, p).item())
    assert found.conditional == pytest.approx(given.item())
    assert found.joint == pytest.approx(found.marginal + found.conditional)


def test_what_never_happens_counts_for_nothing() -> None:
    log_q = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    found = em.decomposition(torch.tensor([[-1.0, -math.inf], [-2.0, -3.0]]), log_q)
    assert found.joint == 2.0
    assert found.joint == pytest.approx(found.marginal + found.conditional)
    assert em.decomposition(torch.tensor([[-math.inf, 0.0]]), log_q[:1]).joint == math.inf


def test_each_turn_of_em_takes_down_its_own_term(x: Tensor) -> None:
    x = x.unsqueeze(1)
    mixture = mixture_em.init(x, 2, jitter=0.0, seed=0)
    for _ in range(5):
        log_joint = mixture.joint_log_prob(x)
        log_q = log_joint.log_softmax(dim=1)
        after_e = em.decomposition(log_joint, log_q)
        assert after_e.conditional == pytest.approx(0.0, abs=1e-14)
        assert after_e.marginal == pytest.approx(-mixture.log_prob(x).mean().item())
        mixture = mixture_em.m_step(x, log_q.exp())
        after_m = em.decomposition(mixture.joint_log_prob(x), log_q)
        assert after_m.joint < after_e.joint
        assert after_m.conditional > 0
        assert after_m.joint == pytest.approx(after_m.marginal + after_m.conditional, rel=1e-13)


@pytest.mark.parametrize("num_draws", [1, 10, 100])
def test_drawn_labels_leave_the_gap_of_their_binomial_law(num_draws: int, x: Tensor) -> None:
    """Monte Carlo EM: q(z | x) are the shares of S labels, which is not p(z | x)."""
    x = x.unsqueeze(1)
    mixture = mixture_em.fit(x, 2, seed=0, progress=False).mixture
    log_joint = mixture.joint_log_prob(x)
    p = log_joint.softmax(dim=1)[:, 1].clamp(1e-12, 1 - 1e-12)  # no 0 · log 0 below
    counts = dist.Binomial(num_draws, p).sample()
    log_q = torch.stack([1 - counts / num_draws, counts / num_draws], dim=1).log()
    terms = em.decomposition(log_joint, log_q)
    assert terms.marginal == pytest.approx(-mixture.log_prob(x).mean().item())
    assert terms.joint == pytest.approx(terms.marginal + terms.conditional, rel=1e-13)

    each = torch.arange(num_draws + 1.0).unsqueeze(1)
    odds, share = dist.Binomial(num_draws, p).log_prob(each).exp(), each / num_draws
    kl = torch.xlogy(share, share / p) + torch.xlogy(1 - share, (1 - share) / (1 - p))
    mean = (odds * kl).sum(dim=0)
    variance = (odds * kl.square()).sum(dim=0) - mean.square()
    error = variance.sum().sqrt().item() / len(x)
    assert terms.conditional == pytest.approx(mean.mean().item(), abs=4 * error)

    moved = mixture_em.m_step(x, log_q.exp())
    assert em.decomposition(moved.joint_log_prob(x), log_q).joint <= terms.joint


def test_draws_of_a_continuous_z_show_the_same() -> None:
    """z ~ Normal(0, 1), x | z ~ Normal(z, 1): p(x) = Normal(0, √2), p(z | x) = Normal(x/2, √½)."""
    x = torch.randn(4, 1)
    q = dist.Normal(x / 2 + 0.1, math.sqrt(0.5) * 0.8)
    z = q.sample(torch.Size([20_000])).squeeze(-1).mT
    log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    found = em.decomposition_of_draws(log_joint, q.log_prob(z))
    marginal = -dist.Normal(0.0, math.sqrt(2)).log_prob(x).mean().item()
    conditional = torch.distributions.kl_divergence(q, dist.Normal(x / 2, math.sqrt(0.5)))
    # log w has an sd of √(conditional) ≈ 0.3 and w a relative one of 0.5 or so; of 80,000 draws
    # the means are known to 0.002.
    assert found.marginal == pytest.approx(marginal, abs=0.01)
    assert found.conditional == pytest.approx(conditional.mean().item(), abs=0.01)
    assert found.joint == pytest.approx(found.marginal + found.conditional, rel=1e-13)


def test_refuses_tables_that_are_none() -> None:
    q = torch.full((3, 2), 0.5).log()
    with pytest.raises(ValueError, match=r"one shape \(N, K\), got \(3,\) and \(3, 2\)"):
        em.decomposition(torch.zeros(3), q)
    with pytest.raises(ValueError, match=r"one shape \(N, K\), got \(3, 2\) and \(2, 2\)"):
        em.decomposition_of_draws(q, q[:2])
    with pytest.raises(ValueError, match="log_joint must be numbers, got 6 nan"):
        em.decomposition(q * math.nan, q)
    with pytest.raises(ValueError, match="log_q must have rows that sum to one, got 2"):
        em.decomposition(q, q * 0)


# Discrete z, exact.


def test_finds_the_mixture_that_em_in_closed_form_finds(x: Tensor, exact: Posterior) -> None:
    found = exact
    truth = mixture_em.fit(
        x.unsqueeze(1), 2, jitter=0.0, tolerance=1e-14, seed=0, progress=False
    ).mixture
    order = truth.locs.flatten().argsort()
    # EM at a rate of about 0.9 a step that ends with a gain of 1e-8 nat is √(1e-8 / 0.1) ≈ 3e-4
    # standard errors of 0.1 away.
    expected = {
        "weights": truth.weights[order],
        "locs": truth.locs[order].flatten(),
        "scales": truth.scale_trils[order].flatten(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found.draws[name][0, 0], value, rtol=0.0, atol=1e-4)
    prior = sum(
        law.log_prob(value).sum().item()
        for law, value in (
            (dist.Dirichlet(torch.ones(2)), truth.weights),
            (dist.Normal(0.0, 1e6), truth.locs),
            (dist.Uniform(1e-3, 1e3), truth.scale_trils),
        )
    )
    likelihood = truth.log_prob(x.unsqueeze(1)).sum().item()
    assert found.trace[-1].item() == pytest.approx(-prior - likelihood, abs=1e-6)
    assert found.log_likelihood["x"].sum().item() == pytest.approx(likelihood, abs=1e-6)


def test_is_a_point_that_says_so(x: Tensor, exact: Posterior) -> None:
    found = exact
    assert found.is_point
    assert found.method == "EM"
    assert found.log_evidence is None
    assert found.diagnostics == {"converged": 1.0}
    assert found.sample_stats["lp"].item() == pytest.approx(-found.trace[-1].item())
    assert found.log_likelihood["x"].shape == (1, 1, 250)
    assert torch.equal(found.observed["x"], x)
    assert torch.equal(found.draws["variances"], found.draws["scales"] ** 2)
    assert found.cost.gradient_evaluations > len(found.trace)
    assert found.provenance["seed"] == 0
    alone = em.fit(two_normals, x, init=START, seed=0, max_steps=1, pointwise=False)
    assert not alone.log_likelihood


def test_no_step_loses(x: Tensor, exact: Posterior) -> None:
    assert (exact.trace.diff() <= 0).all()
    assert exact.trace[0] - exact.trace[-1] > 10
    assert not em.fit(two_normals, x, init=START, seed=0, max_steps=2).diagnostics["converged"]


def test_components_that_are_alike_stay_alike_and_it_says_so(x: Tensor) -> None:
    init = {"weights": [0.5, 0.5], "locs": [1.0, 1.0], "scales": [2.0, 2.0]}
    alike = {name: torch.tensor(value) for name, value in init.items()}
    with pytest.warns(UserWarning, match="EM has stopped at a saddle"):
        found = em.fit(two_normals, x, init=alike, seed=0)
    assert not found.diagnostics["converged"]
    torch.testing.assert_close(found.draws["locs"][0, 0], x.mean().expand(2))


def test_the_slope_of_the_expectation_is_that_of_the_log_joint(x: Tensor) -> None:
    """Fisher's identity: where q = p(z | x, θ), ∂ E_q log p(x, z, θ) = ∂ log p(x, θ)."""
    theta = Space(Potential(two_normals, (x,), START), list(inspect(two_normals, x).latent))
    steps = Labels(two_normals, (x,), theta, None)
    for _ in range(3):
        at = (theta.start + torch.randn_like(theta.start)).requires_grad_()
        found, _ = steps.expect(at.detach())
        (ours,) = torch.autograd.grad(steps.energy(found, at), at)
        (theirs,) = torch.autograd.grad(steps._at(at).log_sum(), at)
        torch.testing.assert_close(-ours, theirs)


def test_summed_out_by_em_or_by_the_density_the_mode_is_the_same() -> None:
    x = torch.cat([torch.randn(60, 2), torch.randn(40, 2) * 0.5 + 4.0])
    init = {
        "weights": torch.tensor([0.5, 0.5]),
        "locs": torch.tensor([[0.0, 0.0], [4.0, 4.0]]),
        "scales": torch.ones(2, 2),
        "correlation_trils": torch.eye(2).expand(2, 2, 2),
    }

    def enumerated(x: Tensor) -> None:
        mixture_model(x, 2, enumerate_assignments=True)

    def summed_out(x: Tensor) -> None:
        mixture_model(x, 2)

    by_em, by_density = (em.fit(m, x, init=init, seed=0) for m in (enumerated, summed_out))
    assert by_em.method == "EM"
    assert by_density.method == "EM, nothing to integrate (MAP)"
    for name in ("weights", "locs", "scales", "scale_trils"):
        torch.testing.assert_close(by_em.draws[name], by_density.draws[name], rtol=1e-3, atol=1e-3)
    assert by_em.trace[-1].item() == pytest.approx(by_density.trace[-1].item(), abs=1e-6)


def test_learns_a_hidden_chain() -> None:
    """Baum and Welch: the rows of the matrix are shares of transitions, at the fixed point."""

    def chain(y: Tensor) -> None:
        to_first = pyro.sample("to_first", dist.Uniform(torch.zeros(2), 1.0).to_event(1))
        matrix, z = torch.stack([to_first, 1 - to_first], dim=1), 0
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z{t}", dist.Categorical(matrix[z]))
            pyro.sample(f"y{t}", dist.Normal(3.0 * torch.as_tensor(z), 1.0), obs=y[t])

    truth = torch.tensor([0.0] * 6 + [1.0] * 4 + [0.0] * 3 + [1.0] * 7)
    y = 3.0 * truth + 0.8 * torch.randn(20)
    found = em.fit(chain, y, seed=0)
    assert (found.trace.diff() <= 0).all()
    to_first = found.draws["to_first"][0, 0]
    matrix = torch.stack([to_first, 1 - to_first], dim=1)
    emission = torch.stack([dist.Normal(m, 1.0).log_prob(y) for m in (0.0, 3.0)], dim=1).exp()
    counts = transitions(matrix, emission)
    expected = counts[:, 0] / counts.sum(dim=1)
    torch.testing.assert_close(to_first, expected, rtol=0.0, atol=1e-3)


def transitions(matrix: Tensor, emission: Tensor) -> Tensor:
    """Expected counts of transitions, by forward and backward sums, the state before being 0."""
    size, num = emission.shape
    before, after = [torch.eye(num)[0]], [torch.ones(num)]
    for t in range(size):
        before.append(before[-1] @ matrix * emission[t])
    for t in reversed(range(size)):
        after.insert(0, matrix @ (emission[t] * after[0]))
    total = before[-1].sum()
    return sum(
        (
            before[t].unsqueeze(1) * matrix * (emission[t] * after[t + 1]).unsqueeze(0) / total
            for t in range(size)
        ),
        start=torch.zeros(num, num),
    )


# Discrete z, drawn.


def test_monte_carlo_em_ends_near_em(x: Tensor, exact: Posterior) -> None:
    far = []
    for seed in range(2):
        found = em.fit(two_normals, x, init=START, num_samples=100, seed=seed)
        assert found.method == "EM, Monte Carlo"
        # With a share r of the information missing, S draws leave θ √(r / (1 − r) / S) standard
        # errors off, so log p by half that squared for each of five parameters. For the overlap
        # here r < 0.8 even in the worst direction: at most 0.2 standard errors and 0.1 nat.
        far.append((found.trace[-1] - exact.trace[-1]).item())
        error = (found.draws["locs"] - exact.draws["locs"]).abs().max().item()
        assert error < 3 * 0.2 * 0.15
    assert 0 < max(far) < 0.3
    assert min(far) > -1e-6


@pytest.mark.slow
def test_more_labels_come_closer(x: Tensor, exact: Posterior) -> None:
    # From the end on, so that all there is to be away from it is the noise of the labels.
    end = {name: exact.draws[name][0, 0] for name in ("weights", "locs", "scales")}
    errors = []
    for size in (2, 200):
        fits = [
            em.fit(two_normals, x, init=end, num_samples=size, max_steps=5, seed=seed)
            for seed in range(3)
        ]
        off = torch.stack([fit.draws["locs"] - exact.draws["locs"] for fit in fits])
        errors.append(off.square().mean().item())
    # A hundredth on average; a mean of six squares is known to a factor of two or so.
    assert errors[1] < errors[0] / 10


# Continuous z.


def type_two(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The sd that maximizes p(y | noise) = Normal(y | 0, X Xᵀ + noise² I), and log of that."""

    def log_prob(noise: Tensor) -> Tensor:
        covariance = x @ x.mT + noise**2 * torch.eye(len(x))
        return dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y)

    def slope(noise: float) -> float:
        at = torch.tensor(noise, requires_grad=True)
        return torch.autograd.grad(log_prob(at), at)[0].item()

    found: Any = brentq(slope, 0.1, 2.0, xtol=1e-12)
    return found, log_prob(torch.tensor(found)).item()


@pytest.mark.parametrize("num_samples", [None, 8])
def test_integrated_weights_leave_the_type_two_noise(
    data: tuple[Tensor, Tensor], num_samples: int | None
) -> None:
    found = em.fit(noisy_regression, *data, integrate=["w"], num_samples=num_samples, seed=0)
    noise, log_prob = type_two(*data)
    # The draws have the mean and covariance of the normal p(w | y, noise) exactly, and these are
    # all that the M-step asks of it.
    assert found.draws["noise"].item() == pytest.approx(noise, abs=1e-4)
    assert -found.trace[-1].item() == pytest.approx(log_prob - math.log(1e3 - 1e-3), abs=1e-7)
    assert found.diagnostics["importance_ess"] == pytest.approx(num_samples or 1000)
    assert found.diagnostics["converged"]
    assert (found.trace.diff() < 1e-6).all()
    assert set(found.draws) == {"noise", "variance"}  # what w moves is left out, as is w
    assert not found.log_likelihood
    assert found.method == "EM, Monte Carlo"


def test_one_step_is_that_of_the_closed_form(data: tuple[Tensor, Tensor]) -> None:
    """noise² = (‖y − X m‖² + tr X V Xᵀ) / N, with m and V of w's posterior at the noise before."""
    x, y = data
    found = em.fit(
        noisy_regression, *data, integrate=["w"], init={"noise": 1.0}, max_steps=1, seed=0
    )
    covariance = torch.linalg.inv(torch.eye(3) + x.mT @ x)
    mean = covariance @ x.mT @ y
    expected = ((y - x @ mean).square().sum() + (x @ covariance @ x.mT).trace()) / len(x)
    assert found.draws["noise"].item() ** 2 == pytest.approx(expected.item(), rel=1e-6)


def counts(y: Tensor) -> None:
    """Poisson counts with a normal rate of their own each, of unknown sd."""
    spread = pyro.sample("spread", dist.Uniform(torch.tensor(1e-3), 10.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, spread))
        pyro.sample("y", dist.Poisson(z.exp()), obs=y)


def test_where_the_posterior_of_z_is_not_normal_the_weights_mend_it() -> None:
    y = torch.tensor([0.0, 3, 1, 0, 7, 0, 1, 2, 0, 12])
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(80))

    def slope(spread: float) -> float:
        at = torch.tensor(spread, requires_grad=True)
        rates = (at * nodes).exp()
        each = dist.Poisson(rates).log_prob(y.unsqueeze(1)) + weights.log()
        return torch.autograd.grad(each.logsumexp(dim=1).sum(), at)[0].item()

    truth: Any = brentq(slope, 0.3, 2.5)
    found = em.fit(counts, y, integrate=["z"], num_samples=4000, init={"spread": 1.0}, seed=0)
    # E z² over 10 points is known to √2 / √(10 · 500) = 2 % from an effective 500 draws, the
    # spread to 1 %; with half of the information missing it ends within 2 %, three of them.
    assert found.diagnostics["importance_ess"] > 500
    assert found.draws["spread"].item() == pytest.approx(truth, rel=0.06)


def test_integrates_a_site_over_its_own_space() -> None:
    """Gamma rates under Poisson counts: negative binomial counts, whose mean is likeliest at ȳ."""

    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Uniform(torch.tensor(0.0), 100.0))
        with pyro.plate("data", len(y)):
            rate = pyro.sample("rate", dist.Gamma(3.0, 3.0 / mean))
            pyro.sample("y", dist.Poisson(rate), obs=y)

    y = torch.tensor([4.0, 1.0, 7.0, 2.0, 6.0])
    found = em.fit(model, y, integrate=["rate"], num_samples=4000, init={"mean": 3.0}, seed=0)
    law = dist.NegativeBinomial(3.0, logits=torch.tensor(4.0 / 3.0).log())
    log_prob = law.log_prob(y).sum().item() - math.log(100.0)
    # The log of a mean of S weights has the standard error √(1/ESS − 1/S), and E rates / 5 less.
    error = math.sqrt(1 / found.diagnostics["importance_ess"] - 1 / 4000)
    assert error < 0.02
    assert -found.trace[-1].item() == pytest.approx(log_prob, abs=4 * error)
    assert found.draws["mean"].item() == pytest.approx(4.0, abs=4 * 4.0 * error)


def test_discrete_sites_are_summed_out_beneath_continuous_ones(x: Tensor) -> None:
    """With all locs but one integrated away by a prior of no width, the mode stays that of EM."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 10.0))
        other = pyro.sample("other", dist.Normal(torch.tensor(3.0), 1e-4))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(torch.where(z == 0, loc, other), 1.0), obs=x)

    options = {"init": {"loc": 0.0}, "seed": 0}
    together = em.fit(model, x, integrate=["other"], num_samples=10, **options)
    alone = em.fit(pyro.poutine.condition(model, {"other": torch.tensor(3.0)}), x, **options)
    torch.testing.assert_close(together.draws["loc"], alone.draws["loc"], rtol=0, atol=1e-3)


# Nothing to integrate.


def test_with_nothing_to_integrate_it_is_the_map(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    found = em.fit(regression, x, y, seed=0)
    expected = torch.linalg.solve(torch.eye(3) + x.mT @ x / 0.25, x.mT @ y / 0.25)
    torch.testing.assert_close(found.draws["w"][0, 0], expected, rtol=0.0, atol=1e-7)
    assert found.method == "EM, nothing to integrate (MAP)"
    assert found.log_likelihood["y"].shape == (1, 1, 50)
    assert len(found.trace) <= 4


def test_the_mode_is_that_of_the_site_itself(ratios: Tensor) -> None:
    """Of d ~ Gamma(a, b), (a − 1)/b; in log d, where the search moves, it would be a/b."""
    law, found = twonn.posterior(ratios[:20]), em.fit(twonn.model, ratios[:20], seed=0)
    mode = (law.concentration - 1) / law.rate
    assert found.draws["dimension"].item() == pytest.approx(mode, rel=1e-6)


def test_takes_data_in_single_precision(x: Tensor, exact: Posterior) -> None:
    torch.set_default_dtype(torch.float32)
    init = {name: value.float() for name, value in START.items()}
    single = em.fit(two_normals, x.float(), init=init, seed=0)
    torch.set_default_dtype(torch.float64)
    assert single.draws["locs"].dtype == torch.float32
    assert single.diagnostics["converged"]
    torch.testing.assert_close(
        single.draws["locs"].double(), exact.draws["locs"], rtol=0, atol=0.02
    )


@pytest.mark.parametrize("options", [{}, {"num_samples": 5}])
def test_a_seed_gives_the_same_answer_and_nothing_else_changes(
    x: Tensor, options: dict[str, int]
) -> None:
    pyro.param("mine", torch.tensor(7.0))
    state = torch.get_rng_state()
    first, again = (em.fit(two_normals, x, seed=3, max_steps=5, **options) for _ in range(2))
    assert torch.equal(first.trace, again.trace)
    assert torch.equal(first.draws["locs"], again.draws["locs"])
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store()) == ["mine"]
    pyro.clear_param_store()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integrate": "w"}, r"integrate must name some of .*\['w', 'noise'\] .* got w"),
        ({"integrate": ["v"]}, r"and leave one, got \['v'\]"),
        ({"integrate": ["w", "noise"]}, r"and leave one, got \['w', 'noise'\]"),
        ({"num_samples": 5}, "num_samples must be None with nothing to draw, got 5"),
        ({"integrate": ["w"], "num_samples": 1}, "num_samples must be at least 2, got 1"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"tolerance": -1.0}, r"tolerance must be at least 0, got -1\.0"),
        ({"init": {"v": 0.0}}, r"init must name sites among \['w', 'noise'\], got 'v'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=message):
        em.fit(noisy_regression, *data, **options)


def test_refuses_to_integrate_what_has_no_strict_mode() -> None:
    def flat() -> None:
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("b", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("no prior", 0.5 * a.square())

    with pytest.raises(ValueError, match="has a strict mode, got least eigenvalue 0"):
        em.fit(flat, integrate=["a"], seed=0)
