import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pplvae.density import bandwidth, histogram, joint_histogram, kernel

COINCIDE = torch.cat([torch.zeros(50), torch.tensor([1e-9, 5.0])])
FAR = torch.tensor([100.0, -200.0, 300.0, 400.0, 500.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: histogram(COINCIDE), "quartiles of x coincide"),
        (lambda: joint_histogram(COINCIDE), "quartiles of x coincide"),
        (lambda: bandwidth.kl(torch.cat([torch.randn(497), FAR])), "set the width by 'kl'"),
        (lambda: kernel.fit(torch.cat([torch.randn(497), FAR]), "kl"), "set the width by 'kl'"),
    ],
)
def test_a_warning_points_at_the_callers_line(call: Callable[[], object], message: str) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        call()
    assert [warning.filename for warning in caught] == [__file__]
    assert caught[0].lineno == inspect.getsourcelines(call)[1]


def test_whole_numbers_that_the_last_bin_holds_twice_are_named() -> None:
    with pytest.warns(UserWarning, match="holds 2 whole numbers, the others 1"):
        histogram(torch.arange(10.0).repeat(100))


def test_a_grid_too_coarse_for_its_kernels_is_named() -> None:
    far = torch.cat([torch.randn(100), torch.tensor([1e5])])
    with pytest.warns(UserWarning, match="too coarse for the density"):
        kernel.on_grid(far, 0.3)


@pytest.mark.parametrize("rule", [bandwidth.kl, bandwidth.lscv])
def test_copies_but_for_rounding_are_named(rule: Callable[..., Tensor]) -> None:
    x = torch.randn(100, 1)
    with pytest.warns(UserWarning, match="do points repeat, but for rounding"):
        rule(torch.cat([x, x.float().double()]), progress=False)
