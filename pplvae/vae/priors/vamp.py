"""The VampPrior: p(z) = 1/K Σ_k q(z | u_k), the guide averaged over learned pseudo-inputs.

Reference:
    Tomczak & Welling (2018), VAE with a VampPrior, https://arxiv.org/abs/1705.07120
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pplvae.networks import evaluating
from pplvae.vae.priors.mixture import Mixture
from pplvae.vae.priors.prior import Prior
from pplvae.validation import Array, as_points, check_whole

if TYPE_CHECKING:
    from pplvae.vae.likelihoods import Likelihood
    from pplvae.vae.model import VAE

MARGIN = 0.01  # of a feature's range: how near its ends a pseudo-input starts


class VampPrior(Prior):
    """The average of the VAE's own guide over K learned pseudo-inputs.

    Each feature of a pseudo-input stays in the range of the data's: it is low + (high − low)
    sigmoid(v) with v learned. The range is kept in the weights.

    Pseudo-inputs are no data: they leave the running averages of the encoder's batch norms as they
    are, and are normalized by them, in training too.

    Args:
        latent_dim: The latent dimension L.
        num_components: How many pseudo-inputs, K.
        data: Points as the guide sees them, shape (N, D), with N ≥ K: rows drawn from them by the
            global generator are where the pseudo-inputs start. Give K = N rows to choose them.
        data_dim: In place of data, D: the start is then random.
        limits: With data_dim, the least and the largest number in x; where None they are 0 and 1,
            for a likelihood of nothing else.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        latent_dim: int,
        num_components: int = 100,
        *,
        data: Array | None = None,
        data_dim: int | None = None,
        limits: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_whole("latent_dim", latent_dim, 1)
        check_whole("num_components", num_components, 1)
        if (data is None) == (data_dim is None):
            raise ValueError(
                "data must be given to a VampPrior, or else data_dim, got "
                + ("neither" if data is None else "both")
            )
        if limits is not None and data is not None:
            raise ValueError(f"limits must be None where data are given, got {limits}")
        low, high, rows = (
            _anywhere(num_components, data_dim or 0, (0.0, 1.0) if limits is None else limits)
            if data is None
            else _among(as_points(data, name="data"), num_components)
        )
        self.known = data is not None or limits is not None
        share = ((rows - low) / (high - low)).nan_to_num(0.5)  # 0 / 0 where all data are equal
        self.free = nn.Parameter(share.clamp(MARGIN, 1 - MARGIN).logit())
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())
        # In a tuple, so that it is no part of this module.
        self._owner: tuple[VAE, ...] = ()

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, shape (K, D)."""
        return self.low + (self.high - self.low) * self.free.sigmoid()

    def attach(self, vae: "VAE") -> None:
        """Take the VAE, for its q(z | x).

        Raises:
            ValueError: If another VAE has been taken, which would lose its prior; or the encoder
                takes points of another size, the guide's law has a density of its own draws only,
                or the data's range is not known.
        """
        if self._owner:
            raise ValueError(
                "prior must be a VampPrior of this VAE's own, got that of another VAE"
            )
        if not self.known and not _has_unit_range(vae.likelihood, self.free.shape[1]):
            raise ValueError(
                "limits, or data, must be given to a VampPrior where x need not be in [0, 1], got "
                f"neither for {type(vae.likelihood).__name__}"
            )
        self._owner = (vae,)
        try:
            self._check_guide(vae)
        except ValueError:
            self._owner = ()
            raise

    @torch.no_grad()
    def _check_guide(self, vae: "VAE") -> None:
        """Refuse an encoder of another dimension, and a guide without a density of any z."""
        try:
            with evaluating(vae.encoder):
                law = vae.q(self.pseudo_inputs[:1])
        except RuntimeError as error:
            raise ValueError(
                "data of a VampPrior must have as many columns as the encoder takes, got "
                f"{self.free.shape[1]}, which it cannot take"
            ) from error
        if hasattr(law, "log_prob_slowly"):
            raise ValueError(
                "posterior must have a density of any z for a VampPrior, which averages it over "
                f"pseudo-inputs, got {type(vae.posterior).__name__}, which has one of its own "
                "draws only: use DiagonalNormal or FullNormal"
            )

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape (L,).

        Raises:
            ValueError: If no VAE has been made with this prior, so that there is no guide.
        """
        if not self._owner:
            raise ValueError("prior must be given to a VAE before it is a law, got no guide")
        (vae,) = self._owner
        with _averages_at_rest(vae.encoder):
            law = vae.q(self.pseudo_inputs)
        return Mixture(law, self.low.new_zeros(len(self.free)))

    def config(self) -> dict[str, Any]:
        """Return the keywords, besides `latent_dim`, that build this prior again."""
        limits = [self.low.min().item(), self.high.max().item()] if self.known else None
        sizes = {"num_components": self.free.shape[0], "data_dim": self.free.shape[1]}
        return {**sizes, "limits": limits}


def _anywhere(
    num_rows: int, data_dim: int, limits: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same range of each feature, and rows drawn from all of it."""
    check_whole("data_dim", data_dim, 1)
    if len(limits) != 2 or not -math.inf < limits[0] <= limits[1] < math.inf:
        raise ValueError(f"limits must be the least number and the largest, got {limits}")
    low, high = (torch.full((data_dim,), float(limit)) for limit in limits)
    return low, high, low + (high - low) * torch.rand(num_rows, data_dim)


def _among(data: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least and largest of each feature, and rows drawn without replacement."""
    check_whole("num_components", num_rows, 1, len(data), context=f"for {len(data)} points")
    return data.amin(0), data.amax(0), data[torch.randperm(len(data))[:num_rows].to(data.device)]


def _has_unit_range(likelihood: "Likelihood", data_dim: int) -> bool:
    """Return whether the likelihood refuses what is outside [0, 1]."""
    try:
        likelihood.check(torch.full((1, data_dim), 2.0))
    except ValueError:
        return True
    return False


@contextmanager
def _averages_at_rest(module: nn.Module) -> Iterator[None]:
    """Use the running averages of norms in the block, as evaluation does, and leave them."""
    parts = [
        part
        for part in module.modules()
        if part.training and getattr(part, "running_mean", None) is not None
    ]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part in parts:
            part.training = True
