import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Reference
from torch import Tensor

from pplvae.infer.em import decomposition
from pplvae.mixtures import GaussianMixture, em
from pplvae.mixtures.prior import NormalInverseWishart


@pytest.fixture
def x() -> Tensor:
    return torch.cat([torch.randn(150, 2), torch.randn(100, 2) * 0.5 + 4.0])


def quiet(x: Any, num_components: int, **options: Any) -> em.EMFit:
    return em.fit(x, num_components, **{"seed": 0, "num_starts": 2, "progress": False, **options})


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
    start = em.init(x, 3, jitter=0.1, seed=0)
    mixture, values = start, []
    for _ in range(60):
        responsibilities, value = em.e_step(mixture, x)
        mixture = em.m_step(x, responsibilities, jitter=0.1)
        values.append(value)
    assert torch.stack(values).diff().min() < -1e-3  # the steps themselves do lose
    for accelerate in (False, True):
        fit = quiet(x, 3, jitter=0.1, start=start, accelerate=accelerate)
        assert all(after >= before for before, after in pairwise(fit.log_likelihoods))
        assert fit.log_likelihood >= max(values).item() - 1e-8


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_a_plain_climb_takes_the_steps_of_the_formulas(x: Tensor, covariance: str) -> None:
    start = em.m_step(x, torch.rand(len(x), 3).softmax(dim=1), covariance=covariance)
    fit = quiet(
        x, 3, covariance=covariance, start=start, max_steps=7, tolerance=0.0, jitter=0.0,
        accelerate=False, keep_path=True,
    )  # fmt: skip
    assert fit.num_steps == 7
    assert len(fit.path) == len(fit.log_likelihoods) == 8
    mixture = start
    for place, value in zip(fit.path, fit.log_likelihoods, strict=True):
        assert_same(place, mixture, atol=1e-10)
        assert value == pytest.approx(mixture.log_prob(x).sum().item(), abs=1e-9)
        mixture = em.m_step(x, em.e_step(mixture, x)[0], covariance=covariance)


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


@pytest.mark.parametrize("covariance", em.COVARIANCES)
@pytest.mark.parametrize("num_steps", [1, 50])
def test_agrees_with_scikit_learn(covariance: str, num_steps: int) -> None:
    x = torch.cat([torch.randn(300, 3), torch.randn(200, 3) * 0.5 + 2, torch.randn(80, 3) * 2])
    start = em.m_step(x, torch.rand(len(x), 4).softmax(dim=1), covariance=covariance)
    precisions = torch.cholesky_inverse(start.scale_trils)
    reference = Reference(
        4,
        covariance_type=covariance,
        max_iter=num_steps,
        tol=0.0,
        reg_covar=0.0,
        weights_init=start.weights.numpy(),
        means_init=start.locs.numpy(),
        precisions_init=reduced(precisions, covariance).numpy(),
    )
    with pytest.warns(match="did not converge"):
        reference.fit(x.numpy())
    fit = quiet(
        x, 4, covariance=covariance, start=start, max_steps=num_steps, tolerance=0.0, jitter=0.0,
        accelerate=False,
    )  # fmt: skip
    # scikit-learn adds 10 machine epsilons to each count; 50 steps of contraction do not add up.
    for tensor, array in (
        (fit.mixture.weights, reference.weights_),
        (fit.mixture.locs, reference.means_),
        (reduced(fit.mixture.covs, covariance), reference.covariances_),
        (torch.tensor(fit.log_likelihood / len(x)), reference.score(x.numpy())),
    ):
        torch.testing.assert_close(tensor, torch.as_tensor(array), rtol=0.0, atol=1e-11)


def reduced(matrices: Tensor, covariance: str) -> Tensor:
    """Covariances or precisions in the shape that scikit-learn has for them."""
    return {
        "full": matrices,
        "tied": matrices[0],
        "diag": matrices.diagonal(dim1=-2, dim2=-1),
        "spherical": matrices[:, 0, 0],
    }[covariance]


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
    fit = quiet(x, 2, max_steps=2, tolerance=0.0, jitter=0.0, accelerate=False)
    assert not fit.converged
    assert len(fit.log_likelihoods) == 3
    assert repr(fit).endswith("nats, not converged after 2 steps)")
    assert quiet(x, 2, max_steps=3, tolerance=0.0).num_steps in (3, 4)  # a guess may cost one more


# The best of 20 starts of scikit-learn 1.9.1 with reg_covar 1e-6 and tol 1e-8.
@pytest.mark.parametrize(
    ("num_components", "expected", "seeds"),
    [
        (1, -379.9146, 1),
        (2, -214.3547, 3),
        (3, -180.1855, 3),
        pytest.param(2, -214.3547, 20, marks=pytest.mark.slow),
        pytest.param(3, -180.1855, 20, marks=pytest.mark.slow),
    ],
)
def test_finds_the_best_of_iris(num_components: int, expected: float, seeds: int) -> None:
    x = torch.as_tensor(load_iris().data)
    for seed in range(seeds):
        fit = em.fit(x, num_components, seed=seed, progress=False)
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
    fits = [quiet(x, 5, num_starts=starts, max_steps=30) for starts in (1, 2, 4)]
    values = [(-fit.num_degenerate, fit.log_likelihood) for fit in fits]
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
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().nbytes() // out.element_size())
            return out

    x = torch.randn(30_000, 20)
    with Watch():
        quiet(x, 8, max_steps=3, num_starts=1, accelerate=False)
    assert largest == 30_000 * 20


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
    fit = quiet(torch.randn(5, 2).repeat(20, 1), 8, max_steps=300, num_starts=1)
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
    with pytest.warns(UserWarning, match="of 5 components were given up: the data have no room"):
        fit = quiet(torch.randn(6, 2), 5, jitter=0.0)
    assert fit.num_reseeded >= 25
    assert fit.num_pruned > 0
    assert fit.mixture.num_components == 5 - fit.num_pruned
    assert fit.mixture.weights.sum().item() == pytest.approx(1.0)


def test_ranks_a_spike_below_a_mixture_without() -> None:
    """Iris sizes are rounded to a millimeter: a spike on a few equal ones is likelier."""
    fit = quiet(torch.as_tensor(load_iris().data), 4, num_starts=8)
    assert fit.num_degenerate == 0
    assert fit.log_likelihood < max(fit.start_log_likelihoods) - 5


# Longer strides, a prior, and data that are not a plain table.


@cache
def overlapping() -> tuple[Tensor, GaussianMixture, em.EMFit]:
    """Three components 2 sd apart, a start, and where plain steps lead by default."""
    corners = 2 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.866]])
    truth = GaussianMixture(torch.ones(3) / 3, corners, torch.eye(2).expand(3, 2, 2))
    x = truth.sample(500, seed=3).x
    start = em.init(x, 3, seed=0)
    plain = quiet(x, 3, start=start, jitter=0.0, accelerate=False, max_steps=5000)
    return x, start, plain


def test_longer_strides_take_a_third_of_the_steps_where_components_overlap() -> None:
    """The height to reach is 1e-6 nats a point below the top."""
    x, start, plain = overlapping()
    fast = quiet(x, 3, start=start, jitter=0.0, tolerance=1e-9)
    needed = [
        next(i for i, v in enumerate(fit.log_likelihoods) if v > fast.log_likelihood - 1e-6 * 500)
        for fit in (plain, fast)
    ]
    assert 3 * needed[1] < needed[0]
    assert fast.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-3)


def test_stops_within_the_tolerance_of_the_maximum() -> None:
    """At 2 sd a gain of 1e-7 a step would stop 100 times too early: EM creeps."""
    x, start, plain = overlapping()
    end = quiet(x, 3, start=start, jitter=0.0, tolerance=1e-11).log_likelihood
    for fit in (plain, quiet(x, 3, start=start, jitter=0.0)):
        assert fit.converged
        # Aitken's rule is an estimate: twice the tolerance, at 500 points.
        assert end - fit.log_likelihood < 2e-7 * 500


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_a_weight_is_so_many_copies(x: Tensor, covariance: str) -> None:
    weights = torch.arange(len(x)) % 3
    copies = x.repeat_interleave(weights, dim=0)
    start = em.m_step(copies, torch.rand(len(copies), 3).softmax(dim=1), covariance=covariance)
    options = {"covariance": covariance, "start": start, "tolerance": 1e-11}
    here, there = quiet(x, 3, weights=weights, **options), quiet(copies, 3, **options)
    assert here.log_likelihood == pytest.approx(there.log_likelihood, abs=1e-7)
    assert_same(here.mixture, there.mixture, atol=1e-4)  # as flat as the top is
    assert here.log_likelihood == pytest.approx(
        (weights * here.mixture.log_prob(x)).sum().item(), rel=1e-12
    )


def test_known_labels_number_the_components_and_are_kept(x: Tensor) -> None:
    """x has 150 points at 0 and 100 at 4; twenty of each are known, with the numbers turned."""
    labels = torch.full((250,), -1)
    labels[:20], labels[150:170] = 1, 0
    fit = quiet(x, 2, labels=labels)
    assert fit.mixture.locs[0].mean() > 3.5
    assert abs(fit.mixture.locs[1].mean()) < 0.5
    joint = fit.mixture.joint_log_prob(x)
    known = labels >= 0
    expected = joint[known, labels[known]].sum() + joint[~known].logsumexp(dim=1).sum()
    assert fit.log_likelihood == pytest.approx(expected.item(), rel=1e-12)
    # A label that contradicts the place wins: with all of them swapped one component is both.
    labels[:20] = 0
    assert quiet(x, 2, labels=labels).log_likelihood < fit.log_likelihood - 20


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_missing_coordinates_are_integrated_out(x: Tensor, covariance: str) -> None:
    x = x[100:200]
    x = torch.cat([x, x.sum(dim=1, keepdim=True) + 0.5 * torch.randn(len(x), 1)], dim=1)
    x[torch.rand(len(x), 3) < 0.25] = torch.nan

    def log_likelihood(mixture: GaussianMixture) -> float:
        total = 0.0
        for row in x:
            dims = (~row.isnan()).nonzero().flatten().tolist()
            total += mixture.marginal(dims).log_prob(row[dims][None]).item() if dims else 0.0
        return total

    fit = quiet(
        x, 2, covariance=covariance, missing="marginalise", jitter=0.0, tolerance=1e-9,
        num_starts=1,
    )  # fmt: skip
    assert all(after >= before for before, after in pairwise(fit.objectives))
    assert fit.log_likelihood == pytest.approx(log_likelihood(fit.mixture), rel=1e-12)
    # A maximum: what is small moves it by a second order only, downwards.
    for _ in range(3):
        shifted = fit.mixture.locs + 0.01 * torch.randn(2, 3)
        moved = GaussianMixture(fit.mixture.weights, shifted, fit.mixture.scale_trils)
        assert -2.0 < log_likelihood(moved) - fit.log_likelihood < 0


def test_nothing_missing_is_the_plain_fit(x: Tensor) -> None:
    assert quiet(x, 2, missing="marginalise").log_likelihood == quiet(x, 2).log_likelihood


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_blocks_give_the_fit_of_the_whole(x: Tensor, covariance: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x.numpy())
    whole = quiet(x, 2, covariance=covariance)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=64)
    for blocks in (
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        list(x.split(33)),
        lambda: iter(x.split(100)),
        loader,
    ):
        fit = quiet(blocks, 2, covariance=covariance)
        assert fit.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-5)
        assert_same(fit.mixture, whole.mixture, atol=1e-3)


def test_blocks_far_from_the_origin_lose_nothing(x: Tensor) -> None:
    far = x + 1e8
    here, there = quiet(far, 2), quiet(list(far.split(50)), 2)
    # Steps of 1.5e-8 in the points; the mean of blocks rounds once more.
    assert there.log_likelihood == pytest.approx(here.log_likelihood, abs=1e-4)


def test_components_far_apart_keep_their_digits(x: Tensor) -> None:
    """1e7 sd apart the sums of squares about one origin would keep two digits."""
    x = torch.cat([torch.randn(300, 2), torch.randn(300, 2) + 1e7])
    covs = by_place(quiet(x, 2, jitter=0.0).mixture).covs
    for cov, part in zip(covs, (x[:300], x[300:]), strict=True):
        torch.testing.assert_close(cov, part.T.cov(correction=0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_a_prior_keeps_components_open_and_no_step_loses(covariance: str) -> None:
    x = torch.as_tensor(load_iris().data)
    prior = NormalInverseWishart.default(x, 6)
    fit = quiet(x, 6, covariance=covariance, prior=prior, jitter=0.0, tolerance=1e-10)
    assert fit.converged
    assert all(after >= before for before, after in pairwise(fit.objectives))
    assert fit.num_degenerate == fit.num_reseeded == 0
    assert torch.linalg.eigvalsh(fit.mixture.covs).min() > 1e-4


def test_with_a_prior_it_ends_at_the_posterior_mode(x: Tensor) -> None:
    prior = NormalInverseWishart(torch.zeros(2), 3 * torch.eye(2), 5.0, 7.0, concentration=4.0)
    mixture = quiet(x, 2, prior=prior, jitter=0.0, tolerance=1e-12).mixture

    def log_joint(mixture: GaussianMixture) -> float:
        return mixture.log_prob(x).sum().item() + prior.log_prob(mixture)

    top = log_joint(mixture)
    for _ in range(20):
        weights = (mixture.weights.log() + 0.01 * torch.randn(2)).softmax(dim=0)
        locs = mixture.locs + 0.01 * torch.randn(2, 2)
        trils = mixture.scale_trils + 0.01 * torch.randn(2, 2, 2).tril()
        assert log_joint(GaussianMixture(weights, locs, trils)) < top


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
            "covariance must be one of diag, full, spherical, tied, got 'round'",
        ),
        (torch.arange(9.0), {"jitter": -1.0}, "jitter must be in \\[0, 1e\\+100\\], got -1.0"),
        (torch.arange(9.0), {"tolerance": -1.0}, "tolerance must be at least 0, got -1.0"),
        (torch.arange(9.0), {"max_steps": 0}, "max_steps must be at least 1, got 0"),
        (torch.arange(9.0), {"num_starts": 0}, "num_starts must be at least 1, got 0"),
        (torch.arange(9.0), {"missing": "drop"}, "missing must be one of marginalise"),
        (torch.tensor([0.0, torch.inf, 1, 2]), {"missing": "marginalise"}, "x must be finite"),
        (
            torch.tensor([[0.0, torch.nan]] * 4),
            {"missing": "marginalise"},
            r"x must have a value in each column, got none in \[1\]",
        ),
        (torch.arange(9.0), {"weights": torch.ones(3)}, r"weights must have shape \(9,\), got"),
        (torch.arange(9.0), {"weights": -torch.ones(9)}, "weights must be at least 0, and some"),
        (torch.arange(9.0), {"labels": torch.ones(3)}, r"labels must have shape \(9,\), got"),
        (
            torch.arange(9.0),
            {"labels": torch.arange(9)},
            r"labels must be whole numbers in \[-1, 1",
        ),
        (iter([torch.rand(9, 2)]), {}, "x must be an array, or blocks that can be read again"),
        ([torch.rand(9, 2), torch.rand(9, 3)], {}, "blocks must have 2 columns, got 3"),
        (
            [torch.rand(9, 2)],
            {"weights": torch.ones(9)},
            "weights and labels must come with an array, got blocks",
        ),
        (
            torch.rand(9, 2),
            {"start": GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])},
            "start must be a GaussianMixture of 2 components in 2 dimensions, got",
        ),
        (
            torch.rand(9, 2),
            {"prior": NormalInverseWishart(torch.zeros(3), torch.eye(3))},
            "prior must have 2 dimensions, got 3",
        ),
        (
            torch.rand(9, 2),
            {"prior": NormalInverseWishart(torch.zeros(2), torch.eye(2), concentration=0.5)},
            "prior.concentration must be at least 1 for a mode, got 0.5",
        ),
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


def test_many_points_are_climbed_from_where_a_sample_of_them_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The best optimum of 4000 points from climbs on 1000: one climb, or two that are alike."""
    means = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    x = means.repeat(1000, 1) + torch.randn(4000, 2)
    best = em.fit(x, 4, seed=0, progress=False)
    monkeypatch.setattr("pplvae.mixtures.reading.MOST_SAMPLED", 1000)
    for points in (x, [x[:1500], x[1500:]]):
        found = em.fit(points, 4, seed=0, progress=False)
        assert found.log_likelihood == pytest.approx(best.log_likelihood, abs=0.01)
        assert len(found.start_log_likelihoods) == 1
    # Three components for four alike: which two share one is a matter of chance.
    found = em.fit(x, 3, seed=0, progress=False)
    assert len(found.start_log_likelihoods) == 2
