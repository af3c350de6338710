import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes

from pplvae import plots
from pplvae.report import autoencoder, clusters, code, density, trust
from pplvae.report.build import STAGES


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    """Engines that run just long enough to answer: their accuracy is tested where they live."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "SVI_STEPS": 30, "NUM_DRAWS": 40, "WARMUP_STEPS": 20, "NUM_SIMULATIONS": 100,
            "SIMULATED": 20, "NUM_WEIGHTS": 2000, "NUM_EVALUATIONS": 20,
        }.items():  # fmt: skip
            patch.setattr(trust, name, value)
        patch.setattr(import_module("pplvae.compare.gradients"), "WARM_UP", 5)
        patch.setattr(plots, "png", partial(plots.png, dots_per_inch=40))
        patch.setattr(clusters, "SVI_STEPS", 30)
        patch.setattr(clusters, "GIBBS_DRAWS", 20)
        patch.setattr(code, "STEPS", 20)
        patch.setattr(density, "NUM_EPOCHS", 2)
        patch.setattr(density, "MOST_FITTED", 120)
        patch.setattr(autoencoder, "STEPS_A_POINT", 3)
        yield


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave those stages alone whose names are given."""

    def keep(*names: str) -> None:
        stages = [stage for stage in STAGES if stage[0] in names]
        monkeypatch.setattr(sys.modules["pplvae.report.build"], "STAGES", stages)

    return keep


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not painted, for tests that look at none: painting is half the time."""

    def close(ax: Axes) -> bytes:
        pyplot.close(ax.get_figure(root=True))
        return b"no picture"

    monkeypatch.setattr(plots, "png", close)
