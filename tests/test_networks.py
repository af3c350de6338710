import pytest
import torch
from torch import nn

from pplvae.networks import ACTIVATIONS, mlp


def test_without_hidden_layers_it_is_a_linear_map() -> None:
    network, x = mlp(3, [], 2), torch.randn(5, 3)
    (layer,) = network
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(network(x), x @ layer.weight.T + layer.bias)


def test_agrees_with_the_formula() -> None:
    network, x = mlp(3, [4, 5], 2, activation="tanh"), torch.randn(7, 3)
    w1, b1, w2, b2, w3, b3 = network.parameters()
    expected = torch.tanh(torch.tanh(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(network(x), expected)


def test_maps_the_last_axis_whatever_comes_before() -> None:
    assert mlp(3, [4], 2)(torch.randn(6, 5, 3)).shape == (6, 5, 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_takes_every_activation_and_leaves_the_output_linear(activation: str) -> None:
    network = mlp(2, [3, 3], 1, activation=activation)
    kinds = [type(layer) for layer in network]
    assert kinds == [nn.Linear, ACTIVATIONS[activation]] * 2 + [nn.Linear]


@pytest.mark.parametrize("dims", [(0, [4], 2), (3, [4, 0], 2), (3, [4], -1)])
def test_refuses_a_layer_without_units(dims: tuple[int, list[int], int]) -> None:
    with pytest.raises(ValueError, match=r"^layer sizes must be at least 1, got (0|-1)$"):
        mlp(*dims)


def test_refuses_an_unknown_activation() -> None:
    with pytest.raises(ValueError, match=r"^activation must be one of elu, .*, tanh, got 'sin'$"):
        mlp(3, [4], 2, activation="sin")
