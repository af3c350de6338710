import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from pplvae.density import Histogram, histogram, joint_histogram

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


@pytest.mark.filterwarnings("ignore:the last bin of x")
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("rule", ["fd", "scott", "sturges"])
def test_rules_agree_with_numpy(name: str, rule: str) -> None:
    x = SAMPLES[name]
    expected = np.histogram_bin_edges(x, rule)
    found = histogram(x, rule).edges
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
        ("doane", "bins must be one of fd, scott, sturges, got 'doane'"),
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


def test_whole_weights_are_repetitions() -> None:
    x, weights = torch.randn(200), torch.randint(1, 4, (200,))
    found, repeated = histogram(x, 6, weights=weights), histogram(x.repeat_interleave(weights), 6)
    torch.testing.assert_close(found.edges, repeated.edges)
    torch.testing.assert_close(found.density, repeated.density)
    assert found.counts.sum() == 200  # points, whatever their worth


def test_weights_widen_the_error() -> None:
    # Σ v = 4 + 2 of 6 + 1: errors √Σ v², the empty bin's that of one mean weight Σ v² / Σ v.
    x = torch.tensor([0.1, 0.2, 1.5, 1.6, 3.5])
    weights = torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0])
    found = histogram(x, torch.arange(5.0), weights=weights)
    torch.testing.assert_close(found.density, torch.tensor([4.0, 2.0, 0.0, 1.0]) / 7)
    expected = torch.tensor([10**0.5, 2**0.5, 1.8410 * 13 / 7, 1.0]) / 7
    torch.testing.assert_close(found.error, expected, rtol=1e-4, atol=0.0)


def test_weights_count_in_the_rule() -> None:
    x = torch.randn(300)
    same = histogram(x, weights=torch.full((300,), 5.0))
    torch.testing.assert_close(same.edges, histogram(x).edges)
    half = torch.arange(300) < 150
    left = histogram(x, weights=half.double())
    # Kish's N is 150, the quartiles are those of the half, the range is that of all.
    width = 2 * np.subtract(*np.percentile(x[half].numpy(), [75, 25])) * 150 ** (-1 / 3)
    assert len(left.counts) == math.ceil((x.max() - x.min()).item() / width)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_joint_histogram_agrees_with_numpy(dim: int) -> None:
    x, weights = torch.randn(400, dim), torch.rand(400)
    for given in (None, weights):
        found = joint_histogram(x, 4, weights=given)
        expected, edges = np.histogramdd(x.numpy(), 4, density=True, weights=given)
        torch.testing.assert_close(found.density, torch.as_tensor(expected))
        for ours, theirs in zip(found.edges, edges, strict=True):
            torch.testing.assert_close(ours, torch.as_tensor(theirs))
        assert found.counts.tolist() == np.histogramdd(x.numpy(), 4)[0].tolist()


def test_a_joint_error_is_that_of_a_count() -> None:
    x = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.5, 3.0]])
    found = joint_histogram(x, [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])])
    torch.testing.assert_close(found.density, torch.tensor([[2.0, 0.0, 0.5]]) / 3)
    expected = torch.tensor([[2**0.5, 1.841, 0.5]]) / 3
    torch.testing.assert_close(found.error, expected, rtol=1e-4, atol=0.0)


def test_joint_rules_take_the_power_of_their_dimension() -> None:
    x = torch.randn(5000, 2)
    found = joint_histogram(x)
    iqr = np.subtract(*np.percentile(x.numpy(), [75, 25], axis=0))
    widths = torch.as_tensor(2 * iqr * 5000 ** (-1 / 4))
    extent = x.amax(0) - x.amin(0)
    assert list(found.counts.shape) == (extent / widths).ceil().long().tolist()
    one = joint_histogram(x[:, 0])
    torch.testing.assert_close(one.edges[0], histogram(x[:, 0]).edges)


def test_gives_the_density_at_points() -> None:
    x = torch.tensor([0.0, 0.5, 2.5])
    found = histogram(x, torch.arange(4.0))
    at = found.log_density(torch.tensor([0.2, 1.5, 3.0, 9.0]))
    torch.testing.assert_close(at.exp(), torch.tensor([2.0, 0.0, 1.0, 0.0]) / 3)
    joint = joint_histogram(torch.stack([x, x], 1), [torch.arange(4.0)] * 2)
    at = joint.log_density(torch.tensor([[0.9, 0.9], [0.9, 2.5], [2.5, 3.0], [-1.0, 0.0]]))
    torch.testing.assert_close(at.exp(), torch.tensor([2.0, 0.0, 1.0, 0.0]) / 3)


def test_joint_refuses() -> None:
    with pytest.raises(ValueError, match="x must have 1 to 3 columns, got 4"):
        joint_histogram(torch.rand(5, 4))
    with pytest.raises(ValueError, match="bins must be one for each of 2 axes, got 3"):
        joint_histogram(torch.rand(5, 2), [1, 2, 3])
    with pytest.raises(ValueError, match="x must have 2 columns, got 1"):
        joint_histogram(torch.rand(5, 2), 2).log_density(torch.rand(5))
    assert (
        repr(joint_histogram(torch.rand(5, 2), [2, 3])) == "JointHistogram(2 × 3 bins, 5 points)"
    )
