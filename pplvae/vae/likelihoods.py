"""Likelihoods p(x | z): what the decoder's output says of the data, one small class each.

    Bernoulli:             log p(x | z) = Σ_d x_d log π_d + (1 − x_d) log(1 − π_d)
    Continuous Bernoulli:  the same, for grey x in [0, 1], with what makes it integrate to one
    Gaussian:              log p(x | z) = − Σ_d [½ ((x_d − m_d) / σ_d)² + log σ_d + ½ log 2π]

With σ² = c / 2 fixed the Gaussian is the squared error ‖x − x̂‖² / c of Lectures 14 and 18, where
the sign and the constant are lost. Those of whole numbers such as bytes are in `levels`. All log
densities are in nats.

A law of your own is a subclass with `forward`; entered in `LIKELIHOODS` it has a name, and a VAE
made by a builder can be saved and loaded with it.

Reference:
    Kingma & Welling (2014), appendix C, https://arxiv.org/abs/1312.6114;
    Loaiza-Ganem & Cunningham (2019), https://arxiv.org/abs/1907.06845
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pplvae.vae.distributions import (
    BernoulliLaw,
    ContinuousBernoulliLaw,
    DiagonalGaussian,
    IsotropicGaussian,
    limited,
)
from pplvae.validation import check_one_of, check_positive


class Likelihood(nn.Module):
    """A law of x given the decoder's output.

    A subclass has `forward`, and where it needs them the others. A decoder that gives several
    numbers for each in x gives them as so many blocks of D, as a convolution gives its channels.
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

    def blocks(self, output: Tensor) -> Tensor:
        """Return the decoder's output, shape (…, outputs · D), as (…, outputs, D).

        Raises:
            ValueError: If it does not have a multiple of `outputs` columns.
        """
        if output.shape[-1] % self.outputs:
            raise ValueError(
                f"decoder must give {self.outputs} numbers for each in x, got "
                f"{output.shape[-1]} in all"
            )
        return output.unflatten(-1, (self.outputs, -1))

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
        binarize: None takes only zeros and ones, such as those of `Dataset.binarized(seed)`: a
            draw made once, the "fixed binarization" of most papers. "dynamic" takes grey values
            in [0, 1] and draws each pixel anew, white with that probability, every time the data
            are seen. "fixed" takes them too, and makes white what is at least ½.
    """

    discrete = True

    def __init__(self, binarize: str | None = None) -> None:
        super().__init__()
        if binarize is not None:
            check_one_of("binarize", binarize, ["dynamic", "fixed"])
        self.binarize = binarize

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x | z) of logits, shape (…, D)."""
        return BernoulliLaw(self.blocks(output))

    def check(self, x: Tensor) -> None:
        """Refuse what is not binary, or not in [0, 1] where it is binarized.

        Raises:
            ValueError: Naming what to do instead.
        """
        if self.binarize is None:
            self.check_prepared(x)
        else:
            _check_unit(x, "to be binarized")

    def prepare(self, x: Tensor) -> Tensor:
        """Return x in zeros and ones, drawn anew where it is binarized dynamically."""
        if self.binarize == "dynamic":
            return (torch.rand_like(x) < x).to(x.dtype)
        return x if self.binarize is None else (x >= 0.5).to(x.dtype)

    def check_prepared(self, x: Tensor) -> None:
        """Refuse what is not binary.

        Raises:
            ValueError: Naming what to do instead.
        """
        if not ((x == 0) | (x == 1)).all():
            remedy = (
                "give Bernoulli(binarize='dynamic') or Bernoulli(binarize='fixed') data in "
                "[0, 1], model grey by ContinuousBernoulli()"
                if self.binarize is None
                else "give each batch through `likelihood.prepare(x)`"
            )
            raise ValueError(
                f"x must be binary for a Bernoulli likelihood, got values between {_range(x)}: "
                f"{remedy}, or binarize them once by Dataset.binarized(seed)"
            )

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this likelihood again."""
        return {"binarize": self.binarize}


class ContinuousBernoulli(Likelihood):
    """Grey x in [0, 1]; the decoder gives logits.

    A density, unlike the Bernoulli's formula on grey x, which integrates to less than one.
    """

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x | z) of logits, shape (…, D)."""
        return ContinuousBernoulliLaw(self.blocks(output))

    def check(self, x: Tensor) -> None:
        """Refuse what is not in [0, 1], with a ValueError."""
        _check_unit(x, "for a continuous Bernoulli likelihood")

    def check_prepared(self, x: Tensor) -> None:
        """Refuse what is not in [0, 1], with a ValueError."""
        self.check(x)


class Gaussian(Likelihood):
    """Real x; the decoder gives the mean, and each number's own log-scale where asked.

    Args:
        scale: The standard deviation σ in units of x; learned where None.
        start: Where a learned one begins, say the data's own standard deviation. One for all
            numbers has σ² = s² + (start / 1000)² with log s learned, and so is never less than a
            thousandth of its start: a likelihood without noise is unbounded.
        predicted: Whether the decoder gives log (σ / start) of each number, in a second block
            after the means; below −8 and above 8 it grows like a logarithm.

    Raises:
        ValueError: If a scale is not positive, or one is given that is to be predicted.
    """

    LEAST = 1e-3  # of the start

    def __init__(
        self, scale: float | None = None, *, start: float = 1.0, predicted: bool = False
    ) -> None:
        super().__init__()
        first = start if scale is None else scale
        check_positive("start" if scale is None else "scale", first)
        if predicted and scale is not None:
            raise ValueError(f"scale must be None where it is predicted, got {scale}")
        self.fixed = None if scale is None else float(scale)
        self.start, self.predicted = float(start), predicted
        if scale is None and not predicted:
            self.log_scale = nn.Parameter(
                torch.tensor(math.log(start) + 0.5 * math.log1p(-(self.LEAST**2)))
            )

    @classmethod
    def squared_error(cls, c: float) -> Self:
        """Return the law with log p(x | z) = −‖x − x̂‖² / c − D/2 log(π c): σ² = c / 2, fixed."""
        check_positive("c", c)
        return cls(scale=math.sqrt(c / 2))

    @property
    def outputs(self) -> int:
        """How many numbers the decoder must give for each number in x."""
        return 2 if self.predicted else 1

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return p(x | z) of means, shape (…, D), or of means and log-scales, (…, 2 D)."""
        if self.predicted:
            loc, log_ratio = self.blocks(output).unbind(-2)
            return DiagonalGaussian(loc, limited(log_ratio) + math.log(self.start))
        if self.fixed is not None:
            return IsotropicGaussian(output, output.new_full((), math.log(self.fixed)))
        least = self.log_scale.new_full((), 2 * math.log(self.start * self.LEAST))
        return IsotropicGaussian(output, 0.5 * torch.logaddexp(2 * self.log_scale, least))

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this likelihood again."""
        return {"scale": self.fixed, "start": self.start, "predicted": self.predicted}


class Supported(dist.Independent):
    """A law that refuses what is outside its support, with Pyro's validation or without."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p in nats, shape (…).

        Raises:
            ValueError: If the law cannot have produced `value`.
        """
        support: Any = self.support
        if not support.check(value).all():
            name = type(self.base_dist).__name__
            raise ValueError(
                f"x must be in the support of the likelihood's {name}, {support}, got values "
                f"between {_range(value)}: scale or round the data, binarize them by "
                "Dataset.binarized(seed), or model them by a law that has them"
            )
        return super().log_prob(value)


class Given(Likelihood):
    """A function of the decoder's output as a likelihood.

    What its law cannot have produced is refused once there is a law, when x is first weighed.

    Args:
        law: Maps the decoder's output to a distribution with event shape (D,).
    """

    def __init__(self, law: Callable[[Tensor], dist.TorchDistribution]) -> None:
        super().__init__()
        self.law = law

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """Return what the function gives.

        Raises:
            ValueError: If its event shape is not (D,), or it is built from probabilities, which
                saturate: at a logit of −17 a one costs 16 nats in single precision instead of 17,
                and the gradient is zero.
        """
        law = self.law(output)
        if len(law.event_shape) != 1:
            name, shape = type(law).__name__, tuple(law.event_shape)
            remedy = "" if shape else ": end it in .to_event(1)"
            raise ValueError(f"law must have event shape (D,), got {name} with {shape}{remedy}")
        base: Any = getattr(law, "base_dist", law)
        if hasattr(type(base), "logits") and "logits" not in vars(base) and "probs" in vars(base):
            name = type(base).__name__
            raise ValueError(
                f"law must be built from logits, got {name}(probs), whose gradient vanishes at "
                f"0 and 1: give {name}(logits=output)"
            )
        return _supported(law)


def _supported(law: Any) -> dist.TorchDistribution:
    """Return the law, so that it refuses what it cannot produce; as it is where that is all."""
    try:
        support = law.support
    except NotImplementedError:  # a law of one's own that does not say
        return law
    if getattr(support, "base_constraint", support) is dist.constraints.real:
        return law
    if isinstance(law, dist.Independent):
        return Supported(law.base_dist, law.reinterpreted_batch_ndims)
    return Supported(law, 0)


def _check_unit(x: Tensor, purpose: str) -> None:
    if ((x < 0) | (x > 1)).any():
        raise ValueError(
            f"x must be in [0, 1] {purpose}, got values between {_range(x)}: scale the data first"
        )


def _range(x: Tensor) -> str:
    return f"{x.min().item():g} and {x.max().item():g}"


# By name; `levels` adds its own.
LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
}


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
