import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, kstest
from sklearn.neighbors import KernelDensity
from torch import Tensor

from pplvae.density import bandwidth, kernel, kernels

NAMES = sorted(kernels.PROFILES)


def slow(x: Tensor, data: Tensor, width: Tensor) -> Tensor:
    """Return log 1/N Σ_n ∏_d Normal(x_d | data_nd, h_d), all at once."""
    normals = torch.distributions.Normal(data, width.expand(data.shape[1]))
    return normals.log_prob(x.unsqueeze(1)).sum(-1).logsumexp(1) - math.log(len(data))


@pytest.mark.parametrize("bandwidth", ["silverman", "scott", 0.3])
def test_integrates_to_one(bandwidth: str | float) -> None:
    # The trapezoid rule is exact to rounding for a smooth density that ends within the grid.
    grid = torch.linspace(-12, 12, 4001)
    density = kernel.log_density(grid, torch.randn(50), bandwidth).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-12)


def test_integrates_to_one_in_two_dimensions() -> None:
    axis = torch.linspace(-9, 9, 181)
    grid = torch.cartesian_prod(axis, axis)
    density = kernel.log_density(grid, torch.randn(20, 2), torch.tensor([0.4, 0.7])).exp()
    assert (density.sum() * 0.1**2).item() == pytest.approx(1.0, abs=1e-10)


def test_agrees_with_scipy_in_one_dimension() -> None:
    data, x = torch.randn(40), torch.linspace(-3, 3, 9)
    theirs = torch.as_tensor(gaussian_kde(data.numpy()).logpdf(x.numpy()))
    torch.testing.assert_close(kernel.log_density(x, data, "scott"), theirs, rtol=0, atol=1e-13)


def test_agrees_with_scikit_learn_in_ten_dimensions() -> None:
    data, x = torch.randn(300, 10), 2 * torch.randn(20, 10)
    # In one leaf: between leaves its bounds cancel, and cost 0.006 nats here even at rtol=0.
    reference = KernelDensity(bandwidth=0.7, rtol=0.0, leaf_size=300).fit(data.numpy())
    theirs = torch.as_tensor(reference.score_samples(x.numpy()))
    torch.testing.assert_close(kernel.log_density(x, data, 0.7), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [0.5, 1e-3, 1e-8])
@pytest.mark.parametrize("dim", [1, 3])
def test_agrees_with_a_plain_sum(width: float, dim: int) -> None:
    data, x = torch.randn(60, dim), torch.randn(9, dim)
    expected = slow(x, data, torch.tensor(width))
    # Narrow kernels make densities of exp(-1e16) at most points: relative, then.
    torch.testing.assert_close(kernel.log_density(x, data, width), expected, rtol=1e-9, atol=1e-10)


def test_gives_each_column_its_width() -> None:
    data, x, width = torch.randn(60, 3), torch.randn(9, 3), torch.tensor([0.2, 1.0, 5.0])
    expected = slow(x, data, width)
    torch.testing.assert_close(kernel.log_density(x, data, width), expected)
    torch.testing.assert_close(kernel.log_density(x, data, width.numpy()), expected)


def test_densities_of_parts_add_up() -> None:
    first, second, x = torch.randn(30, 2), torch.randn(70, 2) + 3, torch.randn(9, 2)
    parts = (
        30 * kernel.log_density(x, first, 0.4).exp()
        + 70 * kernel.log_density(x, second, 0.4).exp()
    )
    whole = 100 * kernel.log_density(x, torch.cat([first, second]), 0.4).exp()
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("bandwidth", ["silverman", "scott"])
def test_moves_with_the_units(bandwidth: str) -> None:
    data, x, scale = torch.randn(60, 2), torch.randn(9, 2), torch.tensor([8.0, 1e-160])
    here = kernel.log_density(x, data, bandwidth)
    there = kernel.log_density(scale * x, scale * data, bandwidth)
    torch.testing.assert_close(there, here - scale.log().sum())


def test_an_offset_of_1e8_is_harmless() -> None:
    # Multiples of 2^-20 stay exact beside 2^27: nothing may change but the sum of the center.
    data, x = (torch.randn(n, 3).mul(2**20).round() / 2**20 for n in (60, 9))
    there = kernel.log_density(x + 2**27, data + 2**27, 0.3)
    torch.testing.assert_close(there, kernel.log_density(x, data, 0.3), rtol=0.0, atol=1e-12)


def test_an_outlier_costs_no_digits() -> None:
    data, x = torch.randn(60, 3), torch.randn(9, 3)
    with_outlier = torch.cat([data, torch.full((1, 3), 1e9)])
    expected = slow(x, data, torch.tensor(0.3)) + math.log(60 / 61)
    torch.testing.assert_close(kernel.log_density(x, with_outlier, 0.3), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("product", [False, True])
def test_every_kernel_integrates_to_one_in_the_plane(name: str, product: bool) -> None:
    # A smooth one to rounding; one with an edge to what the cells of the rule leave of it.
    edged = {"uniform": 2e-2, "triangle": 1e-3, "epanechnikov": 1e-3, "cosine": 1e-3}
    axis = torch.linspace(-12, 12, 601 if name in edged else 301)
    grid = torch.cartesian_prod(axis, axis)
    widths = torch.tensor([1.0, 1.4])
    data = torch.randn(10, 2).clamp(-3, 3)
    density = kernel.log_density(grid, data, widths, kernel=name, product=product).exp()
    expected = pytest.approx(1.0, abs=edged.get(name, 1e-5))
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == expected


def test_a_matrix_gives_ellipses() -> None:
    data, x = torch.randn(60, 2), torch.randn(9, 2)
    matrix = torch.tensor([[0.5, 0.3], [0.3, 0.4]])
    normals = torch.distributions.MultivariateNormal(data, matrix)
    expected = normals.log_prob(x.unsqueeze(1)).logsumexp(1) - math.log(60)
    torch.testing.assert_close(kernel.log_density(x, data, matrix), expected)
    # A diagonal one is that of its roots, for a kernel with an edge as well.
    for name in ("gaussian", "cubic"):
        one, other = (
            kernel.log_density(x, data, h, kernel=name)
            for h in (torch.tensor([0.25, 4.0]).diag(), torch.tensor([0.5, 2.0]))
        )
        torch.testing.assert_close(one, other)


def test_agrees_with_scipy_for_a_matrix_and_weights() -> None:
    data, x, weights = torch.randn(80, 3), torch.randn(9, 3), torch.rand(80)
    theirs = gaussian_kde(data.T.numpy(), weights=weights.numpy())
    found = kernel.log_density(x, data, torch.as_tensor(theirs.covariance), weights=weights)
    torch.testing.assert_close(found.exp(), torch.as_tensor(theirs(x.T.numpy())), rtol=1e-12,
                               atol=0.0)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_whole_weights_are_repetitions(name: str) -> None:
    data, x = torch.randn(40), torch.linspace(-2, 2, 9)
    weights = torch.randint(0, 4, (40,))
    repeated = data.repeat_interleave(weights)
    for h in (0.5, 2.0):
        found = kernel.log_density(x, data, h, kernel=name, weights=7.0 * weights)
        torch.testing.assert_close(found, kernel.log_density(x, repeated, h, kernel=name))


def test_points_without_weight_are_not_there() -> None:
    data, x, weights = torch.randn(50), torch.linspace(-2, 2, 9), torch.ones(50)
    data[7], weights[7] = 100.0, 0.0
    kept = data[weights > 0]
    for rule in ("silverman", "kl", 0.8):
        here, there = (
            kernel.log_density(x, d, rule, kernel="cosine", weights=w, factors="abramson")
            for d, w in ((data, weights), (kept, torch.ones(49)))
        )
        torch.testing.assert_close(here, there)
    assert len(kernel.fit(data, 1.0, weights=weights, factors=1 + torch.rand(50)).data) == 49


def test_equal_weights_change_nothing() -> None:
    data, x = torch.randn(40, 2), torch.randn(9, 2)
    for rule in ("silverman", "scott", "kl", "lscv"):
        found = kernel.log_density(x, data, rule, weights=torch.full((40,), 1e300))
        torch.testing.assert_close(found, kernel.log_density(x, data, rule))


def test_a_rule_is_for_the_gaussian_and_rescaled_for_others() -> None:
    data, x = torch.randn(40, 2), torch.randn(9, 2)
    for name in NAMES:
        h = bandwidth.silverman(data) * kernels.named(name).canonical_ratio(2)
        found = kernel.log_density(x, data, kernel=name)
        torch.testing.assert_close(found, kernel.log_density(x, data, h, kernel=name))


def test_the_canonical_ratio_gives_every_kernel_the_same_density() -> None:
    # 20000 points: the estimates differ from the Gaussian's by a fourth-order term alone.
    data, x = torch.randn(20_000), torch.linspace(-1.5, 1.5, 7)
    gaussian = kernel.log_density(x, data).exp()
    for name in NAMES:
        found = kernel.log_density(x, data, kernel=name).exp()
        noise = (found * 0.3 / (20_000 * bandwidth.silverman(data))).sqrt()
        assert ((found - gaussian).abs() < 3 * noise).all()


def test_abramson_widens_where_points_are_few() -> None:
    data = torch.randn(300, 2)
    fitted = kernel.fit(data, 0.4, factors="abramson")
    pilot = kernel.log_density(data, data, 0.4).exp()
    assert fitted.factors is not None
    torch.testing.assert_close(fitted.factors, (pilot / pilot.log().mean().exp()) ** -0.5)
    axis = torch.linspace(-25, 25, 251)
    grid = torch.cartesian_prod(axis, axis)
    assert (fitted.log_density(grid).exp().sum() * 0.2**2).item() == pytest.approx(1.0, abs=1e-9)


def test_abramson_is_nearer_the_truth_in_the_tails() -> None:
    data = torch.distributions.StudentT(3.0).sample((2000,))
    x = torch.tensor([-9.0, -7.0, 7.0, 9.0])
    truth = torch.distributions.StudentT(3.0).log_prob(x)
    plain, varied = (
        (kernel.log_density(x, data, 0.3, factors=f) - truth).abs().mean()
        for f in (None, "abramson")
    )
    assert varied < 0.5 * plain


@pytest.mark.parametrize("name", NAMES)
def test_error_is_that_of_a_mean(name: str) -> None:
    data, x = torch.randn(200, 2), 0.7 * torch.randn(9, 2)
    bumps = torch.stack([kernel.log_density(x, row[None], 1.2, kernel=name).exp() for row in data])
    found = kernel.fit(data, 1.2, kernel=name).estimate(x)
    torch.testing.assert_close(found.density, bumps.mean(0))
    torch.testing.assert_close(found.error, bumps.std(0) / math.sqrt(200))


def test_error_covers_the_smoothed_density() -> None:
    # Without its bias the estimate is a mean of 2000 draws: normal but for its skewness, of order
    # 1 / √(N p h) = 0.05. 200 samples at 5 points, half a dozen of them apart: 5 standard errors.
    x, h, hits = torch.tensor([-1.5, -0.5, 0.0, 0.8, 2.0]), 0.3, 0
    smooth = torch.distributions.Normal(0.0, math.sqrt(1 + h**2)).log_prob(x).exp()
    for _ in range(200):
        found = kernel.fit(torch.randn(2000), h).estimate(x)
        hits += int(((found.density - smooth).abs() < found.error).sum())
    assert hits / 1000 == pytest.approx(0.683, abs=5 * math.sqrt(0.683 * 0.317 / 1000))


def test_an_empty_place_has_an_upper_limit() -> None:
    # That of an empty bin as wide as the window: 1.841 / (N 2 h).
    found = kernel.fit(torch.zeros(10), 0.25, kernel="uniform").estimate(torch.tensor([3.0]))
    assert found.density.item() == 0
    assert found.error.item() == pytest.approx(1.841 / (10 * 0.5), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_density(name: str) -> None:
    data, weights = torch.tensor([-2.0, 0.0, 0.5, 3.0]), torch.tensor([1.0, 2.0, 1.0, 3.0])
    fitted = kernel.fit(
        data, 0.8, kernel=name, weights=weights, factors=torch.tensor([1, 2, 1, 0.5])
    )
    grid = torch.linspace(-12, 12, 24_001)
    law = torch.cumulative_trapezoid(fitted.log_density(grid).exp(), grid)
    x = fitted.sample(4000, seed=1)
    found = kstest(x.squeeze(1).numpy(), lambda t: np.interp(t, grid[1:], law))
    assert found.pvalue > 1e-4  # one of 8 with a fixed seed
    assert torch.equal(x, fitted.sample(4000, seed=1))


def test_draws_have_the_matrix_of_the_bandwidth() -> None:
    matrix = torch.tensor([[2.0, 1.2], [1.2, 1.0]])
    for name in ("gaussian", "epanechnikov"):
        x = kernel.fit(torch.zeros(1, 2), matrix, kernel=name).sample(20_000, seed=2)
        expected = matrix * kernels.named(name).variance(2)
        # Entries have standard errors of at most √2 of the variance 2 over √20000.
        torch.testing.assert_close(x.T.cov(), expected, rtol=0.0, atol=5 * 2 * 2**0.5 / 141)


def test_prints_in_a_line() -> None:
    expected = "KernelDensity(3 points in 2 dimensions, bandwidth [0.5, 0.5])"
    assert repr(kernel.fit(torch.zeros(3, 2), 0.5)) == expected


def test_stays_finite_far_from_all_data() -> None:
    found = kernel.log_density(torch.tensor([1e6]), torch.zeros(3), 1.0).item()
    assert found == pytest.approx(-0.5e12 - 0.5 * math.log(2 * math.pi), rel=1e-12)


def test_keeps_single_precision() -> None:
    data, x = torch.randn(60, 3), torch.randn(9, 3)
    found = kernel.log_density(x.float(), data.float(), 0.5)
    assert found.dtype == torch.float32
    # Coordinates of 24 bits over a width of a half, and exponents of some tens.
    expected = slow(x, data, torch.tensor(0.5))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_bandwidth_that_is_not_positive(bandwidth: float) -> None:
    with pytest.raises(ValueError, match=r"bandwidth must be (positive|finite), got"):
        kernel.log_density(torch.zeros(1, 1), torch.zeros(2, 1), bandwidth)


def test_refuses() -> None:
    x, data = torch.zeros(1, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match="x and data must share D, got 2 and 3"):
        kernel.log_density(x[:, :2], data, 1.0)
    with pytest.raises(ValueError, match=r"bandwidth must have shape .* or \(3, 3\), got \(2,\)"):
        kernel.log_density(x, data, np.ones(2))
    with pytest.raises(ValueError, match=r"bandwidth must be one of isj, kl, .* got 'wide'"):
        kernel.log_density(x, data, "wide")
    with pytest.raises(ValueError, match=r"kernel must be one of biweight, .* got 'square'"):
        kernel.log_density(x, data, 1.0, kernel="square")
    for matrix in (-torch.eye(3), torch.eye(3) + torch.ones(3, 3).triu(1)):
        with pytest.raises(ValueError, match="bandwidth must be symmetric and positive definite"):
            kernel.fit(data, matrix)
    with pytest.raises(ValueError, match="weights must be one for each of 5 points, got 4"):
        kernel.fit(data, 1.0, weights=torch.ones(4))
    with pytest.raises(ValueError, match=r"weights must be at least 0 and not all 0, got -1.0 to"):
        kernel.fit(data, 1.0, weights=torch.tensor([1.0, 1, 1, 1, -1]))
    with pytest.raises(ValueError, match="factors must be one for each of 5 points, got 4"):
        kernel.fit(data, 1.0, factors=torch.ones(4))
    with pytest.raises(ValueError, match="factors must be one of abramson, got 'silverman'"):
        kernel.fit(data, 1.0, factors="silverman")
    with pytest.raises(ValueError, match="data must hold at least 2 points for an error, got 1"):
        kernel.fit(data[:1], 1.0).estimate(x)
