from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from pplvae.infer.lifting import least_absolute_deviations


def line(num_points: int, dim: int) -> tuple[Tensor, Tensor]:
    """A linear law with an intercept and noise of heavy tails."""
    x = torch.cat([torch.ones(num_points, 1), torch.randn(num_points, dim - 1)], dim=1)
    return x, x @ torch.randn(dim) + torch.distributions.StudentT(1.5).sample((num_points,))


def linear_program(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """min Σ a + b with Xw − a + b = y and a, b ≥ 0: its vertices are exact fits of D points."""
    size, dim = x.shape
    found = linprog(
        np.r_[np.zeros(dim), np.ones(2 * size)],
        A_eq=np.c_[x.numpy(), -np.eye(size), np.eye(size)],
        b_eq=y.numpy(),
        bounds=[(None, None)] * dim + [(0, None)] * 2 * size,
    )
    return torch.as_tensor(found.x[:dim]), found.fun


@pytest.mark.parametrize(("num_points", "dim"), [(60, 3), (15, 4), (400, 8), (7, 6)])
def test_finds_what_the_linear_program_finds(num_points: int, dim: int) -> None:
    x, y = line(num_points, dim)
    found, (weights, loss) = least_absolute_deviations(x, y), linear_program(x, y)
    # Converged to a gap of 1e-9 of least squares' loss, which is within twice the least here.
    assert found.converged
    assert 0 <= found.loss - loss + 1e-12 * loss <= found.gap + 1e-11 * loss
    assert found.gap < 2e-9 * loss
    torch.testing.assert_close(found.weights, weights, rtol=0.0, atol=1e-6)


def test_knows_how_far_it_is_where_it_is_slow() -> None:
    """Thirty points for ten weights: u is nearly ±1 at some of the ten that are fitted."""
    torch.manual_seed(0)
    x, y = line(30, 10)
    for max_steps in (5, 50, 500):
        found = least_absolute_deviations(x, y, max_steps=max_steps)
        assert not found.converged
        assert 0 < found.loss - linear_program(x, y)[1] < found.gap


def test_never_loses() -> None:
    found = least_absolute_deviations(*line(200, 5))
    for before, after in pairwise(found.objectives):
        assert after <= before * (1 + 1e-15 * 200)  # rounding of a sum of 200
    assert found.objectives[-1] < found.objectives[0] - 1
    assert found.loss == pytest.approx(found.objectives[-1], rel=1e-10)


def test_the_lifted_objective_is_the_loss_and_a_gap_that_each_step_closes() -> None:
    """The twin of KL(q(x, z) ‖ p) = KL(q(x) ‖ p) + E KL(q(z | x) ‖ p)."""
    found = least_absolute_deviations(*line(100, 3))
    assert len(found.decompositions) == len(found.objectives) - 1
    for before, after, terms in zip(
        found.objectives, found.objectives[1:], found.decompositions, strict=False
    ):
        assert terms.joint == pytest.approx(terms.marginal + terms.conditional, rel=1e-13)
        assert terms.conditional > 0
        assert terms.joint <= before + 1e-10
        # What is left when the gap is closed: the loss, up to the floor.
        assert terms.marginal == pytest.approx(after, rel=1e-10)


def test_a_constant_is_the_median() -> None:
    y = torch.randn(101) ** 3
    found = least_absolute_deviations(torch.ones(101), y)
    assert found.weights.item() == pytest.approx(y.median().item(), abs=1e-9)
    assert found.scale == pytest.approx((y - y.median()).abs().mean().item())
    between = least_absolute_deviations(torch.ones(4), torch.tensor([1.0, 2.0, 7.0, 100.0]))
    assert 2 <= between.weights.item() <= 7  # any median of an even number is as good
    assert between.loss == pytest.approx(104.0)


def test_a_weight_for_one_column_is_a_weighted_median() -> None:
    """min_w Σ |x_n| |w − y_n/x_n|."""
    x, y = torch.randn(51), torch.randn(51)
    ratios, order = (y / x).sort()
    cumulated = x.abs()[order].cumsum(dim=0)
    expected = ratios[(cumulated >= 0.5 * cumulated[-1]).nonzero()[0]]
    found = least_absolute_deviations(x, y)
    torch.testing.assert_close(found.weights, expected, rtol=0.0, atol=1e-9)


def test_is_em_for_a_scale_mixture_of_normals() -> None:
    """Laplace(t | b) = ∫ Normal(t | 0, v) Exponential(v | mean 2b²) dv and E[1/v | t] = 1/(b|t|).

    By the trapezoid rule on log v, whose error for such tails is far below the bounds.
    """
    b, t = 0.7, 1.3
    log_v = torch.linspace(-25.0, 8.0, 20_001)
    v = log_v.exp()
    normal = (-0.5 * t**2 / v).exp() / (2 * torch.pi * v).sqrt()
    joint = normal * (-v / (2 * b**2)).exp() / (2 * b**2)
    law = torch.trapezoid(joint * v, log_v)
    assert law.item() == pytest.approx(np.exp(-t / b) / (2 * b), rel=1e-9)
    assert (torch.trapezoid(joint, log_v) / law).item() == pytest.approx(1 / (b * t), rel=1e-9)


def test_wild_points_do_not_move_it() -> None:
    x, truth = (
        torch.cat([torch.ones(200, 1), torch.randn(200, 2)], dim=1),
        torch.tensor([1.0, 2, 3]),
    )
    y = x @ truth + 0.01 * torch.randn(200)
    y[:40] += 1e6
    # The median of all is the 62 % quantile of the sound four fifths: 0.3 sds of 0.01 off, and
    # known to 0.01 √(π/2) / √160 = 0.001.
    error = least_absolute_deviations(x, y).weights - truth
    assert error.abs().max() < 0.01
    assert (torch.linalg.lstsq(x, y.unsqueeze(1)).solution.squeeze() - truth).abs().max() > 1e4


def test_follows_an_affine_map() -> None:
    """With y → a y + X c the weights go w → a w + c."""
    x, y = line(50, 3)
    shift = torch.tensor([5.0, -1.0, 2.0])
    here, there = (
        least_absolute_deviations(x, y),
        least_absolute_deviations(x, 1e6 * y + x @ shift),
    )
    torch.testing.assert_close(there.weights, 1e6 * here.weights + shift)


def test_fits_exactly_where_it_can() -> None:
    x, truth = torch.randn(20, 3), torch.tensor([1.0, -2.0, 3.0])
    found = least_absolute_deviations(x, x @ truth)
    torch.testing.assert_close(found.weights, truth)
    assert found.loss < 1e-12
    assert found.converged
    assert least_absolute_deviations(x, torch.zeros(20)).loss == 0


def test_takes_columns_that_depend_on_each_other() -> None:
    x, y = line(30, 2)
    twice = least_absolute_deviations(torch.cat([x, x[:, :1]], dim=1), y)
    assert twice.loss == pytest.approx(least_absolute_deviations(x, y).loss, rel=1e-9)


def test_follows_the_dtype_of_the_data() -> None:
    x, y = line(30, 2)
    single = least_absolute_deviations(x.float(), y.float())
    assert single.weights.dtype == single.residuals.dtype == torch.float32
    assert single.loss == pytest.approx(least_absolute_deviations(x, y).loss, rel=1e-5)


def test_says_when_it_ran_out_of_steps() -> None:
    found = least_absolute_deviations(*line(60, 3), max_steps=2)
    assert not found.converged
    assert repr(found).endswith("not converged after 2 steps)")
    assert len(found.decompositions) == 2


def test_refuses() -> None:
    x, y = line(9, 2)
    with pytest.raises(ValueError, match="y must hold a number for each of 9 points, got 8"):
        least_absolute_deviations(x, y[:8])
    with pytest.raises(ValueError, match="y must be finite, got 9 nan or inf"):
        least_absolute_deviations(x, y * torch.nan)
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        least_absolute_deviations(x, y, max_steps=0)
    with pytest.raises(ValueError, match=r"tolerance must be at least 0, got -1\.0"):
        least_absolute_deviations(x, y, tolerance=-1.0)
    with pytest.raises(ValueError, match=r"floor must be in \[0, 1\], got 2\.0"):
        least_absolute_deviations(x, y, floor=2.0)
