import struct
from pathlib import Path

import pytest
import torch

from pplvae import data


def test_digits_by_word() -> None:
    assert torch.equal(data.load("digits").x, data.digits().x)


@pytest.mark.parametrize(("ending", "label"), [("", 1), (":train", 1), (":test", 2)])
def test_a_split_follows_the_folder(tmp_path: Path, ending: str, label: int) -> None:
    """Also where the folder has a colon of its own, as on Windows."""
    root = tmp_path / "C:mnist"
    root.mkdir()
    for stem, value in {"train": 1, "t10k": 2}.items():
        pixels = struct.pack(">IIII", 0x0803, 1, 1, 1) + bytes([value])
        (root / f"{stem}-images-idx3-ubyte").write_bytes(pixels)
        labels = struct.pack(">II", 0x0801, 1) + bytes([value])
        (root / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    for name, value in {"data_batch_2": 1, "test_batch": 2}.items():
        (root / f"{name}.bin").write_bytes(bytes([value]) * 3073)
    for name in ("mnist", "cifar10"):
        found = data.load(f"{name}:{root}{ending}").labels
        assert found is not None
        assert found.tolist() == [label]


def test_frey_by_file(real_data: Path) -> None:
    assert len(data.load(f"frey:{real_data / 'frey' / 'frey_rawface.mat'}")) == 1965


def test_a_manifold_is_the_same_every_time() -> None:
    roll = data.load("manifold:swiss_roll")
    assert (roll.x.shape, roll.shape, roll.name) == ((2000, 3), (3,), "swiss_roll")
    assert torch.equal(roll.x, data.load("manifold:swiss_roll").x)


@pytest.mark.parametrize(
    "spec",
    ["", "mnist", "mnist:", "Digits", "digits:x", "svhn:DIR", r"C:\data\table.xlsx", "x.pt"],
)
def test_an_unknown_spec_gets_the_list_of_what_is_understood(spec: str) -> None:
    with pytest.raises(
        ValueError, match=r'spec must be "digits", "mnist:DIR".*\.parquet'
    ) as raised:
        data.load(spec)
    assert str(raised.value).endswith(f"got {spec!r}")


def test_the_case_of_an_ending_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "A.CSV").write_text("1,2\n3,4\n")
    assert len(data.load(str(tmp_path / "A.CSV"))) == 2
