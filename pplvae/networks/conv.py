"""Convolutional networks for images of any size, given and returned as rows of pixels.

A window of F pixels, of a convolution or a pooling, that moves S at a time over W pixels, P zeros
added at either end, stops at

    W' = (W − F + 2 P) / S + 1

places, rounded down; the remainder r of the division is the pixels at the far end that it leaves
out. A transposed convolution goes the other way, W = (W' − 1) S + F − 2 P + r: with each layer's
own r, images of any size, odd ones too, come back exactly. K filters on D channels learn
K (D F² + 1) numbers, and give K channels. Weights start with a variance that keeps the signal
alive through all layers: torch's own start shrinks it by 6 at each, and a VAE then ignores its
code for long.

Reference:
    Dumoulin & Visin (2016), A guide to convolution arithmetic for deep learning,
    https://arxiv.org/abs/1603.07285; He, Zhang, Ren & Sun (2015), https://arxiv.org/abs/1502.01852;
    Lecture 14 (26/10/2023): W2 = (W1 − F + 2P) / S + 1, which must divide (`output_size`)
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pplvae.networks.dense import ACTIVATIONS, mlp, sizes_of
from pplvae.validation import check_one_of, check_whole

Pair: TypeAlias = tuple[int, int]  # of the height and the width


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, *, exact: bool = True
) -> int:
    """Return W', the places at which a window stops, on one axis of an image.

    Args:
        size: Pixels W.
        kernel: Pixels F of the window.
        stride: Pixels S from one place to the next.
        padding: Zeros P added at either end.
        exact: Whether to refuse a window that leaves pixels out at the far end; W' is rounded
            down otherwise, as torch does.

    Raises:
        ValueError: If an argument is not a whole number, the window has more than W + 2P pixels,
            or S does not divide W − F + 2P where it must.
    """
    places, left_out = _places(size, kernel, stride, padding)
    if exact and left_out:
        span = size - kernel + 2 * padding
        raise ValueError(
            f"stride must divide size - kernel + 2 padding = {size} - {kernel} + {2 * padding} = "
            f"{span}, got {stride}"
        )
    return places


def conv_encoder(
    shape: Sequence[int],
    channels: Sequence[int],
    out_dim: int,
    *,
    hidden_dims: Sequence[int] = (),
    kernel: int = 4,
    stride: int = 2,
    padding: int = 1,
    activation: str = "relu",
) -> nn.Sequential:
    """Return a network from images as rows, (…, D), to (…, out_dim).

    Args:
        shape: Of one image, (H, W) or (C, H, W); D is its product.
        channels: Of each convolution, first to last.
        out_dim: Size of the output, which is left linear.
        hidden_dims: Sizes of dense layers between the convolutions and the output.
        kernel: Pixels of every window along each axis.
        stride: Pixels from one place of a window to the next.
        padding: Zeros added at either end of each axis.
        activation: One of `ACTIVATIONS`.

    Raises:
        ValueError: If a size is not positive, a window does not fit, or the activation is unknown.
    """
    image, widths = _image(shape), _channels(channels)
    sizes, _ = _pyramid(image[1:], len(widths), (kernel, stride, padding))
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([image[0], *widths]):
        layers += [nn.Conv2d(fan_in, fan_out, kernel, stride, padding), _active(activation)]
    features = widths[-1] * math.prod(sizes[-1])
    dense = mlp(features, hidden_dims, out_dim, activation=activation)
    return _Rows(*layers, nn.Flatten(), *dense, taken=image, given=(out_dim,))


def conv_decoder(
    in_dim: int,
    channels: Sequence[int],
    shape: Sequence[int],
    *,
    outputs: int = 1,
    hidden_dims: Sequence[int] = (),
    kernel: int = 4,
    stride: int = 2,
    padding: int = 1,
    activation: str = "relu",
) -> nn.Sequential:
    """Return a network from (…, in_dim) to images as rows, (…, outputs · D).

    It is `conv_encoder` with the channels in reverse, run backwards. The output is `outputs`
    images one after the other: `output.unflatten(-1, (outputs, *shape))`.

    Args:
        in_dim: Size of the input.
        channels: Going into each transposed convolution, first to last.
        shape: Of one image, (H, W) or (C, H, W); D is its product.
        outputs: Numbers given for each pixel and color.
        hidden_dims: Sizes of dense layers between the input and the convolutions.
        kernel: Pixels of every window along each axis.
        stride: Pixels from one place of a window to the next.
        padding: Zeros added at either end of each axis on the way down.
        activation: One of `ACTIVATIONS`.

    Raises:
        ValueError: If a size is not positive, a window does not fit, or the activation is unknown.
    """
    image, given = _image(shape), _channels(channels)
    (outputs,) = sizes_of("outputs", [outputs])
    sizes, left_out = _pyramid(image[1:], len(given), (kernel, stride, padding))
    widths = [*given, outputs * image[0]]
    features = widths[0] * math.prod(sizes[-1])
    layers: list[nn.Module] = [*mlp(in_dim, hidden_dims, features, activation=activation)]
    layers.append(nn.Unflatten(-1, (widths[0], *sizes[-1])))
    for (fan_in, fan_out), rest in zip(pairwise(widths), reversed(left_out), strict=True):
        layers += [
            _active(activation),
            nn.ConvTranspose2d(fan_in, fan_out, kernel, stride, padding, output_padding=rest),
        ]
    return _Rows(*layers, taken=(in_dim,), given=(outputs * math.prod(image),))


class _Rows(nn.Sequential):
    """Layers for one batch axis, made to take rows behind any number of them."""

    def __init__(self, *layers: nn.Module, taken: Sequence[int], given: Sequence[int]) -> None:
        super().__init__(*layers)
        for layer in layers:
            _start(layer)
        self.taken, self.given = tuple(taken), tuple(given)

    def extra_repr(self) -> str:
        """Return the shapes of a row before and after it, which the layers do not say."""
        return f"taken={self.taken}, given={self.given}"

    def forward(self, input: Tensor) -> Tensor:
        """Return the output for rows, shape (…, product of taken)."""
        if input.shape[-1] != math.prod(self.taken):
            raise ValueError(f"x must have {math.prod(self.taken)} columns, got {input.shape[-1]}")
        given = super().forward(input.reshape(-1, *self.taken))
        return given.reshape(*input.shape[:-1], *self.given)


@torch.no_grad()
def _start(layer: nn.Module) -> None:
    """Start weights uniform with variance 2 / (numbers that meet in an output), biases at 0."""
    if isinstance(layer, nn.ConvTranspose2d):
        meet = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
    elif isinstance(layer, nn.Linear | nn.Conv2d):
        meet = layer.weight[0].numel()
    else:
        return
    layer.weight.uniform_(-math.sqrt(6 / meet), math.sqrt(6 / meet))
    if layer.bias is not None:
        layer.bias.zero_()


def _image(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape as (C, H, W)."""
    sizes = sizes_of("shape", shape)
    if len(sizes) not in (2, 3):
        raise ValueError(f"shape must be (H, W) or (C, H, W), got {tuple(sizes)}")
    channels, height, width = [1, *sizes][-3:]
    return channels, height, width


def _channels(channels: Sequence[int]) -> list[int]:
    found = sizes_of("channels", channels)
    if not found:
        raise ValueError("channels must name at least one convolution, got none")
    return found


def _active(activation: str) -> nn.Module:
    check_one_of("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]()


def _places(
    size: int, kernel: int, stride: int, padding: int, *, context: str = ""
) -> tuple[int, int]:
    """Return W' and how many pixels the window leaves out."""
    check_whole("size", size, 1)
    check_whole("stride", stride, 1)
    check_whole("padding", padding, 0)
    fits = f"for a size of {size} and a padding of {padding}{context}"
    check_whole("kernel", kernel, 1, size + 2 * padding, context=fits)
    steps, left_out = divmod(size - kernel + 2 * padding, stride)
    return steps + 1, left_out


def _pyramid(
    image: Pair, depth: int, window: tuple[int, int, int]
) -> tuple[list[Pair], list[Pair]]:
    """Return the sizes from the image up, depth + 1 of them, and what each step leaves out."""
    sizes, left_out = [image], []
    for number in range(1, depth + 1):
        cure = " (fewer convolutions leave more pixels)" if number > 1 else ""
        place = f" at convolution {number} of {depth}{cure}"
        (height, bottom), (width, right) = (
            _places(pixels, *window, context=place) for pixels in sizes[-1]
        )
        sizes.append((height, width))
        left_out.append((bottom, right))
    return sizes, left_out
