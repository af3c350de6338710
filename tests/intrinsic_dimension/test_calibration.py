import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pplvae import neighbors
from pplvae.data import manifolds
from pplvae.intrinsic_dimension import balls, calibration, twonn


def halved(x: Tensor) -> float:
    return 0.5 * x.shape[1]


@pytest.mark.parametrize("name", calibration.ESTIMATORS)
@pytest.mark.parametrize("num_points", [25, 2500, 70_000])
def test_the_inverse_undoes_the_curve(name: str, num_points: int) -> None:
    curve = calibration.curve(num_points, name)
    dims = torch.logspace(-0.5, 2.5, 300)
    torch.testing.assert_close(curve.invert(curve(dims)), dims, rtol=1e-6, atol=0)
    assert (curve(dims).diff() > 0).all()


@pytest.mark.parametrize("name", calibration.ESTIMATORS)
def test_more_points_than_were_drawn_are_less_biased(name: str) -> None:
    """The noise of the table does not grow, and the edge matters less and less."""
    dims = torch.tensor([1.0, 2.0, 3.0, 5.0, 20.0, 100.0])
    table, more, most = (calibration.curve(n, name)(dims) for n in (25_600, 200_000, 10**7))
    bias = [(found / dims).log().abs() for found in (table, more, most)]
    assert (bias[0] > bias[1]).all()
    assert (bias[1] > bias[2]).all()
    assert (bias[1][:2] < 4e-3).all()


@pytest.mark.parametrize("name", ["twonn", "gride_8", "levina_bickel"])
def test_the_bias_of_more_points_is_foretold(name: str) -> None:
    """By the rule for N beyond the table, the last of the table from its first part."""
    whole = balls.table()
    few = int((whole.num_points <= 3200).sum())
    part = balls.Balls(whole.num_points[:few], whole.dimensions, {name: whole.means[name][:few]})
    found = calibration._means(part, 25_600, name)
    assert np.abs(found / whole.means[name][-1] - 1).max() < 0.037
    # A straight line in log N is off by up to 3 % there.
    assert np.abs(found / whole.means[name][-1] - 1)[:7].max() < 0.012


def test_a_known_bias_is_undone_exactly() -> None:
    """Also beyond the dimensions that were drawn."""
    curve = calibration.curve(30, halved, max_dimension=12, progress=False)
    dims = torch.tensor([[0.3, 1.0], [3.7, 11.0], [50.0, 200.0]])
    torch.testing.assert_close(curve.invert(dims / 2), dims)
    torch.testing.assert_close(curve(dims), dims / 2)


def test_answers_have_the_shape_and_kind_of_what_was_asked() -> None:
    curve = calibration.curve(1000)
    assert isinstance(curve.invert(3.0), float)
    draws = torch.rand(4, 5, dtype=torch.float32) + 2
    assert curve.invert(draws).shape == (4, 5)
    assert curve.invert(draws).dtype == torch.float32


@pytest.mark.parametrize(("num_points", "dimension"), [(300, 7), (1500, 17)])
def test_calibrated_estimates_are_right_on_average(num_points: int, dimension: int) -> None:
    curves = {name: calibration.curve(num_points, name) for name in ("twonn", "twonn_line")}
    found: dict[str, list[float]] = {name: [] for name in curves}
    num_draws = 12
    for seed in range(num_draws):
        x = manifolds.sample("ball", num_points, dimension=dimension, seed=seed).x
        graph = neighbors.graph(x, 2)
        found["twonn"].append(twonn.maximum_likelihood(graph).dimension)
        found["twonn_line"].append(twonn.linear_fit(graph).dimension)
    for name, estimates in found.items():
        calibrated = curves[name].invert(torch.tensor(estimates))
        error = calibrated.std().item() / math.sqrt(num_draws)
        # The table's own error is up to 0.5 %.
        assert calibrated.mean().item() == pytest.approx(dimension, abs=4 * error + 0.005)
        assert np.mean(estimates) < 0.97 * dimension


def test_the_table_holds_what_the_estimators_say() -> None:
    """On draws that the table did not see, within 4 standard errors."""
    num_draws = 60
    graphs = [neighbors.graph(balls.draw(200, 10, 5000 + i), 10) for i in range(num_draws)]
    named = {
        "twonn": lambda g: twonn.maximum_likelihood(g).dimension,
        "twonn_unbiased": lambda g: twonn.maximum_likelihood(g, unbiased=True).dimension,
        "twonn_censored": lambda g: twonn.maximum_likelihood(g, discard=0.1).dimension,
        "twonn_line": lambda g: twonn.linear_fit(g).dimension,
        "gride_1": lambda g: twonn.maximum_likelihood(g).dimension,
    }
    for name, estimator in named.items():
        values = torch.tensor([estimator(g) for g in graphs])
        error = values.std().item() / math.sqrt(num_draws)
        expected = calibration.curve(200, name)(10.0)
        assert values.mean().item() == pytest.approx(expected, abs=4 * error), name


def test_any_estimator_is_drawn_for_once() -> None:
    calls = []

    def counted(x: Tensor) -> twonn.LineFit:
        calls.append(len(x))
        return twonn.linear_fit(x)

    curve = calibration.curve(3000, counted, max_dimension=3, progress=False)
    num_calls = len(calls)
    again = calibration.curve(3000, counted, max_dimension=3, progress=True)
    assert len(calls) == num_calls
    assert curve.name == "counted"
    # 15,000 points at each d, whose mean has a standard error of 1.1 %.
    shipped = calibration.curve(3000, "twonn_line")
    for dim in (1.0, 2.0, 3.0):
        assert again(dim) == pytest.approx(shipped(dim), rel=0.045)


def test_dimensions_that_few_points_cannot_tell_apart_are_left_out() -> None:
    curve = calibration.curve(40, lambda x: min(x.shape[1], 5), max_dimension=8, progress=False)
    assert curve.dimensions.tolist() == [1, 2, 3, 4, 5]
    assert curve.covers(5.0)
    assert not curve.covers(5.1)


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"estimator must be one of gride_1, .*, got 'two'"):
        calibration.curve(100, "two")
    with pytest.raises(ValueError, match="num_points must be at least 25 for the balls of twonn"):
        calibration.curve(24)
    with pytest.raises(ValueError, match=r"max_dimension must be in \[2, 100\], got 101"):
        calibration.curve(100, halved, max_dimension=101)
    with pytest.raises(ValueError, match="estimator must grow with the dimension"):
        calibration.curve(30, lambda x: 1.0, max_dimension=3, progress=False)
    curve = calibration.curve(100)
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="estimate must be"):
            curve.invert(value)
    with pytest.raises(ValueError, match="dimension must be"):
        curve(torch.tensor([1.0, 0.0]))
