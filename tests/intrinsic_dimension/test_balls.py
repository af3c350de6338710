import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pplvae.intrinsic_dimension import balls, danco
from pplvae.intrinsic_dimension.balls import Balls
from pplvae.neighbors import graph

NAMES = {
    "distance", "angle", "concentration", "twonn", "twonn_unbiased", "twonn_censored",
    "twonn_line", "gride_1", "gride_2", "gride_4", "gride_8", "levina_bickel",
}  # fmt: skip


def some(value: float = 2.0) -> Balls:
    grid = np.array([100, 200]), np.array([1, 2, 3])
    return Balls(*grid, {"a": np.full((2, 3), value)})


def test_draws_are_uniform_in_the_unit_ball() -> None:
    """|x|^d is uniform in [0, 1] for them; its mean and mean square are 1/2 and 1/3."""
    for dim in (1, 2, 7, 50):
        volume = balls.draw(20_000, dim, 0).norm(dim=1) ** dim
        assert volume.max() <= 1
        # Standard errors sqrt(1/12 / 20,000) = 0.0020 and sqrt(4/45 / 20,000) = 0.0021.
        assert volume.mean().item() == pytest.approx(1 / 2, abs=4 * 0.0021)
        assert volume.square().mean().item() == pytest.approx(1 / 3, abs=4 * 0.0021)


def test_draws_are_the_same_each_time_all_different_and_leave_the_global_ones_alone() -> None:
    before = torch.get_rng_state(), random.getstate()
    torch.testing.assert_close(balls.draw(50, 3, 1), balls.draw(50, 3, 1), rtol=0, atol=0)
    assert not torch.allclose(balls.draw(50, 3, 1), balls.draw(50, 3, 2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_means_are_those_of_the_draws() -> None:
    """The mean of |x|² is d / (d + 2), with a standard error of at most 0.29 / sqrt(12,800)."""
    found = balls.simulate(
        lambda x: {"square": x.square().sum(1).mean().item(), "columns": float(x.shape[1])},
        400,
        max_dimension=9,
        progress=False,
    )
    assert found.dimensions.tolist() == [1, 2, 3, 4, 5, 6, 8, 10]
    expected = found.dimensions / (found.dimensions + 2)
    np.testing.assert_allclose(found.at(400, "square"), expected, atol=4 * 0.0027)
    np.testing.assert_array_equal(found.at(400, "columns"), found.dimensions)


def test_many_points_are_not_drawn_but_extrapolated_to() -> None:
    """By a straight line in log N through the largest sizes drawn."""
    sizes: set[int] = set()

    def statistics(x: torch.Tensor) -> dict[str, float]:
        sizes.add(len(x))
        return {"log": math.log(len(x))}

    found = balls.simulate(statistics, 1_000_000, max_dimension=2, progress=False)
    assert max(sizes) == balls.MOST_POINTS
    np.testing.assert_allclose(found.at(1_000_000, "log"), math.log(1_000_000))


def test_interpolation_goes_through_the_values_and_on_in_a_straight_line() -> None:
    places = np.array([1.0, 2.0, 5.0, 10.0])
    line = 3 + 2 * np.log(places)
    where = np.array([[0.5, 1.0, 1.7], [4.0, 10.0, 300.0]])
    np.testing.assert_allclose(balls.interpolated(places, line, where), 3 + 2 * np.log(where))
    values = np.array([1.0, 4.0, 4.5, 9.0])
    np.testing.assert_allclose(balls.interpolated(places, values, places), values)
    rising = balls.interpolated(places, values, np.geomspace(0.1, 100, 500))
    assert (np.diff(rising) > 0).all()


def test_one_place_is_the_value_everywhere() -> None:
    one = Balls(np.array([60]), np.array([1, 2]), {"a": np.array([[3.0, 4.0]])})
    np.testing.assert_array_equal(one.at(60, "a"), [3.0, 4.0])


def test_the_table_that_ships_is_whole() -> None:
    table = balls.table()
    assert set(table.means) == NAMES
    assert tuple(table.dimensions) == balls.DIMENSIONS
    assert table.num_points[0] == 25
    assert table.num_points[-1] == 25_600
    for name in NAMES - {"angle", "concentration"}:
        assert (np.diff(table.means[name], axis=1) > 0).all(), name
    assert balls.TABLE.stat().st_size < 100_000


@pytest.mark.parametrize(("num_points", "dimension"), [(60, 2), (300, 7), (1000, 17)])
def test_the_table_agrees_with_fresh_draws_between_its_points(
    num_points: int, dimension: int
) -> None:
    table, num_draws = balls.table(), 25
    draws = [
        danco.statistics(graph(balls.draw(num_points, dimension, 10_000 + i), 11))
        for i in range(num_draws)
    ]
    for name in ("distance", "angle", "concentration"):
        values = np.array([found[name] for found in draws])
        logs = np.log(table.at(num_points, name))
        where = np.asarray(float(dimension))
        expected = math.exp(balls.interpolated(table.dimensions, logs, where).item())
        error = values.std(ddof=1) / math.sqrt(num_draws)
        # Interpolation errs by up to 0.3 %, measured.
        assert values.mean() == pytest.approx(expected, abs=4 * error + 0.003 * expected), name


def test_what_was_made_once_is_read_again(tmp_path: Path) -> None:
    assert balls.kept("x", some, tmp_path).means["a"][0, 0] == 2.0
    again = balls.kept("x", lambda: some(3.0), tmp_path)
    np.testing.assert_array_equal(again.means["a"], some().means["a"])
    np.testing.assert_array_equal(again.num_points, some().num_points)
    assert [file.name for file in tmp_path.iterdir()] == [f"balls-{balls.VERSION}-x.npz"]
    assert balls.kept("y", lambda: some(3.0), tmp_path).means["a"][0, 0] == 3.0


def test_files_of_another_version_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    balls.kept("x", some, tmp_path)
    monkeypatch.setattr(balls, "VERSION", balls.VERSION + 1)
    assert balls.kept("x", lambda: some(3.0), tmp_path).means["a"][0, 0] == 3.0


def broken_files(folder: Path) -> dict[str, bytes]:
    """Return what a bad disk, an old program or an enemy may leave."""
    balls.write(some(), folder / "whole.npz", "x")
    balls.write(some(math.nan), folder / "nan.npz", "x")
    balls.write(some(), folder / "other.npz", "y")
    balls.write(some(), folder / "nameless.npz")
    ones, axes = np.ones((1, 2)), {"name": "x", "num_points": [9], "dimensions": [1, 2]}
    wrong = {
        "shape": {"mean_a": np.ones((3, 3))},
        "text means": {"mean_a": ones.astype(str)},
        "no numbers": {"mean_a": ones.astype(object)},
        "text dimensions": {"dimensions": ["1", "2"]},
        "fractions": {"dimensions": [1.0, 2.0]},
        "descending": {"dimensions": [2, 1]},
        "from zero": {"dimensions": [0, 1]},
        "none": {"num_points": np.zeros(0, dtype=int), "mean_a": np.ones((0, 2))},
        "one number": {"num_points": 9},
        "objects": {"num_points": np.array([{}])},
    }
    for name, arrays in wrong.items():
        np.savez(folder / f"{name}.npz", **{**axes, "mean_a": ones, **arrays})
    np.savez(folder / "less.npz", name="x", mean_a=ones)
    found = {file.stem: file.read_bytes() for file in folder.iterdir()}
    np.save(folder / "array.npy", ones)
    found["array"] = (folder / "array.npy").read_bytes()
    whole = found.pop("whole")
    return found | {
        "half": whole[: len(whole) // 2],
        "flipped": whole[:60] + bytes(255 - byte for byte in whole[60:90]) + whole[90:],
        "empty": b"",
        "text": b"hello",
        "pickle": pickle.dumps({}),
    }


def test_a_broken_file_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name, content in broken_files(tmp_path / "source").items():
        path = tmp_path / f"balls-{balls.VERSION}-x.npz"
        path.write_bytes(content)
        found = balls.kept("x", lambda: some(5.0), tmp_path)
        assert found.means["a"][0, 0] == 5.0, name
        assert balls.kept("x", some, tmp_path).means["a"][0, 0] == 5.0, name


def test_balls_of_other_points_are_not_believed_under_the_name_of_these(tmp_path: Path) -> None:
    balls.kept("k5-n100", some, tmp_path)
    (other,) = tmp_path.iterdir()
    other.replace(other.with_name(other.name.replace("n100", "n200")))
    found = balls.kept("k5-n200", lambda: some(3.0), tmp_path)
    assert found.means["a"][0, 0] == 3.0


def test_a_folder_may_be_named_by_text(tmp_path: Path) -> None:
    balls.kept("x", some, str(tmp_path / "below"))
    assert balls.kept("x", lambda: some(3.0), tmp_path / "below").means["a"][0, 0] == 2.0


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert balls.kept("x", some, tmp_path / "file" / "folder").means["a"][0, 0] == 2.0
    assert balls.kept("x", some, False).means["a"][0, 0] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_cache_is_in_the_users_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert balls.user_cache() == tmp_path / "pplvae"
    balls.kept("x", some)
    assert len(list((tmp_path / "pplvae").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setattr("sys.platform", "linux")
    assert balls.user_cache() == Path.home() / ".cache" / "pplvae"
    monkeypatch.setattr("sys.platform", "darwin")
    assert balls.user_cache() == Path.home() / "Library" / "Caches" / "pplvae"


def test_a_user_without_a_home_gets_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "home", homeless)
    assert balls.user_cache() is None
    assert balls.kept("x", some).means["a"][0, 0] == 2.0


def test_balls_are_printed_in_a_line() -> None:
    assert repr(some()) == "Balls(a: N = 100 to 200, d = 1 to 3)"
