import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pplvae.vae import VAE, published
from pplvae.vae.builders import conv, hierarchical, linear, mlp
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.likelihoods import LIKELIHOODS, Gaussian, Likelihood
from pplvae.vae.posteriors import POSTERIORS, FullNormal
from pplvae.vae.priors import FlowPrior, VampPrior

BUILT: dict[str, Callable[..., VAE]] = {
    "mlp": lambda **law: mlp(6, 3, hidden_dims=(5, 4), decoder_dims=(7,), squash=True, **law),
    "linear": lambda **law: linear(6, 3, **law),
    "conv": lambda **law: conv((1, 3, 2), 3, channels=(2,), hidden_dims=(), kernel=2, **law),
    "hierarchical": lambda **law: hierarchical(6, (4, 3), hidden_dims=(5,), **law),
}


def same(one: VAE, two: VAE, x: Tensor) -> bool:
    """Whether two VAEs reconstruct, judge and draw alike."""
    assert type(one) is type(two)
    found = [
        (v.reconstruct(x), v.sample(4, seed=0), v.prior().sample(), v.state_dict())
        for v in (one, two)
        if torch.manual_seed(0)
    ]
    weights = [found[0][3][name].equal(weight) for name, weight in found[1][3].items()]
    return all(a.equal(b) for a, b in zip(found[0][:3], found[1][:3], strict=True)) and all(
        weights
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BUILT)
def test_what_a_builder_made_is_made_again(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = BUILT[name](dtype=dtype)
    model.save(tmp_path / "vae")
    again = VAE.load(tmp_path / "vae")
    assert again.recipe == model.recipe
    assert next(again.parameters()).dtype == dtype
    assert same(model, again, torch.ones(5, 6))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_named_likelihood_comes_back(likelihood: str, tmp_path: Path) -> None:
    model = mlp(6, 3, hidden_dims=(5,), likelihood=likelihood)
    model.save(tmp_path / "vae")
    again = VAE.load(tmp_path / "vae")
    assert type(again.likelihood) is LIKELIHOODS[likelihood]
    assert again.likelihood.config() == model.likelihood.config()
    assert same(model, again, torch.ones(5, 6))


@pytest.mark.parametrize("name", ["mlp", "conv", "hierarchical"])
@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "flow"])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_named_priors_and_posteriors_come_back(
    name: str, prior: str, posterior: str, tmp_path: Path
) -> None:
    options = {"upper_posterior": posterior} if name == "hierarchical" else {}
    model = BUILT[name](prior=prior, posterior=posterior, **options)
    model.save(tmp_path / "vae")
    assert same(model, VAE.load(tmp_path / "vae"), torch.ones(5, 6))


@pytest.mark.parametrize("vamp", [False, True])
def test_laws_with_settings_of_their_own_come_back(vamp: bool, tmp_path: Path) -> None:
    laws: dict[str, Any] = {
        "likelihood": Gaussian(predicted=True, start=0.3),
        "prior": FlowPrior(3, 1, [6], reverse=False),
        "posterior": POSTERIORS["iaf"](3, 1, 5),  # type: ignore[call-arg]
    }
    if vamp:
        laws |= {"prior": VampPrior(3, 4, data=torch.randn(9, 6)), "posterior": FullNormal()}
    model = mlp(6, 3, hidden_dims=(5,), **laws)
    model.save(tmp_path / "vae")
    again = VAE.load(tmp_path / "vae")
    for law in laws:
        assert getattr(again, law).config() == getattr(model, law).config()
    assert same(model, again, torch.ones(5, 6))


@pytest.mark.parametrize(
    "build",
    [published.aevb, lambda: published.iwae(2), published.pyro_example, published.jaanli],
)
def test_published_vaes_come_back(build: Callable[[], VAE], tmp_path: Path) -> None:
    model = build()
    model.save(tmp_path / "vae")
    assert same(model, VAE.load(tmp_path / "vae"), torch.ones(2, 784))


class Doubled(Likelihood):
    """A law of one's own."""

    def forward(self, output: Tensor) -> Any:
        return Gaussian(0.5)(2 * output)


def test_a_law_of_ones_own_comes_back_once_it_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = mlp(6, 3, likelihood=Doubled()), tmp_path / "vae"
    model.save(path)
    with pytest.raises(ValueError, match=r"into must be a VAE .* or a law has no name"):
        VAE.load(path)
    assert same(model, VAE.load(path, into=mlp(6, 3, likelihood=Doubled())), torch.ones(5, 6))
    with monkeypatch.context() as patch:
        patch.setitem(LIKELIHOODS, "doubled", Doubled)
        model.save(path)
        assert same(model, VAE.load(path), torch.ones(5, 6))
    with pytest.raises(ValueError, match=r"likelihood must be one of .*, got 'doubled'"):
        VAE.load(path)


def test_a_hierarchy_of_ones_own_networks_is_loaded_into_such_networks(tmp_path: Path) -> None:
    def own() -> VAE:
        return HierarchicalVAE(
            nn.Linear(6, 4), nn.Linear(2, 6), "bernoulli", (2, 1),
            upper_encoder=nn.Linear(2, 2), upper_decoder=nn.Linear(1, 4),
        )  # fmt: skip

    model = own()
    model.save(tmp_path / "vae")
    assert same(model, VAE.load(tmp_path / "vae", into=own()), torch.ones(5, 6))


def test_the_header_is_plain_json_and_nothing_is_pickled(tmp_path: Path) -> None:
    mlp(6, 3, hidden_dims=(5,)).save(tmp_path / "vae")
    with safe_open(tmp_path / "vae", framework="pt") as file:
        header = file.metadata()
    recipe = json.loads(header["recipe"])
    assert recipe["builder"] == "mlp"
    assert recipe["hidden_dims"] == [5]
    assert recipe["prior"] == ["standard_normal", {}]
    assert recipe["likelihood"][0] == "bernoulli"


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    mlp(6, 3).save(tmp_path / "vae")
    whole = (tmp_path / "vae").read_bytes()
    for size in [0, 4, 8, 100, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="path must name a saved VAE"):
            VAE.load(tmp_path / "cut")


def test_files_of_another_format_or_builder_are_refused(tmp_path: Path) -> None:
    mlp(6, 3).save(tmp_path / "vae")
    weights = load_file(tmp_path / "vae")
    save_file(weights, tmp_path / "old", metadata={"format": "pplvae VAE 1", "recipe": "null"})
    with pytest.raises(ValueError, match=r"of format pplvae VAE 2, got .*old, pplvae VAE 1$"):
        VAE.load(tmp_path / "old")
    recipe = json.dumps({"builder": "os.system"})
    save_file(weights, tmp_path / "odd", metadata={"format": "pplvae VAE 2", "recipe": recipe})
    with pytest.raises(ValueError, match=r"builder must be one of conv, .*, got 'os.system'"):
        VAE.load(tmp_path / "odd")


@pytest.mark.parametrize(
    "edit",
    [{"hidden_dims": [-5]}, {"prior": "x"}, {"latent_dim": None}, {"likelihood": ["no", {}]}],
)
def test_an_edited_recipe_is_refused_by_the_name_of_its_file(
    edit: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "vae"
    mlp(6, 3).save(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    recipe = json.dumps(json.loads(header["recipe"]) | edit)
    save_file(load_file(path), path, metadata=header | {"recipe": recipe})
    with pytest.raises(ValueError, match=f"^path must name a saved VAE, got {path}: "):
        VAE.load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model, path = mlp(6, 3), tmp_path / "vae"
    with torch.no_grad():
        next(model.decoder.parameters())[0, 0] = torch.nan
    model.save(path)
    with pytest.raises(ValueError, match=r"got .*vae: decoder\.0\.weight is not finite"):
        VAE.load(path)


def test_a_failed_save_leaves_the_file_before_it(tmp_path: Path) -> None:
    model, path = mlp(6, 3), tmp_path / "vae"
    model.save(path)
    before = path.read_bytes()
    model.likelihood.config = lambda: {"binarize": object()}  # type: ignore[method-assign]
    with pytest.raises((TypeError, ValueError)):
        model.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["vae"]


@pytest.mark.parametrize(
    "laws",
    [
        {"prior": "mixture"},
        {"prior": "flow"},
        {"posterior": "iaf"},
        {"prior": VampPrior(3, 4, data_dim=6)},
    ],
)
def test_loading_leaves_the_random_state_alone(laws: dict[str, Any], tmp_path: Path) -> None:
    mlp(6, 3, **laws).save(tmp_path / "vae")
    before = torch.get_rng_state()
    VAE.load(tmp_path / "vae")
    assert torch.equal(before, torch.get_rng_state())
