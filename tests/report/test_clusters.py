import pytest
import torch

from pplvae.data import Dataset
from pplvae.infer import Posterior
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.report import clusters
from pplvae.report.section import Settings, Study


def chains(apart: float) -> MixturePosterior:
    """Two chains, their means so many standard deviations apart; factors have constant zeros."""
    locs = torch.randn(2, 400, 2, 2) + torch.tensor([[0.0, 0.0], [20.0, 20.0]])
    locs[1] += apart
    weights = torch.full((2, 400, 2), 0.5)
    return MixturePosterior.of(
        Posterior(
            {"weights": weights, "locs": locs, "scale_trils": torch.eye(2).expand(2, 400, 2, 2, 2)}
        )
    )


def test_says_whether_the_chains_agree_whatever_is_constant() -> None:
    """R-hat of a constant is none; of the means 1.00 to 0.01, or far above where chains differ."""
    assert clusters._chains(chains(0.0)).startswith("The chains of Gibbs agree (R-hat 1.0")
    assert clusters._chains(chains(3.0)).startswith("The chains of Gibbs do not agree (R-hat ")
    assert "nan" not in clusters._chains(chains(3.0))


@pytest.mark.parametrize("dim", [1, 2])
def test_has_a_picture_of_all_that_can_be_seen(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "SVI_STEPS", 5)
    monkeypatch.setattr(clusters, "GIBBS_DRAWS", 10)
    x = torch.cat([torch.randn(60, dim), torch.randn(40, dim) + 6.0])
    study = Study(Dataset(x, (dim,), None, "a table"), x, 0, Settings(None, 2), False)
    found = clusters.section(study)
    names = [figure.name for figure in found.figures]
    plane = ["mixture", "uncertainty", "means"] if dim == 2 else []
    assert names == [*plane, "mixture-density"]
    assert set(found.posteriors) == {"mixture-svi", "mixture-gibbs"}
