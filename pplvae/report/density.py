"""What is their density?"""

import warnings

import torch
from torch import Tensor

from pplvae import compare, plots
from pplvae.compare import DensityComparison
from pplvae.density import histogram, kernel, neighbor, sweep
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "Where are they dense?"
MOST_POINTS = 20_000
MOST_FITTED = 1000  # points behind bandwidths and densities that take N² pairs or training
LEAST_FITTED = 40
NUM_NEIGHBORS = 10
NUM_EPOCHS = 30  # of the flow and the VAE
MOST_AXES = 10
QUICK = ("histogram", "kernel", "k-NN", "mixture")  # on the plane
SHOWN = 8  # images of each end


def section(study: Study) -> Section:
    """Show densities along the components, the typical points, and who explains new points."""
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
    out = Section("density", TITLE, answer=answer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        out.figures = [_components(study.components), _widths(study)]
        compared = _compared(study)
    out.notes = [*dict.fromkeys(f"{w.message}." for w in said if w.category is UserWarning)]
    if len(chosen) < len(study.x):
        out.notes.append(f"Typical among {len(chosen):,} points chosen at random.")
    if 2 in compared:
        out.figures.append(_plane(study, compared[2]))
    out.figures.append(_typical(study, chosen, found))
    if not study.dataset.is_image:
        out.tables.append(_extremes(order))
    for num, comparison in compared.items():
        out.tables.append(_table(num, comparison))
    if compared:
        out.answer += " " + _verdict(*list(compared.items())[-1])
        out.notes += _notes(compared)
    out.numbers = {
        "num_neighbors": NUM_NEIGHBORS,
        "log_density_range": spread.item(),
        "most_typical_rows": order[:10].tolist(),
        "least_typical_rows": order[-10:].flip(0).tolist(),
        "held_out_nats_per_point": {
            num: {name: own.mean for name, own in comparison.estimates.items()}
            for num, comparison in compared.items()
        },
    }
    return out


def _components(components: Tensor) -> Figure:
    num = min(4, components.shape[1])
    axes = plots.panels(num, columns=min(num, 2))
    few = components[:: max(1, len(components) // MOST_FITTED)]
    for i, ax in enumerate(axes):
        values = components[:, i]
        grid = torch.linspace(values.min().item(), values.max().item(), 300, dtype=values.dtype)
        smooth = kernel.fit(few[:, i], "kl", progress=False).estimate(grid, progress=False)
        curve = grid, smooth.density, smooth.error
        plots.histogram(histogram(values), curves={"kernel": curve}, ax=ax)
        ax.set_xlabel(f"principal component {i + 1}")
    caption = (
        "Density along the leading components: a histogram (Freedman–Diaconis) and a Gaussian "
        "kernel estimate of least Kullback–Leibler divergence, both with standard errors."
    )
    return drawn("densities", caption, axes[0], wide=True)


def _widths(study: Study) -> Figure:
    data = study.components[study.some(MOST_FITTED), 0]
    found = sweep.bandwidths(data, seed=study.seed, progress=study.progress)
    left, _ = plots.bandwidths(found, data)
    left.set_xlabel("principal component 1")
    caption = (
        "How wide a kernel? The divergence from the truth, by leave-one-out, has a valley; that "
        "between two halves of the data falls for ever and picks nothing."
    )
    return drawn("bandwidths", caption, left, wide=True)


def _compared(study: Study) -> dict[int, DensityComparison]:
    """Return the densities on the plane and on as many components as there are dimensions."""
    x = study.components[study.some(MOST_FITTED)]
    if len(x) < LEAST_FITTED:
        return {}
    columns = x.shape[1]
    most = min(MOST_AXES, columns, max(2, round(study.dimension or MOST_AXES)))
    settings = {"num_epochs": NUM_EPOCHS, "seed": study.seed, "progress": study.progress}
    found = {}
    if most > 2:
        found[2] = compare.densities(x[:, :2], QUICK, **settings)
    return found | {most: compare.densities(x[:, :most], **settings)}


def _verdict(num: int, comparison: DensityComparison) -> str:
    known = {name: own for name, own in comparison.estimates.items() if own.ranked and own.known}
    if not known:
        return f"No density could be fitted on {_said(num)}."
    best = known[comparison.best]
    return (
        f"On {_said(num)} the {comparison.best}, a {best.kind} density, explains held-out points "
        f"best: {best.mean:.2f} ± {best.error:.2f} nats per point."
    )


def _said(num: int) -> str:
    return "the first component" if num == 1 else f"the {num} leading components"


def _table(num: int, comparison: DensityComparison) -> Table:
    rows = [[str(name), *map(str, row)] for name, row in comparison.shown().iloc[:, :3].iterrows()]
    caption = (
        f"Mean log density of {comparison.num_held_out} held-out points on {_said(num)}, fitted "
        f"to {comparison.num_train}; differences are taken point by point."
    )
    return Table(["density", "kind", "nats per point", "to the best"], rows, caption)


def _notes(compared: dict[int, DensityComparison]) -> list[str]:
    said = {line: num for num, comparison in compared.items() for line in comparison.lines()}
    return [f"{line} ({_said(num)})." for line, num in said.items()]


def _plane(study: Study, comparison: DensityComparison) -> Figure:
    x = study.plane()[study.some(MOST_FITTED)]
    shown = {
        name: own.log_density
        for name, own in comparison.estimates.items()
        if name in ("kernel", "mixture") and own.log_density is not None
    }
    axes = plots.panels(max(1, len(shown)), columns=2, size=(4.4, 3.8))
    for ax, (name, log_density) in zip(axes, shown.items(), strict=False):
        plots.contours(log_density, x, ax=ax)
        ax.set(xlabel="principal component 1", ylabel="principal component 2", title=name)
    caption = (
        "Densities on the plane, with contours that enclose 10, 30, 50, 70 and 90% of the points."
    )
    return drawn("contours", caption, axes[0], wide=True)


def _typical(study: Study, chosen: Tensor, found: neighbor.NeighborDensity) -> Figure:
    num = min(SHOWN, len(chosen) // 2)
    if study.dataset.is_image:
        images, shape = study.dataset.x[chosen], study.dataset.shape
        ax = plots.typical(found.log_density, found.log_error, images=images, shape=shape, num=num)
    else:
        ax = plots.typical(found.log_density, found.log_error, rows=chosen, num=num)
    caption = "The density at each point, and the most and least typical points."
    return drawn("typical", caption, ax, wide=True)


def _extremes(order: Tensor) -> Table:
    most, least = order[:8].tolist(), order[-8:].flip(0).tolist()
    rows = [[str(a), str(b)] for a, b in zip(most, least, strict=True)]
    return Table(["most typical", "least typical"], rows, "Row numbers, from 0.")
