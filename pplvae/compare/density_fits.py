"""Six densities of one sample, each by the room that owns it, with settings that suit most data.

Non-parametric are the histogram (Freedman & Diaconis), the kernel (Gaussian, its width by `kl`)
and the k nearest neighbors; parametric the mixture (full covariances, their number by BIC), the
masked autoregressive flow and the VAE. Neighbors and networks see columns of mean 0 and standard
deviation 1, and their densities are carried back to the units of the data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from pplvae import randomness, vae
from pplvae.density import histogram, joint_histogram, kernel, neighbor
from pplvae.intrinsic_dimension import twonn
from pplvae.mixtures import em
from pplvae.optimize import cosine, minibatches, minimize

NON_PARAMETRIC = ("histogram", "kernel", "k-NN")
MOST_COMPONENTS, NUM_STARTS = 8, 4  # of the mixture
POINTS_A_COMPONENT = 5  # for each column and one more, at least
NUM_LAYERS, HIDDEN = 5, 64  # of the flow; the VAE's hidden units, too
BATCHES, LEAST, MOST = 10, 16, 128  # in an epoch, and the points of one
HELD_BACK = 0.15  # of the points, by which the flow knows when to stop
RATE_FLOW, RATE_VAE, NUM_PARTICLES = 3e-3, 5e-3, 10
PATIENCE = 20  # epochs


class Evaluated(NamedTuple):
    """Log densities in nats, shape (M,), and what a reader should know of them."""

    log_density: Tensor
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """The options of a comparison.

    Attributes:
        num_neighbors: Of the k-NN estimate.
        num_epochs: Most passes over the points, of the flow and the VAE.
        num_samples: Weighted draws for each log p(x) of the VAE.
        seed: Start of the random draws.
        progress: Whether long fits show a progress bar.
    """

    num_neighbors: int
    num_epochs: int
    num_samples: int
    seed: int
    progress: bool


Evaluate: TypeAlias = Callable[[Tensor], Evaluated]


class _Columns(NamedTuple):
    """The means and standard deviations of the columns, shape (D,) each."""

    loc: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "_Columns":
        return cls(x.mean(dim=0), x.std(dim=0))

    def standardized(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale

    def carried_back(self, log_density: Tensor) -> Tensor:
        return log_density.double() - self.scale.log().sum()


def by_histogram(x: Tensor, settings: Settings) -> Evaluate:
    """Return the histogram of one to three columns."""
    if x.shape[1] > 3:
        raise ValueError(f"a histogram takes 1 to 3 columns, got {x.shape[1]}")
    found = histogram(x[:, 0]) if x.shape[1] == 1 else joint_histogram(x)
    return lambda points: Evaluated(found.log_density(points))


def by_kernel(x: Tensor, settings: Settings) -> Evaluate:
    """Return the Gaussian kernel estimate with the width of least divergence."""
    found = kernel.fit(x, "kl", progress=settings.progress)
    return lambda points: Evaluated(found.log_density(points, progress=settings.progress))


def by_neighbors(x: Tensor, settings: Settings) -> Evaluate:
    """Return the k-NN estimate, unbiased in logs."""
    k, columns = settings.num_neighbors, _Columns.of(x)
    data = columns.standardized(x)

    def evaluate(points: Tensor) -> Evaluated:
        found = neighbor.log_density(
            columns.standardized(points), data, k, unbiased=True, progress=settings.progress
        ).log_density
        return Evaluated(
            columns.carried_back(found),
            f"no density, as its mass is infinite, and not ranked; with ψ({k}) for log {k} its "
            "mean estimates what p itself would get, −entropy, in few dimensions",
        )

    return evaluate


def by_mixture(x: Tensor, settings: Settings) -> Evaluate:
    """Return the Gaussian mixture of least BIC."""
    most = max(1, min(MOST_COMPONENTS, len(x) // (POINTS_A_COMPONENT * (x.shape[1] + 1))))
    fits = [
        em.fit(x, number, num_starts=NUM_STARTS, seed=settings.seed, progress=False)
        for number in range(1, most + 1)
    ]
    log_size = math.log(len(x))
    sound = [fit for fit in fits if not fit.num_degenerate]
    if not sound:
        raise ValueError("a component closes in on points that have no volume")
    best = min(sound, key=lambda fit: fit.num_parameters * log_size - 2 * fit.log_likelihood)
    number = best.mixture.num_components
    note = f"{number} component{'s' if number > 1 else ''} by BIC"
    return lambda points: Evaluated(best.mixture.log_prob(points), note)


def by_flow(x: Tensor, settings: Settings) -> Evaluate:
    """Return a masked autoregressive flow of greatest likelihood, stopped by points held back."""
    if x.shape[1] < 2:
        raise ValueError("an affine flow takes 2 columns or more: of one it is a normal law")
    columns, seed = _Columns.of(x), settings.seed
    z = columns.standardized(x).float()
    order = torch.randperm(len(z), generator=randomness.generator(seed)).to(z.device)
    judge, train = z[order].tensor_split([max(1, round(HELD_BACK * len(z)))])
    with randomness.scope(seed):
        sizes = (max(HIDDEN, 2 * x.shape[1]),)
        law = vae.priors.FlowPrior(x.shape[1], NUM_LAYERS, sizes).to(z)

    def loss(points: Tensor) -> Tensor:
        return -law().log_prob(points).mean()

    history = minimize(
        loss, law.parameters(), minibatches(train, batch_size=_batch_size(train)),
        num_epochs=settings.num_epochs, learning_rate=RATE_FLOW, clip_norm=10.0, schedule=cosine,
        validate=lambda: loss(judge), patience=PATIENCE, seed=seed, progress=settings.progress,
        description="fitting the flow",
    )  # fmt: skip

    @torch.no_grad()
    def evaluate(points: Tensor) -> Evaluated:
        found = columns.carried_back(law().log_prob(columns.standardized(points).float()))
        return Evaluated(found, f"{NUM_LAYERS} layers, {history.best_epoch + 1} epochs")

    return evaluate


def by_vae(x: Tensor, settings: Settings) -> Evaluate:
    """Return a VAE with as many latent variables as TwoNN finds dimensions, trained by IWAE."""
    columns = _Columns.of(x)
    z = columns.standardized(x)
    dimension = twonn.maximum_likelihood(z, progress=settings.progress).dimension
    latent_dim = max(1, min(x.shape[1], round(dimension)))
    model = vae.mlp(
        x.shape[1], latent_dim, hidden_dims=(HIDDEN,), likelihood=vae.Gaussian(predicted=True),
        dtype=torch.float32, seed=settings.seed,
    ).to(x.device)  # fmt: skip
    vae.fit(
        model, z.float(), objective=vae.IWAE(NUM_PARTICLES),
        batch_size=_batch_size(x), num_epochs=settings.num_epochs, learning_rate=RATE_VAE,
        patience=PATIENCE, seed=settings.seed, progress=settings.progress,
    )  # fmt: skip

    def evaluate(points: Tensor) -> Evaluated:
        found = vae.bounds.log_likelihood(
            model, columns.standardized(points).float(), num_samples=settings.num_samples,
            seed=settings.seed, progress=settings.progress,
        )  # fmt: skip
        said = f"{latent_dim} latent, {found.num_samples} weighted draws for each log p"
        if not math.isnan(found.unreliable):
            said += f", unreliable (k-hat) for {found.unreliable:.0%} of the points"
        return Evaluated(columns.carried_back(found.per_point), said)

    return evaluate


def _batch_size(x: Tensor) -> int:
    """Return how many points make a batch: few of few points, for as many steps."""
    return min(MOST, max(LEAST, len(x) // BATCHES))


FITS: dict[str, Callable[[Tensor, Settings], Evaluate]] = {
    "histogram": by_histogram,
    "kernel": by_kernel,
    "k-NN": by_neighbors,
    "mixture": by_mixture,
    "flow": by_flow,
    "VAE": by_vae,
}
