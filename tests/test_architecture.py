"""The floors of the house: a module imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

import pplvae

ROOT = Path(pplvae.__file__).parent
FLOORS = [
    {"validation", "randomness", "distributed", "storage"},
    {"neighbors", "divergences", "networks", "optimize", "data"},
    {"infer"},
    {"density", "intrinsic_dimension", "mixtures", "autoencoders", "vae"},
    {"compare", "plots"},
    {"cli", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(f for f in ROOT.rglob("*.py") if f.parent != ROOT or f.name != "__init__.py")


def imports(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    return {name.split(".")[1] for name in names if name.startswith("pplvae.")}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down(file: Path) -> None:
    room = file.relative_to(ROOT).with_suffix("").parts[0]
    upward = {other for other in imports(file) - {room} if FLOOR[other] >= FLOOR[room]}
    assert not upward, f"{room} (floor {FLOOR[room]}) may not import {sorted(upward)}"


@pytest.mark.parametrize("file", sorted(ROOT.glob("*/model.py")), ids=lambda f: f.parent.name)
def test_models_do_not_know_how_they_are_fitted(file: Path) -> None:
    assert "infer" not in imports(file)
