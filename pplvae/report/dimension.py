"""How many dimensions do the data have?"""

import math
import warnings

from torch import Tensor

from pplvae import compare, plots
from pplvae.compare import Comparison
from pplvae.infer import Posterior, exact, laplace, nuts, svi
from pplvae.intrinsic_dimension import spectrum, twonn
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "How many dimensions do they have?"
MANY = 5000  # ratios beyond which their log-likelihoods under every draw are not kept
SVI_STEPS, NUM_DRAWS, WARMUP_STEPS = 1000, 1000, 200


def section(study: Study) -> Section:
    """Show the PCA spectrum, TwoNN's line, and the posterior of d by each method."""
    pca = study.pca
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ratios = twonn.distance_ratios(study.x, progress=study.progress)
    line, best = twonn.linear_fit(ratios), twonn.maximum_likelihood(ratios, unbiased=True)
    posterior = twonn.posterior(ratios)
    study.dimension = min(posterior.dimension, float(pca.rank))
    comparison = compare.methods(_posteriors(ratios, study))
    low, high = posterior.interval()
    return Section(
        "dimension",
        TITLE,
        answer=_answer(posterior, pca, study),
        notes=[_sentence(str(w.message)) for w in said if w.category is UserWarning]
        + [
            "Neighboring points share neighbors, so the ratios are not independent and the "
            "interval is somewhat too narrow.",
            *comparison.failures(),
        ],
        figures=_figures(pca, ratios, line, comparison),
        tables=[_methods_table(comparison)],
        numbers={
            "dimension": posterior.dimension,
            "interval_95": [low, high],
            "line_fit": line.dimension,
            "maximum_likelihood_unbiased": best.dimension,
            "standard_error": best.standard_error,
            "num_ratios": len(ratios),
            "log_evidence": posterior.log_evidence,
            "pca_components_95": pca.dimension,
            "participation_ratio": pca.participation_ratio,
            "methods": comparison.scores,
        },
        posteriors={f"dimension-{name.lower()}": p for name, p in comparison.posteriors.items()},
    )


def _answer(posterior: twonn.GammaPosterior, pca: spectrum.Spectrum, study: Study) -> str:
    (low, high), columns = posterior.interval(), study.x.shape[1]
    found = (
        f"About {posterior.dimension:.1f}: TwoNN's posterior holds 95% between {low:.2f} and "
        f"{high:.2f}, at the scale of the nearest neighbors."
    )
    if posterior.dimension > pca.rank:
        found = (
            f"TwoNN does not hold here: it says {posterior.dimension:.1f}, more than the "
            f"{pca.rank} directions in which the data vary at all. Few points, repeats and "
            "lattices do that."
        )
    return (
        f"{found} A linear subspace needs {pca.dimension} of {columns:,} directions for "
        f"{pca.variance_fraction:.0%} of the variance."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _posteriors(ratios: Tensor, study: Study) -> dict[str, Posterior]:
    common = {"seed": study.seed, "pointwise": len(ratios) <= MANY}
    draws, start = {"num_draws": NUM_DRAWS}, {"init": {"dimension": study.dimension}}
    bar = {"progress": study.progress}
    return {
        "exact": exact.fit(twonn.model, ratios, **draws, **common),
        "SVI": svi.fit(
            twonn.model, ratios, num_steps=SVI_STEPS, **draws, **start, **bar, **common
        ),
        "Laplace": laplace.fit(twonn.model, ratios, **draws, **start, **common),
        "NUTS": nuts.fit(
            twonn.model, ratios, warmup_steps=WARMUP_STEPS, num_chains=2,
            **draws, **start, **bar, **common,
        ),
    }  # fmt: skip


def _figures(
    pca: spectrum.Spectrum, ratios: Tensor, line: twonn.LineFit, comparison: Comparison
) -> list[Figure]:
    ax = comparison.plot("dimension")
    ax.set_xlabel("intrinsic dimension d")
    pictures = [
        ("spectrum", "The PCA spectrum: the share of the variance along each direction.",
         plots.spectrum(pca)),
        ("twonn_line", "TwoNN: where the points follow the line, its slope is the dimension.",
         plots.twonn_line(line)),
        ("dimension_posterior", "The posterior of d by each inference method; they should agree.",
         ax),
        ("twonn_quantiles", "Does the Pareto law hold? Then the points lie on the diagonal.",
         plots.pareto_quantiles(ratios, line.dimension)),
    ]  # fmt: skip
    return [drawn(name, caption, ax) for name, caption, ax in pictures]


def _methods_table(comparison: Comparison) -> Table:
    rows = []
    for method, row in comparison.table("dimension").to_dict("index").items():
        evidence = row["log_evidence"]
        rows.append([
            str(method),
            f"{row['mean']:.3f}",
            f"{row['sd']:.3f}",
            f"{row['error']:+.2f} ± {row['error_mc']:.2f}",
            f"{row['sd_ratio']:.2f} ± {row['sd_ratio_mc']:.2f}",
            f"{row['ess']:.0f}",
            "n/a" if math.isnan(row["r_hat"]) else f"{row['r_hat']:.3f}",
            "n/a" if math.isnan(evidence) else f"{evidence:.2f}",
            f"{row['cpu_seconds']:.1f}",
        ])  # fmt: skip
    columns = [
        "method", "mean", "sd", "error", "sd ratio", "ESS", "R-hat", "log evidence", "CPU-s",
    ]  # fmt: skip
    caption = (
        "The posterior of d by each method. The error of the mean is in the exact answer's "
        "standard deviations, with its Monte Carlo error."
    )
    return Table(columns, rows, caption)
