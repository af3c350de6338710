"""A network's layers at a glance: what each gives and how many numbers it learns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pplvae import randomness
from pplvae.networks.dense import sizes_of
from pplvae.networks.modes import evaluating


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
        ValueError: If a size is not a positive whole number, or the network takes another shape.
    """
    sizes = sizes_of("in_shape", in_shape)
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros(1, *sizes, dtype=parameter.dtype, device=parameter.device)
    with _Watch(module) as watch, randomness.scope(0), torch.no_grad(), evaluating(module):
        try:
            module(example)
        except RuntimeError as error:
            got = f"{tuple(sizes)}: {error}"
            raise ValueError(f"in_shape must be a shape the network takes, got {got}") from error
    return Summary(sum(p.numel() for p in module.parameters()), tuple(watch.layers))


@dataclass
class _Watch:
    """Notes the layers of a module as they run: parts in which no other ran, or with weights."""

    module: nn.Module
    layers: list[Layer] = field(default_factory=list)
    counted: set[int] = field(default_factory=set)
    hooks: list[Any] = field(default_factory=list)
    before: list[int] = field(default_factory=list)  # layers noted as each part began

    def __enter__(self) -> "_Watch":
        for name, part in self.module.named_modules():
            self.hooks.append(part.register_forward_pre_hook(self._begin))
            self.hooks.append(part.register_forward_hook(self._note(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _begin(self, *_: object) -> None:
        self.before.append(len(self.layers))

    def _note(self, name: str) -> Any:
        def note(part: nn.Module, _: object, output: object) -> None:
            alone = self.before.pop() == len(self.layers)
            if alone or list(part.parameters(recurse=False)):
                shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
                number = self._new(part.parameters(recurse=alone))
                self.layers.append(Layer(name, type(part).__name__, shape, number))

        return note

    def _new(self, parameters: Iterable[nn.Parameter]) -> int:
        """Return how many numbers there are that no layer before had."""
        new = [p for p in parameters if id(p) not in self.counted]
        self.counted |= {id(p) for p in new}
        return sum(p.numel() for p in new)


def same_layers(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks do the same with the same weights, as far as can be seen.

    They do where all their parts have the same names, classes and settings, in the same order.
    """
    return _described(one) == _described(other)


def _described(module: nn.Module) -> list[tuple[str, type[nn.Module], str]]:
    return [(name, type(part), part.extra_repr()) for name, part in module.named_modules()]
