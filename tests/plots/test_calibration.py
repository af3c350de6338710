from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from pplvae.plots.calibration import calibration, rank_band


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.mark.parametrize(("num_ranks", "num_draws", "prob"), [(1000, 199, 0.95), (150, 19, 0.8)])
def test_the_band_holds_the_whole_curve_as_often_as_it_says(
    num_ranks: int, num_draws: int, prob: float
) -> None:
    low, high = rank_band(num_ranks, num_draws, prob)
    ranks = np.random.default_rng(1).integers(0, num_draws + 1, (2000, num_ranks))
    edges = np.arange(1, num_draws + 2)
    curves = np.stack([np.searchsorted(np.sort(r), edges) for r in ranks]) / num_ranks
    curves -= edges / (num_draws + 1)
    inside = ((curves >= low - 1e-9) & (curves <= high + 1e-9)).all(axis=1)
    # Three errors of 2000 curves and of the band's own 4000. Counts are whole numbers, so that no
    # band is exact: it errs by up to the probability of one count, 0.02 of 150 ranks.
    error = 3 * np.sqrt(prob * (1 - prob) * (1 / 2000 + 1 / 4000))
    assert prob - error < inside.mean() < prob + error + (0.02 if num_ranks < 500 else 0)


def test_a_wider_band_for_fewer_ranks() -> None:
    few, many = rank_band(100, 199, 0.95)[1].max(), rank_band(1600, 199, 0.95)[1].max()
    assert few / many == pytest.approx(4, rel=0.15)  # 1/√M, and whole counts


def test_the_band_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = rank_band(9000, 99, 0.95), rank_band(9000, 99, 0.95)
    assert (np.array(first) == np.array(again)).all()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_even_ranks_lie_on_zero() -> None:
    ax = calibration(torch.arange(20).repeat(10), 19)
    assert np.abs(ax.lines[1].get_ydata()).max() < 1e-12
    assert len(ax.lines) == 2, "nothing is outside"


def test_what_leaves_the_band_is_marked() -> None:
    low = torch.arange(10).repeat(20)  # of 200 ranks all in the lower half
    ax = calibration(low, 19)
    curve, outside = ax.lines[1], ax.lines[2]
    assert curve.get_ydata()[9] == pytest.approx(0.5)
    assert len(outside.get_xdata()) > 10
    assert ax.get_ylabel() == "ECDF − uniform"
    assert ax.get_xlabel() == "rank of the truth among 19 draws"


def test_refuses_what_are_no_ranks() -> None:
    with pytest.raises(ValueError, match=r"ranks must be whole numbers in \[0, 19\], got 20"):
        calibration(torch.tensor([3, 20]), 19)
    with pytest.raises(ValueError, match=r"whole numbers in \[0, 19\], got 0.5"):
        calibration(torch.tensor([0.5]), 19)
    with pytest.raises(ValueError, match=r"prob must be in \(0, 1\), got 1"):
        calibration(torch.tensor([3]), 19, prob=1)
