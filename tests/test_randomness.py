import random
from collections.abc import Callable
from itertools import product
from typing import cast

import numpy as np
import pytest
import torch

from pplvae import randomness


def draw() -> tuple[float, float, float]:
    """Return a draw from each global generator."""
    return torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002


def draw_after(block: Callable[[], object]) -> tuple[float, float, float]:
    """Return the draws that follow on `block`, from a known start."""
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    block()
    return draw()


def in_scope(seed: int | None) -> tuple[float, float, float]:
    with randomness.scope(seed):
        return draw()


def test_a_scope_gives_the_same_draws_every_time() -> None:
    first = in_scope(5)
    torch.rand(7)
    assert in_scope(5) == first
    assert not set(in_scope(6)) & set(first)


def test_a_scope_leaves_the_global_generators_as_they_were() -> None:
    assert draw_after(lambda: in_scope(5)) == draw_after(lambda: None)


def test_a_scope_leaves_them_as_they_were_also_when_its_block_fails() -> None:
    def interrupt() -> None:
        draw()
        raise KeyboardInterrupt

    def fail() -> None:
        with pytest.raises(KeyboardInterrupt), randomness.scope(5):
            interrupt()

    assert draw_after(fail) == draw_after(lambda: None)


def test_scopes_nest() -> None:
    def nested() -> None:
        in_scope(1)

    with randomness.scope(5):
        plain = draw()
    with randomness.scope(5):
        nested()
        assert draw() == plain


def test_a_fresh_start_differs_and_takes_nothing_from_the_global_generators() -> None:
    assert len({in_scope(None) for _ in range(5)}) == 5
    assert draw_after(lambda: randomness.resolve(None)) == draw_after(lambda: None)


def test_a_scope_says_which_seed_it_uses() -> None:
    with randomness.scope(None) as seed:
        drawn = draw()
    assert in_scope(seed) == drawn


def test_a_generator_starts_at_its_seed() -> None:
    draws = [torch.rand(3, generator=randomness.generator(seed)) for seed in (4, 4, 5)]
    assert draws[0].equal(draws[1])
    assert not draws[0].equal(draws[2])
    expected = torch.rand(3, generator=torch.Generator().manual_seed(4))
    assert draws[0].equal(expected)


def test_reseeding_starts_the_global_generator() -> None:
    randomness.reseed(4)
    expected = torch.rand(3, generator=randomness.generator(4))
    assert torch.rand(3).equal(expected)


def test_every_place_has_its_own_seed() -> None:
    """Also (5,) and (5, 0), which coincide in NumPy's SeedSequence."""
    places = [(), *product(range(40)), *product(range(40), range(3))]
    seeds = {randomness.derive(seed, *place) for seed in (0, 1, 5) for place in places}
    # 483 seeds among 2^32: any two coincide by chance with probability 3e-5, and these are fixed.
    assert len(seeds) == 3 * len(places)
    assert all(randomness.resolve(seed) == seed for seed in seeds)


@pytest.mark.parametrize("seed", [0, 7, randomness.MAX_SEED])
def test_a_whole_number_stands_for_itself(seed: int) -> None:
    assert randomness.resolve(seed) == seed
    assert type(randomness.resolve(cast("int", np.uint32(seed)))) is int


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, r"seed must be in \[0, 4294967295\], got -1"),
        (2**32, r"seed must be in \[0, 4294967295\], got 4294967296"),
        (1.0, "seed must be a whole number or None, got 1.0"),
        (True, "seed must be a whole number or None, got True"),
        ("1", "seed must be a whole number or None, got '1'"),
    ],
)
def test_refuses_what_is_no_seed(seed: int, message: str) -> None:
    for call in (randomness.resolve, randomness.generator, in_scope):
        with pytest.raises(ValueError, match=f"^{message}$"):
            call(seed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_scope_covers_the_gpu() -> None:
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    draws = []
    for _ in range(2):
        with randomness.scope(5):
            draws.append(torch.rand(3, device="cuda"))
    assert draws[0].equal(draws[1])
    assert torch.cuda.get_rng_state().equal(before)
