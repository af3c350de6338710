"""Autoencoders on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pplvae import autoencoders, vae
from pplvae.autoencoders import Autoencoder, conv, denoising, linear, mlp, stacked
from pplvae.randomness import generator

BUILT: dict[str, Callable[[], Autoencoder]] = {
    "linear": lambda: linear.fit(points(), 2).autoencoder,
    "tied": lambda: linear.fit(points(), 2, tied=True).autoencoder,
    "mlp": lambda: mlp(6, 2, hidden_dims=(5, 4), activation="tanh"),
    "conv": lambda: conv((1, 3, 2), 2, channels=(2,), hidden_dims=(4,), kernel=2),
    "probabilistic": lambda: autoencoders.probabilistic.fit(points(), 2),
    "stacked": lambda: (
        stacked.fit(
            points(), (5, 4, 2), num_epochs=1, at_once=False, seed=0, progress=False
        ).autoencoder
    ),
    "denoising": lambda: (
        denoising.fit(points(), 2, num_epochs=1, plain=False, seed=0, progress=False).autoencoder
    ),
}


def points() -> Tensor:
    return 2 + 3 * torch.randn(20, 6, generator=generator(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BUILT)
def test_what_was_saved_comes_back(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = BUILT[name]().to(dtype)
    model.save(tmp_path / "model")
    before = torch.get_rng_state()
    again = autoencoders.load(tmp_path / "model")
    assert torch.get_rng_state().equal(before)
    assert type(again) is type(model)
    assert again.recipe == model.recipe
    assert again.center.dtype == dtype
    assert again.reconstruct(points()).equal(model.reconstruct(points()))
    assert repr(again) == repr(model)


def test_tied_weights_are_tied_again(tmp_path: Path) -> None:
    BUILT["tied"]().save(tmp_path / "model")
    again = Autoencoder.load(tmp_path / "model")
    (weight,) = again.parameters()
    with torch.no_grad():
        weight.zero_()
    torch.testing.assert_close(again.decode(torch.ones(1, 2))[0], again.center)


def test_a_fit_is_saved_as_its_autoencoder(tmp_path: Path) -> None:
    fit = linear.fit(points(), 2)
    fit.save(tmp_path / "model")
    assert Autoencoder.load(tmp_path / "model").encode(points()).equal(fit.encode(points()))


def own() -> Autoencoder:
    return Autoencoder(nn.Linear(6, 2), nn.Linear(2, 6), 6, 2)


def test_networks_of_ones_own_take_their_weights_into_others(tmp_path: Path) -> None:
    model, other = own(), own()
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^into must be an autoencoder to take the weights of "):
        Autoencoder.load(tmp_path / "model")
    assert Autoencoder.load(tmp_path / "model", into=other) is other
    assert other.reconstruct(points()).equal(model.reconstruct(points()))


def test_refuses_weights_that_do_not_fit_and_leaves_the_others_alone(tmp_path: Path) -> None:
    own().save(tmp_path / "model")
    wider = Autoencoder(nn.Linear(6, 3), nn.Linear(3, 6), 6, 3)
    before = wider.reconstruct(points())
    rule = r"must fit the autoencoder, got \[6, 2\] float64 for decoder.weight, not \[6, 3\]"
    with pytest.raises(ValueError, match=rule):
        Autoencoder.load(tmp_path / "model", into=wider)
    assert wider.reconstruct(points()).equal(before)


def test_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must name a saved autoencoder, got .*none"):
        Autoencoder.load(tmp_path / "none")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(ValueError, match=r"path must name a saved autoencoder, got .*text"):
        Autoencoder.load(tmp_path / "text")
    save_file({"w": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match=r"got .*foreign, a foreign safetensors file"):
        Autoencoder.load(tmp_path / "foreign")
    vae.mlp(6, 2).save(tmp_path / "vae")
    with pytest.raises(ValueError, match=r"got .*vae, pplvae VAE 2"):
        Autoencoder.load(tmp_path / "vae")


def test_the_header_is_readable_without_this_library(tmp_path: Path) -> None:
    mlp(6, 2, hidden_dims=(5,)).save(tmp_path / "model")
    with safe_open(tmp_path / "model", framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["recipe"]) == {
        "builder": "mlp", "data_dim": 6, "latent_dim": 2, "hidden_dims": [5], "activation": "relu",
    }  # fmt: skip
