"""Which clusters do they form?"""

import numpy as np
import torch
from torch import Tensor

from pplvae import plots, randomness
from pplvae.mixtures import gibbs, selection, svi
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.plots.mixtures import mixture_interval
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "Which clusters do they form?"
MOST_POINTS = 5000
MOST_AXES = 10
MOST_COMPONENTS = 12
SVI_STEPS = 1000
GIBBS_DRAWS = 500  # of each of four chains
R_HAT = 1.05


def section(study: Study) -> Section:
    """Fit a Gaussian mixture to the leading components, by EM, by SVI and by Gibbs sampling."""
    axes = min(MOST_AXES, study.components.shape[1], max(2, round(study.dimension or MOST_AXES)))
    chosen = study.some(MOST_POINTS)
    if len(chosen) < 5 * (axes + 1):
        raise ValueError(
            f"a mixture on {axes} components must have at least {5 * (axes + 1)} points, "
            f"got {len(chosen)}"
        )
    order = torch.randperm(len(chosen), generator=randomness.generator(study.seed))
    cut = round(0.8 * len(chosen))
    shuffled = study.components[chosen][order, :axes]
    train, test = shuffled[:cut], shuffled[cut:]
    chosen_by = _selection(train, study)
    fit = chosen_by.best()
    known = {
        "start": fit.mixture, "pointwise": False, "seed": study.seed, "progress": study.progress
    }  # fmt: skip
    by_svi = svi.fit(train, fit.mixture.num_components, num_steps=SVI_STEPS, **known)
    by_gibbs = gibbs.fit(
        train, fit.mixture.num_components, num_draws=GIBBS_DRAWS, warmup_steps=GIBBS_DRAWS // 2,
        **known,
    )  # fmt: skip
    ways = {"EM": fit.mixture, "SVI": by_svi, "Gibbs": by_gibbs}
    held_out = {name: way.log_prob(test).mean().item() for name, way in ways.items()}
    num = fit.mixture.num_components
    picked = "as asked" if study.settings.num_components else "by the least BIC"
    answer = (
        f"A mixture of {num} Gaussian{'s' if num > 1 else ''} ({picked}) on the {axes} leading "
        f"components. A held-out point has log density {held_out['EM']:.2f} nats by EM, "
        f"{held_out['SVI']:.2f} averaged over SVI's posterior and {held_out['Gibbs']:.2f} over "
        "that of Gibbs sampling."
    )
    out = Section("clusters", TITLE, answer=answer, tables=[_weights(ways)])
    if len(chosen) < len(study.x):
        out.notes.append(f"Fitted to {cut:,} of {len(study.x):,} points, judged on {len(test):,}.")
    if fit.num_degenerate:
        out.notes.append(f"{fit.num_degenerate} components are degenerate: points repeat there.")
    scores = {
        own.num_components: own.scores["bic"].value
        for own in chosen_by.candidates
        if "bic" in own.scores
    }
    if len(scores) > 1 and num == max(scores):
        out.notes.append("BIC is still falling at the most components that were tried.")
    if not fit.converged:
        out.notes.append("EM ran out of steps before it converged.")
    out.notes.append(_chains(by_gibbs))
    out.figures = _figures(study, fit.mixture, chosen_by, by_gibbs)
    out.numbers = {
        "num_components": num,
        "num_axes": axes,
        "bic": scores,
        "log_likelihood": fit.log_likelihood,
        "held_out_nats_per_point": held_out,
        "weights": {name: _mixture(way).weights.tolist() for name, way in ways.items()},
        "agreement_with_labels": _agreement(study, fit.mixture, axes),
    }
    if out.numbers["agreement_with_labels"] is not None:
        index = out.numbers["agreement_with_labels"]
        out.notes.append(f"The clusters agree with the labels to {index:.2f} (adjusted Rand).")
    out.posteriors = {"mixture-svi": by_svi, "mixture-gibbs": by_gibbs}
    study.guides["the mixture"] = by_svi
    return out


def _selection(x: Tensor, study: Study) -> selection.Selection:
    """Return the fits with 1, 2, … components, or with the number asked for."""
    most = max(1, min(MOST_COMPONENTS, len(x) // (5 * (x.shape[1] + 1))))
    asked = study.settings.num_components
    numbers = [asked] if asked else range(1, most + 1)
    return selection.compare(
        x, numbers, criteria=("bic", "icl"), seed=study.seed, progress=study.progress
    )


def _mixture(way: GaussianMixture | MixturePosterior) -> GaussianMixture:
    return way if isinstance(way, GaussianMixture) else way.mixture


def _chains(posterior: MixturePosterior) -> str:
    """Say whether the chains agree, once their components are numbered alike."""
    table = posterior.summary()
    # Of constants, such as zeros above a diagonal, there is neither.
    r_hat = float(np.nanmax(table["r_hat"].to_numpy(dtype=float)))
    ess = float(np.nanmin(table["ess_bulk"].to_numpy(dtype=float)))
    modes = posterior.label_modes
    seen = f"{modes} numberings of the components" if modes > 1 else "one numbering only"
    if r_hat <= R_HAT:
        return f"The chains of Gibbs agree (R-hat {r_hat:.3f}, least ESS {ess:.0f}), in {seen}."
    return (
        f"The chains of Gibbs do not agree (R-hat {r_hat:.2f}, least ESS {ess:.0f}; {seen}): "
        "the posterior has several modes, and the weights above are of some of them."
    )


def _agreement(study: Study, mixture: GaussianMixture, axes: int) -> float | None:
    if study.dataset.labels is None:
        return None
    from sklearn.metrics import adjusted_rand_score

    found = mixture.predict(study.components[:, :axes])
    return float(adjusted_rand_score(study.dataset.labels.numpy(), found.numpy()))


def _figures(
    study: Study,
    mixture: GaussianMixture,
    chosen_by: selection.Selection,
    posterior: MixturePosterior,
) -> list[Figure]:
    pictures = []
    if mixture.dim > 1:
        x = study.plane()[study.some(MOST_POINTS)]
        names = {"xlabel": "principal component 1", "ylabel": "principal component 2"}
        ax = plots.mixture(x, mixture.marginal([0, 1]))
        ax.set(**names)
        caption = "The mixture on the plane of the first two components: ellipses of two sds."
        pictures.append(drawn("mixture", caption, ax))
        ax = plots.mixture_uncertainty(x, mixture.marginal([0, 1]))
        ax.set(**names)
        caption = (
            "How sure each point's component is, going by these two components alone: the darker "
            "and larger, the less."
        )
        pictures.append(drawn("uncertainty", caption, ax))
        ax = plots.mixture_means(posterior.draws["locs"][..., :2], x)
        ax.set(**names)
        caption = "How sure the means are: Gibbs's draws, and where 95 % of each lie."
        pictures.append(drawn("means", caption, ax))
    pictures.append(_along_the_first(study, posterior))
    if len(chosen_by.candidates) > 1:
        ax = plots.selection(chosen_by, "bic")
        caption = "BIC by the number of components: the least is taken."
        pictures.append(drawn("bic", caption, ax))
    return pictures


def _along_the_first(study: Study, posterior: MixturePosterior) -> Figure:
    values = study.components[study.some(MOST_POINTS), 0]
    grid = torch.linspace(values.min().item(), values.max().item(), 300, dtype=values.dtype)
    density = posterior.marginal([0]).density(grid)
    ax = mixture_interval(grid, density, values)
    ax.set_xlabel("principal component 1")
    caption = (
        "The density along the first component: Gibbs's posterior mean, and the central 95 % of "
        "its draws at each place."
    )
    return drawn("mixture-density", caption, ax)


def _weights(ways: dict[str, GaussianMixture | MixturePosterior]) -> Table:
    mixtures = {name: _mixture(way) for name, way in ways.items()}
    num = next(iter(mixtures.values())).num_components
    rows = [
        [name, *(f"{weight:.3f}" for weight in mixture.weights.tolist())]
        for name, mixture in mixtures.items()
    ]
    columns = ["weights", *(str(k + 1) for k in range(num))]
    return Table(columns, rows, "The weight of each component; by SVI and Gibbs posterior means.")
