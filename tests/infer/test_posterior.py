"""What holds for every engine's posterior, and for the file it is kept in."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae import infer
from pplvae.infer import Posterior, exact, laplace, nuts, svi
from pplvae.intrinsic_dimension import twonn

RATIOS = torch.linspace(0.01, 0.99, 60, dtype=torch.float64).neg().add(1).pow(-1 / 3)

Engine = Callable[..., Posterior]

ENGINES: dict[str, Engine] = {
    "exact": lambda model, *data, **rest: exact.fit(model, *data, num_draws=40, **rest),
    "Laplace": lambda model, *data, **rest: laplace.fit(model, *data, num_draws=40, **rest),
    "SVI": lambda model, *data, **rest: svi.fit(
        model, *data, num_steps=20, num_draws=40, progress=False, **rest
    ),
    "NUTS": lambda model, *data, **rest: nuts.fit(
        model, *data, num_draws=10, warmup_steps=8, num_chains=2, progress=False, **rest
    ),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def normal_mean(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 1.0))
    pyro.deterministic("doubled", 2 * loc)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


@exact.solves(normal_mean)
def normal_mean_solution(y: Tensor) -> exact.Solution:
    precision = torch.tensor(1.0 + len(y))
    covariance = torch.eye(len(y)) + torch.ones(len(y), len(y))
    evidence = dist.MultivariateNormal(torch.zeros(len(y)), covariance).log_prob(y)
    law = dist.Normal(y.sum() / precision, precision.rsqrt())
    return exact.Solution({"loc": law}, evidence.item())


def assert_same(ours: Posterior, theirs: Posterior) -> None:
    """Equal to the bit, but for the time it took."""
    for field in ("draws", "log_likelihood", "observed", "sample_stats"):
        mine, yours = getattr(ours, field), getattr(theirs, field)
        assert mine.keys() == yours.keys()
        for name in mine:
            assert mine[name].dtype == yours[name].dtype, name
            assert torch.equal(mine[name], yours[name]), name
    assert ours.log_evidence == theirs.log_evidence
    assert torch.equal(ours.trace, theirs.trace)
    assert (ours.method, ours.provenance) == (theirs.method, theirs.provenance)
    assert ours.cost.gradient_evaluations == theirs.cost.gradient_evaluations


def test_the_same_seed_gives_the_same_draws_on_any_number_of_threads(engine: Engine) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(engine(twonn.model, RATIOS, seed=7))
    finally:
        torch.set_num_threads(threads)
    assert_same(*found)
    other = engine(twonn.model, RATIOS, seed=8)
    assert not torch.equal(other.draws["dimension"], found[0].draws["dimension"])


def test_without_a_seed_runs_differ_and_the_seed_is_told(engine: Engine) -> None:
    first, second = engine(twonn.model, RATIOS), engine(twonn.model, RATIOS)
    assert not torch.equal(first.draws["dimension"], second.draws["dimension"])
    assert_same(engine(twonn.model, RATIOS, seed=first.provenance["seed"]), first)


def states() -> list[bytes]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()).encode(),  # noqa: NPY002
        repr(random.getstate()).encode(),
    ]


def test_global_randomness_and_parameters_stay_as_they_were(engine: Engine) -> None:
    mine = pyro.param("mine", torch.tensor([1.0, 2.0]))
    before = states()
    engine(twonn.model, RATIOS, seed=0)
    assert states() == before
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine") is mine
    assert mine.tolist() == [1.0, 2.0]
    pyro.clear_param_store()


def test_they_stay_so_where_the_model_raises(engine: Engine) -> None:
    runs = []

    def fails(ratios: Tensor) -> None:
        pyro.param("model's own", torch.rand(3))
        twonn.model(ratios)
        runs.append(np.random.rand() + random.random())  # noqa: NPY002
        if len(runs) == 3:
            raise KeyError("the third run")

    exact.solves(fails)(lambda ratios: (fails(ratios), fails(ratios), fails(ratios)))
    mine = pyro.param("mine", torch.tensor([1.0, 2.0]))
    before = states()
    with pytest.raises(KeyError, match="the third run"):
        engine(fails, RATIOS, seed=0)
    assert states() == before
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine") is mine
    pyro.clear_param_store()


def test_the_model_sees_the_caller_s_parameters(engine: Engine) -> None:
    def shifted(y: Tensor) -> None:
        normal_mean(y - pyro.param("shift"))

    def solution(y: Tensor) -> exact.Solution:
        return normal_mean_solution(y - pyro.param("shift").detach())

    exact.solves(shifted)(solution)
    y = torch.linspace(-1, 1, 9)
    shift = pyro.param("shift", torch.tensor(10.0))
    found = engine(shifted, y + 10.0, seed=0)
    expected = engine(normal_mean, y, seed=0)
    torch.testing.assert_close(found.draws["loc"], expected.draws["loc"], rtol=0, atol=1e-6)
    assert shift == 10.0
    pyro.clear_param_store()


def test_deterministic_sites_are_among_the_draws(engine: Engine) -> None:
    found = engine(normal_mean, torch.linspace(-1, 1, 9), seed=0)
    assert list(found.draws) == ["loc", "doubled"]
    torch.testing.assert_close(found.draws["doubled"], 2 * found.draws["loc"])


def test_log_likelihoods_are_those_of_the_draws(engine: Engine) -> None:
    found = engine(twonn.model, RATIOS, seed=0)
    law = dist.Pareto(torch.tensor(1.0), found.draws["dimension"].unsqueeze(-1))
    torch.testing.assert_close(found.log_likelihood["ratios"], law.log_prob(RATIOS))
    torch.testing.assert_close(found.observed["ratios"], RATIOS)
    assert not engine(twonn.model, RATIOS, seed=0, pointwise=False).log_likelihood


def test_single_precision_stays_single(engine: Engine) -> None:
    found = engine(twonn.model, RATIOS.float(), seed=0)
    assert found.draws["dimension"].dtype == torch.float32
    assert found.log_likelihood["ratios"].dtype == torch.float32
    assert found.provenance["dtype"] == "float32"


def test_tells_what_it_cost(engine: Engine) -> None:
    found = engine(twonn.model, RATIOS, seed=0)
    assert found.cost.cpu_seconds > 0
    assert found.cost.wall_seconds > 0
    assert (found.cost.gradient_evaluations > 0) == (found.method != "exact")
    assert found.method in repr(found)
    assert set(found.provenance) > {"seed", "dtype", "torch_version", "pyro_version"}


def test_a_file_gives_back_every_bit(engine: Engine, tmp_path: Path) -> None:
    found = engine(normal_mean, torch.linspace(-1, 1, 9), seed=0)
    found.save(tmp_path / "fits" / "one.nc")
    again = infer.load(tmp_path / "fits" / "one.nc")
    assert_same(again, found)
    assert again.cost == found.cost
    assert [path.name for path in (tmp_path / "fits").iterdir()] == ["one.nc"]


def by_hand(**rest: Any) -> Posterior:
    draws = {
        "locs": torch.randn(2, 30, 3, 2),
        "scale": torch.rand(2, 30, dtype=torch.float32),
        "zeros": torch.zeros(2, 30, 2),
    }
    return Posterior(draws, **rest)


def test_a_file_keeps_dtypes_shapes_and_what_is_not_finite(tmp_path: Path) -> None:
    found = by_hand(
        log_evidence=-math.inf,
        sample_stats={"diverging": torch.rand(2, 30) < 0.5, "depth": torch.randint(9, (2, 30))},
        observed={"counts": torch.arange(5), "total": torch.tensor(2.5)},
        log_likelihood={"counts": torch.randn(2, 30, 5), "total": torch.randn(2, 30)},
        trace=torch.tensor([3.0, math.inf, 1.0]),
        provenance={"seed": 2**32 - 1, "note": "π ≈ 3"},
    )
    found.save(tmp_path / "x.nc")
    assert_same(infer.load(str(tmp_path / "x.nc")), found)


def test_a_file_of_the_least_posterior(tmp_path: Path) -> None:
    found = Posterior({"chain_length": torch.randn(1, 1)})
    found.save(tmp_path / "x.nc")
    again = infer.load(tmp_path / "x.nc")
    assert_same(again, found)
    assert again.log_evidence is None


def test_plain_arviz_reads_the_file(tmp_path: Path) -> None:
    import arviz as az

    found = by_hand(log_evidence=-12.5, sample_stats={"diverging": torch.rand(2, 30) < 0.5})
    found.save(tmp_path / "x.nc")
    data = az.from_netcdf(str(tmp_path / "x.nc"), engine="h5netcdf")
    np.testing.assert_array_equal(data["posterior"]["locs"], found.draws["locs"])
    assert data["posterior"]["locs"].dims[:2] == ("chain", "draw")
    assert data["sample_stats"]["diverging"].dtype == bool
    assert data["posterior"].attrs["log_evidence"] == -12.5


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = by_hand()
    old.save(tmp_path / "x.nc")

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pplvae.infer.inference_data.write", fails)
    with pytest.raises(OSError, match="disk full"):
        by_hand().save(tmp_path / "x.nc")
    assert_same(infer.load(tmp_path / "x.nc"), old)
    assert [path.name for path in tmp_path.iterdir()] == ["x.nc"]


def test_refuses_files_that_are_none_of_its_own_by_name(tmp_path: Path) -> None:
    by_hand().save(tmp_path / "whole.nc")
    whole = (tmp_path / "whole.nc").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.nc").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"path must name netCDF with a posterior, got .*cut"):
            infer.load(tmp_path / "cut.nc")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"got .*table\.csv"):
        infer.load(tmp_path / "table.csv")
    with h5netcdf.File(tmp_path / "other.nc", "w") as file:
        file.create_group("prior")
    with pytest.raises(ValueError, match=r"got .*other\.nc"):
        infer.load(tmp_path / "other.nc")
    with pytest.raises(FileNotFoundError, match=r"got .*none\.nc, which does not exist"):
        infer.load(tmp_path / "none.nc")
    with pytest.raises(ValueError, match="path must name netCDF"):
        infer.load(tmp_path)


def test_the_summary_has_a_row_for_every_scalar() -> None:
    found = by_hand()
    table = found.summary(prob=0.9)
    assert list(table.columns[:4]) == ["mean", "sd", "5%", "95%"]
    assert list(table.index[:2]) == ["locs[0, 0]", "locs[0, 1]"]
    assert len(table) == 9
    draws = found.draws["locs"][..., 2, 1].flatten()
    row = table.loc["locs[2, 1]"]
    assert row["mean"] == pytest.approx(draws.mean().item())
    assert row["sd"] == pytest.approx(draws.std().item())
    assert row["95%"] == pytest.approx(draws.quantile(0.95).item())


def test_refuses_draws_without_chains() -> None:
    with pytest.raises(ValueError, match="draws must hold at least 1 site, got none"):
        Posterior({})
    with pytest.raises(ValueError, match=r"share their axes \(chain, draw\), got \{'a': \(2, 5\)"):
        Posterior({"a": torch.zeros(2, 5), "b": torch.zeros(2, 6)})
    with pytest.raises(ValueError, match=r"share their axes \(chain, draw\), got \{'a': \(5,\)"):
        Posterior({"a": torch.zeros(5)})


def test_refuses_an_interval_of_no_probability() -> None:
    with pytest.raises(ValueError, match=r"prob must be in \[0, 1\], got 1\.5"):
        by_hand().summary(prob=1.5)


def test_refuses_to_save_names_that_netcdf_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sites must have names without '/' .* got 'a/b'"):
        Posterior({"a/b": torch.zeros(1, 4)}).save(tmp_path / "x.nc")
    assert not list(tmp_path.iterdir())
