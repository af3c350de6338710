"""Mixtures side by side: what each criterion says of them, in a table."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from pplvae.mixtures.endings import EMFit
from pplvae.validation import check_one_of

if TYPE_CHECKING:
    import pandas as pd

MORE_IS_BETTER = ("held_out", "loo")


class Score(NamedTuple):
    """A criterion's value, and what it is the mean of, shape (N,), where it is a mean."""

    value: float
    pointwise: Tensor | None = None

    def gap(self, best: "Score") -> tuple[float, float]:
        """Return how far this mean is above the best one, and the standard error of that."""
        if self.pointwise is None or best.pointwise is None:
            return math.nan, math.nan
        return _mean_and_error(self.pointwise - best.pointwise)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One number of components with one form of covariance.

    Attributes:
        covariance: The form.
        num_components: The number K asked for.
        fit: EM's, to all points; None where it failed.
        scores: By criterion, those that could be had.
        note: What is wrong, if anything.
    """

    covariance: str
    num_components: int
    fit: EMFit | None
    scores: dict[str, Score]
    note: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether there is a fit, and no component of it has closed in on points."""
        return self.fit is not None and not self.fit.num_degenerate


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """Fits to the same points, by form of covariance and number of components.

    Attributes:
        candidates: One for each pair, in the order asked.
        criteria: Those asked for.
        num_points: N.
    """

    candidates: tuple[Candidate, ...]
    criteria: tuple[str, ...]
    num_points: int

    def ranked(self, criterion: str | None = None) -> list[Candidate]:
        """Return the candidates that have a score, best first; degenerate fits after all others.

        Args:
            criterion: One of those asked for; the first of them where None.

        Raises:
            ValueError: If it was not asked for.
        """
        name = self.criteria[0] if criterion is None else criterion
        check_one_of("criterion", name, self.criteria)
        sign = -1 if name in MORE_IS_BETTER else 1
        scored = [own for own in self.candidates if name in own.scores]
        return sorted(scored, key=lambda own: (not own.is_sound, sign * own.scores[name].value))

    def best(self, criterion: str | None = None) -> EMFit:
        """Return EM's fit of the candidate that a criterion takes.

        Args:
            criterion: As for `ranked`.

        Raises:
            ValueError: If it was not asked for, or no candidate has a score.
        """
        for candidate in self.ranked(criterion):
            if candidate.fit is not None:
                return candidate.fit
        notes = "; ".join(sorted({own.note for own in self.candidates}))
        raise ValueError(f"candidates must be at least one that fits, got none: {notes}")

    def table(self) -> "pd.DataFrame":
        """Return one row a candidate.

        Columns: covariance, num_components, log_likelihood (nats, in all), num_parameters,
        converged, num_degenerate, each criterion, and note. A criterion that is a mean over the
        points has three more: its standard error `_se`, how far it is above the best candidate's
        (0 or less), `_gap`, and the standard error of that difference, `_gap_se`, which is far
        smaller as the same points are hard for all. nan stands for what could not be had.
        """
        import pandas as pd

        tops = {name: self.ranked(name)[:1] for name in self.criteria}
        rows = []
        for own in self.candidates:
            row = {"covariance": own.covariance, "num_components": own.num_components}
            row |= _facts(own.fit)
            for name in self.criteria:
                row |= _columns(name, own, tops[name])
            rows.append(row | {"note": own.note})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        said = []
        for name in self.criteria:
            first = next(iter(self.ranked(name)), None)
            choice = f"{first.num_components} {first.covariance}" if first else "none"
            said.append(f"{name} takes {choice}")
        return (
            f"Selection({len(self.candidates)} candidates on {self.num_points} points: "
            f"{', '.join(said)})"
        )

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, float_format="{:.4g}".format)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def _facts(fit: EMFit | None) -> dict[str, object]:
    if fit is None:
        return {"log_likelihood": math.nan, "num_parameters": math.nan, "converged": False,
                "num_degenerate": 0}  # fmt: skip
    names = "log_likelihood", "num_parameters", "converged", "num_degenerate"
    return {name: getattr(fit, name) for name in names}


def _columns(name: str, own: Candidate, top: list[Candidate]) -> dict[str, float]:
    """Return the columns of a criterion."""
    score = own.scores.get(name, Score(math.nan))
    if name not in MORE_IS_BETTER:
        return {name: score.value}
    error = math.nan if score.pointwise is None else _mean_and_error(score.pointwise)[1]
    gap, gap_error = score.gap(top[0].scores[name]) if top else (math.nan, math.nan)
    return {
        name: score.value,
        f"{name}_se": error,
        f"{name}_gap": gap,
        f"{name}_gap_se": gap_error,
    }
