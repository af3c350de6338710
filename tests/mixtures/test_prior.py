import math

import numpy as np
import pytest
import scipy.stats
import torch
from pyro import poutine
from torch import Tensor

from pplvae.mixtures import GaussianMixture, model
from pplvae.mixtures.prior import NormalInverseWishart


def prior(dim: int = 2) -> NormalInverseWishart:
    scatter = torch.eye(dim) + 0.5
    return NormalInverseWishart(torch.arange(dim) + 1.0, scatter, 0.7, dim + 3.5, 2.0)


def mixture(num_components: int = 3, dim: int = 2) -> GaussianMixture:
    trils = torch.randn(num_components, dim, dim).tril(-1)
    trils = trils + torch.diag_embed(torch.rand(num_components, dim) + 0.5)
    weights = torch.rand(num_components) + 0.2
    return GaussianMixture(weights / weights.sum(), torch.randn(num_components, dim), trils)


@pytest.mark.parametrize("dim", [1, 3])
def test_its_density_is_scipy_s(dim: int) -> None:
    own, at = prior(dim), mixture(3, dim)
    expected = scipy.stats.dirichlet.logpdf(at.weights.numpy(), np.full(3, 2.0))
    for loc, cov in zip(at.locs.numpy(), at.covs.numpy(), strict=True):
        wishart = scipy.stats.invwishart(df=own.degrees, scale=own.scatter.numpy())
        normal = scipy.stats.multivariate_normal(own.loc.numpy(), cov / own.strength)
        expected += wishart.logpdf(cov) + normal.logpdf(loc)
    assert own.log_prob(at) == pytest.approx(float(expected))


def test_the_model_draws_from_it() -> None:
    """Means of Σ and loc by the formulas, within 5 standard errors of 20,000 components."""
    own, num = prior(), 20_000
    trace = poutine.trace(model).get_trace(torch.randn(3, 2), num, prior=own)
    trils, locs = trace.nodes["scale_trils"]["value"], trace.nodes["locs"]["value"]
    covs = trils @ trils.mT
    expected = own.scatter / (own.degrees - 3)
    assert ((covs.mean(dim=0) - expected).abs() < 5 * covs.std(dim=0) / math.sqrt(num)).all()
    error = locs.std(dim=0) / math.sqrt(num)
    assert ((locs.mean(dim=0) - own.loc).abs() < 5 * error).all()
    # loc | Σ ~ Normal(m, Σ / κ): whitened, its square is a χ² with D degrees, of variance 2 D
    whitened = torch.linalg.solve_triangular(trils, (locs - own.loc).unsqueeze(-1), upper=False)
    squares = own.strength * whitened.square().sum(dim=(1, 2))
    assert abs(squares.mean().item() - 2) < 5 * math.sqrt(4 / num)


def test_a_linear_map_of_the_coordinates_changes_only_the_volume() -> None:
    """z = A⁻¹ (x − c): each loc's density gains log |A|, each Σ's (D + 1) log |A|."""
    own, at = prior(), mixture()
    center, scale = torch.tensor([3.0, -2.0]), torch.tensor([[2.0, 0.0], [0.7, 0.5]])

    def to_z(vectors: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(scale, vectors, upper=False)

    moved = GaussianMixture(at.weights, to_z((at.locs - center).mT).mT, to_z(at.scale_trils))
    volume = 3 * (1 + 3) * scale.diagonal().log().sum().item()
    found = own.in_coordinates(center, scale).log_prob(moved)
    assert found == pytest.approx(own.log_prob(at) + volume)


def test_the_default_follows_the_data_and_stays_open() -> None:
    x = torch.randn(50, 2) * torch.tensor([1.0, 1000.0]) + 7.0
    found = NormalInverseWishart.default(x, 4)
    torch.testing.assert_close(found.loc, x.mean(dim=0))
    torch.testing.assert_close(found.scatter, x.T.cov(correction=0) / 4, rtol=1e-5, atol=0.0)
    assert found.degrees == 4
    flat = NormalInverseWishart.default(torch.cat([x, x[:, :1], torch.ones(50, 1)], dim=1), 4)
    assert torch.linalg.cholesky_ex(flat.scatter).info.item() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scatter": torch.eye(3)}, r"loc and scatter must have shapes \(D,\) and \(D, D\), got"),
        ({"scatter": -torch.eye(2)}, "scatter must be symmetric and positive definite"),
        ({"strength": 0.0}, "strength must be positive, got 0.0"),
        ({"degrees": 1.0}, "degrees must be above 1 and finite, got 1.0"),
        ({"concentration": -1.0}, "concentration must be positive, got -1.0"),
    ],
)
def test_refuses_an_impossible_prior(changes: dict[str, object], message: str) -> None:
    known: dict[str, object] = {"loc": torch.zeros(2), "scatter": torch.eye(2)}
    with pytest.raises(ValueError, match=message):
        NormalInverseWishart(**known | changes)  # type: ignore[arg-type]


def test_refuses_a_mixture_of_another_dimension() -> None:
    with pytest.raises(ValueError, match="mixture must have 2 dimensions, got 3"):
        prior().log_prob(mixture(2, 3))
