import numpy as np
import pytest
import torch
from torch import Tensor

from pplvae.validation import (
    Array,
    as_points,
    as_tensor,
    as_vector,
    check_in_range,
    check_one_of,
    check_positive,
    check_whole,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float64),
        (torch.uint8, torch.float64),
        (torch.bool, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
    ],
)
def test_the_dtype_follows_the_input(given: torch.dtype, expected: torch.dtype) -> None:
    x = as_tensor(torch.tensor([0.0, 1.0]).to(given))
    assert x.dtype == expected
    assert x.tolist() == [0.0, 1.0]


def test_a_tensor_of_floats_is_not_copied_and_keeps_its_graph() -> None:
    x = torch.rand(3, requires_grad=True)
    assert as_tensor(x) is x


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3.0),
        np.arange(3.0)[::-1][::-1],
        np.arange(6.0)[::2] / 2,
        np.arange(2.0, -1.0, -1.0)[::-1],
        np.arange(3).astype(">f8"),
        np.arange(3).astype(np.uint16),
        np.frombuffer(np.arange(3.0).tobytes()),
    ],
    ids=["plain", "twice reversed", "strided", "reversed", "big-endian", "uint16", "read-only"],
)
def test_takes_any_array_of_numbers_that_numpy_makes(array: np.ndarray) -> None:
    assert as_tensor(array).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array(["a"]), "ages must be an array of numbers, got <U1"),
        (np.array([1, None]), "ages must be an array of numbers, got object"),
        ("four", "ages must be an array of numbers, got str"),
        (None, "ages must be an array of numbers, got NoneType"),
        (torch.zeros(2, dtype=torch.complex64), "ages must be real, got torch.complex64"),
        (torch.tensor([torch.nan, 1.0, torch.inf]), "ages must be finite, got 2 nan or inf"),
    ],
)
def test_refuses_what_is_no_array_of_numbers(x: Array, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        as_tensor(x, name="ages")


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_vector_may_be_a_column(shape: tuple[int, ...]) -> None:
    assert as_vector(torch.rand(shape)).shape == (4,)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(4, 2), r"ages must have shape \(N,\), got \(4, 2\)"),
        (torch.rand(()), r"ages must have shape \(N,\), got \(\)"),
        (torch.rand(2), "ages must hold at least 3 numbers, got 2"),
    ],
)
def test_refuses_what_is_no_vector(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        as_vector(x, name="ages", min_size=3)


def test_a_vector_is_read_as_points_on_a_line() -> None:
    assert as_points(torch.rand(4)).shape == (4, 1)
    assert as_points(torch.rand(4, 2)).shape == (4, 2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(4, 2, 2), r"ages must have shape \(N, D\), got \(4, 2, 2\)"),
        (torch.rand(4, 0), r"ages must have shape \(N, D\), got \(4, 0\)"),
        (torch.rand(()), r"ages must have shape \(N, D\), got \(\)"),
        (torch.rand(2, 5), "ages must hold at least 3 points, got 2"),
    ],
)
def test_refuses_what_are_no_points(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        as_points(x, name="ages", min_points=3)


@pytest.mark.parametrize("value", [1, 5.5, 10])
def test_a_range_holds_its_ends(value: float) -> None:
    check_in_range("k", value, 1, 10)


@pytest.mark.parametrize("value", [0, 10.5, float("nan")])
def test_refuses_a_value_outside_its_range(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^k must be in \[1, 10\] for 9 rows, got {value}$"):
        check_in_range("k", value, 1, 10, context="for 9 rows")


def test_a_range_without_an_upper_end_says_at_least() -> None:
    check_in_range("k", 1e300, 1)
    with pytest.raises(ValueError, match=r"^k must be at least 1, got 0$"):
        check_in_range("k", 0, 1)


@pytest.mark.parametrize("value", [1, 1e-300, 1e300, torch.tensor([0.5, 2.0]), torch.tensor(3)])
def test_takes_any_positive_number(value: float | Tensor) -> None:
    check_positive("scale", value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "positive, got 0"),
        (-1.5, "positive, got -1.5"),
        (float("nan"), "positive, got nan"),
        (float("inf"), "finite, got inf"),
        (torch.tensor([1.0, -1.0]), r"positive, got \[1.0, -1.0\]"),
        (torch.arange(100.0) - 2, "positive, got 3 that are not, the first -2.0"),
    ],
)
def test_refuses_what_is_not_positive(value: float | Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^scale must be {message}$"):
        check_positive("scale", value)


def test_refuses_an_unknown_word_and_lists_the_known() -> None:
    check_one_of("kernel", "cosine", {"uniform", "cosine"})
    with pytest.raises(ValueError, match=r"^kernel must be one of cosine, uniform, got 'cosin'$"):
        check_one_of("kernel", "cosin", {"uniform", "cosine"})


@pytest.mark.parametrize("value", [2.0, 2.5, True, "2", None, np.float64(2.0)])
def test_refuses_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="num_draws must be a whole number, got"):
        check_whole("num_draws", value, 1)  # type: ignore[arg-type]


def test_takes_whole_numbers_in_range() -> None:
    check_whole("num_draws", np.int64(3), 1, 3)
    with pytest.raises(ValueError, match=r"num_draws must be in \[1, 3\] for 4 points, got 4"):
        check_whole("num_draws", 4, 1, 3, context="for 4 points")
