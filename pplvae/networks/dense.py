"""Networks whose layers see all of their input.

h_0 = x,   h_i = activation(W_i h_{i-1} + b_i),   output = W h_last + b
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pplvae.validation import check_one_of, check_whole

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def mlp(
    in_dim: int, hidden_dims: Sequence[int], out_dim: int, *, activation: str = "relu"
) -> nn.Sequential:
    """Return a multilayer perceptron from (..., in_dim) to (..., out_dim).

    Args:
        in_dim: Size of the input.
        hidden_dims: Sizes of the hidden layers, first to last; empty for a linear map.
        out_dim: Size of the output, which is left linear.
        activation: One of `ACTIVATIONS`.

    Raises:
        ValueError: If a size is not positive or the activation is unknown.
    """
    dims = sizes_of("layer sizes", [in_dim, *hidden_dims, out_dim])
    check_one_of("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(dims[:-1]):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1]))


def sizes_of(name: str, sizes: Iterable[int]) -> list[int]:
    """Return positive whole numbers as Python's own: NumPy's cannot be written as JSON.

    Raises:
        ValueError: If they are no such numbers, or there is one number in place of several.
    """
    if not isinstance(sizes, Iterable):
        raise ValueError(f"{name} must be a sequence of sizes, got {sizes}")
    sizes = list(sizes)
    for size in sizes:
        check_whole(name, size, 1)
    return [int(size) for size in sizes]


class Squash(nn.Module):
    """The first numbers through a sigmoid, into (0, 1); the others as they are.

    Args:
        size: How many are the first.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def extra_repr(self) -> str:
        """Return how many are the first."""
        return str(self.size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the numbers, shape (…, M), squashed."""
        return torch.cat([x[..., : self.size].sigmoid(), x[..., self.size :]], dim=-1)
