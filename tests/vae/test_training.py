from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pplvae import data, vae
from pplvae.optimize import checkpoint_seed
from pplvae.vae import VAE


@pytest.fixture
def x() -> Tensor:
    """Binary points with one latent cause: a row is mostly ones, or mostly zeros."""
    cause = torch.rand(300, 1).round()
    return (torch.rand(300, 8) < 0.1 + 0.8 * cause).double()


def small(seed: int = 0, **options: object) -> VAE:
    return vae.mlp(8, 2, hidden_dims=(16,), seed=seed, **options)  # type: ignore[arg-type]


def test_finds_the_latent_cause(x: Tensor) -> None:
    fit = vae.fit(small(), x, num_epochs=60, learning_rate=0.01, seed=0, progress=False)
    # Independent pixels with mean ½ cost 8 log 2 = 5.55 nats; with the cause known, 8 H(0.1) =
    # 2.60 plus the log 2 = 0.69 that names it: 3.29 nats is the best there is.
    best, blind = -3.29, -5.55
    assert blind + 1.2 < fit.elbo.value < best + 3 * fit.elbo.standard_error


def test_trains_the_second_vae_too_and_leaves_pyro_and_the_generator_alone(x: Tensor) -> None:
    store = pyro.get_param_store()
    mine = pyro.param("mine", torch.ones(()))
    before = torch.get_rng_state()
    for seed in range(2):
        model = small(seed)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        vae.fit(model, x, num_epochs=2, seed=0, progress=False)
        assert all((p != start[name]).any() for name, p in model.named_parameters())
    assert list(store.keys()) == ["mine"]
    assert store["mine"] is mine
    assert torch.equal(before, torch.get_rng_state())
    pyro.clear_param_store()


def test_keeps_the_weights_with_the_best_bound_on_held_out_points(x: Tensor) -> None:
    # Steps this large make the bound jump about, so the last epoch is not the best.
    options = {"num_epochs": 60, "learning_rate": 0.3, "patience": 60, "validation": 0.5}
    fit = vae.fit(small(), x, seed=0, progress=False, **options)  # type: ignore[arg-type]
    history = fit.history
    assert history.best_epoch == min(range(60), key=history.validation.__getitem__)
    assert history.best_epoch < 59
    # The history is on one draw of z a point, the result on ten: equal up to that noise.
    assert fit.elbo.value == pytest.approx(-min(history.validation), abs=0.6)


def test_the_same_seed_trains_to_the_same_weights(x: Tensor) -> None:
    fits = [vae.fit(small(), x, num_epochs=3, seed=5, progress=False) for _ in range(2)]
    one, two = (fit.vae.state_dict() for fit in fits)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_resumed_run_equals_an_uninterrupted_one(x: Tensor, tmp_path: Path) -> None:
    whole, parts = small(), small()
    vae.fit(whole, x, num_epochs=6, seed=1, progress=False)

    class Interrupted(Exception):
        pass

    calls = 0

    def interrupting(batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 11:
            raise Interrupted
        return batch

    parts.likelihood.prepare = interrupting  # type: ignore[method-assign]
    checkpoint = tmp_path / "run.ckpt"
    options = {"num_epochs": 6, "seed": 1, "checkpoint": checkpoint, "progress": False}
    with pytest.raises(Interrupted):
        vae.fit(parts, x, checkpoint_seconds=0.0, **options)  # type: ignore[arg-type]
    assert checkpoint.exists()
    again = small(seed=9)
    vae.fit(again, x, **options)  # type: ignore[arg-type]
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "likelihood", [vae.Bernoulli("dynamic"), vae.Gaussian(), vae.Gaussian(0.3)]
)
def test_a_saved_vae_comes_back_whole(likelihood: vae.Likelihood, tmp_path: Path) -> None:
    model = small(likelihood=likelihood, activation="tanh").float()
    model.save(tmp_path / "vae")
    again = VAE.load(tmp_path / "vae")
    x = torch.rand(5, 8)
    assert torch.equal(model.reconstruct(x), again.reconstruct(x))
    assert again.likelihood.config() == likelihood.config()
    assert torch.equal(model.sample(9, seed=0), again.sample(9, seed=0))
    assert [file.name for file in tmp_path.iterdir()] == ["vae"]


def test_networks_of_ones_own_are_loaded_into_such_networks(tmp_path: Path) -> None:
    def own() -> VAE:
        return VAE(nn.Linear(8, 4), nn.Linear(2, 8), vae.Bernoulli(), latent_dim=2)

    model = own()
    model.save(tmp_path / "vae")
    x = torch.ones(3, 8)
    assert torch.equal(VAE.load(tmp_path / "vae", into=own()).reconstruct(x), model.reconstruct(x))
    with pytest.raises(ValueError, match="into must be a VAE"):
        VAE.load(tmp_path / "vae")
    with pytest.raises(ValueError, match="must fit the VAE"):
        VAE.load(tmp_path / "vae", into=small())


def test_refuses_files_that_are_no_vae(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing, which does not exist"):
        VAE.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("not a VAE")
    with pytest.raises(ValueError, match="must name a saved VAE"):
        VAE.load(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="a foreign safetensors file"):
        VAE.load(tmp_path / "foreign")
    small().save(tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    with pytest.raises(ValueError, match="must name a saved VAE"):
        VAE.load(tmp_path / "cut")


def test_refuses_data_with_holes(x: Tensor) -> None:
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="x must be finite, got 1 nan or inf"):
        vae.fit(small(), x, num_epochs=1)
    with pytest.raises(ValueError, match=r"x must have 8 columns, got 5"):
        vae.fit(small(), torch.ones(9, 5), num_epochs=1)


def test_a_run_without_a_seed_resumes_with_that_of_its_checkpoint(
    x: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "run.ckpt"
    assert checkpoint_seed(path) is None
    first = vae.fit(small(), x, num_epochs=2, checkpoint=path, progress=False)
    again = vae.fit(small(), x, num_epochs=4, checkpoint=path, progress=False)
    assert again.history.losses[:2] == first.history.losses
    assert torch.equal(first.held_out, again.held_out)
    whole = vae.fit(small(), x, num_epochs=4, seed=checkpoint_seed(path), progress=False)
    assert whole.history == again.history


class Watched(nn.Module):
    """Batch norm that notes the modes it was called in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.modes = nn.BatchNorm1d(8), set[tuple[bool, bool]]()

    def forward(self, x: Tensor) -> Tensor:
        self.modes.add((self.training, torch.is_grad_enabled()))
        return self.norm(x)


def test_trains_in_training_mode_and_judges_in_evaluation_mode(x: Tensor) -> None:
    watched = Watched()
    model = VAE(nn.Sequential(watched, nn.Linear(8, 4)), nn.Linear(2, 8), "bernoulli", 2)
    model.eval()
    vae.fit(model, x, num_epochs=2, seed=0, progress=False)
    assert watched.modes == {(True, True), (False, False)}
    assert not any(part.training for part in model.modules())


def test_batch_norm_averages_are_those_of_the_best_weights(x: Tensor) -> None:
    def trained(num_epochs: int) -> tuple[VAE, int]:
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
        model = VAE(encoder, nn.Linear(2, 8), "bernoulli", 2)
        options = {"num_epochs": num_epochs, "patience": None, "validation": 0.5}
        fit = vae.fit(model, x, learning_rate=0.3, seed=0, progress=False, **options)  # type: ignore[arg-type]
        return model, fit.history.best_epoch

    long, best = trained(40)
    short, last = trained(best + 1)
    assert best == last < 39
    assert all(torch.equal(a, b) for a, b in zip(long.buffers(), short.buffers(), strict=True))


def test_weights_that_do_not_fit_leave_the_vae_as_it_was(tmp_path: Path) -> None:
    def own(width: int, dtype: torch.dtype = torch.float64) -> VAE:
        encoder = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, width), nn.Linear(width, 4))
        return VAE(encoder, nn.Linear(2, 8), vae.Bernoulli(), 2).to(dtype)

    own(5).save(tmp_path / "vae")
    for into, got in [(own(6), r"\[5\] float64"), (own(5, torch.float32), r"float64 for")]:
        before = {name: weight.clone() for name, weight in into.state_dict().items()}
        with pytest.raises(ValueError, match=f"must fit the VAE, got .*{got}"):
            VAE.load(tmp_path / "vae", into=into)
        assert all(torch.equal(w, before[name]) for name, w in into.state_dict().items())


def test_numpy_numbers_in_the_recipe_are_saved(tmp_path: Path) -> None:
    sizes = {"hidden_dims": np.array([5, 4]), "likelihood": vae.Gaussian(np.float32(0.5))}  # type: ignore[arg-type]
    model = vae.mlp(np.int64(8), np.int64(2), **sizes)  # type: ignore[arg-type]
    model.save(tmp_path / "vae")
    assert VAE.load(tmp_path / "vae").recipe == model.recipe


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    def tied() -> VAE:
        shared = nn.Linear(8, 8)
        encoder = nn.Sequential(shared, nn.Linear(8, 4))
        return VAE(encoder, nn.Sequential(nn.Linear(2, 8), shared), "gaussian", 2)

    model, x = tied(), torch.randn(3, 8)
    model.save(tmp_path / "vae")
    again = VAE.load(tmp_path / "vae", into=tied())
    torch.testing.assert_close(again.reconstruct(x), model.reconstruct(x))


@pytest.mark.parametrize("num_points", [1, 2])
def test_refuses_to_hold_out_all_points(num_points: int) -> None:
    rule = f"validation must leave a point to train on, got 0.9 of {num_points} points"
    with pytest.raises(ValueError, match=rule):
        vae.fit(small(), torch.ones(num_points, 8), validation=0.9)


@pytest.mark.slow
def test_reaches_the_reference_bound_on_digits() -> None:
    """64-200-z20 on dynamically binarized digits, 4000 steps: −23.15 ± 0.02 over three seeds."""
    x = data.digits().scaled().x.float()
    train, test = x[:1400], x[1400:]
    model = vae.mlp(64, 20, likelihood=vae.Bernoulli("dynamic"), dtype=torch.float32, seed=0)
    vae.fit(model, train, num_epochs=286, batch_size=100, validation=0.0, seed=0, progress=False)
    # Another split than the reference's: its mean over 397 points moves by 5 / √397 = 0.25 nats.
    assert vae.bounds.elbo(model, test, num_samples=50, seed=0).value == pytest.approx(
        -23.15, abs=0.6
    )
