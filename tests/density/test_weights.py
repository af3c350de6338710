"""Weights that are 0, walls and bins at the edge of what is meant."""

import numpy as np
import pytest
import torch

from pplvae.density import bandwidth, histogram, joint_histogram, kernel


def test_a_histogram_is_as_exact_as_its_data() -> None:
    x = torch.randn(1000)
    found = histogram(x)
    expected, _ = np.histogram(x.numpy(), found.edges.numpy(), density=True)
    np.testing.assert_allclose(found.density.numpy(), expected, rtol=1e-13)
    kept = found.counts > 0
    ratio = found.density[kept] / found.counts[kept].double().sqrt()
    torch.testing.assert_close(ratio, found.error[kept], rtol=1e-13, atol=0.0)


def test_equal_weights_change_nothing_of_an_empty_bin() -> None:
    x, edges = torch.randn(200), [0.0, 1.0, 10.0, 11.0]
    plain, weighted = histogram(x, edges), histogram(x, edges, weights=torch.ones(200))
    torch.testing.assert_close(weighted.error, plain.error)
    nothing = histogram(torch.tensor([0.0, 1, 2, 3, 100]), [0.0, 50, 101], weights=[1, 1, 1, 1, 0])
    assert nothing.density[1] == 0
    assert nothing.error[1] > 0, "a bin of nothing but points without weight is empty"


@pytest.mark.parametrize("num", [10, 12, 30])
def test_equal_weights_make_the_same_bins(num: int) -> None:
    for _ in range(20):
        x = torch.randn(num)
        weighted = histogram(x, "scott", weights=torch.full((num,), 3.0))
        assert len(weighted.counts) == len(histogram(x, "scott").counts)


@pytest.mark.parametrize("rule", [bandwidth.silverman, bandwidth.scott, bandwidth.kl])
def test_points_without_weight_do_not_count(rule: bandwidth.Rule) -> None:
    x, weights = torch.randn(50), torch.ones(50)
    weights[20:] = 0
    torch.testing.assert_close(rule(x, weights=weights), rule(x[:20]))
    with pytest.raises(ValueError, match="must vary in every column"):
        bandwidth.silverman(torch.tensor([0.0, 0, 0, 5]), weights=[1, 1, 1, 0])
    with pytest.raises(ValueError, match="positive for at least 2 points"):
        rule(x, weights=torch.eye(50)[0])


def test_isj_refuses_a_few_values_over_and_over() -> None:
    with pytest.raises(ValueError, match="must have a bandwidth by 'isj'"):
        bandwidth.isj(torch.arange(10.0).repeat(20))


def test_walls_are_a_pair_in_the_precision_of_the_data() -> None:
    for wrong in (0.0, 5.0, (), (0.0,)):
        with pytest.raises(ValueError, match=r"reflect must be \(low, high\)"):
            kernel.fit(torch.rand(20), 0.1, reflect=wrong)  # type: ignore[arg-type]
    at_the_wall = torch.tensor([0.0, 0.05, 0.1], dtype=torch.float32)
    assert (
        kernel.fit(at_the_wall, 0.02, reflect=(0, 0.1)).log_density(at_the_wall).isfinite().all()
    )


def test_a_number_of_bins_may_be_numpys() -> None:
    assert joint_histogram(torch.rand(50, 2), np.int64(5)).counts.shape == (5, 5)  # type: ignore[arg-type]
