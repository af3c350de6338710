import ast
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae import infer, mixtures, vae
from pplvae.infer import Posterior, em, exact, importance, inference_data, laplace, load, nuts, svi
from pplvae.infer.program import Model
from pplvae.intrinsic_dimension import twonn


def model(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


@exact.solves(model)
def solution(y: Tensor) -> exact.Solution:
    precision = torch.tensor(1.0 + len(y))
    covariance = torch.eye(len(y)) + 1.0
    evidence = dist.MultivariateNormal(torch.zeros(len(y)), covariance).log_prob(y)
    law = dist.Normal(y.sum() / precision, precision.rsqrt())
    return exact.Solution({"loc": law}, evidence.item())


Y = torch.linspace(-1.0, 1.5, 12, dtype=torch.float64)


QUIET: dict[str, Any] = {"seed": 0, "progress": False}
ENGINES: dict[str, Callable[..., Posterior]] = {
    "exact": partial(exact.fit, num_draws=600, seed=0),
    "Laplace": partial(laplace.fit, num_draws=600, seed=0),
    "SVI": partial(svi.fit, num_steps=200, num_draws=600, **QUIET),
    "importance": partial(importance.fit, num_draws=600, seed=0),
    "NUTS": partial(nuts.fit, num_draws=200, warmup_steps=60, num_chains=2, **QUIET),
}
SHORT: dict[str, Callable[..., Posterior]] = {
    "MAP": partial(infer.map.fit, seed=0),
    "EM": partial(em.fit, seed=0),
    "Laplace": partial(laplace.fit, num_draws=9, seed=0),
    "SVI": partial(svi.fit, num_steps=5, num_draws=9, **QUIET),
    "importance": partial(importance.fit, num_draws=9, seed=0),
    "NUTS": partial(nuts.fit, num_draws=5, warmup_steps=3, num_chains=2, **QUIET),
}
GROUPS = {"posterior", "log_likelihood", "observed_data", "sample_stats"}


def groups_of(data: Any) -> set[str]:
    """Return the names of the groups of ArviZ's container, of either version."""
    return set(getattr(data, "children", None) or data.groups())


def clusters() -> Tensor:
    return torch.cat([torch.randn(15, 2) - 3, torch.randn(15, 2) + 3])


def mixture(*, enumerate_assignments: bool) -> tuple[Model, Tensor, dict[str, Any]]:
    """A mixture's model, its data, and the settings that start an engine at a mode."""
    x = clusters()
    at = mixtures.em.fit(x, 2, seed=0, progress=False).mixture
    called = partial(mixtures.model, num_components=2, enumerate_assignments=enumerate_assignments)
    return called, x, {"init": mixtures.svi.sites(at)}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_s_posterior_serves_arviz(engine: str) -> None:
    found = ENGINES[engine](model, Y)
    data: Any = found.to_arviz()
    assert groups_of(data) >= GROUPS
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
    # 400 draws know each of the twelve terms to about 0.01 nat.
    assert loo.elpd_loo == pytest.approx(law.log_prob(Y).sum().item(), abs=0.2)
    assert not loo.warning


@pytest.mark.parametrize("engine", [*SHORT, "exact"])
def test_the_dimension_of_data_serves_arviz(engine: str, ratios: Tensor) -> None:
    ratios = ratios[:30]
    found = (ENGINES | SHORT)[engine](twonn.model, ratios)
    check_serves_arviz(found, {"dimension": ()}, {"ratios": ratios})


@pytest.mark.parametrize("engine", SHORT)
@pytest.mark.parametrize("enumerate_assignments", [False, True])
def test_mixtures_serve_arviz(engine: str, *, enumerate_assignments: bool) -> None:
    called, x, start = mixture(enumerate_assignments=enumerate_assignments)
    sites = {"weights": (2,), "locs": (2, 2), "scales": (2, 2), "correlation_trils": (2, 2, 2)}
    computed = {"scale_trils": (2, 2, 2)}
    check_serves_arviz(SHORT[engine](called, x, **start), sites | computed, {"x": x})


@pytest.mark.parametrize("engine", SHORT)
def test_a_vae_s_codes_serve_arviz(engine: str) -> None:
    coder = vae.mlp(6, 2, hidden_dims=(8,), activation="tanh", seed=0)
    x = (torch.rand(10, 6) < 0.5).double()
    own = {"guide": coder.guide} if engine == "SVI" else {}
    found = SHORT[engine](coder.model, x, **own)
    check_serves_arviz(found, {"z": (10, 2)}, {"x": x})


def check_serves_arviz(
    found: Posterior, sites: dict[str, tuple[int, ...]], observed: dict[str, Tensor]
) -> None:
    """Check all groups, with one log-likelihood for each of the observations."""
    data: Any = found.to_arviz()
    assert groups_of(data) >= GROUPS
    leading = (found.num_chains, found.num_draws)
    shapes = {name: values.shape for name, values in data["posterior"].data_vars.items()}
    assert shapes == {name: leading + shape for name, shape in sites.items()}
    for name, values in observed.items():
        np.testing.assert_array_equal(data["observed_data"][name], values)
        terms = data["log_likelihood"][name]
        assert terms.shape == (*leading, len(values))
        assert np.isfinite(terms).all()
    assert set(data["sample_stats"].data_vars) == set(found.sample_stats)
    assert len(found.summary()) == sum(math.prod(shape) for shape in sites.values())


def test_a_point_serves_arviz(tmp_path: Path) -> None:
    point = infer.map.fit(model, Y, seed=0)
    data: Any = point.to_arviz()
    assert data["posterior"]["loc"].shape == (1, 1)
    np.testing.assert_array_equal(data["log_likelihood"]["y"], point.log_likelihood["y"])
    point.save(tmp_path / "point.nc")
    again = load(tmp_path / "point.nc")
    assert again.is_point
    assert torch.equal(again.draws["loc"], point.draws["loc"])


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


def test_knows_neither_torch_nor_pyro() -> None:
    tree = ast.parse(Path(inference_data.__file__).read_text())
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    roots = {str(name).split(".")[0] for name in imported}
    assert not roots & {"torch", "pyro", "pplvae"}
