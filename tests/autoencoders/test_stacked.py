"""Stacked autoencoders: each on the code of the one before."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pplvae import data
from pplvae.autoencoders import AutoencoderFit, mlp, stacked
from pplvae.autoencoders.stacked import StackedFit
from pplvae.optimize import checkpoints

DIMS = (40, 20, 6)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return data.digits().x[:500].double() / 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stacked")


@pytest.fixture(scope="module")
def fit(digits: Tensor, folder: Path) -> StackedFit:
    return stacked.fit(
        digits, DIMS, num_epochs=12, batch_size=64, learning_rate=5e-3, checkpoint=folder / "run",
        seed=0, progress=False,
    )  # fmt: skip


def layers(folder: Path) -> list[list[Tensor]]:
    """The weights W, b, W', b' of each layer as greedy training left them."""
    paths = [folder / f"run-layer-{number}" for number in (1, 2, 3)]
    return [checkpoints.read(path)["best"][:4] for path in paths]


def split(fit: AutoencoderFit, x: Tensor) -> tuple[Tensor, Tensor]:
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[fit.held_out] = False
    return x[rest], x[fit.held_out]


def test_each_layer_is_trained_on_the_code_of_the_one_before(
    fit: StackedFit, digits: Tensor, folder: Path
) -> None:
    """The costs, written out with the weights of each layer's checkpoint."""
    train, held_out = split(fit, digits)
    center, scale = train.mean(0), (train - train.mean(0)).square().mean().sqrt()
    h = (held_out - center) / scale
    weights, costs = layers(folder), []
    for number, (down, b, up, c) in enumerate(weights, 1):
        code = h @ down.T + b
        code = F.elu(code) if number < 3 else code
        back = code @ up.T + c
        back = F.elu(back) if number > 1 else back
        unit = scale**2 if number == 1 else 1.0
        costs.append((unit * (h - back).square().sum(1).mean()).item())
        h = code
    for _, _, up, c in reversed(weights):
        h = h @ up.T + c
        h = F.elu(h) if up.shape[0] != 64 else center + scale * h
    whole = (held_out - h).square().sum(1).mean().item()
    assert [stage.error for stage in fit.stages[:4]] == pytest.approx([*costs, whole], rel=1e-9)


def test_says_what_each_part_cost(fit: StackedFit) -> None:
    names = [
        "layer 1",
        "layer 2",
        "layer 3",
        "stack, not tuned",
        "stack, tuned",
        "trained at once",
    ]
    assert [stage.name for stage in fit.stages] == names
    sizes = [(64, 40), (40, 20), (20, 6), (64, 6), (64, 6), (64, 6)]
    assert [stage.sizes for stage in fit.stages] == sizes
    assert [stage.num_epochs for stage in fit.stages] == [12, 12, 12, 0, 12, 48]
    assert fit.stages[4].error == fit.error
    text = repr(fit)
    assert all(name in text for name in names)
    assert "64 → 40" in text


def test_tuning_end_to_end_helps(fit: StackedFit) -> None:
    untuned, tuned = fit.stages[3], fit.stages[4]
    assert tuned.error < 0.9 * untuned.error
    assert untuned.unexplained < 0.75, "the layers alone have learned something too"


def test_the_network_trained_at_once_has_the_same_size(fit: StackedFit, digits: Tensor) -> None:
    assert fit.at_once is not None
    ours, theirs = fit.autoencoder, fit.at_once.autoencoder
    assert (
        ours.recipe == theirs.recipe == mlp(64, 6, hidden_dims=(40, 20), activation="elu").recipe
    )
    assert repr(ours) == repr(theirs)
    assert fit.at_once.error == fit.stages[5].error
    assert not ours.reconstruct(digits).allclose(theirs.reconstruct(digits))


def test_the_network_trained_at_once_has_the_epochs_that_the_parts_took(digits: Tensor) -> None:
    """Here each part ends before its last epoch."""
    found = stacked.fit(
        digits[:100], (8, 4), num_epochs=30, patience=None, seed=0, progress=False,
        callbacks=[lambda epoch: epoch.num_epochs == 30 and epoch.number == 4],
    )  # fmt: skip
    assert [stage.num_epochs for stage in found.stages] == [5, 5, 0, 5, 15]


def test_the_comparison_can_be_left_out(digits: Tensor) -> None:
    found = stacked.fit(
        digits[:50], (8, 4), num_epochs=1, at_once=False, validation=0.0, seed=0, progress=False
    )
    assert found.at_once is None
    assert [stage.name for stage in found.stages][-1] == "stack, tuned"
    assert found.encode(digits).shape == (500, 4)


@pytest.mark.parametrize(
    ("dims", "rule"),
    [
        ((4,), r"dims must be at least 2 sizes of codes, got \[4\]"),
        ((4, 0), "dims must be at least 1, got 0"),
        ((0, 4), "dims must be at least 1, got 0"),
    ],
)
def test_refuses_impossible_stacks(dims: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        stacked.fit(torch.rand(20, 6), dims, progress=False)
