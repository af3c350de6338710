"""Denoising autoencoders."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pplvae import data
from pplvae.autoencoders import denoising, mlp
from pplvae.autoencoders.builders import linear
from pplvae.autoencoders.denoising import DenoisingFit, Gaussian, Masking, SaltAndPepper, corrupt
from pplvae.randomness import generator

N = 100_000


def test_gaussian_noise_has_its_scale_and_no_bias() -> None:
    noise = corrupt(torch.full((N, 1), 3.0), Gaussian(0.5), seed=0) - 3.0
    assert noise.mean().item() == pytest.approx(0.0, abs=5 * 0.5 / math.sqrt(N))
    assert noise.std().item() == pytest.approx(0.5, rel=5 / math.sqrt(2 * N))


def test_masking_loses_its_share_and_leaves_the_rest() -> None:
    x = torch.rand(N, 1) + 1
    found = corrupt(x, Masking(0.3, value=-1.0), seed=0)
    lost = found == -1.0
    assert lost.double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / N))
    assert found[~lost].equal(x[~lost])


def test_salt_is_as_likely_as_pepper() -> None:
    x = torch.rand(N, 1) + 1
    found = corrupt(x, SaltAndPepper(0.3, black=-1.0, white=5.0), seed=0)
    error = 5 * math.sqrt(0.15 * 0.85 / N)
    for value in (-1.0, 5.0):
        assert (found == value).double().mean().item() == pytest.approx(0.15, abs=error)
    kept = (found != -1.0) & (found != 5.0)
    assert found[kept].equal(x[kept])
    assert set(corrupt(x, SaltAndPepper(1.0), seed=0).flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("noise", [Gaussian(), Masking(), SaltAndPepper()])
def test_noise_comes_from_its_seed_and_leaves_the_generator_alone(noise: Any) -> None:
    x, before = torch.rand(50, 3) + 2, torch.get_rng_state()
    one, two, other = (corrupt(x, noise, seed=seed) for seed in (0, 0, 1))
    assert one.equal(two)
    assert not one.equal(other)
    assert torch.get_rng_state().equal(before)


def test_noise_is_new_each_time_a_point_is_seen() -> None:
    seen: list[tuple[int, Tensor]] = []

    def spying(x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        seen.append((len(x), noise[0].clone()))
        return x + noise

    denoising.fit(
        torch.rand(20, 3), 2, noise=spying, plain=False, num_epochs=4, batch_size=18,
        validation=0.1, seed=0, progress=False,
    )  # fmt: skip
    training = [noise for size, noise in seen if size == 18]
    held_out = [noise for size, noise in seen if size == 2]
    assert len(training) == len({tuple(noise.tolist()) for noise in training}) == 4
    # The held-out points always have the same, so that epochs can be compared.
    assert len(held_out) == 2, "once for all epochs, and once in the result"
    assert len({tuple(noise.tolist()) for noise in held_out}) == 1


def test_the_linear_denoiser_is_wieners_filter() -> None:
    """x in a plane, λ along its axes: E‖x − x̂‖² = Σ λ σ² / (λ + σ²) at best, with noise σ."""
    scales, sigma, draws = torch.tensor([1.0, 0.6]), 0.7, generator(0)
    plane = torch.linalg.qr(torch.randn(8, 2, generator=draws)).Q
    x = (torch.randn(4000, 2, generator=draws) * scales) @ plane.T
    fit = denoising.fit(
        x, linear(8, 2, tied=True, seed=0), noise=Gaussian(sigma), num_epochs=30, batch_size=400,
        learning_rate=0.03, validation=0.5, seed=0, progress=False,
    )  # fmt: skip
    filtered = (scales**2 * sigma**2 / (scales**2 + sigma**2)).sum().item()
    # 2,000 points on one draw of the noise, of two numbers each: √(2 / 4000) = 2 %, three times.
    assert fit.error == pytest.approx(filtered, rel=0.07)
    assert fit.noisy_error == pytest.approx(8 * sigma**2, rel=0.04)
    assert fit.gain == pytest.approx(10 * math.log10(8 * sigma**2 / filtered), abs=0.4)
    # What has seen no noise projects onto the plane, and keeps the noise within it. (Untied, its
    # encoder would see the noise off the plane too: nothing there has told it not to.)
    assert fit.plain is not None
    assert fit.plain.error == pytest.approx(2 * sigma**2, rel=0.07)
    assert fit.plain_gain == pytest.approx(10 * math.log10(8 / 2), abs=0.4)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, DenoisingFit]:
    x = data.digits().x[:900].double() / 16
    fit = denoising.fit(
        x, 24, noise=Gaussian(0.3), num_epochs=20, learning_rate=4e-3, seed=0, progress=False
    )
    return x, fit


def test_gains_on_held_out_digits_more_than_one_trained_without_noise(
    digits: tuple[Tensor, DenoisingFit],
) -> None:
    _, fit = digits
    # Measured 6.1 and 4.6 dB.
    assert fit.gain > 5.5
    assert 0 < fit.plain_gain < fit.gain - 1


def test_psnr_is_that_of_the_held_out_points(digits: tuple[Tensor, DenoisingFit]) -> None:
    x, fit = digits
    clean = x[fit.held_out]
    noisy = corrupt(clean, Gaussian(0.3), seed=0)
    before = -10 * math.log10((clean - noisy).square().mean().item())
    after = -10 * math.log10((clean - fit.reconstruct(noisy)).square().mean().item())
    assert fit.peak == 1.0
    assert fit.psnr == pytest.approx(after)
    assert fit.gain == pytest.approx(after - before)
    assert f"PSNR {after:.2f} dB, {after - before:+.2f} dB by denoising" in repr(fit)


@pytest.mark.parametrize("noise", [Masking(0.4), SaltAndPepper(0.3)])
def test_puts_right_what_was_lost(noise: Any) -> None:
    x = data.digits().x[:900].double() / 16
    fit = denoising.fit(
        x, 24, noise=noise, num_epochs=15, learning_rate=4e-3, batch_size=64, plain=False, seed=0,
        progress=False,
    )  # fmt: skip
    assert fit.gain > 3.0
    assert fit.plain is None
    assert math.isnan(fit.plain_gain)


def test_trains_the_networks_it_is_given() -> None:
    model, x = mlp(3, 2, hidden_dims=(4,), seed=0), torch.rand(20, 3)
    before = model.reconstruct(x)
    fit = denoising.fit(x, model, num_epochs=1, seed=0, progress=False)
    assert fit.autoencoder is model
    assert not model.reconstruct(x).equal(before)
    assert fit.plain is not None
    assert fit.plain.autoencoder.recipe == model.recipe


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: Gaussian(0.0), "scale must be positive, got 0.0"),
        (lambda: Masking(0.0), "share must be positive, got 0.0"),
        (lambda: Masking(1.5), r"share must be in \[0, 1\], got 1.5"),
        (lambda: SaltAndPepper(-0.1), "share must be positive, got -0.1"),
        (lambda: SaltAndPepper(float("nan")), "share must be positive, got nan"),
        (lambda: Masking(0.2, math.nan), "value must be finite, got nan"),
        (lambda: SaltAndPepper(0.2, -math.inf), "black must be finite, got -inf"),
        (lambda: SaltAndPepper(0.2, 0, math.inf), "white must be finite, got inf"),
        (lambda: denoising.fit(torch.rand(9, 3), 0), "sizes must be at least 1, got 0"),
    ],
)
def test_refuses_impossible_noise(build: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        build()


@pytest.mark.parametrize(
    ("noise", "got"),
    [
        (lambda x: x[:, :1], r"\(16, 12\), got \(16, 1\)"),
        (lambda x: x.sum(), r"\(16, 12\), got \(\)"),
        (lambda x: None, r"\(16, 12\), got NoneType"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_a_noise_of_another_shape_is_refused_before_the_training(
    noise: Any, got: str, plain: bool
) -> None:
    heard: list[object] = []
    with pytest.raises(ValueError, match=f"^noise must keep the shape of a batch, {got}$"):
        denoising.fit(torch.rand(60, 12), 2, noise=noise, plain=plain, callbacks=[heard.append])
    assert not heard
    with pytest.raises(ValueError, match=r"^noise must keep the shape of a batch"):
        corrupt(torch.rand(16, 12), noise)


@pytest.mark.parametrize("noise", [Gaussian, "gaussian"])
def test_a_noise_that_is_still_to_be_made_is_refused(noise: Any) -> None:
    with pytest.raises(ValueError, match=r"^noise must be a function of a batch, as Gaussian"):
        denoising.fit(torch.rand(60, 12), 2, noise=noise)


def test_a_noise_in_place_spoils_neither_targets_nor_the_points_given() -> None:
    def place(x: Tensor) -> Tensor:
        return x.add_(0.3 * torch.randn_like(x))

    x, held_out = torch.rand(60, 12), torch.rand(10, 12)
    before, options = held_out.clone(), {"num_epochs": 2, "seed": 0, "progress": False}
    found, wanted = (
        denoising.fit(x, 2, noise=noise, validation=held_out, **options)
        for noise in (place, Gaussian(0.3))
    )
    assert held_out.equal(before)
    assert found.error == wanted.error
    assert found.gain == wanted.gain
    corrupt(held_out, place)
    assert held_out.equal(before)


def test_the_plain_network_may_be_asked_for_later(tmp_path: Path) -> None:
    """Each begins with the other's seed, where that has one."""
    x, options = torch.rand(40, 6), {"num_epochs": 1, "progress": False}
    for order in [(False, True), (True, False)]:
        path = tmp_path / str(order)
        one, other = (
            denoising.fit(x, 2, plain=plain, checkpoint=path, **options) for plain in order
        )
        assert one.error == other.error
    (tmp_path / "(True, False)").unlink()
    assert denoising.fit(x, 2, checkpoint=tmp_path / "(True, False)", **options).error == one.error


def test_a_perfect_denoiser_gains_without_bound() -> None:
    fit = denoising.fit(torch.rand(40, 3), 2, num_epochs=1, seed=0, progress=False)
    perfect = replace(fit, error=0.0)
    assert perfect.gain == perfect.psnr == math.inf
    assert "+inf dB" in repr(perfect)
