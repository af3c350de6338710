import itertools
import math

import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pplvae import infer
from pplvae.intrinsic_dimension import hidalgo, twonn
from pplvae.intrinsic_dimension.hidalgo import uncertainty
from pplvae.intrinsic_dimension.hidalgo.coherence import Propagation, ties
from pplvae.neighbors import NeighborGraph, from_distances, graph


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def torus_distances(turns: Tensor) -> Tensor:
    """Distances on the flat torus of circumference 1: no edge and no curvature."""
    apart = (turns.unsqueeze(1) - turns).abs()
    return torch.minimum(apart, 1 - apart).norm(dim=-1)


def far_apart(num_points: int, dims: tuple[int, ...], seed: int) -> tuple[NeighborGraph, Tensor]:
    """Flat tori of these dimensions, at a distance of 100 from each other."""
    parts = [rand(num_points, d, seed=1000 * d + seed) for d in dims]
    blocks = [torus_distances(part) - 100.0 for part in parts]
    return from_distances(torch.block_diag(*blocks) + 100.0, num_neighbors=6), labels(
        num_points, dims
    )


def joined(num_points: int, seed: int) -> tuple[Tensor, Tensor]:
    """A sheet of 2 dimensions that runs into a block of 4."""
    sheet, block = torch.zeros(num_points, 5), torch.zeros(num_points, 5)
    sheet[:, :2] = 2 * rand(num_points, 2, seed=seed) - torch.tensor([2.0, 0.5])
    block[:, :4] = rand(num_points, 4, seed=seed + 1)
    return torch.cat([sheet, block]), labels(num_points, (2, 4))


def labels(num_points: int, dims: tuple[int, ...]) -> Tensor:
    return torch.arange(len(dims)).repeat_interleave(num_points)


def accuracy(found: hidalgo.Hidalgo, truth: Tensor) -> float:
    return (found.parts == truth).double().mean().item()


def log_pareto(log_ratios: Tensor, dimensions: Tensor) -> Tensor:
    return dimensions.log() - (dimensions + 1) * log_ratios.unsqueeze(1)


def enumerated(own: Tensor, neighbors: Tensor, zeta: float) -> tuple[float, Tensor]:
    """Return log Σ_z Π_i f_{z_i} (ζ or 1 − ζ for each neighbor) and p(z_i = k), the long way."""
    size, num_parts = own.shape
    z = torch.tensor(list(itertools.product(range(num_parts), repeat=size)))
    same = (z.unsqueeze(2) == z[:, neighbors]).sum(dim=(1, 2))
    total = same * math.log(zeta) + (neighbors.numel() - same) * math.log(1 - zeta)
    total = total + own[torch.arange(size), z].sum(dim=1)
    marginals = torch.nn.functional.one_hot(z, num_parts).to(own)
    return total.logsumexp(0).item(), torch.einsum("s,snk->nk", total.softmax(0), marginals)


@pytest.fixture(scope="module")
def sheet_and_block() -> tuple[NeighborGraph, Tensor]:
    x, truth = joined(500, seed=3)
    return graph(x, 6), truth


@pytest.fixture(scope="module")
def segmented(sheet_and_block: tuple[NeighborGraph, Tensor]) -> hidalgo.Hidalgo:
    return hidalgo.fit(sheet_and_block[0], 2, progress=False)


# The sum over labelings.


@pytest.mark.parametrize("num_parts", [2, 3])
def test_the_sum_over_labelings_is_exact_where_ties_have_no_cycle(num_parts: int) -> None:
    # Ties to the one nearest neighbor form trees: a cycle of them would need equal distances.
    zeta, found = 0.7, graph(rand(9, 2), 3)
    own = log_pareto(found.log_ratio, torch.tensor([1.0, 4.0, 9.0])[:num_parts])
    propagation = Propagation(ties(found, 1), zeta)
    messages = propagation.start(torch.full_like(own, 1 / num_parts))
    messages = propagation.sweep(own, messages, 500)
    expected, marginals = enumerated(own, found.indices[:, :1], zeta)
    normalizer, _ = enumerated(torch.zeros_like(own), found.indices[:, :1], zeta)
    evidence = propagation.log_sum(own, messages).item() - propagation.log_normalizer(num_parts)
    # Messages are settled to 1e-6 nats, and there are 2 · 9 of them at most.
    assert evidence == pytest.approx(expected - normalizer, abs=2e-5)
    probabilities = (own + propagation.field(messages)).softmax(dim=1)
    torch.testing.assert_close(probabilities, marginals, rtol=0, atol=1e-5)


def test_the_sum_over_labelings_is_close_where_ties_have_cycles() -> None:
    # How far Bethe's sum is off was measured over 40 seeds: at most 0.70 nats, probabilities 0.13.
    zeta, found = 0.6, graph(rand(12, 2), 3)
    own = log_pareto(found.log_ratio, torch.tensor([1.0, 6.0]))
    propagation = Propagation(ties(found, 3), zeta)
    messages = propagation.sweep(own, propagation.start(torch.full_like(own, 0.5)), 500)
    expected, marginals = enumerated(own, found.indices[:, :3], zeta)
    normalizer, _ = enumerated(torch.zeros_like(own), found.indices[:, :3], zeta)
    evidence = propagation.log_sum(own, messages).item() - propagation.log_normalizer(2)
    assert evidence == pytest.approx(expected - normalizer, abs=0.75)
    probabilities = (own + propagation.field(messages)).softmax(dim=1)
    torch.testing.assert_close(probabilities, marginals, rtol=0, atol=0.15)


def test_a_strong_prior_chooses_one_of_its_parts_for_each_piece() -> None:
    # Nearly all of the sum is in the K^2 labelings with one part for each of two far pieces.
    x = torch.cat([rand(30, 2), rand(30, 2, seed=1) + 100])
    propagation = Propagation(ties(graph(x, 8), 8), 0.99)
    assert propagation.log_normalizer(3) == pytest.approx(2 * math.log(3), abs=1e-3)


# One part, or no coherence: answers known by other ways.


def test_one_part_is_twonn() -> None:
    x = rand(300, 3)
    logs = graph(x, 3).log_ratio
    found = hidalgo.fit(x, 1, progress=False)
    d = (1 + 300) / (0.01 + logs.sum().item())
    assert found.dimension == pytest.approx(d, rel=1e-12)
    assert found.log_likelihood == pytest.approx(
        log_pareto(logs, torch.tensor([d])).sum().item(), rel=1e-12
    )
    independent = found.standard_errors / found.inflations.sqrt()
    # The curvature in log d is b d + d Σ log μ = a + N, all of it known here.
    assert independent.item() == pytest.approx(d / math.sqrt(301), rel=1e-9)
    assert found.dimension == pytest.approx(twonn.maximum_likelihood(x).dimension, rel=1e-2)
    assert 1.2 < found.inflations.item() < 2.2


def test_without_coherence_it_is_the_mixture_that_any_em_finds() -> None:
    dims = torch.tensor([1.0, 20.0]).repeat_interleave(200)
    ratios = torch.distributions.Pareto(torch.ones(400), dims).sample()
    found = hidalgo.fit(as_ratios(ratios), 2, num_coherent=0, progress=False)

    def model(ratios: Tensor) -> None:  # a + 1: the mode of d, where EM here has that of log d
        hidalgo.model(ratios, 2, concentration=2.0)

    init = {"dimensions": torch.tensor([2.0, 8.0]), "weights": torch.tensor([0.5, 0.5])}
    other = infer.em.fit(model, ratios, init=init, pointwise=False, tolerance=1e-6)
    # The climbs end when a step gains 1e-4 nats, which leaves 1e-2 standard errors or so.
    for name, value in (("dimensions", found.dimensions), ("weights", found.weights)):
        torch.testing.assert_close(value, other.draws[name].flatten(), rtol=3e-3, atol=0)
    joint = log_pareto(ratios.log(), found.dimensions) + found.weights.log()
    assert found.log_likelihood == pytest.approx(joint.logsumexp(1).sum().item(), abs=1e-2)


def as_ratios(ratios: Tensor) -> NeighborGraph:
    """A graph with these ratios, whose neighbors mean nothing."""
    distances = torch.stack([torch.ones_like(ratios), ratios, ratios], dim=1)
    rows = torch.arange(len(ratios))
    indices = (rows.unsqueeze(1) + torch.tensor([1, 2, 3])) % len(ratios)
    return NeighborGraph(distances, indices, rows, torch.ones_like(rows), None)


def test_even_odds_are_no_coherence() -> None:
    x = rand(200, 2)
    even = hidalgo.fit(x, 2, zeta=0.5, progress=False)
    none = hidalgo.fit(x, 2, num_coherent=0, progress=False)
    assert even.neighborhood is None
    torch.testing.assert_close(even.dimensions, none.dimensions, rtol=0, atol=0)


# The parts of known data.


def test_finds_parts_that_lie_apart() -> None:
    found_graph, truth = far_apart(400, (1, 5), seed=0)
    found = hidalgo.fit(found_graph, 2, progress=False)
    assert accuracy(found, truth) > 0.99
    low, high = found.intervals(0.999).unbind(dim=1)
    assert (low < torch.tensor([1.0, 5.0])).all()
    assert (high > torch.tensor([1.0, 5.0])).all()
    torch.testing.assert_close(found.weights, torch.tensor([0.5, 0.5]), rtol=0, atol=0.01)
    assert found.dimension == pytest.approx(3.0, abs=4 * found.standard_error)


def test_finds_parts_that_touch_as_the_plain_mixture_cannot(
    sheet_and_block: tuple[NeighborGraph, Tensor], segmented: hidalgo.Hidalgo
) -> None:
    found_graph, truth = sheet_and_block
    assert accuracy(segmented, truth) > 0.95
    plain = hidalgo.fit(found_graph, 2, num_coherent=0, progress=False)
    # One ratio tells d = 2 from d = 4 with the odds of the law itself: Bayes' rule is right in
    # P(log μ < t | 4) / 2 + P(log μ > t | 2) / 2 with t = log(2) / 2, which is 0.625.
    assert accuracy(plain, truth) < 0.7
    logs = found_graph.log_ratio
    oracle = torch.stack([1 / logs[truth == k].mean() for k in range(2)])
    # Against the estimates with the true labels: the block's own edges pull its d below 4.
    errors = segmented.standard_errors
    assert ((segmented.dimensions - oracle).abs() < errors).all()


@pytest.mark.parametrize("dims", [(3,), (1, 5), (1, 3, 8)])
def test_finds_how_many_parts_there_are(dims: tuple[int, ...]) -> None:
    found_graph, truth = far_apart(250, dims, seed=2)
    found = hidalgo.select(found_graph, most_parts=4, progress=False)
    assert found.num_parts == len(dims)
    assert found.best is found.fits[len(dims) - 1]
    assert found.scores.argmax() == len(dims) - 1
    # Over 12 seeds of three parts the least was 0.948: on a circle neighbors make small pieces.
    assert accuracy(found.best, truth) > 0.93


def test_one_manifold_is_not_split_though_a_cut_would_be_coherent() -> None:
    x = rand(600, 2)
    assert hidalgo.select(x, most_parts=2, progress=False).num_parts == 1
    one, two = (hidalgo.fit(x, k, progress=False).log_likelihood for k in (1, 2))
    assert two < one


def test_nothing_depends_on_the_unit_or_the_order_of_the_points() -> None:
    x, _ = joined(150, seed=5)
    order = torch.randperm(len(x))
    found, other = (hidalgo.fit(y, 2, progress=False) for y in (x, 1e6 * x[order]))
    torch.testing.assert_close(other.dimensions, found.dimensions, rtol=1e-6, atol=0)
    torch.testing.assert_close(other.probabilities, found.probabilities[order], rtol=0, atol=1e-6)


def test_repeats_are_dropped_and_change_nothing() -> None:
    x, _ = joined(100, seed=6)
    clean = hidalgo.fit(x, 2, progress=False)
    with pytest.warns(UserWarning, match="50 of 250 points repeat another and were dropped"):
        again = hidalgo.fit(torch.cat([x, x[:50]]), 2, progress=False)
    torch.testing.assert_close(again.probabilities, clean.probabilities)


@pytest.mark.parametrize(("num_coherent", "zeta"), [(3, 0.8), (0, 0.8), (8, 0.95), (3, 0.999)])
def test_parts_too_many_collapse_without_a_complaint(num_coherent: int, zeta: float) -> None:
    for x, num_parts in ((rand(150, 3), 8), (rand(12, 1), 5)):
        found = hidalgo.fit(x, num_parts, num_coherent=num_coherent, zeta=zeta, progress=False)
        assert found.dimensions.isfinite().all()
        assert (found.dimensions.diff() >= 0).all()
        assert found.standard_errors.isfinite().all()
        assert (found.weights > 0).all()
        torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(len(x)))


# How sure: against the truth, and one engine against the other.


@pytest.mark.slow
@pytest.mark.study
def test_the_intervals_cover_where_parts_lie_apart() -> None:
    repeats, prob, truth = 100, 0.95, torch.tensor([2.0, 5.0])
    covered = torch.zeros(2)
    for seed in range(repeats):
        found = hidalgo.fit(far_apart(400, (2, 5), seed)[0], 2, progress=False)
        low, high = found.intervals(prob).unbind(dim=1)
        covered += (low < truth) & (truth < high)
    # Four standard deviations of the count; independent ratios would give 0.90.
    assert (covered / repeats > prob - 4 * math.sqrt(prob * 0.05 / repeats)).all()
    assert covered.sum() / (2 * repeats) > 0.92


@pytest.mark.slow
def test_the_independent_error_counts_the_doubt_about_the_labels() -> None:
    dims = torch.tensor([1.0, 20.0]).repeat_interleave(100)
    ends = []
    for seed in range(24):
        torch.manual_seed(seed)
        ratios = torch.distributions.Pareto(torch.ones(200), dims).sample()
        found = hidalgo.fit(as_ratios(ratios), 2, num_coherent=0, progress=False)
        claimed = found.standard_errors / found.inflations.sqrt() / found.dimensions
        ends.append(torch.cat([found.dimensions.log(), claimed]))
    values = torch.stack(ends)
    # The spread over 24 draws is known to 1/√48 = 14 %: two and a half of that.
    torch.testing.assert_close(values[:, 2:].mean(0), values[:, :2].std(0), rtol=0.35, atol=0)
    # Labels known, it would be 1/√100.
    assert (values[:, 2:].mean(0) > 1.08 / math.sqrt(100)).all()


def test_where_there_is_no_strict_mode_the_labels_are_taken_as_known() -> None:
    # Two equal parts midway between d = 1 and d = 50: log p is at a saddle.
    logs = torch.distributions.Exponential(torch.tensor([1.0, 50.0]).repeat(100)).sample()
    middle, half = 1 / logs.mean().expand(2), torch.full((2,), 0.5)
    spread, _ = uncertainty.errors(
        as_ratios(logs.exp()), middle, half, torch.zeros(1, 1), prior=(1.0, 0.01)
    )
    torch.testing.assert_close(spread, torch.full((2,), 1 / math.sqrt(1 + 100)))


def test_em_ends_at_the_mode_of_the_model(
    sheet_and_block: tuple[NeighborGraph, Tensor], segmented: hidalgo.Hidalgo
) -> None:
    ratios = sheet_and_block[0].log_ratio.exp()

    def model(ratios: Tensor) -> None:
        hidalgo.model(ratios, 2, segmented.neighborhood, concentration=2.0)

    init = {"dimensions": torch.tensor([2.5, 3.0]), "weights": torch.tensor([0.5, 0.5])}
    mode = infer.em.fit(model, ratios, init=init, pointwise=False)
    for name, value in (("dimensions", segmented.dimensions), ("weights", segmented.weights)):
        torch.testing.assert_close(value, mode.draws[name].flatten(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("method", "settings", "known_to"),
    [
        ("svi", {"num_steps": 120}, 0.1),
        ("nuts", {"num_draws": 40, "warmup_steps": 20, "num_chains": 1}, 0.16),
        pytest.param(
            "nuts",
            {"num_draws": 150, "warmup_steps": 60, "num_chains": 1},
            0.08,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_draws_of_the_posterior_agree_with_em(
    method: str, settings: dict[str, int], known_to: float
) -> None:
    x, truth = joined(120, seed=3)
    point = hidalgo.fit(x, 2, progress=False)
    found = hidalgo.fit(x, 2, method=method, seed=0, progress=False, **settings)
    # A mean of 150 draws is known to 0.08 sd, of 40 to 0.16 sd, four of which are allowed;
    # skewness moves the mean from the mode of log d by 1/(2 √N_k) = 0.05 sd. A standard deviation
    # is known to 0.7 of that, three of which are.
    independent = point.standard_errors / point.inflations.sqrt()
    most = (4 * known_to + 0.05) * independent
    assert ((found.dimensions - point.dimensions).abs() < most).all()
    spread = found.standard_errors / point.standard_errors
    torch.testing.assert_close(spread, torch.ones(2), rtol=0, atol=max(0.25, 2.1 * known_to))
    torch.testing.assert_close(found.probabilities, point.probabilities, rtol=0, atol=0.1)
    assert accuracy(found, truth) == pytest.approx(accuracy(point, truth), abs=0.02)
    assert found.posterior.draws["dimensions"].shape[2:] == (2,)
    assert not found.posterior.is_point


def test_parts_that_switch_between_draws_are_put_in_order() -> None:
    found = hidalgo.fit(
        rand(60, 2), 3, num_coherent=0, method="svi", seed=0, num_steps=20, progress=False
    )
    assert (found.posterior.draws["dimensions"].diff(dim=-1) >= 0).all()


# The Pyro model.


def test_what_neighbors_say_and_the_own_ratio_make_the_probabilities(
    sheet_and_block: tuple[NeighborGraph, Tensor], segmented: hidalgo.Hidalgo
) -> None:
    neighborhood = segmented.neighborhood
    assert neighborhood is not None
    own = log_pareto(sheet_and_block[0].log_ratio, segmented.dimensions)
    joint = own + segmented.weights.log() + neighborhood.evidence(0.8)
    torch.testing.assert_close(joint.softmax(dim=1), segmented.probabilities)
    torch.testing.assert_close(
        neighborhood.evidence(torch.tensor([0.6, 0.8]))[1], neighborhood.evidence(0.8)
    )
    # A neighbor that is as good as elsewhere says nothing but the prior.
    torch.testing.assert_close(
        neighborhood.evidence(0.5).softmax(dim=1),
        (-segmented.weights.log()).softmax(dim=0).expand(1000, 2),
    )


def test_the_model_s_log_joint_is_prior_times_likelihood(segmented: hidalgo.Hidalgo) -> None:
    ratios, d, w = 1 + rand(1000), torch.tensor([1.5, 4.0]), torch.tensor([0.3, 0.7])
    part, neighborhood = torch.randint(0, 2, (1000,)), segmented.neighborhood
    assert neighborhood is not None
    values = {"dimensions": d, "weights": w, "part": part, "zeta": torch.tensor(0.7)}
    conditioned = pyro.poutine.condition(hidalgo.model, values)
    trace = pyro.poutine.trace(conditioned).get_trace(ratios, 2, neighborhood, zeta=None)
    prior = torch.distributions.Gamma(torch.tensor(1.0), torch.tensor(0.01)).log_prob(d).sum()
    prior = prior + torch.distributions.Dirichlet(torch.tensor([2.0, 2.0])).log_prob(w)
    terms = log_pareto(ratios.log(), d) + w.log() + neighborhood.evidence(0.7)
    expected = prior + math.log(2) + terms.gather(1, part.unsqueeze(1)).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_bare_pyro_samples_the_model() -> None:
    ratios = torch.distributions.Pareto(torch.ones(40), torch.tensor(3.0)).sample()
    sampler = MCMC(NUTS(hidalgo.model), num_samples=5, warmup_steps=5, disable_progbar=True)
    sampler.run(ratios, 2)
    assert sampler.get_samples()["dimensions"].shape == (5, 2)


def test_zeta_can_be_learned() -> None:
    x, _ = joined(80, seed=3)
    neighborhood = hidalgo.fit(x, 2, progress=False).neighborhood

    def model(ratios: Tensor) -> None:
        hidalgo.model(ratios, 2, neighborhood, zeta=None)

    ratios = graph(x, 2).log_ratio.exp()
    found = infer.svi.fit(
        model, ratios, num_steps=40, num_particles=2, pointwise=False, seed=0, progress=False
    )
    zeta = found.draws["zeta"].flatten()
    assert zeta.min() > 0.5
    assert zeta.max() < 1
    assert zeta.mean() > 0.6  # neighbors do share their part here


# The call.


def test_the_same_seed_gives_the_same_draws_and_leaves_the_global_one_alone() -> None:
    x, state = rand(60, 2), torch.get_rng_state()
    settings = {"method": "svi", "num_steps": 20, "num_draws": 50, "progress": False}
    one, two = (hidalgo.fit(x, 2, seed=7, **settings) for _ in range(2))
    assert torch.equal(one.dimensions, two.dimensions)
    hidalgo.fit(x, 2, progress=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_points_and_their_graph_give_the_same() -> None:
    x = rand(100, 2)
    one, two = (hidalgo.fit(y, 2, progress=False) for y in (x.numpy(), graph(x, 10)))
    assert torch.equal(one.dimensions, two.dimensions)


def test_the_answer_prints_first() -> None:
    found = hidalgo.fit(rand(100, 2), 2, progress=False)
    assert repr(found).startswith("Hidalgo(d = ")
    assert repr(found).endswith("of 100 points, by em)")
    assert repr(hidalgo.select(rand(60, 2), 2, progress=False)).startswith("Selection(1 parts")


def test_the_intervals_are_those_of_a_gamma_law() -> None:
    found = hidalgo.fit(rand(200, 2), 1, progress=False)
    (low, high), (least, most) = found.intervals(0.9)[0].tolist(), found.interval(0.9)
    assert (low, high) == pytest.approx((least, most))
    shape, sd = (found.dimension / found.standard_error) ** 2, found.standard_error
    law = torch.distributions.Gamma(torch.tensor(shape), torch.tensor(shape / found.dimension))
    assert law.stddev.item() == pytest.approx(sd)
    inside = law.cdf(torch.tensor([low, high]))
    torch.testing.assert_close(inside, torch.tensor([0.05, 0.95]), rtol=0, atol=1e-6)


def test_refuses_impossible_settings() -> None:
    x = rand(30, 2)
    for settings, message in (
        ({"num_parts": 0}, r"num_parts must be in \[1, 30\] for so many distinct points, got 0"),
        ({"num_parts": 31}, r"num_parts must be in \[1, 30\] for so many distinct points, got 31"),
        ({"method": "gibbs"}, "method must be one of em, nuts, svi, got 'gibbs'"),
        ({"zeta": 0.4}, r"zeta must be in \[0.5, 0.999\], got 0.4"),
        ({"zeta": 1.0}, r"zeta must be in \[0.5, 0.999\], got 1"),
        ({"num_coherent": -1}, "num_coherent must be at least 0, got -1"),
        ({"num_coherent": 30}, r"num_neighbors must be in \[1, 29\] for 30 points, got 30"),
        ({"rate": 0.0}, "rate must be positive, got 0"),
        ({"num_draws": 5}, r"settings must be none for em, got \['num_draws'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            hidalgo.fit(x, **{"progress": False, **settings})
    with (
        pytest.warns(UserWarning, match="as on a lattice"),
        pytest.raises(ValueError, match="x must have a ratio above 1, got 100 with r1 = r2"),
    ):
        hidalgo.fit(lattice(), progress=False)
    with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 95"):
        hidalgo.fit(x, progress=False).intervals(95)


def lattice() -> Tensor:
    steps = torch.arange(10.0)
    return torch.cartesian_prod(steps, steps)
