"""Densities held against each other on points that none of them has seen, and how it is shown."""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One estimate on points that it has not seen.

    Attributes:
        per_point: log q of each, in nats, shape (M,); None where there is no such estimate.
        kind: "parametric", "non-parametric", or "given".
        note: What a reader should know; why there is none.
        ranked: Whether it is a density.
        seconds: CPU time of the fit and the evaluation.
        log_density: q itself: from points, shape (M, D), to log densities, (M,); None for none.
    """

    per_point: Tensor | None = field(repr=False)
    kind: str
    note: str
    ranked: bool
    seconds: float
    log_density: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    @property
    def known(self) -> bool:
        """Whether there is such an estimate."""
        return self.per_point is not None

    @property
    def mean(self) -> float:
        """Mean log density, in nats per point; −inf where a point gets 0, nan for no estimate."""
        return math.nan if self.per_point is None else self.per_point.mean().item()

    @property
    def error(self) -> float:
        """Standard error of the mean over the points; nan where it is not finite."""
        return _error(self.per_point)

    def gap(self, best: "HeldOut") -> tuple[float, float]:
        """Return by how much the mean exceeds another's, and the standard error of that."""
        if self.per_point is None or best.per_point is None:
            return math.nan, math.nan
        if self is best:
            return 0.0, 0.0
        return self.mean - best.mean, _error(self.per_point - best.per_point)


@dataclass(frozen=True, eq=False, repr=False)
class DensityComparison:
    """Densities on one split, by name.

    Attributes:
        estimates: What each got on the held-out points, in the order asked.
        num_train: How many points they were fitted to.
        num_held_out: M.
        notes: What is wrong with the data, in plain words.
    """

    estimates: dict[str, HeldOut]
    num_train: int
    num_held_out: int
    notes: list[str]

    @property
    def best(self) -> str:
        """The name of the density with the greatest mean.

        Raises:
            ValueError: If there is none.
        """
        known = {n: e.mean for n, e in self.estimates.items() if e.ranked and e.known}
        if not known:
            raise ValueError("estimates must hold a density that could be fitted, got none")
        return max(known, key=known.__getitem__)

    def table(self) -> "pd.DataFrame":
        """Return one row an estimate.

        Columns: kind; log_density, the mean in nats per held-out point, and its standard error;
        gap, to the best density (0 or less for a density), and the standard error of that, from
        the differences point by point; zeros, how many points got density 0; cpu_seconds; note.
        nan stands for what could not be had.
        """
        import pandas as pd

        rows = {}
        anything = any(own.ranked and own.known for own in self.estimates.values())
        best = self.estimates[self.best] if anything else None
        for name, own in self.estimates.items():
            gap, gap_error = (math.nan, math.nan) if best is None else own.gap(best)
            rows[name] = {
                "kind": own.kind, "log_density": own.mean, "error": own.error,
                "gap": gap, "gap_error": gap_error, "zeros": num_zeros(own.per_point),
                "cpu_seconds": own.seconds, "note": own.note,
            }  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("estimate")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the means less the best one's, with the standard errors of the differences."""
        from pplvae.plots.density import held_out

        table = self.table()
        ranked = [self.estimates[name].ranked for name in table.index]
        return held_out(
            [str(name) for name in table.index], table["log_density"].to_numpy(),
            table["gap"].to_numpy(), table["gap_error"].to_numpy(), ranked=ranked, ax=ax,
        )  # fmt: skip

    def lines(self) -> list[str]:
        """Return all notes: of the data, then of each estimate."""
        own = [f"{name}: {e.note}" for name, e in self.estimates.items() if e.note]
        return [*self.notes, *own]

    def shown(self) -> "pd.DataFrame":
        """Return the table as text: means and gaps with their errors, without notes."""
        import pandas as pd

        rows = {
            name: {
                "kind": row["kind"],
                "nats per point": _said(row["log_density"], row["error"]),
                "to the best": self._gap(str(name), row["gap"], row["gap_error"]),
                "CPU-s": f"{row['cpu_seconds']:.1f}",
            }
            for name, row in self.table().to_dict("index").items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def _gap(self, name: str, gap: float, error: float) -> str:
        if not self.estimates[name].ranked and not math.isnan(gap):
            return "not ranked"
        return "best" if gap == 0 else _said(gap, error, "+")

    def __repr__(self) -> str:
        title = f"Densities of {self.num_held_out} held-out points, fitted to {self.num_train}"
        return "\n".join([title, self.shown().to_string(), *(f"  {s}" for s in self.lines())])

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines())
        return f"{self.shown().to_html()}<ul>{said}</ul>"


def _error(values: Tensor | None) -> float:
    if values is None or not values.isfinite().all():
        return math.nan
    return values.std().item() / math.sqrt(len(values))


def num_zeros(log_density: Tensor | None) -> int:
    """Return how many points have density 0."""
    return 0 if log_density is None else int(log_density.isneginf().sum())


def _said(value: float, error: float, sign: str = "") -> str:
    if math.isnan(value):
        return "n/a"
    if math.isnan(error):
        return f"{value:{sign}.3g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 3) if error > 0 else 3
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"
