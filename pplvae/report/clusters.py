"""Which clusters do they form?"""

import math

import numpy as np
import torch
from torch import Tensor

from pplvae import plots, randomness
from pplvae.mixtures import em, svi
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.report.section import Figure, Section, Study, Table, drawn

TITLE = "Which clusters do they form?"
MOST_POINTS = 5000
MOST_AXES = 10
MOST_COMPONENTS = 20
SVI_STEPS = 1000
PATIENCE = 3  # numbers of components to try beyond the best so far


def section(study: Study) -> Section:
    """Fit a Gaussian mixture to the leading components, by EM and by SVI."""
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
    scores, fit = _best(train, study)
    bayes = svi.fit(
        train, fit.mixture.num_components, start=fit.mixture, num_steps=SVI_STEPS,
        pointwise=False, seed=study.seed, progress=study.progress,
    )  # fmt: skip
    held_out = {
        "EM": fit.mixture.log_prob(test).mean().item(),
        "SVI": bayes.log_prob(test).mean().item(),
    }
    num = fit.mixture.num_components
    picked = "as asked" if study.settings.num_components else "by the least BIC"
    answer = (
        f"A mixture of {num} Gaussian{'s' if num > 1 else ''} ({picked}) on the {axes} leading "
        f"components. A held-out point has log density {held_out['EM']:.2f} nats by EM and "
        f"{held_out['SVI']:.2f} averaged over SVI's posterior."
    )
    out = Section("clusters", TITLE, answer=answer, tables=[_weights(fit.mixture, bayes.mixture)])
    if len(chosen) < len(study.x):
        out.notes.append(f"Fitted to {cut:,} of {len(study.x):,} points, judged on {len(test):,}.")
    if fit.num_degenerate:
        out.notes.append(f"{fit.num_degenerate} components are degenerate: points repeat there.")
    if len(scores) > 1 and num == max(scores):
        out.notes.append("BIC is still falling at the most components that were tried.")
    if not fit.converged:
        out.notes.append("EM ran out of steps before it converged.")
    out.figures = _figures(study, fit.mixture, axes, scores)
    out.numbers = {
        "num_components": num,
        "num_axes": axes,
        "bic": scores,
        "log_likelihood": fit.log_likelihood,
        "held_out_nats_per_point": held_out,
        "weights": {"EM": fit.mixture.weights.tolist(), "SVI": bayes.mixture.weights.tolist()},
        "agreement_with_labels": _agreement(study, fit.mixture, axes),
    }
    if out.numbers["agreement_with_labels"] is not None:
        index = out.numbers["agreement_with_labels"]
        out.notes.append(f"The clusters agree with the labels to {index:.2f} (adjusted Rand).")
    out.posteriors = {"mixture-svi": bayes.posterior}
    study.guides["the mixture"] = bayes.posterior
    return out


def _best(x: Tensor, study: Study) -> tuple[dict[int, float], em.EMFit]:
    """Return BIC by number of components, and the fit with the least."""
    most = min(MOST_COMPONENTS, len(x) // (5 * (x.shape[1] + 1)))
    asked = study.settings.num_components
    scores: dict[int, float] = {}
    best = None
    for num in [asked] if asked else range(1, max(1, most) + 1):
        fit = em.fit(
            x, num, seed=study.seed, num_starts=3, tolerance=1e-6, progress=study.progress
        )
        scores[num] = _bic(fit, *x.shape)
        if best is None or scores[num] == min(scores.values()):
            best = fit
        elif num - best.mixture.num_components >= PATIENCE:
            break
    assert best is not None
    return scores, best


def _bic(fit: em.EMFit, num_points: int, dim: int) -> float:
    """Return −2 log L + P log N, with P free parameters."""
    each = dim + dim * (dim + 1) // 2
    num_free = fit.mixture.num_components * (1 + each) - 1
    return -2 * fit.log_likelihood + num_free * math.log(num_points)


def _agreement(study: Study, mixture: GaussianMixture, axes: int) -> float | None:
    if study.dataset.labels is None:
        return None
    from sklearn.metrics import adjusted_rand_score

    found = mixture.predict(study.components[:, :axes])
    return float(adjusted_rand_score(study.dataset.labels.numpy(), found.numpy()))


def _figures(
    study: Study, mixture: GaussianMixture, axes: int, scores: dict[int, float]
) -> list[Figure]:
    if axes < 2:
        return []
    ax = plots.mixture(study.plane()[study.some(MOST_POINTS)], mixture.marginal([0, 1]))
    ax.set(xlabel="principal component 1", ylabel="principal component 2")
    caption = "The mixture on the plane of the first two components: ellipses of two sds."
    pictures = [drawn("mixture", caption, ax)]
    if len(scores) > 1:
        ax = plots.score(np.array(list(scores)), np.array(list(scores.values())))
        ax.set(xlabel="number of components", ylabel="BIC")
        pictures.append(drawn("bic", "BIC by the number of components: the least is taken.", ax))
    return pictures


def _weights(by_em: GaussianMixture, by_svi: GaussianMixture) -> Table:
    columns = ["weights", *(str(k + 1) for k in range(by_em.num_components))]
    rows = [
        [name, *(f"{weight:.3f}" for weight in mixture.weights.tolist())]
        for name, mixture in (("EM", by_em), ("SVI", by_svi))
    ]
    return Table(columns, rows, "The weight of each component; by SVI its posterior mean.")
