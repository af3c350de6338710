"""Faster matrix products, only where they are exact."""

import math
from collections.abc import Iterator

import pytest
import torch

from pplvae import precision
from pplvae.precision import LARGEST_ERROR, fast_matmul, relative_error

SETTINGS = ("highest", "high", "medium")


def settings() -> tuple[object, ...]:
    """Return all that torch says of the precision of products."""
    named = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    by_backend = [getattr(backend, "fp32_precision", None) for backend in named]
    return torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, *by_backend


@pytest.fixture(autouse=True)
def _settings_as_found() -> Iterator[None]:
    before = settings()
    yield
    assert settings() == before


def error(rows: int, inner: int, columns: int) -> float:
    a, b = (torch.randn(*size, dtype=torch.float32) for size in ((rows, inner), (inner, columns)))
    exact = a.double() @ b.double()
    return ((a @ b - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("sizes", [(1, 784, 400), (128, 784, 400), (640, 400, 784), (8, 8, 8)])
def test_products_are_exact_in_the_block_whether_faster_or_not(
    sizes: tuple[int, int, int],
) -> None:
    with fast_matmul() as faster:
        assert torch.get_float32_matmul_precision() == ("medium" if faster else "highest")
        assert error(*sizes) < LARGEST_ERROR


def test_the_probe_is_of_single_precision_whatever_the_default() -> None:
    # A double has 53 bits, of which an error of 1e-9 would speak.
    assert torch.get_default_dtype() == torch.float64
    assert 1e-9 < relative_error() < LARGEST_ERROR


def test_the_probe_sees_factors_of_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch.Tensor.__matmul__

    def coarse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype != torch.float32:
            return multiply(a, b)
        return multiply(a.bfloat16().float(), b.bfloat16().float())

    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    # A significand m in [1, 2) is off by up to 2⁻⁸, evenly: by 2⁻⁸ / √3 in the mean, of both
    # factors √2 times that; m itself, with density 1 / (m log 2), is √(1.5 / log 2) in the mean.
    expected = 2**-8 * math.sqrt(2 / 3) / math.sqrt(1.5 / math.log(2))
    assert relative_error() == pytest.approx(expected, rel=0.2)
    with fast_matmul() as faster:
        assert not faster


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_mode_that_loses_digits_is_left(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def large(device: object) -> float:
        seen.append((device, torch.get_float32_matmul_precision()))
        return 3e-3

    monkeypatch.setattr(precision, "relative_error", large)
    start = settings()
    torch.set_float32_matmul_precision(setting)
    before = settings()
    with fast_matmul("cpu") as faster:
        assert not faster
        assert settings() == before
    assert settings() == before
    assert seen == [("cpu", "medium")]
    precision._restore(str(start[0]), [str(own) for own in start[2:] if own is not None])


@pytest.mark.parametrize("error", [0.0, 3e-3])
def test_torchs_settings_come_back_also_after_an_exception(
    error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "relative_error", lambda device: error)
    before = settings()
    with pytest.raises(RuntimeError, match="in the block"), fast_matmul():
        raise RuntimeError("in the block")
    assert settings() == before


def test_torchs_settings_come_back_where_the_probe_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: object) -> float:
        raise RuntimeError("no such device")

    monkeypatch.setattr(precision, "relative_error", fails)
    before = settings()
    with pytest.raises(RuntimeError, match="no such device"), fast_matmul():
        raise AssertionError("the block must not run")
    assert settings() == before


def test_backends_set_one_by_one_are_left_alone() -> None:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this version of torch has one setting for all backends")
    own, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        with fast_matmul() as faster:
            assert (faster, matmul.fp32_precision) == (False, "bf16")
    finally:
        matmul.fp32_precision = own
