"""The linear autoencoder is PCA: in closed form by the SVD, or found by gradient descent.

Of all linear maps E (L × D) and D (D × L) the least Σ_n ‖x_n − D E x_n‖² of centered data
X = U Σ Vᵀ is Σ_{i > L} σ_i², reached by E = V_Lᵀ, D = V_L, whose codes are the principal
components X V = U Σ. So it is by E = A⁻¹ V_Lᵀ, D = V_L A for any invertible A, and with tied
weights, E = W, D = Wᵀ, for any rotation A: gradient descent finds the subspace, not the axes. No
minimum but these is a local one; the other critical points are saddles.

Reference:
    Lectures 14 and 18 (2023), Theorem PCA: E* = Vᵀ, D* = V, and E(x) = W x, D(z) = Wᵀ z;
    Baldi & Hornik (1989), https://doi.org/10.1016/0893-6080(89)90014-2, for the saddles
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pplvae import randomness
from pplvae.autoencoders.builders import linear
from pplvae.autoencoders.decomposition import Decomposition, decompose, oriented
from pplvae.autoencoders.model import Autoencoder, squared_error, unexplained
from pplvae.autoencoders.training import AutoencoderFit
from pplvae.optimize import History, Schedule, cosine, minimize
from pplvae.optimize.logs import Callback
from pplvae.validation import Array, as_points, check_one_of, check_whole

METHODS = ("svd", "gradient")
START = 0.5  # singular values of the first weights: between the saddle at 0 and the minimum at 1


@dataclass(frozen=True, eq=False, repr=False)
class LinearFit(AutoencoderFit):
    """A linear autoencoder of all points; `held_out` is empty.

    Attributes:
        directions: Orthonormal principal directions of its subspace, most variance first, shape
            (L, D): the rows of Vᵀ for the closed form, and for gradient descent where that has
            converged.
        singular_values: Lengths of the centered data along these, Σ, shape (L,).
        least_unexplained: The share of the variance that the closed form leaves; gradient descent
            has converged where `unexplained` is no more.
    """

    directions: Tensor = field(kw_only=True)
    singular_values: Tensor = field(kw_only=True)
    least_unexplained: float = field(kw_only=True)


def fit(
    x: Array,
    latent_dim: int,
    *,
    method: str = "svd",
    tied: bool = False,
    num_epochs: int = 4000,
    learning_rate: float = 0.02,
    schedule: Schedule = cosine,
    patience: int | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    seed: int | None = None,
    progress: bool = True,
) -> LinearFit:
    """Return the best linear autoencoder, in the dtype and on the device of `x`.

    Gradient descent is on the loss of all points at once: an epoch is one step, and by the QR
    decomposition costs the same for any number of points beyond D. There is nothing to hold out,
    for the loss has one minimum. All arguments after `tied` are for it alone.

    Args:
        x: Points, shape (N, D), N ≥ 2.
        latent_dim: The dimension L of the code, at most min(N, D).
        method: "svd", in closed form, or "gradient".
        tied: Whether the decoder is the encoder's transpose.
        num_epochs: Gradient steps.
        learning_rate: Adam's step size, in units of the weights.
        schedule: Factor on the step size as a function of the progress in [0, 1].
        patience: Stop after so many steps without a smaller loss, and keep the weights with the
            least. None for all steps, and the last: while steps are long the loss goes up and
            down, so a small number stops far too early.
        callbacks: Called with a `logs.Epoch` after each step.
        checkpoint: A file to keep the state in and to go on from. See `optimize.minimize`.
        checkpoint_seconds: Least time between two writes of it.
        seed: Start of the random weights.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If an argument is impossible or all points are the same.
    """
    x = as_points(x, min_points=2)
    check_one_of("method", method, METHODS)
    size = f"for {len(x)} points in {x.shape[1]} dimensions"
    check_whole("latent_dim", latent_dim, 1, min(x.shape), context=size)
    found = decompose(x)
    autoencoder = linear(x.shape[1], latent_dim, tied=tied, dtype=x.dtype).to(x.device)
    autoencoder.center.copy_(found.mean)
    _put(autoencoder, found.directions[:latent_dim])
    if method == "svd":
        return _fitted(autoencoder, x, found, None)
    _put(autoencoder, _random_directions(latent_dim, x, seed))
    loss = _Loss(autoencoder, found.root)
    history = minimize(
        loss,
        autoencoder.parameters(),
        num_epochs=num_epochs,
        learning_rate=learning_rate,
        schedule=schedule,
        validate=None if patience is None else loss,
        patience=patience,
        callbacks=callbacks,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        about={"data": x, "tied": tied},
        seed=seed,
        progress=progress,
        description="training the linear autoencoder",
        shown="unexplained",
    )
    return _fitted(autoencoder, x, found, history)


class _Loss:
    """The share of the variance that is lost, by a matrix with the Σ and the V of the data."""

    def __init__(self, autoencoder: Autoencoder, root: Tensor) -> None:
        root = root / root.abs().max()  # first, so that all squares are what dtypes hold
        self.autoencoder, self.root = autoencoder, root / root.square().mean().sqrt()

    def __call__(self) -> Tensor:
        found = self.autoencoder.decoder(self.autoencoder.encoder(self.root))
        return (self.root - found).square().mean()


@torch.no_grad()
def _put(autoencoder: Autoencoder, directions: Tensor) -> None:
    """Set E to directions, shape (L, D), and D to their transpose."""
    autoencoder.encoder.weight.copy_(directions)  # type: ignore[operator, union-attr]
    if isinstance(autoencoder.decoder, torch.nn.Linear):
        autoencoder.decoder.weight.copy_(directions.mT)


def _random_directions(latent_dim: int, x: Tensor, seed: int | None) -> Tensor:
    """Return orthogonal rows of length `START`, shape (L, D)."""
    draws = torch.randn(
        x.shape[1], latent_dim, generator=randomness.generator(seed), dtype=torch.float64
    )
    return START * torch.linalg.qr(draws).Q.mT.to(x)


@torch.no_grad()
def _fitted(
    autoencoder: Autoencoder, x: Tensor, found: Decomposition, history: History | None
) -> LinearFit:
    up = autoencoder.decoder(torch.eye(autoencoder.latent_dim).to(x))  # the rows of Dᵀ
    basis = torch.linalg.qr(up.mT).Q
    _, singular, rotation = torch.linalg.svd(found.root @ basis, full_matrices=False)
    shares = (found.singular_values / found.singular_values[0]).double().square()
    least = shares[autoencoder.latent_dim :].sum() / shares.sum()
    reconstruction = autoencoder.reconstruct(x)
    return LinearFit(
        autoencoder, squared_error(x, reconstruction),
        unexplained(x, reconstruction, found.mean), history,
        held_out=torch.empty(0, dtype=torch.int64),
        directions=oriented((basis @ rotation.mT).mT),
        singular_values=singular,
        least_unexplained=least.item(),
    )  # fmt: skip
