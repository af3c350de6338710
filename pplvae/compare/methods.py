"""Inference methods side by side on one model and data set.

Each method's posterior is held against a reference: how far its means, sds and distributions are
off (see `scores`), what evidence and held-out density it finds, whether its own diagnostics can be
trusted (see `checks`), and what it cost.

Methods are never ranked by their loss or by LOO: a point estimate beats the exact posterior in
both. The reference comes first, the others as given, and point estimates in a table of their own.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pplvae.compare.comparison import Comparison
from pplvae.compare.scores import (
    Scores,
    arrays,
    averaged,
    described,
    evidence_range,
    log_predictive,
    most_effective,
    restarts_r_hat,
    score,
    tail_index,
)
from pplvae.infer import Posterior
from pplvae.validation import check_in_range


def methods(
    posteriors: Mapping[str, Posterior | Sequence[Posterior]],
    reference: str = "exact",
    *,
    held_out: tuple[Any, ...] | None = None,
) -> Comparison:
    """Return posteriors of one model and data set, held against one of them.

    Parameters that never vary (the zeros of a triangular matrix) are left out. Points, posteriors
    of a single draw as from MAP or EM, are kept apart from those with a spread.

    Args:
        posteriors: By the method's name. A list holds restarts of one method from other seeds: the
            first is scored, and all are held against each other.
        reference: The name of the one to believe.
        held_out: The model and its arguments with points that were held out, to score the
            predictive density on.

    Raises:
        ValueError: If the reference is not among them, is a point or never varies, their
            parameters or data differ, restarts are all the same, or one has nan or inf, or is no
            point but has fewer than 4 draws in a chain.
    """
    if reference not in posteriors:
        raise ValueError(f"reference must be one of {list(posteriors)}, got {reference!r}")
    names = [reference, *(name for name in posteriors if name != reference)]
    groups = {name: _restarts(posteriors[name], name) for name in names}
    first = {name: group[0] for name, group in groups.items()}
    if first[reference].is_point:
        raise ValueError(f"reference must have a spread, got {reference!r}, which is a point")
    found = {name: [_arrays(p, name) for p in group] for name, group in groups.items()}
    truth = {name: draws for name, draws in found[reference][0].items() if np.ptp(draws) > 0}
    if not truth:
        raise ValueError(f"reference must vary, got {reference!r} of constant draws")
    for name, group in groups.items():
        for posterior, draws in zip(group, found[name], strict=True):
            _check_same_parameters(draws, found[reference][0], (name, reference), posterior)
            _check_same_data(posterior, first[reference], name, reference)
    spread = [name for name in names if not first[name].is_point]
    most = most_effective(first[reference])
    standard = {name: described(draws, most) for name, draws in truth.items()}
    predicted = _predicted(first, reference, held_out)
    return Comparison(
        first,
        reference,
        {
            method: _scored(found[method], truth, standard, most_effective(first[method]))
            for method in spread
        },
        {method: _facts(group) | predicted[method] for method, group in groups.items()},
        {method: _placed(found[method], standard) for method in names if method not in spread},
    )


def _restarts(given: Posterior | Sequence[Posterior], method: str) -> list[Posterior]:
    """Return the posteriors of one method, refusing restarts that say nothing."""
    group = [given] if isinstance(given, Posterior) else list(given)
    if not group:
        raise ValueError(f"restarts of {method} must be at least 1, got none")
    if len({posterior.is_point for posterior in group}) > 1:
        raise ValueError(f"restarts of {method} must all be points or none, got both")
    chains = [chain for p in group for chain in next(iter(p.draws.values()))]
    pairs = itertools.combinations(chains, 2)
    if not group[0].is_point and any(torch.equal(one, other) for one, other in pairs):
        raise ValueError(
            f"restarts of {method} must differ, got the same chain twice: chain c starts from "
            "seed + c, so take seeds as far apart as there are chains"
        )
    return group


def _arrays(posterior: Posterior, method: str) -> dict[str, np.ndarray]:
    if not posterior.is_point:
        check_in_range(f"draws in a chain of {method}", posterior.num_draws, 4)
    return arrays(posterior, method)


def _check_same_parameters(
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    names: tuple[str, str],
    posterior: Posterior,
) -> None:
    """Refuse other parameters than the reference's; a point may leave some out."""
    shared = [name for name in ours if name in theirs]
    varies = any(np.ptp(theirs[name]) > 0 for name in shared)
    if set(ours) == set(theirs) or (posterior.is_point and varies):
        return
    raise ValueError(
        f"posteriors must share their parameters, got {sorted(ours)} for {names[0]} "
        f"and {sorted(theirs)} for {names[1]}"
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


def _scored(
    restarts: list[dict[str, np.ndarray]],
    truth: dict[str, np.ndarray],
    standard: dict[str, dict[str, float]],
    most: float,
) -> Scores:
    return {
        name: score(restarts[0][name], truth[name], standard[name], most)
        | {"restarts_r_hat": restarts_r_hat(restarts, name)}
        for name in truth
    }


def _placed(
    restarts: list[dict[str, np.ndarray]], standard: dict[str, dict[str, float]]
) -> Scores:
    """Return where a point lies, for each parameter that it has."""
    scores = {}
    for name in (name for name in standard if name in restarts[0]):
        values = np.array([found[name].item() for found in restarts])
        mean, scale = standard[name]["mean"], standard[name]["sd"]
        apart = np.ptp(values) / scale if len(values) > 1 else math.nan
        scores[name] = {
            "value": float(values[0]),
            "error": float((values[0] - mean) / scale),
            "restarts_apart": float(apart),
        }
    return scores


def _facts(restarts: list[Posterior]) -> dict[str, float]:
    """Return what is known of a method as a whole; nan where it is not."""
    posterior = restarts[0]
    diverging, log_joint = (posterior.sample_stats.get(name) for name in ("diverging", "lp"))
    evidence = posterior.log_evidence
    return {
        "divergences": 0 if diverging is None else int(diverging.sum()),
        "pareto_k": tail_index(posterior),
        "label_modes": posterior.diagnostics.get("label_modes", math.nan),
        "restarts_evidence_range": evidence_range(restarts),
        "log_evidence": math.nan if evidence is None else evidence,
        "log_evidence_error": posterior.diagnostics.get("log_evidence_error", math.nan),
        "lp": log_joint.item() if posterior.is_point and log_joint is not None else math.nan,
        "cpu_seconds": posterior.cost.cpu_seconds,
        "gradients": posterior.cost.gradient_evaluations,
    }


def _predicted(
    posteriors: dict[str, Posterior], reference: str, held_out: tuple[Any, ...] | None
) -> dict[str, dict[str, float]]:
    """Return each method's predictive log density a point, and its gain over the reference's.

    All methods share the points, so that the gain is far more certain than the density.
    """
    found = {
        name: None if held_out is None else log_predictive(posterior, held_out)
        for name, posterior in posteriors.items()
    }
    facts, base = {}, found[reference]
    for name, density in found.items():
        mean, error = averaged(density)
        gain, gain_error = averaged(
            None if density is None or base is None or name == reference else density - base
        )
        facts[name] = {
            "predictive": mean, "predictive_error": error,
            "predictive_gain": gain, "predictive_gain_error": gain_error,
        }  # fmt: skip
    return facts
