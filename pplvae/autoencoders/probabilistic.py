"""Probabilistic PCA in closed form: the linear autoencoder that has a density.

    z ~ Normal(0, I_L),   x | z ~ Normal(W z + μ, σ² I_D),   so   x ~ Normal(μ, W Wᵀ + σ² I)

With λ_1 ≥ … ≥ λ_D the eigenvalues of the covariance matrix (1/N) Σ (x − μ)(x − μ)ᵀ and V_L its
leading eigenvectors, the most likely parameters are μ the mean and

    σ² = 1/(D − L) Σ_{i > L} λ_i,   W = V_L (Λ_L − σ² I)^½,

up to a rotation of z. A linear VAE has this very model; its best ELBO is this likelihood, because
the columns of W are orthogonal, and the posterior's covariance then diagonal.

With M = Wᵀ W + σ² I, an L × L matrix, and m = M⁻¹ Wᵀ (x − μ), nothing of size D × D is needed:

    p(z | x) = Normal(m, σ² M⁻¹)
    log p(x) = −½ [D log 2π + (D − L) log σ² + log |M| + ‖x − μ − W m‖² / σ² + ‖m‖²]

Reference:
    Tipping & Bishop (1999), https://doi.org/10.1111/1467-9868.00196; Lucas, Tucker, Grosse &
    Norouzi (2019), https://arxiv.org/abs/1911.02469, for the linear VAE; Lecture 14: X = U Σ Vᵀ
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pplvae import randomness
from pplvae.autoencoders.decomposition import decompose
from pplvae.autoencoders.model import Autoencoder
from pplvae.validation import Array, as_points, as_tensor, check_positive, check_whole


class ProbabilisticPCA(Autoencoder):
    """A linear Gaussian model of x. Its encoder is the posterior mean.

    Any linear decoder with one noise variance is one, that of a linear VAE too:
    `ProbabilisticPCA(decoder.weight, decoder.bias, scale**2)` has its exact log p(x). The numbers
    are copied, without gradients.

    Args:
        weights: W, shape (D, L).
        loc: μ, shape (D,).
        variance: σ², in squared units of x.

    Raises:
        ValueError: If the shapes do not fit or the variance is not positive.
    """

    variance: Tensor

    def __init__(self, weights: Array, loc: Array, variance: float | Tensor) -> None:
        weights = as_points(weights, name="weights").detach()
        loc = as_tensor(loc, name="loc").detach()
        variance = torch.as_tensor(variance, dtype=weights.dtype, device=weights.device)
        if variance.numel() != 1:
            raise ValueError(f"variance must be one number, got shape {tuple(variance.shape)}")
        check_positive("variance", variance)
        data_dim, latent_dim = weights.shape
        if loc.shape != (data_dim,):
            raise ValueError(f"loc must have shape ({data_dim},), got {tuple(loc.shape)}")
        self._lay_out(data_dim, latent_dim, weights.dtype)
        self.to(weights.device)
        self.variance.copy_(variance.detach().reshape(()))
        self.weights.copy_(weights)
        self.encoder.weight.copy_(  # type: ignore[operator, union-attr]
            torch.cholesky_solve(weights.mT, self._factor())
        )
        self.center.copy_(loc)

    @classmethod
    def empty(
        cls, data_dim: int, latent_dim: int, dtype: torch.dtype | None = None
    ) -> "ProbabilisticPCA":
        """Return one of these sizes whose numbers are still to come, say from a file."""
        found = cls.__new__(cls)
        found._lay_out(data_dim, latent_dim, dtype or torch.get_default_dtype())
        return found

    def _lay_out(self, data_dim: int, latent_dim: int, dtype: torch.dtype) -> None:
        encoder, decoder = _map(data_dim, latent_dim, dtype), _map(latent_dim, data_dim, dtype)
        super().__init__(encoder, decoder, data_dim, latent_dim)
        self.register_buffer("variance", self.scale.clone())
        self.requires_grad_(False)
        self.recipe = {"builder": "probabilistic", "data_dim": data_dim, "latent_dim": latent_dim}

    @property
    def weights(self) -> Tensor:
        """W, shape (D, L)."""
        return self.decoder.weight  # type: ignore[return-value]

    def log_prob(self, x: Array) -> Tensor:
        """Return log p(x) of points, shape (N, D), exactly, in nats, shape (N,)."""
        x = self.points(x)
        mean = self.encode(x)
        log_det = 2 * self._factor().diagonal().log().sum()
        log_det = log_det + (self.data_dim - self.latent_dim) * self.variance.log()
        # The same as (x − μ)ᵀ C⁻¹ (x − μ), without the cancellation of Woodbury's formula.
        residual = (x - self.decode(mean)).square().sum(dim=1) / self.variance
        distance = residual + mean.square().sum(dim=1)
        return -0.5 * (self.data_dim * math.log(2 * math.pi) + log_det + distance)

    def posterior(self, x: Array) -> MultivariateNormal:
        """Return p(z | x) of points, shape (N, D): batch shape (N,), event shape (L,)."""
        scale_tril = self.variance.sqrt() * torch.linalg.cholesky(
            torch.cholesky_inverse(self._factor())
        )
        return MultivariateNormal(self.encode(x), scale_tril=scale_tril)

    def sample(self, num_samples: int, *, noise: bool = True, seed: int | None = None) -> Tensor:
        """Return new points, shape (n, D): z from the prior, then x from p(x | z).

        Args:
            num_samples: How many, n.
            noise: Whether to draw x; its mean given z otherwise.
            seed: Start of the draws.
        """
        check_whole("num_samples", num_samples, 1)
        with randomness.scope(seed):
            x = self.decode(self.center.new_empty(num_samples, self.latent_dim).normal_())
            return x + self.variance.sqrt() * torch.randn_like(x) if noise else x

    def _factor(self) -> Tensor:
        """Return the Cholesky factor of M, shape (L, L)."""
        product = self.weights.mT @ self.weights
        return torch.linalg.cholesky(product + self.variance * torch.eye(len(product)).to(product))


def _map(fan_in: int, fan_out: int, dtype: torch.dtype) -> nn.Linear:
    """Return a linear map whose weights are still to come: none are drawn."""
    device = torch.get_default_device()
    found = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=False, dtype=dtype, device=device)
    assert isinstance(found, nn.Linear)
    return found


def fit(x: Array, latent_dim: int) -> ProbabilisticPCA:
    """Return the most likely probabilistic PCA of the data, in double precision.

    Args:
        x: Points, shape (N, D).
        latent_dim: The latent dimension L, below the rank of the centered data: the likelihood
            has no maximum where nothing is left for the noise.

    Raises:
        ValueError: If the latent dimension is not in [1, rank − 1].
    """
    found = decompose(as_points(x, min_points=2).double())
    rank = found.rank
    check_whole("latent_dim", latent_dim, 1, rank - 1, context=f"for data of rank {rank}")
    eigenvalues = found.singular_values.square() / found.num_points
    variance = eigenvalues[latent_dim:].sum() / (len(found.mean) - latent_dim)
    scales = (eigenvalues[:latent_dim] - variance).clamp(min=0).sqrt()
    return ProbabilisticPCA(found.directions[:latent_dim].mT * scales, found.mean, variance)
