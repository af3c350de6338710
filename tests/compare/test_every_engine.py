"""One model goes through every engine and the comparison, unchanged."""

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae import compare
from pplvae.infer import Posterior, em, exact, importance, laplace, nuts, svi
from pplvae.infer import map as maximum
from pplvae.intrinsic_dimension import twonn

Engine = Callable[..., Posterior]
QUIET = {"progress": False}
FEW = {"num_draws": 1000}
SHORT_NUTS = {"num_draws": 250, "warmup_steps": 100, "num_chains": 2}
ENGINES: dict[str, Engine] = {
    "exact": partial(exact.fit, **FEW),
    "SVI, full-rank": partial(svi.fit, num_steps=300, **FEW, **QUIET),
    "SVI, mean-field": partial(svi.fit, guide="mean_field", num_steps=300, **FEW, **QUIET),
    "SVI, flow": partial(svi.fit, guide="flow", num_steps=300, **FEW, **QUIET),
    "Laplace": partial(laplace.fit, **FEW),
    "importance": partial(importance.fit, num_draws=500),
    "NUTS": partial(nuts.fit, **SHORT_NUTS, **QUIET),
    "MAP": maximum.fit,
    "EM": em.fit,
}


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Forty points, whose last two columns go together: a mean-field guide is too narrow."""
    x = torch.randn(40, 3)
    x[:, 2] = 0.9 * x[:, 1] + 0.44 * x[:, 2]
    return x, x @ torch.tensor([1.0, -1.0, 0.5]) + 0.5 * torch.randn(40)


def state() -> tuple[list[str], list[int], str, object]:
    return (
        list(pyro.get_param_store().keys()),
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
    )


def test_a_model_of_one_s_own_goes_through_every_engine(data: tuple[Tensor, Tensor]) -> None:
    before, found = state(), {}
    for name, engine in ENGINES.items():
        found[name] = engine(regression, *data, seed=0)
        assert state() == before, name
    comparison = compare.methods(found)
    assert state() == before
    table = comparison.table()
    assert list(table.index) == [name for name in ENGINES if name not in ("MAP", "EM")]
    assert list(comparison.points().index) == ["MAP", "EM"]
    # 1000 draws know a mean to 0.03 sd and the sd to 2 %, 400 effective ones of NUTS to 0.05
    # and 4 %.
    assert table["error"].abs().max() < 0.25
    assert comparison.points()["error"].abs().max() < 0.1
    narrow = table.loc["SVI, mean-field", "sd_ratio"]
    # Given the others, an sd is √(1 − r²) of what it is alone; r is about 0.9 here.
    assert narrow < 0.8
    rest = table.drop(index="SVI, mean-field")["sd_ratio"]
    assert ((rest - 1).abs() < 0.15).all()
    assert any(said.startswith("SVI, mean-field: the sd of w") for said in comparison.failures())
    known = table["log_evidence"].drop(index=["NUTS", "SVI, mean-field"])
    assert (known - exact.log_evidence(regression, *data)).abs().max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.study) for seed in range(1, 5))]
)
def test_every_engine_finds_the_dimension_from_every_seed(seed: int) -> None:
    torch.manual_seed(seed)
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((1000,))
    law = twonn.posterior(ratios)
    engines = ENGINES | {
        "exact": exact.fit,
        "Laplace": laplace.fit,
        "importance": importance.fit,
        "SVI, full-rank": partial(svi.fit, **QUIET),
        "SVI, mean-field": partial(svi.fit, guide="mean_field", **QUIET),
        "SVI, low-rank": partial(svi.fit, guide="low_rank", **QUIET),
        "SVI, flow": partial(svi.fit, guide="flow", **QUIET),
        "SVI, Rényi": partial(svi.fit, objective="renyi", **QUIET),
        "NUTS": partial(nuts.fit, num_draws=1000, warmup_steps=200, num_chains=2, **QUIET),
    }
    found = {name: engine(twonn.model, ratios, seed=seed) for name, engine in engines.items()}
    for name, posterior in found.items():
        draws = posterior.draws["dimension"]
        assert abs(draws.mean() - law.mean) / law.stddev < 0.2, name
        if not posterior.is_point:
            slack = 0.15 if name == "SVI, flow" else 0.1
            assert abs(draws.std() / law.stddev - 1) < slack, name
        if posterior.log_evidence is not None:
            assert posterior.log_evidence == pytest.approx(law.log_evidence, abs=0.01), name
    assert compare.methods(found).failures() == []
