"""A potential and its slope as one compiled graph, several times faster than a run of the model.

Where the data are small, most of the time of a run is Python's. So one run is recorded, down to
the tensor operations that depend on the point u, those of the slope among them; all others become
constants. torch.jit then runs the record.

A record knows no branches. A run that looks at a number that depends on u is not recorded, and a
graph is used only where it says the same as the model at points on all sides of the start.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Values = tuple[Tensor, ...]
Energy = Callable[..., Tensor]


def compile_energy(energy: Energy, points: Sequence[Values]) -> Energy | None:
    """Return `energy` as a compiled graph, or None where there is no right one.

    Args:
        energy: A function of tensors, of shape (); it needs one derivative.
        points: Where the two must agree; the record is made at the first. Some are needed: the
            graph is rewritten in its first runs.

    Returns:
        A function that can be differentiated once.
    """
    with warnings.catch_warnings():
        # torch.jit announces its end; and what the model warns of it has done so before.
        warnings.simplefilter("ignore")
        try:
            compiled = _differentiable(_record(energy, points[0]), energy)
            agree = all(_agree(compiled, energy, point) for point in points)
        except Exception:  # a model is anyone's code, and the recorder knows not all of torch
            return None
    return compiled if agree else None


def value_and_slopes(energy: Energy, values: Values) -> Values:
    """Return U, shape (), and its derivatives by each of the values, in their shapes."""
    with torch.enable_grad():
        values = tuple(value.detach().requires_grad_() for value in values)
        found = energy(*values)
        return found.detach(), *torch.autograd.grad(found, values)


def _record(energy: Energy, values: Values) -> Callable[..., Values]:
    """Return a graph that gives the value, the slopes, and whether a factorization failed."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def outputs(*values: Tensor) -> Values:
        with _Dependent(values) as dependent:
            found = value_and_slopes(energy, values)
            failed = [info.abs().amax() for info in dependent.infos]
            return *found, torch.stack(failed).amax() if failed else torch.zeros(())

    module = make_fx(outputs)(*values)
    for node in module.graph.nodes:
        if node.op == "get_attr":  # a graph holds no constants that ask for a gradient
            constant = getattr(module, node.target).detach()
            delattr(module, node.target)
            module.register_buffer(node.target, constant)
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.trace(module.eval(), values, check_trace=False))


class _Dependent(TorchDispatchMode):
    """Lets the recorder see only what depends on the point.

    So data may be looked at, as by a model that checks them, and what it makes of them is made
    once. A look at what depends on the point is left to the recorder, which refuses it.

    Attributes:
        infos: Error codes of matrix factorizations, which would be lost in a graph.
    """

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.infos: list[Tensor] = []
        # The tensors too: the id of one that is gone is used again.
        self._seen = {id(value): value for value in values}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

        kwargs = kwargs or {}
        if not any(id(leaf) in self._seen for leaf in tree_leaves((args, kwargs))):
            with disable_proxy_modes_tracing():
                return func(*args, **kwargs)
        if func is torch.ops.aten._linalg_check_errors.default:
            self.infos.append(args[0])
        out = func(*args, **kwargs)
        self._seen |= {id(leaf): leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)}
        return out


def _differentiable(graph: Callable[..., Values], energy: Energy) -> Energy:
    """Return the energy that a graph computes, with the slopes that it gives."""

    def compiled(*values: Tensor) -> Tensor:
        with torch.no_grad():
            *found, failed = graph(*values)
        # The model itself says what is wrong, in the words that its callers know.
        return energy(*values) if failed else _Known.apply(*found, *values)

    return compiled


class _Known(torch.autograd.Function):
    """A value whose slopes are known already: of (value, *slopes, *values)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *rest: Tensor) -> Tensor:
        ctx.slopes = rest[: len(rest) // 2]
        return value.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore
        return None, *[None] * len(ctx.slopes), *[grad * slope for slope in ctx.slopes]


def _agree(compiled: Energy, energy: Energy, values: Values) -> bool:
    tolerance = torch.finfo(values[0].dtype).eps ** 0.5
    expected, found = _said(energy, values), _said(compiled, values)
    if isinstance(expected, type) or isinstance(found, type):
        return expected is found
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )


def _said(energy: Energy, values: Values) -> Values | type[Exception]:
    """Return the value and slopes, or what was raised, as by a matrix that is none of its kind."""
    try:
        return value_and_slopes(energy, values)
    except Exception as error:
        return type(error)
