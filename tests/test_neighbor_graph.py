import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from pplvae import neighbors
from pplvae.intrinsic_dimension import gride, hidalgo, levina_bickel, twonn
from pplvae.neighbors import (
    NeighborGraph,
    as_graph,
    copies,
    from_distances,
    graph,
    neighbor_graph,
)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(60, 3)


def all_distances(x: Tensor) -> Tensor:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def test_a_graph_of_distinct_points_holds_the_search_s_neighbors(x: Tensor) -> None:
    found, expected = graph(x, 5), neighbors.neighbors(x, 5)
    assert torch.equal(found.distances, expected.distances)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.rows, torch.arange(60))
    assert found.num_repeats == 0
    assert found.points is not None
    assert torch.equal(found.points, x)


def test_repeats_are_dropped_counted_and_their_first_rows_named(x: Tensor) -> None:
    clean = graph(x, 4)
    table = torch.cat([x[:10], x[:3], x[10:], x[:1]])
    with pytest.warns(UserWarning, match="4 of 64 points repeat another and were dropped"):
        found = graph(table, 4)
    assert torch.equal(found.distances, clean.distances)
    assert torch.equal(found.indices, clean.indices)
    assert torch.equal(table[found.rows], x)
    assert found.multiplicities[:4].tolist() == [3, 2, 2, 1]
    assert found.num_repeats == 4
    assert repr(found) == "NeighborGraph(60 points, 4 neighbors, 4 repeats dropped)"


def test_a_table_of_distances_gives_the_graph_of_its_points(x: Tensor) -> None:
    expected, found = graph(x, 5), from_distances(all_distances(x), num_neighbors=5)
    torch.testing.assert_close(found.distances, expected.distances)
    assert torch.equal(found.indices, expected.indices)
    assert found.points is None
    assert from_distances(all_distances(x)).num_neighbors == 59


def test_repeats_in_a_table_of_distances_are_dropped(x: Tensor) -> None:
    table = torch.cat([x, x[7:9]])
    with pytest.warns(UserWarning, match="2 of 62 points repeat another"):
        found = from_distances(all_distances(table), num_neighbors=5)
    assert torch.equal(found.indices, graph(x, 5).indices)
    assert found.multiplicities[7:9].tolist() == [2, 2]


def test_the_nearest_that_another_package_found_give_the_same_graph(x: Tensor) -> None:
    expected = graph(x, 5)
    distances, indices = NearestNeighbors(n_neighbors=5).fit(x.numpy()).kneighbors()
    found = from_distances(distances, indices)
    torch.testing.assert_close(found.distances, expected.distances)
    assert torch.equal(found.indices, expected.indices)
    assert found.points is None
    assert from_distances(distances, indices, num_neighbors=3).num_neighbors == 3
    assert twonn.posterior(found).interval() == pytest.approx(twonn.posterior(x).interval())


def test_refuses_nearest_that_are_none(x: Tensor) -> None:
    search = NearestNeighbors(n_neighbors=4).fit(x.numpy())
    distances, indices = map(torch.as_tensor, search.kneighbors())
    with_self = search.kneighbors(x.numpy())
    with pytest.raises(ValueError, match="must not hold a point itself, got 60 that do: drop it"):
        from_distances(*with_self)
    for wrong, message in (
        (indices[:, :3], r"must share the shape \(N, k\), got \(\(60, 4\), \(60, 3\)\)"),
        (indices.double(), "indices must be whole numbers, got float64"),
        (indices + 1, r"indices must be in \[0, 59\], got 1 to 60"),
        (indices[:, [0, 0, 2, 3]], "indices must name each neighbor once"),
    ):
        with pytest.raises(ValueError, match=message):
            from_distances(distances, wrong)
    with pytest.raises(ValueError, match="distances must be nearest first"):
        from_distances(distances.flip(1), indices)
    distances[7, 0] = 0.0
    with pytest.raises(ValueError, match="distances must be positive, got 1 points at 0 from"):
        from_distances(distances, indices)


def test_a_table_of_distances_taken_for_points_is_noticed(x: Tensor) -> None:
    products = torch.cdist(x.float(), x.float(), compute_mode="use_mm_for_euclid_dist")
    for table in (all_distances(x), products):
        with pytest.warns(UserWarning, match=r"60 points .*: neighbors.from_distances\(x\) reads"):
            graph(table, 3)
    covariance = x.T @ x
    for square in (x[:3], covariance, covariance - covariance.diagonal().diag()):
        graph(square, 2)  # warnings are errors


def test_ties_are_said_once_by_whoever_makes_the_graph() -> None:
    places = torch.cartesian_prod(torch.arange(9.0), torch.arange(9.0))
    message = r"100% of the points have both .* as on a lattice"
    with pytest.warns(UserWarning, match=message) as said:
        found = graph(places, 5)
    assert len(said) == 1
    assert found.tied == 1.0
    levina_bickel.estimate(found, 5)  # warnings are errors
    with pytest.warns(UserWarning, match="as on a lattice"):
        levina_bickel.estimate(places, 5)
    with pytest.warns(UserWarning, match="as on a lattice"):
        from_distances(all_distances(places))
    assert graph(places, 1).tied == 0.0


def test_warnings_point_at_the_line_that_gave_the_points(x: Tensor) -> None:
    table = torch.cat([x, x[:3]])
    for estimate in (graph, twonn.posterior, levina_bickel.estimate, hidalgo.fit):
        with pytest.warns(UserWarning, match="3 of 63 points") as said:
            estimate(table)
        assert [warning.filename for warning in said] == [__file__]
    with pytest.warns(UserWarning, match="ratios is") as said:
        gride.maximum_likelihood(5 + torch.rand(100))
    assert [warning.filename for warning in said] == [__file__]


def test_a_wider_graph_is_narrowed(x: Tensor) -> None:
    wide, narrow = graph(x, 9), graph(x, 4)
    found = as_graph(wide, 4)
    assert torch.equal(found.distances, narrow.distances)
    assert torch.equal(found.indices, narrow.indices)
    assert isinstance(as_graph(x, 2), NeighborGraph)
    with pytest.raises(ValueError, match=r"in \[1, 4\] for a graph of 4 neighbors, got 5"):
        as_graph(narrow, 5)


def test_single_precision_points_have_distances_in_double(x: Tensor) -> None:
    found = graph(x.float(), 3)
    assert found.distances.dtype == torch.float64
    assert torch.equal(found.distances, graph(x.float().double(), 3).distances)


def test_refuses_what_is_no_table_of_distances(x: Tensor) -> None:
    table = all_distances(x)
    with pytest.raises(ValueError, match=r"distances must have shape \(N, N\), or come with"):
        from_distances(x)
    with pytest.raises(ValueError, match="at least 0, and 0 from each point to itself"):
        from_distances(table + 1)
    table[0, 1] *= 2
    with pytest.raises(ValueError, match="the same both ways"):
        from_distances(table)


def test_refuses_more_neighbors_than_distinct_points(x: Tensor) -> None:
    few = x[:4].repeat(3, 1)
    with pytest.raises(ValueError, match=r"in \[1, 3\] for 4 distinct points, got 4"):
        graph(few, 4)
    with pytest.raises(ValueError, match=r"in \[1, 59\] for 60 points, got 60"):
        graph(x, 60)
    with pytest.raises(ValueError, match="distinct points must be at least 3, got 2"):
        graph(x[:2])
    with pytest.raises(ValueError, match="x must be finite"):
        graph(torch.tensor([[0.0], [float("nan")]]), 1)


def test_the_width_is_a_power_of_two_up_to_a_quarter_of_the_distinct_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.rand(300, 1)
    assert graph(x).num_neighbors == 64
    assert [graph(x[:n]).num_neighbors for n in (3, 5)] == [2, 2]
    with pytest.warns(UserWarning, match="900 of 960"):
        assert graph(x[:60].repeat(16, 1)).num_neighbors == 8
    monkeypatch.setattr("pplvae.neighbors.neighbor_graph._MOST_ENTRIES", 10_000)
    assert graph(x).num_neighbors == 32
    monkeypatch.setattr("pplvae.neighbors.neighbor_graph._MOST_ENTRIES", 3000)
    assert graph(x).num_neighbors == 16


def test_copies_are_found_whatever_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 4, (500, 3)).double()
    x[7] = -0.0 * x[7].abs()
    rows, counts = copies.distinct(x)
    values, expected = x.unique(dim=0, return_counts=True)
    order = np.lexsort(x[rows].T.flip(0).numpy())
    assert torch.equal(x[rows][order], values + 0.0)
    assert torch.equal(counts[order], expected)
    assert (rows.diff() > 0).all()
    assert not any((x[row] == x[:row]).all(dim=1).any() for row in rows.tolist())
    monkeypatch.setattr(copies, "_keys", lambda x: torch.zeros(len(x), dtype=torch.int64))
    again = copies.distinct(x)  # all rows share their key
    assert torch.equal(again[0], rows)
    assert torch.equal(again[1], counts)


def test_many_copies_cost_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searched, search = [], neighbor_graph.neighbors
    monkeypatch.setattr(
        neighbor_graph,
        "neighbors",
        lambda x, *a, **o: searched.append(len(x)) or search(x, *a, **o),
    )
    x = torch.rand(3000, 2)
    x[:2000] = 0.5
    with pytest.warns(UserWarning, match="1999 of 3000 points repeat"):
        graph(x, 3)
    assert searched == [1001]


def test_a_graph_keeps_no_gradient() -> None:
    points = graph(torch.rand(50, 2).requires_grad_(), 3).points
    assert points is not None
    assert not points.requires_grad
