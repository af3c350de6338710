import math
from itertools import pairwise

import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Reference
from torch import Tensor

from pplvae.infer.em import decomposition
from pplvae.mixtures import GaussianMixture, em


@pytest.fixture
def x() -> Tensor:
    return torch.cat([torch.randn(150, 2), torch.randn(100, 2) * 0.5 + 4.0])


def quiet(x: Tensor, num_components: int, **options: float) -> em.EMFit:
    return em.fit(x, num_components, **{"seed": 0, "progress": False, **options})


def by_place(mixture: GaussianMixture) -> GaussianMixture:
    """The same mixture, its components in the order of their first coordinate."""
    order = mixture.locs[:, 0].argsort()
    return GaussianMixture(mixture.weights[order], mixture.locs[order], mixture.scale_trils[order])


def assert_same(ours: GaussianMixture, theirs: GaussianMixture, atol: float) -> None:
    ours, theirs = by_place(ours), by_place(theirs)
    for name in ("weights", "locs", "covs"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0.0, atol=atol)


def test_no_step_loses_log_likelihood(x: Tensor) -> None:
    mixture, values = em.init(x, 4, jitter=0.0, seed=0), []
    for _ in range(60):
        responsibilities, value = em.e_step(mixture, x)
        mixture = em.m_step(x, responsibilities)
        values.append(value)
    # Rounding: 1e-16 of a thousand nats, a thousand times over.
    assert (torch.stack(values).diff() > -1e-10).all()
    assert values[-1] > values[0] + 10


def test_takes_no_step_that_loses_likelihood_to_the_jitter(x: Tensor) -> None:
    mixture, values = em.init(x, 3, jitter=0.1, seed=0), []
    for _ in range(60):
        responsibilities, value = em.e_step(mixture, x)
        mixture = em.m_step(x, responsibilities, jitter=0.1)
        values.append(value)
    assert torch.stack(values).diff().min() < -1e-3  # the steps themselves do lose
    fit = quiet(x, 3, jitter=0.1, num_starts=1)
    assert all(after >= before for before, after in pairwise(fit.log_likelihoods))
    assert fit.log_likelihood == pytest.approx(max(values).item())
    assert fit.converged


def test_takes_one_e_step_for_each_m_step(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, e_step = [], em.e_step
    monkeypatch.setattr(em, "e_step", lambda *args: calls.append(1) or e_step(*args))
    fit = quiet(x, 2, num_starts=1, max_steps=4, tolerance=0.0)
    assert len(calls) == len(fit.log_likelihoods) == 5


def test_the_fit_is_where_the_labels_of_the_e_step_leave_no_gap(x: Tensor) -> None:
    """KL(q(x, z) ‖ p) = KL(q(x) ‖ p) + E KL(q(z | x) ‖ p): at the maximum the last term is 0."""
    mixture = quiet(x, 2, jitter=0.0, tolerance=1e-13).mixture
    log_q = mixture.joint_log_prob(x).log_softmax(dim=1)
    moved = em.m_step(x, log_q.exp())
    for place in (mixture, moved):
        terms = decomposition(place.joint_log_prob(x), log_q)
        assert terms.marginal == pytest.approx(-place.log_prob(x).mean().item(), rel=1e-13)
        assert terms.joint == pytest.approx(terms.marginal + terms.conditional, rel=1e-13)
        assert terms.conditional < 1e-9
    early = em.init(x, 2, jitter=0.0, seed=0)
    assert decomposition(early.joint_log_prob(x), log_q).conditional > 0.1


def test_one_step_agrees_with_scikit_learn(x: Tensor) -> None:
    start = em.init(x, 3, seed=0)
    reference = Reference(
        3,
        max_iter=1,
        reg_covar=0.0,
        weights_init=start.weights.numpy(),
        means_init=start.locs.numpy(),
        precisions_init=torch.cholesky_inverse(start.scale_trils).numpy(),
    )
    with pytest.warns(match="did not converge"):
        reference.fit(x.numpy())
    responsibilities, value = em.e_step(start, x)
    ours = em.m_step(x, responsibilities)
    # scikit-learn adds 10 machine epsilons to each count.
    for tensor, array in (
        (ours.weights, reference.weights_),
        (ours.locs, reference.means_),
        (ours.covs, reference.covariances_),
        (value / len(x), reference.lower_bound_),
    ):
        torch.testing.assert_close(tensor, torch.as_tensor(array), rtol=0.0, atol=1e-8)


def test_one_component_is_the_mean_and_covariance(x: Tensor) -> None:
    mixture = quiet(x, 1, jitter=0.0).mixture
    torch.testing.assert_close(mixture.locs[0], x.mean(dim=0))
    torch.testing.assert_close(mixture.covs[0], x.T.cov(correction=0))


def test_stops_at_a_fixed_point(x: Tensor) -> None:
    fit = quiet(x, 2, tolerance=1e-13)
    assert fit.converged
    again = em.m_step(x, em.e_step(fit.mixture, x)[0], jitter=1e-6)
    assert_same(again, fit.mixture, atol=1e-5)


def test_the_trace_ends_at_the_mixture_s_log_likelihood(x: Tensor) -> None:
    for options in ({}, {"max_steps": 3, "tolerance": 0.0}, {"jitter": 0.3}):
        fit = quiet(x, 2, **options)
        expected = fit.mixture.log_prob(x).sum().item()
        assert fit.log_likelihood == fit.log_likelihoods[-1] == pytest.approx(expected, rel=1e-12)


def test_says_when_it_ran_out_of_steps(x: Tensor) -> None:
    fit = quiet(x, 2, max_steps=2, tolerance=0.0)
    assert not fit.converged
    assert len(fit.log_likelihoods) == 3
    assert repr(fit).endswith("nats, not converged after 2 steps)")


# The best of 20 starts of scikit-learn 1.9.1 with reg_covar 1e-6 and tol 1e-8.
@pytest.mark.parametrize(
    ("num_components", "expected", "seeds"),
    [(1, -379.9146, 1), (2, -214.3547, 5), (3, -180.1855, 5)],
)
def test_finds_the_best_of_iris(num_components: int, expected: float, seeds: int) -> None:
    x = torch.as_tensor(load_iris().data)
    for seed in range(seeds):
        fit = quiet(x, num_components, seed=seed)
        assert fit.log_likelihood == pytest.approx(expected, abs=0.01)
        assert fit.converged
        assert fit.num_degenerate == 0


def test_recovers_a_known_mixture() -> None:
    truth = GaussianMixture(
        torch.tensor([0.3, 0.7]),
        torch.tensor([[-4.0, 0.0], [3.0, 1.0]]),
        torch.tensor([[[1.0, 0.0], [0.5, 1.0]], [[0.5, 0.0], [-0.5, 2.0]]]),
    )
    found = by_place(quiet(truth.sample(4000, seed=0).x, 2).mixture)
    # Standard errors with n_k >= 1200: weights 0.007, locs 2.1 / 37 at most, covs 4.25 2^½ / 37.
    torch.testing.assert_close(found.weights, truth.weights, rtol=0.0, atol=0.035)
    torch.testing.assert_close(found.locs, truth.locs, rtol=0.0, atol=0.25)
    torch.testing.assert_close(found.covs, truth.covs, rtol=0.0, atol=0.6)


def test_more_starts_are_never_worse() -> None:
    x = torch.as_tensor(load_iris().data)
    values = [quiet(x, 5, num_starts=starts, max_steps=30).log_likelihood for starts in (1, 2, 4)]
    assert values == sorted(values)


def test_a_step_does_not_depend_on_the_order_of_points_or_components(x: Tensor) -> None:
    start, order, points = em.init(x, 3, seed=0), torch.tensor([2, 0, 1]), torch.randperm(len(x))
    turned = GaussianMixture(start.weights[order], start.locs[order], start.scale_trils[order])
    ours, theirs = (
        em.m_step(data, em.e_step(mixture, data)[0])
        for mixture, data in ((start, x), (turned, x[points]))
    )
    torch.testing.assert_close(theirs.locs, ours.locs[order])
    torch.testing.assert_close(theirs.covs, ours.covs[order])


def test_a_step_follows_an_affine_map(x: Tensor) -> None:
    """With y = A x + b the log-likelihood shifts by −N log |det A|, and all else moves along."""
    matrix, shift = torch.tensor([[2.0, 0.0], [-1.0, 0.5]]), torch.tensor([7.0, -3.0])
    start = em.init(x, 3, seed=0)
    moved = GaussianMixture(
        start.weights, start.locs @ matrix.T + shift, matrix @ start.scale_trils
    )
    y = x @ matrix.T + shift
    (r, value), (r_moved, value_moved) = em.e_step(start, x), em.e_step(moved, y)
    expected = value - len(x) * matrix.logdet()
    torch.testing.assert_close(value_moved, expected)
    ours, theirs = em.m_step(x, r), em.m_step(y, r_moved)
    torch.testing.assert_close(theirs.locs, ours.locs @ matrix.T + shift)
    torch.testing.assert_close(theirs.covs, matrix @ ours.covs @ matrix.T)


def test_the_fit_does_not_depend_on_units(x: Tensor) -> None:
    units = torch.tensor([1e-6, 1e9])
    here, there = quiet(x, 2), quiet(x * units, 2)
    torch.testing.assert_close(there.mixture.locs, here.mixture.locs * units)
    shift = len(x) * units.log().sum().item()
    assert there.log_likelihood == pytest.approx(here.log_likelihood - shift)


def test_a_far_origin_loses_nothing(x: Tensor) -> None:
    far = x + 1e8
    near = far - 1e8  # what is left of x: steps of 1.5e-8
    here, there = quiet(near, 2), quiet(far, 2)
    assert there.log_likelihood == pytest.approx(here.log_likelihood, abs=1e-6)
    torch.testing.assert_close(there.mixture.locs - 1e8, here.mixture.locs, rtol=0.0, atol=3e-8)
    torch.testing.assert_close(there.mixture.covs, here.mixture.covs, rtol=0.0, atol=1e-8)


def test_a_seed_gives_the_same_fit_and_leaves_the_global_generator(x: Tensor) -> None:
    state = torch.get_rng_state()
    first, again = (quiet(x, 4, seed=5, max_steps=20) for _ in range(2))
    assert first.log_likelihoods == again.log_likelihoods
    assert (first.mixture.locs == again.mixture.locs).all()
    assert not torch.equal(em.init(x, 4, seed=1).locs, em.init(x, 4, seed=2).locs)
    assert (torch.get_rng_state() == state).all()


def test_follows_the_dtype_of_the_data_at_double_precision(x: Tensor) -> None:
    single = x.float()
    fit, exact = quiet(single, 2), quiet(single.double(), 2)
    assert fit.mixture.locs.dtype == fit.mixture.scale_trils.dtype == torch.float32
    assert fit.log_likelihood == exact.log_likelihood
    torch.testing.assert_close(fit.mixture.locs, exact.mixture.locs.float())


def test_makes_no_tensor_of_points_times_components_times_dimensions() -> None:
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: object, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, Tensor) else 0)
            return out

    x = torch.randn(400, 6)
    with Watch():
        quiet(x, 5, max_steps=3, num_starts=1)
    assert largest == 400 * 6


# Data on which a covariance is singular, or wants to be.


def test_takes_constant_and_repeated_columns_and_more_columns_than_points(x: Tensor) -> None:
    constant = torch.full((len(x), 1), 0.1)
    for data in (torch.cat([x, constant], 1), torch.cat([x, x[:, :1]], 1), torch.randn(12, 30)):
        fit = quiet(data, 2)
        assert math.isfinite(fit.log_likelihood)
        assert fit.num_reseeded == 0


def test_takes_repeated_points() -> None:
    fit = quiet(torch.randn(3, 2).repeat(10, 1), 5)
    assert math.isfinite(fit.log_likelihood)
    assert fit.num_degenerate == 5


def test_starved_components_begin_anew_a_few_times_only() -> None:
    """Eight components on five places: some are left without points whatever is done."""
    fit = quiet(torch.randn(5, 2).repeat(20, 1), 8, max_steps=300)
    assert fit.converged
    assert 8 <= fit.num_reseeded < 5 * 8 + 8


def test_the_jitter_is_a_fraction_of_each_column_s_variance(x: Tensor) -> None:
    x = torch.cat([x * torch.tensor([1.0, 100.0]), torch.full((len(x), 1), 3.0)], dim=1)
    variances = x.var(dim=0, correction=0)
    variances[2] = variances[:2].mean()
    ones = torch.ones(len(x), 1)
    cov = em.m_step(x, ones, jitter=0.01).covs[0]
    torch.testing.assert_close(cov, x.T.cov(correction=0) + 0.01 * variances.diag())


def test_a_collapsed_component_begins_anew() -> None:
    """Without jitter a component on sixty equal points is singular: another place is found."""
    x = torch.cat([torch.zeros(60, 2), torch.randn(100, 2)])
    fit = quiet(x, 2, jitter=0.0)
    assert fit.num_reseeded > 0
    assert fit.num_degenerate == 0
    assert fit.converged
    assert all(after >= before for before, after in pairwise(fit.log_likelihoods))
    assert fit.log_likelihood == pytest.approx(fit.mixture.log_prob(x).sum().item(), rel=1e-12)


def test_gives_up_on_components_for_which_there_is_no_room() -> None:
    """Five components on six points cannot all have volume: it says so and ends soon."""
    fit = quiet(torch.randn(6, 2), 5, jitter=0.0)
    assert not fit.converged
    assert fit.num_degenerate > 0
    assert fit.num_reseeded >= 25


def test_ranks_a_spike_below_a_mixture_without() -> None:
    """Iris sizes are rounded to a millimeter: a spike on a few equal ones is likelier."""
    fit = quiet(torch.as_tensor(load_iris().data), 4, seed=3)
    assert fit.num_degenerate == 0
    assert fit.log_likelihood < max(fit.start_log_likelihoods) - 5


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.rand(4, 2), {"num_components": 5}, "x must hold at least 6 points, got 4"),
        (torch.ones(9, 2), {}, "x must vary, got 9 times the same point"),
        (torch.full((9, 2), torch.nan), {}, "x must be finite, got 18 nan or inf"),
        (torch.arange(9.0), {"num_components": 0}, "num_components must be at least 1, got 0"),
        (
            torch.arange(9.0),
            {"covariance": "round"},
            "covariance must be one of full, got 'round'",
        ),
        (torch.arange(9.0), {"jitter": -1.0}, "jitter must be at least 0, got -1.0"),
        (torch.arange(9.0), {"tolerance": -1.0}, "tolerance must be at least 0, got -1.0"),
        (torch.arange(9.0), {"max_steps": 0}, "max_steps must be at least 1, got 0"),
        (torch.arange(9.0), {"num_starts": 0}, "num_starts must be at least 1, got 0"),
        (
            torch.eye(9),
            {"jitter": 0.0},
            "jitter must be larger for points without volume, got 0.0",
        ),
    ],
)
def test_refuses(x: Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quiet(x, **{"num_components": 2, **options})


def test_an_m_step_refuses_labels_that_do_not_fit(x: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"responsibilities must have shape \(250, K\), got \(3, 2"
    ):
        em.m_step(x, torch.ones(3, 2))
    one_point = torch.zeros(len(x), 2)
    one_point[:, 0], one_point[0] = 1.0, torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match=r"jitter must be larger: components \[1\] are singular"):
        em.m_step(x, one_point)
