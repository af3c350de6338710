"""A trained VAE with a richer prior and guide, which starts from what it has learned.

From random weights, flows slow the first epochs down: they bend codes that do not mean anything
yet. Instead, a plain VAE is trained first. Then flows that start as the identity are put around
its laws, so that the new VAE is at first the old one, and is trained on by the same calls. What is
gained is what a normal cannot express: the prior moves towards the average of the guides, whose
KL from Normal(0, I) `bounds.terms` gives as the aggregate KL.

Reference:
    Kingma et al. (2016), https://arxiv.org/abs/1606.04934; Hoffman & Johnson (2016), ELBO surgery
"""

import copy

import torch
from torch import Tensor, nn

from pplvae import randomness
from pplvae.vae.builders import BUILDERS
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.model import VAE
from pplvae.vae.posteriors import DiagonalNormal, InverseAutoregressive
from pplvae.vae.priors import FlowPrior, StandardNormal


def bend(
    vae: VAE,
    *,
    prior: FlowPrior | None = None,
    posterior: InverseAutoregressive | None = None,
    seed: int | None = None,
) -> VAE:
    """Return a VAE with flows around the prior and the guide of a plain one, which stays as it is.

    Its laws are at first those of the plain one, so its bound is, too. Without either flow given,
    both are put there, with their defaults.

    Args:
        vae: A VAE by one of the builders, with a standard normal prior and a diagonal guide, on
            any device.
        prior: A flow for the prior; None for none, if a posterior is given.
        posterior: A flow for the guide; None for none, if a prior is given.
        seed: Start of the flows' random weights; for a flow that is given, they are drawn.

    Raises:
        ValueError: If the VAE is hierarchical, of networks that no builder made, or its prior or
            guide is bent or a law of another kind.
    """
    _check(vae)
    size = vae.latent_dim
    with randomness.scope(seed):
        if prior is None and posterior is None:
            prior, posterior = FlowPrior(size), InverseAutoregressive(size)
        recipe = dict(vae.recipe or {})
        bent = BUILDERS[recipe.pop("builder")](
            **recipe,
            likelihood=copy.deepcopy(vae.likelihood),
            prior=prior or "standard_normal",
            posterior=posterior or "diagonal",
        )
    example = next(vae.encoder.parameters())
    bent = bent.to(device=example.device, dtype=example.dtype)
    _copy(vae.encoder, bent.encoder)
    _copy(vae.decoder, bent.decoder)
    for law in (bent.prior, bent.posterior):
        for network in getattr(law, "networks", ()):
            _silence(network)
    return bent.train(vae.training)


def _check(vae: VAE) -> None:
    if isinstance(vae, HierarchicalVAE):
        raise ValueError("vae must have one latent layer, got a HierarchicalVAE")
    if vae.recipe is None:
        raise ValueError("vae must be made by a builder, got one of other networks")
    if not isinstance(vae.prior, StandardNormal) or not isinstance(vae.posterior, DiagonalNormal):
        laws = f"{type(vae.prior).__name__} and {type(vae.posterior).__name__}"
        raise ValueError(f"vae must have a standard normal prior and a diagonal guide, got {laws}")


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy all weights; a last layer that is wider gives zeros beyond what the source gives."""
    given: dict[str, Tensor] = source.state_dict()
    for name, value in target.state_dict().items():
        value.zero_()[: len(given[name])] = given[name]


@torch.no_grad()
def _silence(network: nn.Module) -> None:
    """Set a masked network's last layer to 0: m = 0 and log σ = 0 everywhere."""
    for parameter in network.layers[-1].parameters():  # type: ignore[union-attr, index]
        parameter.zero_()
