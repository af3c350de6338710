import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from pplvae.compare.calibrate import Calibration, calibrate
from pplvae.compare.simulations import Study
from pplvae.infer import Posterior
from pplvae.intrinsic_dimension import twonn
from pplvae.mixtures import model as mixture

RATIOS = torch.full((100,), 2.0)
EVEN = torch.arange(200).repeat(5)


def right(seen: dict[str, Tensor], seed: int) -> Posterior:
    """The exact posterior of TwoNN."""
    return moved(seen, seed)


def moved(
    seen: dict[str, Tensor], seed: int, *, spread: float = 1.0, shift: float = 0.0, copies: int = 1
) -> Posterior:
    """The exact posterior of TwoNN, with its sd multiplied and its mean moved by so many sds."""
    law = twonn.posterior(seen["ratios"])
    draws = law.distribution.sample(torch.Size([199])).repeat_interleave(copies)
    draws = law.mean + spread * (draws - law.mean) + shift * law.stddev
    return Posterior({"dimension": draws.unsqueeze(0)}, method="by hand")


def regression(x: Tensor, y: Tensor) -> None:
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(x @ slopes, 0.5).to_event(1), obs=y)


def groups(y: Tensor) -> None:
    center = pyro.sample("center", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", y.shape[1]):
        locs = pyro.sample("locs", dist.Normal(center, 3.0))
        with pyro.plate("points", y.shape[0]):
            pyro.sample("y", dist.Normal(locs, 1.0), obs=y)


def test_the_exact_posterior_passes() -> None:
    found = calibrate(twonn.model, RATIOS, fit=right, num_simulations=500, seed=0, progress=False)
    row = found.table().loc["dimension"]
    assert (row[["ks_p", "chi2_p", "symmetry_p"]] > 0.001).all()
    assert 0.856 < row["coverage"] < 0.944  # 0.9 ± 3.29 √(0.09 / 500)
    assert found.failures() == []
    assert found.method == "by hand"


@pytest.mark.slow
def test_svi_of_all_data_sets_at_once_is_right_of_each() -> None:
    study = Study(twonn.model, (RATIOS,))
    truth, seen = study.simulate(100)
    settings = {"guide": "mean_field", "num_draws": 400, "num_steps": 500}
    found = study.fit_together(truth, seen, seed=0, progress=False, **settings)
    draws = found.draws["dimension"].reshape(400, 100)
    laws = [twonn.posterior(ratios) for ratios in seen["ratios"]]
    mean, sd = (torch.tensor([getattr(law, of) for law in laws]) for of in ("mean", "stddev"))
    errors, ratios = (draws.mean(dim=0) - mean) / sd, draws.std(dim=0) / sd
    # 400 draws leave 0.05 and 0.035; Adam's own noise of two particles 0.1 and 0.06. Truths lie
    # between 1 and 500: a fit that had not come from one to the other would be off by many sds.
    assert errors.square().mean().sqrt() < 0.2
    assert errors.mean().abs() < 0.05
    assert ratios.mean() == pytest.approx(1.0, abs=0.05)
    assert truth["dimension"].max() / truth["dimension"].min() > 50


def test_svi_passes() -> None:
    found = calibrate(
        twonn.model, RATIOS, num_simulations=200, num_steps=500, seed=0, progress=False
    )
    assert found.failures() == []
    assert found.ranks["dimension"].shape == (200,)
    assert found.cost.gradient_evaluations == 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_thousand_posteriors_by_svi_pass(seed: int) -> None:
    found = calibrate(twonn.model, RATIOS, seed=seed, progress=False)
    row = found.table().loc["dimension"]
    assert (row[["ks_p", "chi2_p", "symmetry_p"]] > 0.001).all()
    assert 0.869 < row["coverage"] < 0.931


def test_sixty_steps_of_svi_are_caught() -> None:
    found = calibrate(
        twonn.model, RATIOS, num_simulations=200, num_steps=60, seed=0, progress=False
    )
    row = found.table().loc["dimension"]
    assert row["ks_p"] < 0.001
    assert row["chi2_p"] < 0.001
    assert any("take more steps" in said for said in found.failures())


# With 500 simulations an sd off by 20 % moves the coverage by 6 of its standard errors, and 0.3 sd
# the mean rank by 6.


@pytest.mark.parametrize(("spread", "word"), [(0.8, "narrow"), (1.25, "wide")])
def test_a_wrong_spread_is_caught_by_coverage(spread: float, word: str) -> None:
    found = calibrate(
        twonn.model, RATIOS, fit=lambda x, seed: moved(x, seed, spread=spread),
        num_simulations=500, seed=0, progress=False,
    )  # fmt: skip
    coverage = found.table().loc["dimension", "coverage"]
    # P(|z| < 1.645 spread): 0.812 and 0.960
    assert coverage == pytest.approx(0.812 if spread < 1 else 0.960, abs=0.05)
    assert not found.coverage_band[0] <= coverage <= found.coverage_band[1]
    assert [f"too {word}" in said for said in found.failures()] == [True]
    assert found.table().loc["dimension", "symmetry_p"] > 0.001, "symmetry is blind to spread"


@pytest.mark.parametrize(("shift", "word"), [(0.3, "high"), (-0.3, "low")])
def test_a_shift_is_caught_by_ks_and_symmetry(shift: float, word: str) -> None:
    found = calibrate(
        twonn.model, RATIOS, fit=lambda x, seed: moved(x, seed, shift=shift),
        num_simulations=500, seed=0, progress=False,
    )  # fmt: skip
    row = found.table().loc["dimension"]
    assert row["ks_p"] < 0.001
    assert row["symmetry_p"] < 0.001
    # E Φ(z − shift) = Φ(−shift / √2) = ½ ∓ 0.084, with √(1/12 / 500) = 0.013 of noise
    assert row["mean_rank"] == pytest.approx(0.5 - 0.28 * shift, abs=0.04)
    assert any(f"lies too {word}" in said for said in found.failures())


def test_the_numbers_of_a_site_have_names_and_pass() -> None:
    found = calibrate(
        groups, torch.zeros(10, 3), num_simulations=100, num_steps=400, seed=0, progress=False
    )
    assert found.parameters == ["center", "locs[0]", "locs[1]", "locs[2]"]
    assert list(found.table().index) == found.parameters
    assert found.failures() == []


def test_a_regression_that_no_plate_bears_is_fitted_in_one_run() -> None:
    torch.manual_seed(0)
    x = (
        torch.linalg.qr(torch.randn(30, 2)).Q * 30**0.5
    )  # of orthogonal columns: mean field is exact
    study = Study(regression, (x, torch.zeros(30)))
    assert study.together
    assert not study.in_plate
    found = calibrate(
        regression, x, torch.zeros(30), num_simulations=100, num_steps=300, seed=0, progress=False
    )
    assert found.failures() == []


def test_a_model_whose_shapes_fit_a_plate_by_chance_is_not_put_in_one() -> None:
    def line(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(slope * x, 1.0).to_event(1), obs=y)

    # Two slopes times two points are a slope a point, not two points a slope.
    study = Study(line, (torch.tensor([1.0, 5.0]), torch.zeros(2)))
    assert not study.in_plate
    assert study.together


def test_a_mean_field_of_correlated_slopes_is_too_narrow() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 1) + 0.4 * torch.randn(30, 2)  # the sd given the other slope is about ½
    found = calibrate(
        regression, x, torch.zeros(30), num_simulations=100, num_steps=300, seed=0, progress=False
    )
    assert len(found.failures()) == 2
    assert all("too narrow: take more steps, a richer guide" in said for said in found.failures())


@pytest.mark.slow
def test_discrete_sites_are_simulated_and_summed_out() -> None:
    def coins(y: Tensor) -> None:
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        with pyro.plate("points", len(y)):
            side = pyro.sample("side", dist.Bernoulli(share))
            pyro.sample("y", dist.Normal(5 * side, 1.0), obs=y)

    found = calibrate(
        coins, torch.zeros(20), num_simulations=100, num_steps=300, seed=0, progress=False
    )
    assert found.parameters == ["share"]
    assert found.failures() == []


def test_a_prior_that_looks_at_its_data_stays_where_it_is() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(x.mean(), 1.0))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(loc, 2.0), obs=x)

    def answer(seen: dict[str, Tensor], seed: int) -> Posterior:
        variance = 1 / (1 + 5 / 4)  # of the prior at 100, and of 5 points with sd 2
        mean = variance * (100 + seen["x"].sum() / 4)
        return Posterior({"loc": mean + variance**0.5 * torch.randn(1, 199)})

    data = torch.full((5,), 100.0)
    found = calibrate(model, data, fit=answer, num_simulations=200, seed=0, progress=False)
    assert found.failures() == []
    assert calibrate(
        model, data, num_simulations=100, num_steps=400, seed=0, progress=False
    ).failures() == []  # fmt: skip


def test_what_never_varies_has_no_rank() -> None:
    def model(y: Tensor) -> None:
        pyro.sample("tril", dist.LKJCholesky(2, torch.tensor(1.0)))
        pyro.sample("y", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1), obs=y)

    found = calibrate(
        model, torch.zeros(2), num_simulations=100, num_steps=1, num_draws=19, seed=0,
        progress=False,
    )  # fmt: skip
    assert found.parameters == ["tril[1, 0]", "tril[1, 1]"]


def test_of_more_draws_every_so_manieth_counts() -> None:
    once, thrice = (
        calibrate(
            twonn.model, RATIOS, num_simulations=100, seed=0, progress=False,
            fit=lambda x, seed, copies=copies: moved(x, seed, copies=copies),
        )
        for copies in (1, 3)
    )  # fmt: skip
    assert once.ranks["dimension"].equal(thrice.ranks["dimension"])


@pytest.mark.slow
def test_another_guide_is_fitted_data_set_by_data_set() -> None:
    found = calibrate(
        twonn.model, RATIOS[:5], guide="full_rank", num_simulations=100, num_steps=1, seed=0,
        progress=False,
    )  # fmt: skip
    assert found.method == "SVI, full-rank"
    assert found.cost.gradient_evaluations == 200


def test_a_model_that_branches_on_values_is_simulated_one_by_one() -> None:
    def model(y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = 1.0 if loc > 0 else 2.0
        pyro.sample("y", dist.Normal(loc, scale).expand([len(y)]).to_event(1), obs=y)

    study = Study(model, (torch.zeros(5),))
    assert not study.together
    truth, seen = study.simulate(800)
    spread = seen["y"].sub(truth["loc"].unsqueeze(1)).square().mean(dim=1)
    # χ²₅ / 5 has variance 2/5: standard errors of 0.03 and 0.13
    assert spread[truth["loc"] > 0].mean() == pytest.approx(1.0, abs=0.13)
    assert spread[truth["loc"] < 0].mean() == pytest.approx(4.0, abs=0.52)


def test_simulations_follow_prior_and_likelihood() -> None:
    torch.manual_seed(0)
    truth, seen = Study(groups, (torch.zeros(10, 3),)).simulate(4000)
    assert truth["center"].shape == (4000,)
    assert truth["locs"].shape == (4000, 3)
    assert seen["y"].shape == (4000, 10, 3)
    # sds known to 1/√8000 of themselves, four of those
    assert truth["center"].std() == pytest.approx(2.0, rel=0.045)
    assert (truth["locs"] - truth["center"].unsqueeze(1)).std() == pytest.approx(3.0, rel=0.045)
    assert (seen["y"] - truth["locs"].unsqueeze(1)).std() == pytest.approx(1.0, rel=0.045)


def test_the_same_seed_gives_the_same_ranks_and_leaves_the_world_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    settings = {"num_simulations": 100, "num_steps": 5, "progress": False}
    found = [calibrate(twonn.model, RATIOS, seed=s, **settings) for s in (7, 7, 8)]
    by_hand = [calibrate(twonn.model, RATIOS, fit=right, seed=s, **settings) for s in (7, 7, 8)]
    assert torch.rand(3).equal(expected)
    for first, again, other in (found, by_hand):
        assert first.ranks["dimension"].equal(again.ranks["dimension"])
        assert not first.ranks["dimension"].equal(other.ranks["dimension"])


def test_each_fit_has_a_seed_of_its_own() -> None:
    seeds = []

    def engine(seen: dict[str, Tensor], seed: int) -> Posterior:
        seeds.append(seed)
        return right(seen, seed)

    calibrate(twonn.model, RATIOS, fit=engine, num_simulations=100, seed=0, progress=False)
    assert len(set(seeds)) == 100


def test_data_that_overflow_are_drawn_again() -> None:
    def model(x: Tensor, sd: float) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, sd))
        pyro.sample("x", dist.Delta(1e300 * loc.exp(), event_dim=0), obs=x)

    # 1e300 eˡ overflows beyond l = 18.9, 2.3 sds of 8.2: in 1 simulation of 93.
    _, seen = Study(model, (torch.tensor(0.0), 8.2)).simulate(500)
    assert seen["x"].isfinite().all()
    with pytest.raises(
        ValueError, match="model must draw finite data in 19 simulations of 20, got"
    ):
        Study(model, (torch.tensor(0.0), 30.0)).simulate(500)


def test_even_ranks_score_perfectly() -> None:
    found = Calibration({"a": EVEN}, 199)
    row = found.table().loc["a"]
    assert row["coverage"] == 0.9
    assert row["chi2_p"] == 1.0
    assert row["ks_p"] > 0.99
    assert row["mean_rank"] == pytest.approx(0.5, abs=0.001)


def test_coverage_counts_the_ranks_from_10_to_189() -> None:
    for rank, inside in ((9, 0), (10, 1), (189, 1), (190, 0)):
        found = Calibration({"a": torch.full((100,), rank)}, 199)
        assert found.table().loc["a", "coverage"] == inside


def test_right_posteriors_rarely_fail() -> None:
    torch.manual_seed(0)
    ranks = {str(i): torch.randint(200, (1000,)) for i in range(150)}
    table = Calibration(ranks, 199).table()
    for column in ("ks_p", "chi2_p", "symmetry_p"):
        # 0.1 ± four standard errors of √(0.09 / 150)
        assert (table[column] < 0.1).mean() == pytest.approx(0.1, abs=0.1)
    alone = Calibration({"a": EVEN}, 199)
    low, high = alone.coverage_band
    assert (low, high) == (0.868, 0.930)  # quantiles of Binomial(1000, 0.9), divided
    assert table["coverage"].between(low, high).mean() > 0.98
    assert Calibration(ranks, 199).coverage_band[0] < low, "of 150 parameters one strays farther"


def test_failures_of_shape_alone_are_named() -> None:
    comb = torch.arange(200)[torch.arange(200) % 20 < 10].repeat(10)
    comb = comb[(comb >= 10) & (comb < 190)]
    ranks = torch.cat([comb, torch.arange(10).repeat(5), torch.arange(190, 200).repeat(5)])
    found = Calibration({"a": ranks}, 199).failures()
    assert len(found) == 1
    assert found[0].startswith("a: ranks are not uniform")


def test_it_shows_itself() -> None:
    found = Calibration({"a": EVEN, "b[0]": EVEN.flip(0)}, 199, method="exact")
    assert "exact: 1000 simulations, 199 draws each" in repr(found)
    assert "b[0]" in repr(found)
    assert "<table" in found._repr_html_()
    plt.switch_backend("Agg")
    assert found.plot("b[0]").get_xlabel() == "rank of the true b[0] among 199 draws"
    assert "true a" in found.plot().get_xlabel()
    plt.close("all")
    with pytest.raises(ValueError, match="parameter must be one of a, b\\[0\\], got 'c'"):
        found.plot("c")


def test_refuses_what_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="num_simulations must be at least 100 for 20 bins of"):
        calibrate(twonn.model, RATIOS, num_simulations=99)
    with pytest.raises(ValueError, match="num_draws must be at least 19, got 18"):
        calibrate(twonn.model, RATIOS, num_draws=18)
    with pytest.raises(ValueError, match="one less than a multiple of 20, such as 199, got 200"):
        calibrate(twonn.model, RATIOS, num_draws=200)
    with pytest.raises(ValueError, match="guide must be one of"):
        calibrate(twonn.model, RATIOS, guide="no such", progress=False)
    with pytest.raises(ValueError, match="model must observe something to be calibrated"):
        calibrate(lambda: pyro.sample("a", dist.Normal(0.0, 1.0)))
    with pytest.raises(ValueError, match=r"pyro.factor \['bonus'\]"):
        calibrate(
            lambda: pyro.factor("bonus", -pyro.sample("a", dist.Normal(0.0, 1.0)) ** 2)
        )  # fmt: skip
    with pytest.raises(ValueError, match="ranks must hold at least 1 parameter, got none"):
        Calibration({}, 199)


def test_refuses_fits_that_are_not_of_the_model() -> None:
    def returning(**draws: Tensor) -> None:
        calibrate(twonn.model, RATIOS, fit=lambda x, seed: Posterior(draws), progress=False)

    with pytest.raises(ValueError, match="fit must return at least num_draws = 199 draws, got 50"):
        returning(dimension=torch.rand(1, 50))
    with pytest.raises(ValueError, match=r"every latent site, got none of \['dimension'\]"):
        returning(shape=torch.rand(1, 199))
    with pytest.raises(ValueError, match=r"draws of dimension must have shape \(\), got \(2,\)"):
        returning(dimension=torch.rand(1, 199, 2))
    with pytest.raises(ValueError, match="draws of dimension must be finite"):
        returning(dimension=torch.full((1, 199), torch.nan))


def test_a_mixture_is_simulated_within_its_prior() -> None:
    torch.manual_seed(0)
    study = Study(mixture, (torch.randn(30, 2) + 50, 2))
    truth, seen = study.simulate(100)
    assert seen["x"].shape == (100, 30, 2)
    assert seen["x"].mean() == pytest.approx(50, abs=1)
    assert set(truth) == {"weights", "locs", "scales", "correlation_trils"}
