"""Autoencoders on disk."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


SIZES = {"builder": "mlp", "data_dim": 6, "latent_dim": 2, "hidden_dims": [5]}
PPCA = {"builder": "probabilistic", "data_dim": 6, "latent_dim": 2}


def edited(path: Path, recipe: str, **weights: Tensor) -> Path:
    """Write a file as this library's, but for its recipe and some of its weights."""
    model = BUILT["probabilistic"]() if "probabilistic" in recipe else mlp(6, 2, hidden_dims=(5,))
    header = {"format": "pplvae autoencoder 1", "recipe": recipe}
    state = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(state | weights, path, metadata=header)
    return path


@pytest.mark.parametrize(
    "recipe",
    [
        "{not JSON", "[" * 100_000, '"ab"', "[1, 2]", "{}", '{"builder": "rnn"}',
        json.dumps({"builder": ["mlp"]}),
        json.dumps(SIZES | {"activation": 3}),
        json.dumps(SIZES | {"latent_dim": -1}),
        json.dumps(SIZES | {"hidden_dims": None}),
        json.dumps(SIZES | {"hidden_dims": [10**10, 10**10]}),
        json.dumps(SIZES | {"dtype": "float32"}),
        *[json.dumps(PPCA | {"latent_dim": size}) for size in (0, -1, 1.5)],
        json.dumps(PPCA | {"data_dim": 1e10}),
    ],
)  # fmt: skip
def test_an_edited_recipe_is_refused_by_the_name_of_its_file(recipe: str, tmp_path: Path) -> None:
    path = edited(tmp_path / "model", recipe)
    with pytest.raises(ValueError, match=f"^path must name a saved autoencoder, got {path}"):
        Autoencoder.load(path)


@pytest.mark.parametrize("sizes", [{"data_dim": 10**10}, {"latent_dim": 10**9}])
@pytest.mark.parametrize("recipe", [SIZES, PPCA])
def test_a_recipe_for_more_than_memory_holds_is_refused_by_its_weights(
    recipe: dict[str, Any], sizes: dict[str, int], tmp_path: Path
) -> None:
    path = edited(tmp_path / "model", json.dumps(recipe | sizes))
    with pytest.raises(ValueError, match=rf"^the weights in {path} must fit .* not \[.*000"):
        Autoencoder.load(path)


@pytest.mark.parametrize(
    ("recipe", "weights", "said"),
    [
        (SIZES, {"encoder.0.bias": torch.full((5,), math.nan)}, "encoder.0.bias must be finite"),
        (SIZES, {"center": torch.full((6,), math.inf)}, "center must be finite, got 6 nan or inf"),
        (SIZES, {"scale": torch.tensor(0.0)}, "scale must be positive, got 0.0"),
        (PPCA, {"variance": torch.tensor(-1.0)}, "variance must be positive, got -1.0"),
    ],
)
def test_numbers_that_no_autoencoder_has_are_refused(
    recipe: dict[str, Any], weights: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    weights = {name: weight.double() for name, weight in weights.items()}
    path = edited(tmp_path / "model", json.dumps(recipe), **weights)
    before, into = torch.get_rng_state(), mlp(6, 2, hidden_dims=(5,), seed=0)
    with pytest.raises(ValueError, match=f"^path must name .* autoencoder, got {path}: {said}"):
        Autoencoder.load(path)
    assert torch.get_rng_state().equal(before)
    if recipe is SIZES:
        whole = into.reconstruct(points())
        with pytest.raises(ValueError, match=said):
            Autoencoder.load(path, into=into)
        assert into.reconstruct(points()).equal(whole)


def test_weights_are_not_put_into_other_layers(tmp_path: Path) -> None:
    mlp(6, 2, activation="relu").save(tmp_path / "saved")
    assert Autoencoder.load(tmp_path / "saved", into=mlp(6, 2, activation="relu")).latent_dim == 2
    with pytest.raises(ValueError, match=r"^into must have the layers of .*saved, got others:\n"):
        Autoencoder.load(tmp_path / "saved", into=mlp(6, 2, activation="tanh"))
