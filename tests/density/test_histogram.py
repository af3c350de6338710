import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from pplvae.density import Histogram, histogram

IRIS = load_iris(return_X_y=True)[0]
SAMPLES = {
    "nine numbers": np.arange(9.0),
    "petal length": IRIS[:, 2],
    "sepal length": IRIS[:, 0],
    "normal": np.random.default_rng(0).normal(size=3000),
    "heavy tails": np.random.default_rng(0).standard_t(2, size=500),
    "far away": 1e8 + np.random.default_rng(0).normal(size=500),
    "small": 1e-160 * np.random.default_rng(0).normal(size=500),
    "whole numbers": np.random.default_rng(0).poisson(4.0, size=5000),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_freedman_diaconis_agrees_with_numpy(name: str) -> None:
    x = SAMPLES[name]
    expected = np.histogram_bin_edges(x, "fd")
    found = histogram(x).edges
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize(
    ("name", "bins", "width"),
    [("nine numbers", 3, 3.845999), ("petal length", 5, 1.317450), ("sepal length", 8, 0.489339)],
)
def test_freedman_diaconis_takes_the_published_number_of_bins(
    name: str, bins: int, width: float
) -> None:
    found = histogram(SAMPLES[name])
    assert len(found.counts) == bins
    assert found.edges.diff().max() <= width


@pytest.mark.parametrize("bins", ["fd", 1, 7, [-1.0, 0.0, 0.5, 4.0], np.int64(3)])
def test_counts_agree_with_numpy(bins: str | int | list[float]) -> None:
    x = torch.randn(500)
    edges = torch.tensor(bins) if isinstance(bins, list) else bins
    found = histogram(x, edges)
    counts, _ = np.histogram(x.numpy(), bins=found.edges.numpy())
    assert found.counts.tolist() == counts.tolist()


@pytest.mark.parametrize("bins", ["fd", 1, 13])
def test_integrates_to_one(bins: str | int) -> None:
    found = histogram(torch.randn(300), bins)
    assert (found.density * found.edges.diff()).sum().item() == pytest.approx(1.0, abs=1e-12)


def test_integrates_to_the_share_inside_given_edges() -> None:
    found = histogram(torch.arange(10.0), torch.tensor([2.0, 3.0, 6.0]))
    assert found.counts.tolist() == [1, 4]  # the last bin has both its ends
    assert (found.density * found.edges.diff()).sum().item() == pytest.approx(0.5, abs=1e-12)


def test_error_is_that_of_a_count() -> None:
    found = histogram(torch.tensor([0.0, 0.1, 0.2, 0.3, 3.0]), torch.tensor([0.0, 0.5, 2.0, 4.0]))
    n, w = 5, torch.tensor([0.5, 1.5, 2.0])
    torch.testing.assert_close(found.density, torch.tensor([4.0, 0.0, 1.0]) / (n * w))
    expected = torch.tensor([2.0, 1.841, 1.0]) / (n * w)
    torch.testing.assert_close(found.error, expected, rtol=1e-4, atol=0.0)


def test_error_covers_the_truth_as_often_as_one_standard_deviation_does() -> None:
    # 400 histograms of 1000 uniform points in 10 bins: each count is Binomial(1000, 1/10), so the
    # chance that it is within its own square root of 100 is known.
    edges = torch.linspace(0, 1, 11)
    hits = 0
    for _ in range(400):
        found = histogram(torch.rand(1000), edges)
        hits += int(((found.density - 1).abs() <= found.error).sum())
    n = torch.arange(1001.0)
    chance = torch.distributions.Binomial(1000, torch.tensor(0.1)).log_prob(n).exp()
    expected = chance[(n - 100).abs() <= n.sqrt()].sum().item()
    # The bins of one histogram are all but independent: 4000 trials, four standard errors.
    tolerance = 4 * math.sqrt(expected * (1 - expected) / 4000)
    assert hits / 4000 == pytest.approx(expected, abs=tolerance)


def test_moves_with_the_units() -> None:
    x = torch.randn(200)
    here, there = histogram(x), histogram(4 * x - 8)
    torch.testing.assert_close(there.edges, 4 * here.edges - 8)
    torch.testing.assert_close(there.density, here.density / 4)
    torch.testing.assert_close(there.error, here.error / 4)


def test_keeps_single_precision() -> None:
    found = histogram(1e6 + torch.randn(200_000).float())
    assert found.edges.dtype == found.density.dtype == found.error.dtype == torch.float32
    assert found.counts.sum() == 200_000
    assert (found.edges.diff() > 0).all()


def test_falls_back_to_scott_where_the_quartiles_coincide() -> None:
    x = torch.cat([torch.zeros(90), torch.randn(10)])
    with pytest.warns(UserWarning, match="the quartiles of x coincide: bins are of Scott's width"):
        found = histogram(x)
    expected = np.histogram_bin_edges(x.numpy(), "scott")
    torch.testing.assert_close(found.edges, torch.as_tensor(expected))


def test_caps_the_bins_an_outlier_would_ask_for() -> None:
    x = torch.cat([torch.randn(1000), torch.tensor([1e9])])
    with pytest.warns(UserWarning, match="bins would cover x: only 100000 are made"):
        found = histogram(x)
    assert len(found.counts) == 100_000


def test_gives_a_constant_one_bin_of_one_unit() -> None:
    found = histogram(torch.full((7,), 3.0))
    assert found.edges.tolist() == [2.5, 3.5]
    assert found.density.tolist() == [1.0]


def test_prints_in_a_line() -> None:
    assert repr(histogram(torch.arange(9.0))) == "Histogram(3 bins in [0, 8], 9 points)"
    assert isinstance(histogram(torch.arange(9.0)), Histogram)


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        (0, "bins must be at least 1, got 0"),
        ("sturges", "bins must be one of fd, got 'sturges'"),
        (np.array([0.0, 2.0, 2.0]), r"bins must be increasing edges, got \[2.0, 2.0\]"),
        (np.array([1.0]), "bins must hold at least 2 numbers, got 1"),
    ],
)
def test_refuses_bins_that_are_none(bins: str | int | np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        histogram(torch.rand(5), bins)


def test_refuses_a_table() -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(N,\), got \(5, 2\)"):
        histogram(torch.rand(5, 2))
