"""The parts a report page is made of."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pplvae import plots
from pplvae.data import Dataset
from pplvae.infer import Posterior
from pplvae.intrinsic_dimension import spectrum
from pplvae.intrinsic_dimension.spectrum import Spectrum
from pplvae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
MOST_COMPONENTS = 50


@dataclass(frozen=True)
class Figure:
    """A picture on the page.

    Attributes:
        name: Its file name without ending.
        caption: What it shows, in one or two sentences.
        png: The picture itself.
        wide: Whether it takes the whole width of the page.
    """

    name: str
    caption: str
    png: bytes
    wide: bool = False


def drawn(name: str, caption: str, ax: "Axes", *, wide: bool = False) -> Figure:
    """Return the figure that `ax` belongs to as a picture on the page."""
    return Figure(name, caption, plots.png(ax), wide)


@dataclass(frozen=True)
class Table:
    """A small table on the page: a heading for each column, rows of text, a caption."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass
class Section:
    """One question and its answer.

    Attributes:
        name: Its anchor.
        title: The question.
        answer: The answer in a sentence or two; what went wrong where it `failed`.
        notes: Further sentences.
        figures: Its pictures.
        tables: Its tables.
        numbers: What goes into the JSON file.
        posteriors: Draws to save, by file name without ending.
        vae: A trained VAE to save.
        failed: Whether the stage could not run on these data.
        why: The traceback of what failed.
        seconds: Wall-clock time, in seconds.
    """

    name: str
    title: str
    answer: str = ""
    notes: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    posteriors: dict[str, Posterior] = field(default_factory=dict)
    vae: VAE | None = None
    failed: bool = False
    why: str = ""
    seconds: float = 0.0


@dataclass
class Study:
    """The data under study, and what the stages so far have found.

    Attributes:
        dataset: The data as they came.
        x: The points that are studied: images scaled to [0, 1], columns of a table standardized,
            double precision, shape (N, D).
        seed: Start of all random draws.
        settings: The options of the run.
        progress: Whether to show progress bars.
        dimension: The estimated intrinsic dimension, at most the rank of the data; None until it
            is known.
        ratios: TwoNN's distance ratios, shape (N,); None until they are known.
        guides: Posteriors by SVI of earlier stages, by what they are of.
    """

    dataset: Dataset
    x: Tensor
    seed: int
    settings: "Settings"
    progress: bool
    dimension: float | None = None
    ratios: Tensor | None = None
    guides: dict[str, Posterior] = field(default_factory=dict)

    @cached_property
    def pca(self) -> Spectrum:
        """The principal component analysis of the points.

        Raises:
            ValueError: If they are all the same.
        """
        return spectrum.pca(self.x)

    @cached_property
    def components(self) -> Tensor:
        """The leading principal components along which the data vary, shape (N, R)."""
        return self.pca.project(self.x, min(MOST_COMPONENTS, self.pca.rank))

    def some(self, most: int) -> Tensor:
        """Return the row numbers of at most `most` points, evenly chosen at random, sorted."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.x), generator=generator)
        return order[:most].sort().values

    def plane(self) -> Tensor:
        """Return the first two principal components, shape (N, 2).

        Raises:
            ValueError: If there are not two of them.
        """
        if self.components.shape[1] < 2:
            raise ValueError("the data must have at least 2 principal components for a plane")
        return self.components[:, :2]


@dataclass(frozen=True)
class Settings:
    """The options of a report; None leaves the choice to the data.

    Attributes:
        latent_dim: Latent size of the VAE; the estimated dimension where None.
        num_components: Components of the mixture; the least BIC where None.
        likelihood: Of the VAE: "bernoulli" or "gaussian".
        num_epochs: Most epochs of the VAE's training.
        standardize: Whether a table's columns are brought to mean 0 and standard deviation 1.
        device: Where the networks train.
    """

    latent_dim: int | None = None
    num_components: int | None = None
    likelihood: str | None = None
    num_epochs: int | None = None
    standardize: bool = True
    device: str = "cpu"


Stage = Callable[[Study], Section]


def attempt(name: str, title: str, stage: Stage, study: Study) -> Section:
    """Return a stage's section; where the stage cannot run, one that says why."""
    started = time.perf_counter()
    try:
        with plots.own_figures():
            section = stage(study)
    except Exception as error:
        said = f"This could not be answered on these data: {str(error) or type(error).__name__}"
        section = Section(name, title, answer=said, failed=True, why=traceback.format_exc())
    section.name, section.title = name, title
    section.seconds = time.perf_counter() - started
    return section
