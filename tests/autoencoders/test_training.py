"""Training any autoencoder. Run as a script, this file trains one and waits to be killed."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pplvae import autoencoders
from pplvae.autoencoders import (
    Autoencoder,
    AutoencoderFit,
    convolutional,
    denoising,
    linear,
    mlp,
    stacked,
)
from pplvae.optimize import checkpoint_seed
from pplvae.optimize.logs import Epoch
from pplvae.randomness import generator

SHAPE, LATENT_DIM, SEED = (4, 3), 2, 3


def points(num_points: int = 70) -> Tensor:
    """Points on a bent sheet in 12 dimensions."""
    draws = generator(0)
    t = torch.rand(num_points, 2, generator=draws, dtype=torch.float64)
    waves = torch.randn(2, 12, generator=draws, dtype=torch.float64)
    return torch.sin(3 * t @ waves)


def shaky() -> Autoencoder:
    """Networks that draw in training, by dropout, and keep averages, by batch norm."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, LATENT_DIM)
    )
    return Autoencoder(encoder, nn.Linear(LATENT_DIM, 12), 12, LATENT_DIM).double()


def small() -> Autoencoder:
    return mlp(12, LATENT_DIM, hidden_dims=(8,), seed=0, dtype=torch.float64)


FITS: dict[str, Callable[..., AutoencoderFit]] = {
    "linear": lambda x, **given: linear.fit(
        x, LATENT_DIM, method="gradient", num_epochs=12,
        **{name: given[name] for name in given.keys() & LINEAR},
    ),
    "own": lambda x, **given: autoencoders.fit(shaky(), x, **given),
    "stacked": lambda x, **given: stacked.fit(x, (6, LATENT_DIM), **given),
    "denoising": lambda x, **given: denoising.fit(x, small(), **given),
    "convolutional": lambda x, **given: convolutional.fit(
        x, SHAPE, LATENT_DIM, channels=(4,), kernel=2, stride=1, padding=0, **given
    ),
}  # fmt: skip
LINEAR = {"checkpoint", "checkpoint_seconds", "seed", "progress", "callbacks"}


def train(name: str, **options: Any) -> AutoencoderFit:
    settings = {
        "num_epochs": 3, "batch_size": 32, "learning_rate": 0.02, "checkpoint_seconds": 0.0,
        "seed": SEED, "progress": False,
    }  # fmt: skip
    return FITS[name](points(), **settings | options)


def assert_same(one: AutoencoderFit, other: AutoencoderFit) -> None:
    """Assert that two fits are one, bit for bit."""
    ours, theirs = (fit.autoencoder.state_dict() for fit in (one, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (one.error, one.history) == (other.error, other.history)
    for beside in ("stages", "noisy_error"):
        assert getattr(one, beside, None) == getattr(other, beside, None)
    for beside in ("at_once", "plain"):
        if getattr(one, beside, None) is not None:
            assert_same(getattr(one, beside), getattr(other, beside))


class Interrupted(Exception):
    pass


@contextmanager
def interrupted_after(num_steps: int) -> Iterator[None]:
    """Raise before the next gradient step."""
    steps = iter(range(num_steps))

    def hook(*_: Any) -> None:
        if next(steps, None) is None:
            raise Interrupted

    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def whole() -> Callable[[str], AutoencoderFit]:
    """A run from start to end, trained once."""
    found: dict[str, AutoencoderFit] = {}

    def run(name: str) -> AutoencoderFit:
        if name not in found:
            found[name] = train(name)
        return found[name]

    return run


@pytest.mark.parametrize("name", FITS)
def test_a_run_interrupted_again_and_again_equals_an_uninterrupted_one(
    name: str, tmp_path: Path, whole: Callable[[str], AutoencoderFit]
) -> None:
    # In the middle of epochs, between them, in every part of a training in parts.
    interruptions = 0
    for num_steps in [1, 2, 3, *[11] * 20]:
        try:
            with interrupted_after(num_steps):
                found = train(name, checkpoint=tmp_path / "run")
            break
        except Interrupted:
            interruptions += 1
    else:
        pytest.fail("never came to its end")
    assert interruptions >= 2
    assert_same(found, whole(name))


KILLED = [pytest.param(name, marks=[] if name == "stacked" else pytest.mark.slow) for name in FITS]


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_process_resumes_to_the_same_bits(
    name: str, tmp_path: Path, whole: Callable[[str], AutoencoderFit]
) -> None:
    # The second part of a training in parts is under way when the kill comes.
    last = {"stacked": "run-layer-2", "denoising": "run"}.get(name, "run")
    path = tmp_path / last
    with subprocess.Popen([sys.executable, __file__, name, str(tmp_path / "run")]) as process:
        deadline = time.monotonic() + 120
        while not path.exists() or len(torch.load(path, weights_only=True)["losses"]) < 1:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert_same(train(name, checkpoint=tmp_path / "run"), whole(name))


@pytest.mark.parametrize("name", FITS)
def test_without_a_seed_a_run_goes_on_with_that_of_its_checkpoint(
    name: str, tmp_path: Path, whole: Callable[[str], AutoencoderFit]
) -> None:
    with interrupted_after(3), pytest.raises(Interrupted):
        train(name, checkpoint=tmp_path / "run")
    (path,) = tmp_path.iterdir()
    assert checkpoint_seed(path) == SEED
    assert_same(train(name, checkpoint=tmp_path / "run", seed=None), whole(name))


@pytest.mark.parametrize("name", FITS)
def test_draws_as_its_seed_says_and_leaves_the_global_generators_alone(
    name: str, whole: Callable[[str], AutoencoderFit]
) -> None:
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    again, other = train(name), train(name, seed=SEED + 1)
    if name != "own":  # which draws its first weights itself
        assert torch.get_rng_state().equal(before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert_same(again, whole(name))
    assert other.error != again.error


@pytest.mark.parametrize("name", FITS)
def test_says_its_error_on_the_points_it_has_not_seen(
    name: str, whole: Callable[[str], AutoencoderFit]
) -> None:
    fit, x = whole(name), points()
    judged = x[fit.held_out] if len(fit.held_out) else x
    assert len(fit.held_out) == (0 if name == "linear" else 7)
    if name == "denoising":
        seen = denoising.corrupt(judged, denoising.Gaussian(), seed=SEED)
    else:
        seen = judged
    error = (judged - fit.decode(fit.encode(seen))).square().sum(1).mean().item()
    assert fit.error == pytest.approx(error, rel=1e-12)
    rest = np.delete(x.numpy(), fit.held_out.numpy(), axis=0)
    total = (judged - torch.from_numpy(rest).mean(0)).square().sum(1).mean().item()
    assert fit.unexplained == pytest.approx(error / total, rel=1e-9)
    assert fit.reconstruct(x).equal(fit.decode(fit.encode(x)))
    if fit.history is not None and fit.history.validation:
        # What the epochs were judged by is the same, without dropout and on the same noise.
        unit = (torch.from_numpy(rest) - torch.from_numpy(rest).mean(0)).square().mean().item()
        assert 12 * unit * min(fit.history.validation) == pytest.approx(error, rel=1e-9)


def test_a_bent_line_needs_one_number_where_pca_needs_more() -> None:
    """x = (t, t²): PCA with L = 1 loses the parabola, which a network can follow."""
    t = torch.linspace(-1, 1, 100)
    x = torch.stack([t, t.square()], dim=1)
    straight = linear.fit(x, 1)
    model = mlp(2, 1, hidden_dims=(32,), activation="tanh", seed=0)
    fit = autoencoders.fit(
        model, x, num_epochs=400, learning_rate=0.02, validation=0.0, seed=0, progress=False
    )
    assert straight.error == pytest.approx(4 / 45, rel=0.05)  # Var t² for t uniform in (−1, 1)
    assert fit.error < straight.error / 50
    # The code is the place on the line: it rises with t, or falls.
    steps = fit.encode(x)[:, 0].diff().sign()
    assert steps.abs().sum() == steps.sum().abs()


def test_neither_place_nor_unit_matters_to_the_training() -> None:
    fits = [train_on(x) for x in (points(), 1e-7 * points() + 5e-7)]
    # The same steps but for rounding, which 20 of them amplify little.
    assert fits[1].unexplained == pytest.approx(fits[0].unexplained, rel=1e-6)
    assert fits[1].error == pytest.approx(1e-14 * fits[0].error, rel=1e-6)


def train_on(x: Tensor, **options: Any) -> AutoencoderFit:
    settings: dict[str, Any] = {
        "num_epochs": 5, "batch_size": 16, "learning_rate": 0.02, "seed": 0, "progress": False,
    }  # fmt: skip
    return autoencoders.fit(small(), x, **settings | options)


def test_stops_early_and_keeps_the_best_weights() -> None:
    x, held_out = points().split([50, 20])
    # Steps this large make the error jump about, so the last epoch is not the best.
    fit = train_on(
        x, validation=held_out, num_epochs=200, learning_rate=0.3, patience=4,
        schedule=lambda t: 1.0,
    )  # fmt: skip
    history = fit.history
    assert history is not None
    assert history.stopped_early
    assert history.best_epoch == len(history.losses) - 5
    best = min(history.validation) * (x - x.mean(0)).square().mean().item() * 12
    assert fit.error == pytest.approx(best, rel=1e-9)
    assert len(fit.held_out) == 0


def test_the_loss_starts_at_one_for_a_network_that_gives_the_mean() -> None:
    model, heard = small(), list[Epoch]()
    with torch.no_grad():
        list(model.decoder.children())[-1].weight.zero_()  # type: ignore[operator, union-attr]
        list(model.decoder.children())[-1].bias.zero_()  # type: ignore[operator, union-attr]
    autoencoders.fit(
        model, points(), num_epochs=1, learning_rate=1e-12, validation=0.0,
        callbacks=[heard.append], seed=0, progress=False,
    )  # fmt: skip
    assert heard[0].loss == pytest.approx(1.0, rel=1e-9)
    torch.testing.assert_close(model.reconstruct(points()), points().mean(0).expand(70, 12))


def test_networks_train_in_training_mode_and_are_used_in_evaluation_mode() -> None:
    model = shaky()
    part = list(model.encoder.children())[1]
    assert isinstance(part, nn.BatchNorm1d)
    part.eval()
    modes = [module.training for module in model.modules()]
    fit = autoencoders.fit(model, points(), num_epochs=2, seed=0, progress=False)
    assert part.running_mean is not None
    assert part.running_mean.abs().max() > 0, "averages are kept in training"
    assert [module.training for module in model.modules()] == modes
    assert fit.encode(points()).equal(fit.encode(points())), "dropout is off"
    one_by_one = torch.cat([fit.encode(row) for row in points().split(1)])
    torch.testing.assert_close(one_by_one, fit.encode(points()))


def test_data_of_any_number_go_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(), points()
    expected = model.encode(x)
    monkeypatch.setattr(autoencoders.model, "BLOCK", 16)
    torch.testing.assert_close(model.encode(x), expected)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"validation": 1.0}, r"validation must be in \[0.0, 0.9\], got 1.0"),
        ({"validation": torch.ones(3, 4)}, "validation must have 12 columns, got 4"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive, got -1.0"),
        ({"seed": -1}, r"seed must be in \[0, 4294967295\], got -1"),
        ({"x": torch.ones(9, 12)}, "x must vary, got 9 copies of one point"),
        ({"x": torch.ones(9, 4)}, "x must have 12 columns, got 4"),
        ({"x": torch.rand(2, 12), "validation": 0.9}, "validation must leave a point to train on"),
    ],
)
def test_refuses_impossible_arguments(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}"):
        train_on(**{"x": points()} | options)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_refuses_impossible_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match=r"^sizes must be "):
        mlp(12, size)
    with pytest.raises(ValueError, match=r"^latent_dim must be "):
        Autoencoder(nn.Linear(3, 2), nn.Linear(2, 3), 3, size)


def test_refuses_codes_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"^z must have 2 columns, got 3$"):
        small().decode(torch.zeros(5, 3))


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)  # in which networks are drawn, as in the tests
    register_optimizer_step_pre_hook(lambda *_: time.sleep(0.05))
    train(sys.argv[1], checkpoint=sys.argv[2])
