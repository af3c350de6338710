"""Posteriors of one model and data set, held against a reference, and how they are shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pplvae.compare import checks
from pplvae.compare.scores import Scores, arrays
from pplvae.infer import Posterior

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_DRAWN = 20  # parameters in one picture
PAIRS = ["error", "sd_ratio", "wasserstein"]  # each has its own Monte Carlo error, …_mc
HEADINGS = {
    "sd_ratio": "sd ratio", "wasserstein": "W1", "ess": "ESS", "r_hat": "R-hat",
    "restarts_r_hat": "R-hat of restarts", "pareto_k": "k-hat", "label_modes": "numberings",
    "restarts_evidence_range": "evidence range of restarts", "log_evidence": "log evidence",
    "predictive": "held-out log density", "predictive_gain": "gain over reference",
    "cpu_seconds": "CPU-s",
    "ess_per_cpu_second": "ESS per CPU-s", "restarts_apart": "restarts apart",
}  # fmt: skip

WHOLE = ["divergences", "label_modes", "ess", "gradients", "ess_per_cpu_second"]
FORMATS = dict.fromkeys(WHOLE, ",.0f") | {
    "error": "+.2f", "sd_ratio": ".2f", "wasserstein": ".2f", "r_hat": ".3f",
    "restarts_r_hat": ".3f", "pareto_k": ".2f", "log_evidence": ".2f", "lp": ".2f",
    "predictive": ".3f", "cpu_seconds": ".3g", "restarts_apart": ".2g",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Comparison:
    """Posteriors of the same model and data, by method.

    Attributes:
        posteriors: By method, the reference first; of restarts the first.
        reference: The method that the others are held against.
        scores: By method with a spread and scalar parameter: mean, sd, error, error_mc, sd_ratio,
            sd_ratio_mc, wasserstein, wasserstein_mc (the noise floor), ess (the least of bulk and
            tail), r_hat, restarts_r_hat.
        facts: By method: divergences, pareto_k, label_modes, restarts_evidence_range,
            log_evidence, log_evidence_error, predictive (log density of a held-out point, in nats)
            and predictive_gain (over the reference's) with their standard errors over the points,
            cpu_seconds, gradients; of a point, lp.
        point_scores: By method that gives a point: value and error of each scalar parameter that
            it shares with the reference.
    """

    posteriors: dict[str, Posterior]
    reference: str
    scores: dict[str, Scores]
    facts: dict[str, dict[str, float]] = field(repr=False)
    point_scores: dict[str, Scores]

    @property
    def parameters(self) -> list[str]:
        """The names of the scalar parameters."""
        return list(self.scores[self.reference])

    def table(self, parameter: str | None = None) -> "pd.DataFrame":
        """Return one row a method with a spread, the reference first.

        nan stands for unknown. A `pareto_k` of −inf is exact: all weights are equal.

        Args:
            parameter: A scalar parameter; where None and there are several, each score is the
                worst over them.

        Raises:
            ValueError: If there is no such parameter.
        """
        import pandas as pd

        parameter = self._asked(parameter)
        rows = {}
        for method, scores in self.scores.items():
            found = _worst(list(scores.values())) if parameter is None else scores[parameter]
            seconds = self.facts[method]["cpu_seconds"]
            speed = {"ess_per_cpu_second": found["ess"] / seconds if seconds else math.nan}
            whole = {name: v for name, v in self.facts[method].items() if name != "lp"}
            rows[method] = found | whole | speed
        return pd.DataFrame.from_dict(rows, orient="index")

    def points(self, parameter: str | None = None) -> "pd.DataFrame":
        """Return one row a point estimate: how far off it is, in reference sds, and its cost.

        A point says no spread, so that nothing else of `table` makes sense for it. `lp` is its
        log joint in nats, `restarts_apart` the most that restarts differ by, in reference sds.

        Args:
            parameter: As in `table`.

        Raises:
            ValueError: If there is no such parameter.
        """
        import pandas as pd

        parameter = self._asked(parameter)
        rows = {}
        for method, scores in self.point_scores.items():
            worst = max(scores, key=lambda name: abs(scores[name]["error"]))
            found = scores.get(parameter, _NOTHING) if parameter else {**scores[worst]}
            if parameter is None:
                found = {"error": found["error"], "restarts_apart": _apart(scores)}
            rows[method] = found | {name: self.facts[method][name] for name in _POINT_FACTS}
        return pd.DataFrame.from_dict(rows, orient="index")

    def failures(self) -> list[str]:
        """Return what is wrong with each method, in plain words, and what to try.

        The reference comes first: where it fails, the others cannot be judged by it. Then the
        worst.
        """
        found = [
            (excess, f"{method}: {said}")
            for method, scores in self.scores.items()
            for excess, said in checks.failures(
                self.posteriors[method], scores, self.facts[method], self.facts[self.reference]
            )
        ]
        own = f"{self.reference}: "
        ordered = sorted(found, key=lambda pair: (not pair[1].startswith(own), -pair[0]))
        warning = f"{self.reference}, the reference, fails itself, so that it can judge no other"
        failed = len(self.scores) > 1 and bool(ordered) and ordered[0][1].startswith(own)
        return [warning] * failed + [said for _, said in ordered]

    def notes(self) -> list[str]:
        """Return what one should know of a method though it is no failure."""
        notes = {method: checks.evidence_note(self.posteriors[method]) for method in self.scores}
        notes |= dict.fromkeys(self.point_scores, "a point, which says no spread")
        for method, scores in self.point_scores.items():
            if (apart := _apart(scores)) > checks.ERROR:
                notes[method] += f"; its restarts end up to {apart:.2g} reference sds apart"
        return [f"{method}: {note}" for method, note in notes.items() if note]

    def plot(self, parameter: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw the posterior density of a scalar parameter, the first one by default.

        Raises:
            ValueError: If there is no such parameter.
        """
        from pplvae import plots

        parameter = self._known(parameter or self.parameters[0])
        draws = {name: arrays(p, name) for name, p in self.posteriors.items()}
        known = {name: found[parameter] for name, found in draws.items() if parameter in found}
        return plots.posteriors(known, label=parameter, ax=ax)

    def plot_accuracy(
        self, parameters: Sequence[str] | None = None, axes: "Sequence[Axes] | None" = None
    ) -> "list[Axes]":
        """Draw error and sd ratio of several parameters by each method but the reference.

        Args:
            parameters: Scalar parameters; the 20 with the greatest errors where None.
            axes: Two to draw on.

        Raises:
            ValueError: If there is no such parameter.
        """
        from pplvae.plots.inference import accuracy

        others = [method for method in self.scores if method != self.reference]
        names = [self._known(name) for name in parameters or self._most_off(others)]

        def column(kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
            pairs = {m: [self.scores[m][n] for n in names] for m in others}
            return {
                m: (np.array([s[kind] for s in found]), np.array([s[f"{kind}_mc"] for s in found]))
                for m, found in pairs.items()
            }

        return accuracy(
            names, column("error"), column("sd_ratio"),
            believed=(checks.ERROR, checks.RATIO), axes=axes,
        )  # fmt: skip

    def __repr__(self) -> str:
        blocks = [f"{title}{shown(table).to_string()}" for title, table in self._blocks()]
        return "\n".join([f"Comparison against {self.reference}", *blocks])

    def _repr_html_(self) -> str:
        blocks = ((title.strip(), shown(table).to_html()) for title, table in self._blocks())
        return "".join((title and f"<p>{title}</p>") + html for title, html in blocks)

    def _blocks(self) -> "list[tuple[str, pd.DataFrame]]":
        blocks = [("", self.table())]
        if self.point_scores:
            blocks.append(("Points, which say no spread:\n", self.points()))
        return blocks

    def _asked(self, parameter: str | None) -> str | None:
        if parameter is None:
            return self.parameters[0] if len(self.parameters) == 1 else None
        return self._known(parameter)

    def _known(self, parameter: str) -> str:
        if parameter not in self.parameters:
            raise ValueError(f"parameter must be one of {self.parameters}, got {parameter!r}")
        return parameter

    def _most_off(self, methods: list[str]) -> list[str]:
        """Return the parameters with the greatest errors, in their own order."""
        worst = {
            name: max((abs(self.scores[m][name]["error"]) for m in methods), default=0.0)
            for name in self.parameters
        }
        chosen = sorted(worst, key=lambda name: -worst[name])[:MOST_DRAWN]
        return [name for name in self.parameters if name in chosen]


def shown(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table as text: values with their errors, without columns that are all unknown."""
    import pandas as pd

    errors = {name: f"{name}_mc" for name in PAIRS}
    errors |= {name: f"{name}_error" for name in ("log_evidence", "predictive", "predictive_gain")}
    found, columns = table.to_dict("list"), {}
    for name, values in found.items():
        if name not in errors.values() and not np.isnan(values).all():
            unsure = found.get(errors.get(str(name), ""), [math.nan] * len(values))
            cells = zip(values, unsure, strict=True)
            columns[HEADINGS.get(str(name), name)] = [_cell(str(name), v, e) for v, e in cells]
    return pd.DataFrame(columns, index=table.index)


def _cell(name: str, value: float, error: float) -> str:
    if math.isnan(value):
        return "n/a"
    if value == -math.inf and name == "pareto_k":
        return "exact"
    if math.isnan(error):
        return f"{value:{FORMATS.get(name, '.4g')}}"
    if name in PAIRS:
        return f"{value:{FORMATS[name]}} ± {error:.2f}"
    digits = min(1 - math.floor(math.log10(error)), 3) if 0 < error < 1 else 1
    return f"{value:{'+' if name == 'predictive_gain' else ''}.{digits}f} ± {error:.{digits}f}"


_POINT_FACTS = [
    "lp", "predictive", "predictive_error", "predictive_gain", "predictive_gain_error",
    "cpu_seconds", "gradients",
]  # fmt: skip
_NOTHING = dict.fromkeys(["value", "error", "restarts_apart"], math.nan)


def _apart(scores: Scores) -> float:
    return max(score["restarts_apart"] for score in scores.values())


def _worst(scores: list[dict[str, float]]) -> dict[str, float]:
    """Return the worst of each score over parameters; means and sds belong to none."""
    error = max(scores, key=lambda s: abs(s["error"]))
    ratio = max(scores, key=lambda s: abs(s["sd_ratio"] - 1))
    distance = max(scores, key=lambda s: s["wasserstein"])
    return {
        "error": error["error"],
        "error_mc": error["error_mc"],
        "sd_ratio": ratio["sd_ratio"],
        "sd_ratio_mc": ratio["sd_ratio_mc"],
        "wasserstein": distance["wasserstein"],
        "wasserstein_mc": distance["wasserstein_mc"],
        "ess": min(s["ess"] for s in scores),
        "r_hat": max((s["r_hat"] for s in scores), key=np.nan_to_num),
        "restarts_r_hat": max((s["restarts_r_hat"] for s in scores), key=np.nan_to_num),
    }
