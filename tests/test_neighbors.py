import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import pplvae.neighbors.search as module
from pplvae.neighbors import neighbor_distances, neighbors
from pplvae.validation import Array


@pytest.fixture(params=["tree", "product"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to the answer, whatever the dimension."""
    monkeypatch.setattr(module, "TREE_MAX_DIM", 10**6 if request.param == "tree" else 0)
    return request.param


def full_sort(x: Tensor, num_neighbors: int, queries: Tensor | None = None) -> Tensor:
    """Every difference taken and squared, in units of the spread, in float64."""
    x = x.double()
    spread = (x - x[0]).abs().max()
    points = x if queries is None else queries.double()
    distances = torch.stack([((point - x) / spread).norm(dim=1) for point in points])
    if queries is None:
        distances.fill_diagonal_(torch.inf)
    return distances.sort(dim=1).values[:, :num_neighbors] * spread


def clusters() -> Tensor:
    return (torch.randn(6, 1, 5) + 1e-9 * torch.randn(6, 40, 5)).flatten(0, 1)


def lattice() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(4.0)] * 4)


HARD = {
    "normal": lambda: torch.randn(300, 4),
    "many points": lambda: torch.randn(1500, 12),
    "many columns": lambda: torch.randn(300, 60),
    "one column": lambda: torch.randn(300, 1),
    "three points": lambda: torch.randn(7, 3),
    "far away": lambda: 1e9 + torch.randn(300, 4),
    "small": lambda: 1e-16 * torch.randn(300, 4),
    "smaller than its square can be": lambda: 1e-160 * torch.randn(300, 4),
    "larger than its square can be": lambda: 1e150 * torch.randn(300, 4),
    "far columns that do not vary": lambda: torch.cat(
        [torch.randn(300, 5), torch.full((300, 55), 1e8)], dim=1
    ),
    "tight clusters far apart": clusters,
    "an outlier": lambda: torch.cat([torch.randn(300, 4), torch.full((2, 4), 1e12)]),
    "tripled rows": lambda: torch.randn(100, 4).repeat(3, 1),
    "a lattice": lattice,
    "all at one place": lambda: torch.cat([torch.ones(60, 3), torch.zeros(1, 3)]),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("num_neighbors", [1, 6])
def test_agrees_with_a_full_sort(name: str, num_neighbors: int, route: str) -> None:
    x = HARD[name]()
    found = neighbors(x, num_neighbors)
    # Sums of D squares, rounded in another order: a few units in the last place.
    expected = full_sort(x, num_neighbors)
    torch.testing.assert_close(found.distances, expected, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("name", HARD)
def test_indices_are_of_distinct_others_at_those_distances(name: str, route: str) -> None:
    x = HARD[name]()
    distances, indices = neighbors(x, 6)
    spread = (x - x[0]).abs().max()
    again = ((x.unsqueeze(1) - x[indices]) / spread).norm(dim=-1) * spread
    torch.testing.assert_close(again, distances, rtol=1e-14, atol=0.0)
    assert (indices != torch.arange(len(x)).unsqueeze(1)).all()
    assert (indices.sort(dim=1).values.diff(dim=1) > 0).all()
    assert indices.dtype == torch.int64


@pytest.fixture
def second_pass(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that the float32 product leaves open, as they come."""
    left, second = [], module._nearest_within
    monkeypatch.setattr(module, "TREE_MAX_DIM", 0)
    monkeypatch.setattr(
        module, "_nearest_within", lambda *args: left.extend(args[1].tolist()) or second(*args)
    )
    return left


@pytest.mark.parametrize("name", ["tight clusters far apart", "a lattice"])
def test_single_precision_knows_what_it_cannot_tell(name: str, second_pass: list[int]) -> None:
    neighbors(HARD[name](), 6)
    assert second_pass


@pytest.mark.parametrize("name", ["many points", "far away", "far columns that do not vary"])
def test_single_precision_is_enough_for_most_data(name: str, second_pass: list[int]) -> None:
    neighbors(HARD[name](), 6)
    assert not second_pass


def test_an_outlier_leaves_the_others_settled(second_pass: list[int]) -> None:
    neighbors(HARD["an outlier"](), 6)
    assert set(second_pass) <= {300, 301}  # the two that lie there


def test_picks_the_lowest_by_groups() -> None:
    values = torch.randn(50, 64 * module._GROUP)
    lowest, columns = module._lowest(values, 10)
    assert torch.equal(lowest, values.sort(dim=1).values[:, :10])
    assert torch.equal(values.gather(1, columns), lowest)


def test_bounds_hold_and_are_tight() -> None:
    x = torch.cat([torch.randn(200, 30), 1e-4 * torch.randn(200, 30)])
    search = module._Search(x, x, 1, own=False)
    for dtype, unit in [(torch.float32, 2.0**-24), (torch.float64, 2.0**-53)]:
        bounds = module._Bounds(search, dtype, num_copies=1)
        lower = bounds.rows(torch.arange(400))[:, :400].double()
        exact = ((x.unsqueeze(1) - x) / search.scale).square().sum(dim=-1)
        norms = search.centered(x).square().sum(dim=1)
        gap = exact - lower
        assert (gap >= 0).all()
        # The bound takes (2D + 16) u or, in float64, (6D + 48) u away, and rounding as much again.
        assert (gap <= 2 * (6 * 30 + 48) * unit * (norms.unsqueeze(1) + norms) + 1e-30).all()


def test_equal_distances_are_listed_by_index(route: str) -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert neighbors(x, 4).indices[0].tolist() == [1, 2, 3, 4]


def test_takes_queries(route: str) -> None:
    x, queries = torch.randn(200, 5), torch.randn(30, 5) * 3 + 1
    found = neighbors(x, 3, queries)
    torch.testing.assert_close(found.distances, full_sort(x, 3, queries), rtol=1e-14, atol=0.0)
    again = (queries.unsqueeze(1) - x[found.indices]).norm(dim=-1)
    torch.testing.assert_close(again, found.distances, rtol=1e-14, atol=0.0)


def test_a_query_on_a_point_finds_it(route: str) -> None:
    x = torch.randn(50, 3)
    found = neighbors(x, 1, x.clone())
    assert (found.distances == 0).all()
    assert found.indices.squeeze(1).tolist() == list(range(50))


def test_all_points_can_be_asked_for(route: str) -> None:
    x = torch.randn(50, 3)
    assert (neighbors(x, 49).indices.sort(dim=1).values.diff(dim=1) > 0).all()
    assert (neighbors(x, 50, x[:4]).indices.sort(dim=1).values == torch.arange(50)).all()


def test_keeps_small_distances_far_from_the_origin_in_single_precision(route: str) -> None:
    x = (1000 + torch.arange(40) / 64).float().unsqueeze(-1)
    assert (neighbor_distances(x, 1) == 1 / 64).all()


def test_single_precision_in_gives_the_nearest_single_precision_out(route: str) -> None:
    x = torch.randn(200, 6).float()
    found = neighbor_distances(x, 3)
    assert found.dtype == torch.float32
    # Computed in float64 and rounded once: half a unit in the last place of 24 bits.
    torch.testing.assert_close(found.double(), full_sort(x, 3), rtol=2.0**-24, atol=0.0)


@pytest.mark.parametrize("name", ["many columns", "a lattice"])
def test_does_not_depend_on_the_block_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TREE_MAX_DIM", 0)
    x = HARD[name]()
    expected = neighbors(x, 3)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 20_000)
    found = neighbors(x, 3)
    assert torch.equal(found.distances, expected.distances)
    assert torch.equal(found.indices, expected.indices)


def test_does_not_trust_products_of_reduced_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TREE_MAX_DIM", 0)
    x = torch.randn(200, 30)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu"):
            found = neighbor_distances(x, 3)
        assert not module._single_precision_holds()
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(found, full_sort(x, 3), rtol=1e-14, atol=0.0)


def test_takes_arrays_vectors_and_whole_numbers(route: str) -> None:
    assert neighbor_distances(np.array([0, 1, 3]), 1).flatten().tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("x", "k", "queries", "message"),
    [
        (torch.rand(10, 2), 12, None, r"num_neighbors must be in \[1, 9\] for 10 points, got 12"),
        (torch.rand(10, 2), 0, None, r"num_neighbors must be in \[1, 9\] for 10 points, got 0"),
        (torch.rand(10, 2), 11, torch.rand(1, 2), r"in \[1, 10\] for 10 points, got 11"),
        (torch.rand(10, 3), 1, torch.rand(4, 2), "x and queries must share D, got 3 and 2"),
        (torch.rand(1, 3), 1, None, "x must hold at least 2 points, got 1"),
        (torch.tensor([[0.0], [torch.nan]]), 1, None, "x must be finite, got 1 nan or inf"),
        (np.array([[-1e308], [1e308]]), 1, None, "x must spread over at most 1e300"),
    ],
)
def test_refuses(x: Array, k: int, queries: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbors(x, k, queries)


MEASURE = """
import resource, torch
from pplvae.neighbors import neighbor_distances
x = torch.rand(20_000, 784)
torch.rand(100, 100) @ torch.rand(100, 100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
neighbor_distances(x, 2, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_stays_of_the_order_of_the_data() -> None:
    run = [sys.executable, "-c", MEASURE]
    taken = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ).stdout
    # A float32 copy is 60 MiB, a block of bounds 128 MiB; the whole matrix would be 1526 MiB.
    assert int(taken) / 1024 < 500
