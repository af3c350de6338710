import math

import numpy as np
import pytest
import torch

from pplvae import data
from pplvae.data import Dataset


@pytest.fixture
def table() -> Dataset:
    """Thirty rows that no other row equals, each labeled with its own number."""
    return Dataset(torch.arange(60.0).reshape(30, 2) - 7, (2,), torch.arange(30), "rows")


def test_prints_in_a_line(table: Dataset) -> None:
    assert repr(table) == "Dataset('rows': 30 points of 2, 30 classes)"
    assert (
        repr(Dataset(torch.zeros(3, 6), (2, 3))) == "Dataset('data': 3 points of 2x3, no classes)"
    )


def test_knows_a_picture_from_a_row() -> None:
    assert Dataset(torch.zeros(3, 6), (2, 3)).is_image
    assert not Dataset(torch.zeros(3, 6), (6,)).is_image


def test_takes_numpy_and_keeps_the_type() -> None:
    x = Dataset(np.ones((4, 2), dtype=np.float32), (2,), np.array([0, 1, 1, 0])).x  # type: ignore[arg-type]
    assert x.dtype == torch.float32


def test_scaling_keeps_the_proportions_of_distances(table: Dataset) -> None:
    x, scaled = table.x, table.scaled().x
    assert (scaled.min(), scaled.max()) == (0, 1)
    torch.testing.assert_close(torch.pdist(scaled) / torch.pdist(x), torch.full((435,), 1 / 59))
    torch.testing.assert_close(table.scaled().scaled().x, scaled)


def test_binarized_has_the_scaled_values_as_its_mean() -> None:
    digits = data.digits()
    probs, drawn = digits.scaled().x.double(), digits.binarized(seed=0).x.double()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # A sum of independent draws is about normal, with variance sum p (1 - p) where that is large.
    # Five standard deviations for 47 pixels and the whole fail by chance for one seed in 3e4.
    variance, error = probs * (1 - probs), drawn - probs
    assert error.sum().abs() < 5 * variance.sum().sqrt()
    varied = variance.sum(0) > 25
    assert (error.sum(0).abs() < 5 * variance.sum(0).sqrt())[varied].all()
    assert (drawn[probs == 0] == 0).all()
    assert (drawn[probs == 1] == 1).all()


def test_binarizing_what_is_binary_changes_nothing() -> None:
    once = data.digits().binarized(seed=1)
    assert torch.equal(once.binarized(seed=2).x, once.x)


def test_parts_are_disjoint_and_complete_and_labels_follow(table: Dataset) -> None:
    parts = table.split([0.7, 0.2, 0.1], seed=3)
    assert [len(part) for part in parts] == [21, 6, 3]
    x, labels = torch.cat([part.x for part in parts]), torch.cat([part.labels for part in parts])  # type: ignore[misc]
    assert not torch.equal(labels, table.labels)
    assert torch.equal(labels.sort().values, table.labels)
    assert torch.equal(x, table.x[labels])


@pytest.mark.parametrize("num_points", [3, 7, 10, 1797])
def test_fractions_that_sum_to_one_use_every_point(num_points: int) -> None:
    whole = Dataset(torch.arange(float(num_points)).unsqueeze(1), (1,))
    parts = whole.split([1 / 3, 1 / 3, 1 / 3], seed=0)
    assert sum(map(len, parts)) == num_points
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_point_is_as_likely_in_each_part() -> None:
    """Over R splits a point is in the half part Binomial(R, 1/2) times."""
    line, repeats = Dataset(torch.arange(20.0).unsqueeze(1), (1,)), 400
    counts = torch.zeros(20)
    for seed in range(repeats):
        counts[line.split([0.5], seed)[0].x[:, 0].long()] += 1
    # Five standard deviations: one chance in 9e4 that any of 20 points strays so far.
    assert ((counts - repeats / 2).abs() < 5 * math.sqrt(repeats / 4)).all()


def test_a_seed_repeats_and_the_global_generator_stays(table: Dataset) -> None:
    before = torch.get_rng_state()
    assert torch.equal(table.binarized(5).x, table.binarized(5).x)
    assert torch.equal(table.split([0.5], 5)[0].x, table.split([0.5], 5)[0].x)
    assert not torch.equal(table.split([0.5])[0].x, table.split([0.5])[0].x)
    assert torch.equal(before, torch.get_rng_state())


def test_a_subset_keeps_its_order(table: Dataset) -> None:
    chosen = table.subset(np.array([4, 2]))
    assert torch.equal(chosen.x, table.x[[4, 2]])
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [4, 2]
    assert len(table.subset(table.x[:, 0] > 30)) == 11


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ([0.8, 0.3], "fractions must sum to at most 1, got 1.1"),
        ([0.5, -0.1], "fractions must be positive"),
        ([0.5, 0.0], "fractions must be positive"),
        ([0.5, math.nan], "fractions must be finite"),
        ([], "fractions must hold at least 1 numbers, got 0"),
        (0.5, r"fractions must have shape \(N,\)"),
        ([0.9, 0.01], "at least one of 30 points"),
    ],
)
def test_refuses_impossible_fractions(
    table: Dataset, fractions: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        table.split(fractions)


@pytest.mark.parametrize("transform", [Dataset.scaled, Dataset.binarized])
def test_refuses_to_scale_a_constant(transform) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=r"x must vary to be scaled, got 3\.0 everywhere"):
        transform(Dataset(torch.full((4, 2), 3.0), (2,)))


@pytest.mark.parametrize(
    ("x", "shape", "labels", "message"),
    [
        (torch.zeros(3, 4), (3, 2), None, "shape must hold 4 numbers, as a row of x"),
        (torch.zeros(3, 4), (-2, -2), None, "shape must hold 4 numbers"),
        (torch.zeros(3, 4), (), None, "shape must hold 4 numbers"),
        (torch.zeros(3, 2, 2), (2, 2), None, r"x must have shape \(N, D\), got \(3, 2, 2\)"),
        (torch.full((3, 1), math.nan), (1,), None, "x must be finite, got 3 nan or inf"),
        (torch.zeros(3, 4), (4,), torch.zeros(2), "one for each of 3 points, got 2"),
        (
            torch.zeros(3, 4),
            (4,),
            torch.tensor([0, 1, 0.5]),
            "labels must be whole numbers, got 0.5",
        ),
    ],
)
def test_refuses_parts_that_do_not_fit(
    x: torch.Tensor, shape: tuple[int, ...], labels: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset(x, shape, labels)
