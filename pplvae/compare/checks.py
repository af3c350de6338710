"""What is wrong with a method, in plain words, and what to try.

Each check yields the worst of a method's parameters with how many times over the limit it is.
Three Monte Carlo errors are allowed for.
"""

import math
from collections.abc import Iterator

import numpy as np

from pplvae.compare.scores import Scores
from pplvae.infer import Posterior
from pplvae.infer.inference_data import threshold
from pplvae.mixtures.relabel import num_numberings

ERROR, RATIO, SHAPE = 0.2, 0.1, 0.2  # what a method must keep to be believed
ESS, R_HAT, RESTARTS = 400, 1.01, 1.05
EVIDENCE = 0.1  # nats; odds off by a tenth

EVEN = 0.99  # effective share of draws by their weights, beyond which k-hat is of no account

Found = Iterator[tuple[float, str]]


def failures(
    posterior: Posterior, scores: Scores, facts: dict[str, float], reference: dict[str, float]
) -> Found:
    """Yield how bad each failure of a method is, and what to say of it.

    Args:
        posterior: The method's.
        scores: Its scores, by parameter.
        facts: What is known of it as a whole.
        reference: What is known of the reference as a whole.
    """
    off = [*_mean_off(scores), *_sd_off(scores)]
    yield from off or _shape_off(scores)
    switching = [*_switching(scores, posterior)]
    # Where the numbering of components switches, R-hat and ESS say that and no more.
    yield from switching or [*_unmixed(scores), *_too_few(scores)]
    yield from _unsettled(posterior)
    yield from _divergent(int(facts["divergences"]))
    yield from _thin_tails(facts["pareto_k"], posterior)
    yield from _restarts_apart(scores, facts["restarts_evidence_range"], posterior)
    if not evidence_note(posterior):
        yield from _evidence_off(facts, reference)


def evidence_note(posterior: Posterior) -> str:
    """Return what the log evidence of a mixture lacks for the numberings not covered, or "".

    The posterior of K components that nothing tells apart has K! equal parts, one for each way to
    number them. A guide that covers n of these finds an evidence short by up to log K!/n.
    """
    components = num_components(posterior)
    if posterior.log_evidence is None or components < 2:
        return ""
    covered = posterior.diagnostics.get("label_modes") or num_numberings(posterior)
    missing = math.lgamma(components + 1) - math.log(covered)
    if missing < 1e-9:
        return ""
    return (
        f"covers {covered:.0f} of {components}! ways to number the components, so its log "
        f"evidence is short by {'' if covered == 1 else 'up to '}log {components}!"
        f"{'' if covered == 1 else f'/{covered:.0f}'} = {missing:.2f} nats "
        "where the components are well apart"
    )


def num_components(posterior: Posterior) -> int:
    """Return K where the draws are those of a mixture, with `weights` and `locs`; else 0."""
    weights, locs = (posterior.draws.get(name) for name in ("weights", "locs"))
    if weights is None or locs is None or weights.dim() != 3 or locs.dim() != 4:
        return 0
    sums = weights.sum(dim=-1)
    simplex = bool((weights >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())
    return weights.shape[2] if simplex and locs.shape[2] == weights.shape[2] else 0


def _mean_off(scores: Scores) -> Found:
    name = max(scores, key=lambda p: abs(scores[p]["error"]) - 3 * scores[p]["error_mc"])
    error, slack = scores[name]["error"], 3 * scores[name]["error_mc"]
    if abs(error) > ERROR + slack:
        yield (
            abs(error) / ERROR,
            f"the mean of {name} lies {abs(error):.2f} reference sds "
            f"{'below' if error < 0 else 'above'} the reference (believed up to {ERROR}): "
            "take more steps or another start",
        )


def _sd_off(scores: Scores) -> Found:
    name = max(scores, key=lambda p: abs(scores[p]["sd_ratio"] - 1) - 3 * scores[p]["sd_ratio_mc"])
    ratio, slack = scores[name]["sd_ratio"], 3 * scores[name]["sd_ratio_mc"]
    if abs(ratio - 1) > RATIO + slack:
        yield (
            abs(ratio - 1) / RATIO,
            f"the sd of {name} is {ratio:.2f} of the reference's (believed within "
            f"{1 - RATIO:.1f} to {1 + RATIO:.1f}): try a richer guide or NUTS",
        )


def _shape_off(scores: Scores) -> Found:
    name = max(scores, key=lambda p: scores[p]["wasserstein"] - 3 * scores[p]["wasserstein_mc"])
    distance, slack = scores[name]["wasserstein"], 3 * scores[name]["wasserstein_mc"]
    if distance > SHAPE + slack:
        yield (
            distance / SHAPE,
            f"{name} has about the reference's mean and sd but another shape (Wasserstein "
            f"distance {distance:.2f} reference sds, believed up to {SHAPE}): try a flow or NUTS",
        )


def _switching(scores: Scores, posterior: Posterior) -> Found:
    name, r_hat = _least_mixed(scores)
    if r_hat > R_HAT and num_components(posterior) > 1:
        numberings = num_numberings(posterior)
        if numberings > 1:
            yield (
                r_hat / R_HAT,
                f"draws switch between {numberings} numberings of the components (R-hat "
                f"{r_hat:.3f} on {name}, at most {R_HAT}): relabel first, with mixtures.relabel",
            )


def _unmixed(scores: Scores) -> Found:
    name, r_hat = _least_mixed(scores)
    if r_hat > R_HAT:
        yield (
            r_hat / R_HAT,
            f"the chains disagree on {name} (R-hat {r_hat:.3f}, at most {R_HAT}): "
            "take more warm-up steps, or look for several modes",
        )


def _least_mixed(scores: Scores) -> tuple[str, float]:
    name = max(scores, key=lambda p: np.nan_to_num(scores[p]["r_hat"]))
    return name, scores[name]["r_hat"]


def _too_few(scores: Scores) -> Found:
    name = min(scores, key=lambda p: scores[p]["ess"])
    ess = scores[name]["ess"]
    if ess < ESS:
        yield (
            ESS / max(ess, 1.0),
            f"{name} has an effective sample size of {ess:.0f} (at least {ESS}): take more draws",
        )


def _unsettled(posterior: Posterior) -> Found:
    if posterior.diagnostics.get("converged", 1.0) == 0.0:
        yield (
            10.0,
            "its loss was still falling: take more steps or a larger learning_rate",
        )


def _divergent(divergences: int) -> Found:
    if divergences:
        yield (
            float(divergences),
            f"{divergences} divergent transitions: raise target_accept_prob, or write the model "
            "in other coordinates",
        )


def _thin_tails(k: float, posterior: Posterior) -> Found:
    limit = threshold(posterior.num_chains * posterior.num_draws)
    if k > limit and not _are_even(posterior):
        yield (
            k / max(limit, 0.1),
            f"k-hat {k:.2f} (at most {limit:.2f}): the guide's tails are too thin for its "
            "weights; its evidence is not to be believed: try full_rank, flow, or NUTS",
        )


def _are_even(posterior: Posterior) -> bool:
    """Whether weights hardly differ: then they correct nothing, however their tail is shaped."""
    log_weight = posterior.sample_stats.get("log_weight")
    if log_weight is None:
        return False
    shares = log_weight.double().flatten().softmax(dim=0)
    return 1 / (len(shares) * shares.square().sum().item()) > EVEN


def _restarts_apart(scores: Scores, evidence_range: float, posterior: Posterior) -> Found:
    name = max(scores, key=lambda p: np.nan_to_num(scores[p]["restarts_r_hat"]))
    r_hat = scores[name]["restarts_r_hat"]
    if r_hat > RESTARTS:
        mixture = ", and relabel them first" if num_components(posterior) > 1 else ""
        apart = f", log evidences {evidence_range:.2f} nats apart" if evidence_range >= 0 else ""
        yield (
            r_hat / RESTARTS,
            f"restarts end at different places (R-hat {r_hat:.2f} between them on {name}, at "
            f"most {RESTARTS}{apart}): there may be several modes; try NUTS, a mixture guide or "
            f"a better init{mixture}",
        )


def _evidence_off(facts: dict[str, float], reference: dict[str, float]) -> Found:
    gap = facts["log_evidence"] - reference["log_evidence"]
    errors = [facts["log_evidence_error"], reference["log_evidence_error"]]
    slack = 3 * float(np.hypot(*np.nan_to_num(errors)))
    if abs(gap) > EVIDENCE + slack:
        yield (
            abs(gap) / EVIDENCE,
            f"its log evidence is {abs(gap):.2f} nats {'below' if gap < 0 else 'above'} the "
            f"reference's (believed within {EVIDENCE + slack:.2g}): a part of the posterior is "
            "missed or wrongly weighed; try a richer guide or other starts",
        )
