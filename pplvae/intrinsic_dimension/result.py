"""What every estimate of a dimension says of itself: how sure it is, in a line."""

from dataclasses import dataclass, fields
from typing import Any

from pplvae.intrinsic_dimension.gamma import GammaPosterior

_LEAST_ERROR = 1e-6  # of d: a law of no width has no quantiles


class OneLine:
    """A dataclass, of `repr=False`, that prints its fields, d first, numbers to 4 digits."""

    def __repr__(self) -> str:
        own: Any = self
        shown = {each.name: getattr(own, each.name) for each in fields(own) if each.repr}
        said = []
        if "dimension" in shown:
            error = shown.pop("standard_error", None)
            plus = "" if error is None else f" ± {error:.2g}"
            said = [f"d = {_short(shown.pop('dimension'))}{plus}"]
        said += [f"{name} = {_short(value)}" for name, value in shown.items()]
        return f"{type(self).__name__}({', '.join(said)})"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_short(each) for each in value)})"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


@dataclass(frozen=True, eq=False, repr=False)
class Estimated(OneLine):
    """A dimension with its standard error.

    Attributes:
        dimension: The estimate of d.
        standard_error: Its standard error.
    """

    dimension: float
    standard_error: float

    @property
    def law(self) -> GammaPosterior:
        """Where d may be: the Gamma law with this mean and standard deviation."""
        error = max(self.standard_error, _LEAST_ERROR * self.dimension)
        shape = (self.dimension / error) ** 2
        return GammaPosterior(shape, shape / self.dimension, float("nan"))

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of d, that of `law`."""
        return self.law.interval(prob)
