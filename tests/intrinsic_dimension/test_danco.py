import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from torch import Tensor

from pplvae.data import manifolds
from pplvae.intrinsic_dimension import balls, danco
from pplvae.neighbors import from_distances, graph


def ball(num_points: int, dim: int, seed: int) -> np.ndarray:
    """Uniform in the unit ball: a normal direction, its radius by the law of its square."""
    x = np.random.RandomState(seed).normal(size=(num_points, dim))
    square = (x**2).sum(axis=1, keepdims=True)
    return x * special.gammainc(dim / 2, square / 2) ** (1 / dim) / np.sqrt(square)


def points(name: str, num_points: int = 1000, **options: int) -> Tensor:
    return manifolds.sample(name, num_points, seed=0, **options).x


def nearest(rho: np.ndarray, dimension: float, num_neighbors: int) -> np.ndarray:
    """The density of r_1 / r_(k+1): the least of k uniform volumes."""
    k, d = num_neighbors, dimension
    return k * d * rho ** (d - 1) * (1 - rho**d) ** (k - 1)


def test_reproduces_the_distances_law_of_others() -> None:
    """Published figures (MiND_MLk, k = 20) on these very points, found by a search to 1e-6."""
    for num_points, expected in ((30, 3.696083548872364), (300, 4.41445943432498)):
        x = np.hstack([ball(num_points, 5, 0), np.zeros((num_points, 5))])
        found = danco.statistics(graph(x, 21))["distance"]
        assert found == pytest.approx(expected, abs=2e-5)


def test_the_distances_law_has_the_greatest_likelihood() -> None:
    found = graph(points("M4"), 8)
    rho = (found.distances[:, 0] / found.distances[:, -1]).numpy()
    best = optimize.minimize_scalar(
        lambda d: -np.log(nearest(rho, d, 7)).sum(), bounds=(0.1, 50), options={"xatol": 1e-9}
    )
    assert danco.statistics(found)["distance"] == pytest.approx(best.x, rel=1e-6)


def test_angles_are_those_of_a_slow_version() -> None:
    x, k = points("M3", 60), 6
    found = graph(x, k + 1)
    means, concentrations = [], []
    for i in range(len(x)):
        steps = (x[found.indices[i, :k]] - x[i]).numpy()
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        angles = np.arccos((steps @ steps.T)[np.triu_indices(k, 1)])
        length = np.hypot(np.cos(angles).mean(), np.sin(angles).mean())
        means.append(stats.circmean(angles, high=np.pi, low=-np.pi))
        concentrations.append(
            optimize.brentq(lambda t, r: special.i1e(t) / special.i0e(t) - r, 1e-9, 1e5, (length,))
        )
    statistics = danco.statistics(found)
    assert statistics["angle"] == pytest.approx(stats.circmean(means, high=np.pi, low=-np.pi))
    assert statistics["concentration"] == pytest.approx(np.mean(concentrations), rel=1e-9)


def test_concentrations_invert_the_mean_resultant_length() -> None:
    concentrations = torch.logspace(-4, math.log10(900), 200)
    lengths = torch.special.i1e(concentrations) / torch.special.i0e(concentrations)
    found = danco._concentration(lengths)
    torch.testing.assert_close(found, concentrations, rtol=1e-9, atol=1e-12)
    assert danco._concentration(torch.ones(1)).item() == pytest.approx(1000, rel=1e-3)


def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = graph(points("M6", 200), 11)
    whole = danco.statistics(found)
    monkeypatch.setattr(danco, "_BLOCK_BYTES", 8 * 10 * 36 * 7)
    assert danco.statistics(found) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("num_neighbors", [3, 10, 25])
@pytest.mark.parametrize(("own", "other"), [(3.0, 4.0), (2.0, 1.0), (10.0, 17.0), (5.0, 5.0)])
def test_the_divergence_of_distances_is_its_integral(
    own: float, other: float, num_neighbors: int
) -> None:
    def integrand(rho: float) -> float:
        p, q = (nearest(np.asarray(rho), d, num_neighbors) for d in (own, other))
        return float(p * np.log(p / q)) if p > 0 else 0.0

    expected = integrate.quad(integrand, 0, 1, limit=200)[0]
    found = danco.distance_divergence(np.asarray(other / own), num_neighbors)
    # Binomials of 25 reach 5e6 and cancel: 1e-16 × 5e6 × 24 terms × ψ of about 3.
    assert found == pytest.approx(expected, abs=1e-6 if num_neighbors == 25 else 1e-9)


@pytest.mark.parametrize("other", [(1.4, 5.0), (3.0, 0.2), (1.5, 300.0), (1.4, 30.0)])
def test_the_divergence_of_angles_is_its_integral(other: tuple[float, float]) -> None:
    own = 1.4, 30.0
    grid = np.linspace(-np.pi, np.pi, 20_001)[:-1]
    log_p, log_q = (stats.vonmises(tau, loc=nu).logpdf(grid) for nu, tau in (own, other))
    expected = (np.exp(log_p) * (log_p - log_q)).mean() * 2 * np.pi  # exact for smooth periodic
    found = danco.angle_divergence(*own, *(np.array([part]) for part in other))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 17, 45])
def test_finds_the_dimension_of_a_ball(dimension: int) -> None:
    """Of one drawn with another seed; the continuous answer strays by 1 % (standard deviation)."""
    x = manifolds.sample("ball", 1500, dimension=dimension, ambient=60, seed=1).x
    found = danco.estimate(x)
    assert found.dimension == pytest.approx(dimension, rel=0.035)
    if dimension < 20:
        assert found.integer == dimension


def test_finds_the_dimension_where_distances_alone_are_fooled() -> None:
    found = danco.estimate(points("M10d", 2500))
    assert found.distance < 45
    assert found.dimension == pytest.approx(70, rel=0.03)
    assert found.integer == pytest.approx(70, abs=2)


def test_a_curve_is_of_dimension_one_wherever_it_winds() -> None:
    for name in ("M13", "helix"):
        found = danco.estimate(points(name, 2500))
        assert found.integer == 1
        # The distances' law of 2500 points has a standard error of 0.9 %.
        assert found.dimension == pytest.approx(1, abs=0.035)


@pytest.mark.parametrize("num_points", [100, 300, 1000])
def test_few_points_tell_a_curve_from_a_surface(num_points: int) -> None:
    for seed in range(5):
        curve = manifolds.sample("M13", num_points, seed=seed).x
        assert danco.estimate(curve).integer == 1
        turns = 2 * math.pi * torch.rand(num_points, 1)
        circle = danco.estimate(torch.cat([turns.cos(), turns.sin()], dim=1))
        assert circle.integer == 1
        # δ has a standard error of 1 / √N, and more as neighbors are shared.
        assert circle.dimension == pytest.approx(1, abs=3.5 / math.sqrt(num_points))
        assert danco.estimate(torch.rand(num_points, 2)).integer == 2


def test_points_on_a_line_need_no_second_column() -> None:
    found = danco.estimate(torch.rand(500))
    assert (found.integer, found.dimension) == (1, 1.0)
    assert found.divergences.shape == (1,)


def test_neither_place_nor_size_nor_repeats_change_the_answer() -> None:
    x = points("M4", 500)
    rounded = torch.round(x * 2**20) / 2**20  # so that 1e9 is added without rounding
    for changed, like in ((rounded + 2.0**30, rounded), (x * 1e-160, x), (x * 1e150, x)):
        assert danco.estimate(changed).dimension == pytest.approx(
            danco.estimate(like).dimension, rel=1e-6
        )
    with pytest.warns(UserWarning, match="50 of 550 points repeat"):
        again = danco.estimate(torch.cat([x, x[:50]]))
    assert again.dimension == pytest.approx(danco.estimate(x).dimension, rel=1e-9)


def test_a_graph_stands_in_for_its_points() -> None:
    x = points("M4", 300)
    assert danco.estimate(graph(x, 15)).dimension == danco.estimate(x.numpy()).dimension


def test_divergences_are_least_at_the_whole_answer() -> None:
    found = danco.estimate(points("M9", 800))
    assert found.divergences.shape == (20,)
    assert found.integer == int(found.divergences.argmin()) + 1
    assert (found.divergences >= -1e-9).all()


def test_other_numbers_of_neighbors_are_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = points("ball", 300, dimension=5)
    monkeypatch.setattr(balls, "_ENOUGH_POINTS", 3000)
    first = danco.estimate(x, 7, cache=tmp_path)
    assert first.integer == 5
    monkeypatch.setattr(balls, "simulate", None)
    assert danco.estimate(x, 7, cache=tmp_path).dimension == first.dimension


def test_fewer_points_than_the_table_has_are_drawn_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(balls, "_MOST_DRAWS", 20)
    x = points("ball", 20, dimension=2)
    assert danco.estimate(x, cache=False, progress=False).num_points == 20


def test_says_where_no_larger_dimension_was_tried() -> None:
    x = points("cube", 500, dimension=12)
    with pytest.warns(UserWarning, match="no dimension beyond 5 was tried, and it looks best"):
        found = danco.estimate(x, max_dimension=5)
    assert (found.integer, found.dimension) == (5, 5.0)


def test_refuses_what_it_cannot_do() -> None:
    x = torch.randn(40, 3)
    for k in (2, 26):
        with pytest.raises(ValueError, match=rf"num_neighbors must be in \[3, 25\], got {k}"):
            danco.estimate(x, k)
    with pytest.raises(ValueError, match=r"max_dimension must be in \[1, 100\], got 101"):
        danco.estimate(x, max_dimension=101)
    with pytest.raises(ValueError, match=r"num_neighbors must be in \[1, 10\] for 11 points"):
        danco.estimate(x[:11])
    with pytest.raises(ValueError, match="angles need coordinates, got distances alone"):
        danco.estimate(from_distances((x - x.unsqueeze(1)).norm(dim=2)))
    corners = torch.eye(13)
    with (
        pytest.warns(UserWarning, match="as on a lattice"),
        pytest.raises(ValueError, match="must not have all its neighbors at one distance"),
    ):
        danco.estimate(corners)


def test_the_answer_prints_short() -> None:
    text = repr(danco.estimate(points("M2", 100)))
    assert text.startswith("Danco(d = ")
    assert len(text) < 150
