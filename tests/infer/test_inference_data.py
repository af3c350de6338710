import ast
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import Posterior, exact, inference_data, laplace, nuts, svi
from pplvae.infer.inference_data import convert, diagnose, scalars, summarize


def model(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


@exact.solves(model)
def solution(y: Tensor) -> exact.Solution:
    precision = torch.tensor(1.0 + len(y))
    return exact.Solution({"loc": dist.Normal(y.sum() / precision, precision.rsqrt())}, 0.0)


Y = torch.linspace(-1.0, 1.5, 12, dtype=torch.float64)


def fitted(engine: str) -> Posterior:
    if engine == "exact":
        return exact.fit(model, Y, num_draws=600, seed=0)
    if engine == "Laplace":
        return laplace.fit(model, Y, num_draws=600, seed=0)
    if engine == "SVI":
        return svi.fit(model, Y, num_steps=200, num_draws=600, seed=0, progress=False)
    return nuts.fit(
        model, Y, num_draws=300, warmup_steps=100, num_chains=2, seed=0, progress=False
    )


@pytest.mark.parametrize("engine", ["exact", "Laplace", "SVI", "NUTS"])
def test_every_engine_s_posterior_serves_arviz(engine: str) -> None:
    found = fitted(engine)
    data: Any = found.to_arviz()
    groups = {"posterior", "log_likelihood", "observed_data", "sample_stats"}
    assert groups <= {name.strip("/") for name in data.groups()}
    assert data["posterior"]["loc"].dims == ("chain", "draw")
    np.testing.assert_array_equal(data["posterior"]["loc"], found.draws["loc"])
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    assert data["log_likelihood"]["y"].shape == (*found.draws["loc"].shape, 12)
    assert set(data["sample_stats"]) == set(found.sample_stats)
    assert data["posterior"].attrs["seed"] == 0

    table = az.summary(data, round_to="none")
    assert table.loc["loc", "mean"] == pytest.approx(found.draws["loc"].mean().item())
    # The leave-one-out density of a normal mean is a normal density, in closed form.
    rest = Y.sum() - Y
    law = dist.Normal(rest / len(Y), (1 + 1 / torch.tensor(len(Y))).sqrt())
    loo = az.loo(data)
    # 600 draws know each of the twelve terms to about 0.01 nat.
    assert loo.elpd_loo == pytest.approx(law.log_prob(Y).sum().item(), abs=0.2)
    assert not loo.warning


def test_the_summary_s_effective_sizes_are_arviz_s_own() -> None:
    steps = torch.randn(3, 300, 2)
    draws = steps.clone()
    for t in range(1, 300):  # autoregressive, so that sizes are far from the number of draws
        draws[:, t] += 0.8 * draws[:, t - 1]
    found = Posterior({"loc": draws, "scale": steps[..., 0].exp()})
    ours, theirs = found.summary(), az.summary(found.to_arviz(), round_to="none")
    assert list(ours.index) == list(theirs.index) == ["loc[0]", "loc[1]", "scale"]
    for column in ("mean", "sd", "ess_bulk", "ess_tail", "r_hat"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-12)
    assert ours.loc["loc[0]", "ess_bulk"] < 300


def test_one_chain_has_no_r_hat() -> None:
    found = diagnose(np.random.default_rng(0).normal(size=(1, 100)))
    assert np.isnan(found["r_hat"])
    assert found["ess_bulk"] == pytest.approx(100, rel=0.5)


def test_chains_apart_have_a_large_r_hat() -> None:
    draws = np.random.default_rng(0).normal(size=(2, 100))
    assert diagnose(draws)["r_hat"] < 1.05
    assert diagnose(np.stack([draws[0], draws[1] + 5.0]))["r_hat"] > 1.5


def test_scalars_are_named_by_their_place() -> None:
    draws = np.arange(24.0).reshape(1, 2, 3, 4)
    found = scalars({"locs": draws, "scale": draws[..., 0, 0]})
    assert list(found)[:2] == ["locs[0, 0]", "locs[0, 1]"]
    assert len(found) == 13
    np.testing.assert_array_equal(found["locs[2, 3]"], draws[:, :, 2, 3])
    np.testing.assert_array_equal(found["scale"], draws[:, :, 0, 0])


def test_the_interval_is_central_and_of_the_asked_mass() -> None:
    draws = np.linspace(0.0, 1.0, 1001).reshape(1, -1)
    table = summarize({"x": draws}, 0.8)
    assert (table.loc["x", "10%"], table.loc["x", "90%"]) == pytest.approx((0.1, 0.9))


def test_more_chains_than_draws_is_no_mistake() -> None:
    data = convert({"posterior": {"x": np.zeros((5, 2))}}, {})
    assert data["posterior"]["x"].shape == (5, 2)


def test_a_single_observation_has_no_axis() -> None:
    groups = {"posterior": {"x": np.zeros((1, 2))}, "observed_data": {"y": np.array(2.5)}}
    assert convert(groups, {})["observed_data"]["y"].shape == ()


def test_knows_neither_torch_nor_pyro() -> None:
    tree = ast.parse(Path(inference_data.__file__).read_text())
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    roots = {str(name).split(".")[0] for name in imported}
    assert not roots & {"torch", "pyro", "pplvae"}
