"""How much does a short code lose?"""

import torch
from torch import Tensor

from pplvae import plots, randomness
from pplvae.autoencoders import Autoencoder, linear, probabilistic, stacked
from pplvae.autoencoders.decomposition import decompose
from pplvae.report.section import Figure, Section, Study, drawn

TITLE = "How much does a short code lose?"
MOST_POINTS = 5000
SIZES = (1, 2, 4, 8, 16, 32)
EPOCHS = 40  # of each part of the stack
SHOWN = 16  # images


def section(study: Study) -> Section:
    """Compare PCA and a stacked autoencoder with as many numbers as there are dimensions."""
    x = study.x[study.some(MOST_POINTS)].float()
    order = torch.randperm(len(x), generator=randomness.generator(study.seed))
    cut = round(0.8 * len(x))
    train, test = x[order[:cut]], x[order[cut:]]
    rank = decompose(train.double()).rank if cut > 1 else 0
    most = rank - 1  # probabilistic PCA needs something left for the noise
    if most < 1:
        raise ValueError(f"a code must be shorter than the data's rank, {rank}")
    size = max(1, min(most, round(study.dimension or most)))
    stack = stacked.fit(
        train, (max(2 * size, min(200, 4 * train.shape[1])), size), at_once=False,
        num_epochs=EPOCHS, seed=study.seed, progress=study.progress,
    ).autoencoder  # fmt: skip
    plane = linear.fit(train, size).autoencoder
    losses = {"PCA": plane.error(test), "stacked": stack.error(test)}
    whole = (test - train.mean(dim=0)).square().sum(dim=1).mean().item()
    shares = {name: loss / whole for name, loss in losses.items()}
    exact = probabilistic.fit(train, size).log_prob(test).mean().item()
    numbers = "number" if size == 1 else "numbers"
    answer = (
        f"A code of {size} {numbers} loses {shares['PCA']:.0%} of the variance of held-out points "
        f"by PCA and {shares['stacked']:.0%} by a stacked autoencoder."
    )
    out = Section("code", TITLE, answer=answer)
    out.notes.append(
        f"Probabilistic PCA, the linear latent-variable model, gives a held-out point a log "
        f"density of {exact:.1f} nats, exactly: what a VAE has to beat."
    )
    out.figures = [_sizes(train, test, {size: losses}, most)]
    if study.dataset.is_image:
        out.figures += _images(study, test[:SHOWN], plane, stack)
    out.numbers = {
        "code_size": size,
        "squared_error": losses,
        "share_of_variance": shares,
        "ppca_log_prob": exact,
    }
    return out


def _sizes(train: Tensor, test: Tensor, losses: dict[int, dict[str, float]], most: int) -> Figure:
    sizes = sorted({own for own in SIZES if own <= most} | set(losses))
    errors = {"PCA": {own: linear.fit(train, own).autoencoder.error(test) for own in sizes}}
    errors["stacked"] = {own: found["stacked"] for own, found in losses.items()}
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
