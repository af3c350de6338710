import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pplvae.storage import read_weights, remove_left_over, write_atomically, write_weights


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_makes_the_file_and_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text"
    write_atomically(path, lambda name: name.write_text("whole"))
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_replaces_an_old_file_only_once_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("old")

    def write(name: Path) -> None:
        name.write_text("new")
        assert path.read_text() == "old"
        assert name.parent == path.parent  # a rename is atomic only within one file system

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_keeps_the_old_file_and_leaves_nothing_else_when_the_writer_fails(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "text"
    path.write_text("old")

    def write(name: Path) -> None:
        name.write_text("ne")
        raise error("disk full")

    with pytest.raises(error, match="disk full"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_to_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", lambda name: name.write_text("x"))
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize(
    "write",
    [
        lambda name: name.write_text("x"),
        lambda name: torch.save({"x": 1}, name),
        lambda name: save_file({"x": torch.zeros(1)}, name),
    ],
    ids=["text", "torch", "safetensors"],
)
def test_the_file_is_as_open_to_others_as_the_user_wishes(
    tmp_path: Path, umask: int, write: Callable[[Path], object]
) -> None:
    write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_temporary_name_keeps_the_ending_that_writers_go_by(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.npy", lambda name: np.save(name, np.arange(3)))
    assert np.load(tmp_path / "x.npy").tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npy"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    others = [".0123abcd.run-layer-1", ".0123abcd.other", "run", ".run", ".x123abcd.run"]
    for name in [*others, ".0123abcd.run", ".fedcba98.run"]:
        (tmp_path / name).touch()
    remove_left_over(tmp_path / "run")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(others)
    (tmp_path / ".0123abcd.a[b]*").touch()
    remove_left_over(tmp_path / "a[b]*")
    assert not (tmp_path / ".0123abcd.a[b]*").exists()
    remove_left_over(tmp_path / "no" / "folder")


def test_a_writer_whose_file_was_taken_for_left_over_writes_it_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "run", []

    def write(name: Path) -> None:
        calls.append(name)
        name.write_text("whole")
        if len(calls) == 1:
            remove_left_over(path)  # as another process does that starts now

    write_atomically(path, write)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("recipe", ["{", "[1]", '"ab"', "3"])
def test_a_recipe_that_is_none_is_refused(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"x": torch.zeros(1)}, path, metadata={"format": "a thing", "recipe": recipe})
    with pytest.raises(ValueError, match=f"^path must name a saved thing, got {path}, .*recipe"):
        read_weights(path, form="a thing", kind="a saved thing")
    write_weights(path, {"x": torch.zeros(1)}, form="a thing", recipe={"a": 1})
    assert read_weights(path, form="a thing", kind="a saved thing").recipe == {"a": 1}
