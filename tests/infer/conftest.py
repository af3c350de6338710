import pyro.distributions as dist
import pytest
import torch
from torch import Tensor


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Fifty points of a linear regression with noise of sd ½."""
    x = torch.randn(50, 3)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.5 * torch.randn(50)


@pytest.fixture
def ratios() -> Tensor:
    """A thousand independent distance ratios in three dimensions."""
    return dist.Pareto(torch.tensor(1.0), 3.0).sample((1000,))
