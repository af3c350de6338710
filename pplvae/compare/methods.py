"""Inference methods side by side on one model and data set.

Each method's posterior is held against a reference. For a parameter with reference mean m and
standard deviation s, and the method's own m' and s',

    error = (m' − m) / s,   sd ratio = s' / s,

each known only up to its Monte Carlo error, which the effective sample sizes n and n' give:
about √((s'/s)² / n' + 1 / n) for the error, and √(½ / n' + ½ / n) for the log of the ratio.
Methods are never ranked by their loss or by LOO: neither is comparable across methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pplvae.infer import Posterior
from pplvae.infer.inference_data import diagnose, scalars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ERROR, RATIO, ESS, R_HAT = 0.2, 0.1, 400, 1.01  # what a method must keep to be believed


@dataclass(frozen=True)
class Comparison:
    """Posteriors of the same model and data, by method.

    Attributes:
        posteriors: By method.
        reference: The method that the others are held against.
        scores: By method and scalar parameter: mean, sd, error, error_mc, sd_ratio, sd_ratio_mc,
            ess (the least of bulk and tail), r_hat.
    """

    posteriors: dict[str, Posterior]
    reference: str
    scores: dict[str, dict[str, dict[str, float]]]

    @property
    def parameters(self) -> list[str]:
        """The names of the scalar parameters."""
        return list(self.scores[self.reference])

    def table(self, parameter: str | None = None) -> "pd.DataFrame":
        """Return one row a method.

        Args:
            parameter: A scalar parameter; where None and there are several, each score is the
                worst over them.

        Raises:
            ValueError: If there is no such parameter.
        """
        import pandas as pd

        if parameter is None and len(self.parameters) == 1:
            parameter = self.parameters[0]
        if parameter is not None and parameter not in self.parameters:
            raise ValueError(f"parameter must be one of {self.parameters}, got {parameter!r}")
        rows = {
            method: (_worst(list(scores.values())) if parameter is None else scores[parameter])
            | self._costs(method)
            for method, scores in self.scores.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def failures(self) -> list[str]:
        """Return what is wrong with each method, in plain words, and what to try; worst first."""
        found = [
            (excess, f"{method}: {said}")
            for method, scores in self.scores.items()
            for excess, said in self._complaints(method, scores)
        ]
        return [said for _, said in sorted(found, key=lambda pair: -pair[0])]

    def plot(self, parameter: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw the posterior density of a scalar parameter, the first one by default."""
        from pplvae import plots

        parameter = parameter or self.parameters[0]
        draws = {name: _arrays(p)[parameter] for name, p in self.posteriors.items()}
        return plots.posteriors(draws, label=parameter, ax=ax)

    def __repr__(self) -> str:
        return (
            f"Comparison against {self.reference}\n{self.table().to_string(float_format=_short)}"
        )

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=_short)

    def _costs(self, method: str) -> dict[str, Any]:
        posterior = self.posteriors[method]
        diverging = posterior.sample_stats.get("diverging")
        return {
            "divergences": 0 if diverging is None else int(diverging.sum()),
            "log_evidence": np.nan if posterior.log_evidence is None else posterior.log_evidence,
            "cpu_seconds": posterior.cost.cpu_seconds,
            "gradients": posterior.cost.gradient_evaluations,
        }

    def _complaints(
        self, method: str, scores: dict[str, dict[str, float]]
    ) -> list[tuple[float, str]]:
        """Return (how many times over the limit, what is said) for the worst of each check."""
        found: list[tuple[float, str]] = []
        off = max(scores, key=lambda p: abs(scores[p]["error"]) - 3 * scores[p]["error_mc"])
        error, slack = scores[off]["error"], 3 * scores[off]["error_mc"]
        if not abs(error) <= ERROR + slack:
            found.append((
                abs(error) / ERROR,
                f"the mean of {off} lies {abs(error):.2f} reference sds "
                f"{'above' if error > 0 else 'below'} the reference (believed up to {ERROR}): "
                "take more steps or another start",
            ))  # fmt: skip
        narrow = max(scores, key=lambda p: _ratio_excess(scores[p]))
        if not _ratio_excess(scores[narrow]) <= 0:
            ratio = scores[narrow]["sd_ratio"]
            found.append((
                abs(np.log(ratio)) / RATIO if ratio > 0 else np.inf,
                f"the sd of {narrow} is {ratio:.2f} of the reference's (believed within "
                f"{1 - RATIO:.1f} to {1 + RATIO:.1f}): try a richer guide or NUTS",
            ))  # fmt: skip
        mixed = max(scores, key=lambda p: np.nan_to_num(scores[p]["r_hat"]))
        if scores[mixed]["r_hat"] > R_HAT:
            found.append((
                scores[mixed]["r_hat"] / R_HAT,
                f"the chains disagree on {mixed} (R-hat {scores[mixed]['r_hat']:.3f}, at most "
                f"{R_HAT}): take more warm-up steps, or look for several modes",
            ))  # fmt: skip
        few = min(scores, key=lambda p: scores[p]["ess"])
        if scores[few]["ess"] < ESS:
            found.append((
                ESS / max(scores[few]["ess"], 1),
                f"{few} has an effective sample size of {scores[few]['ess']:.0f} "
                f"(at least {ESS}): take more draws",
            ))  # fmt: skip
        divergences = self._costs(method)["divergences"]
        if divergences:
            found.append((
                float(divergences),
                f"{divergences} divergent transitions: raise target_accept_prob, or write the "
                "model in other coordinates",
            ))  # fmt: skip
        return found


def methods(posteriors: Mapping[str, Posterior], reference: str = "exact") -> Comparison:
    """Return posteriors of one model and data set, held against one of them.

    Parameters that never vary (the zeros of a triangular matrix) are left out.

    Args:
        posteriors: By the method's name.
        reference: The name of the one to believe.

    Raises:
        ValueError: If the reference is not among them, or their parameters differ.
    """
    if reference not in posteriors:
        raise ValueError(f"reference must be one of {list(posteriors)}, got {reference!r}")
    arrays = {method: _arrays(posterior) for method, posterior in posteriors.items()}
    truth = {name: draws for name, draws in arrays[reference].items() if np.ptp(draws) > 0}
    for method, draws in arrays.items():
        if set(draws) != set(arrays[reference]):
            raise ValueError(
                f"posteriors must share their parameters, got {sorted(draws)} for {method} "
                f"and {sorted(arrays[reference])} for {reference}"
            )
    standard = {name: _described(draws) for name, draws in truth.items()}
    return Comparison(
        dict(posteriors),
        reference,
        {
            method: {name: _score(_described(draws[name]), standard[name]) for name in truth}
            for method, draws in arrays.items()
        },
    )


def _arrays(posterior: Posterior) -> dict[str, np.ndarray]:
    return scalars({n: v.detach().cpu().numpy() for n, v in posterior.draws.items()})


def _described(draws: np.ndarray) -> dict[str, float]:
    found = diagnose(draws)
    return {
        "mean": float(draws.mean()),
        "sd": float(draws.std(ddof=1)),
        "ess": min(found["ess_bulk"], found["ess_tail"]),
        "r_hat": found["r_hat"],
    }


def _score(found: dict[str, float], truth: dict[str, float]) -> dict[str, float]:
    scale = truth["sd"] if truth["sd"] > 0 else np.nan
    ratio = found["sd"] / scale
    return {
        "mean": found["mean"],
        "sd": found["sd"],
        "error": (found["mean"] - truth["mean"]) / scale,
        "error_mc": float(np.sqrt(ratio**2 / found["ess"] + 1 / truth["ess"])),
        "sd_ratio": ratio,
        "sd_ratio_mc": float(ratio * np.sqrt(0.5 / found["ess"] + 0.5 / truth["ess"])),
        "ess": found["ess"],
        "r_hat": found["r_hat"],
    }


def _ratio_excess(score: dict[str, float]) -> float:
    """By how much an sd ratio is off beyond what is believed, three Monte Carlo errors allowed."""
    return abs(score["sd_ratio"] - 1) - RATIO - 3 * score["sd_ratio_mc"]


def _worst(scores: list[dict[str, float]]) -> dict[str, float]:
    """Return the worst of each score over parameters; means and sds belong to none."""
    error = max(scores, key=lambda s: abs(s["error"]))
    ratio = max(scores, key=lambda s: abs(np.log(max(s["sd_ratio"], 1e-300))))
    return {
        "error": error["error"],
        "error_mc": error["error_mc"],
        "sd_ratio": ratio["sd_ratio"],
        "sd_ratio_mc": ratio["sd_ratio_mc"],
        "ess": min(s["ess"] for s in scores),
        "r_hat": max(s["r_hat"] for s in scores),
    }


def _short(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.4g}"
