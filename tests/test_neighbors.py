import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.neighbors import (
    Neighbors,
    leafwise,
    neighbor_distances,
    neighbors,
    plan,
    product,
    search,
    selection,
    tree,
)
from pplvae.neighbors.leaves import Leaves
from pplvae.neighbors.question import Question, single_precision_holds
from pplvae.validation import Array

ROUTES = {"tree": (10**6, 10**6), "product": (10**6, 0), "leaves": (0, 0)}


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to the answer, whatever the dimension and the number of points."""
    least_columns, most_columns = ROUTES[request.param]
    monkeypatch.setattr(search, "LEAFWISE_MIN_DIM", least_columns)
    monkeypatch.setattr(search, "LEAFWISE_MIN_POINTS", 0)
    monkeypatch.setattr(search, "TREE_MAX_DIM", most_columns)
    monkeypatch.setattr(plan, "_LEAF", 20)
    return request.param


@pytest.fixture
def leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way by leaves, however few the points."""
    monkeypatch.setattr(search, "LEAFWISE_MIN_POINTS", 0)
    monkeypatch.setattr(plan, "_LEAF", 20)


@pytest.fixture
def threads() -> Iterator[None]:
    """Two threads, whatever the environment says, so that the search shares its work out."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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
    "tripled rows and more": lambda: torch.randn(30, 4)[torch.arange(300) % 30],
    "heavy tails": lambda: torch.randn(300, 4) / torch.randn(300, 4).abs() ** 5,
    "an outlier beyond single precision": lambda: torch.cat(
        [torch.randn(300, 4), torch.full((1, 4), 1e30)]
    ),
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
    left, second = [], product._nearest_within
    monkeypatch.setattr(search, "TREE_MAX_DIM", 0)
    monkeypatch.setattr(
        product, "_nearest_within", lambda *args: left.extend(args[2].tolist()) or second(*args)
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
    values = torch.randn(50, 64 * selection.GROUP)
    lowest, columns = selection.lowest(values, 10)
    assert torch.equal(lowest, values.sort(dim=1).values[:, :10])
    assert torch.equal(values.gather(1, columns), lowest)


def test_bounds_hold_and_are_tight() -> None:
    x = torch.cat([torch.randn(200, 30), 1e-4 * torch.randn(200, 30)])
    question = Question(x, x, 1, own=False)
    for dtype, unit in [(torch.float32, 2.0**-24), (torch.float64, 2.0**-53)]:
        bounds = product._Bounds(question, dtype, num_copies=1)
        lower = bounds.rows(torch.arange(400))[:, :400].double()
        exact = ((x.unsqueeze(1) - x) / question.scale).square().sum(dim=-1)
        norms = question.centered(x).square().sum(dim=1)
        gap = exact - lower
        assert (gap >= 0).all()
        # The bound takes (2D + 16) u or, in float64, (6D + 48) u away, and rounding as much again.
        assert (gap <= 2 * (6 * 30 + 48) * unit * (norms.unsqueeze(1) + norms) + 1e-30).all()


def clumps() -> Tensor:
    """Of which a leaf holds some, so that what is near is small beside what is far."""
    return (torch.randn(8, 1, 30) + 10.0 ** -torch.arange(8).view(-1, 1, 1)
            * torch.randn(8, 40, 30)).flatten(0, 1)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_bounds_of_leaves_hold(
    dtype: torch.dtype, projected: bool, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_LEAF", 40)
    x = clumps() + offset
    question = Question(x, x, 1, own=True)
    planned = plan.plan(question)
    axes = plan._principal_axes(question)[:, :8] if projected else None
    leaves = Leaves(question, planned._replace(directions=axes, dtype=dtype))
    exact = ((x.unsqueeze(1) - x) / question.scale).square().sum(dim=-1)
    exact = exact[leaves.rows][:, leaves.rows]
    everyone = torch.arange(len(leaves.rows))
    assert leaves.num == 8
    for leaf in range(leaves.num):
        places = leaves.places(leaf)
        bounds = (leaves.factors(leaf) @ leaves.seen(leaf, everyone).T).double()
        real = leaves.real[places].unsqueeze(1) & leaves.real
        assert (bounds <= exact[places])[real].all()
        assert bounds[~real].isposinf().all()
        gaps = leaves.gaps(everyone)[leaf].double()
        assert (gaps <= exact[places].amin(dim=0))[leaves.real].all()


def test_bounds_of_a_leaf_are_tight_however_far_from_the_origin_it_is() -> None:
    x = torch.cat([torch.randn(40, 8), 1000 + 1e-3 * torch.randn(40, 8)])
    question = Question(x, x, 1, own=True)
    two = plan.Plan(
        torch.arange(80).view(2, 40), torch.ones(2, 40, dtype=torch.bool), x, None, torch.float32
    )
    leaves = Leaves(question, two)
    bounds = leaves.factors(1) @ leaves.seen(1, leaves.places(1)).T
    exact = ((x[40:].unsqueeze(1) - x[40:]) / question.scale).square().sum(dim=-1)
    # Rounding is of the leaf's width, 1e-3; from the origin it would be 1e6 times the distances.
    far = ~torch.eye(40, dtype=torch.bool)
    assert ((exact - bounds.double()) <= 1e-3 * exact)[far].all()


def test_leaves_hold_every_point_once_and_fill_up_with_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "_LEAF", 40)
    x = torch.randn(350, 3)
    planned = plan.plan(Question(x, x, 2, own=True))
    assert planned.rows.shape[1] % selection.GROUP == 0
    assert planned.rows[planned.real].sort().values.tolist() == list(range(350))
    inside = x[planned.rows]
    # Halved along the widest column, leaves are far smaller than the data.
    widths = (inside.amax(dim=1) - inside.amin(dim=1)).mean(dim=0)
    assert (widths < 0.6 * (x.amax(dim=0) - x.amin(dim=0))).all()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked, distances = [], Question.distances

    def counts(self: Question, rows: Tensor, columns: Tensor) -> Tensor:
        asked.append(len(rows))
        return distances(self, rows, columns)

    monkeypatch.setattr(Question, "distances", counts)
    return asked


def test_leaves_leave_most_distances_uncomputed(
    leaves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, x = counted(monkeypatch), torch.randn(1000, 8)
    for points in (x, torch.cat([x, torch.full((1, 8), 1e30)]), x[:10].repeat(100, 1)):
        asked.clear()
        neighbors(points, 2)
        assert sum(asked) < 50 * len(x)  # of 1000 for each


def test_each_question_goes_the_way_that_is_fastest_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(name: str) -> Callable[..., Neighbors]:
        return lambda question, **_: taken.append(name) or Neighbors(question.x, question.x)

    taken = []
    for name, way in (("tree", tree), ("leaves", leafwise), ("product", product)):
        monkeypatch.setattr(way, "search", found(name))
    for num, dim, k, own in (
        (4096, 7, 16, True), (4096, 6, 1, True),
        (4095, 8, 1, True), (4096, 8, 17, True), (4096, 8, 1, False),
        (4095, 9, 1, True), (4096, 9, 17, True), (4096, 9, 1, False),
    ):  # fmt: skip
        x = torch.randn(num, dim)
        neighbors(x, k, None if own else x)
    assert taken == ["leaves", *["tree"] * 4, *["product"] * 3]
    taken.clear()
    crowd = torch.randn(4096, 3)
    crowd[:1500] = 0.0  # a tree would look at all of them from each
    neighbors(crowd, 1)
    neighbors(crowd, 1, crowd[:5])
    assert taken == ["leaves", "product"]


def test_where_single_precision_fails_the_second_pass_starts_from_better_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = counted(monkeypatch)
    x = torch.randn(2000, 10)
    x[5] = 1e30
    neighbors(x, 20)
    # Two times 28 candidates, and those that the exact reach cannot rule out: the 20 and a few.
    assert sum(asked) < 90 * len(x)


def test_columns_that_do_not_vary_are_no_obstacle_to_a_tree() -> None:
    x = torch.tensor([[1e12, 0.0], [1e12, 1e-300], [1e12, 3e-300]])
    found = neighbors(x, 1).distances.squeeze(1)
    torch.testing.assert_close(found, torch.tensor([1e-300, 1e-300, 2e-300]), atol=0, rtol=1e-15)
    far = neighbors(x, 1, torch.tensor([[1e12 + 1, 0.0]]))
    assert far.distances.item() == 1.0


@pytest.mark.parametrize("dim", [3, 12])
def test_says_how_far_it_is(
    dim: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = partial(tqdm, mininterval=0)
    for way in (tree, product):
        monkeypatch.setattr(way, "tqdm", lambda **o: impatient(**o | {"delay": 0}))
    neighbors(torch.randn(3000, dim), 40)
    assert "3000/3000" in capsys.readouterr().err
    neighbors(torch.randn(3000, dim), 40, progress=False)
    assert not capsys.readouterr().err


def test_a_thread_that_cannot_start_is_an_error_and_no_wait_for_ever(
    leaves: None, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        neighbors(torch.randn(500, 8), 2)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert torch.get_num_threads() == 2
    started[0].join(10)
    assert not started[0].is_alive()


def test_refuses_distances_that_the_dtype_does_not_hold() -> None:
    x = torch.tensor([[-3e38], [3e38]], dtype=torch.float32)
    with pytest.raises(ValueError, match=r"less than 3\.4e\+38, for it is in torch.float32"):
        neighbors(x, 1)
    assert neighbors(x.double(), 1).distances[0, 0].item() == pytest.approx(6e38)


def test_the_answer_is_the_same_again_and_with_more_threads(route: str, threads: None) -> None:
    x = HARD["tripled rows and more"]() if route == "leaves" else HARD["a lattice"]()
    found = [neighbors(x, 6) for _ in range(3)]
    torch.set_num_threads(1)
    found.append(neighbors(x, 6))
    for other in found[1:]:
        assert torch.equal(other.distances, found[0].distances)
        assert torch.equal(other.indices, found[0].indices)


def num_threads_of_a_new_thread() -> int:
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_number_of_threads_is_left_as_found(
    error: type[BaseException], leaves: None, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(500, 8)
    neighbors(x, 2)
    assert (torch.get_num_threads(), num_threads_of_a_new_thread()) == (2, 2)

    def fails(*_: object) -> None:
        assert (torch.get_num_threads(), num_threads_of_a_new_thread()) == (1, 2)
        raise error

    monkeypatch.setattr(leafwise._Seekers, "look_around", fails)
    with pytest.raises(error):
        neighbors(x, 2)
    assert (torch.get_num_threads(), num_threads_of_a_new_thread()) == (2, 2)


def test_searches_in_several_threads_at_once_leave_the_number_as_found(
    leaves: None, threads: None
) -> None:
    x, found = torch.randn(500, 8), []
    expected = neighbors(x, 2).distances
    many = [threading.Thread(target=lambda: found.append(neighbors(x, 2))) for _ in range(4)]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    assert all(torch.equal(one.distances, expected) for one in found)
    assert len(found) == 4
    assert (torch.get_num_threads(), num_threads_of_a_new_thread()) == (2, 2)


def test_works_on_points_that_want_gradients_and_in_inference_mode(
    leaves: None, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(500, 8)
    expected = neighbors(x, 2).distances
    with torch.inference_mode():
        assert torch.equal(neighbors(x.clone(), 2).distances, expected)
    parts, find = [], leafwise._found
    monkeypatch.setattr(leafwise, "_found", lambda *args: parts.append(find(*args)) or parts[-1])
    assert torch.equal(neighbors(x.clone().requires_grad_(), 2).distances, expected)
    assert not any(part.distances.requires_grad for part in parts)  # other threads keep no graph


def test_equal_distances_are_listed_by_index(route: str) -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert neighbors(x, 4).indices[0].tolist() == [1, 2, 3, 4]


def test_of_those_that_tie_for_the_last_place_the_first_are_listed(route: str) -> None:
    if route == "tree":
        pytest.skip("a tree lists any")
    x = lattice()[torch.randperm(256)]
    table = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    expected = table.fill_diagonal_(torch.inf).argsort(dim=1, stable=True)[:, :6]
    assert torch.equal(neighbors(x, 6).indices, expected)


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
    monkeypatch.setattr(search, "TREE_MAX_DIM", 0)
    x = HARD[name]()
    expected = neighbors(x, 3)
    monkeypatch.setattr(product, "_BLOCK_BYTES", 20_000)
    found = neighbors(x, 3)
    assert torch.equal(found.distances, expected.distances)
    assert torch.equal(found.indices, expected.indices)


def test_does_not_trust_products_of_reduced_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TREE_MAX_DIM", 0)
    x = torch.randn(200, 30)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu"):
            found = neighbor_distances(x, 3)
            planned = plan.plan(Question(x, x, 3, own=True))
        assert not single_precision_holds()
        assert planned.dtype == torch.float64
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
x = {}
torch.rand(100, 100) @ torch.rand(100, 100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
neighbor_distances(x, {}, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "k", "most"),
    [
        ("torch.rand(20_000, 784)", 2, 600),
        ("torch.rand(200_000, 10)", 2, 600),
        ("torch.rand(4000, 784)", 512, 600),
        ("torch.eye(1500)", 5, 400),
    ],
)
def test_memory_stays_of_the_order_of_the_data(make: str, k: int, most: int) -> None:
    run = [sys.executable, "-c", MEASURE.format(make, k)]
    taken = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ).stdout
    assert int(taken) / 1024 < most
