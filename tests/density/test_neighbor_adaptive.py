import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import chi2
from torch import Tensor

from pplvae import neighbors
from pplvae.density import adaptive, neighbor

UNIT_DISK = math.log(math.pi)


def slow_size(x: Tensor, data: Tensor, dim: float, most: int) -> int:
    """Return k* of one query by its definition, from volumes: no data point is its own."""
    threshold = chi2(1).isf(1e-6)
    distances, indices = (data - x).norm(dim=1).sort()
    if distances[0] == 0:
        distances, indices = distances[1:], indices[1:]
    for k in range(3, most):
        j = indices[k]
        others = (data - data[j]).norm(dim=1).sort().values[1:]
        v, w = distances[k - 1] ** dim, others[k - 1] ** dim
        ratio = -2 * k * (v.log() + w.log() - 2 * (v + w).log() + math.log(4))
        if ratio > threshold:
            return k - 1
    return most - 1


def maximum(shells: np.ndarray, ranks: np.ndarray, start: float) -> float:
    """Return the F at which L(F, a) is greatest, by a search that knows no derivative."""

    def loss(own: np.ndarray) -> float:
        expected = np.sum(shells * np.exp(own[0] + own[1] * ranks))
        return expected - own[0] * len(ranks) - own[1] * ranks.sum()

    options = {"xatol": 1e-9, "fatol": 1e-12}
    return float(minimize(loss, [start, 0.0], method="Nelder-Mead", options=options).x[0])


@pytest.mark.parametrize("own", [True, False])
def test_k_star_is_the_last_before_the_density_differs(own: bool) -> None:
    data = torch.randn(150, 2).exp()
    x = data if own else torch.randn(40, 2).exp()
    found = neighbor.log_density(None if own else x, data, "kstar", most_neighbors=60)
    expected = torch.tensor([slow_size(row, data, 2.0, 60) for row in x[:40]])
    assert isinstance(found.num_neighbors, Tensor)
    assert found.num_neighbors[:40].tolist() == expected.tolist()
    assert len(expected.unique()) > 10
    each = [
        neighbor.log_density(None if own else x, data, int(k)).log_density[i]
        for i, k in enumerate(expected)
    ]
    torch.testing.assert_close(found.log_density[:40], torch.stack(each))
    torch.testing.assert_close(found.log_error[:40], expected.double().rsqrt())


def test_a_graph_spares_the_search() -> None:
    data = torch.randn(200, 3)
    graph = neighbors.graph(data, 40)
    for method in neighbor.METHODS:
        found = neighbor.log_density(None, graph, method)
        expected = neighbor.log_density(None, data, method, most_neighbors=40)
        torch.testing.assert_close(found.log_density, expected.log_density)
        assert torch.equal(
            torch.as_tensor(found.num_neighbors), torch.as_tensor(expected.num_neighbors)
        )


def test_pak_has_the_greatest_likelihood() -> None:
    data = torch.randn(120, 3) * torch.tensor([1.0, 2.0, 0.5])
    found = neighbor.log_density(None, data, "pak", 2.5, most_neighbors=50)
    radii = neighbors.neighbor_distances(data, 50)
    unit = 1.25 * math.log(math.pi) - math.lgamma(2.25)
    for i in range(0, 120, 15):
        k = int(torch.as_tensor(found.num_neighbors)[i])
        volumes = np.exp(unit) * radii[i, :k].numpy() ** 2.5
        shells, ranks = np.diff(volumes, prepend=0.0), np.arange(1, k + 1)

        best = maximum(shells, ranks, math.log(k / volumes[-1]))
        log_p = found.log_density[i].item() + math.log(119)
        assert log_p == pytest.approx(best, abs=1e-5)
        expected = math.sqrt((4 * k + 2) / (k * (k - 1)))
        assert found.log_error[i].item() == pytest.approx(expected)


def test_agrees_with_dadapy_at_its_k() -> None:
    # DADApy 0.3.4, maxk = 59, d = 2: k*, log p by k* and by PAk. It counts the point itself in N,
    # its k* is the first that fails the test, not the last that passes, and its PAk stops 1e-3
    # from the maximum.
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 2)))
    rows, sizes = torch.tensor([34, 37, 54, 6]), torch.tensor([17, 18, 21, 22])
    by_k = torch.tensor([-3.919255702, -3.982495638, -3.712167198, -3.663956944])
    by_pak = torch.tensor([-4.223686330, -4.370166151, -4.057575843, -4.202365925])
    found = neighbor.log_density(None, data, "kstar", most_neighbors=59)
    assert torch.equal(torch.as_tensor(found.num_neighbors)[rows], sizes - 1)
    radii = neighbors.neighbor_distances(data, 59)[rows]
    at_k = radii.gather(1, sizes.unsqueeze(1) - 1).squeeze(1)
    ours = (sizes / 60).log() - UNIT_DISK - 2 * at_k.log()
    torch.testing.assert_close(ours, by_k, rtol=0, atol=1e-6)
    ours = adaptive.with_slopes(radii, sizes, 2.0) - UNIT_DISK - math.log(60)
    torch.testing.assert_close(ours, by_pak, rtol=0, atol=1e-3)


@pytest.mark.parametrize("slope", [0.0, -0.05, 0.04])
def test_pak_sees_through_a_slope_with_the_error_it_says(slope: float) -> None:
    # Shells of density exp(F + a l) have exponential volumes: on a line, with F = 0. The maximum
    # is biased by O(1/k), as log k - ψ(k) is: for k = 40 by some 0.02, an eighth of the error.
    k, num = 40, 4000
    shells = torch.empty(num, k).exponential_() * (-slope * torch.arange(1.0, k + 1)).exp()
    found = adaptive.with_slopes(shells.cumsum(1), torch.full((num,), k), 1.0)
    error = math.sqrt((4 * k + 2) / (k * (k - 1)))
    assert found.mean().item() == pytest.approx(0, abs=0.2 * error)
    # Five standard errors of a standard deviation, and 3 % for the O(1/k) in it.
    assert found.std().item() == pytest.approx(error, rel=0.03 + 5 / math.sqrt(2 * num))
    plain = math.log(k) - shells.sum(1).log()
    bias = plain.mean().item()  # of a ball with one density, about a (k + 1) / 2
    assert slope == 0 or abs(bias) > 4 * abs(found.mean().item())


def test_errors_of_pak_are_right_where_those_of_many_neighbors_are_not() -> None:
    # The reference: N = 1e4 points in five dimensions, k = 50: z has sd 2.8, with k* 1.5, PAk 1.1.
    data = torch.randn(3000, 4)
    x = torch.randn(400, 4)
    truth = -0.5 * x.square().sum(1) - 2 * math.log(2 * math.pi)
    spreads = {}
    for k in (50, "kstar", "pak"):
        found = neighbor.log_density(x, data, k)
        spreads[k] = ((found.log_density - truth) / found.log_error).square().mean().sqrt().item()
    assert spreads[50] > 2
    assert spreads["pak"] < 1.3
    assert spreads["pak"] < spreads["kstar"] < spreads[50]


def test_ties_fall_back_to_one_density() -> None:
    # All shells but the first are empty: no tilt brings the mean rank to the middle.
    distances = torch.full((1, 5), 2.0)
    found = adaptive.with_slopes(distances, torch.tensor([4]), 2.0)
    torch.testing.assert_close(found, torch.tensor([math.log(4) - 2 * math.log(2.0)]))


def test_nothing_overflows_in_many_dimensions() -> None:
    found = neighbor.log_density(None, 1e3 * torch.randn(30, 400), "pak")
    assert found.log_density.isfinite().all()
    assert repr(found).startswith("NeighborDensity(30 points, k from ")


def test_single_precision_stays() -> None:
    data = torch.randn(60, 2, dtype=torch.float32)
    for method in ("kstar", "pak"):
        found = neighbor.log_density(None, data, method)
        assert found.log_density.dtype == found.log_error.dtype == torch.float32
        double = neighbor.log_density(None, data.double(), method)
        torch.testing.assert_close(found.log_density.double(), double.log_density, atol=1e-4,
                                   rtol=0)  # fmt: skip


def test_refuses() -> None:
    data = torch.randn(20, 2)
    twice = torch.cat([data, data[:3]])
    message = "must hold no point twice where k is adapted, got 6 at distance 0 from another"
    with pytest.raises(ValueError, match=message):
        neighbor.log_density(None, twice, "kstar")
    with pytest.raises(ValueError, match="got 20 at distance 0"):
        neighbor.log_density(data.clone(), data, "pak")
    with pytest.warns(UserWarning, match="repeat"):
        graph = neighbors.graph(twice, 6)
    with pytest.raises(ValueError, match="got 3 at distance 0"):
        neighbor.log_density(None, graph, "kstar")
    with pytest.raises(ValueError, match="most_neighbors must be at least 4, got 3"):
        neighbor.log_density(None, data, "kstar", most_neighbors=3)
    with pytest.raises(ValueError, match="the number of points in data must be at least 5, got 4"):
        neighbor.log_density(None, data[:4], "pak")
    with pytest.raises(ValueError, match="num_neighbors of the graph must be at least 4, got 3"):
        neighbor.log_density(None, neighbors.graph(data, 3), "kstar")
    with pytest.raises(ValueError, match="x must be None where data is a neighbor graph"):
        neighbor.log_density(data, neighbors.graph(data, 5), "kstar")
