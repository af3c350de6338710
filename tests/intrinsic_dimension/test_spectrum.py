import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from pplvae.intrinsic_dimension.spectrum import pca


def turned(x: Tensor) -> Tensor:
    """The points after a random rotation."""
    return x @ torch.linalg.qr(torch.randn(x.shape[1], x.shape[1])).Q


@pytest.fixture
def x() -> Tensor:
    return turned(torch.randn(200, 6) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])) + 7.0


@pytest.mark.parametrize("shape", [(200, 6), (20, 50), (30, 30), (2, 4), (50, 1)])
def test_agrees_with_scikit_learn(shape: tuple[int, int]) -> None:
    x = turned(torch.randn(shape) * torch.logspace(0, -1, shape[1])) + 3.0
    ours = pca(x)
    rank = min(shape[0] - 1, shape[1])
    theirs = PCA(rank, svd_solver="full").fit(x.numpy())
    np.testing.assert_allclose(ours.eigenvalues, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-12)
    # The sign of a direction is free.
    cosines = (ours.directions.numpy() * theirs.components_).sum(axis=1)
    np.testing.assert_allclose(abs(cosines), 1.0, rtol=1e-9)
    np.testing.assert_allclose(
        ours.project(x, rank).abs(), abs(theirs.transform(x.numpy())), atol=1e-9
    )


@pytest.mark.parametrize("fraction", [0.3, 0.8, 0.95, 0.999])
def test_the_dimension_is_scikit_learn_s_number_of_components(x: Tensor, fraction: float) -> None:
    theirs = PCA(fraction, svd_solver="full").fit(x.numpy())
    assert pca(x, fraction).dimension == theirs.n_components_


def test_the_dimension_is_the_least_that_holds_the_fraction(x: Tensor) -> None:
    for fraction in (0.3, 0.8, 0.95, 0.999):
        found = pca(x, fraction)
        held = found.explained.cumsum(0)
        assert held[found.dimension - 1] >= fraction
        assert found.dimension == 1 or held[found.dimension - 2] < fraction


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_plane_has_the_dimension_of_the_plane(dtype: torch.dtype) -> None:
    for _ in range(10):
        plane = turned(torch.cat([torch.randn(200, 4), torch.zeros(200, 16)], dim=1)).to(dtype)
        found = pca(plane, 1.0)
        assert found.dimension == 4
        assert (found.eigenvalues[4:] < 1e-11).all()


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
@pytest.mark.parametrize("num_points", [10, 500])
def test_rounding_far_from_the_origin_is_no_direction(offset: float, num_points: int) -> None:
    plane = turned(torch.cat([torch.randn(num_points, 4), torch.zeros(num_points, 16)], dim=1))
    found = pca(plane + offset, 1.0)
    assert found.dimension == found.rank == 4
    assert pca(plane + offset + 1e-12 * (1 + offset) * torch.randn(num_points, 20)).rank == min(
        num_points - 1, 20
    )


def test_columns_that_do_not_vary_change_nothing(x: Tensor) -> None:
    constant = torch.linspace(1e6, 1e8, 55).expand(len(x), 55)
    ours, padded = pca(x), pca(torch.cat([x, constant], dim=1))
    torch.testing.assert_close(padded.eigenvalues[:6], ours.eigenvalues, rtol=1e-12, atol=0)
    assert (padded.dimension, padded.rank) == (ours.dimension, ours.rank)
    assert (padded.variances[:6] > 0).all()
    assert (padded.variances[6:] == 0).all()


def test_the_variances_of_the_columns_are_in_the_spectrum(x: Tensor) -> None:
    for points in (x, x[:4], x[:, :1], x + 1e9):
        expected = (points - points[0]).var(dim=0)  # at 1e9 a mean is not exact
        torch.testing.assert_close(pca(points).variances, expected, rtol=1e-9, atol=0)


def test_one_column_is_one_component() -> None:
    for x in (torch.randn(50, 1), torch.randn(50, 1) + 1e9, torch.randn(50)):
        found = pca(x)
        assert found.dimension == found.rank == 1
        assert found.eigenvalues.item() == pytest.approx(x.var().item(), rel=1e-9)


def test_data_wider_than_long_have_no_more_components_than_points(x: Tensor) -> None:
    found = pca(x[:4])
    assert found.eigenvalues.shape == (3,)
    assert found.directions.shape == (3, 6)
    # Three components hold four points exactly.
    back = found.mean + found.project(x[:4], 3) @ found.directions
    torch.testing.assert_close(back, x[:4])


def test_directions_are_orthonormal_and_point_to_their_largest_entry(x: Tensor) -> None:
    directions = pca(x).directions
    torch.testing.assert_close(directions @ directions.mT, torch.eye(6))
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()


def test_components_are_uncorrelated_with_the_variances_claimed(x: Tensor) -> None:
    found = pca(x)
    torch.testing.assert_close(
        found.project(x, 6).mT.cov(), found.eigenvalues.diag(), atol=1e-12, rtol=1e-9
    )


def test_keeps_the_small_eigenvalue_that_a_covariance_matrix_loses() -> None:
    # Standard deviations 1 and 1e-9: squared they are 1e-18 apart, more than a double holds. An
    # SVD errs by about 1e-16 of the largest, 1e-7 of the smallest, a few times over.
    coordinates = torch.randn(300, 3)
    coordinates = torch.linalg.qr(coordinates - coordinates.mean(dim=0)).Q
    scales = torch.tensor([1.0, 1e-4, 1e-9])
    x = turned(coordinates * scales)
    eigenvalues = pca(x).eigenvalues * 299
    torch.testing.assert_close(eigenvalues, scales.square(), rtol=1e-5, atol=0)
    lost = torch.linalg.eigvalsh(x.mT @ x)[0]
    assert abs(lost / 1e-18 - 1) > 0.5


def test_a_large_offset_does_not_matter(x: Tensor) -> None:
    # A number near 1e8 is kept to 1.5e-8; the least standard deviation here is 0.1.
    ours, moved = pca(x), pca(x + 1e8)
    torch.testing.assert_close(moved.eigenvalues, ours.eigenvalues, rtol=1e-6, atol=0)
    torch.testing.assert_close(moved.project(x + 1e8, 6), ours.project(x, 6), rtol=0, atol=1e-6)
    rounded = (x * 2**16).round() / 2**16  # sums with 2^27 are exact
    torch.testing.assert_close(
        pca(rounded + 2.0**27).eigenvalues, pca(rounded).eigenvalues, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
def test_variances_go_with_the_square_of_the_scale(x: Tensor, scale: float) -> None:
    ours, scaled = pca(x), pca(scale * x)
    torch.testing.assert_close(scaled.eigenvalues, scale**2 * ours.eigenvalues, atol=0, rtol=1e-9)
    torch.testing.assert_close(scaled.explained, ours.explained)
    assert scaled.dimension == ours.dimension


def test_single_precision_stays_single_and_is_nearly_the_same(x: Tensor) -> None:
    single = pca(x.float())
    assert single.eigenvalues.dtype == single.directions.dtype == torch.float32
    torch.testing.assert_close(single.eigenvalues.double(), pca(x).eigenvalues, rtol=1e-4, atol=0)


def test_the_participation_ratio_counts_equal_directions() -> None:
    corners = torch.cat([torch.eye(3), -torch.eye(3)])
    assert pca(corners).participation_ratio == pytest.approx(3.0)
    line = torch.linspace(-1, 1, 9).unsqueeze(1) * torch.ones(1, 4)
    assert pca(line).participation_ratio == pytest.approx(1.0)


def test_takes_whole_numbers_and_arrays() -> None:
    x = np.arange(12).reshape(6, 2) ** 2
    np.testing.assert_allclose(pca(x).eigenvalues.sum(), x.var(axis=0, ddof=1).sum())


def test_refuses_what_has_no_spectrum(x: Tensor) -> None:
    with pytest.raises(ValueError, match="x must vary, got 5 copies of one point"):
        pca(torch.full((5, 3), 0.1))
    with pytest.raises(ValueError, match=r"x must have a variance in torch.float64, got a spread"):
        pca(1e-170 * x)
    with pytest.raises(ValueError, match="x must hold at least 2 points, got 1"):
        pca(x[:1])
    with pytest.raises(ValueError, match=r"variance_fraction must be in \(0, 1\], got 95"):
        pca(x, 95)
    with pytest.raises(ValueError, match="x must be finite, got 1 nan or inf"):
        pca(torch.tensor([[0.0, 1.0], [math.nan, 2.0]]))


def test_refuses_to_project_what_does_not_fit(x: Tensor) -> None:
    found = pca(x)
    with pytest.raises(ValueError, match=r"num_components must be in \[1, 6\], got 7"):
        found.project(x, 7)
    with pytest.raises(ValueError, match="x must have 6 columns, got 5"):
        found.project(x[:, :5], 2)
