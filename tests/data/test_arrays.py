import io
from pathlib import Path

import numpy as np
import pytest
import torch

from pplvae.data import load

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i4", "u1", "?"])
def test_a_table_comes_back_as_it_was_saved(tmp_path: Path, dtype: str) -> None:
    values = RNG.integers(0, 2, (6, 3)).astype(dtype)
    np.save(tmp_path / "points.npy", values)
    found = load(tmp_path / "points.npy")
    assert (found.name, found.shape, found.labels) == ("points", (3,), None)
    assert found.x.dtype == (torch.float32 if dtype == "f4" else torch.float64)
    assert np.array_equal(found.x.numpy(), values)


@pytest.mark.parametrize(
    ("saved", "shape"),
    [((5, 4, 3), (4, 3)), ((5, 3, 4, 2), (3, 4, 2)), ((5, 1, 4, 2), (4, 2)), ((5,), (1,))],
)
def test_three_and_four_axes_are_images(
    tmp_path: Path, saved: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    values = np.asfortranarray(RNG.integers(0, 256, saved, dtype=np.uint8))
    np.save(tmp_path / "a.npy", values)
    found = load(tmp_path / "a.npy")
    assert (found.shape, found.is_image) == (shape, len(saved) > 2)
    assert np.array_equal(found.x.numpy(), values.reshape(5, -1))
    assert found.x.dtype == (torch.float32 if len(saved) > 2 else torch.float64)


@pytest.mark.parametrize("label", ["labels", "y"])
@pytest.mark.parametrize("name", ["x", "anything"])
def test_npz_finds_the_table_and_its_labels(tmp_path: Path, name: str, label: str) -> None:
    x, labels = RNG.normal(size=(4, 2)), np.array([3, 1, 2, 2], dtype=np.uint8)
    np.savez(tmp_path / "a.npz", **{name: x, label: labels})
    found = load(tmp_path / "a.npz")
    assert np.array_equal(found.x.numpy(), x)
    assert found.labels is not None
    assert (found.labels.tolist(), found.labels.dtype) == ([3, 1, 2, 2], torch.int64)


def test_npz_prefers_x(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros((4, 2)), x=np.ones((3, 5)))
    assert load(tmp_path / "a.npz").shape == (5,)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, **arrays)
    return stream.getvalue()


# The header says 4 x 2, and in the second place a number that no machine holds.
HUGE = npy(np.zeros((4, 2))).replace(b"(4, 2), }" + b" " * 13, b"(4" + b"0" * 13 + b", 2), }")
TABLE = np.ones((4, 2))
REFUSED = {
    "a web page": (".npy", b"<html>", "an .npy file of numbers, got a web page"),
    "an empty file": (".npy", b"", "got an empty file"),
    "a short file": (".npy", npy(TABLE)[:-8], "got a NumPy file"),
    "a huge header": (".npy", HUGE, "got a NumPy file"),
    "objects": (".npy", npy(np.array([[{}]], dtype=object)), "an .npy file of numbers"),
    "complex numbers": (".npy", npy(TABLE * 1j), r"got complex128 of shape \(4, 2\)"),
    "words": (".npy", npy(np.array([["a"]])), r"must be numbers of shape .* got <U1"),
    "five axes": (".npy", npy(np.ones((2,) * 5)), r"got float64 of shape \(2, 2, 2, 2, 2\)"),
    "channels last": (".npy", npy(np.ones((2, 8, 8, 3))), "one to four channels, got float64"),
    "one number": (".npy", npy(np.array(1.0)), r"got float64 of shape \(\)"),
    "no points": (".npy", npy(np.ones((0, 3))), "must hold at least 1 points, got 0"),
    "nan": (".npy", npy(TABLE * np.nan), "must be finite, got 8 nan or inf"),
    "a web page too": (".npz", b"<html>", "an .npz file of numbers, got a web page"),
    "a short archive": (".npz", npz(x=TABLE)[:-20], "got a zip file"),
    "a huge member": (".npz", None, "got a zip file"),
    "two tables": (".npz", npz(a=TABLE, b=TABLE), "got 2 such, of a, b"),
    "no table": (".npz", npz(a=TABLE[0]), "got 0 such, of a"),
    "pickled labels": (".npz", npz(x=TABLE, y=np.array([{}] * 4)), "an .npz file of numbers"),
    "too few labels": (".npz", npz(x=TABLE, y=np.zeros(3)), "one for each of 4 points, got 3"),
    "word labels": (".npz", npz(x=TABLE, y=np.array(["a"] * 4)), "must be an array of numbers"),
}  # fmt: skip


def huge_member() -> bytes:
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", HUGE)
    return stream.getvalue()


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses_by_name(tmp_path: Path, kind: str) -> None:
    ending, content, message = REFUSED[kind]
    path = tmp_path / f"odd{ending}"
    path.write_bytes(huge_member() if content is None else content)
    with pytest.raises(ValueError, match=message):
        load(path)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_says_what_is_missing(tmp_path: Path, ending: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"gone{ending} must be .* got nothing there"):
        load(tmp_path / f"gone{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(FileNotFoundError, match="got a folder"):
        load(tmp_path / f"folder{ending}")
