"""One answer by every way of adding up."""

import math

import pytest
import torch
from torch import Tensor

from pplvae.density import kernel, kernels, prefix, sums

NAMES = sorted(kernels.PROFILES)
COMPACT = [name for name in NAMES if name != "gaussian"]


def same(found: Tensor, expected: Tensor) -> None:
    # The promise: 1e-11 in the log; far out, where that is a sum of large numbers, relative.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_all_ways_agree_on_a_line(name: str, width: float, weighted: bool) -> None:
    data, x = torch.randn(3000), 1.5 * torch.randn(700)
    weights = torch.rand(3000) ** 4 if weighted else None
    naive, *others = (
        kernel.log_density(x, data, width, kernel=name, weights=weights, method=method)
        for method in ("naive", "tiled", "prefix" if name in COMPACT else "tiled", "auto")
    )
    for found in others:
        same(found, naive)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [2, 5, 11])
@pytest.mark.parametrize("product", [False, True])
def test_all_ways_agree_in_space(name: str, dim: int, product: bool) -> None:
    data, x = torch.randn(1500, dim), 1.2 * torch.randn(300, dim)
    for width in (0.02, 0.6 * dim**0.5, 4.0):
        found, naive = (
            kernel.log_density(x, data, width, kernel=name, product=product, method=method)
            for method in ("tiled", "naive")
        )
        same(found, naive)


@pytest.mark.parametrize("name", COMPACT)
@pytest.mark.parametrize("origin", [0.0, 1e4, -1e8, 2.0**40])
def test_prefix_sums_do_not_mind_where_the_data_stand(name: str, origin: float) -> None:
    # Multiples of 2^-10 stay exact beside 2^40.
    data, x = (torch.randn(n).mul(2**10).round() / 2**10 for n in (4000, 500))
    there = kernel.log_density(x + origin, data + origin, 0.2, kernel=name, method="prefix")
    same(there, kernel.log_density(x, data, 0.2, kernel=name, method="naive"))


@pytest.mark.parametrize("name", COMPACT)
def test_prefix_sums_keep_a_few_points_beside_a_crowd(name: str) -> None:
    # A crowd of 1e5, and three far points whose own density a global prefix sum would lose.
    crowd, few = torch.randn(100_000), torch.tensor([50.0, 50.9, 5e5])
    x = torch.tensor([50.0, 50.4, 49.001, 50.9999, 51.8999999, 5e5 + 0.999])
    args = {"bandwidth": 1.0, "kernel": name}
    found = kernel.log_density(x, torch.cat([crowd, few]), method="prefix", **args)
    shift = math.log(3 / 100_003)
    same(found, kernel.log_density(x, few, method="naive", **args) + shift)


@pytest.mark.parametrize("name", COMPACT)
def test_prefix_sums_keep_points_of_next_to_no_weight(name: str) -> None:
    # Weights of 1e-25 beside those of 1: less than what the sums of the heavy are rounded to.
    data, x = torch.randn(2000), torch.randn(400)
    weights = 10 ** (-25 * torch.rand(2000))
    found, naive = (
        kernel.log_density(x, data, 0.01, kernel=name, weights=weights, method=method)
        for method in ("prefix", "naive")
    )
    same(found, naive)


@pytest.mark.parametrize("step", [1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("method", ["naive", "tiled", "prefix"])
def test_a_point_on_the_rim_of_a_window_is_in_it(step: float, method: str) -> None:
    # Data on a lattice: both ends of each window count, whichever way they are rounded.
    data, x = torch.arange(100.0) * step, torch.arange(10.0, 90.0) * step
    found = kernel.log_density(x, data, 3 * step, kernel="uniform", method=method)
    expected = math.log(7 / (100 * 2 * 3 * step))
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_leaves_out_only_what_is_nothing(dim: int) -> None:
    # Clusters far apart, of sizes from 1 to 3000, and queries within, between and far beyond.
    centers = 100.0 * torch.randn(6, dim)
    sizes = [1, 10, 100, 300, 1000, 3000]
    data = torch.cat([c + torch.randn(n, dim) for c, n in zip(centers, sizes, strict=True)])[
        torch.randperm(sum(sizes))
    ]
    x = torch.cat([data[:200], 150 * torch.randn(200, dim), 1e6 * torch.randn(20, dim)])
    for width in (0.05, 0.7, 8.0):
        found, naive = (
            kernel.log_density(x, data, width, method=method) for method in ("tiled", "naive")
        )
        same(found, naive)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", ["gaussian", "epanechnikov"])
@pytest.mark.parametrize("varied", [False, True])
def test_far_tiles_count_for_what_they_weigh(dim: int, name: str, varied: bool) -> None:
    # A crowd of many tiles: those a few widths away still count, and more so if wide and heavy.
    data, x = torch.randn(6000, dim), torch.randn(1000, dim)
    far = (data[:, 0] > 1).double()
    factors, weights = (1 + 4 * far, 1 + 1e6 * far) if varied else (None, None)
    bump = {"kernel": name, "factors": factors, "weights": weights}
    found, naive = (
        kernel.log_density(x, data, 0.3, method=method, **bump) for method in ("tiled", "naive")
    )
    same(found, naive)


def test_clusters_far_from_the_middle_keep_their_digits() -> None:
    # In widths they stand at 3e4: products of such numbers leave nothing of a distance of one.
    side = torch.tensor([1e4, -1e4]).repeat(500).unsqueeze(1)
    data, x = torch.randn(1000, 2) + side, torch.randn(100, 2) + side[:100]
    same(kernel.log_density(x, data, 0.3), kernel.log_density(x, data, 0.3, method="naive"))


@pytest.mark.parametrize("name", NAMES)
def test_per_point_widths_and_weights_go_into_every_sum(name: str) -> None:
    data, x, shape = torch.randn(600, 2), torch.randn(20, 2), kernels.named(name)
    factors, weights = torch.rand(600) + 0.3, torch.rand(600)
    widths = 0.8 * factors
    squared = ((x.unsqueeze(1) - data) / widths.unsqueeze(1)).square().sum(-1)
    bumps = shape.profile(squared) / (widths**2 * math.exp(shape.log_integral(2)))
    found = kernel.log_density(x, data, 0.8, kernel=name, factors=factors, weights=weights).exp()
    torch.testing.assert_close(found, bumps @ weights / weights.sum(), rtol=1e-11, atol=0.0)


def test_does_not_depend_on_order_or_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    data, x = torch.randn(400, 3), torch.randn(70, 3)
    expected = {name: kernel.log_density(x, data, 0.9, kernel=name) for name in NAMES}
    monkeypatch.setattr(sums, "_BLOCK", 7)
    monkeypatch.setattr(sums, "_TILE_FEW", 11)
    for name in NAMES:
        rows = torch.randperm(400)
        same(kernel.log_density(x, data[rows], 0.9, kernel=name), expected[name])


def test_doubtful_sums_are_taken_point_by_point() -> None:
    # Points all near the rim: (1 - u³)³ is 3e-11 there, and its powers of u cancel.
    bumps = sums.Bumps(kernels.named("cubic"), torch.tensor([[0.0], [1e-5]]))
    x = torch.tensor([[0.9999]])
    assert prefix._Line(bumps).sums(x[:, 0])[1].all()
    same(prefix.log_sums(bumps, x), sums.naive(bumps, x))


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_a_product_reaches_into_the_corners(dim: int) -> None:
    # Points and queries in two far small clouds, 0.9 apart on every axis: within a box's reach,
    # though outside a ball's.
    data, x = 0.01 * torch.rand(60, dim), 0.9 + 0.01 * torch.rand(60, dim)
    for name in COMPACT:
        found, naive = (
            kernel.log_density(x, data, 1.0, kernel=name, product=True, method=method)
            for method in ("tiled", "naive")
        )
        assert found.isfinite().all()
        same(found, naive)


@pytest.mark.parametrize("name", COMPACT)
def test_a_product_of_a_hundred_small_factors_is_no_zero(name: str) -> None:
    # Nearly at the rim of every axis: factors are about 1e-4 (or its cube), products below 1e-308.
    data = torch.zeros(40, 100) + 1e-6 * torch.randn(40, 100)
    x = torch.full((3, 100), 0.9999)
    found, naive = (
        kernel.log_density(x, data, 1.0, kernel=name, product=True, method=method)
        for method in ("tiled", "naive")
    )
    assert naive.isfinite().all()
    assert name == "uniform" or (naive < -700).all()
    same(found, naive)


@pytest.mark.slow
def test_memory_stays_bounded() -> None:
    # In a process of its own: its peak is not ours. 1e6 points, 1e5 queries: 800 GB as a matrix.
    import subprocess
    import sys

    code = """
import resource, torch
from pplvae.density import kernel
torch.set_num_threads(1)
data, x = torch.randn(1_000_000, 2).double(), torch.randn(100_000, 2).double()
kernel.log_density(x[:200], data, 0.02)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("gaussian", "epanechnikov"):
    kernel.log_density(x, data, 0.02, kernel=name, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 2**20  # KiB: 1 GiB


def test_refuses_prefix_sums_where_they_are_none() -> None:
    x = torch.randn(5, 2)
    for args in ({"kernel": "cosine"}, {}):
        with pytest.raises(ValueError, match="method must be 'prefix' only on a line"):
            kernel.log_density(x, x, 1.0, method="prefix", **args)
    with pytest.raises(
        ValueError, match="method must be one of auto, naive, prefix, tiled, got 'q'"
    ):
        kernel.log_density(x, x, 1.0, method="q")
