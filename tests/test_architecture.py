"""The house itself: who imports whom, and what an import leaves untouched."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pplvae

ROOT = Path(pplvae.__file__).parent
FLOORS = [
    {"validation", "randomness", "distributed", "storage", "precision"},
    {"neighbors", "divergences", "networks", "optimize", "data"},
    {"infer"},
    {"density", "intrinsic_dimension", "mixtures", "autoencoders", "vae"},
    {"plots"},
    {"compare"},
    {"report"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(ROOT.rglob("*.py"))
MODELS = sorted(ROOT.glob("*/model.py"))
HEAVY = {"arviz", "matplotlib", "pandas", "scipy", "sklearn"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(file: Path, *, for_types: bool = True) -> set[str]:
    """Return the dotted names that a file imports, `from a import b` as `a.b`."""
    package = ["pplvae", *file.relative_to(ROOT).parent.parts]
    names = set()
    for node in nodes(ast.parse(file.read_text()), for_types=for_types):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = [*above, node.module] if node.module else above
            names |= {".".join([*source, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pplvae":
            names.add(f"pplvae.{node.attr}")
    return names


def nodes(tree: ast.AST, *, for_types: bool) -> Iterator[ast.AST]:
    """Yield all nodes below `tree`; those that only a type checker reads where asked for."""
    for node in ast.iter_child_nodes(tree):
        if for_types or not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            yield node
            yield from nodes(node, for_types=for_types)


def rooms(file: Path) -> set[str]:
    """Return the rooms that a file imports from; the root of the package is none."""
    parts = [name.split(".") for name in imported(file)]
    return {name[1] for name in parts if name[0] == "pplvae" and len(name) > 1} & set(FLOOR)


@pytest.mark.parametrize(
    "line",
    [
        "import pplvae.infer",
        "import pplvae.infer.svi as engine",
        "from pplvae import infer",
        "from pplvae import __version__, infer",
        "from pplvae.infer import svi",
        "from pplvae.infer.svi import fit",
        "from . import infer",
        "from .infer import svi",
        "import pplvae; pplvae.infer.svi",
        "if TYPE_CHECKING:\n    from pplvae import infer",
        "def f():\n    from pplvae import infer",
    ],
)
def test_no_way_of_importing_goes_unseen(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "neighbors.py").write_text(line)
    assert rooms(tmp_path / "neighbors.py") == {"infer"}


@pytest.mark.parametrize(
    "line", ["import pplvae", "from pplvae import __version__", "import torch"]
)
def test_the_root_of_the_package_is_no_room(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "neighbors.py").write_text(line)
    assert rooms(tmp_path / "neighbors.py") == set()


def test_every_room_has_a_floor() -> None:
    assert {room_of(file) for file in FILES} - {"__init__"} <= set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file: Path) -> None:
    room = room_of(file)
    floor = FLOOR.get(room, 0)  # the package's own __init__ imports nothing
    upward = {other for other in rooms(file) - {room} if FLOOR[other] >= floor}
    assert not upward, f"{room} (floor {floor}) may not import {sorted(upward)}"


@pytest.mark.parametrize("file", MODELS, ids=room_of)
def test_models_do_not_know_how_they_are_fitted(file: Path) -> None:
    assert "infer" not in rooms(file)
    methods = {f"pplvae.{room_of(file)}.{m.stem}" for m in file.parent.glob("*.py") if fits(m)}
    known = {m for m in methods for name in imported(file) if f"{name}.".startswith(f"{m}.")}
    assert not known, f"{name_of(file)} may not import {sorted(known)}"


def fits(file: Path) -> bool:
    """Return whether a file is a method: one that offers `fit`."""
    tree = ast.parse(file.read_text())
    return any(isinstance(node, ast.FunctionDef) and node.name == "fit" for node in tree.body)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_plots_draw(file: Path) -> None:
    """The report may name the type of the figures it is handed."""
    names = {n for n in imported(file, for_types=False) if n.split(".")[0] == "matplotlib"}
    allowed = {"matplotlib.figure.Figure"} if room_of(file) == "report" else set()
    assert room_of(file) == "plots" or names <= allowed


def run_alone(code: str) -> set[str]:
    """Return the words that `code` prints in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, pplvae; print(*{name.split('.')[0] for name in sys.modules})"
    assert not run_alone(code) & (HEAVY | {"tqdm", "torch", "pyro"})


IMPORT_EVERYTHING = """
import importlib, pkgutil, random, sys, warnings
import numpy as np, pyro, torch, tqdm.auto

def settings():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "torch checks": torch.distributions.Distribution._validate_args,
        "pyro checks": [
            part.is_validation_enabled() for part in (pyro.distributions, pyro.infer, pyro.poutine)
        ],
        "parameters": list(pyro.get_param_store().keys()),
        "torch draws": torch.get_rng_state().tolist(),
        "numpy draws": str(np.random.get_state()),
        "python draws": random.getstate(),
        "numpy errors": np.geterr(),
        "warnings": list(warnings.filters),
    }

before = settings()
import pplvae
names = {module.name for module in pkgutil.walk_packages(pplvae.__path__, "pplvae.")}
doors = {name for name in names if name.split(".")[1] in ("report", "cli", "__main__")}
for name in names - doors:
    importlib.import_module(name)
quick = {name.split(".")[0] for name in sys.modules}
for name in doors - {"pplvae.__main__"}:
    importlib.import_module(name)
after = settings()
print(*names)
print(*{f"changes:{name.replace(' ', '-')}" for name in before if before[name] != after[name]})
print(*{f"imports:{name}" for name in quick})
"""


@pytest.fixture(scope="module")
def words() -> set[str]:
    return run_alone(IMPORT_EVERYTHING)


def test_importing_every_room_changes_no_setting(words: set[str]) -> None:
    assert "pplvae.vae.model" in words
    assert not {word for word in words if word.startswith("changes:")}


def test_importing_the_rooms_is_quick(words: set[str]) -> None:
    """What they need only at times is imported then; a report always needs a figure."""
    assert "imports:torch" in words
    assert not words & {f"imports:{name}" for name in HEAVY}
