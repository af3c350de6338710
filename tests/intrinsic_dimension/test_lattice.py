import pytest
import torch
from torch import Tensor

from pplvae.intrinsic_dimension import lattice


def whole(num_points: int, num_values: int, num_columns: int = 3) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, num_values, (num_points, num_columns), generator=source).double()


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (whole(300, 20) / 19, [1 / 19] * 3),
        (whole(300, 256) / 255, [1 / 255] * 3),
        ((whole(300, 256) / 255).float(), [1 / 255] * 3),
        (whole(300, 20) * torch.tensor([0.3, 7.0, 1 / 3]) - 5, [0.3, 7.0, 1 / 3]),
        (torch.rand(3000, 2, dtype=torch.float64).round(decimals=2), [0.01] * 2),
        (torch.randint(0, 2, (100, 4)) * 0.5, [0.5] * 4),
        (torch.randint(0, 10**6, (300, 1)).double() * 1.0, [1.0]),
        (1e5 + torch.rand(300, 1).float(), [2.0**-7]),  # what single precision leaves of them
        (torch.cat([whole(300, 5, 2) / 4, torch.full((300, 2), 0.123)], dim=1), [0.25] * 2),
    ],
)
def test_finds_the_step_of_each_column_that_varies(points: Tensor, expected: list[float]) -> None:
    found = lattice.steps(points)
    assert found is not None
    if expected != [1.0]:  # of a million whole numbers 300 need not have neighbors
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=0)
    else:
        assert found.item() >= 1


@pytest.mark.parametrize(
    "points",
    [
        torch.randn(300, 3),
        torch.rand(300, 3, dtype=torch.float32),  # multiples of 2⁻²⁴
        torch.rand(64, 1),
        torch.cat([whole(300, 20) / 19, torch.rand(300, 1)], dim=1),
        torch.rand(2000, 1, dtype=torch.float64).round(decimals=5),  # a grid of 100,000 places
        torch.tensor([[0.0], [0.3], [1.0], [0.3]]),  # gaps of 0.3 and 0.7
        torch.ones(10, 2),
    ],
)
def test_continuous_values_are_on_no_grid(points: Tensor) -> None:
    assert lattice.steps(points) is None


def test_few_of_many_rows_tell() -> None:
    points = whole(200_000, 16, 2) / 15
    found = lattice.steps(points)
    assert found is not None
    torch.testing.assert_close(found, torch.full((2,), 1 / 15))
