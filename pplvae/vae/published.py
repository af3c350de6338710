"""The VAEs of papers and tutorials, by name: their layers, and the weights they started from.

Their numbers come from training them as they were: batch size, optimizer and epochs are in the
papers. Grey pixels are binarized anew whenever they are seen; binary data stay as they are.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from pplvae import randomness
from pplvae.vae.builders import Options, hierarchical, mlp, with_likelihood
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.likelihoods import Bernoulli, Gaussian
from pplvae.vae.model import VAE
from pplvae.validation import Array, as_vector, check_one_of, check_whole


def aevb(data: str = "mnist", latent_dim: int = 20, **options: Unpack[Options]) -> VAE:
    """Return the VAE of Kingma & Welling: one hidden layer of tanh.

    All weights start as Normal(0, 0.01²). For MNIST, 784 pixels and 500 units; for the Frey faces
    (in [0, 1]), 560 pixels and 200 units, x Gaussian with a mean in (0, 1) and a scale that the
    decoder predicts.

    Args:
        data: "mnist" or "frey".
        latent_dim: The latent dimension L: 3, 5, 10, 20 or 200, and 2, 5, 10 or 20, in the paper.
        **options: See `builders.Options`.

    Raises:
        ValueError: If the data or an option is unknown.

    Reference:
        Kingma & Welling (2014), section 5, https://arxiv.org/abs/1312.6114
    """
    check_one_of("data", data, ["mnist", "frey"])
    mnist = data == "mnist"
    law = Bernoulli(binarize="dynamic") if mnist else Gaussian(predicted=True)
    vae = mlp(
        784 if mnist else 560,
        latent_dim,
        hidden_dims=(500 if mnist else 200,),
        activation="tanh",
        squash=not mnist,
        **with_likelihood(law, options),
    )
    with randomness.scope(options.get("seed")):
        for weight in [*vae.encoder.parameters(), *vae.decoder.parameters()]:
            nn.init.normal_(weight, std=0.01)
    return vae


def iwae(
    layers: int = 1, *, data_dim: int = 784, mean: Array | None = None, **options: Unpack[Options]
) -> VAE:
    """Return the VAE of Burda, Grosse & Salakhutdinov: one or two layers of codes, tanh.

    One is 784-200-200-50; two are z1 of 100 through 200-200 and z2 of 50 through 100-100. Weights
    start as Glorot's uniform, biases at 0, and those of the pixels at the logit of their mean.

    Args:
        layers: 1 or 2.
        data_dim: Pixels D; the paper's images have 784.
        mean: Of the training images in [0, 1], shape (D,), clipped to [0.001, 0.999].
        **options: See `builders.Options`.

    Raises:
        ValueError: If `layers` is another number, or `mean` has not D entries.

    Reference:
        Burda, Grosse & Salakhutdinov (2016), appendix C, https://arxiv.org/abs/1509.00519, and
        https://github.com/yburda/iwae
    """
    check_whole("layers", layers, 1, 2)
    build = _one_layer if layers == 1 else _two_layers
    vae = build(data_dim, _binarized(options))
    with randomness.scope(options.get("seed")), torch.no_grad():
        for network in _networks(vae):
            _glorot(*network)
    if mean is not None:
        _start_pixels(vae.decoder, as_vector(mean, name="mean"))
    return vae


def pyro_example(**options: Unpack[Options]) -> VAE:
    """Return the VAE of Pyro's tutorial: 784-400-50, softplus.

    Reference:
        https://pyro.ai/examples/vae.html
    """
    return mlp(784, 50, hidden_dims=(400,), activation="softplus", **_binarized(options))


def jaanli(**options: Unpack[Options]) -> VAE:
    """Return the VAE of Jaan Altosaar's tutorial: 784-256-256-128, ReLU.

    It reaches a test log p(x) of −100.3 nats on MNIST, binarized once, after 30,000 steps.

    Reference:
        https://github.com/altosaar/variational-autoencoder
    """
    return mlp(784, 128, hidden_dims=(256, 256), **_binarized(options))


def _binarized(options: Options) -> Options:
    return with_likelihood(Bernoulli(binarize="dynamic"), options)


def _one_layer(data_dim: int, options: Options) -> VAE:
    return mlp(data_dim, 50, hidden_dims=(200, 200), activation="tanh", **options)


def _two_layers(data_dim: int, options: Options) -> VAE:
    return hierarchical(data_dim, (100, 50), **options)


def _networks(vae: VAE) -> list[tuple[nn.Module, int]]:
    """Return the networks, and how many maps lie side by side in the last layer of each."""
    found = [(vae.encoder, 2), (vae.decoder, vae.likelihood.outputs)]
    if isinstance(vae, HierarchicalVAE):
        found += [(vae.upper_encoder, 2), (vae.upper_decoder, 2)]
    return found


def _glorot(network: nn.Module, num_heads: int) -> None:
    """Start each layer uniform in ± sqrt(6 / (fan in + fan out)), its biases at 0."""
    layers = _linear(network)
    for layer in layers:
        for weight in layer.weight.chunk(num_heads if layer is layers[-1] else 1):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(layer.bias)


def _start_pixels(decoder: nn.Module, mean: Tensor) -> None:
    bias = _linear(decoder)[-1].bias
    if mean.shape != bias.shape:
        raise ValueError(f"mean must have {len(bias)} entries, got {len(mean)}")
    with torch.no_grad():
        bias.copy_(mean.clamp(0.001, 0.999).logit())


def _linear(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
