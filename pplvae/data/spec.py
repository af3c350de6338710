"""One word for a data set, as the command line takes it."""

from collections.abc import Callable
from pathlib import Path

from pplvae.data import arrays, images, manifolds, tables
from pplvae.data.dataset import Dataset

READERS: dict[str, Callable[[str], Dataset]] = {
    ".npy": arrays.npy,
    ".npz": arrays.npz,
    ".csv": tables.comma_separated,
    ".parquet": tables.parquet,
}
UNDERSTOOD = (
    '"digits", "mnist:DIR", "frey:FILE", "cifar10:DIR" ("mnist:DIR:test" and "cifar10:DIR:test" '
    f'for the test images), "manifold:NAME", or a path that ends in {", ".join(READERS)}'
)
MANIFOLD_POINTS = 2000


def load(spec: str | Path) -> Dataset:
    """Return the data set that `spec` names.

    Args:
        spec: "digits"; "mnist:DIR", "cifar10:DIR", their test images as "mnist:DIR:test";
            "frey:FILE"; "manifold:NAME", 2,000 points of `manifolds.sample`, the same every time;
            or the path of an .npy, .npz, .csv or .parquet file.

    Returns:
        The data, x of shape (N, D).

    Raises:
        FileNotFoundError: If the files are not there.
        ValueError: If the spec names nothing that is known, or a file is not what it should be.
    """
    name, _, place = str(spec).partition(":")
    if str(spec) == "digits":
        return images.digits()
    if place and name in ("mnist", "cifar10"):
        root, split = _split(place)
        return (images.mnist if name == "mnist" else images.cifar10)(root, split)
    if place and name == "frey":
        return images.frey_faces(place)
    if place and name == "manifold":
        x = manifolds.sample(place, MANIFOLD_POINTS, seed=0).x
        return Dataset(x, (x.shape[1],), None, place)
    reader = READERS.get(Path(spec).suffix.lower())
    if reader is None:
        raise ValueError(f"spec must be {UNDERSTOOD}, got {str(spec)!r}")
    return reader(str(spec))


def _split(place: str) -> tuple[str, str]:
    """Return the folder and the split of "DIR", "DIR:train" or "DIR:test"."""
    root, _, split = place.rpartition(":")
    return (root, split) if root and split in images.SPLITS else (place, "train")
