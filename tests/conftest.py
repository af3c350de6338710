import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def _same_world_for_every_test() -> Iterator[None]:
    """Seeded, in double precision, with Pyro's checks on, its global store watched and no figure
    left open for the next test."""
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled():
        yield
    torch.set_default_dtype(torch.float32)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    left_over = list(pyro.get_param_store().keys())
    pyro.clear_param_store()
    assert not left_over, f"the library must not touch the global param store: {left_over}"


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, or a skip that says how to name it."""
    folder = os.environ.get("PPLVAE_DATA")
    if not folder:
        pytest.skip("needs real data: set PPLVAE_DATA to the folder that holds mnist/ and frey/")
    return Path(folder)
