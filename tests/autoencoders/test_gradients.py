"""Data and weights that require a gradient: what is made of them is numbers, without a history."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pplvae import autoencoders
from pplvae.autoencoders import (
    Autoencoder,
    ProbabilisticPCA,
    convolutional,
    denoising,
    linear,
    mlp,
    probabilistic,
    stacked,
)

QUIET: dict[str, Any] = {"num_epochs": 2, "seed": 0, "progress": False}

FITS: dict[str, Callable[[Tensor], Autoencoder]] = {
    "mlp": lambda x: (
        autoencoders.fit(mlp(12, 2, seed=0), x, validation=x[:5], **QUIET).autoencoder
    ),
    "linear": lambda x: linear.fit(x, 2).autoencoder,
    "gradient": lambda x: linear.fit(x, 2, method="gradient", **QUIET).autoencoder,
    "stacked": lambda x: stacked.fit(x, (4, 2), **QUIET).autoencoder,
    "denoising": lambda x: denoising.fit(x, 2, **QUIET).autoencoder,
    "convolutional": lambda x: (
        convolutional.fit(x, (3, 4), 2, channels=(2,), kernel=2, **QUIET).autoencoder
    ),
    "probabilistic": lambda x: probabilistic.fit(x, 2),
}


@pytest.mark.parametrize("name", FITS)
def test_what_is_learned_does_not_hang_on_the_data(name: str) -> None:
    x = torch.rand(60, 12)
    model, plain = FITS[name](x.clone().requires_grad_()), FITS[name](x)
    assert not any(buffer.requires_grad for buffer in model.buffers())
    assert all(parameter.is_leaf for parameter in model.parameters())
    copy.deepcopy(model)  # which torch refuses for anything with a history
    assert model.reconstruct(x).equal(plain.reconstruct(x))
    assert not model.encode(x.requires_grad_()).requires_grad


def test_probabilistic_pca_copies_the_weights_of_a_network() -> None:
    decoder, scale = nn.Linear(2, 6), torch.tensor(0.3, requires_grad=True)
    model = ProbabilisticPCA(decoder.weight, decoder.bias, scale**2)
    x = torch.rand(5, 6)
    before = model.log_prob(x)
    for number in (model.weights, model.center, model.variance, before):
        assert not number.requires_grad
    with torch.no_grad():
        decoder.weight.zero_()
    assert model.log_prob(x).equal(before)
