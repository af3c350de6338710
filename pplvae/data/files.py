"""What is said of a file that is missing, or is not what its name says."""

from pathlib import Path

OPENINGS = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB": "a MATLAB file",
    b"\x93NUMPY": "a NumPy file",
    b"PAR1": "a Parquet file",
}


def find(path: Path, expected: str, source: str = "") -> Path:
    """Return the path of a file that is there.

    Args:
        path: Where it should be.
        expected: What it should be, for the message.
        source: Where to get it.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = path.expanduser()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing there"
        raise FileNotFoundError(_sentence(path, expected, found, source))
    return path


def broken(path: Path, expected: str, found: str, source: str = "") -> ValueError:
    """Return the error for a file that should be `expected` and is `found`."""
    return ValueError(_sentence(path, expected, found, source))


def looks_like(content: bytes) -> str:
    """Return in words what a file is by its first bytes."""
    if not content:
        return "an empty file"
    if content.lstrip()[:1] == b"<":
        return "a web page"
    known = (kind for opening, kind in OPENINGS.items() if content.startswith(opening))
    return next(known, f"a file that begins with 0x{content[:4].hex()}")


def opening_of(path: Path) -> str:
    """Return in words what the file is by its first bytes."""
    with path.open("rb") as file:
        return looks_like(file.read(64))


def _sentence(path: Path, expected: str, found: str, source: str) -> str:
    return f"{path} must be {expected}, got {found}" + (
        f"; get it from {source}" if source else ""
    )
