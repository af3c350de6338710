"""Tables from .csv and .parquet files, with at most one column of classes.

A column named label, labels, target, class or species, or else the only one of words, becomes the
labels: whole numbers stay, words are numbered in alphabetical order. Any other word is refused,
and so is any gap: what stands in for it is for the user to say.
"""

import csv
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pplvae.data.dataset import Dataset
from pplvae.data.files import broken, find, opening_of
from pplvae.validation import as_points

if TYPE_CHECKING:
    import pandas as pd

LABEL_NAMES = ("label", "labels", "target", "class", "species")


def comma_separated(path: str | Path) -> Dataset:
    """Return the table of a .csv file, with a header or without.

    A first row without any number is a header; so is the row 0, 1, 2, ... that pandas writes over
    three or more columns without names.

    Args:
        path: N rows of D numbers, and perhaps one column of classes.

    Returns:
        The points as float64, x of shape (N, D).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table, a column has no name, values are missing, or words stand
            where numbers should.
    """
    import pandas as pd

    expected = "a comma-separated table with a name for each column or for none"
    path = find(Path(path), expected)
    try:
        header = 0 if _has_header(path) else None
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, header=header, index_col=False, encoding="utf-8-sig", low_memory=False
            )
    except (ValueError, csv.Error, pd.errors.ParserWarning) as error:
        raise broken(path, expected, f"{opening_of(path)} ({error})") from error
    names = frame.columns if header == 0 else range(1, frame.shape[1] + 1)
    return _from_frame(path, frame.set_axis([str(name).strip() for name in names], axis=1))


def parquet(path: str | Path) -> Dataset:
    """Return the table of a .parquet file; needs pyarrow.

    Args:
        path: N rows of D numbers, and perhaps one column of classes.

    Returns:
        The points, x of shape (N, D), float32 where all columns are, else float64.

    Raises:
        ImportError: If pyarrow is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table, values are missing, or words stand where numbers should.
    """
    expected = "a Parquet table"
    path = find(Path(path), expected)
    try:
        import pandas as pd
        import pyarrow  # noqa: F401  # asked for here, to name the extra that brings it
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow: pip install pplvae[parquet]") from error
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except (ValueError, OSError) as error:
        raise broken(path, expected, f"{opening_of(path)} ({error})") from error
    return _from_frame(path, frame.set_axis([str(name) for name in frame.columns], axis=1))


def _has_header(path: Path) -> bool:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next((row for row in csv.reader(file) if row), [])
    if first and first[0].lstrip().startswith("<"):
        raise ValueError("no row of a table")
    names = [field.strip() for field in first if field.strip()]
    numbered = len(names) > 2 and names == [str(i) for i in range(len(names))]
    header = numbered or not any(map(_is_number, names))
    if header and len(names) < len(first):
        raise ValueError("a column has no name; is it the number of the row?")
    return header


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _from_frame(path: Path, frame: "pd.DataFrame") -> Dataset:
    _check_complete(path, frame)
    label = _label_column(path, frame)
    features = frame if label is None else frame.drop(columns=label)
    words = _words(features)
    if not features.size:
        raise broken(path, "a table of numbers", f"{len(frame)} rows of {features.shape[1]}")
    if words:
        found = ", ".join(f"{word!r} in column {name!r}" for name, word in words.items())
        raise broken(path, "a table of numbers with at most one column of classes", found)
    dtype = np.float32 if (features.dtypes == np.float32).all() else np.float64
    x = as_points(features.to_numpy(dtype, copy=True), name=str(path))
    labels = None if label is None else _codes(path, frame, label)
    return Dataset(x, (x.shape[1],), labels, path.stem)


def _check_complete(path: Path, frame: "pd.DataFrame") -> None:
    if frame.columns.has_duplicates:
        found = ", ".join(map(repr, frame.columns[frame.columns.duplicated()]))
        raise broken(path, "a table of columns with names of their own", f"{found} repeated")
    gaps = {name: count for name, count in frame.isna().sum().items() if count}
    if gaps:
        found = ", ".join(f"{count} missing in column {name!r}" for name, count in gaps.items())
        raise broken(path, "a table without missing values", found)


def _label_column(path: Path, frame: "pd.DataFrame") -> str | None:
    named = [name for name in frame.columns if name.lower() in LABEL_NAMES]
    if len(named) > 1:
        raise broken(path, "a table with one column of classes", " and ".join(named))
    if named:
        return named[0]
    words = list(_words(frame))
    # A column that also holds numbers is no column of classes but one with a slip in it.
    slip = any(_is_number(str(value)) for name in words for value in frame[name])
    return words[0] if len(words) == 1 and not slip else None


def _words(frame: "pd.DataFrame") -> dict[str, str]:
    """Return the columns that are not numbers, with the first value of each that is none."""
    columns = frame.select_dtypes(exclude=["number", "bool", "boolean"]).astype(str)
    return {
        str(name): next((word for word in column if not _is_number(word)), "numbers as text")
        for name, column in columns.items()
    }


def _codes(path: Path, frame: "pd.DataFrame", label: str) -> Tensor:
    import pandas as pd

    if label in _words(frame):
        return torch.tensor(pd.factorize(frame[label].astype(str), sort=True)[0])
    values = frame[label].to_numpy(np.float64, copy=True)
    if (values != values.round()).any():
        found = f"{values[values != values.round()][0]:g}"
        raise broken(path, f"whole numbers or words in column {label!r}", found)
    return torch.from_numpy(values)
