import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.intrinsic_dimension import parts
from pplvae.neighbors import NeighborGraph


def flat_torus(num_points: int, dim: int, seed: int) -> NeighborGraph:
    """Uniform points with no edge and no curvature: T is Gamma."""
    x = np.random.RandomState(seed).rand(num_points, dim)
    found = KDTree(x, boxsize=1.0).query(x, 11)
    distances, indices = (torch.as_tensor(part[:, 1:]) for part in found)
    rows = torch.arange(num_points)
    return NeighborGraph(distances, indices, rows, torch.ones_like(rows), None)


def joined(num_points: int, dims: tuple[int, int], gap: float, share: float = 0.5) -> Tensor:
    """A cube of each dimension, the lesser in one end of the other or apart from it."""
    low, high = dims
    first = round(share * num_points)
    x = torch.zeros(num_points, high + 1)
    x[:first, :low] = 2 * torch.rand(first, low)
    x[:first, 0] -= 2 + gap
    x[first:, :high] = torch.rand(num_points - first, high)
    return x


HOMOGENEOUS = {
    "bent": partial(manifolds.sample, "M4"),
    "rolled": partial(manifolds.sample, "swiss_roll"),
    "one-sided": partial(manifolds.sample, "moebius"),
    "closed": partial(manifolds.sample, "sphere", dimension=5),
    "edges": partial(manifolds.sample, "cube", dimension=3),
    "corners": partial(manifolds.sample, "cube", dimension=12),
    "uneven": partial(manifolds.sample, "gaussian", dimension=5),
    "noisy": partial(manifolds.sample, "paraboloid", noise=0.02),
    "M6": partial(manifolds.sample, "M6"),
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_one_dimension_is_not_taken_for_several(name: str) -> None:
    assert parts.find(neighbors.graph(HOMOGENEOUS[name](600, seed=0).x, 10)) == ()


@pytest.mark.parametrize("name", ["bent", "uneven", "one-sided"])
def test_what_passes_the_screen_is_not_split_without_need(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LEAST_SPREAD", 0.0)
    monkeypatch.setattr(parts, "LEAST_ERRORS", -math.inf)
    assert parts.find(neighbors.graph(HOMOGENEOUS[name](400, seed=1).x, 10)) == ()


@pytest.mark.slow
@pytest.mark.study
def test_one_dimension_is_taken_for_several_in_less_than_two_of_a_hundred_data_sets() -> None:
    wrong, names = 0, [n for n in manifolds.NAMES if n not in ("ball", "gaussian", "cube")]
    for seed in range(100, 104):
        for size in (300, 1000, 3000):
            wrong += sum(
                parts.find(neighbors.graph(manifolds.sample(name, size, seed=seed).x, 10)) != ()
                for name in names
            )
            for name in ("ball", "gaussian", "cube"):
                for d in (1, 2, 4, 8, 16):
                    x = manifolds.sample(name, size, dimension=d, seed=seed).x
                    wrong += parts.find(neighbors.graph(x, 10)) != ()
    assert wrong / (12 * (len(names) + 15)) < 0.02


@pytest.mark.parametrize("gap", [0.0, 10.0])
@pytest.mark.parametrize(("dims", "share"), [((2, 4), 0.5), ((2, 5), 0.8)])
def test_finds_parts_that_touch_or_lie_apart(
    dims: tuple[int, int], share: float, gap: float
) -> None:
    low, high = parts.find(neighbors.graph(joined(700, dims, gap, share), 10))
    assert low.share == pytest.approx(share, abs=0.08)
    assert high.share == pytest.approx(1 - share, abs=0.08)
    # Errors of 250 points or so, inflated; a part that runs into another bends at the border.
    assert low.dimension == pytest.approx(dims[0], abs=4 * low.standard_error)
    assert high.dimension == pytest.approx(dims[1], abs=4 * high.standard_error)
    assert 0.03 < low.standard_error < 0.1 * high.dimension


def test_of_many_points_some_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = neighbors.graph(joined(1000, (2, 4), 5.0), 10)
    monkeypatch.setattr(parts, "MOST_POINTS", 500)
    low, high = parts.find(graph, seed=3)
    assert low.share == pytest.approx(0.5, abs=0.1)
    assert low.dimension < 2.5 < 3 < high.dimension
    assert parts.find(graph, seed=3) == (low, high)
    bare = NeighborGraph(graph.distances, graph.indices, graph.rows, graph.multiplicities, None)
    assert parts.find(bare) == ()


@pytest.mark.parametrize("dimension", [1, 3])
def test_the_spread_of_one_dimension_is_that_of_a_gamma_law(dimension: int) -> None:
    found = [parts.spread(flat_torus(400, dimension, seed)) for seed in range(120)]
    ratios, errors = (torch.tensor(column) for column in zip(*found, strict=True))
    # Finite N lowers a variance by N / (N − 1) and what T's mean is off by: 2 % at most here.
    assert ratios.mean() == pytest.approx(1.0, abs=0.02 + 4 * ratios.std().item() / 120**0.5)
    assert ratios.std() < 0.3
    # Claimed errors rest on a fourth moment: to 30 %.
    assert errors.std() == pytest.approx(1.0, abs=0.3)


def test_two_dimensions_spread_as_their_means_do() -> None:
    # T / E T of d = 2 and 4 in halves: means 4/3 and 2/3 add 1/9 to (1/9) · E[mean²] = 10/81.
    halves = [flat_torus(4000, d, seed=1).distances for d in (2, 4)]
    graph = flat_torus(8000, 2, seed=2)
    mixed = NeighborGraph(torch.cat(halves), graph.indices, graph.rows, graph.multiplicities, None)
    expected = (1 / 9 + 10 / 81) * 9
    # Of 8000 points, of which one in three or so is independent: √(3 · 8 / 8000) of the ratio.
    assert parts.spread(mixed).ratio == pytest.approx(expected, rel=4 * math.sqrt(24 / 8000))
    assert parts.spread(mixed).errors > 10
