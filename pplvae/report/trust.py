"""Can the inference that says so be trusted?"""

from typing import Any

from torch import Tensor

from pplvae import compare
from pplvae.compare import Bounds, Calibration, Comparison, GradientComparison
from pplvae.compare.comparison import shown
from pplvae.compare.scores import tail_index
from pplvae.infer import Posterior, em, exact, importance, laplace, nuts, svi
from pplvae.infer import map as maximum
from pplvae.infer.inference_data import threshold
from pplvae.intrinsic_dimension import twonn
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "Can it be trusted?"
MANY = 5000  # ratios beyond which their log-likelihoods under every draw are not kept
MOST_FOR_FLOW = 20_000
SVI_STEPS, NUM_DRAWS, WARMUP_STEPS = 1000, 1000, 200
NUM_SIMULATIONS, SIMULATED = 1000, 100  # data sets, ratios in each
COLUMNS = [
    "mean", "sd", "error", "error_mc", "sd_ratio", "sd_ratio_mc", "wasserstein", "wasserstein_mc",
    "ess", "r_hat", "pareto_k", "log_evidence", "log_evidence_error", "cpu_seconds",
]  # fmt: skip
EARLY_STEPS, NUM_WEIGHTS, NUM_EVALUATIONS = 30, 10_000, 100


def section(study: Study) -> Section:
    """Hold every engine's posterior of d against the exact one, and calibrate the inference."""
    if study.ratios is None:
        raise ValueError("TwoNN must have found its ratios, got none")
    ratios = study.ratios
    comparison = compare.methods(_posteriors(ratios, study))
    some = ratios[study.some(SIMULATED)] if len(ratios) == len(study.x) else ratios[:SIMULATED]
    calibration = compare.calibrate(
        twonn.model, some, num_simulations=NUM_SIMULATIONS, num_steps=SVI_STEPS, seed=study.seed,
        progress=study.progress,
    )  # fmt: skip
    ladder, gradients = _ladder(ratios, study), _gradients(ratios, study)
    guides = {name: tail_index(p) for name, p in study.guides.items()}
    failures = [*comparison.failures(), *calibration.failures(), *gradients.failures()]
    thin = [_thin(name, k) for name, k in guides.items() if k > threshold(NUM_DRAWS)]
    return Section(
        "trust",
        TITLE,
        answer=_answer(comparison, calibration, failures),
        notes=[*failures, *thin, *_notes(comparison)],
        figures=_figures(comparison, calibration, ladder, gradients),
        tables=[*_tables(comparison), _gradients_table(gradients)],
        numbers={
            "methods": comparison.scores,
            "points": comparison.point_scores,
            "facts": comparison.facts,
            "calibration": calibration.table().to_dict("index"),
            "bounds": ladder.bounds,
            "log_evidence": ladder.log_evidence,
            "gradients": gradients.table().to_dict("index"),
            "pareto_k": guides,
            "failures": failures,
        },
        posteriors={f"dimension-{_file(name)}": p for name, p in comparison.posteriors.items()},
    )


def _posteriors(ratios: Tensor, study: Study) -> dict[str, Posterior]:
    start = {"dimension": twonn.posterior(ratios).dimension}
    common: dict[str, Any] = {"seed": study.seed, "pointwise": len(ratios) <= MANY}
    spread: dict[str, Any] = common | {"num_draws": NUM_DRAWS}
    begun: dict[str, Any] = spread | {"init": start}
    steps: dict[str, Any] = begun | {"num_steps": SVI_STEPS, "progress": study.progress}
    found = {
        "exact": exact.fit(twonn.model, ratios, **spread),
        "SVI": svi.fit(twonn.model, ratios, **steps),
    }
    if len(ratios) <= MOST_FOR_FLOW:
        found["SVI, flow"] = svi.fit(twonn.model, ratios, guide="flow", **steps)
    return found | {
        "Laplace": laplace.fit(twonn.model, ratios, **begun),
        "importance": importance.fit(twonn.model, ratios, **begun),
        "NUTS": nuts.fit(
            twonn.model, ratios, warmup_steps=WARMUP_STEPS, num_chains=2,
            progress=study.progress, **begun,
        ),
        "MAP": maximum.fit(twonn.model, ratios, init=start, **common),
        "EM": em.fit(twonn.model, ratios, init=start, **common),
    }  # fmt: skip


def _ladder(ratios: Tensor, study: Study) -> Bounds:
    """Return the bounds by a guide that is not trained to the end: of a good one all are equal."""
    early = svi.fit(
        twonn.model, ratios, num_steps=EARLY_STEPS, num_draws=NUM_WEIGHTS, pointwise=False,
        init={"dimension": twonn.posterior(ratios).dimension}, seed=study.seed, progress=False,
    )  # fmt: skip
    return compare.bounds(twonn.model, early, ratios)


def _gradients(ratios: Tensor, study: Study) -> GradientComparison:
    return compare.gradients(
        twonn.model, "mean_field", ratios[:MANY], num_evaluations=NUM_EVALUATIONS,
        num_steps=min(SVI_STEPS, 300), seed=study.seed,
    )  # fmt: skip


def _thin(name: str, k: float) -> str:
    return (
        f"The guide of {name} has k-hat {k:.2f}: its shape is not the posterior's, so its spread "
        "and evidence are rough. NUTS or a flow would do better."
    )


def _answer(comparison: Comparison, calibration: Calibration, failures: list[str]) -> str:
    others = len(comparison.scores) - 1
    low, high = calibration.coverage_band
    coverage = calibration.table()["coverage"].iloc[0]
    verdict = (
        f"{others} methods agree with the exact posterior of d"
        if not failures
        else f"{len(failures)} check{'s fail' if len(failures) > 1 else ' fails'}, named below"
    )
    return (
        f"{verdict}. In {calibration.num_simulations:,} simulations the 90% interval of SVI held "
        f"the truth in {coverage:.1%} ({low:.1%} to {high:.1%} is what a right one does)."
    )


def _notes(comparison: Comparison) -> list[str]:
    """Return what is to be known of methods with a spread; points have a table of their own."""
    return [note for note in comparison.notes() if note.partition(":")[0] in comparison.scores]


def _tables(comparison: Comparison) -> list[Table]:
    """Return the table of methods and that of points."""
    captions = [
        "The posterior of d by each method. The error of the mean and the Wasserstein distance W1 "
        "are in the exact answer's standard deviations; ± is a Monte Carlo error.",
        "Point estimates, which say no spread and so cannot be held against the others.",
    ]
    frames = [comparison.table()[COLUMNS], comparison.points()]
    return [
        Table(["method", *map(str, frame.columns)], _rows(frame), caption)
        for frame, caption in zip(map(shown, frames), captions, strict=True)
    ]


def _rows(frame: Any) -> list[list[str]]:
    return [[str(name), *map(str, row)] for name, row in frame.T.to_dict("list").items()]


def _gradients_table(gradients: GradientComparison) -> Table:
    rows = [
        [str(name), f"{row['sd']:.4g}", f"{row['variance_ratio']:.3g}", f"{row['cpu_ms']:.2f}"]
        for name, row in gradients.table().to_dict("index").items()
    ]
    caption = (
        "Gradients of the ELBO at SVI's optimum, by one draw: the log-trick (score), with and "
        "without a baseline, against the reparameterization trick."
    )
    return Table(["gradient", "sd in nats", "variance, ratio", "CPU-ms"], rows, caption)


def _figures(
    comparison: Comparison, calibration: Calibration, ladder: Bounds, gradients: GradientComparison
) -> list[Figure]:
    posterior = comparison.plot("dimension")
    posterior.set_xlabel("intrinsic dimension d")
    return [
        drawn("dimension_posterior", "The posterior of d by each method; they should agree.",
              posterior),
        drawn("calibration", "Ranks of true dimensions among SVI's draws, from simulated data: "
              "19 of 20 right posteriors stay inside the band.", calibration.plot()),
        drawn("bounds", f"ELBO ≤ IWAE ≤ log p(x), by a guide stopped after {EARLY_STEPS} steps.",
              ladder.plot()),
        drawn("gradients", "How much one evaluation of the ELBO's gradient varies.",
              gradients.plot()),
    ]  # fmt: skip


def _file(name: str) -> str:
    return name.lower().replace(", ", "-")
