"""The VAE with two layers of latent variables, the lower ones made from the upper.

    p(x, z1, z2) = p(z2) Normal(z1 | m(z2), diag s(z2)²) p(x | z1)
    q(z1, z2 | x) = q(z1 | x) q(z2 | z1)

The guide draws z1 first and the model z2 first. KL(q(z1 | x) ‖ p(z1 | z2)) in closed form would
therefore be wrong: its z2 is drawn given one z1, and the formula averages over all. The law of z1
here has no such formula, so that what takes one where it can (Pyro's `TraceMeanField_ELBO`) takes
log q(z1 | x) − log p(z1 | z2) on the draw itself; KL(q(z2 | z1) ‖ p(z2)) stays exact.

Reference:
    Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519
"""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pplvae import randomness
from pplvae.networks import evaluating
from pplvae.vae.estimators import check_caller
from pplvae.vae.likelihoods import Likelihood
from pplvae.vae.model import VAE, Law, of_size
from pplvae.vae.posteriors import DiagonalNormal, as_posterior
from pplvae.vae.priors import Prior, as_prior
from pplvae.validation import check_whole


class HierarchicalVAE(VAE):
    """A VAE with latent sites `z1` (B, L1), which makes x, and `z2` (B, L2), which makes z1.

    A code is z1: `encode` gives the mean of q(z1 | x), `decode` that of p(x | z1), `q` and `p` are
    the laws of z1 and x, and `latent_dim` is L1. `prior` is p(z2).

    Args:
        encoder: Maps x, shape (B, D), to what `posterior` needs: by default (B, 2 L1).
        decoder: Maps z1, shape (…, L1), to what `likelihood` needs.
        likelihood: p(x | z1), as a `VAE`'s.
        latent_dims: L1 and L2.
        upper_encoder: Maps z1, shape (…, L1), to what `upper_posterior` needs: by default
            (…, 2 L2).
        upper_decoder: Maps z2, shape (…, L2), to the mean and the log scale of z1, (…, 2 L1).
        prior: p(z2), as a `VAE`'s, but not one made of the encoder.
        posterior: q(z1 | x), as a `VAE`'s.
        upper_posterior: q(z2 | z1), likewise.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: str | Likelihood | Law,
        latent_dims: Sequence[int],
        *,
        upper_encoder: nn.Module,
        upper_decoder: nn.Module,
        prior: str | Law = "standard_normal",
        posterior: str | Law = "diagonal",
        upper_posterior: str | Law = "diagonal",
    ) -> None:
        lower, upper = _pair(latent_dims)
        law = as_prior(prior, upper)
        if type(law).attach is not Prior.attach:
            raise ValueError(
                f"prior must be a law of z2 that is not made of q(z | x), got {type(law).__name__}"
            )
        guide = as_posterior(posterior, lower)
        super().__init__(encoder, decoder, likelihood, lower, prior=law, posterior=guide)
        self.latent_dims = lower, upper
        self.upper_encoder, self.upper_decoder = upper_encoder, upper_decoder
        like = next(decoder.parameters(), torch.empty(0))
        self.upper_posterior = as_posterior(upper_posterior, upper).to(like)
        self.link = DiagonalNormal()

    def draw_latent(self) -> Tensor:
        """Draw z2 from its prior and z1 given it, as Pyro sites; return z1."""
        lower, upper = self.latent_dims
        z2 = pyro.sample("z2", of_size(self.prior(), upper, "prior"))
        law = of_size(self.link(self.upper_decoder(z2)), lower, "upper_decoder")
        return pyro.sample("z1", DrawnFirst(law))

    def draw_code(self, x: Tensor) -> None:
        """Draw z1 from q(z1 | x) and z2 from q(z2 | z1), as Pyro sites."""
        lower = of_size(self.q(x), self.latent_dims[0], "posterior")
        z1 = pyro.sample("z1", lower)
        upper = self.upper_posterior(self.upper_encoder(z1))
        of_size(upper, self.latent_dims[1], "upper_posterior")
        check_caller(len(x), scaled=False, reparameterized=lower.has_rsample and upper.has_rsample)
        pyro.sample("z2", upper)

    def model_parts(self) -> list[nn.Module]:
        """Return the modules whose parameters are the model's."""
        return [*super().model_parts(), self.upper_decoder]

    def guide_parts(self) -> list[nn.Module]:
        """Return the modules whose parameters are the guide's."""
        return [*super().guide_parts(), self.upper_encoder, self.upper_posterior]

    @torch.no_grad()
    def sample(self, num_samples: int, *, noise: bool = True, seed: int | None = None) -> Tensor:
        """Return new data, shape (n, D): z2 and z1 from the model, then x; as a `VAE` does."""
        check_whole("num_samples", num_samples, 1)
        with evaluating(self), randomness.scope(seed):
            z2 = self.prior().sample(torch.Size([num_samples]))
            law = self.p(self.link(self.upper_decoder(z2)).sample())
            return law.sample() if noise else law.mean


class DrawnFirst(TorchDistribution):
    """The model's law of what a guide draws before the law's own arguments: no KL has a formula.

    Args:
        law: The law, event shape (L,).
    """

    has_rsample = True

    def __init__(self, law: TorchDistribution) -> None:
        self.law = law
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the arguments must be: nothing, the law has looked at its own."""
        return {}

    @property
    def support(self) -> constraints.Constraint:
        """Where the law lives: real vectors."""
        return constraints.real_vector

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DrawnFirst":
        """Return the same law over a larger batch shape."""
        return DrawnFirst(self.law.expand(batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws, shape sample_shape + (…, L)."""
        return self.law.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log density in nats, shape (…)."""
        return self.law.log_prob(value)

    @property
    def mean(self) -> Tensor:
        """The mean, shape (…, L)."""
        return self.law.mean

    @property
    def variance(self) -> Tensor:
        """The variance, shape (…, L)."""
        return self.law.variance


def _pair(latent_dims: Sequence[int]) -> tuple[int, int]:
    if len(latent_dims) != 2:
        raise ValueError(f"latent_dims must be two numbers, L1 and L2, got {list(latent_dims)}")
    for size in latent_dims:
        check_whole("latent_dims", size, 1)
    return int(latent_dims[0]), int(latent_dims[1])
