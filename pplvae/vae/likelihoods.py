"""Likelihoods p(x | z): what the decoder's output says of the data, one small class each.

    Bernoulli:  log p(x | z) = Σ_d x_d log π_d + (1 − x_d) log(1 − π_d),  π = sigmoid(output)
    Gaussian:   log p(x | z) = − ‖x − output‖² / (2 σ²) − D/2 log(2 π σ²)

With σ² = c / 2 fixed the Gaussian is the squared error ‖x − x̂‖² / c of Lectures 14 and 18, where
the sign and the constant are lost. All log densities are in nats.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pplvae.validation import check_one_of, check_positive


class Likelihood(nn.Module):
    """A law of x given the decoder's output.

    A subclass has `forward`, and where it needs them `check`, `prepare` and `check_prepared`.
    """

    discrete: ClassVar[bool] = False  # whether log p is the log of a probability, not a density

    @property
    def outputs(self) -> int:
        """How many numbers the decoder must give for each number in x."""
        return 1

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x | z), event shape (D,), for the decoder's output, shape (…, outputs · D)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def as_input(self, x: Tensor) -> Tensor:
        """Return what the encoder is to see of x: x itself, where its scale suits a network."""
        return x

    def check(self, x: Tensor) -> None:
        """Refuse data that this law cannot have produced, with a ValueError."""

    def prepare(self, x: Tensor) -> Tensor:
        """Return what is modeled of a batch; may draw from the global generator."""
        return x

    def check_prepared(self, x: Tensor) -> None:
        """Refuse what `prepare` cannot have returned, with a ValueError."""

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this likelihood again."""
        return {}


class Bernoulli(Likelihood):
    """Binary x; the decoder gives logits, which never saturate.

    Args:
        binarize: None takes only zeros and ones. "dynamic" takes grey values in [0, 1] and draws
            each pixel anew, white with that probability, every time the data are seen.
    """

    def __init__(self, binarize: str | None = None) -> None:
        super().__init__()
        if binarize is not None:
            check_one_of("binarize", binarize, ["dynamic"])
        self.binarize = binarize

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x | z) of logits, shape (…, D)."""
        return dist.Bernoulli(logits=output).to_event(1)

    def check(self, x: Tensor) -> None:
        """Refuse what is not binary, or not in [0, 1] where it is binarized.

        Raises:
            ValueError: Naming what to do instead.
        """
        if self.binarize is None:
            self.check_prepared(x)
        if ((x < 0) | (x > 1)).any():
            raise ValueError(
                f"x must be in [0, 1] to be binarized, got values between {x.min().item():g} and "
                f"{x.max().item():g}: scale the data first"
            )

    def prepare(self, x: Tensor) -> Tensor:
        """Return x, drawn anew where it is binarized dynamically."""
        return x if self.binarize is None else (torch.rand_like(x) < x).to(x.dtype)

    def check_prepared(self, x: Tensor) -> None:
        """Refuse what is not binary.

        Raises:
            ValueError: Naming what to do instead.
        """
        if not ((x == 0) | (x == 1)).all():
            remedy = (
                "give Bernoulli(binarize='dynamic') data in [0, 1]"
                if self.binarize is None
                else "give each batch through `likelihood.prepare(x)`"
            )
            raise ValueError(
                "x must be binary for a Bernoulli likelihood, got values between "
                f"{x.min().item():g} and {x.max().item():g}: {remedy}, or binarize them once"
            )

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this likelihood again."""
        return {"binarize": self.binarize}


class Gaussian(Likelihood):
    """Real x with the same standard deviation everywhere; the decoder gives the mean.

    Args:
        scale: The standard deviation σ in units of x; learned where None.
        start: Where a learned one begins, say the data's own standard deviation. It never falls
            below 0.001: a likelihood without noise is unbounded.
    """

    LEAST = 1e-3

    def __init__(self, scale: float | None = None, *, start: float = 1.0) -> None:
        super().__init__()
        first = start if scale is None else scale
        check_positive("start" if scale is None else "scale", first)
        self.fixed = None if scale is None else float(scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(first)), requires_grad=scale is None)

    @property
    def scale(self) -> Tensor:
        """The standard deviation σ, shape ()."""
        return self.log_scale.exp() if self.fixed else self.log_scale.exp().clamp(min=self.LEAST)

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x | z) of means, shape (…, D)."""
        return dist.Normal(output, self.scale).to_event(1)

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this likelihood again."""
        return {"scale": self.fixed}


class Given(Likelihood):
    """A function of the decoder's output as a likelihood.

    Args:
        law: Maps the decoder's output to a distribution with event shape (D,).
    """

    def __init__(self, law: Callable[[Tensor], dist.TorchDistribution]) -> None:
        super().__init__()
        self.law = law

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return what the function gives."""
        return self.law(output)


LIKELIHOODS: dict[str, type[Likelihood]] = {"bernoulli": Bernoulli, "gaussian": Gaussian}


def named(name: str) -> Likelihood:
    """Return the likelihood called `name`, with its defaults.

    Raises:
        ValueError: If there is none of that name.
    """
    check_one_of("likelihood", name, LIKELIHOODS)
    return LIKELIHOODS[name]()


def as_likelihood(likelihood: str | Callable[..., dist.TorchDistribution]) -> Likelihood:
    """Return a likelihood, the name of one, or a function of the output, as a likelihood.

    Raises:
        ValueError: If it is none of these, a class say.
    """
    if isinstance(likelihood, str):
        return named(likelihood)
    if isinstance(likelihood, type):
        name = likelihood.__name__
        raise ValueError(f"likelihood must be an instance, got the class {name}: give {name}()")
    if not callable(likelihood):
        raise ValueError(f"likelihood must be a name, an instance or a function, got {likelihood}")
    return likelihood if isinstance(likelihood, Likelihood) else Given(likelihood)
