import gzip
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pplvae import data

PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
NAMES = [
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
]  # fmt: skip


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


def images(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 3), dtype=np.uint8)


@pytest.fixture
def small_mnist(tmp_path: Path) -> Path:
    for name in NAMES:
        values = images() if "images" in name else np.arange(5, dtype=np.uint8)
        (tmp_path / name).write_bytes(idx(values))
    return tmp_path


@pytest.fixture
def small_cifar(tmp_path: Path) -> Path:
    records = np.random.default_rng(0).integers(0, 10, (7, 3073), dtype=np.uint8)
    for name, part in {"data_batch_1": records[:2], "data_batch_3": records[2:6]}.items():
        (tmp_path / f"{name}.bin").write_bytes(part.tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records[6:].tobytes())
    return tmp_path


def test_digits_are_the_ones_of_scikit_learn() -> None:
    digits = data.digits()
    assert (len(digits), digits.shape, digits.x.dtype) == (1797, (8, 8), torch.float32)
    assert (digits.x.min(), digits.x.max()) == (0, 16)
    assert digits.labels is not None
    assert digits.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_reads_every_spelling(
    small_mnist: Path, split: str, spelling: str, zipped: bool
) -> None:
    for path in list(small_mnist.iterdir()):
        content, name = path.read_bytes(), path.name.replace("-idx", spelling)
        path.unlink()
        name, content = (name + ".gz", gzip.compress(content)) if zipped else (name, content)
        (small_mnist / name).write_bytes(content)
    found = data.mnist(small_mnist, split)
    assert (found.shape, found.x.dtype) == ((4, 3), torch.float32)
    assert torch.equal(found.x, torch.from_numpy(images().reshape(5, 12)).float())
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3, 4]


def test_mnist_takes_a_file_that_a_browser_unpacked_under_its_old_name(small_mnist: Path) -> None:
    (small_mnist / NAMES[0]).rename(small_mnist / (NAMES[0] + ".gz"))
    assert len(data.mnist(small_mnist)) == 5


BROKEN_IDX = {
    "a web page": (PAGE, "an IDX file of bytes with 3 axes, gzipped or not, got a web page"),
    "nothing": (b"", "got an empty file"),
    "labels": (idx(np.zeros(5, np.uint8)), "got a file that begins with 0x00000801"),
    "half a header": (idx(images())[:9], "IDX file of bytes"),
    "a short file": (
        idx(images())[:-1],
        "60 bytes after its header, as that says, got 59",
    ),
    "a long file": (
        idx(images()) + b"0",
        "60 bytes after its header, as that says, got 61",
    ),
    "a gzip cut short": (gzip.compress(idx(images()))[:-12], "cut short or damaged"),
    "a damaged gzip": (gzip.compress(idx(images()))[:-8] + b"\0" * 8, "cut short or damaged"),
    "a gzip of noise": (gzip.compress(b"")[:10] + b"\xff" * 20, "cut short or damaged"),
}


@pytest.mark.parametrize("kind", BROKEN_IDX)
def test_mnist_refuses_a_broken_file_by_name(small_mnist: Path, kind: str) -> None:
    content, message = BROKEN_IDX[kind]
    (small_mnist / NAMES[0]).write_bytes(content)
    with pytest.raises(ValueError, match=f"{NAMES[0]} must be .*{message}.*LeCun") as raised:
        data.mnist(small_mnist)
    assert re.search(message, str(raised.value))


@pytest.mark.parametrize("sizes", [(2**32 - 1,) * 3, (2**31, 1, 1)])
def test_mnist_allocates_nothing_for_a_header_that_asks_for_much(
    small_mnist: Path, sizes: tuple[int, int, int]
) -> None:
    header = struct.pack(">IIII", 0x0803, *sizes)
    (small_mnist / NAMES[0]).write_bytes(gzip.compress(header))
    tracemalloc.start()
    with pytest.raises(ValueError, match="bytes after its header, as that says, got 0"):
        data.mnist(small_mnist)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_mnist_refuses_labels_that_are_not_one_for_each_image(small_mnist: Path) -> None:
    (small_mnist / NAMES[1]).write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(ValueError, match="one label for each of 5 images, got 4 labels"):
        data.mnist(small_mnist)


def test_mnist_refuses_an_unknown_split(small_mnist: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of test, train, got 'dev'"):
        data.mnist(small_mnist, "dev")


@pytest.mark.parametrize("name", NAMES[:2])
def test_mnist_says_which_file_is_missing_and_where_to_get_it(
    small_mnist: Path, name: str
) -> None:
    (small_mnist / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} must be .* nothing there; get it from"):
        data.mnist(small_mnist)


def test_frey_faces_are_columns_of_the_file(tmp_path: Path) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (560, 3), dtype=np.uint8)
    savemat(tmp_path / "frey_rawface.mat", {"ff": faces})
    for path in (tmp_path, tmp_path / "frey_rawface.mat"):
        found = data.frey_faces(path)
        assert (found.shape, found.labels, found.x.dtype) == ((28, 20), None, torch.float32)
        assert torch.equal(found.x, torch.from_numpy(faces.T.copy()).float())


def mat(path: Path, **arrays: object) -> bytes:
    savemat(path, arrays)
    return path.read_bytes()


def test_frey_refuses_what_is_not_its_file(tmp_path: Path) -> None:
    path = tmp_path / "frey_rawface.mat"
    good = mat(path, ff=np.zeros((560, 3), np.uint8))
    sizes = struct.pack("<ii", 560, 3)
    assert sizes in good
    for content, found in {
        PAGE: "a web page without a readable `ff`",
        b"": "an empty file",
        good[:-100]: "a MATLAB file without a readable `ff`",
        good.replace(sizes, struct.pack("<ii", 560, 2**30)): "a MATLAB file without a readable",
        mat(path, gg=np.zeros((560, 3))): "a MATLAB file without a readable `ff`",
        mat(path, ff=np.zeros((3, 560))): r"float64 of shape \(3, 560\)",
        mat(path, ff="words"): "<U5 of shape",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"frey_rawface.mat must be .* got {found}.*Roweis"):
            data.frey_faces(path)


def test_frey_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"frey_rawface\.mat must be .* got nothing there"):
        data.frey_faces(tmp_path)


def test_cifar_reads_the_batches_that_are_there_in_order(small_cifar: Path) -> None:
    raw = b"".join((small_cifar / f"data_batch_{i}.bin").read_bytes() for i in (1, 3))
    records = torch.tensor(list(raw)).reshape(6, 3073)
    found = data.cifar10(small_cifar)
    assert (found.shape, found.x.dtype) == ((3, 32, 32), torch.float32)
    assert torch.equal(found.x, records[:, 1:].float())
    assert found.labels is not None
    assert torch.equal(found.labels, records[:, 0])
    assert len(data.cifar10(small_cifar, "test")) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PAGE, "a web page, 0.02 records"),
        (b"", "an empty file, 0.00 records"),
        (b"\1" * 5000, "1.63 records"),
        (b"\x0b" * 3073, "labels 0 to 9, got label 11"),
    ],
)
def test_cifar_refuses_a_broken_batch(small_cifar: Path, content: bytes, message: str) -> None:
    (small_cifar / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_3.bin must be .*{message}.*Krizhevsky"):
        data.cifar10(small_cifar)


@pytest.mark.parametrize(("split", "name"), [("train", "data_batch_1"), ("test", "test_batch")])
def test_cifar_says_what_is_missing(tmp_path: Path, split: str, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name}.bin must be .*binary version.*nothing"):
        data.cifar10(tmp_path, split)


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
)
def test_the_real_mnist(real_data: Path, split: str, counts: list[int]) -> None:
    found = data.mnist(real_data / "mnist", split)
    assert (found.x.shape, found.shape) == ((sum(counts), 784), (28, 28))
    assert found.labels is not None
    assert found.labels.bincount().tolist() == counts
    if (
        split == "train"
    ):  # the mean and deviation that everyone normalizes by, to their four digits
        assert found.x.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
        assert found.x.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_the_real_frey_faces_are_upright_frames_of_a_film(real_data: Path) -> None:
    found = data.frey_faces(real_data / "frey")
    assert (found.x.shape, found.shape) == ((1965, 560), (28, 20))
    # Root mean squared steps between frames, rows, columns, over the standard deviation: measured
    # 0.45, 0.62, 0.68. Shuffled frames give 0.87, pictures read as 20 x 28 give 1.32 between rows.
    frames = found.x.reshape(-1, 28, 20)
    spread = found.x.std()
    for axis, share in {0: 0.5, 1: 0.65, 2: 0.7}.items():
        assert frames.diff(dim=axis).square().mean().sqrt() < share * spread


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_real_cifar_has_its_channels_first_and_smooth(real_data: Path, split: str) -> None:
    found = data.cifar10(real_data / "cifar-10-batches-bin", split)
    assert found.labels is not None
    assert found.labels.bincount().tolist() == [len(found) // 10] * 10
    # Measured 0.42, 0.39, 0.36; read with the channels last, 0.71 and 0.82 along the first two.
    pictures = found.x.reshape(-1, 3, 32, 32)
    for axis in (1, 2, 3):
        assert pictures.diff(dim=axis).square().mean().sqrt() < 0.5 * found.x.std()
