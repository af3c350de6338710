"""The converter alone, without torch, on any ArviZ: `.ci/arviz1` runs this with 1.x."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "pplvae" / "infer" / "inference_data.py"
SPEC = importlib.util.spec_from_file_location("inference_data_alone", FILE)
assert SPEC is not None
assert SPEC.loader is not None
alone = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(alone)
az = alone.import_arviz()

RNG = np.random.default_rng(0)
Y = np.linspace(-1.0, 1.5, 12)
ATTRIBUTES = {"method": "exact", "seed": 0, "log_evidence": -17.5}


def normal_groups(chains: int = 2, num: int = 2000) -> dict[str, dict[str, np.ndarray]]:
    """Exact draws of the mean of Y, of unit sd under a standard normal prior."""
    loc = Y.sum() / 13 + RNG.normal(size=(chains, num)) / np.sqrt(13)
    terms = -0.5 * (Y - loc[..., None]) ** 2 - 0.5 * np.log(2 * np.pi)
    return {
        "posterior": {"loc": loc, "both": np.stack([loc, -loc], axis=-1)},
        "log_likelihood": {"y": terms},
        "observed_data": {"y": Y},
        "sample_stats": {"lp": terms.sum(axis=-1), "diverging": loc > 1},
        "constant_data": {"loss": np.arange(5.0)},
    }


def narrow(ratio: float, num: int = 20_000, seed: int = 0) -> np.ndarray:
    """Log weights of a normal guide whose sd is `ratio` times that of its normal target."""
    x = ratio * np.random.default_rng(seed).normal(size=num)
    return 0.5 * x**2 * (1 / ratio**2 - 1)


def test_the_container_holds_every_group() -> None:
    groups = normal_groups()
    data = alone.convert(groups, ATTRIBUTES)
    for group, values in groups.items():
        for name, value in values.items():
            np.testing.assert_array_equal(data[group][name], value)
    assert data["posterior"]["both"].dims[:2] == ("chain", "draw")
    assert data["posterior"].attrs["method"] == "exact"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    groups, path = normal_groups(), tmp_path / "posterior.nc"
    alone.write(groups, ATTRIBUTES, path)
    read, attributes = alone.read(path)
    assert attributes == ATTRIBUTES
    assert {group: set(values) for group, values in read.items()} == {
        group: set(values) for group, values in groups.items()
    }
    for group, values in groups.items():
        for name, value in values.items():
            np.testing.assert_array_equal(read[group][name], value)
            assert read[group][name].dtype == value.dtype


def test_plain_arviz_reads_what_is_written(tmp_path: Path) -> None:
    groups, path = normal_groups(), tmp_path / "posterior.nc"
    alone.write(groups, ATTRIBUTES, path)
    data = az.from_netcdf(str(path), engine="h5netcdf")
    np.testing.assert_array_equal(data["posterior"]["loc"], groups["posterior"]["loc"])
    np.testing.assert_array_equal(data["log_likelihood"]["y"], groups["log_likelihood"]["y"])
    assert data["posterior"].attrs["log_evidence"] == -17.5


def test_a_point_is_one_chain_of_one_draw(tmp_path: Path) -> None:
    groups, path = normal_groups(chains=1, num=1), tmp_path / "point.nc"
    assert alone.convert(groups, {})["posterior"]["both"].shape == (1, 1, 2)
    alone.write(groups, {}, path)
    np.testing.assert_array_equal(
        alone.read(path)[0]["log_likelihood"]["y"], groups["log_likelihood"]["y"]
    )


def test_a_point_has_no_spread(caplog: pytest.LogCaptureFixture) -> None:
    table = alone.summarize({"loc": np.array([[0.3]])}, 0.9)
    assert (table.loc["loc", ["mean", "5%", "95%"]] == 0.3).all()
    assert table.loc["loc", ["sd", "ess_bulk", "ess_tail", "r_hat"]].isna().all()
    assert np.isnan(alone.diagnose(RNG.normal(size=(2, 3)))["r_hat"])
    assert not caplog.records


def test_leaves_one_out_as_in_closed_form() -> None:
    found: Any = az.loo(alone.convert(normal_groups(), {}))
    elpd = found.elpd_loo if hasattr(found, "elpd_loo") else found.elpd
    # Without y_n the mean has precision 12 and y_n a normal density of variance 13/12.
    rest = Y.sum() - Y
    terms = -6 / 13 * (Y - rest / 12) ** 2 - 0.5 * np.log(2 * np.pi * 13 / 12)
    # 4000 draws know each of the twelve terms to less than 0.01 nat.
    assert elpd == pytest.approx(terms.sum(), abs=0.1)


def test_independent_draws_are_worth_their_number() -> None:
    found = alone.diagnose(RNG.normal(size=(4, 1000)))
    # The estimate of an effective size varies by a few per cent, more in the tails.
    assert found["ess_bulk"] == pytest.approx(4000, rel=0.2)
    assert found["ess_tail"] == pytest.approx(4000, rel=0.2)
    assert found["r_hat"] == pytest.approx(1, abs=0.01)


def test_the_summary_has_a_row_for_each_scalar() -> None:
    groups = normal_groups()
    table = alone.summarize(groups["posterior"], 0.9)
    assert list(table.index) == ["loc", "both[0]", "both[1]"]
    assert list(table) == ["mean", "sd", "5%", "95%", "ess_bulk", "ess_tail", "r_hat"]
    loc = groups["posterior"]["loc"]
    assert table.loc["loc", "mean"] == pytest.approx(loc.mean())
    assert table.loc["both[1]", "95%"] == pytest.approx(-np.quantile(loc, 0.05))


def test_one_chain_has_no_r_hat() -> None:
    found = alone.diagnose(RNG.normal(size=(1, 100)))
    assert np.isnan(found["r_hat"])
    assert found["ess_bulk"] == pytest.approx(100, rel=0.5)


def test_chains_apart_have_a_large_r_hat() -> None:
    draws = RNG.normal(size=(2, 100))
    assert alone.diagnose(draws)["r_hat"] < 1.05
    assert alone.diagnose(np.stack([draws[0], draws[1] + 5.0]))["r_hat"] > 1.5


def test_scalars_are_named_by_their_place() -> None:
    draws = np.arange(24.0).reshape(1, 2, 3, 4)
    found = alone.scalars({"locs": draws, "scale": draws[..., 0, 0]})
    assert list(found)[:2] == ["locs[0, 0]", "locs[0, 1]"]
    assert len(found) == 13
    np.testing.assert_array_equal(found["locs[2, 3]"], draws[:, :, 2, 3])
    np.testing.assert_array_equal(found["scale"], draws[:, :, 0, 0])


def test_the_interval_is_central_and_of_the_asked_mass() -> None:
    draws = np.linspace(0.0, 1.0, 1001).reshape(1, -1)
    table = alone.summarize({"x": draws}, 0.8)
    assert (table.loc["x", "10%"], table.loc["x", "90%"]) == pytest.approx((0.1, 0.9))


def test_more_chains_than_draws_is_no_mistake() -> None:
    data = alone.convert({"posterior": {"x": np.zeros((5, 2))}}, {})
    assert data["posterior"]["x"].shape == (5, 2)


def test_a_single_observation_has_no_axis() -> None:
    groups = {"posterior": {"x": np.zeros((1, 2))}, "observed_data": {"y": np.array(2.5)}}
    assert alone.convert(groups, {})["observed_data"]["y"].shape == ()


@pytest.mark.parametrize("ratio", [0.6, 0.7, 0.8])
def test_a_narrow_guide_has_the_k_of_theory(ratio: float) -> None:
    # log w = x²/2 (1/r² − 1) and x = r z, so P(w > t) = P(z² > 2 log t / (1 − r²)), which falls as
    # t^(−1 / (1 − r²)): a tail of index k = 1 − r². The estimate errs by 0.07 at 20,000 draws, and
    # is drawn to ½. Of weights with the wrong sign k is near −2: they are bounded by w(0) = 1, and
    # 1 − w ~ z² has P(1 − w < u) ~ u^(1/2) = u^(−1/k).
    mean = np.mean([alone.pareto_k(narrow(ratio, seed=seed)) for seed in range(4)])
    assert mean == pytest.approx(1 - ratio**2, abs=0.1)
    assert alone.pareto_k(-narrow(ratio)) < -1


def test_a_guide_wider_than_the_target_can_be_trusted() -> None:
    assert alone.pareto_k(narrow(1.5)) < -1


def test_smoothed_weights_are_normalized_and_keep_their_sign_and_order() -> None:
    log_weight = narrow(0.7)
    smoothed, k = alone.smooth(log_weight)
    assert k == alone.pareto_k(log_weight)
    assert np.exp(smoothed).sum() == pytest.approx(1)
    assert np.argmax(smoothed) == np.argmax(log_weight)
    body = log_weight < np.quantile(log_weight, 0.9)  # the tail is the largest 3 √20000 = 424
    shift = smoothed[body] - log_weight[body]
    np.testing.assert_allclose(shift, shift[0], rtol=1e-12)
    # Smoothing never raises a weight above the largest raw one, so the mean falls little.
    assert smoothed.max() - shift[0] <= log_weight.max() + 1e-12


def test_the_largest_weights_are_quantiles_of_a_pareto_law() -> None:
    smoothed, k = alone.smooth(narrow(0.7, 10_000))
    ordered = np.sort(np.exp(smoothed))
    # The tail is of 3 √10000 = 300 weights, and what they have above the next one follows
    # z_j = σ ((1 − p_j)^(−k) − 1) / k; the very largest may be cut at the largest raw weight.
    p = (np.arange(300) + 0.5) / 300
    scale = (ordered[-300:] - ordered[-301]) / ((1 - p) ** -k - 1)
    np.testing.assert_allclose(scale[:280], scale[0], rtol=1e-6)


def test_the_number_of_chains_does_not_matter() -> None:
    log_weight = narrow(0.7)
    rows, k = alone.smooth(log_weight.reshape(4, -1))
    assert k == alone.pareto_k(log_weight)
    np.testing.assert_array_equal(rows.ravel(), alone.smooth(log_weight)[0])


def test_a_constant_in_the_weights_does_not_matter() -> None:
    log_weight = narrow(0.7)
    assert alone.pareto_k(log_weight - 1e4) == pytest.approx(alone.pareto_k(log_weight), abs=1e-6)


@pytest.mark.parametrize("level", [0.0, -269.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_weights_are_exact(level: float, dtype: type) -> None:
    rounding = 8 * max(1.0, abs(level)) * float(np.finfo(dtype).eps)
    log_weight = (level + rounding * RNG.uniform(-1, 1, size=1000)).astype(dtype)
    smoothed, k = alone.smooth(log_weight)
    assert k == -np.inf
    np.testing.assert_allclose(np.exp(smoothed), 1e-3, rtol=32 * rounding)


def test_weights_that_nearly_agree_are_not_exact() -> None:
    assert np.isfinite(alone.pareto_k(-269 + 1e-4 * RNG.normal(size=1000)))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_infinite_weights_cannot_be_trusted(bad: float) -> None:
    log_weight = narrow(0.8, 1000)
    log_weight[17] = bad
    smoothed, k = alone.smooth(log_weight)
    assert k == np.inf
    assert np.isnan(smoothed).all()


def test_draws_outside_the_support_have_no_weight() -> None:
    log_weight = np.concatenate([narrow(0.8), np.full(5000, -np.inf)])
    smoothed, k = alone.smooth(log_weight)
    assert (smoothed[20_000:] == -np.inf).all()
    np.testing.assert_array_equal(smoothed[:20_000], alone.smooth(narrow(0.8))[0])
    assert k == alone.pareto_k(narrow(0.8))


def test_weights_that_no_draw_or_few_have_cannot_be_trusted() -> None:
    assert alone.pareto_k(np.full(1000, -np.inf)) == np.inf
    few = np.full(1000, -np.inf)
    few[:20] = RNG.normal(size=20)
    assert alone.pareto_k(few) == np.inf
    one = np.zeros(1000)
    one[0] = 50.0
    assert alone.pareto_k(one) == np.inf


def test_weights_spread_beyond_any_law_cannot_be_trusted() -> None:
    assert alone.pareto_k(500 * RNG.normal(size=1000)) > 1


def test_an_unknown_tail_is_said_to_be() -> None:
    assert np.isnan(alone.pareto_k(RNG.normal(size=29)))
    assert np.isnan(alone.pareto_k(np.zeros(1)))
    assert np.isfinite(alone.pareto_k(RNG.normal(size=40)))
    two_valued = np.where(RNG.uniform(size=1000) < 0.5, 0.0, -1.0)
    assert np.isnan(alone.pareto_k(two_valued))


def test_the_threshold_is_that_of_vehtari_et_al() -> None:
    # min(1 − 1 / log₁₀ S, 0.7): at S = 100 it is ½, from 10^(10/3) = 2154 draws on 0.7.
    assert alone.threshold(100) == pytest.approx(0.5)
    assert alone.threshold(2100) < 0.7
    assert alone.threshold(2200) == alone.threshold(10**6) == 0.7
    assert alone.threshold(1) == -np.inf
