import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde
from sklearn.datasets import load_iris

from pplvae.density import bandwidth

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
