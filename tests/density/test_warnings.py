import inspect
from collections.abc import Callable

import pytest
import torch

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
