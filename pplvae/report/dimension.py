"""How many dimensions do the data have?"""

import warnings

from torch import Tensor

from pplvae import plots
from pplvae.intrinsic_dimension import spectrum, twonn
from pplvae.report.section import Figure, Section, Study, drawn

TITLE = "How many dimensions do they have?"


def section(study: Study) -> Section:
    """Show the PCA spectrum, TwoNN's line, and the posterior of d."""
    pca = study.pca
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ratios = twonn.distance_ratios(study.x, progress=study.progress)
    line, best = twonn.linear_fit(ratios), twonn.maximum_likelihood(ratios, unbiased=True)
    posterior = twonn.posterior(ratios)
    study.dimension = min(posterior.dimension, float(pca.rank))
    study.ratios = ratios
    low, high = posterior.interval()
    return Section(
        "dimension",
        TITLE,
        answer=_answer(posterior, pca, study),
        notes=[_sentence(str(w.message)) for w in said if w.category is UserWarning]
        + [
            "Neighboring points share neighbors, so the ratios are not independent and the "
            "interval is somewhat too narrow.",
        ],
        figures=_figures(pca, ratios, line),
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
        },
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


def _figures(pca: spectrum.Spectrum, ratios: Tensor, line: twonn.LineFit) -> list[Figure]:
    pictures = [
        ("spectrum", "The PCA spectrum: the share of the variance along each direction.",
         plots.spectrum(pca)),
        ("twonn_line", "TwoNN: where the points follow the line, its slope is the dimension.",
         plots.twonn_line(line)),
        ("twonn_quantiles", "Does the Pareto law hold? Then the points lie on the diagonal.",
         plots.pareto_quantiles(ratios, line.dimension)),
    ]  # fmt: skip
    return [drawn(name, caption, ax) for name, caption, ax in pictures]
