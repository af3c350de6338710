"""What is their density?"""

import torch
from torch import Tensor

from pplvae import plots
from pplvae.density import histogram, kernel, neighbor
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "Where are they dense?"
MOST_POINTS = 20_000
NUM_NEIGHBORS = 10


def section(study: Study) -> Section:
    """Show the densities of the leading components and the most and least typical points."""
    chosen = study.some(MOST_POINTS)
    found = neighbor.log_density(
        None, study.x[chosen], NUM_NEIGHBORS, study.dimension, progress=study.progress
    )
    order = chosen[found.log_density.argsort(descending=True)]
    spread = found.log_density.max() - found.log_density.min()
    answer = (
        f"From the most to the least typical point the density falls by {spread.item():.0f} nats "
        f"(k = {NUM_NEIGHBORS} neighbors, in "
        f"{study.dimension or study.x.shape[1]:.1f} dimensions)."
    )
    out = Section("density", TITLE, answer=answer, figures=[_components(study.components)])
    if len(chosen) < len(study.x):
        out.notes.append(f"Typical among {len(chosen):,} points chosen at random.")
    if study.dataset.is_image:
        out.figures += _typical(study, order)
    else:
        out.tables.append(_extremes(order))
    out.numbers = {
        "num_neighbors": NUM_NEIGHBORS,
        "log_density_range": spread.item(),
        "most_typical_rows": order[:10].tolist(),
        "least_typical_rows": order[-10:].flip(0).tolist(),
    }
    return out


def _components(components: Tensor) -> Figure:
    num = min(4, components.shape[1])
    axes = plots.panels(num, columns=min(num, 2))
    for i, ax in enumerate(axes):
        values = components[:, i]
        grid = torch.linspace(values.min().item(), values.max().item(), 300, dtype=values.dtype)
        smooth = kernel.log_density(grid, values).exp()
        plots.histogram(histogram(values), curves={"kernel": (grid, smooth)}, ax=ax)
        ax.set_xlabel(f"principal component {i + 1}")
    caption = (
        "Density along the leading components: a histogram (Freedman–Diaconis) with its standard "
        "errors, and a Gaussian kernel estimate (Silverman)."
    )
    return drawn("densities", caption, axes[0], wide=True)


def _typical(study: Study, order: Tensor) -> list[Figure]:
    both = [("most_typical", "The most typical images.", order[:20]),
            ("least_typical", "The least typical images.", order[-20:].flip(0))]  # fmt: skip
    return [
        drawn(name, caption, plots.mosaic(study.dataset.x[rows], study.dataset.shape))
        for name, caption, rows in both
    ]


def _extremes(order: Tensor) -> Table:
    most, least = order[:8].tolist(), order[-8:].flip(0).tolist()
    rows = [[str(a), str(b)] for a, b in zip(most, least, strict=True)]
    return Table(["most typical", "least typical"], rows, "Row numbers, from 0.")
