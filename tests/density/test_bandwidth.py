import itertools

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.optimize import brentq
from scipy.stats import entropy, gaussian_kde
from sklearn.datasets import load_iris
from torch import Tensor
from torch.distributions import MixtureSameFamily, Normal

from pplvae.density import bandwidth, kernel

IRIS = load_iris(return_X_y=True)[0]


@pytest.mark.parametrize(
    ("data", "silverman", "scott"),
    [
        (np.arange(9), 1.58827112, 1.76474569),
        (IRIS[:, 2], 0.58323334, 0.64803705),
        (IRIS[:, 0], 0.27358311, 0.30398123),
    ],
    ids=["nine numbers", "petal length", "sepal length"],
)
def test_gives_published_values(data: np.ndarray, silverman: float, scott: float) -> None:
    # Eight decimals are published.
    assert bandwidth.silverman(data).item() == pytest.approx(silverman, abs=5e-9)
    assert bandwidth.scott(data).item() == pytest.approx(scott, abs=5e-9)


def test_silverman_is_the_lecture_s_formula_in_one_dimension() -> None:
    data = torch.randn(77)
    iqr = np.subtract(*np.percentile(data.numpy(), [75, 25]))
    expected = 0.9 * min(data.std().item(), iqr / 1.34) * 77 ** (-1 / 5)
    assert bandwidth.silverman(data).item() == pytest.approx(expected, rel=1e-14)


def test_silverman_in_more_dimensions() -> None:
    data = torch.randn(200, 3) * torch.tensor([1.0, 5.0, 0.1])
    iqr = torch.as_tensor(np.subtract(*np.percentile(data.numpy(), [75, 25], axis=0)))
    spread = torch.minimum(data.std(dim=0), iqr / 1.34)
    expected = 0.9 / 1.059224 * spread * (4 / (5 * 200)) ** (1 / 7)
    found = bandwidth.silverman(data)
    assert found.shape == (3,)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)  # (4/3)^(1/5) to seven digits


def test_scott_agrees_with_scipy() -> None:
    data = torch.randn(90, 4)
    factor = gaussian_kde(data.T.numpy()).factor
    torch.testing.assert_close(bandwidth.scott(data), factor * data.std(dim=0))


@pytest.mark.parametrize("rule", [bandwidth.silverman, bandwidth.scott])
@pytest.mark.parametrize("scale", [1.0, 1e-160, 1e150])
def test_moves_with_the_units(rule: bandwidth.Rule, scale: float) -> None:
    data = torch.randn(50, 2)
    torch.testing.assert_close(rule(scale * data), scale * rule(data), rtol=1e-12, atol=0.0)
    # At 1e8 the data keep eight digits after the point.
    torch.testing.assert_close(rule(data + 1e8), rule(data), rtol=1e-6, atol=0.0)


def test_silverman_takes_the_deviation_where_the_quartiles_coincide() -> None:
    data = torch.cat([torch.zeros(90), torch.randn(10)])
    expected = 0.9 * data.std().item() * 100 ** (-1 / 5)
    assert bandwidth.silverman(data).item() == pytest.approx(expected, rel=1e-12)


def bimodal(num: int) -> Tensor:
    return torch.randn(num) / 4 + torch.randint(0, 2, (num,)) * 4


def plain_leave_one_out(data: Tensor, h: Tensor) -> Tensor:
    """Return log p_-i(x_i), all pairs at once."""
    logs = Normal(data, h).log_prob(data.unsqueeze(1)).sum(-1)
    return logs.fill_diagonal_(-torch.inf).logsumexp(1) - np.log(len(data) - 1)


@pytest.mark.parametrize("dim", [1, 2, 6])
@pytest.mark.parametrize("h", [1e-3, 0.3, 40.0])
def test_leave_one_out_is_what_the_others_say(dim: int, h: float) -> None:
    data = torch.randn(700, dim)
    expected = plain_leave_one_out(data, torch.tensor(h))
    found = bandwidth.leave_one_out(data, h)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_leave_one_out_keeps_its_digits_far_from_the_middle() -> None:
    # In widths the clusters stand at 3e4: products of such numbers would leave seven digits.
    data = torch.randn(600, 2) + torch.tensor([1e4, -1e4]).repeat(300).unsqueeze(1)
    expected = plain_leave_one_out(data, torch.tensor(0.3))
    found = bandwidth.leave_one_out(data, 0.3)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


def test_leave_one_out_by_its_definition() -> None:
    data, h = torch.randn(30, 2), torch.tensor([0.5, 0.8])
    expected = [
        kernel.log_density(data[i : i + 1], torch.cat([data[:i], data[i + 1 :]]), h)
        for i in range(30)
    ]
    torch.testing.assert_close(bandwidth.leave_one_out(data, h), torch.cat(expected))


@pytest.mark.parametrize("dim", [1, 3])
def test_kl_has_the_greatest_leave_one_out_likelihood(dim: int) -> None:
    data = torch.randn(400, dim) * torch.arange(1.0, dim + 1)
    best = bandwidth.kl(data)
    peak = plain_leave_one_out(data, best).mean()
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert plain_leave_one_out(data, factor * best).mean() < peak
    # To second order the peak is flat: a parabola through three points has its top at the answer.
    step = 0.01
    low, high = (plain_leave_one_out(data, best * np.exp(s)).mean() for s in (-step, step))
    top = 0.5 * step * (low - high) / (low - 2 * peak + high)
    assert abs(top.item()) < 2e-4  # of the cubic term, step²


def test_kl_starts_on_a_few_and_ends_on_all() -> None:
    data = torch.randn(2500, 1)
    best = bandwidth.kl(data)
    near = torch.stack([plain_leave_one_out(data, best * f).mean() for f in (0.98, 1.0, 1.02)])
    assert near.argmax() == 1


def test_kl_is_near_the_least_divergence_from_the_truth() -> None:
    # What it estimates can be had, where the truth is known: KL(p ‖ p_h) on a grid.
    truth = MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)),
        Normal(torch.tensor([0.0, 4.0]), torch.tensor([0.25, 0.25])),
    )
    data, grid = bimodal(1000), torch.linspace(-2, 6, 2001)
    p = truth.log_prob(grid).exp()

    def divergence(h: Tensor) -> float:
        q = kernel.log_density(grid, data, h).exp()
        return float(entropy(p.numpy(), q.numpy()))

    found = divergence(bandwidth.kl(data))
    best = min(divergence(torch.tensor([h])) for h in np.geomspace(0.02, 1, 40))
    silverman = divergence(bandwidth.silverman(data))
    assert best <= found < 1.5 * best
    assert silverman > 10 * best


def test_the_divergence_of_two_halves_falls_for_ever() -> None:
    # The lecture's line read as KL of the estimates of two half-samples: no h is chosen.
    data, grid = torch.randn(600), torch.linspace(-60, 60, 6001)
    falling = []
    for h in (0.1, 0.3, 1.0, 3.0, 10.0):
        log_p, log_q = (kernel.log_density(grid, half, h) for half in data.split(300))
        falling.append(torch.trapezoid(log_p.exp() * (log_p - log_q), grid).item())
    assert all(b < 0.7 * a for a, b in itertools.pairwise(falling))


def test_held_out_points_are_explained_best() -> None:
    data, other = torch.randn(500, 2), torch.randn(400, 2)
    best = bandwidth.kl(data, held_out=other)
    scores = [kernel.log_density(other, data, f * best).mean() for f in (0.99, 1.0, 1.01)]
    assert scores[1] > max(scores[0], scores[2])
    with pytest.raises(ValueError, match="held_out must hold a point that is not in data"):
        bandwidth.kl(data, held_out=data)
    with pytest.raises(ValueError, match="held_out and data must share D, got 1 and 2"):
        bandwidth.kl(data, held_out=other[:, 0])


def test_copies_leave_one_another_out_and_count_for_the_rest() -> None:
    distinct, copies = torch.randn(40), torch.randint(1, 6, (40,))
    data = distinct.repeat_interleave(copies)
    others = data.unsqueeze(1) != data
    terms = Normal(data, torch.tensor(0.4)).log_prob(data.unsqueeze(1)).exp() * others
    expected = (terms.sum(1) / others.sum(1)).log()
    torch.testing.assert_close(bandwidth.leave_one_out(data, 0.4), expected)


def test_copies_do_not_narrow_the_kernel() -> None:
    # Iris is rounded to 0.1 and full of repeats: counting them, the likelihood has no bound.
    x = torch.as_tensor(IRIS[:, 2])
    found = bandwidth.kl(x).item()
    assert 0.05 < found < 0.6
    # Whole weights are copies, and all copies the same for all points change nothing.
    data, weights = torch.randn(200), torch.randint(1, 5, (200,))
    repeated = bandwidth.kl(data.repeat_interleave(weights))
    torch.testing.assert_close(bandwidth.kl(data, weights=weights), repeated, rtol=1e-6, atol=0.0)
    twice = bandwidth.kl(torch.cat([data, data]))
    torch.testing.assert_close(twice, bandwidth.kl(data), rtol=1e-6, atol=0.0)


def test_warns_where_lonely_points_set_the_width() -> None:
    data = torch.cat([torch.randn(500), torch.tensor([300.0, -900.0])])
    with pytest.warns(UserWarning, match="5 of 502 points, far from all others, set the width"):
        wide = bandwidth.kl(data)
    assert wide > 3 * bandwidth.silverman(data)


@pytest.mark.parametrize("dim", [1, 2])
def test_lscv_has_the_least_estimated_squared_error(dim: int) -> None:
    data = torch.randn(300, dim)
    best = bandwidth.lscv(data)

    def criterion(h: Tensor) -> float:
        pairs = Normal(data, h * 2**0.5).log_prob(data.unsqueeze(1)).sum(-1).exp()
        return (pairs.mean() - 2 * plain_leave_one_out(data, h).exp().mean()).item()

    around = [criterion(best * f) for f in (0.97, 1.0, 1.03)]
    assert around[1] < min(around[0], around[2])
    assert around[1] <= min(criterion(best * f) for f in np.geomspace(0.1, 3, 25)) + 1e-12


@pytest.mark.slow
def test_isj_finds_the_width_of_a_normal() -> None:
    # Least mean squared error: (4 / 3 N)^(1/5) σ = 0.266 for N = 1000. Measured over 100 samples,
    # the rule is 5 % wider and scatters by 9 %: five standard errors of a mean of 20 on top.
    found = torch.stack([bandwidth.isj(5 * torch.randn(1000)) / 5 for _ in range(20)])
    assert found.mean().item() == pytest.approx(1.05 * (4 / 3000) ** 0.2, rel=5 * 0.09 / 20**0.5)


def test_isj_agrees_with_a_plain_version() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=500), [0.0, 0.0, 7.0]])
    low, high = x.min() - 0.1 * np.ptp(x), x.max() + 0.1 * np.ptp(x)
    counts = np.histogram(x, 4096, (low, high))[0] / len(x)
    k = np.arange(1.0, 4096)
    squares = (dct(counts)[1:] / 2) ** 2

    def equation(t: float) -> float:
        norm = 2 * np.pi**14 * (k**14 * squares * np.exp(-((k * np.pi) ** 2) * t)).sum()
        for s in range(6, 1, -1):
            odd = np.prod(np.arange(1.0, 2 * s, 2)) / np.sqrt(2 * np.pi)
            pilot = 2 * odd * (1 + 0.5 ** (s + 0.5)) / 3 / (len(np.unique(x)) * norm)
            heat = np.exp(-((k * np.pi) ** 2) * pilot ** (2 / (3 + 2 * s)))
            norm = 2 * np.pi ** (2 * s) * (k ** (2 * s) * squares * heat).sum()
        return t - (2 * len(np.unique(x)) * np.sqrt(np.pi) * norm) ** -0.4

    expected = np.sqrt(brentq(equation, 1e-12, 0.1, xtol=1e-16)) * (high - low)
    assert bandwidth.isj(x).item() == pytest.approx(expected, rel=1e-8)


def test_isj_sees_two_modes() -> None:
    # Each mode is a normal of σ = 1/4 with half the points.
    found = bandwidth.isj(bimodal(4000)).item()
    assert found == pytest.approx(0.25 * (4 / (3 * 2000)) ** 0.2, rel=0.1)


def test_isj_is_of_the_data_not_of_the_grid() -> None:
    x = torch.randn(2000)
    with_far_points = torch.cat([x, torch.tensor([-4000.0, 4000.0])])
    # Two of 2000 points count for a thousandth, and cells of a quarter of h for as much.
    assert bandwidth.isj(with_far_points).item() == pytest.approx(
        bandwidth.isj(x).item(), rel=0.02
    )


def test_isj_refuses() -> None:
    with pytest.raises(ValueError, match="data must have one column for 'isj', got 2"):
        bandwidth.isj(torch.randn(9, 2))
    with pytest.raises(ValueError, match="data must have a bandwidth by 'isj', got none"):
        bandwidth.isj(torch.tensor([0.0, 1.0]).repeat(50))


@pytest.mark.parametrize("rule", [bandwidth.isj, bandwidth.kl, bandwidth.lscv])
def test_selected_widths_move_with_the_units(rule: bandwidth.Rule) -> None:
    data = torch.randn(150)
    here = rule(data)
    torch.testing.assert_close(rule(1e-100 * data), 1e-100 * here, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(rule(data + 1e6), here, rtol=1e-4, atol=0.0)


def test_weighted_quartiles_do_not_care_which_way_is_up() -> None:
    # Outliers, so that it is the quartiles that count.
    data, weights = torch.distributions.StudentT(1.5).sample((101,)), torch.rand(101)
    found = bandwidth.silverman(data, weights=weights)
    torch.testing.assert_close(bandwidth.silverman(-data, weights=weights), found)


def test_weights_leave_kish_s_number_of_points() -> None:
    data = torch.randn(200, 2)
    some = (torch.arange(200) < 80).double()
    for rule in (bandwidth.silverman, bandwidth.scott, bandwidth.kl, bandwidth.lscv):
        torch.testing.assert_close(rule(data, weights=3 * some), rule(data[:80]), rtol=1e-5,
                                   atol=0.0)  # fmt: skip


def test_keeps_single_precision() -> None:
    assert bandwidth.silverman(torch.randn(9, 2).float()).dtype == torch.float32


@pytest.mark.parametrize("rule", [bandwidth.silverman, bandwidth.scott])
def test_refuses_a_column_that_does_not_vary(rule: bandwidth.Rule) -> None:
    data = torch.randn(20, 3)
    data[:, 1] = 0.1  # a mean of these is not 0.1 to the last digit
    with pytest.raises(ValueError, match=r"data must vary in every column, .* along \[1\]"):
        rule(data)
    with pytest.raises(ValueError, match="data must hold at least 2 points, got 1"):
        rule(data[:1])
