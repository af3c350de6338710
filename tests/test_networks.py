import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pplvae.networks import (
    ACTIVATIONS,
    Squash,
    conv_decoder,
    conv_encoder,
    mlp,
    output_size,
    same_layers,
    sizes_of,
    summary,
)


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


WINDOWS = [
    (size, kernel, stride, padding)
    for size in (1, 2, 5, 8, 13, 20, 28)
    for kernel in (1, 2, 3, 4, 7)
    for stride in (1, 2, 3)
    for padding in (0, 1, 4)
    if kernel <= size + 2 * padding
]


def test_a_window_stops_at_as_many_places_as_torch_finds() -> None:
    for size, *window in WINDOWS:
        found = nn.Conv1d(1, 1, *window)(torch.zeros(1, 1, size)).shape[-1]
        assert output_size(size, *window, exact=False) == found


def test_zeros_may_be_wider_than_the_window() -> None:
    """W' = (10 − 1 + 2 · 4) / 1 + 1, by Lecture 14."""
    assert output_size(10, 1, 1, 4) == 18


def test_a_pooling_stops_at_as_many_places_as_a_convolution() -> None:
    for size, kernel, stride, padding in WINDOWS:
        if 2 * padding <= kernel:  # torch pools with no more
            pool = nn.MaxPool1d(kernel, stride, padding)
            found = pool(torch.zeros(1, 1, size)).shape[-1]
            assert output_size(size, kernel, stride, padding, exact=False) == found


def test_the_formula_is_exact_only_where_the_stride_divides() -> None:
    for size, kernel, stride, padding in WINDOWS:
        span = size - kernel + 2 * padding
        if span % stride == 0:
            assert output_size(size, kernel, stride, padding) == span / stride + 1
        else:
            with pytest.raises(
                ValueError, match=rf"^stride must divide .* = {span}, got {stride}$"
            ):
                output_size(size, kernel, stride, padding)


@pytest.mark.parametrize(
    ("window", "rule"),
    [
        ((8, 11, 1, 1), r"kernel must be in \[1, 10\] for a size of 8 and a padding of 1, got 11"),
        ((8, 0, 1, 2), r"kernel must be in \[1, 12\] for a size of 8 and a padding of 2, got 0"),
        ((8, 3, 0, 0), "stride must be at least 1, got 0"),
        ((8, 3, 1, -1), "padding must be at least 0, got -1"),
        ((8, 3.0, 1, 0), "kernel must be a whole number, got 3.0"),
    ],
)
def test_refuses_windows_that_do_not_fit(window: tuple[int, int, int, int], rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        output_size(*window)


FREY, MNIST, CIFAR = (28, 20), (28, 28), (3, 32, 32)


@pytest.mark.parametrize("shape", [FREY, MNIST, CIFAR, (13, 7), (1, 9, 31), (2, 5, 4)])
@pytest.mark.parametrize(
    "window",
    [(4, 2, 1), (3, 2, 1), (3, 1, 1), (3, 3, 1), (5, 2, 2), (3, 4, 1), (1, 2, 1), (2, 3, 4)],
)
def test_images_of_any_size_come_back_exactly(
    shape: tuple[int, ...], window: tuple[int, int, int]
) -> None:
    options = dict(zip(("kernel", "stride", "padding"), window, strict=True))
    encoder = conv_encoder(shape, [3, 2], 5, hidden_dims=[6], **options)
    decoder = conv_decoder(5, [2, 3], shape, outputs=2, hidden_dims=[6], **options)
    rows = math.prod(shape)
    code = encoder(torch.randn(4, 3, rows))
    assert code.shape == (4, 3, 5)
    assert decoder(code).shape == (4, 3, 2 * rows)
    assert encoder(torch.zeros(0, rows)).shape == (0, 5)


def test_the_convolutional_encoder_agrees_with_its_formula() -> None:
    network, x = conv_encoder((2, 6, 5), [3, 4], 2, activation="tanh"), torch.randn(7, 2, 6, 5)
    w1, b1, w2, b2, w3, b3 = network.parameters()
    h = torch.tanh(F.conv2d(x, w1, b1, stride=2, padding=1))
    h = torch.tanh(F.conv2d(h, w2, b2, stride=2, padding=1))
    torch.testing.assert_close(network(x.flatten(1)), h.flatten(1) @ w3.T + b3)


def test_the_convolutional_decoder_is_the_encoders_transpose() -> None:
    """<decoder(z), x> = <z, encoder(x)> for linear ones that share their weights."""
    shape = (2, 7, 6)
    encoder = conv_encoder(shape, [4], 3)
    decoder = conv_decoder(3, [4], shape)
    convolution, _, _, dense = encoder
    back, _, _, transposed = decoder
    with torch.no_grad():
        back.weight.copy_(dense.weight.T)
        transposed.weight.copy_(convolution.weight)
        for layer in (convolution, dense, back, transposed):
            layer.bias.zero_()
    encoder[1], decoder[2] = nn.Identity(), nn.Identity()
    x, z = torch.randn(84), torch.randn(3)
    torch.testing.assert_close(decoder(z) @ x, z @ encoder(x))


def test_several_numbers_for_each_pixel_are_images_one_after_the_other() -> None:
    decoder = conv_decoder(2, [4], (3, 5, 4), outputs=2)
    last = list(decoder)[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(6.0))  # of each output and color
    found = decoder(torch.randn(7, 2)).unflatten(-1, (2, 3, 5, 4))
    assert torch.equal(found[0, ..., 1, 2], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(found[0], found[0, ..., :1, :1].expand(2, 3, 5, 4))


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (
            lambda: conv_encoder((28,), [4], 2),
            r"shape must be \(H, W\) or \(C, H, W\), got \(28,\)",
        ),
        (lambda: conv_encoder((0, 8), [4], 2), "shape must be at least 1, got 0"),
        (lambda: conv_encoder((8, 8), [], 2), "channels must name at least one convolution"),
        (lambda: conv_decoder(2, [], (8, 8)), "channels must name at least one convolution"),
        (lambda: conv_encoder((8, 8), [4, 0], 2), "channels must be at least 1, got 0"),
        (
            lambda: conv_encoder((3, 3), [4] * 2, 2),
            r"kernel must be in \[1, 3\] for a size of 1 and a padding of 1 at convolution 2 of 2 "
            r"\(fewer convolutions leave more pixels\), got 4$",
        ),
        (
            lambda: conv_decoder(2, [4], (1, 28)),
            r"kernel must be in \[1, 3\] .* padding of 1 at convolution 1 of 1, got 4$",
        ),
        (lambda: conv_encoder(16, [4], 2), "shape must be a sequence of sizes, got 16"),
        (lambda: conv_decoder(2, 4, (8, 8)), "channels must be a sequence of sizes, got 4"),
        (lambda: conv_decoder(2, [4], (8, 8), outputs=0), "outputs must be at least 1, got 0"),
        (lambda: conv_decoder(2, [4], (8, 8), activation="sin"), "activation must be one of elu"),
        (
            lambda: conv_encoder((8, 8), [4], 2)(torch.ones(3, 32)),
            "x must have 64 columns, got 32",
        ),
    ],
)
def test_refuses_impossible_convolutions(build: Callable[[], object], rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}"):
        build()


def test_the_summary_says_what_each_layer_gives_and_learns() -> None:
    found = summary(conv_encoder((28, 28), [32, 64], 10, hidden_dims=[256]), (784,))
    assert [(layer.kind, layer.shape, layer.parameters) for layer in found.layers] == [
        ("Conv2d", (32, 14, 14), 32 * 16 + 32),
        ("ReLU", (32, 14, 14), 0),
        ("Conv2d", (64, 7, 7), 64 * 32 * 16 + 64),
        ("ReLU", (64, 7, 7), 0),
        ("Flatten", (3136,), 0),
        ("Linear", (256,), 3136 * 256 + 256),
        ("ReLU", (256,), 0),
        ("Linear", (10,), 256 * 10 + 10),
    ]
    assert found.parameters == sum(layer.parameters for layer in found.layers) == 839_018
    assert "64×7×7        32,832" in repr(found)
    assert repr(found).splitlines()[-1].split() == ["all", "839,018"]


def test_the_summary_counts_shared_weights_once_and_leaves_the_network_alone() -> None:
    shared = nn.Linear(4, 4)
    network = nn.Sequential(shared, nn.BatchNorm1d(4), nn.Dropout(), shared)
    network[2].eval()
    mean, modes = network[1].running_mean.clone(), [part.training for part in network.modules()]
    state = torch.get_rng_state()
    found = summary(network, (4,))
    assert [layer.parameters for layer in found.layers] == [20, 8, 0, 0]
    assert found.parameters == 28
    assert [part.training for part in network.modules()] == modes
    assert torch.equal(network[1].running_mean, mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part._forward_hooks for part in network.modules())


class Transposed(nn.Module):
    """Uses the weights of a layer without running it."""

    def __init__(self, of: nn.Linear) -> None:
        super().__init__()
        self.of = of

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return F.linear(z, self.of.weight.mT)


def test_the_summary_has_a_row_for_a_layer_that_borrows_its_weights() -> None:
    down = nn.Linear(6, 2, bias=False)
    found = summary(nn.Sequential(down, Transposed(down)), (6,))
    assert [(layer.name, layer.kind, layer.shape, layer.parameters) for layer in found.layers] == [
        ("0", "Linear", (2,), 12),
        ("1", "Transposed", (6,), 0),
    ]
    assert found.parameters == 12


def test_the_summary_counts_weights_that_only_a_parent_uses() -> None:
    found = summary(nn.Sequential(Transposed(nn.Linear(6, 2, bias=False))), (2,))
    assert [(layer.kind, layer.shape, layer.parameters) for layer in found.layers] == [
        ("Transposed", (6,), 12)
    ]


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        (64, "in_shape must be a sequence of sizes, got 64"),
        ((63,), r"in_shape must be a shape the network takes, got \(63,\): mat1 and mat2 shapes"),
        ((0,), "in_shape must be at least 1, got 0"),
    ],
)
def test_the_summary_refuses_what_the_network_does_not_take(shape: Any, rule: str) -> None:
    network = mlp(64, [8], 2).train()
    with pytest.raises(ValueError, match=f"^{rule}"):
        summary(network, shape)
    assert network.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


class Residual(nn.Sequential):
    """The layers of any sequence, with the input added."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input + super().forward(input)


def test_the_same_layers_are_of_the_same_classes_and_settings_throughout() -> None:
    made = mlp(4, [4], 4)
    assert same_layers(made, mlp(4, [4], 4)), "whatever the weights"
    assert not same_layers(made, Residual(*made)), "another forward, the same leaves"
    nested, other = nn.Sequential(made), nn.Sequential(Residual(*made))
    assert not same_layers(nested, other)
    assert not same_layers(made, mlp(4, [4], 4, activation="tanh"))
    assert not same_layers(made, mlp(4, [4, 4], 4))
    assert not same_layers(nn.Sequential(made, Squash(1)), nn.Sequential(made, Squash(2)))
    wide, high = (conv_encoder(shape, [2], 2) for shape in ((4, 16), (16, 4)))
    assert not same_layers(wide, high), "as many pixels, in another order"


def test_sizes_become_whole_numbers_of_python() -> None:
    found = sizes_of("dims", np.array([3, 2]))
    assert found == [3, 2]
    assert all(type(size) is int for size in found)
    decoders = [conv_decoder(2, [4], (4, 4), outputs=outputs) for outputs in (2, np.int64(2))]
    assert same_layers(*decoders)
    for sizes, rule in ((5, "a sequence of sizes, got 5"), ([2.5], "a whole number, got 2.5")):
        with pytest.raises(ValueError, match=f"^dims must be {rule}$"):
            sizes_of("dims", sizes)


def test_squashes_only_the_first_numbers() -> None:
    x = torch.randn(3, 5)
    found = Squash(2)(x)
    torch.testing.assert_close(found[:, :2], 1 / (1 + (-x[:, :2]).exp()))
    assert torch.equal(found[:, 2:], x[:, 2:])


def test_the_signal_keeps_its_size_through_many_convolutions() -> None:
    shape, channels = (32, 32), [64, 64, 64]
    encoder = conv_encoder(shape, channels, 200, hidden_dims=[200, 200])
    decoder = conv_decoder(200, channels, shape, hidden_dims=[200, 200], outputs=8)
    given = decoder(torch.randn(20, 200)).unflatten(-1, (8, *shape))[..., 4:-4, 4:-4]
    # A last layer without a ReLU behind it doubles the mean square: after six layers of torch's
    # own start it would be 2 / 6^6.
    for output in (encoder(torch.randn(20, 1024)), given):
        assert 1 < output.square().mean().item() < 4
