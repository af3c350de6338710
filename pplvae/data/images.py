"""The classic image sets, read from the files their authors publish; nothing is downloaded.

Pixels stay as they were stored, as float32; `Dataset.scaled` brings them to [0, 1].
"""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pplvae.data.dataset import Dataset
from pplvae.data.files import broken, find, looks_like
from pplvae.validation import check_one_of

MNIST_PAGE = "the MNIST page of Yann LeCun, yann.lecun.com/exdb/mnist"
FREY_PAGE = "the data page of Sam Roweis, cs.nyu.edu/~roweis/data.html"
CIFAR_PAGE = "the CIFAR-10 page of Alex Krizhevsky, www.cs.toronto.edu/~kriz/cifar.html"
SPLITS = ("train", "test")


def digits() -> Dataset:
    """Return the 1,797 handwritten digits that ship with scikit-learn.

    Returns:
        Images (8, 8) with values 0 to 16, x of shape (1797, 64), labels 0 to 9.

    Reference:
        Alpaydin & Kaynak (1998), Optical recognition of handwritten digits,
        https://doi.org/10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    x, labels = map(np.asarray, load_digits(return_X_y=True))
    return Dataset(_pixels(x), (8, 8), torch.from_numpy(labels), "digits")


def mnist(root: str | Path, split: str = "train") -> Dataset:
    """Return the MNIST digits, or any set in the same format, as Fashion-MNIST.

    Args:
        root: The folder of the four IDX files, gzipped or not, `train-images-idx3-ubyte` or
            `train-images.idx3-ubyte` and so on.
        split: "train" (60,000 images) or "test" (10,000).

    Returns:
        Images (28, 28) with values 0 to 255, x of shape (N, 784), labels 0 to 9.

    Raises:
        FileNotFoundError: If one of the two files of the split is not there.
        ValueError: If one is no IDX file, is cut short, or they differ in length.

    Reference:
        LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document
        recognition, https://doi.org/10.1109/5.726791
    """
    check_one_of("split", split, SPLITS)
    stem = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(Path(root), f"{stem}-images-idx3-ubyte", 3)
    labels = _read_idx(Path(root), f"{stem}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise broken(
            Path(root), f"one label for each of {len(images):,} images", f"{len(labels):,} labels"
        )
    height, width = images.shape[1:]
    x = _pixels(images.reshape(len(images), height * width))
    return Dataset(x, (height, width), torch.tensor(labels), "mnist")


def frey_faces(path: str | Path) -> Dataset:
    """Return the Frey faces, 1,965 frames of one man's face in a film.

    Args:
        path: The file `frey_rawface.mat`, or its folder.

    Returns:
        Images (28, 20) with values 0 to 255, x of shape (1965, 560), no labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the MATLAB file with 560 rows of pixels under `ff`.

    Reference:
        Roweis, Saul & Hinton (2001), Global coordination of local linear models.
    """
    path = Path(path).expanduser()
    path = path / "frey_rawface.mat" if path.is_dir() else path
    expected = "the MATLAB 5 file of the Frey faces, an array `ff` of 560 x 1965 bytes"
    content = find(path, expected, FREY_PAGE).read_bytes()
    faces = _read_mat(content, "ff")
    if faces is None:
        raise broken(path, expected, f"{looks_like(content)} without a readable `ff`", FREY_PAGE)
    if faces.ndim != 2 or len(faces) != 28 * 20 or faces.dtype.kind not in "uif":
        raise broken(path, expected, f"{faces.dtype} of shape {faces.shape}", FREY_PAGE)
    return Dataset(_pixels(faces.T), (28, 20), None, "frey")


def cifar10(root: str | Path, split: str = "train") -> Dataset:
    """Return the CIFAR-10 photographs, from the binary version.

    Args:
        root: The folder `cifar-10-batches-bin`. Of `data_batch_1.bin` to `data_batch_5.bin` those
            that are there are read, in order.
        split: "train" (up to 50,000 images) or "test" (10,000, `test_batch.bin`).

    Returns:
        Images (3, 32, 32), channels red, green, blue, with values 0 to 255, x of shape (N, 3072),
        labels 0 to 9.

    Raises:
        FileNotFoundError: If none of the files is there.
        ValueError: If one is not made of whole records, a label byte and 3,072 pixels.

    Reference:
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    check_one_of("split", split, SPLITS)
    root = Path(root).expanduser()
    numbered = [root / f"data_batch_{i}.bin" for i in range(1, 6)]
    paths = numbered if split == "train" else [root / "test_batch.bin"]
    paths = [path for path in paths if path.is_file()] or paths[:1]
    records = np.concatenate([_read_records(path) for path in paths])
    labels = torch.tensor(records[:, 0])
    return Dataset(_pixels(records[:, 1:]), (3, 32, 32), labels, "cifar10")


def _pixels(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _read_idx(root: Path, name: str, num_axes: int) -> np.ndarray:
    """Return the bytes of an IDX file: a magic number, the size of each axis, then the values."""
    expected = f"an IDX file of bytes with {num_axes} axes, gzipped or not"
    spellings = [name, name.replace("-idx", ".idx")]
    candidates = [root.expanduser() / f"{s}{end}" for s in spellings for end in ("", ".gz")]
    path = next((path for path in candidates if path.is_file()), candidates[0])
    content = _gunzipped(find(path, expected, MNIST_PAGE), expected)
    start = 4 + 4 * num_axes
    if content[:4] != bytes([0, 0, 8, num_axes]) or len(content) < start:
        raise broken(path, expected, looks_like(content), MNIST_PAGE)
    sizes = np.frombuffer(content, ">u4", count=num_axes, offset=4).tolist()
    # Compared before anything is allocated: a broken header may ask for any amount.
    if len(content) - start != math.prod(sizes):
        promised = f"{math.prod(sizes):,} bytes after its header, as that says"
        raise broken(path, promised, f"{len(content) - start:,}", MNIST_PAGE)
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _gunzipped(path: Path, expected: str) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):  # browsers unpack and keep the name
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        found = f"a gzip file of {len(content):,} bytes that is cut short or damaged"
        raise broken(path, expected, found, MNIST_PAGE) from error


def _read_mat(content: bytes, name: str) -> np.ndarray | None:
    """Return the array `name` of a MATLAB file, None where there is no way to it."""
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), variable_names=[name]).get(name)
    except Exception:  # a broken file makes scipy raise nearly anything
        return None
    return found if isinstance(found, np.ndarray) else None


def _read_records(path: Path) -> np.ndarray:
    """Return the records of a CIFAR-10 file, shape (N, 3073)."""
    size = 1 + 3 * 32 * 32
    expected = f"a file of the binary version of CIFAR-10, whole records of {size:,} bytes"
    content = find(path, expected, CIFAR_PAGE).read_bytes()
    if not content or len(content) % size:
        found = f"{looks_like(content)}, {len(content) / size:.2f} records"
        raise broken(path, expected, found, CIFAR_PAGE)
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    if records[:, 0].max() > 9:
        raise broken(
            path, expected + ", labels 0 to 9", f"label {records[:, 0].max()}", CIFAR_PAGE
        )
    return records
