import math

import pytest
import torch
from torch import Tensor

from pplvae.density import kernel, kernels

NAMES = sorted(kernels.PROFILES)


def mass(x: Tensor, log_density: Tensor) -> float:
    return torch.trapezoid(log_density.exp(), x).item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [0.05, 0.4, 3.0])
def test_what_walls_enclose_integrates_to_one(name: str, width: float) -> None:
    # Walls at ends of cells of the rule, whose error is that of kernels with edges.
    # A smooth one needs few of them.
    data, x = torch.rand(100), torch.linspace(0, 1, 501 if name == "gaussian" else 4001)
    found = kernel.log_density(x, data, width, kernel=name, reflect=(0.0, 1.0))
    assert mass(x, found) == pytest.approx(1.0, abs=2e-4)
    one_sided = kernel.log_density(20 * x, data, width, kernel=name, reflect=(0.0, None))
    assert mass(20 * x, one_sided) == pytest.approx(1.0, abs=5e-3)
    closed = kernel.log_density(x, data, width, kernel=name, period=1.0)
    assert mass(x, closed) == pytest.approx(1.0, abs=2e-4)


def test_reflection_is_the_folded_sum() -> None:
    data, x = torch.rand(50), torch.linspace(0.01, 0.99, 9)
    found = kernel.log_density(x, data, 0.3, reflect=(0.0, 1.0)).exp()
    images = [2 * k + s * x for k in range(-6, 7) for s in (1, -1)]
    expected = sum(kernel.log_density(y, data, 0.3).exp() for y in images)
    torch.testing.assert_close(found, expected)


def test_a_closed_axis_is_the_wrapped_sum() -> None:
    data, x = 2 * math.pi * torch.rand(50), torch.linspace(0.0, 6.0, 9)
    found = kernel.log_density(x, data, 2.0, period=2 * math.pi).exp()
    turns = [2 * math.pi * k for k in range(-9, 10)]
    expected = sum(kernel.log_density(x + y, data, 2.0).exp() for y in turns)
    torch.testing.assert_close(found, expected)
    turned = kernel.log_density(x - 4 * math.pi, data + 6 * math.pi, 2.0, period=2 * math.pi)
    torch.testing.assert_close(turned.exp(), found)


@pytest.mark.parametrize("name", ["gaussian", "epanechnikov"])
def test_axes_may_differ(name: str) -> None:
    # A cylinder: the first axis closed, the second with a floor.
    data = torch.stack([torch.rand(40), torch.rand(40)], dim=1)
    around, up = torch.linspace(0, 1, 51), torch.linspace(0, 4, 201)
    found = kernel.log_density(
        torch.cartesian_prod(around, up), data, 0.3, kernel=name,
        period=torch.tensor([1.0, math.inf]), reflect=(torch.tensor([-math.inf, 0.0]), None),
    ).exp().reshape(51, 201)  # fmt: skip
    assert torch.trapezoid(torch.trapezoid(found, up), around).item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(found[0], found[-1])


def test_removes_the_bias_at_an_edge() -> None:
    # Exponential data: at 0 half of each kernel is lost, and p comes out at half its value.
    data = torch.distributions.Exponential(1.0).sample((20_000,))
    x, h = torch.tensor([0.0]), 0.1
    plain = kernel.log_density(x, data, h).exp().item()
    mirrored = kernel.log_density(x, data, h, reflect=(0.0, None)).exp().item()
    # E p̂(0) = 2 ∫ φ_h(y) exp(-y) dy over y > 0 = 2 exp(h²/2) Φ(-h).
    expected = 2 * math.exp(h**2 / 2) * 0.5 * math.erfc(h / math.sqrt(2))
    error = math.sqrt(2 * expected / (2 * math.sqrt(math.pi) * h * 20_000))
    assert mirrored == pytest.approx(expected, abs=5 * error)
    assert plain == pytest.approx(expected / 2, abs=5 * error)


@pytest.mark.parametrize("name", NAMES)
def test_errors_count_images(name: str) -> None:
    data, x = torch.rand(100), torch.tensor([0.0, 0.02, 0.5])
    fitted = kernel.fit(data, 0.2, kernel=name, reflect=(0.0, 1.0))
    bumps = torch.stack(
        [kernel.log_density(x, row, 0.2, kernel=name, reflect=(0.0, 1.0)).exp()
         for row in data.split(1)]
    )  # fmt: skip
    found = fitted.estimate(x)
    torch.testing.assert_close(found.density, bumps.mean(0))
    torch.testing.assert_close(found.error, bumps.std(0) / 10)


def test_draws_stay_within() -> None:
    fitted = kernel.fit(torch.rand(30), 0.5, reflect=(0.0, 1.0))
    x = fitted.sample(5000, seed=1).squeeze(1)
    assert 0 <= x.min() < x.max() <= 1
    fine = torch.linspace(0, 1, 10_001)
    law = fitted.log_density(fine).exp()[:-1].reshape(10, 1000).mean(1) / 10
    shares = torch.histc(x, 10, 0, 1) / 5000
    assert ((shares - law).abs() < 5 * (law / 5000).sqrt()).all()
    closed = kernel.fit(torch.rand(30), 0.5, period=1.0).sample(100, seed=1)
    assert 0 <= closed.min() < closed.max() <= 1


def test_there_is_nothing_beyond_a_wall() -> None:
    found = kernel.log_density(torch.tensor([-0.1, 0.5, 1.1]), torch.rand(9), 1.0, reflect=(0, 1))
    assert found.isfinite().tolist() == [False, True, False]


def test_refuses() -> None:
    data = torch.tensor([0.2, 1.5])
    with pytest.raises(
        ValueError, match=r"reflect must enclose all data, .* with 1 points outside"
    ):
        kernel.fit(data, 1.0, reflect=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"period must be positive, got \[-1.0\]"):
        kernel.fit(data, 1.0, period=-1.0)
    with pytest.raises(ValueError, match=r"must not share an axis, got both along \[0\]"):
        kernel.fit(data, 1.0, period=3.0, reflect=(0.0, None))
    with pytest.raises(ValueError, match="reflect must be one number or one for each axis"):
        kernel.fit(data, 1.0, reflect=(torch.zeros(3), None))
