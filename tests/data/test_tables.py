import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pplvae.data import Dataset, load


def read(tmp_path: Path, text: str) -> Dataset:
    path = tmp_path / "flowers.csv"
    path.write_text(text, encoding="utf-8")
    return load(path)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("1,2\n3,4\n", None),
        ("a,b\n1,2\n3,4\n", None),
        ("\ufeffa, b\r\n1, 2\r\n\r\n3, 4", None),
        ("1,2,rose\n3,4,iris\n", [1, 0]),
        ("a,color,b\n1,red,2\n3,red,4\n", [0, 0]),
        ("Label,b,c\n7,1,2\n5,3,4\n", [7, 5]),
        ("b,c,class\n1,2,7.0\n3,4,5.0\n", [7, 5]),
        ("b,c,target\n1,2,True\n3,4,False\n", [1, 0]),
        ("b,species,c\n1,x,2\n3,y,4\n", [0, 1]),
    ],
)
def test_reads_a_table_with_or_without_header_and_labels(
    tmp_path: Path, text: str, labels: list[int] | None
) -> None:
    found = read(tmp_path, text)
    assert (found.name, found.shape, found.x.dtype) == ("flowers", (2,), torch.float64)
    assert found.x.tolist() == [[1, 2], [3, 4]]
    assert (found.labels if found.labels is None else found.labels.tolist()) == labels


def test_a_byte_order_mark_is_no_word(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff1\n2\n").x.tolist() == [[1], [2]]


def test_knows_the_header_that_pandas_writes_over_nameless_columns(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    pd.DataFrame(x).to_csv(tmp_path / "a.csv", index=False)
    assert np.array_equal(load(tmp_path / "a.csv").x.numpy(), x)


def test_loses_no_digit(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(500, 2)) * 10.0 ** np.arange(-150, 150, 300)
    np.savetxt(tmp_path / "a.csv", x, delimiter=",", fmt="%.17g")
    assert np.array_equal(load(tmp_path / "a.csv").x.numpy(), x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "flowers.csv must be a comma-separated table .* got an empty file"),
        ("\n\n", "must be a comma-separated table"),
        ("a,b\n", "must be a table of numbers, got 0 rows of 2"),
        ("<!DOCTYPE html>\n<p>a, b</p>\n", "got a web page"),
        ("\n <html>\n<p>a, b, c</p>\n<p>\n", "got a web page"),
        ("a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
        ("a,b\n1,2,3\n4,5,6\n", "does not match length of data"),
        (",a,b\n0,1,2\n1,3,4\n", "a column has no name; is it the number of the row"),
        ("a,b\n1,\n3,NA\n4,5\n", "without missing values, got 2 missing in column 'b'"),
        ("1,2\n,4\n", "1 missing in column '1'"),
        ("a,label\n1,x\n3,\n", "1 missing in column 'label'"),
        ("a,b\n1,2\n3,?\n", r"got '\?' in column 'b'"),
        ("a,b,c\n1,x,u\n3,y,v\n", "got 'x' in column 'b', 'u' in column 'c'"),
        ("a,name,species\n1,x,u\n3,y,v\n", "got 'x' in column 'name'"),
        ("a,label,class\n1,0,1\n", "one column of classes, got label and class"),
        ("a,target\n1,0.25\n2,1\n", "whole numbers or words in column 'target', got 0.25"),
        ("label\nx\ny\n", "must be a table of numbers, got 2 rows of 0"),
        ("a,b\n1,inf\n2,3\n", "must be finite, got 1 nan or inf"),
        ("a;b\n1;2\n3;4\n", "must be a table of numbers, got 2 rows of 0"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_table_of_numbers(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\x1f\x8b\xff\xfe\n\xff")
    with pytest.raises(ValueError, match="got a gzip file"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "Int64"])
def test_parquet_keeps_values_types_and_classes(tmp_path: Path, dtype: str) -> None:
    frame = pd.DataFrame({"a": [1, 3], "b": [2, 4]}, dtype=dtype)
    frame["species"] = pd.Categorical(["rose", "iris"])
    frame.to_parquet(tmp_path / "a.parquet")
    found = load(tmp_path / "a.parquet")
    assert found.x.dtype == (torch.float32 if dtype == "float32" else torch.float64)
    assert found.x.tolist() == [[1, 2], [3, 4]]
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]


def test_parquet_refuses_gaps_and_dates(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": [1.0, None]}).to_parquet(path)
    with pytest.raises(ValueError, match="1 missing in column 'a'"):
        load(path)
    pd.DataFrame({"a": [1.0], "b": ["x"], "on": pd.to_datetime(["2020-01-02"])}).to_parquet(path)
    with pytest.raises(ValueError, match="'2020-01-02' in column 'on'"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PAR1 and then nothing"])
def test_parquet_refuses_a_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet must be a Parquet table, got a"):
        load(tmp_path / "a.parquet")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install pplvae\[parquet\]"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_says_what_is_missing(tmp_path: Path, ending: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"gone{ending} must be .* got nothing there"):
        load(tmp_path / f"gone{ending}")
