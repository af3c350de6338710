import pytest
import torch
from torch import Tensor

from pplvae import neighbors
from pplvae.neighbors import NeighborGraph, as_graph, from_distances, graph


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
    expected, found = graph(x, 5), from_distances(all_distances(x), 5)
    torch.testing.assert_close(found.distances, expected.distances)
    assert torch.equal(found.indices, expected.indices)
    assert found.points is None
    assert from_distances(all_distances(x)).num_neighbors == 59


def test_repeats_in_a_table_of_distances_are_dropped(x: Tensor) -> None:
    table = torch.cat([x, x[7:9]])
    with pytest.warns(UserWarning, match="2 of 62 points repeat another"):
        found = from_distances(all_distances(table), 5)
    assert torch.equal(found.indices, graph(x, 5).indices)
    assert found.multiplicities[7:9].tolist() == [2, 2]


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
    with pytest.raises(ValueError, match=r"distances must have shape \(N, N\), got \(60, 3\)"):
        from_distances(x)
    with pytest.raises(ValueError, match="at least 0, and 0 from each point to itself"):
        from_distances(table + 1)
    table[0, 1] *= 2
    with pytest.raises(ValueError, match="the same both ways"):
        from_distances(table)


def test_refuses_more_neighbors_than_distinct_points(x: Tensor) -> None:
    few = x[:4].repeat(3, 1)
    with (
        pytest.warns(UserWarning, match="8 of 12"),
        pytest.raises(ValueError, match=r"in \[1, 3\] for 4 distinct points, got 4"),
    ):
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
