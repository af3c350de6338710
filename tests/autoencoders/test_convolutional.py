"""Convolutional autoencoders, and ways through their codes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pplvae import distributed
from pplvae.autoencoders import AutoencoderFit, conv, convolutional, linear, traverse
from pplvae.networks import output_size
from pplvae.randomness import generator


def blobs(num_points: int = 400, size: int = 12) -> Tensor:
    """Images of a bump whose place is all that varies: two causes, and no plane holds them."""
    draws = generator(0)
    places = 2 + (size - 5) * torch.rand(num_points, 2, 1, 1, generator=draws)
    row, column = torch.arange(size).reshape(-1, 1), torch.arange(size).reshape(1, -1)
    distance = (row - places[:, 0]).square() + (column - places[:, 1]).square()
    return (-0.25 * distance).exp().flatten(1)


@pytest.fixture(scope="module")
def fit() -> AutoencoderFit:
    return convolutional.fit(
        blobs().float(), (12, 12), 2, channels=(8, 16), hidden_dims=(32,), num_epochs=40,
        batch_size=40, learning_rate=4e-3, seed=0, progress=False,
    )  # fmt: skip


def test_two_numbers_say_where_a_bump_is_while_pca_needs_more(fit: AutoencoderFit) -> None:
    # Measured 0.019; of PCA 0.51 with two numbers, 0.15 with six.
    assert fit.unexplained < 0.05
    assert linear.fit(blobs(), 2).unexplained > 0.5
    assert linear.fit(blobs(), 6).unexplained > 0.1


def test_starts_near_the_one_that_always_gives_the_mean() -> None:
    """So that no first step is so large that it silences units for good."""
    x = blobs(100)
    model = conv((12, 12), 20, channels=(16, 32), hidden_dims=(64,), seed=0)
    model.standardize(x)
    lost = model.error(x) / (x - x.mean(0)).square().sum(1).mean().item()
    assert lost == pytest.approx(1.0, abs=0.03)
    assert not model.encode(x).allclose(torch.zeros(20))


@pytest.mark.parametrize("shape", [(13, 7), (1, 9, 4), (3, 8, 8), (2, 5, 6)])
def test_takes_images_of_any_size_and_number_of_channels(shape: tuple[int, ...]) -> None:
    x = torch.rand(20, math.prod(shape), generator=generator(0))
    found = convolutional.fit(
        x, shape, 3, channels=(4, 5), kernel=3, num_epochs=1, seed=0, progress=False
    )
    assert found.encode(x).shape == (20, 3)
    assert found.reconstruct(x).shape == x.shape
    assert found.autoencoder.center.dtype == x.dtype


def test_prints_every_layer_before_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.rand(20, 3 * 12 * 10)
    told: list[str] = []

    def first(_: object) -> bool:
        told.append(capsys.readouterr().out)
        return True

    convolutional.fit(x, (3, 12, 10), 5, channels=(4, 6), num_epochs=3, callbacks=[first], seed=0)
    height, width = (output_size(output_size(n, 4, 2, 1, exact=False), 4, 2, 1, exact=False)
                     for n in (12, 10))  # fmt: skip
    assert (height, width) == (3, 2)
    for layer in (
        f"4×6×5 {4 * (3 * 16 + 1)}",
        f"6×3×2 {6 * (4 * 16 + 1)}",
        f"5 {36 * 5 + 5}",
        f"36 {5 * 36 + 36}",
        f"4×6×5 {6 * 4 * 16 + 4}",
        f"3×12×10 {4 * 3 * 16 + 3}",
    ):
        assert layer in " ".join(told[0].split())


def test_says_nothing_where_no_progress_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    convolutional.fit(torch.rand(20, 16), (4, 4), 2, channels=(3,), num_epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")


def test_only_the_first_process_says_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    convolutional.fit(torch.rand(20, 16), (4, 4), 2, channels=(3,), num_epochs=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"shape": (5, 5)}, "x must have 25 columns, got 16"),
        ({"shape": (16,)}, r"shape must be \(H, W\) or \(C, H, W\), got \(16,\)"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"channels": ()}, "channels must name at least one convolution, got none"),
        ({"channels": (4, 4, 4, 4)}, r"kernel must be in \[1, 3\] for a size of 1"),
    ],
)
def test_refuses_impossible_networks(options: dict[str, Any], rule: str) -> None:
    given: dict[str, Any] = {"shape": (4, 4), "latent_dim": 2, "progress": False} | options
    with pytest.raises(ValueError, match=f"^{rule}"):
        convolutional.fit(torch.rand(20, 16), **given)


# --- traversals ------------------------------------------------------------------------------


def test_each_axis_is_swept_between_quantiles_while_the_others_stay() -> None:
    x = blobs(101)
    model = conv((12, 12), 3, channels=(2,), seed=0)
    codes = model.encode(x)
    found = traverse(model, x, num_steps=5, share=0.8)
    assert found.shape == (3, 5, 144)
    levels = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    for axis in range(3):
        z = codes.median(0).values.repeat(5, 1)
        z[:, axis] = codes[:, axis].quantile(levels)  # of 101 codes these are codes themselves
        torch.testing.assert_close(found[axis], model.decode(z))
        torch.testing.assert_close(found[axis, 2], found[0, 2])


def test_a_sweep_moves_the_bump(fit: AutoencoderFit) -> None:
    """Along some axis of the code its center of mass goes a good part of the way there is."""
    images = traverse(fit.autoencoder, blobs(), share=0.8).unflatten(-1, (12, 12)).clamp(min=0)
    places = torch.arange(12.0, dtype=images.dtype)
    weight = images.sum((-2, -1))
    centers = torch.stack([(images.sum(-1) @ places) / weight, (images.sum(-2) @ places) / weight])
    moved = centers.amax(-1) - centers.amin(-1)
    assert moved.amax() > 2.5


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
        ({"share": 1.5}, r"share must be in \[0, 1\], got 1.5"),
    ],
)
def test_refuses_impossible_sweeps(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        traverse(conv((12, 12), 2, channels=(2,)), blobs(5), **options)
