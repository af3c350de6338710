"""What the README says works as it stands."""

import re
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_default_dtype(torch.float32)
    mpl.use("Agg")
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Comparison against exact" in printed
    assert "elbo" in printed


def test_its_pictures_and_notebooks_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (Path(__file__).parents[1] / link).exists(), link


def test_every_call_in_the_table_exists() -> None:
    """`room.name` in the table of questions is an attribute of the library."""
    from pplvae import (
        autoencoders,
        compare,
        data,
        density,
        divergences,
        infer,
        intrinsic_dimension,
        mixtures,
        plots,
        vae,
    )

    places = [
        autoencoders, compare, data, density, infer, intrinsic_dimension, mixtures, plots, vae,
    ]  # fmt: skip
    known = {place.__name__.split(".")[-1]: place for place in [*places, divergences]}
    for place in places:
        known = {n: v for n, v in vars(place).items() if isinstance(v, ModuleType)} | known
    table = README[README.index("| question |") : README.index("## The house")]
    calls = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", table)
    assert len(calls) > 10
    for call in calls:
        first, *rest = call.split(".")
        assert first in known, call
        target = known[first]
        for name in rest:
            assert hasattr(target, name), call
            target = getattr(target, name)
