"""Data in memory, in a file and from a loader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pplvae import vae
from pplvae.randomness import generator
from pplvae.vae import VAE, sources
from pplvae.vae.sources import File, Loader, Memory, as_source

D = 6


@pytest.fixture
def x() -> Tensor:
    return torch.rand(50, D).round()


def small(**options: Any) -> VAE:
    return vae.mlp(D, 2, hidden_dims=(5,), seed=0, **options)


def stored(x: Tensor, folder: Path, dtype: str = "float64") -> np.memmap:
    path = folder / f"{np.dtype(dtype).str}.npy"
    np.save(path, x.numpy().astype(dtype))
    return np.load(path, mmap_mode="r")


class Spied(np.memmap):
    """A memory map that writes down how many rows it was asked for at a time."""

    asked: list[int]

    def __array_finalize__(self, other: Any) -> None:
        super().__array_finalize__(other)
        self.asked = getattr(other, "asked", [])

    def __getitem__(self, rows: Any) -> Any:
        self.asked.append(len(rows))
        return np.asarray(super().__getitem__(rows))


# --- the three are one -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "bool", ">f4"])
def test_a_file_gives_the_points_in_memory(x: Tensor, tmp_path: Path, dtype: str) -> None:
    memory, file = as_source(small(), x), as_source(small(), stored(x, tmp_path, dtype))
    assert (type(memory), type(file)) == (Memory, File)
    for ours, theirs in [
        (memory, file),
        (memory.subset(torch.tensor([9, 0, 3])), file.subset(torch.tensor([9, 0, 3]))),
        (memory.subset(torch.arange(30, 50)).subset(torch.tensor([19, 5])),
         file.subset(torch.arange(30, 50)).subset(torch.tensor([19, 5]))),
    ]:  # fmt: skip
        assert len(ours) == len(theirs)
        assert ours.some().equal(theirs.some())
        for one, other in zip(ours.walk(7), theirs.walk(7), strict=True):
            assert len(one) <= 7
            assert one.equal(other)
        deals = [source.batches(8)(generator(1)) for source in (ours, theirs)]
        for (one,), (other,) in zip(*deals, strict=True):
            assert ours.ready(one).equal(theirs.ready(other))


def test_a_loader_gives_its_own_batches_whatever_size_is_asked_for(x: Tensor) -> None:
    source = as_source(small(), DataLoader(TensorDataset(x, x), batch_size=20))
    assert isinstance(source, Loader)
    assert [len(block) for block in source.walk(7)] == [20, 20, 10]
    dealt = [source.ready(batch) for (batch,) in source.batches(7)(generator(0))]
    assert torch.cat(dealt).equal(x)
    assert source.some().equal(x)


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2), (6,)])
def test_images_of_a_loader_or_a_file_are_flattened(
    shape: tuple[int, ...], x: Tensor, tmp_path: Path
) -> None:
    images = x.unflatten(1, shape)
    for data in (DataLoader(TensorDataset(images), batch_size=9), stored(images, tmp_path)):
        assert as_source(small(), data).some().equal(x)


def test_points_take_the_dtype_of_the_networks(x: Tensor, tmp_path: Path) -> None:
    model = small().float()
    loader = DataLoader(TensorDataset(x.to(torch.uint8)), batch_size=9)
    for data in (x, stored(x, tmp_path), loader):
        assert as_source(model, data).some().dtype == torch.float32


@pytest.mark.parametrize(("most", "expected"), [(20, 20), (25, 25), (50, 50), (90, 50)])
def test_reports_on_so_many_points_of_a_file_or_a_loader_and_all_in_memory(
    most: int, expected: int, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MOST", most)
    monkeypatch.setattr(sources, "BLOCK", 10)
    for data in (stored(x, tmp_path), DataLoader(TensorDataset(x), batch_size=10)):
        assert as_source(small(), data).some().equal(x[:expected])
    assert as_source(small(), x).some().equal(x)


# --- what is read ----------------------------------------------------------------------------


def spied(x: Tensor, folder: Path) -> Spied:
    file = stored(x, folder, "uint8")
    array = Spied(file.filename, dtype="uint8", mode="r", offset=file.offset, shape=file.shape)
    array.asked = []
    return array


@pytest.mark.parametrize(
    "likelihood", [vae.Gaussian(), vae.likelihoods.named("discretized_logistic")]
)
def test_of_a_file_only_the_rows_of_a_batch_are_read(
    likelihood: vae.Likelihood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", 9)
    array = spied(torch.randint(256, (40, D)), tmp_path)
    vae.fit(
        small(likelihood=likelihood), array, num_epochs=3, batch_size=8, validation=0.25, seed=0,
        progress=False,
    )  # fmt: skip
    check, epoch, report = [9, 9, 9, 9, 4], [8, 8, 8, 6, 8, 2], [9, 1]
    assert array.asked == check + 3 * epoch + report


def test_a_file_of_bytes_trains_as_the_same_numbers_in_memory(tmp_path: Path) -> None:
    x = torch.randint(256, (60, D))
    options: dict[str, Any] = {"num_epochs": 3, "batch_size": 16, "seed": 3, "progress": False}
    fits = [
        vae.fit(small(likelihood=vae.likelihoods.named("discretized_logistic")), data, **options)
        for data in (x, x.numpy(), stored(x, tmp_path, "uint8"), stored(x, tmp_path, "float32"))
    ]
    for fit in fits[1:]:
        assert fit.history == fits[0].history
        assert fit.elbo.value == fits[0].elbo.value
        assert fit.held_out.equal(fits[0].held_out)


# --- refusals --------------------------------------------------------------------------------


def every_way(x: Tensor, folder: Path) -> list[Any]:
    return [x, x.numpy(), stored(x, folder), DataLoader(TensorDataset(x), batch_size=20)]


def refusal(model: VAE, data: Any, name: str = "x") -> str:
    try:
        as_source(model, data, name).some()
    except ValueError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("name", ["x", "validation"])
def test_holes_and_wrong_widths_are_refused_by_name(name: str, x: Tensor, tmp_path: Path) -> None:
    holes = x.clone()
    holes[3, 2], holes[4, 1] = torch.nan, torch.inf
    for data in every_way(holes, tmp_path):
        assert refusal(small(), data, name) == f"{name} must be finite, got 2 nan or inf"
    for data in every_way(x[:, :4].clone(), tmp_path):
        assert refusal(small(), data, name) == f"{name} must have {D} columns, got 4"


def test_grey_points_are_refused_where_they_must_be_binary(x: Tensor, tmp_path: Path) -> None:
    grey = x.clone()
    grey[-1, 0] = 0.5
    for data in every_way(grey, tmp_path):
        assert refusal(small(), data).startswith("x must be binary for a Bernoulli likelihood")
        assert refusal(small(likelihood=vae.Bernoulli("dynamic")), data) == "nothing"
    for data in every_way(2 * x, tmp_path):
        assert refusal(small(likelihood=vae.Bernoulli("dynamic")), data).startswith(
            "x must be in [0, 1] to be binarized, got values between 0 and 2"
        )


def test_a_bad_batch_of_a_loader_is_refused_in_the_middle_of_the_training(x: Tensor) -> None:
    for bad, message in [
        (torch.full((3, D), torch.nan), "x must be finite"),
        (torch.ones(3, D + 1), f"x must have {D} columns, got {D + 1}"),
        (torch.full((3, D), 0.5), "x must be binary"),
        (torch.ones(()), r"x must have shape \(N, D\), got \(\)"),
        (torch.ones(3), f"x must have {D} columns, got 1"),
        ({"x": x}, "x must give tensors or arrays, got dict"),
    ]:
        model = small()
        with pytest.raises(ValueError, match=message):
            vae.fit(model, Given([x, bad]), num_epochs=1, seed=0, progress=False)


class Given:
    """A loader that is a list; the list itself would be read as points."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


@pytest.mark.parametrize(
    "data", [iter([1]), (n for n in range(3)), object(), TensorDataset(torch.ones(2))]
)
def test_refuses_what_is_neither_points_nor_a_loader(data: Any) -> None:
    rule = f"x must give its batches each time .* got {type(data).__name__}"
    with pytest.raises(ValueError, match=rule):
        vae.fit(small(), data)
    with pytest.raises(ValueError, match=rule.replace("x", "validation", 1)):
        vae.fit(small(), torch.ones(9, D), validation=data)


def test_refuses_loaders_that_give_nothing(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^batches must hold at least 1 batch an epoch, got 0"):
        vae.fit(small(), Given([]), progress=False)
    with pytest.raises(ValueError, match=r"^validation must hold at least 1 batch, got 0"):
        vae.fit(small(), x, validation=Given([]), progress=False)
    with pytest.raises(ValueError, match=r"^x must hold at least 1 points, got 0"):
        vae.fit(small(), Given([x[:0]]), progress=False)


def test_a_fraction_of_a_loader_cannot_be_held_out(x: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"^validation must be data for a loader, got the fraction 0.2$"
    ):
        vae.fit(small(), Given([x]), validation=0.2)


@pytest.mark.parametrize("fraction", [-0.1, 0.91, float("nan"), 1])
def test_refuses_impossible_fractions(fraction: float, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^validation must be in \[0.0, 0.9\], got"):
        vae.fit(small(), x, validation=fraction)
