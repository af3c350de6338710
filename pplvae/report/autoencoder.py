"""Which latent variables explain them?"""

from typing import TypeAlias

import torch
from torch import Tensor

from pplvae import plots, vae
from pplvae.report.section import Figure, Section, Study, Table, drawn
from pplvae.vae import Diagnosis

TITLE = "Which latent variables explain them?"
LEAST_LATENT, MOST_LATENT = 2, 64
STEPS_A_POINT = 100  # of a guide made for one point
MOST_AXES = 6  # swept in the picture
UNIT = (0.0, 1.0)  # the values of the pixels studied

Judged: TypeAlias = tuple[vae.VAEFit, Diagnosis]


def section(study: Study) -> Section:
    """Train a VAE of the estimated dimension, and one with two latent axes to look at."""
    x = study.x.float()
    if (x == x[0]).all():
        raise ValueError(f"x must vary, got {len(x)} times the same point")
    kind = study.settings.likelihood or _likelihood_for(study)
    latent_dim = study.settings.latent_dim or _latent_dim_for(study)
    fits = [_judged(study, x, kind, latent_dim)]
    if latent_dim != 2:
        fits.append(_judged(study, x, kind, 2))
    fit, judged = fits[0]
    dimension = "" if study.dimension is None else f", from the dimension {study.dimension:.1f}"
    chosen = "as asked" if study.settings.latent_dim else "chosen" + dimension
    points = "held-out" if len(fit.held_out) else "the training"
    bound, found = fit.elbo, judged.log_likelihood
    answer = (
        f"{latent_dim} latent variable{'s' if latent_dim > 1 else ''} ({chosen}) reach an ELBO "
        f"of {bound.value:.2f} ± {bound.standard_error:.2f} nats per point on {points} "
        f"data: {bound.reconstruction:.2f} for the reconstruction less {bound.kl:.2f} for "
        f"the code. log p(x) is {found.value:.2f} ± {found.standard_error:.2f}, by "
        f"{found.num_samples} weighted draws from the guide."
    )
    out = Section("vae", TITLE, answer=answer, vae=fit.vae.cpu(), tables=[_bounds(fits)])
    out.notes += [_explained(kind, study), _trusted(judged)]
    out.figures = _figures(study, x, fits)
    out.numbers = {
        "latent_dim": latent_dim,
        "likelihood": kind,
        "elbo": bound.value,
        "elbo_standard_error": bound.standard_error,
        "bits_per_dimension": found.bits_per_dimension,
        "log_likelihood": found.value,
        "log_likelihood_standard_error": found.standard_error,
        "share_of_large_pareto_k": found.unreliable,
        "amortization_gap": judged.amortization.value,
        "mutual_information": judged.terms.mutual_information,
        "active_units": judged.terms.num_active,
        "kl_per_dimension": judged.terms.kl_per_dimension.tolist(),
        "failures": judged.failures(),
        "reconstruction": bound.reconstruction,
        "kl": bound.kl,
        "elbo_two_latent_variables": fits[-1][0].elbo.value,
        "num_epochs": len(fit.history.losses),
        "num_steps": fit.history.num_steps,
    }
    return out


def _judged(study: Study, x: Tensor, kind: str, latent_dim: int) -> Judged:
    fit = _train(study, x, kind, latent_dim)
    points = x[fit.held_out] if len(fit.held_out) else x
    judged = vae.diagnose(
        fit.vae, points, num_samples=500, num_points=200, num_steps=STEPS_A_POINT,
        seed=study.seed, progress=study.progress,
    )  # fmt: skip
    return fit, judged


def _trusted(judged: Diagnosis) -> str:
    failures = judged.failures()
    if not failures:
        return (
            f"On {len(judged.rows)} of these points no check failed: the ELBO is close to log "
            "p(x), the weights of the draws are even enough to believe it, the encoder is nearly "
            "as good as a guide made for each point, and the code is in use."
        )
    return (
        f"Checks that failed on {len(judged.rows)} of these points: " + "; ".join(failures) + "."
    )


def _likelihood_for(study: Study) -> str:
    """Return "bernoulli" for images that are mostly black and white, "gaussian" for all else."""
    if not study.dataset.is_image:
        return "gaussian"
    extreme = ((study.x < 0.125) | (study.x > 0.875)).double().mean()
    return "bernoulli" if extreme > 0.5 else "gaussian"


def _latent_dim_for(study: Study) -> int:
    dimension = study.dimension if study.dimension is not None else 10.0
    return min(max(round(dimension), LEAST_LATENT), MOST_LATENT)


def _train(study: Study, x: Tensor, kind: str, latent_dim: int) -> vae.VAEFit:
    small = x.shape[1] <= 100
    gaussian = vae.Gaussian(start=max(x.std().item(), 0.01))
    likelihood = vae.Bernoulli("dynamic") if kind == "bernoulli" else gaussian
    model = vae.mlp(
        x.shape[1], latent_dim, hidden_dims=(200,) if small else (400,), likelihood=likelihood,
        dtype=x.dtype, seed=study.seed,
    ).to(study.settings.device)  # fmt: skip
    # About 6,000 steps of 128 points; each pass over large data counts for more.
    num_epochs = study.settings.num_epochs or min(400, max(20, 6000 * 128 // len(x)))
    return vae.fit(
        model, x, num_epochs=num_epochs, patience=max(5, num_epochs // 5), seed=study.seed,
        progress=study.progress,
    )  # fmt: skip


def _explained(kind: str, study: Study) -> str:
    if kind == "bernoulli":
        return (
            "The likelihood is Bernoulli on dynamically binarized pixels: each is drawn white "
            "with its grey value as the probability, anew every time. The bound is on those."
        )
    units = "pixels in [0, 1]" if study.dataset.is_image else "the columns as studied"
    return (
        f"The likelihood is Gaussian with one learned standard deviation, on {units}; its bound "
        "is a log density and can be positive."
    )


def _bounds(fits: list[Judged]) -> Table:
    rows = [
        [
            str(f.vae.latent_dim), f"{f.elbo.value:.2f} ± {f.elbo.standard_error:.2f}",
            f"{j.log_likelihood.value:.2f} ± {j.log_likelihood.standard_error:.2f}",
            f"{j.log_likelihood.bits_per_dimension:.3f}".replace("nan", "–"),
            f"{f.elbo.reconstruction:.2f}", f"{f.elbo.kl:.2f}", str(j.terms.num_active),
            f"{j.log_likelihood.unreliable:.0%}", str(len(f.history.losses)),
        ]
        for f, j in fits
    ]  # fmt: skip
    columns = [
        "latent size", "ELBO", "log p(x)", "bits / dim", "reconstruction", "KL", "active",
        "k-hat > 0.7", "epochs",
    ]  # fmt: skip
    fit, judged = fits[0]
    points = "held-out point" if len(fit.held_out) else "point"
    said = f"In nats per {points}; log p(x), active units and k-hat on {len(judged.rows)} of them."
    return Table(columns, rows, said)


def _figures(study: Study, x: Tensor, fits: list[Judged]) -> list[Figure]:
    (fit, judged), (flat, _) = fits[0], fits[-1]
    (wide,) = plots.panels(1, size=(9.6, 2.9))
    curve = plots.training(fit.history, unit="nats per point", ax=wide)
    pictures = [drawn("vae_training", "The bound while training.", curve, wide=True)]
    if study.dataset.is_image:
        pictures += _image_figures(study, x, fits)
    else:
        pictures += _table_figures(study, fit)
    chosen = study.some(5000)
    labels = _few_labels(study, chosen)
    ax = plots.points(flat.vae.encode(x[chosen]).cpu(), labels, centers=labels is not None)
    ax.set(xlabel=r"latent variable $z_1$", ylabel=r"latent variable $z_2$")
    caption = "The data in the plane of a VAE with two latent variables."
    terms = judged.terms
    used = plots.latent_dimensions(terms.kl_per_dimension.cpu(), terms.active.cpu())
    said = "What each latent dimension says of a point; an inactive one says nothing."
    return [*pictures, drawn("vae_latent", caption, ax), drawn("vae_dimensions", said, used)]


def _few_labels(study: Study, chosen: Tensor) -> Tensor | None:
    labels = study.dataset.labels
    return None if labels is None or len(labels.unique()) > 20 else labels[chosen]


def _image_figures(study: Study, x: Tensor, fits: list[Judged]) -> list[Figure]:
    (fit, judged), (flat, _) = fits[0], fits[-1]
    shape = study.dataset.shape
    shown = x[fit.held_out[:16]] if len(fit.held_out) else x[:16]
    pairs = plots.pairs(shown, fit.vae.reconstruct(shown).cpu(), shape, limits=UNIT)
    samples = fit.vae.sample(48, noise=False, seed=study.seed).cpu()
    mosaic = plots.mosaic(samples, shape, columns=16, limits=UNIT)
    manifold = plots.manifold(vae.manifold.grid(flat.vae, 20).cpu(), shape, limits=UNIT)
    busiest = judged.terms.kl_per_dimension.argsort(descending=True)[:MOST_AXES].tolist()
    swept = vae.manifold.traverse(fit.vae, shown[0], axes=busiest, num_steps=15).cpu()
    names = [f"$z_{{{axis + 1}}}$" for axis in busiest]
    traversals = plots.traversals(swept, shape, names=names, limits=UNIT)
    return [
        drawn("vae_reconstructions", "Images over their reconstructions.", pairs, wide=True),
        drawn(
            "vae_samples", "New images: codes drawn from the prior, decoded.", mosaic, wide=True
        ),
        drawn(
            "vae_traversals",
            "The latent variables that say most, each swept through its prior from one image.",
            traversals,
            wide=True,
        ),
        drawn(
            "vae_manifold",
            "The manifold of two latent variables: a grid of equal prior probability, decoded.",
            manifold,
        ),
    ]


def _table_figures(study: Study, fit: vae.VAEFit) -> list[Figure]:
    if study.components.shape[1] < 2:
        return []
    samples = fit.vae.sample(min(2000, len(study.x)), seed=study.seed).cpu().double()
    both = torch.cat([study.plane()[study.some(2000)], study.pca.project(samples, 2)])
    source = torch.zeros(len(both), dtype=torch.int64)
    source[-len(samples) :] = 1
    ax = plots.points(both, source, names=["data", "samples"])
    ax.set(xlabel="principal component 1", ylabel="principal component 2")
    caption = "The data, and new points drawn from the VAE, on the same two components."
    return [drawn("vae_samples", caption, ax)]
