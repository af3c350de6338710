import math

import pytest
import torch
from scipy.stats import kstest
from sklearn.datasets import make_s_curve, make_swiss_roll

from pplvae.data import charts, manifolds
from pplvae.data.manifolds import FAMILIES, NAMES, sample

FREE = [name for name in NAMES if FAMILIES[name].free]
AMBIENT = {
    "sphere": 3, "ball": 3, "cube": 3, "gaussian": 3, "torus": 4, "paraboloid": 3, "helix": 3,
    "swiss_roll": 3, "s_curve": 3, "moebius": 3, "M1": 11, "M2": 5, "M3": 6, "M4": 8, "M5": 3,
    "M6": 36, "M7": 3, "M8": 72, "M9": 20, "M10a": 11, "M10b": 18, "M10c": 25, "M10d": 71,
    "M11": 3, "M12": 20, "M13": 13,
}  # fmt: skip
BENCHMARK = {
    "M1": 10, "M2": 3, "M3": 4, "M4": 4, "M5": 2, "M6": 6, "M7": 2, "M8": 12, "M9": 20,
    "M10a": 10, "M10b": 17, "M10c": 24, "M10d": 70, "M11": 2, "M12": 20, "M13": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_lives_where_it_should(name: str) -> None:
    found = sample(name, 7, seed=0)
    assert (found.x.shape, found.x.dtype) == ((7, AMBIENT[name]), torch.float64)
    assert (len(found), found.name) == (7, name)
    assert found.dimension == BENCHMARK.get(name, FAMILIES[name].dimension)


@pytest.mark.parametrize("name", NAMES)
def test_the_chart_has_the_rank_that_is_claimed(name: str) -> None:
    """The dimension of the image of a smooth map is the rank of its Jacobian."""
    family = FAMILIES[name]
    for dimension in [2, 5] if family.free else [family.dimension]:
        parameters = family.draw(5, dimension + family.surplus)
        jacobian = torch.func.jacrev(lambda u, f=family: f.chart(u.unsqueeze(0)).squeeze(0))
        ranks = torch.linalg.matrix_rank(torch.vmap(jacobian)(parameters), rtol=1e-9)
        assert ranks.tolist() == [dimension] * 5


@pytest.mark.parametrize("name", ["sphere", "M1"])
def test_a_sphere_has_norm_one_and_no_direction(name: str) -> None:
    x = sample(name, 4000, seed=1).x
    torch.testing.assert_close(x.norm(dim=1), torch.ones(4000))
    # Each coordinate has mean 0 and variance 1 / D: five standard errors for all D.
    assert (x.mean(0).abs() < 5 / math.sqrt(4000 * x.shape[1])).all()


@pytest.mark.parametrize("dimension", [1, 2, 6])
def test_a_ball_is_uniform(dimension: int) -> None:
    """|x|^d of a uniform point in the unit ball is uniform; a p-value under 1e-4 is no chance."""
    x = sample("ball", 3000, dimension=dimension, seed=2).x
    assert x.shape[1] == dimension
    assert kstest(x.norm(dim=1) ** dimension, "uniform").pvalue > 1e-4
    assert (x.mean(0).abs() < 5 / math.sqrt(3000 * (dimension + 2))).all()  # E x_i^2 = 1 / (d + 2)


@pytest.mark.parametrize(
    ("name", "law", "loc", "scale"),
    [
        ("cube", "uniform", 0, 1),
        ("gaussian", "norm", 0, 1),
        ("M9", "uniform", -2.5, 5),
        ("M12", "norm", 0, 1),
    ],
)
def test_coordinates_follow_their_law(name: str, law: str, loc: float, scale: float) -> None:
    for column in sample(name, 2000, seed=3).x.T:
        assert kstest(column, law, args=(loc, scale)).pvalue > 1e-5


def test_a_torus_is_flat() -> None:
    """Each pair of coordinates is on a circle, and the metric is the same everywhere."""
    x = sample("torus", 200, dimension=3, seed=4).x
    torch.testing.assert_close(x[:, :3] ** 2 + x[:, 3:] ** 2, torch.ones(200, 3))
    jacobian = torch.vmap(torch.func.jacrev(lambda u: charts.torus(u[None])[0]))(torch.rand(9, 3))
    metric = (4 * math.pi**2 * torch.eye(3)).expand(9, 3, 3)
    torch.testing.assert_close(jacobian.mT @ jacobian, metric)


def test_a_paraboloid_solves_its_equation() -> None:
    x = sample("paraboloid", 100, dimension=4, seed=5).x
    torch.testing.assert_close(x[:, :4].square().sum(1), x[:, 4])


def test_a_helix_has_constant_speed() -> None:
    u = torch.rand(50, 1)
    speed = torch.vmap(torch.func.jacrev(lambda v: charts.helix(v[None])[0]))(u).norm(dim=1)
    torch.testing.assert_close(speed, torch.full_like(speed, 2 * math.pi * math.sqrt(9.25)))


def test_swiss_roll_and_s_curve_are_those_of_scikit_learn() -> None:
    """Their own parameter t, and the height they drew, put into our charts give their points."""
    for chart, make, unit, height in [
        (charts.swiss_roll, make_swiss_roll, lambda t: (t / (1.5 * math.pi) - 1) / 2, 21),
        (charts.s_curve, make_s_curve, lambda t: t / (3 * math.pi) + 0.5, 2),
    ]:
        theirs, t = map(torch.as_tensor, make(100, random_state=0))
        u = torch.stack([unit(t), theirs[:, 1] / height], dim=1)
        assert ((u >= 0) & (u <= 1)).all()
        torch.testing.assert_close(chart(u), theirs)


@pytest.mark.parametrize(("chart", "sign"), [(charts.moebius, -1), (charts.m11, 1)])
def test_a_moebius_band_comes_back_upside_down(chart, sign: int) -> None:  # noqa: ANN001
    """Half a twist swaps the edges after one turn; the benchmark's ten half twists do not."""
    width = torch.rand(20)
    start = torch.stack([torch.zeros(20), 0.5 + width / 2], dim=1)
    end = torch.stack([torch.ones(20), 0.5 + sign * width / 2], dim=1)
    torch.testing.assert_close(chart(start), chart(end))


@pytest.mark.parametrize(("name", "rank"), [("M2", 3), ("M9", 20), ("M10a", 10), ("M10d", 70)])
def test_an_affine_set_has_its_rank(name: str, rank: int) -> None:
    x = sample(name, 500, seed=6).x
    assert torch.linalg.matrix_rank(x - x.mean(0)) == rank


def test_m2_and_m3_at_a_point_worked_by_hand() -> None:
    m2 = charts.m2(torch.tensor([[0.25, 0.5, 0.75]]))  # p = (1, 2, 3)
    torch.testing.assert_close(m2, torch.tensor([[3.2, 2.2, 2.1, -1.7, 8.2]]))
    m3 = charts.m3(torch.tensor([[0.25, 0.5, 1.0, 0.0]]))  # cos = 0, sin = 1
    torch.testing.assert_close(m3, torch.tensor([[0.0, 1.0, 1.75, -1.4375, -1.5, 0.8125]]))


@pytest.mark.parametrize(
    ("name", "dimension", "copies"), [("M4", 4, 1), ("M6", 6, 3), ("M8", 12, 3)]
)
def test_m4_m6_m8_are_pairs_whose_radius_is_the_next_angle(
    name: str, dimension: int, copies: int
) -> None:
    pairs = sample(name, 50, seed=7).x.reshape(50, copies, dimension, 2)
    assert (pairs == pairs[:, :1]).all()
    radius, angle = pairs[:, 0].norm(dim=-1), torch.atan2(pairs[:, 0, :, 1], pairs[:, 0, :, 0])
    torch.testing.assert_close((angle / (2 * math.pi)) % 1, radius.roll(1, dims=1))


def test_m5_and_m7_solve_their_equations() -> None:
    x, y, f = sample("M5", 100, seed=8).x.unbind(dim=1)
    torch.testing.assert_close(x * f.cos(), y * f.sin())
    assert (f.min() >= 0) & (f.max() <= 2 * math.pi) & (torch.hypot(x, y).max() <= math.pi)
    x, r, y = sample("M7", 100, seed=8).x.unbind(dim=1)
    f = torch.hypot(x, y)
    torch.testing.assert_close(x, f * (2.5 * f).sin())
    assert (r.abs().max() <= math.pi) & (f.max() <= 2 * math.pi) & (r.min() < -2)


def test_m13_by_its_own_sum() -> None:
    x = charts.m13(torch.tensor([[0.3]]))[0]
    f = 2 * math.pi * 0.3
    slow = [
        (f / (2 * math.pi) + sum(math.sin(k * f) for k in range(1, j + 1))) / (j + 1)
        for j in range(13)
    ]
    torch.testing.assert_close(x, torch.tensor(slow))


@pytest.mark.parametrize("name", NAMES)
def test_an_embedding_changes_no_distance(name: str) -> None:
    plain, placed = sample(name, 30, seed=9), sample(name, 30, ambient=80, seed=9)
    assert placed.x.shape == (30, 80)
    assert placed.dimension == plain.dimension
    torch.testing.assert_close(torch.pdist(placed.x), torch.pdist(plain.x))
    assert (placed.x.abs().amax(0) > 0).all()


def test_noise_fills_all_of_space_with_its_deviation() -> None:
    plain = sample("sphere", 2000, ambient=6, seed=10).x
    noise = sample("sphere", 2000, ambient=6, noise=0.3, seed=10).x - plain
    for column in noise.T:
        assert kstest(column, "norm", args=(0, 0.3)).pvalue > 1e-5
    # Independent of each other and of the points: five standard errors of a correlation, 1/sqrt N.
    correlation = torch.corrcoef(torch.cat([noise, plain], dim=1).T)[:6]
    assert (correlation - torch.eye(6, 12)).abs().max() < 5 / math.sqrt(2000)


@pytest.mark.parametrize("name", FREE)
def test_a_family_takes_any_dimension(name: str) -> None:
    for dimension in (1, 4, 50):
        assert sample(name, 3, dimension=dimension).dimension == dimension


def test_a_seed_repeats_and_the_global_generator_stays() -> None:
    before = torch.get_rng_state()
    first = sample("M6", 20, ambient=40, noise=0.1, seed=11).x
    assert torch.equal(first, sample("M6", 20, ambient=40, noise=0.1, seed=11).x)
    assert not torch.equal(first, sample("M6", 20, ambient=40, noise=0.1, seed=12).x)
    assert not torch.equal(sample("M6", 20).x, sample("M6", 20).x)
    assert torch.equal(before, torch.get_rng_state())


def test_the_default_type_of_the_caller_does_not_matter() -> None:
    double = sample("M3", 5, ambient=9, noise=0.1, seed=0).x
    torch.set_default_dtype(torch.float32)
    assert torch.equal(sample("M3", 5, ambient=9, noise=0.1, seed=0).x, double)


def test_prints_in_a_line() -> None:
    assert repr(sample("M2", 9)) == "Sample('M2': 9 points in R^5, dimension 3)"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("klein", {}, "name must be one of M1, M10a.*swiss_roll, torus, got 'klein'"),
        ("sphere", {"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ("sphere", {"dimension": 0}, "dimension must be at least 1 for sphere, got 0"),
        ("helix", {"dimension": 2}, r"dimension must be in \[1, 1\] for helix, got 2"),
        ("torus", {"ambient": 3}, "ambient must be at least 4 for torus, got 3"),
        ("cube", {"noise": -0.1}, "noise must be .* got -0.1"),
        ("cube", {"noise": math.inf}, "noise must be .* got inf"),
        ("cube", {"seed": -1}, "seed must be in"),
    ],
)
def test_refuses_the_impossible(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifolds.sample(name, **{"num_samples": 5, **arguments})
