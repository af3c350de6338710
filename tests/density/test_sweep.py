import math

import pytest
import torch

from pplvae.density import bandwidth, kernel, sweep


def two_modes(num: int) -> torch.Tensor:
    x = torch.randn(num)
    x[: num // 2] = 0.5 * x[: num // 2] + 4
    return x


def test_the_valley_is_where_leave_one_out_likelihood_is_greatest() -> None:
    x = two_modes(300)
    found = sweep.bandwidths(x, seed=0)
    chosen = (bandwidth.kl(x) / bandwidth.silverman(x)).item()
    step = (found.factors[1] / found.factors[0]).log().item()
    assert abs(math.log(found.factors[found.best].item() / chosen)) < step
    logs = [bandwidth.leave_one_out(x, h) for h in found.bandwidths]
    best = logs[found.best]
    torch.testing.assert_close(
        found.divergence, torch.stack([(best - own).mean() for own in logs])
    )
    torch.testing.assert_close(
        found.error, torch.stack([(best - own).std() / math.sqrt(300) for own in logs])
    )
    assert found.divergence.min() == 0


def test_the_divergence_between_halves_falls_for_ever() -> None:
    found = sweep.bandwidths(two_modes(300), torch.logspace(-1, 2, 19), seed=0)
    assert (found.halves.diff() < 0).all()
    # Wide kernels differ by their means alone, (m_1 - m_2)² / 2 h²: a tenfold width, a hundredth.
    assert found.halves[-1].item() == pytest.approx(found.halves[-7].item() / 100, rel=0.2)
    assert found.divergence[-1] > 1


def test_it_is_the_integral_of_the_definition() -> None:
    x = two_modes(100)
    found = sweep.bandwidths(x, torch.tensor([0.3, 0.5, 1.0, 2.0]), seed=1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    halves = x[order].tensor_split(2)
    grid = torch.linspace(-15, 20, 4001)
    for i, h in enumerate(found.bandwidths):
        p, q = (kernel.log_density(grid, half, h) for half in halves)
        exact = torch.trapezoid(p.exp() * (p - q), grid).item()
        # 2000 draws of terms whose sd is up to 1.5 times their mean: 3.4 %, of which four.
        assert found.halves[i].item() == pytest.approx(exact, rel=0.15)


def test_columns_have_widths_of_their_own_and_a_seed_repeats() -> None:
    x = torch.randn(60, 2) * torch.tensor([1.0, 50.0])
    before = torch.get_rng_state()
    found, again = (sweep.bandwidths(x, torch.tensor([0.5, 1.0]), seed=1) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(found.bandwidths[1], bandwidth.silverman(x))
    assert torch.equal(found.halves, again.halves)
    assert repr(found) == "Sweep(2 widths, 0.5 to 1 times Silverman's, best 1)"


def test_refuses() -> None:
    with pytest.raises(ValueError, match=r"factors must be positive, got \[0.5, 0.0\]"):
        sweep.bandwidths(torch.randn(9), torch.tensor([0.5, 0.0]))
    with pytest.raises(ValueError, match="data must hold at least 4 points, got 3"):
        sweep.bandwidths(torch.randn(3))
