"""The main job: data → dimension → density → mixture → code → VAE → trust → one HTML page."""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import pplvae
from pplvae import randomness
from pplvae.data import Dataset
from pplvae.report import autoencoder, clusters, code, density, dimension, look, page, trust
from pplvae.report.section import Section, Settings, Stage, Study, Table, attempt
from pplvae.storage import write_atomically
from pplvae.validation import check_one_of, check_whole

STAGES: list[tuple[str, str, Stage]] = [
    ("look", look.TITLE, look.section),
    ("dimension", dimension.TITLE, dimension.section),
    ("density", density.TITLE, density.section),
    ("clusters", clusters.TITLE, clusters.section),
    ("code", code.TITLE, code.section),
    ("vae", autoencoder.TITLE, autoencoder.section),
    ("trust", trust.TITLE, trust.section),
]
SMALL = 2_000_000  # numbers in a data set


@dataclass(frozen=True)
class Report:
    """What a report wrote.

    Attributes:
        page: The HTML page.
        folder: Where it stands, with figures, numbers.json, draws and the VAE beside it.
        sections: What is on it.
    """

    page: Path
    folder: Path
    sections: list[Section]

    @property
    def failures(self) -> list[str]:
        """Titles of the stages that could not run on these data."""
        return [section.title for section in self.sections if section.failed]

    def __repr__(self) -> str:
        return f"Report({self.page}, {len(self.sections)} sections, {len(self.failures)} failed)"


def build(
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    latent_dim: int | None = None,
    num_components: int | None = None,
    likelihood: str | None = None,
    num_epochs: int | None = None,
    standardize: bool = True,
    device: str = "cpu",
    seed: int | None = None,
    progress: bool = True,
) -> Report:
    """Find the structure of a data set and write it down as one page.

    A stage that cannot run on these data says so on the page and does not stop the rest; a run
    that is interrupted leaves a page of the stages done. Beside `index.html`: `figures/*.png`,
    `numbers.json`, `draws/*.nc` and `vae.safetensors`.

    Args:
        dataset: The data.
        out: The folder to write to; made where missing. Files of an earlier report are replaced,
            others never.
        latent_dim: Latent size of the VAE; the estimated dimension where None.
        num_components: Components of the mixture; chosen by BIC where None.
        likelihood: Of the VAE, "bernoulli" or "gaussian"; chosen by the data where None.
        num_epochs: Most epochs of the VAE's training; chosen by the number of points where None.
        standardize: Whether the columns of a table are brought to mean 0 and sd 1.
        device: Where the networks train.
        seed: Start of all random draws.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If an option is impossible, or `out` cannot be written to or holds other files
            under the names of a report's.
    """
    for name, value in {
        "latent_dim": latent_dim, "num_components": num_components, "num_epochs": num_epochs,
    }.items():  # fmt: skip
        if value is not None:
            check_whole(name, value, 1)
    if likelihood is not None:
        check_one_of("likelihood", likelihood, ["bernoulli", "gaussian"])
    seed = randomness.resolve(seed)
    settings = Settings(latent_dim, num_components, likelihood, num_epochs, standardize, device)
    _open(Path(out))
    x = prepared(dataset.x, image=dataset.is_image, standardize=standardize)
    study = Study(dataset, x, seed, settings, progress)
    started, cpu, sections = time.perf_counter(), time.process_time(), list[Section]()
    try:
        _run(study, sections)
    finally:  # an interrupted run keeps what it has found
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        sections.append(_provenance(study, sections, wall, cpu))
        report = _write(study, sections, Path(out))
    return report


def prepared(x: Tensor, *, image: bool, standardize: bool) -> Tensor:
    """Return the points that are studied, in double precision, shape (N, D).

    Images are mapped to [0, 1] by one scale for all pixels; the columns of a table are brought to
    mean 0 and standard deviation 1 where asked for, constant ones to 0.
    """
    x = x.double()
    if image:
        low, high = x.min(), x.max()
        return (x - low) / (high - low if high > low else 1.0)
    if not standardize:
        return x
    centered, scale = x - x.mean(dim=0), x.std(dim=0, correction=0)
    # A constant column can have a standard deviation of rounding errors.
    varies = (x.amin(dim=0) < x.amax(dim=0)) & (scale > 0)
    return torch.where(varies, centered / scale, torch.zeros_like(centered))


def _run(study: Study, sections: list[Section]) -> None:
    """Add each stage's section to `sections`."""
    bar = tqdm(STAGES, desc="report", unit="stage", disable=not study.progress)
    with bar, _threads(study.x.numel()):
        for name, title, stage in bar:
            bar.set_description(f"report: {title}")
            sections.append(attempt(name, title, stage, study))


@contextmanager
def _threads(size: int) -> Iterator[None]:
    """Keep to one thread on small data: there a second one waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if size < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _provenance(study: Study, sections: list[Section], wall: float, cpu: float) -> Section:
    versions = _versions()
    options = {name: value for name, value in asdict(study.settings).items() if value is not None}
    times = [[section.title, f"{section.seconds:.1f}"] for section in sections]
    return Section(
        "run",
        "What was run?",
        answer=(
            f"pplvae {pplvae.__version__} on “{study.dataset.name}”, seed {study.seed}, in "
            f"{wall:.0f} s ({cpu:.0f} CPU-s)."
        ),
        tables=[
            Table(["stage", "seconds"], times),
            Table(["package", "version"], [[name, text] for name, text in versions.items()]),
            Table(["option", "value"], [[name, str(value)] for name, value in options.items()]),
        ],
        numbers={
            "seed": study.seed,
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "seconds": {section.name: section.seconds for section in sections},
            "versions": versions,
            "options": options,
        },
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ["torch", "pyro-ppl", "numpy", "scipy", "arviz"]
    found = {package: version(package) for package in packages}
    return {"Python": platform.python_version(), **found, "platform": sys.platform}


def _write(study: Study, sections: list[Section], folder: Path) -> Report:
    files: dict[str, Callable[[Path], object]] = {}
    for section in sections:
        for figure in section.figures:
            files[f"figures/{figure.name}.png"] = _writer(figure.png)
        for name, posterior in section.posteriors.items():
            files[f"draws/{name}.nc"] = posterior.save
        if section.vae is not None:
            files["vae.safetensors"] = section.vae.save
    files["index.html"] = _writer(page.render(study.dataset.name, sections).encode())
    numbers = {section.name: _said(section) for section in sections}
    numbers["files"] = [*files, "numbers.json"]
    if study.dataset.is_image:  # the map to [0, 1], by which `pplvae vae evaluate` goes
        numbers["units"] = [study.dataset.x.min().item(), study.dataset.x.max().item()]
    content = json.dumps(_finite(numbers), indent=2, allow_nan=False).encode()
    files["numbers.json"] = _writer(content)
    for name in _written(folder):
        (folder / name).unlink(missing_ok=True)
    for name, write in files.items():
        write(folder / name)
    return Report(folder / "index.html", folder, sections)


def _said(section: Section) -> object:
    return {"failed": section.answer, "why": section.why} if section.failed else section.numbers


def _finite(value: object) -> object:
    """Return the value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _open(folder: Path) -> None:
    """Make the folder, and refuse one that cannot be written to or holds someone else's files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".probe", Path.touch)
        (folder / ".probe").unlink()
    except OSError as error:
        raise ValueError(f"out must be a folder to write to, got {folder}: {error}") from error
    names = {"index.html", "numbers.json", "vae.safetensors", "figures", "draws"}
    foreign = sorted(name for name in names if (folder / name).exists())
    if foreign and not _written(folder):
        raise ValueError(
            f"out must be an empty folder or one of an earlier report, got {folder}, which holds "
            f"{', '.join(foreign)}"
        )


def _written(folder: Path) -> list[str]:
    """Return the files that an earlier report says it wrote here."""
    try:
        files = json.loads((folder / "numbers.json").read_text())["files"]
        return [name for name in files if folder.resolve() in (folder / name).resolve().parents]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _writer(content: bytes) -> Callable[[Path], object]:
    return lambda path: write_atomically(path, lambda temporary: temporary.write_bytes(content))
