"""How many dimensions do the data have?"""

import math
import warnings

from torch import Tensor

from pplvae import neighbors, plots
from pplvae.intrinsic_dimension import Estimate, components, estimate, spectrum, twonn
from pplvae.intrinsic_dimension.summary import LEAST_POINTS
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "How many dimensions do they have?"
MANY, WIDTH = 10_000, 64  # points beyond which the graph has no more neighbors than that


def section(study: Study) -> Section:
    """Show what all estimators say, at which scale, and how many directions PCA needs."""
    pca, width = study.pca, WIDTH if len(study.x) > MANY else None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        graph = neighbors.graph(study.x, width, progress=study.progress)
        found = estimate(graph, seed=study.seed) if len(graph) >= LEAST_POINTS else None
        posterior = twonn.posterior(graph)
        study.ratios = twonn.distance_ratios(graph)
        line = twonn.linear_fit(graph)
    heard = [str(w.message) for w in said if issubclass(w.category, UserWarning)]
    notes = dict.fromkeys([*heard, *(found.warnings if found else ())])
    dimension = found.dimension if found else posterior.dimension
    low, high = (found or posterior).interval()
    study.dimension = min(dimension, float(pca.rank))
    rules = components.rules(pca, seed=study.seed, progress=study.progress)
    return Section(
        "dimension",
        TITLE,
        answer=_answer(found, (dimension, low, high), study),
        notes=[_sentence(note) for note in notes],
        figures=_figures(pca, rules, line, study.ratios, found),
        tables=[*([_estimators(found)] if found else []), _rules(rules)],
        numbers={
            "dimension": dimension,
            "interval_95": [low, high],
            "method": found.method if found else "TwoNN",
            "estimates": {n: list(row) for n, row in found.estimates.items()} if found else {},
            "scale": found.scale if found else None,
            "posterior": [posterior.concentration, posterior.rate],
            "inflation": posterior.inflation,
            "line_fit": line.dimension,
            "num_ratios": len(study.ratios),
            "predictive_p_value": found.check.p_value if found else None,
            "pca_components": rules,
            "participation_ratio": pca.participation_ratio,
        },
    )


def _answer(found: Estimate | None, numbers: tuple[float, float, float], study: Study) -> str:
    (dimension, low, high), pca, columns = numbers, study.pca, study.x.shape[1]
    method = found.method if found else "TwoNN"
    said = f"About {dimension:.1f}, between {low:.2f} and {high:.2f} ({method})."
    if dimension > pca.rank:
        said = (
            f"{method} does not hold here: it says {dimension:.1f}, more than the {pca.rank} "
            "directions in which the data vary at all. Few points, repeats and lattices do that."
        )
    return (
        f"{said} A linear subspace needs {pca.dimension} of {columns:,} directions for "
        f"{pca.variance_fraction:.0%} of the variance."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _estimators(found: Estimate) -> Table:
    rows = [
        [name, f"{value:.2f}", "–" if math.isnan(low) else f"{low:.2f} … {high:.2f}"]
        for name, (value, low, high) in found.estimates.items()
    ]
    return Table(["estimator", "dimension", "95% interval"], rows, "All on one neighbor graph.")


def _rules(rules: dict[str, int]) -> Table:
    rows = [[name, str(kept)] for name, kept in rules.items()]
    return Table(["rule", "components"], rows, "Where each rule cuts the PCA spectrum.")


def _figures(
    pca: spectrum.Spectrum,
    rules: dict[str, int],
    line: twonn.LineFit,
    ratios: Tensor,
    found: Estimate | None,
) -> list[Figure]:
    pictures = [
        ("spectrum", "The PCA spectrum, and where each rule cuts it.",
         plots.spectrum(pca, cuts=rules)),
        ("twonn_line", "TwoNN: where the points follow the line, its slope is the dimension.",
         plots.twonn_line(line)),
        ("twonn_quantiles", "Does TwoNN's law hold? Then the points lie on the diagonal.",
         plots.pareto_quantiles(found.check) if found
         else plots.pareto_quantiles(ratios, line.dimension)),
    ]  # fmt: skip
    if found is not None:
        pictures += [
            ("dimension_estimates", "What the estimators say, with 95% intervals.",
             plots.dimension_estimates(found.estimates)),
            ("dimension_profile", "The dimension against the length scale, calibrated by balls: "
             "falling where noise ends, rising where the data bend, level on a plateau.",
             plots.dimension_profile(found.profile, adaptive=found.adaptive)),
        ]  # fmt: skip
    return [drawn(name, caption, ax) for name, caption, ax in pictures]
