import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gamma

from pplvae import randomness
from pplvae.density import kernel, kernels

NAMES = sorted(kernels.PROFILES)
COMPACT = [name for name in NAMES if name != "gaussian"]
# Reference: R = ∫ K² and μ₂ on a line, and the ratio to a Gaussian's width.
KNOWN = {
    "uniform": (1 / 2, 1 / 3, 1.74006),
    "triangle": (2 / 3, 1 / 6, 2.43200),
    "epanechnikov": (3 / 5, 1 / 5, 2.21380),
    "cosine": (math.pi**2 / 16, 1 - 8 / math.pi**2, 2.27498),
    "cubic": (175 / 247, 35 / 243, 2.60978),
    "biweight": (5 / 7, 1 / 7, 2.62262),
    "triweight": (350 / 429, 1 / 9, 2.97811),
    "gaussian": (1 / (2 * math.sqrt(math.pi)), 1.0, 1.0),
}
# On a line, from the literature: K(u) for |u| ≤ 1.
FORMULAS = {
    "uniform": lambda u: 0.5,
    "triangle": lambda u: 1 - u,
    "epanechnikov": lambda u: 0.75 * (1 - u**2),
    "cosine": lambda u: math.pi / 4 * math.cos(math.pi * u / 2),
    "cubic": lambda u: 70 / 81 * (1 - u**3) ** 3,
    "biweight": lambda u: 15 / 16 * (1 - u**2) ** 2,
    "triweight": lambda u: 35 / 32 * (1 - u**2) ** 3,
    "gaussian": lambda u: math.exp(-(u**2) / 2) / math.sqrt(2 * math.pi),
}


def nodes(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places and weights that integrate a kernel along its radius."""
    ends = np.linspace(0, 1 if name in COMPACT else 14, 15)
    places, weights = np.polynomial.legendre.leggauss(24)
    half = 0.5 * np.diff(ends)[:, None]
    r = ends[:-1, None] + half * (places + 1)
    return torch.as_tensor(r.ravel()), torch.as_tensor((half * weights).ravel())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", range(1, 11))
def test_integrates_to_one_in_every_dimension(name: str, dim: int) -> None:
    r, weights = nodes(name)
    x = torch.zeros(len(r), dim)
    x[:, 0] = r
    density = kernel.log_density(x, torch.zeros(1, dim), 1.0, kernel=name).exp()
    shells = 2 * math.pi ** (dim / 2) / gamma(dim / 2) * r ** (dim - 1)
    assert (weights @ (density * shells)).item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("product", [False, True])
def test_is_the_formula_on_a_line(name: str, product: bool) -> None:
    x = torch.tensor([0.0, 0.3, -0.7, 0.99])
    found = kernel.log_density(x, torch.zeros(1), 1.0, kernel=name, product=product).exp()
    expected = torch.tensor([FORMULAS[name](abs(u)) for u in x.tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_product_is_one_of_kernels_on_lines(name: str) -> None:
    x = torch.tensor([[0.1, -0.9, 0.5], [0.99, 0.99, -0.99]])
    found = kernel.log_density(x, torch.zeros(1, 3), 1.0, kernel=name, product=True).exp()
    expected = torch.tensor([math.prod(FORMULAS[name](abs(u)) for u in row) for row in x.tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("name", COMPACT)
def test_ends_at_its_width(name: str) -> None:
    x = torch.tensor([[0.0, 1.0 + 1e-9], [0.8, 0.7]])
    radial = kernel.log_density(x, torch.zeros(1, 2), 1.0, kernel=name)
    assert radial.tolist() == [-math.inf, -math.inf]
    product = kernel.log_density(x, torch.zeros(1, 2), 1.0, kernel=name, product=True)
    assert product.isfinite().tolist() == [False, True]


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_the_published_ones(name: str) -> None:
    roughness, variance, ratio = KNOWN[name]
    found = kernels.named(name)
    assert found.roughness(1) == pytest.approx(roughness, rel=1e-12)
    assert found.variance(1) == pytest.approx(variance, rel=1e-12)
    assert found.canonical_ratio(1) == pytest.approx(ratio, abs=5e-6)  # five decimals


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_moments_in_more_dimensions(name: str, dim: int) -> None:
    r, weights = nodes(name)
    found = kernels.named(name)
    x = torch.zeros(len(r), dim)
    x[:, 0] = r
    density = kernel.log_density(x, torch.zeros(1, dim), 1.0, kernel=name).exp()
    shells = 2 * math.pi ** (dim / 2) / gamma(dim / 2) * r ** (dim - 1) * weights
    assert (shells @ density.square()).item() == pytest.approx(found.roughness(dim), rel=1e-9)
    # All axes share E r² alike.
    variance = (shells @ (density * r**2)).item() / dim
    assert variance == pytest.approx(found.variance(dim), rel=1e-9)
    of_product = kernels.named(name, product=True)
    if name in COMPACT:
        assert of_product.roughness(dim) == pytest.approx(found.roughness(1) ** dim, rel=1e-12)
        assert of_product.variance(dim) == pytest.approx(found.variance(1), rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
def test_canonical_ratio_in_more_dimensions(dim: int) -> None:
    # Silverman's table 4.1: least squared error for a normal law at h = A N^(-1 / (D + 4)) with
    # A = (8 (D + 4) (2 √π)^D / V_D)^(1 / (D + 4)) for Epanechnikov's kernel, and
    # A = (4 / (D + 2))^(1 / (D + 4)) for the Gaussian.
    volume = math.pi ** (dim / 2) / gamma(dim / 2 + 1)
    theirs = 8 * (dim + 4) * (2 * math.sqrt(math.pi)) ** dim / volume
    expected = (theirs * (dim + 2) / 4) ** (1 / (dim + 4))
    found = kernels.named("epanechnikov").canonical_ratio(dim)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_radii_have_the_law_of_the_kernel(name: str, dim: int) -> None:
    with randomness.scope(3):
        u = kernels.named(name).draws(4000, dim, torch.zeros(()))
    r = u.norm(dim=1)
    if name == "gaussian":
        law = stats.chi(dim).cdf
    else:
        grid = torch.linspace(0, 1, 20001)
        mass = kernels.PROFILES[name](grid**2) * grid ** (dim - 1)
        reached = torch.cumulative_trapezoid(mass, grid)
        law = lambda r: np.interp(r, grid[1:], reached / reached[-1])  # noqa: E731
    # 24 such tests: a chance of 1e-4 each that a right law fails. The seed is fixed.
    assert stats.kstest(r.numpy(), law).pvalue > 1e-4
    # No direction is favored: each coordinate has mean zero, five standard errors.
    spread = math.sqrt(kernels.named(name).variance(dim) / 4000)
    assert u.mean(dim=0).abs().max().item() < 5 * spread


@pytest.mark.parametrize("name", COMPACT)
def test_a_product_is_drawn_axis_by_axis(name: str) -> None:
    with randomness.scope(5):
        u = kernels.named(name, product=True).draws(4000, 3, torch.zeros(()))
        line = kernels.named(name).draws(4000, 1, torch.zeros(()))[:, 0]
    for column in u.unbind(1):
        assert stats.ks_2samp(column.numpy(), line.numpy()).pvalue > 1e-4
    # Correlations of independent columns are within five times 1 / √4000.
    assert np.abs(np.corrcoef(u.T.numpy()) - np.eye(3)).max() < 5 / math.sqrt(4000)


def test_stays_right_in_many_dimensions() -> None:
    # Mass of a shell of the unit ball: (D + 2) r^(D + 1) ... at the center c = 2 V / (D + 2).
    for dim in (50, 300):
        log_volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
        expected = math.log(dim + 2) - math.log(2) - log_volume
        found = kernel.log_density(torch.zeros(1, dim), torch.zeros(1, dim), 1.0,
                                   kernel="epanechnikov")  # fmt: skip
        assert found.item() == pytest.approx(expected, rel=1e-12)
        cosine = kernels.named("cosine").log_integral(dim)
        # cos(π r / 2) lies between (π / 4) (1 - r²) and 1 - r².
        assert -expected + math.log(math.pi / 4) < cosine < -expected


def test_refuses_a_name_that_is_none() -> None:
    with pytest.raises(
        ValueError, match=r"kernel must be one of biweight, cosine, .* got 'square'"
    ):
        kernels.named("square")
