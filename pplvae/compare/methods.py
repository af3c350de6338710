"""Inference methods side by side on one model and data set.

Each method's posterior is held against a reference. For a parameter with reference mean m and
standard deviation s, and the method's own m' and s',

    error = (m' − m) / s,   sd ratio = s' / s,

each known only up to its Monte Carlo error, which the effective sample sizes n and n' give:
about √((s'/s)² / n' + 1 / n) for the error, and √(½ / n' + ½ / n) for the log of the ratio.
Methods are never ranked by their loss or by LOO: neither is comparable across methods.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from pplvae.infer import Posterior
from pplvae.infer.inference_data import diagnose, scalars
from pplvae.validation import as_tensor, check_in_range

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Scores: TypeAlias = dict[str, dict[str, float]]

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
    scores: dict[str, Scores]

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
        rows = {
            method: (
                _worst(list(scores.values()))
                if parameter is None
                else scores[self._known(parameter)]
            )
            | self._costs(method)
            for method, scores in self.scores.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def failures(self) -> list[str]:
        """Return what is wrong with each method, in plain words, and what to try; worst first."""
        found = [
            (excess, f"{method}: {said}")
            for method, scores in self.scores.items()
            for excess, said in (
                *_mean_off(scores),
                *_sd_off(scores),
                *_unmixed(scores),
                *_too_few(scores),
                *_divergent(self._costs(method)["divergences"]),
            )
        ]
        return [said for _, said in sorted(found, key=lambda pair: -pair[0])]

    def plot(self, parameter: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw the posterior density of a scalar parameter, the first one by default.

        Raises:
            ValueError: If there is no such parameter.
        """
        from pplvae import plots

        parameter = self._known(parameter or self.parameters[0])
        draws = {name: _arrays(p, name)[parameter] for name, p in self.posteriors.items()}
        return plots.posteriors(draws, label=parameter, ax=ax)

    def __repr__(self) -> str:
        return (
            f"Comparison against {self.reference}\n{self.table().to_string(float_format=_short)}"
        )

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=_short)

    def _known(self, parameter: str) -> str:
        if parameter not in self.parameters:
            raise ValueError(f"parameter must be one of {self.parameters}, got {parameter!r}")
        return parameter

    def _costs(self, method: str) -> dict[str, Any]:
        posterior = self.posteriors[method]
        diverging = posterior.sample_stats.get("diverging")
        return {
            "divergences": 0 if diverging is None else int(diverging.sum()),
            "log_evidence": np.nan if posterior.log_evidence is None else posterior.log_evidence,
            "cpu_seconds": posterior.cost.cpu_seconds,
            "gradients": posterior.cost.gradient_evaluations,
        }


def methods(posteriors: Mapping[str, Posterior], reference: str = "exact") -> Comparison:
    """Return posteriors of one model and data set, held against one of them.

    Parameters that never vary (the zeros of a triangular matrix) are left out.

    Args:
        posteriors: By the method's name.
        reference: The name of the one to believe.

    Raises:
        ValueError: If the reference is not among them or never varies, their parameters or data
            differ, or one has nan or inf, or fewer than 4 draws in a chain.
    """
    if reference not in posteriors:
        raise ValueError(f"reference must be one of {list(posteriors)}, got {reference!r}")
    arrays = {method: _arrays(posterior, method) for method, posterior in posteriors.items()}
    truth = {name: draws for name, draws in arrays[reference].items() if np.ptp(draws) > 0}
    if not truth:
        raise ValueError(f"reference must vary, got {reference!r} of constant draws")
    for method, draws in arrays.items():
        if set(draws) != set(arrays[reference]):
            raise ValueError(
                f"posteriors must share their parameters, got {sorted(draws)} for {method} "
                f"and {sorted(arrays[reference])} for {reference}"
            )
        _check_same_data(posteriors[method], posteriors[reference], method, reference)
    standard = {name: _described(draws) for name, draws in truth.items()}
    return Comparison(
        dict(posteriors),
        reference,
        {
            method: {name: _score(_described(draws[name]), standard[name]) for name in truth}
            for method, draws in arrays.items()
        },
    )


def _check_same_data(ours: Posterior, theirs: Posterior, method: str, reference: str) -> None:
    """Refuse posteriors of different data, where both say what they have seen."""
    if not ours.observed or not theirs.observed:
        return
    mine, yours = (
        {name: value.detach().cpu().double() for name, value in posterior.observed.items()}
        for posterior in (ours, theirs)
    )
    if mine.keys() != yours.keys():
        raise ValueError(
            f"posteriors must be of the same data, got sites {sorted(mine)} for {method} "
            f"and {sorted(yours)} for {reference}"
        )
    for name, value in mine.items():
        if value.shape != yours[name].shape or not torch.allclose(
            value, yours[name], rtol=1e-6, atol=0, equal_nan=True
        ):
            raise ValueError(
                f"posteriors must be of the same data, got another {name} for {method} "
                f"than for {reference}"
            )


def _arrays(posterior: Posterior, method: str) -> dict[str, np.ndarray]:
    check_in_range(f"draws in a chain of {method}", posterior.num_draws, 4)
    tensors = {n: as_tensor(v, name=f"{n} of {method}") for n, v in posterior.draws.items()}
    return scalars({n: v.detach().cpu().double().numpy() for n, v in tensors.items()})


def _described(draws: np.ndarray) -> dict[str, float]:
    found = diagnose(draws)
    return {
        "mean": float(draws.mean()),
        "sd": float(draws.std(ddof=1)),
        "ess": min(found["ess_bulk"], found["ess_tail"]),
        "r_hat": found["r_hat"],
    }


def _score(found: dict[str, float], truth: dict[str, float]) -> dict[str, float]:
    scale, ratio = truth["sd"], found["sd"] / truth["sd"]
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


# Each check yields what is wrong with the worst parameter, and how many times over the limit it
# is. Three Monte Carlo errors are allowed for.


def _mean_off(scores: Scores) -> Iterator[tuple[float, str]]:
    name = max(scores, key=lambda p: abs(scores[p]["error"]) - 3 * scores[p]["error_mc"])
    error, slack = scores[name]["error"], 3 * scores[name]["error_mc"]
    if abs(error) > ERROR + slack:
        yield (
            abs(error) / ERROR,
            f"the mean of {name} lies {abs(error):.2f} reference sds "
            f"{'below' if error < 0 else 'above'} the reference (believed up to {ERROR}): "
            "take more steps or another start",
        )


def _sd_off(scores: Scores) -> Iterator[tuple[float, str]]:
    name = max(scores, key=lambda p: abs(scores[p]["sd_ratio"] - 1) - 3 * scores[p]["sd_ratio_mc"])
    ratio, slack = scores[name]["sd_ratio"], 3 * scores[name]["sd_ratio_mc"]
    if abs(ratio - 1) > RATIO + slack:
        yield (
            abs(ratio - 1) / RATIO,
            f"the sd of {name} is {ratio:.2f} of the reference's (believed within "
            f"{1 - RATIO:.1f} to {1 + RATIO:.1f}): try a richer guide or NUTS",
        )


def _unmixed(scores: Scores) -> Iterator[tuple[float, str]]:
    name = max(scores, key=lambda p: np.nan_to_num(scores[p]["r_hat"]))
    r_hat = scores[name]["r_hat"]
    if r_hat > R_HAT:
        yield (
            r_hat / R_HAT,
            f"the chains disagree on {name} (R-hat {r_hat:.3f}, at most {R_HAT}): "
            "take more warm-up steps, or look for several modes",
        )


def _too_few(scores: Scores) -> Iterator[tuple[float, str]]:
    name = min(scores, key=lambda p: scores[p]["ess"])
    ess = scores[name]["ess"]
    if ess < ESS:
        yield (
            ESS / max(ess, 1.0),
            f"{name} has an effective sample size of {ess:.0f} (at least {ESS}): take more draws",
        )


def _divergent(divergences: int) -> Iterator[tuple[float, str]]:
    if divergences:
        yield (
            float(divergences),
            f"{divergences} divergent transitions: raise target_accept_prob, or write the model "
            "in other coordinates",
        )


def _worst(scores: list[dict[str, float]]) -> dict[str, float]:
    """Return the worst of each score over parameters; means and sds belong to none."""
    error = max(scores, key=lambda s: abs(s["error"]))
    ratio = max(scores, key=lambda s: abs(s["sd_ratio"] - 1))
    return {
        "error": error["error"],
        "error_mc": error["error_mc"],
        "sd_ratio": ratio["sd_ratio"],
        "sd_ratio_mc": ratio["sd_ratio_mc"],
        "ess": min(s["ess"] for s in scores),
        "r_hat": max((s["r_hat"] for s in scores), key=np.nan_to_num),
    }


def _short(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.4g}"
