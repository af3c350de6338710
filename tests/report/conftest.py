from collections.abc import Iterator
from functools import partial
from importlib import import_module

import pytest
import torch

from pplvae import data, plots
from pplvae.report import Report, autoencoder, build, clusters, code, density, trust


@pytest.fixture(scope="session", autouse=True)
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
        patch.setattr(code, "EPOCHS", 2)
        patch.setattr(density, "NUM_EPOCHS", 2)
        patch.setattr(density, "MOST_FITTED", 120)
        patch.setattr(autoencoder, "STEPS_A_POINT", 3)
        yield


@pytest.fixture(scope="session")
def digits_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report on some of the digits."""
    torch.set_default_dtype(torch.float32)
    digits = data.digits().subset(torch.arange(300))
    folder = tmp_path_factory.mktemp("digits")
    return build(
        digits, folder, latent_dim=3, num_components=10, num_epochs=2, seed=0, progress=False
    )
