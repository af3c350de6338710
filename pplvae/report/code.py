"""How much does a short code lose?"""

import math

import torch
from torch import Tensor

from pplvae import plots, randomness
from pplvae.autoencoders import Autoencoder, linear, probabilistic, stacked
from pplvae.autoencoders.decomposition import decompose
from pplvae.report.section import Figure, Section, Study, drawn

TITLE = "How much does a short code lose?"
MOST_POINTS = 5000
SIZES = (1, 2, 4, 8, 16, 32)
STEPS, BATCH, RATE = 1000, 128, 0.005  # of each part of the stack, whatever the number of points
SHOWN = 16  # images
UNLEARNED, BY_HEART = "not converged", "learned by heart"


def section(study: Study) -> Section:
    """Compare PCA and a stacked autoencoder with as many numbers as there are dimensions."""
    train, test, rank = _parts(study)
    most = rank - 1  # probabilistic PCA needs something left for the noise
    if most < 1:
        raise ValueError(f"a code must be shorter than the data's rank, {rank}")
    wanted = round(study.dimension or most)
    size = max(1, min(most, wanted))
    plane = linear.fit(train, size).autoencoder
    stack = _stack(study, train.float(), size)
    losses = {"PCA": plane.error(test), "stacked": stack.error(test)}
    whole = (test - train.mean(dim=0)).square().sum(dim=1).mean().item()
    shares = {name: loss / whole for name, loss in losses.items()}
    doubt = _doubt(plane, stack, train, test)
    # Where the code holds all that varies, no noise is left, and the likelihood has no maximum.
    flat = rank < train.shape[1] and wanted >= rank
    exact = None if flat else probabilistic.fit(train, size).log_prob(test).mean().item()
    out = Section("code", TITLE, answer=_answer(size, shares, doubt))
    out.notes.append(_density(exact, rank, train))
    out.figures = [_sizes(train, test, {size: losses}, most, doubt)]
    if study.dataset.is_image:
        out.figures += _images(study, test[:SHOWN], plane, stack)
    out.numbers = {
        "code_size": size,
        "rank": rank,
        "squared_error": losses,
        "share_of_variance": shares,
        "stacked_doubt": doubt,
        "ppca_log_prob": exact,
    }
    return out


def _parts(study: Study) -> tuple[Tensor, Tensor, int]:
    """Return points to learn from, held-out points, and the rank of the first."""
    x = study.x[study.some(MOST_POINTS)]
    order = torch.randperm(len(x), generator=randomness.generator(study.seed))
    cut = round(0.8 * len(x))
    train, test = x[order[:cut]], x[order[cut:]]
    # Images hold the exact numbers of their files; sums of columns are rounded as they are stored.
    stored = train.dtype if study.dataset.is_image else study.dataset.x.dtype
    return train, test, decompose(train.to(stored)).rank if cut > 1 else 0


def _stack(study: Study, train: Tensor, size: int) -> Autoencoder:
    """Return a trained stack of two layers, the same number of steps for any number of points."""
    num_epochs = max(1, STEPS // math.ceil(len(train) / BATCH))
    return stacked.fit(
        train, (max(2 * size, min(200, 4 * train.shape[1])), size), at_once=False,
        num_epochs=num_epochs, patience=max(20, num_epochs // 5), batch_size=BATCH,
        learning_rate=RATE, seed=study.seed, progress=study.progress,
    ).autoencoder  # fmt: skip


def _doubt(plane: Autoencoder, stack: Autoencoder, train: Tensor, test: Tensor) -> str | None:
    """Return why the stack is worse than PCA, which it can do as well, by more than noise."""
    extra = _losses(stack, test) - _losses(plane, test)
    if extra.mean() <= 2 * extra.std(correction=0) / math.sqrt(len(extra)):
        return None
    learned = stack.error(train) <= plane.error(train)
    return BY_HEART if learned else UNLEARNED


def _losses(model: Autoencoder, x: Tensor) -> Tensor:
    """Return the squared error of each point, shape (N,)."""
    return (x - model.reconstruct(x)).square().sum(dim=1)


def _answer(size: int, shares: dict[str, float], doubt: str | None) -> str:
    numbers = "number" if size == 1 else "numbers"
    lost = f"A code of {size} {numbers} loses {shares['PCA']:.0%} of the variance of held-out"
    lost += " points by PCA"
    if doubt is None:
        return f"{lost} and {shares['stacked']:.0%} by a stacked autoencoder."
    why = {
        UNLEARNED: "its training has not converged",
        BY_HEART: "it has learned its training points, too few of them, by heart",
    }[doubt]
    return (
        f"{lost}. The stacked autoencoder says nothing here: {why}. It loses "
        f"{shares['stacked']:.0%}, and could do all that PCA does."
    )


def _density(exact: float | None, rank: int, train: Tensor) -> str:
    num, columns = train.shape
    flat = f"The {num:,} training points have rank {rank} in {columns:,} columns: they fill no "
    if exact is None:
        return (
            f"{flat}volume, and a code of {rank} numbers leaves no noise to fill it. A density of "
            "them does not exist: any value can be beaten by a VAE with less noise."
        )
    said = (
        "Probabilistic PCA, the linear latent-variable model, gives a held-out point a log "
        f"density of {exact:.1f} nats, exactly: what a VAE has to beat."
    )
    return said if rank == columns else f"{said} {flat}volume; its noise does."


def _sizes(
    train: Tensor,
    test: Tensor,
    losses: dict[int, dict[str, float]],
    most: int,
    doubt: str | None,
) -> Figure:
    sizes = sorted({own for own in SIZES if own <= most} | set(losses))
    errors = {"PCA": {own: linear.fit(train, own).autoencoder.error(test) for own in sizes}}
    name = "stacked" if doubt is None else f"stacked, {doubt}"
    errors[name] = {own: found["stacked"] for own, found in losses.items()}
    caption = "What is lost of held-out points, by the size of the code."
    return drawn("code_sizes", caption, plots.code_sizes(errors))


def _images(study: Study, test: Tensor, plane: Autoencoder, stack: Autoencoder) -> list[Figure]:
    rows = {
        "original": test,
        "PCA": plane.reconstruct(test),
        "stacked": stack.reconstruct(test),
    }
    ax = plots.image_rows(rows, study.dataset.shape)
    return [drawn("code_images", "Held-out images, and what their codes keep of them.", ax)]
