import math

import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from pplvae import neighbors
from pplvae.intrinsic_dimension import dependence, twonn
from pplvae.intrinsic_dimension.dependence import variance_inflation


def torus(num_points: int, dim: int) -> neighbors.NeighborGraph:
    """The two nearest neighbors of points uniform on the flat torus, which has no edges."""
    u = torch.rand(num_points, dim).numpy()
    distances, indices = KDTree(u, boxsize=1.0).query(u, 3)
    return neighbors.from_distances(distances[:, 1:], indices[:, 1:])


def by_hand(scores: Tensor, indices: Tensor) -> float:
    """The formula with the whole matrix A."""
    sets = [{i, *row} for i, row in enumerate(indices.tolist())]
    meets = torch.tensor([[float(bool(a & b)) for b in sets] for a in sets])
    z = scores - scores.mean()
    return (z @ meets @ z / z.square().sum() / (1 - meets.mean())).item()


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_the_factor_is_that_of_the_whole_matrix(
    reach: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = neighbors.graph(torch.randn(120, 3), 6)
    expected = by_hand(graph.log_ratio, graph.indices[:, :reach])
    assert expected > 1
    assert variance_inflation(graph.log_ratio, graph, reach) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(dependence, "_MOST_PAIRS", 50)
    assert variance_inflation(graph.log_ratio, graph, reach) == pytest.approx(expected, rel=1e-12)


def test_it_is_the_variance_of_twonn_s_estimate_over_the_nominal_one() -> None:
    estimates, factors = [], []
    for _ in range(300):
        graph = torus(200, 2)
        found = twonn.posterior(graph, 0.0, 0.0)
        estimates.append(found.dimension)
        factors.append(found.inflation)
    # The variance of 300 values is known to √(2/300) = 8 %; three of that.
    nominal = torch.tensor(estimates).mean().square() / 200
    ratio = torch.tensor(estimates).var() / nominal
    assert torch.tensor(factors).mean() == pytest.approx(ratio.item(), rel=0.25)
    assert 1.3 < ratio < 1.9


def test_scores_that_do_not_vary_or_repel_inflate_nothing() -> None:
    graph = neighbors.graph(torch.arange(40.0).unsqueeze(1) ** 1.01, 2)
    assert variance_inflation(torch.ones(40), graph, 2) == 1.0
    assert variance_inflation((-1.0) ** torch.arange(40), graph, 1) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_posterior_s_interval_holds_the_truth_as_often_as_it_says(dim: int) -> None:
    num_sets, tempered, plain = 400, 0, 0
    for _ in range(num_sets):
        graph = torus(1000, dim)
        low, high = twonn.posterior(graph).interval()
        tempered += low < dim < high
        low, high = twonn.posterior(graph, inflation=1.0).interval()
        plain += low < dim < high
    # Three standard deviations of a count of 400 at 0.94.
    assert tempered / num_sets > 0.94 - 3 * math.sqrt(0.94 * 0.06 / num_sets)
    assert plain / num_sets < 0.93


def test_refuses_scores_of_other_points_and_a_reach_beyond_the_graph() -> None:
    graph = neighbors.graph(torch.randn(20, 2), 3)
    with pytest.raises(ValueError, match="scores must be one for each of 20 points, got 19"):
        variance_inflation(torch.randn(19), graph, 2)
    with pytest.raises(ValueError, match=r"reach must be in \[1, 3\] neighbors of the graph"):
        variance_inflation(torch.randn(20), graph, 4)
