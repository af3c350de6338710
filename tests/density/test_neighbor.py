import math

import pytest
import torch
from scipy.special import polygamma, psi
from sklearn.neighbors import NearestNeighbors

from pplvae import neighbors
from pplvae.density import neighbor
from pplvae.intrinsic_dimension import twonn


def test_is_the_share_over_the_volume() -> None:
    x, data = torch.randn(20, 3), torch.randn(200, 3)
    radii = NearestNeighbors(n_neighbors=7).fit(data.numpy()).kneighbors(x.numpy())[0][:, -1]
    expected = 7 / (200 * 4 / 3 * math.pi * torch.as_tensor(radii) ** 3)
    found = neighbor.log_density(x, data, 7)
    torch.testing.assert_close(found.density, expected)
    torch.testing.assert_close(found.log_density, expected.log())
    torch.testing.assert_close(found.error, expected / math.sqrt(7))


@pytest.mark.parametrize("same", [True, False])
def test_at_the_data_no_point_counts_itself(same: bool) -> None:
    data = torch.tensor([0.0, 1.0, 3.0, 10.0])
    found = neighbor.log_density(data if same else None, data, 2)
    # Each of four sees three others; the second nearest is at 3, 2, 3, 9 and the ball is 2 r long.
    expected = 2 / (3 * 2 * torch.tensor([3.0, 2.0, 3.0, 9.0]))
    torch.testing.assert_close(found.density, expected)


def test_a_copy_of_the_data_is_other_points() -> None:
    data = torch.tensor([0.0, 1.0, 3.0, 10.0])
    found = neighbor.log_density(data.clone(), data, 2)
    torch.testing.assert_close(found.density, 2 / (4 * 2 * torch.tensor([1.0, 1.0, 2.0, 7.0])))


def test_has_the_mean_and_spread_of_a_gamma_law() -> None:
    # Uniform on a circle of length one, N p V_d r_k^d ~ Gamma(k): the log of the estimate has mean
    # log k - ψ(k) and variance ψ'(k).
    k, num_points, num_queries = 10, 200_000, 2000
    data = torch.rand(num_points)
    wrapped = torch.cat([data[data > 0.9] - 1, data, data[data < 0.1] + 1])
    x = (torch.arange(num_queries) + 0.5) / num_queries
    found = neighbor.log_density(x, wrapped, k).log_density
    found = found + math.log(len(wrapped) / num_points)
    spread = math.sqrt(polygamma(1, k))
    # Five standard errors; the queries are 100 points apart and share no neighbors.
    assert found.mean().item() == pytest.approx(
        math.log(k) - psi(k), abs=5 * spread / math.sqrt(num_queries)
    )
    # The standard error of a variance of 2000 values with kurtosis near 3.2: √(2.2 / 2000).
    assert found.var().item() == pytest.approx(spread**2, rel=5 * math.sqrt(2.2 / num_queries))


def test_error_covers_the_truth_as_often_as_the_gamma_law_says() -> None:
    # p̂ = k p / G with G ~ Gamma(k): |p̂ - p| ≤ p̂ / √k where |k - G| ≤ √k, with probability
    # F(k + √k) - F(k - √k) = 0.685 for k = 20.
    k, num_queries = 20, 2000
    data = torch.rand(200_000)
    x = 0.01 + 0.98 * (torch.arange(num_queries) + 0.5) / num_queries
    found = neighbor.log_density(x, data, k)
    covered = ((found.density - 1).abs() <= found.error).double().mean().item()
    ends = torch.tensor([k - math.sqrt(k), k + math.sqrt(k)])
    low, high = torch.special.gammainc(torch.tensor(float(k)), ends).tolist()
    share = high - low
    assert covered == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / num_queries))


def test_takes_the_dimension_of_a_manifold() -> None:
    # A line in five dimensions is as dense as it is on paper.
    data = torch.rand(300, 1)
    direction = torch.linalg.qr(torch.randn(5, 1)).Q.T
    line = neighbor.log_density(None, data @ direction, 5, 1)
    torch.testing.assert_close(line.log_density, neighbor.log_density(None, data, 5).log_density)
    broken = neighbor.log_density(None, data @ direction, 5, 1.5).log_density
    radii = (line.log_density - math.log(5 / 299 / 2)) / -1.0
    volume = 0.75 * math.log(math.pi) - math.lgamma(1.75)
    torch.testing.assert_close(broken, math.log(5 / 299) - volume - 1.5 * radii)


def test_stays_finite_in_a_thousand_dimensions() -> None:
    found = neighbor.log_density(None, torch.randn(30, 1000), 3)
    assert found.log_density.isfinite().all()


def test_moves_with_the_units() -> None:
    data = torch.randn(100, 3)
    here = neighbor.log_density(None, data, 4).log_density
    there = neighbor.log_density(None, 8 * data, 4).log_density
    torch.testing.assert_close(there, here - 3 * math.log(8))
    moved = neighbor.log_density(None, data + 1e8, 4).log_density
    torch.testing.assert_close(moved, here, rtol=0.0, atol=1e-5)  # 1e8 leaves eight digits


def test_a_neighbor_graph_spares_the_search_and_counts_copies_as_observations() -> None:
    x = torch.randn(200, 3)
    data = torch.cat([x, x[:40], x[:20], x[:5]])[torch.randperm(265)]
    with pytest.warns(UserWarning, match="65 of 265 points repeat"):
        graph = neighbors.graph(data, 12)
    for k in (4, 7, 12):
        found = neighbor.log_density(None, graph, k)
        rows = neighbor.log_density(None, data, k).log_density
        torch.testing.assert_close(found.log_density, rows[graph.rows], rtol=0, atol=0)
    narrow = neighbor.log_density(None, graph, 5, dimension=1.7).log_density
    expected = neighbor.log_density(None, data, 5, dimension=1.7).log_density[graph.rows]
    torch.testing.assert_close(narrow, expected, rtol=0, atol=0)


def test_a_graph_of_distances_alone_needs_a_dimension() -> None:
    x = torch.randn(40, 2)
    graph = neighbors.from_distances((x - x.unsqueeze(1)).norm(dim=2))
    found = neighbor.log_density(None, graph, 3, dimension=2).log_density
    torch.testing.assert_close(found, neighbor.log_density(None, x, 3).log_density)
    with pytest.raises(ValueError, match="dimension must be given where only distances are known"):
        neighbor.log_density(None, graph, 3)
    with pytest.raises(ValueError, match="x must be None where data is a neighbor graph"):
        neighbor.log_density(x, graph, 3)
    with pytest.raises(ValueError, match=r"in \[1, 39\] for a graph of 39 neighbors, got 40"):
        neighbor.log_density(None, graph, 40, dimension=2)


def test_refuses_copies_that_leave_no_ball() -> None:
    data = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0])
    message = "more than the copies of a point in data, got 2, at distance 0 from 3 points"
    with pytest.raises(ValueError, match=message):
        neighbor.log_density(None, data, 2)
    assert neighbor.log_density(None, data, 3).density.isfinite().all()
    with pytest.warns(UserWarning, match="2 of 5"):
        graph = neighbors.graph(data + 0.1 * data.square(), 2)
    with pytest.raises(ValueError, match="got 2, at distance 0 from 1 points"):
        neighbor.log_density(None, graph, 2)


def test_refuses() -> None:
    data = torch.randn(10, 3)
    with pytest.raises(
        ValueError, match=r"num_neighbors must be in \[1, 9\] for 10 points, got 10"
    ):
        neighbor.log_density(data, data, 10)
    with pytest.raises(ValueError, match="dimension must be positive, got 0"):
        neighbor.log_density(None, data, 2, 0)
    with pytest.raises(ValueError, match="x and data must share D, got 2 and 3"):
        neighbor.log_density(data[:, :2], data, 2)


def test_the_unbiased_form_has_the_mean_and_error_of_the_gamma_law() -> None:
    # As above: log p̂ = ψ(k) - log(N V r) has mean log p = 0 and standard deviation √ψ'(k).
    k, num_points, num_queries = 3, 100_000, 2000
    data = torch.rand(num_points)
    wrapped = torch.cat([data[data > 0.9] - 1, data, data[data < 0.1] + 1])
    x = (torch.arange(num_queries) + 0.5) / num_queries
    found = neighbor.log_density(x, wrapped, k, unbiased=True)
    spread = math.sqrt(polygamma(1, k))
    mean = (found.log_density + math.log(len(wrapped) / num_points)).mean().item()
    assert mean == pytest.approx(0, abs=5 * spread / math.sqrt(num_queries))
    torch.testing.assert_close(found.log_error, torch.full((num_queries,), spread))
    plain = neighbor.log_density(x, wrapped, k)
    torch.testing.assert_close(
        plain.log_density - found.log_density,
        torch.full((num_queries,), math.log(k) - float(psi(k))),
    )


def test_draws_of_the_dimension_give_a_mean_and_widen_the_error() -> None:
    data, draws = torch.randn(100, 4), 2.5 + torch.rand(2, 30)
    found = neighbor.log_density(None, data, 6, draws)
    each = torch.stack(
        [neighbor.log_density(None, data, 6, d.item()).log_density for d in draws.flatten()]
    )
    torch.testing.assert_close(found.log_density, each.mean(0))
    torch.testing.assert_close(found.log_error, (each.var(0, correction=0) + 1 / 6).sqrt())
    torch.testing.assert_close(found.error, found.density * found.log_error)


def test_the_posterior_of_twonn_is_carried_through() -> None:
    data = torch.randn(300, 3)
    posterior = twonn.posterior(data)
    found = neighbor.log_density(None, data, 10, posterior)
    draws = posterior.distribution.sample((100_000,))
    expected = neighbor.log_density(None, data, 10, draws)
    # A mean of 1e5 draws errs by 0.3 % of their spread, their spread itself by 0.2 %, and the
    # quantiles leave out 0.4 % of the variance.
    wide = (expected.log_error.square() - 0.1).sqrt()
    assert ((found.log_density - expected.log_density).abs() < 0.015 * wide + 1e-4).all()
    torch.testing.assert_close(found.log_error, expected.log_error, rtol=0.01, atol=0)
    assert (found.log_error > math.sqrt(0.1)).all()
    calibrated = neighbor.log_density(None, data, 10, twonn.posterior(data, calibrated=True))
    assert calibrated.log_density.isfinite().all()
    pak = neighbor.log_density(None, data, "pak", posterior)
    fixed = neighbor.log_density(None, data, "pak", posterior.dimension)
    assert (pak.log_error > fixed.log_error).all()


def test_pak_takes_the_mean_over_the_dimension() -> None:
    # Three nodes are exact where F is a parabola in d; over ± 0.1 it nearly is.
    data = torch.randn(80, 3)
    draws = torch.linspace(2.4, 2.6, 21)
    found = neighbor.log_density(None, data, "pak", draws, most_neighbors=12)
    each = torch.stack([
        neighbor.log_density(None, data, "pak", d.item(), most_neighbors=12).log_density
        for d in draws
    ])  # fmt: skip
    k = found.num_neighbors
    assert isinstance(k, torch.Tensor)
    sizes = [
        torch.as_tensor(neighbor.log_density(None, data, "pak", d.item(), most_neighbors=12)
                        .num_neighbors)
        for d in draws
    ]  # fmt: skip
    same = (torch.stack(sizes) == k).all(0)
    assert same.sum() > 40
    torch.testing.assert_close(found.log_density[same], each.mean(0)[same], rtol=0, atol=1e-5)
    own = (4 * k + 2) / (k * (k - 1))
    expected = (own + each.var(0, correction=0)).sqrt()
    torch.testing.assert_close(found.log_error[same], expected[same], rtol=1e-4, atol=0)


def test_refuses_what_is_no_dimension() -> None:
    data = torch.randn(10, 3)
    with pytest.raises(ValueError, match=r"dimension must be positive, got \[-1.0, 2.0\]"):
        neighbor.log_density(None, data, 2, torch.tensor([-1.0, 2.0]))
    with pytest.raises(ValueError, match="dimension must hold at least 1 draw, got none"):
        neighbor.log_density(None, data, 2, torch.zeros(0))
    with pytest.raises(ValueError, match="num_neighbors must be one of kstar, pak, got 'k'"):
        neighbor.log_density(None, data, "k")
    with pytest.raises(ValueError, match="unbiased must be False for 'pak', got True"):
        neighbor.log_density(None, data, "pak", unbiased=True)
