"""The variational autoencoder: a model p(x, z) and a guide q(z | x) over two networks.

    p(x, z) = Normal(z | 0, I) p(x | decoder(z)),   q(z | x) = Normal(z | m(x), diag s(x)²)

where the encoder gives m and log s side by side. A draw from the guide is z = m + s ε with
ε ~ Normal(0, I): s, the standard deviation, and not s² as one lecture note has it.

Reference:
    Kingma & Welling (2014), Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114;
    Rezende, Mohamed & Wierstra (2014), https://arxiv.org/abs/1401.4082; Lecture 5 (28/10/2024)
"""

import itertools
import os
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pplvae import randomness
from pplvae.networks import evaluating
from pplvae.vae.estimators import check_caller
from pplvae.vae.likelihoods import Likelihood, as_likelihood
from pplvae.vae.posteriors import as_posterior
from pplvae.vae.priors import as_prior
from pplvae.validation import Array, as_points, check_whole

Law = Callable[..., dist.TorchDistribution]

# Pyro keeps parameters by name in a store of the whole process, and a second module under the
# first one's name would silently never train: each network gets a name of its own.
_names: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()
_numbers = itertools.count()


class VAE(nn.Module):
    """A variational autoencoder. `model` and `guide` are Pyro programs for any of its engines.

    Once a bare Pyro `SVI` has trained it, it cannot be pickled: use `save`.

    Args:
        encoder: Maps x, shape (B, D), to what `posterior` needs: by default (B, 2 L).
        decoder: Maps z, shape (…, L), to what `likelihood` needs.
        likelihood: p(x | z), or its name, "bernoulli" or "gaussian"; or a function from the
            decoder's output to a distribution with event shape (D,). Its parameters, as those of
            the default prior, take the dtype and the device of the decoder's.
        latent_dim: The latent dimension L.
        prior: Gives p(z), called without arguments, or the name of one in `priors`; the standard
            normal by default.
        posterior: Maps the encoder's output to q(z | x), or the name of one in `posteriors`; the
            diagonal normal by default.

    Attributes:
        recipe: How a builder made this VAE, so that `load` can make it again; None for networks
            of your own.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: str | Likelihood | Law,
        latent_dim: int,
        prior: str | Law = "standard_normal",
        posterior: str | Law = "diagonal",
    ) -> None:
        super().__init__()
        check_whole("latent_dim", latent_dim, 1)
        self.encoder, self.decoder, self.latent_dim = encoder, decoder, int(latent_dim)
        like = next(itertools.chain(decoder.parameters(), encoder.parameters()), torch.empty(0))
        self.likelihood = as_likelihood(likelihood).to(like)
        self.prior = as_prior(prior, self.latent_dim).to(like)
        self.posterior = as_posterior(posterior, self.latent_dim).to(like)
        self.prior.attach(self)
        self.recipe: dict[str, Any] | None = None

    def model(self, x: Tensor, num_points: int | None = None) -> None:
        """Pyro model p(z) p(x | z); sites `z` (B, L) and, observed, `x` (B, D).

        Guide and model must see one x: what is binarized dynamically is drawn before them, by
        `likelihood.prepare(x)` for each batch, as `fit` does.

        Args:
            x: A batch of points, shape (B, D).
            num_points: How many there are in all, N, where `x` is a subsample: log densities are
                then scaled by N / B, and Pyro's ELBO estimates that of all the data.

        Raises:
            ValueError: If Pyro's validation is on and the likelihood cannot have produced `x`, or
                the estimator that runs the model would be silently wrong (see `estimators`).
        """
        if is_validation_enabled():
            self.likelihood.check_prepared(x)
        for module in self.model_parts():
            _register(module)
        self.joint(x, num_points)

    def guide(self, x: Tensor, num_points: int | None = None) -> None:
        """Pyro guide q(z | x); site `z` (B, L). Arguments as the model's."""
        for module in self.guide_parts():
            _register(module)
        self.recognition(x, num_points)

    def joint(self, x: Tensor, num_points: int | None = None) -> None:
        """Run the model without telling Pyro's parameter store of the networks: quicker."""
        with _points(x, num_points):
            law = self.p(self.draw_latent())
            if law.event_shape != x.shape[-1:]:
                raise ValueError(
                    f"x must have {tuple(law.event_shape)} numbers a point, as the decoder's law, "
                    f"got {tuple(x.shape[-1:])}"
                )
            pyro.sample("x", law, obs=x)

    def recognition(self, x: Tensor, num_points: int | None = None) -> None:
        """Run the guide without telling Pyro's parameter store of the networks."""
        with _points(x, num_points):
            self.draw_code(x)

    def draw_latent(self) -> Tensor:
        """Draw what the decoder needs from the prior, as Pyro sites."""
        return pyro.sample("z", of_size(self.prior(), self.latent_dim, "prior"))

    def draw_code(self, x: Tensor) -> None:
        """Draw the latent variables from q(z | x), as Pyro sites."""
        law = of_size(self.q(x), self.latent_dim, "posterior")
        check_caller(len(x), scaled=False, reparameterized=law.has_rsample)
        pyro.sample("z", law)

    def q(self, x: Tensor) -> dist.TorchDistribution:
        """Return the guide's law of z, event shape (L,), for prepared points."""
        return self.posterior(self.encoder(self.likelihood.as_input(x)))

    def p(self, z: Tensor) -> dist.TorchDistribution:
        """Return the model's law of x, event shape (D,), for codes of shape (…, L)."""
        return self.likelihood(self.decoder(z))

    def model_parts(self) -> list[nn.Module]:
        """Return the modules whose parameters are the model's."""
        return [self.decoder, self.likelihood, self.prior]

    def guide_parts(self) -> list[nn.Module]:
        """Return the modules whose parameters are the guide's."""
        return [self.encoder, self.posterior]

    @torch.no_grad()
    def encode(self, x: Array) -> Tensor:
        """Return the mean of q(z | x), shape (N, L), for points of shape (N, D).

        Raises:
            ValueError: If the likelihood cannot have produced `x`.
        """
        x = self.points(x)
        self.likelihood.check(x)
        with evaluating(self):
            return self.q(x).mean

    @torch.no_grad()
    def decode(self, z: Array) -> Tensor:
        """Return the mean of p(x | z), shape (N, D), for codes of shape (N, L).

        Raises:
            ValueError: If the codes have not L columns.
        """
        z = self.points(z, name="z")
        if z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have {self.latent_dim} columns, got {z.shape[1]}")
        with evaluating(self):
            return self.p(z).mean

    def reconstruct(self, x: Array) -> Tensor:
        """Return the mean of p(x | z) at the mean of q(z | x), shape (N, D)."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def sample(self, num_samples: int, *, noise: bool = True, seed: int | None = None) -> Tensor:
        """Return new data: z from the prior, then x from p(x | z).

        Args:
            num_samples: How many, n.
            noise: Whether to draw x; its mean given z otherwise, as pictures mostly show.
            seed: Start of the draws.

        Returns:
            Points, shape (n, D).
        """
        check_whole("num_samples", num_samples, 1)
        with evaluating(self), randomness.scope(seed):
            law = self.p(self.prior().sample(torch.Size([num_samples])))
            return law.sample() if noise else law.mean

    def points(self, x: Array, *, name: str = "x") -> Tensor:
        """Return finite points, shape (N, D), of the networks' dtype and on their device.

        Raises:
            ValueError: If they are no such points, or a builder made the VAE for another D.
        """
        x = as_points(x, name=name)
        data_dim = (self.recipe or {}).get("data_dim", x.shape[1])
        if name != "z" and x.shape[1] != data_dim:
            raise ValueError(f"{name} must have {data_dim} columns, got {x.shape[1]}")
        parameter, largest = next(self.parameters(), x), x.abs().amax().item()
        if largest > torch.finfo(parameter.dtype).max:
            raise ValueError(
                f"{name} must be within the range of the networks' {parameter.dtype}, got "
                f"{largest:g}"
            )
        return x.to(dtype=parameter.dtype, device=parameter.device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors, with the recipe as JSON in its header."""
        from pplvae.vae.files import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], into: "VAE | None" = None) -> "VAE":
        """Return the VAE that `save` wrote.

        Args:
            path: The file.
            into: A VAE with the same networks to take the weights; needed where the saved one was
                not made by a builder such as `mlp`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, or the weights do not fit.
        """
        from pplvae.vae.files import load

        return load(path, into)


def _register(module: nn.Module) -> None:
    """Tell Pyro of the module's parameters, so that a bare `pyro.infer.SVI` trains them."""
    if any(True for _ in module.parameters()):
        name = _names.get(module)
        if name is None:
            name = _names[module] = f"vae_{next(_numbers)}"
        pyro.module(name, module)


def of_size(law: dist.TorchDistribution, size: int, name: str) -> dist.TorchDistribution:
    """Return the law, or refuse one of another size: it would be broadcast.

    Raises:
        ValueError: If it is not of vectors of so many numbers.
    """
    if law.event_shape != (size,):
        raise ValueError(
            f"{name} must give a law of {size} numbers, got event shape "
            f"{tuple(law.event_shape)}: check the networks' sizes, and .to_event(1)"
        )
    return law


def _points(x: Tensor, num_points: int | None) -> Any:
    """Return the plate of the points, at dim −1, which are a subsample where there are more."""
    total = len(x) if num_points is None else num_points
    check_whole("num_points", total, len(x))
    check_caller(len(x), scaled=total != len(x))
    rows = None if total == len(x) else torch.arange(len(x), device=x.device)
    return pyro.plate("data", total, subsample=rows, dim=-1)
