"""What do the data look like?"""

from torch import Tensor

from pplvae import plots
from pplvae.intrinsic_dimension import spectrum
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "What do the data look like?"


def section(study: Study) -> Section:
    """Show some of the data, their ranges, and their two leading principal components."""
    dataset, (num_points, dim) = study.dataset, study.x.shape
    pca = study.pca
    kind = f"images of {' × '.join(map(str, dataset.shape))}" if dataset.is_image else "rows"
    answer = f"{num_points:,} {kind}, {dim:,} numbers each"
    if dataset.labels is not None:
        answer += f", with {len(dataset.labels.unique())} different labels"
    out = Section("look", TITLE, answer=answer + ".", numbers=_numbers(dataset.x))
    if dataset.is_image:
        shown = dataset.x[study.some(60)]
        ax = plots.mosaic(shown, dataset.shape, columns=20)
        caption = "Some of the images, chosen at random."
        out.figures.append(drawn("data", caption, ax, wide=True))
    else:
        out.tables.append(_columns(dataset.x))
        if study.settings.standardize:
            out.notes.append("From here on each column has mean 0 and standard deviation 1.")
    if pca.rank > 1:
        out.figures.append(_plane(study, pca))
    if dataset.is_image:
        directions = pca.directions[: min(25, pca.rank)]
        ax = plots.mosaic(directions, dataset.shape, columns=5)
        caption = f"The {len(directions)} leading principal directions, as images."
        out.figures.append(drawn("directions", caption, ax))
    return out


def _numbers(x: Tensor) -> dict[str, float]:
    return {
        "num_points": len(x),
        "dim": x.shape[1],
        "least": x.min().item(),
        "greatest": x.max().item(),
        "constant_columns": int((x.amin(0) == x.amax(0)).sum()),
    }


def _columns(x: Tensor, most: int = 12) -> Table:
    stats = [x.mean(0), x.std(0), x.amin(0), x.amax(0)]
    rows = [
        [str(d + 1), *(f"{stat[d].item():.4g}" for stat in stats)]
        for d in range(min(most, x.shape[1]))
    ]
    hidden = x.shape[1] - len(rows)
    caption = "Each column" + (f", the last {hidden} left out." if hidden else ".")
    return Table(["column", "mean", "sd", "least", "greatest"], rows, caption)


def _plane(study: Study, pca: spectrum.Spectrum) -> Figure:
    chosen = study.some(5000)
    labels = study.dataset.labels
    few = labels is not None and len(labels.unique()) <= 20
    ax = plots.points(
        study.plane()[chosen], labels[chosen] if labels is not None and few else None
    )
    first, second = (100 * pca.explained[:2]).tolist()
    ax.set(
        xlabel=f"principal component 1 ({first:.0f}% of the variance)",
        ylabel=f"principal component 2 ({second:.0f}%)",
    )
    caption = "The data on their two leading principal components"
    caption += ", colored by label." if few else "."
    return drawn("plane", caption, ax)
