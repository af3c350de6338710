import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from sklearn.decomposition import PCA
from torch import Tensor

from pplvae.intrinsic_dimension import components
from pplvae.intrinsic_dimension.components import (
    broken_stick,
    evidence,
    kaiser,
    log_evidence,
    parallel_analysis,
    rules,
)
from pplvae.intrinsic_dimension.spectrum import pca

NAMES = ["threshold", "participation ratio", "kaiser", "broken stick", "parallel analysis",
         "evidence"]  # fmt: skip


def with_eigenvalues(*eigenvalues: float, num_points: int = 100) -> Tensor:
    """Points whose covariance matrix has exactly these eigenvalues."""
    x = torch.randn(num_points, len(eigenvalues))
    x = torch.linalg.qr(x - x.mean(dim=0)).Q * math.sqrt(num_points - 1)
    return x * torch.tensor(eigenvalues).sqrt() @ rotation(len(eigenvalues))


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size)).Q


def plane(num_points: int, num_columns: int, dim: int, noise: float) -> Tensor:
    """A plane of `dim` dimensions, about as wide as long, with noise around it."""
    directions = math.sqrt(num_columns) * rotation(num_columns)[:dim]
    return torch.randn(num_points, dim) @ directions + noise * torch.randn(num_points, num_columns)


def slow_evidence(eigenvalues: list[float], k: int, num: int) -> float:
    """Minka's equation, a term at a time."""
    d = len(eigenvalues)
    noise = sum(eigenvalues[k:]) / (d - k)
    fitted = eigenvalues[:k] + [noise] * (d - k)
    found = -k * math.log(2) - k / 2 * math.log(num)
    for i in range(1, k + 1):
        found += gammaln((d - i + 1) / 2) - (d - i + 1) / 2 * math.log(math.pi)
    found -= num / 2 * sum(math.log(value) for value in fitted)
    found += (d * k - k * (k + 1) / 2 + k) / 2 * math.log(2 * math.pi)
    for i in range(k):
        for j in range(i + 1, d):
            gap = eigenvalues[i] - eigenvalues[j]
            found -= math.log(num * (1 / fitted[j] - 1 / fitted[i]) * gap) / 2
    return found


def test_every_rule_finds_a_plane_with_little_noise() -> None:
    for shape in ((300, 20, 4), (40, 300, 4), (300, 300, 4)):
        assert rules(plane(*shape, noise=0.1), seed=0) == dict.fromkeys(NAMES, 4)


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_every_rule_finds_a_plane_without_noise(offset: float) -> None:
    assert rules(plane(300, 20, 4, noise=0.0) + offset, seed=0) == dict.fromkeys(NAMES, 4)
    assert rules(plane(100, 300, 4, noise=0.0) + offset, seed=0) == dict.fromkeys(NAMES, 4)


def test_one_column_and_two_points_are_one_component() -> None:
    for x in (torch.randn(100, 1), torch.randn(100, 1) + 1e9, torch.randn(2, 5)):
        assert rules(x, seed=0) == dict.fromkeys(NAMES, 1)


def test_normal_noise_has_no_component() -> None:
    found = rules(torch.randn(2000, 5), seed=0)
    assert [found[name] for name in ("broken stick", "parallel analysis", "evidence")] == [0, 0, 0]
    assert found["threshold"] == found["participation ratio"] == 5


@pytest.mark.parametrize("dim", [3, 0])
def test_neither_units_nor_origin_nor_constant_columns_matter(dim: int) -> None:
    x = plane(300, 8, dim, noise=0.3)
    clean = rules(x, seed=0)
    constant = torch.linspace(1e6, 1e8, 55).expand(len(x), 55)
    assert rules(torch.cat([x, constant], dim=1), seed=0) == clean
    assert rules(x + 1e9, seed=0) == clean
    assert rules(1e-16 * x, seed=0) == clean
    assert rules(x.float(), seed=0) == clean


def test_points_and_their_spectrum_have_the_same_components() -> None:
    x = plane(200, 10, 3, 0.5)
    assert rules(pca(x, 0.8), seed=0) == rules(x.numpy(), variance_fraction=0.8, seed=0)


def test_each_rule_takes_points() -> None:
    x = plane(200, 10, 3, 0.5)
    for rule in (kaiser, broken_stick, evidence):
        assert rule(x) == rule(x.numpy()) == rule(pca(x))
    assert parallel_analysis(x, seed=0) == parallel_analysis(pca(x), seed=0)
    torch.testing.assert_close(log_evidence(x), log_evidence(pca(x)))


def test_kaiser_counts_eigenvalues_above_their_average() -> None:
    assert kaiser(pca(with_eigenvalues(5.0, 3.0, 1.0, 0.5, 0.5))) == 2  # the average is 2
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert kaiser(pca(corners)) == 4
    wide = pca(plane(20, 400, 2, 0.0))
    assert kaiser(wide) == 2


def test_the_broken_stick_has_pieces_of_known_length() -> None:
    # Four pieces are on average 25, 13, 7 and 3 forty-eighths long.
    assert broken_stick(pca(with_eigenvalues(26, 14, 5, 3))) == 2
    assert broken_stick(pca(with_eigenvalues(26, 12, 7.5, 2.5))) == 1
    assert broken_stick(pca(with_eigenvalues(24, 14, 8, 2))) == 0


def test_the_evidence_is_minka_s_equation() -> None:
    # Far enough apart for every angle to be known to less than a turn.
    for num_points, eigenvalues in ((300, [9.0, 5.0, 3.0, 1.2, 0.5, 0.2]), (40, [50.0, 9.0, 1.0])):
        found = log_evidence(pca(with_eigenvalues(*eigenvalues, num_points=num_points)))
        expected = [slow_evidence(eigenvalues, k, num_points) for k in range(len(eigenvalues))]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-9, atol=1e-9)


def test_for_more_columns_than_points_the_evidence_is_that_of_the_table_turned() -> None:
    # Centering leaves N − 1 = 6 rows of 30 columns: 30 points in 6 dimensions.
    x = torch.randn(7, 30) * torch.linspace(5, 1, 30)
    found = pca(x)
    expected = [slow_evidence(found.eigenvalues.tolist(), k, 30) for k in range(6)]
    torch.testing.assert_close(log_evidence(found), torch.tensor(expected), rtol=1e-9, atol=1e-9)


def test_the_evidence_agrees_with_scikit_learn_where_that_is_right() -> None:
    for num_points, num_columns, dim in ((500, 8, 3), (200, 30, 5), (60, 20, 2), (1000, 50, 10)):
        x = plane(num_points, num_columns, dim, noise=1.0)
        theirs = PCA("mle", svd_solver="full").fit(x.numpy()).n_components_
        assert evidence(pca(x)) == theirs == dim


def test_the_evidence_finds_the_plane_whatever_the_shape_of_the_table() -> None:
    # Around the 5 components, of variance 50 to 500, noise has λ up to 1 + √(D/N) squared, 25.
    shapes = ((50, 500), (99, 100), (100, 100), (101, 100), (500, 50))
    for (num_points, num_columns), _ in itertools.product(shapes, range(3)):
        assert evidence(pca(plane(num_points, num_columns, 5, 1.0))) == 5
        assert evidence(pca(torch.randn(num_points, num_columns))) == 0


def test_equal_eigenvalues_leave_the_evidence_bounded() -> None:
    found = log_evidence(pca(with_eigenvalues(4.0, 4.0, 4.0, 1.0, 1.0, 1.0, num_points=1000)))
    assert found.isfinite().all()
    assert found.argmax() == 3
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert log_evidence(pca(corners)).isfinite().all()


@pytest.mark.parametrize("num_draws", [1, 4])
def test_noise_is_taken_for_a_component_as_rarely_as_said(num_draws: int) -> None:
    # Given the columns' variances, data and draws are exchangeable: the data's first eigenvalue is
    # the largest by a chance of 1 / (draws + 1). Four standard deviations of the count.
    scales, repeats, chance = torch.tensor([1.0, 0.9, 1.1, 1.0, 0.5]), 200, 1 / (num_draws + 1)
    wrong = 0
    for seed in range(repeats):
        spectrum = pca(torch.randn(60, 5) * scales)
        wrong += parallel_analysis(spectrum, num_draws=num_draws, seed=seed, progress=False) > 0
    tolerance = 4 * math.sqrt(chance * (1 - chance) / repeats)
    assert wrong / repeats == pytest.approx(chance, abs=tolerance)


@pytest.mark.parametrize("num_points", [4, 6, 30])
def test_noise_is_drawn_as_whole_tables_would_be(num_points: int) -> None:
    scales, repeats = torch.tensor([3.0, 2.0, 1.0, 0.5]), 1000
    drawn = torch.stack(
        [torch.linalg.svdvals(components._noise(num_points - 1, scales)) for _ in range(repeats)]
    )
    whole = torch.randn(repeats, num_points, 4)
    whole = whole - whole.mean(dim=1, keepdim=True)
    whole = scales * whole / whole.norm(dim=1, keepdim=True)
    whole = torch.linalg.svdvals(whole)[:, : drawn.shape[1]]
    error = (drawn.var(dim=0) + whole.var(dim=0)).div(repeats).sqrt()
    assert ((drawn.mean(dim=0) - whole.mean(dim=0)).abs() < 4 * error).all()
    torch.testing.assert_close(drawn.std(dim=0), whole.std(dim=0), rtol=0.15, atol=0)


def test_a_seed_repeats_and_the_caller_s_random_numbers_stay() -> None:
    spectrum = pca(torch.randn(30, 12))
    state = torch.get_rng_state()
    found = {parallel_analysis(spectrum, num_draws=1, seed=seed) for seed in (5, 5, 5)}
    assert len(found) == 1
    parallel_analysis(spectrum)
    assert torch.equal(torch.get_rng_state(), state)


def test_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        parallel_analysis(pca(torch.randn(30, 3)), num_draws=0)
    with pytest.raises(ValueError, match="x must vary, got 30 copies of one point"):
        rules(torch.ones(30, 3))
    with pytest.raises(ValueError, match="x must be finite, got 1 nan or inf"):
        rules(np.array([[0.0, 1.0], [np.nan, 2.0]]))
