"""What is refused, what it leaves as it was, and what holds in any unit."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pplvae import autoencoders
from pplvae.autoencoders import (
    Autoencoder,
    ProbabilisticPCA,
    denoising,
    linear,
    mlp,
    principal_angles,
    stacked,
)
from pplvae.autoencoders.model import BLOCK, squared_error, unexplained

QUIET: dict[str, Any] = {"num_epochs": 3, "seed": 0, "progress": False}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(50, 2) @ torch.randn(2, 12) + 0.1 * torch.randn(50, 12)


def test_a_refused_call_leaves_the_autoencoder_as_it_was(x: Tensor) -> None:
    model = autoencoders.fit(mlp(12, 2, seed=0), x, **QUIET).autoencoder
    before = model.error(x)
    with pytest.raises(ValueError, match="learning_rate"):
        autoencoders.fit(model, 100 * x + 7, learning_rate=-1.0, **QUIET)
    with pytest.raises(ValueError, match="learning_rate"):
        denoising.fit(100 * x + 7, model, learning_rate=-1.0, **QUIET)
    assert model.error(x) == before


def test_networks_of_other_sizes_are_not_made_to_fit(x: Tensor) -> None:
    with pytest.raises(ValueError, match="the decoder must give 12 columns, got 1"):
        autoencoders.fit(Autoencoder(nn.Linear(12, 2), nn.Linear(2, 1), 12, 2), x, **QUIET)
    with pytest.raises(ValueError, match="the encoder must give 2 columns, got 5"):
        Autoencoder(nn.Linear(12, 5), nn.Linear(5, 12), 12, 2).encode(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.decoder.append(nn.Sigmoid()),
        lambda model: model.encoder.__setitem__(1, nn.Tanh()),
    ],
)
def test_changed_layers_are_not_taken_for_the_old_ones(
    change: Callable[[Autoencoder], object], x: Tensor, tmp_path: Path
) -> None:
    model, again = mlp(12, 2, seed=0), mlp(12, 2, seed=1)
    change(model)
    change(again)
    model.save(tmp_path / "changed")
    with pytest.raises(ValueError, match="or changed since"):
        Autoencoder.load(tmp_path / "changed")
    found = Autoencoder.load(tmp_path / "changed", into=again)
    assert torch.equal(found.reconstruct(x), model.reconstruct(x))


FITS: dict[str, Callable[[Tensor], autoencoders.AutoencoderFit]] = {
    "mlp": lambda x: autoencoders.fit(
        mlp(12, 2, seed=0, dtype=x.dtype, activation="tanh"), x, **QUIET
    ),
    "denoising": lambda x: denoising.fit(x, 2, noise=lambda batch: batch, **QUIET),
    "closed form": lambda x: linear.fit(x, 2),
    "descent": lambda x: linear.fit(x, 2, method="gradient", **QUIET | {"num_epochs": 200}),
}


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("unit", [1e-30, 1e20])
def test_the_share_that_is_lost_does_not_depend_on_the_unit(
    name: str, unit: float, x: Tensor
) -> None:
    x = x.float()  # whose squares would vanish or overflow
    assert FITS[name](unit * x).unexplained == pytest.approx(FITS[name](x).unexplained, rel=1e-3)


@pytest.mark.parametrize("x", [torch.full((1000, 12), 0.1), torch.full((1000, 12), 1e8 + 0.1)])
def test_a_constant_that_no_float_holds_is_constant(x: Tensor) -> None:
    for fit in (FITS["mlp"], FITS["denoising"], lambda x: stacked.fit(x, (4, 2), **QUIET)):
        with pytest.raises(ValueError, match="x must vary, got 1000 copies of one point"):
            fit(x)


def test_held_out_points_at_the_mean_have_no_share(x: Tensor) -> None:
    center = x.mean(dim=0, keepdim=True)
    fit = autoencoders.fit(mlp(12, 2, seed=0), x, validation=center, **QUIET)
    assert fit.error >= 0


def test_angles_are_refused_where_no_subspace_is_meant() -> None:
    v, w = torch.eye(3)[:2]
    with pytest.raises(ValueError, match="a must hold vectors as rows"):
        principal_angles(v, w)
    with pytest.raises(ValueError, match="a must be linearly independent, got 2 of rank 1"):
        principal_angles(torch.stack([v, v]), torch.stack([w, v]))
    with pytest.raises(ValueError, match="b must be linearly independent, got 1 of rank 0"):
        principal_angles(v.unsqueeze(0), torch.zeros(1, 3))
    angle = principal_angles(v.unsqueeze(0).float(), w.unsqueeze(0).double())
    assert angle.item() == pytest.approx(torch.pi / 2)


def test_the_noise_of_probabilistic_pca_is_one_exact_number() -> None:
    weights = torch.randn(4, 2)
    assert ProbabilisticPCA(weights, torch.zeros(4), 0.3).variance.item() == 0.3
    with pytest.raises(ValueError, match=r"variance must be one number, got shape \(2,\)"):
        ProbabilisticPCA(weights, torch.zeros(4), torch.tensor([1.0, 4.0]))
    with pytest.raises(ValueError, match="variance must be positive"):
        ProbabilisticPCA(weights.float(), torch.zeros(4).float(), 1e-60)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: denoising.fit(x, 2, noise=0.5, **QUIET), "noise must be a function of a batch"),
        (lambda x: stacked.fit(x, 4, **QUIET), "dims must be a sequence of sizes, got 4"),
        (lambda x: mlp(12, 2, hidden_dims=8), "hidden_dims must be a sequence of sizes, got 8"),  # type: ignore[arg-type]
        (lambda x: autoencoders.conv((8, 8), 2, kernel=3.7), "kernel must be a whole number"),  # type: ignore[arg-type]
        (lambda x: autoencoders.conv((8, 8), 2, stride=1.9), "stride must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_refuses_what_it_would_otherwise_round(
    call: Callable[[Tensor], object], said: str, x: Tensor
) -> None:
    with pytest.raises(ValueError, match=said):
        call(x)


def test_held_out_points_see_one_draw_of_the_noise_in_batches_of_any_size(x: Tensor) -> None:
    for batch_size in (3, 7, 128):
        fit = denoising.fit(
            x, 2, noise=denoising.Gaussian(0.5), plain=False, validation=0.4,
            batch_size=batch_size, **QUIET,
        )  # fmt: skip
        # The validation loss is in units of the training spread; only its ratio is at stake.
        assert fit.history is not None
        held = x[fit.held_out]
        noisy = denoising.corrupt(held, denoising.Gaussian(0.5), seed=0)
        lost = (held - fit.reconstruct(noisy)).square().mean() / fit.autoencoder.scale**2
        assert min(fit.history.validation) == pytest.approx(lost.item(), rel=1e-9)


def test_an_autoencoder_of_one_s_own_goes_on_where_it_was_interrupted(
    x: Tensor, tmp_path: Path
) -> None:
    whole = denoising.fit(x, mlp(12, 2, seed=0), **QUIET)
    model, seen = mlp(12, 2, seed=0), []

    def interrupt(epoch: object) -> None:
        seen.append(epoch)
        if len(seen) == 5:  # in the second of two trainings of three epochs
            raise KeyboardInterrupt

    again: dict[str, Any] = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        denoising.fit(x, model, callbacks=[interrupt], **again, **QUIET)
    found = denoising.fit(x, model, **again, **QUIET)
    assert found.plain is not None
    assert whole.plain is not None
    assert (found.error, found.plain.error) == (whole.error, whole.plain.error)


def shaken(scale: float) -> Callable[[Tensor], Tensor]:
    """Noises that have one name."""
    return lambda x: x + scale * torch.randn_like(x)


@pytest.mark.parametrize(
    ("fit", "change", "differs"),
    [
        (partial(linear.fit, latent_dim=2, method="gradient"), {"tied": True}, "parameters"),
        (partial(stacked.fit, dims=(4, 2)), {"activation": "tanh"}, "networks"),
        (partial(stacked.fit, dims=(4, 2)), {"batch_size": 7}, "batch_size"),
        (partial(denoising.fit, autoencoder=2), {"noise": denoising.Gaussian(0.2)}, "noise"),
        (
            partial(denoising.fit, autoencoder=2, noise=shaken(0.1)),
            {"noise": shaken(2.0)},
            "noisy",
        ),
        (
            partial(denoising.fit, autoencoder=2, noise=lambda x: x + 0.1 * torch.randn_like(x)),
            {"noise": lambda x: x * torch.rand_like(x).round()},
            "noisy points",
        ),
    ],
)
def test_does_not_go_on_from_the_checkpoint_of_another_training(
    fit: Callable[..., Any], change: dict[str, Any], differs: str, x: Tensor, tmp_path: Path
) -> None:
    again = partial(fit, checkpoint=tmp_path / "run", **QUIET)
    again(x)
    with pytest.raises(ValueError, match=f"^checkpoint .* must .*{differs}.* name another file"):
        again(x, **change)
    with pytest.raises(ValueError, match=r"^checkpoint .* must be of the run .* other data"):
        again(x.flip(0))
    again(x)


def test_a_training_that_is_over_is_not_passed_off_for_another(x: Tensor, tmp_path: Path) -> None:
    again = partial(autoencoders.fit, x=x, checkpoint=tmp_path / "run", **QUIET)
    one = again(mlp(12, 2, seed=0))
    with pytest.warns(UserWarning, match=r"run that is over, with learning_rate 0.001: .* 0.01"):
        other = again(mlp(12, 2, seed=0), learning_rate=0.01)
    assert one.error == other.error


# --- what is too large, too small or of another kind ------------------------------------------


def test_numbers_beyond_the_networks_precision_are_refused(x: Tensor) -> None:
    model = mlp(12, 2, seed=0, dtype=torch.float32)
    far = torch.cat([x.double(), torch.full((1, 12), 1e39, dtype=torch.float64)])
    for call in (model.encode, model.error, lambda x: autoencoders.fit(model, x, **QUIET)):
        with pytest.raises(ValueError, match=r"^x must be within torch.float32, got .* 1e\+39$"):
            call(far)
    assert model.double().encode(far).isfinite().all()


@pytest.mark.parametrize(("num_points", "held_out"), [(2, 0), (3, 1), (5, 1), (15, 2)])
def test_a_few_points_are_held_out_too(num_points: int, held_out: int, x: Tensor) -> None:
    fit = autoencoders.fit(mlp(12, 2, seed=0), x[:num_points], **QUIET)
    assert len(fit.held_out) == held_out
    nobody = QUIET | {"validation": np.int64(0)}
    none = autoencoders.fit(mlp(12, 2, seed=0), x[:num_points], **nobody)
    assert len(none.held_out) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patience": -1}, "patience must be at least 1, got -1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"schedule": "cosine"}, "schedule must be a function of the progress, got 'cosine'"),
        ({"learning_rate": "a"}, "learning_rate must be a number, got 'a'"),
    ],
)
def test_impossible_settings_are_refused_also_where_nothing_is_held_out(
    options: dict[str, Any], said: str, x: Tensor
) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        autoencoders.fit(mlp(12, 2), x, validation=0.0, **QUIET | options)


class Widest(TorchFunctionMode):
    """Notes how many numbers in double precision any step gave at most."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        if isinstance(found, Tensor) and found.dtype == torch.float64:
            self.size = max(self.size, found.numel())
        return found


def test_errors_are_summed_without_a_whole_copy_in_double_precision() -> None:
    x, center = torch.rand(3500, 4, dtype=torch.float32), torch.rand(4, dtype=torch.float32)
    with Widest() as widest:
        found = squared_error(x, 2 * x), unexplained(x, 2 * x, center)
    assert 0 < widest.size <= 4 * BLOCK
    error = x.double().square().sum(1).mean().item()
    whole = (x - center).double().square().sum(1).mean().item()
    assert found == pytest.approx((error, error / whole), rel=1e-12)
