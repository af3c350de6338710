"""A network's layers at a glance: what each gives and how many numbers it learns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pplvae import randomness
from pplvae.validation import check_whole


@dataclass(frozen=True)
class Layer:
    """One layer of a network, as one example went through it.

    Attributes:
        name: Its place in the network.
        kind: Its class.
        shape: Of its output for one example; None where that is no tensor.
        parameters: How many numbers it learns, those of layers before it not counted again.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int


@dataclass(frozen=True, repr=False)
class Summary:
    """The layers of a network, in the order in which they run.

    Attributes:
        parameters: How many numbers the network learns in all.
        layers: Each layer; one that runs twice stands there twice.
    """

    parameters: int
    layers: tuple[Layer, ...]

    def __repr__(self) -> str:
        rows = [("layer", "kind", "output", "parameters")]
        rows += [
            (
                layer.name,
                layer.kind,
                "×".join(map(str, layer.shape or ())),
                f"{layer.parameters:,}",
            )
            for layer in self.layers
        ]
        rows.append(("all", "", "", f"{self.parameters:,}"))
        name, kind, shape, number = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(
            f"{a:{name}}  {b:{kind}}  {c:{shape}}  {d:>{number}}" for a, b, c, d in rows
        )


def summary(module: nn.Module, in_shape: Sequence[int]) -> Summary:
    """Return what each layer of a network gives, and how many numbers it learns.

    One example of zeros is sent through, in evaluation mode; the network and the random state are
    left as they were.

    Args:
        module: A network of one argument.
        in_shape: Shape of one example, without the batch.

    Raises:
        ValueError: If a size is not a positive whole number.
    """
    for size in in_shape:
        check_whole("in_shape", size, 1)
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros(1, *in_shape, dtype=parameter.dtype, device=parameter.device)
    modes = [(part, part.training) for part in module.modules()]
    with _Watch(module) as watch, randomness.scope(0), torch.no_grad():
        try:
            module.eval()(example)
        finally:
            for part, mode in modes:
                part.training = mode
    return Summary(sum(p.numel() for p in module.parameters()), tuple(watch.layers))


@dataclass
class _Watch:
    """Notes the layers of a module as they run: parts without parts, or with weights."""

    module: nn.Module
    layers: list[Layer] = field(default_factory=list)
    counted: set[int] = field(default_factory=set)
    hooks: list[Any] = field(default_factory=list)

    def __enter__(self) -> "_Watch":
        for name, part in self.module.named_modules():
            if not list(part.children()) or list(part.parameters(recurse=False)):
                self.hooks.append(part.register_forward_hook(self._note(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _note(self, name: str) -> Any:
        def note(part: nn.Module, _: object, output: object) -> None:
            shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
            self.layers.append(Layer(name, type(part).__name__, shape, self._new(part)))

        return note

    def _new(self, part: nn.Module) -> int:
        """Return how many numbers a layer learns that no layer before it had."""
        new = [p for p in part.parameters(recurse=False) if id(p) not in self.counted]
        self.counted |= {id(p) for p in new}
        return sum(p.numel() for p in new)


def same_layers(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same layers in the same order, whatever the weights."""
    return _described(one) == _described(other)


def _described(module: nn.Module) -> list[tuple[str, str]]:
    parts = module.named_modules()
    leaves = [(name, part) for name, part in parts if not any(True for _ in part.children())]
    return [(name, f"{type(part).__name__}({part.extra_repr()})") for name, part in leaves]
