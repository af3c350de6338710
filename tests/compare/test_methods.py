import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae import compare
from pplvae.infer import Cost, Posterior, exact, laplace, nuts, svi
from pplvae.intrinsic_dimension import twonn

SD = torch.tensor([1.0, 0.1, 20.0], dtype=torch.float64)


def by_hand(draws: Tensor, **rest: object) -> Posterior:
    return Posterior({"locs": draws}, **rest)  # pyright: ignore


def normal(chains: int = 1, num: int = 4000) -> Tensor:
    return torch.randn(chains, num, 3) * SD + 5.0


@pytest.fixture
def truth() -> Posterior:
    return by_hand(normal())


def test_a_table_of_four_methods_on_one_problem() -> None:
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((300,))
    quick = partial(svi.fit, twonn.model, ratios, num_steps=400, seed=0, progress=False)
    found = compare.methods({
        "exact": exact.fit(twonn.model, ratios, seed=0),
        "SVI": quick(),
        "Laplace": laplace.fit(twonn.model, ratios, seed=0),
        "NUTS": nuts.fit(
            twonn.model, ratios, num_draws=150, warmup_steps=50, num_chains=2, seed=0,
            progress=False,
        ),
    })  # fmt: skip
    table = found.table()
    assert list(table.index) == ["exact", "SVI", "Laplace", "NUTS"]
    law = twonn.posterior(ratios)
    # NUTS has the fewest effective draws, about 120: 0.09 sd and 6 %.
    assert (table["mean"] - law.mean).abs().max() < 0.3 * law.stddev
    assert (table["sd"] / law.stddev - 1).abs().max() < 0.2
    assert table.loc["exact", "log_evidence"] == law.log_evidence
    # log d is skewed by −1/√301, which Laplace's formula pays with 1/(12·301) nat.
    assert table.loc["Laplace", "log_evidence"] == pytest.approx(law.log_evidence, abs=1e-3)
    assert math.isnan(table.loc["NUTS", "log_evidence"])
    assert table.loc["exact", "gradients"] == 0
    assert (table["cpu_seconds"] > 0).all()
    assert not any("the mean" in said or "the sd" in said for said in found.failures())


def test_errors_are_in_reference_sds(truth: Posterior) -> None:
    moved = by_hand(truth.draws["locs"] * 1.2 + 0.3 * SD - 5.0 * 0.2)
    table = compare.methods({"exact": truth, "moved": moved}).table("locs[1]")
    assert table.loc["exact", "error"] == 0.0
    assert table.loc["exact", "sd_ratio"] == 1.0
    # The draws' own mean is not 5 but within 1/√4000 sd of it, and 1.2 moves that by a fifth.
    assert table.loc["moved", "error"] == pytest.approx(0.3, abs=0.02)
    assert table.loc["moved", "sd_ratio"] == pytest.approx(1.2)


@pytest.mark.slow
def test_scores_are_as_sure_as_they_say() -> None:
    errors, ratios, claimed = [], [], []
    for _ in range(60):
        pair = {"exact": by_hand(normal(num=1000)), "again": by_hand(normal(num=500))}
        for score in compare.methods(pair).scores["again"].values():
            errors.append(score["error"])
            ratios.append(score["sd_ratio"])
            claimed.append((score["error_mc"], score["sd_ratio_mc"]))
    for values, mc in zip((errors, ratios), torch.tensor(claimed).mean(dim=0), strict=True):
        # 180 scores know their own sd to 5 %, and sizes estimated from draws add about as much.
        assert torch.tensor(values).std() / mc == pytest.approx(1.0, abs=0.25)


def test_says_nothing_of_exact_against_exact(truth: Posterior) -> None:
    assert compare.methods({"exact": truth, "again": by_hand(normal())}).failures() == []
    assert compare.methods({"exact": truth}).failures() == []


@pytest.mark.slow
def test_a_false_alarm_is_rare() -> None:
    alarms = 0
    for _ in range(40):
        fair = by_hand(normal(chains=4, num=250))
        alarms += bool(compare.methods({"exact": by_hand(normal()), "fair": fair}).failures())
    # R-hat's limit of 1.01 is what chance comes near: a few per cent on chains of 250.
    assert alarms <= 4


def test_catches_a_narrow_posterior(truth: Posterior) -> None:
    draws = normal()
    draws[..., 1] = 5.0 + 0.8 * (draws[..., 1] - 5.0)
    (said,) = compare.methods({"exact": truth, "VI": by_hand(draws)}).failures()
    assert said.startswith("VI: the sd of locs[1] is 0.")
    assert "try a richer guide or NUTS" in said


def test_catches_a_wide_posterior(truth: Posterior) -> None:
    wide = by_hand(1.3 * (normal() - 5.0) + 5.0)
    (said,) = compare.methods({"exact": truth, "VI": wide}).failures()
    assert "of the reference's (believed within 0.9 to 1.1)" in said


@pytest.mark.parametrize(("shift", "word"), [(0.5, "above"), (-0.5, "below")])
def test_catches_a_shifted_mean(truth: Posterior, shift: float, word: str) -> None:
    draws = normal()
    draws[..., 2] += shift * SD[2]
    (said,) = compare.methods({"exact": truth, "VI": by_hand(draws)}).failures()
    assert said.startswith("VI: the mean of locs[2] lies 0.")
    assert f"reference sds {word} the reference (believed up to 0.2)" in said


def test_catches_chains_that_have_not_mixed(truth: Posterior) -> None:
    draws = normal(chains=4, num=1000)
    draws[0, :, 0] += 0.5
    failures = compare.methods({"exact": truth, "NUTS": by_hand(draws)}).failures()
    assert any("NUTS: the chains disagree on locs[0] (R-hat 1." in said for said in failures)


def test_catches_divergences(truth: Posterior) -> None:
    diverging = torch.zeros(1, 4000, dtype=torch.bool)
    diverging[0, :7] = True
    bad = by_hand(normal(), sample_stats={"diverging": diverging})
    found = compare.methods({"exact": truth, "NUTS": bad})
    assert found.table().loc["NUTS", "divergences"] == 7
    (said,) = found.failures()
    assert said.startswith("NUTS: 7 divergent transitions: raise target_accept_prob")


def test_catches_too_few_draws(truth: Posterior) -> None:
    (said,) = compare.methods({"exact": truth, "short": by_hand(normal(num=150))}).failures()
    assert "short: locs[" in said
    assert "(at least 400): take more draws" in said


def test_catches_a_point_mass(truth: Posterior) -> None:
    point = by_hand(torch.full((1, 4000, 3), 5.0))
    (said,) = compare.methods({"exact": truth, "MAP": point}).failures()
    assert "the sd of locs" in said
    assert "is 0.00 of the reference's" in said


def test_the_worst_comes_first(truth: Posterior) -> None:
    off = by_hand(normal() + 3.0 * SD)
    narrow = by_hand(0.7 * (normal() - 5.0) + 5.0)
    failures = compare.methods({"exact": truth, "narrow": narrow, "off": off}).failures()
    assert [said.split(":")[0] for said in failures] == ["off", "narrow"]


def test_constant_entries_are_left_out() -> None:
    def triangular() -> Posterior:
        return Posterior({"tril": torch.randn(1, 1000, 2, 2).tril()})

    found = compare.methods({"exact": triangular(), "again": triangular()})
    assert found.parameters == ["tril[0, 0]", "tril[1, 0]", "tril[1, 1]"]
    assert found.failures() == []


def test_a_table_of_several_parameters_holds_the_worst(truth: Posterior) -> None:
    draws = normal()
    draws[..., 1] += 0.6 * SD[1]
    found = compare.methods({"exact": truth, "VI": by_hand(draws)})
    worst, one = found.table(), found.table("locs[1]")
    assert worst.loc["VI", "error"] == one.loc["VI", "error"]
    assert "mean" not in worst
    assert one.loc["VI", "mean"] == pytest.approx(draws[..., 1].mean().item())


def test_any_method_may_be_the_reference(truth: Posterior) -> None:
    found = compare.methods({"NUTS": truth, "VI": by_hand(normal())}, reference="NUTS")
    assert found.reference == "NUTS"
    assert repr(found).startswith("Comparison against NUTS\n")
    assert "<table" in found._repr_html_()


def test_costs_are_the_posterior_s_own(truth: Posterior) -> None:
    dear = by_hand(normal(), cost=Cost(2.5, 3.0, 77), log_evidence=-4.0)
    table = compare.methods({"exact": truth, "dear": dear}).table()
    assert table.loc["dear", "cpu_seconds"] == 2.5
    assert table.loc["dear", "gradients"] == 77
    assert table.loc["dear", "log_evidence"] == -4.0


def test_the_picture_has_a_curve_for_every_method(truth: Posterior) -> None:
    pytest.importorskip("pplvae.density.kernel")
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    found = compare.methods({"exact": truth, "VI": by_hand(normal())})
    ax = found.plot("locs[2]")
    assert [line.get_label() for line in ax.get_lines()] == ["exact", "VI"]
    assert ax.get_xlabel() == "locs[2]"
    assert found.plot(ax=ax) is ax
    plt.close("all")


def test_refuses_what_cannot_be_compared(truth: Posterior) -> None:
    with pytest.raises(ValueError, match=r"reference must be one of \['VI'\], got 'exact'"):
        compare.methods({"VI": truth})
    other = Posterior({"scale": torch.randn(1, 100)})
    with pytest.raises(ValueError, match=r"share their parameters, got \['scale'\] for other and"):
        compare.methods({"exact": truth, "other": other})
    with pytest.raises(ValueError, match="reference must vary, got 'exact' of constant draws"):
        compare.methods({"exact": by_hand(torch.ones(1, 10, 3))})
    with pytest.raises(ValueError, match="locs of broken must be finite, got 12000 nan or inf"):
        compare.methods({"exact": truth, "broken": by_hand(normal() * math.nan)})
    with pytest.raises(ValueError, match="draws in a chain of short must be at least 4, got 3"):
        compare.methods({"exact": truth, "short": by_hand(normal(num=3))})
    found = compare.methods({"exact": truth})
    for call in (found.table, found.plot):
        with pytest.raises(ValueError, match=r"parameter must be one of \['locs\[0\]'.*got 'loc'"):
            call("loc")


def test_refuses_posteriors_of_different_data(truth: Posterior) -> None:
    one, two = (by_hand(normal(), observed={"x": torch.arange(5.0) + k}) for k in range(2))
    with pytest.raises(ValueError, match="of the same data, got another x for two than for one"):
        compare.methods({"one": one, "two": two}, reference="one")
    other = by_hand(normal(), observed={"y": torch.arange(5.0)})
    with pytest.raises(ValueError, match=r"same data, got sites \['y'\] for other"):
        compare.methods({"one": one, "other": other}, reference="one")
    single = by_hand(normal(), observed={"x": torch.arange(5.0).float()})
    compare.methods({"one": one, "single": single, "unknown": truth}, reference="one")


def test_chains_stuck_apart_disagree_without_bound(truth: Posterior) -> None:
    stuck = by_hand(torch.tensor([[4.9], [5.1]]).unsqueeze(2).expand(2, 500, 3).clone())
    found = compare.methods({"exact": truth, "stuck": stuck})
    assert found.table("locs[0]").loc["stuck", "r_hat"] == math.inf
    assert any("(R-hat inf" in said for said in found.failures())


def point(shift: float = 0.0, **rest: object) -> Posterior:
    return by_hand((5.0 + shift * SD).reshape(1, 1, 3), **rest)


def test_a_point_is_never_placed_first(truth: Posterior) -> None:
    """MAP beats the exact posterior in LOO and in the loss of its guide; here neither counts."""
    best = point(log_evidence=1e6, sample_stats={"lp": torch.tensor([[1e6]])})
    found = compare.methods({"MAP": best, "SVI": by_hand(normal()), "exact": truth, "EM": point()})
    assert list(found.table().index) == ["exact", "SVI"], "the reference, then as given"
    assert list(found.points().index) == ["MAP", "EM"]
    assert found.points().loc["MAP", "lp"] == 1e6
    assert found.failures() == []
    text, html = repr(found), found._repr_html_()
    for shown in (text, html):
        assert shown.index("SVI") < shown.index("Points, which say no spread") < shown.index("MAP")
    assert found.notes() == [f"{name}: a point, which says no spread" for name in ("MAP", "EM")]
    with pytest.raises(ValueError, match="reference must have a spread, got 'MAP', which is a p"):
        compare.methods({"MAP": best, "exact": truth}, reference="MAP")


def test_a_point_is_scored_by_where_it_lies(truth: Posterior) -> None:
    part = Posterior({"locs": point(0.5).draws["locs"]}, cost=Cost(0.5, 0.5, 9))
    found = compare.methods({"exact": truth, "MAP": part})
    # The reference's own mean is within 1/√4000 = 0.016 sd of 5.
    assert found.points("locs[2]").loc["MAP", "error"] == pytest.approx(0.5, abs=0.06)
    assert found.points("locs[1]").loc["MAP", "value"] == pytest.approx(5.05)
    assert found.points().loc["MAP", "error"] == pytest.approx(0.5, abs=0.08)
    assert found.points().loc["MAP", "gradients"] == 9


def test_a_point_may_leave_sites_out() -> None:
    both = Posterior({"a": torch.randn(1, 500), "b": torch.randn(1, 500)})
    some = Posterior({"a": torch.zeros(1, 1), "other": torch.zeros(1, 1)})
    found = compare.methods({"exact": both, "EM": some})
    assert math.isnan(found.points("b").loc["EM", "error"])
    assert abs(found.points("a").loc["EM", "error"]) < 0.2
    with pytest.raises(ValueError, match="posteriors must share their parameters"):
        compare.methods({"exact": both, "EM": Posterior({"c": torch.zeros(1, 1)})})


def test_restarts_of_a_point_are_held_apart(truth: Posterior) -> None:
    found = compare.methods({"exact": truth, "EM": [point(), point(2.0)]})
    assert found.points().loc["EM", "restarts_apart"] == pytest.approx(2.0, rel=0.05)
    (note,) = found.notes()
    assert (
        note == "EM: a point, which says no spread; its restarts end up to 2 reference sds apart"
    )


def test_the_first_restart_is_scored_and_all_are_held_apart(truth: Posterior) -> None:
    agree = [by_hand(normal(num=1000)) for _ in range(3)]
    found = compare.methods({"exact": truth, "SVI": agree, "one": agree[0]})
    table = found.table("locs[0]")
    assert table.loc["SVI", "mean"] == table.loc["one", "mean"]
    assert table.loc["SVI", "restarts_r_hat"] < 1.01
    assert math.isnan(table.loc["one", "restarts_r_hat"])
    assert found.failures() == []
    apart = [*agree, by_hand(normal(num=1000) + torch.tensor([0.0, 0.0, 40.0]))]
    (said,) = compare.methods({"exact": truth, "SVI": apart}).failures()
    assert said.startswith("SVI: restarts end at different places (R-hat ")
    assert "on locs[2], at most 1.05)" in said


def test_refuses_restarts_that_say_nothing(truth: Posterior) -> None:
    with pytest.raises(ValueError, match="restarts of SVI must differ, got the same chain twice"):
        compare.methods({"exact": truth, "SVI": [truth, truth]})
    with pytest.raises(ValueError, match="restarts of SVI must be at least 1, got none"):
        compare.methods({"exact": truth, "SVI": []})
    with pytest.raises(ValueError, match="restarts of SVI must all be points or none, got both"):
        compare.methods({"exact": truth, "SVI": [truth, point()]})


def test_held_out_points_are_predicted_and_compared_one_by_one() -> None:
    ratios, fresh = dist.Pareto(torch.tensor(1.0), 3.0).sample((2, 300))
    truth = exact.fit(twonn.model, ratios, seed=0)
    wrong = Posterior({"dimension": truth.draws["dimension"] + 2.0})
    mode = Posterior({"dimension": truth.draws["dimension"].mean().reshape(1, 1)})
    found = compare.methods(
        {"exact": truth, "wrong": wrong, "MAP": mode}, held_out=(twonn.model, fresh)
    )
    table = found.table()
    # p(μ) = ∫ d μ^(−d−1) Gamma(d | a, b) dd = a / b / μ (1 + log μ / b)^(−a−1); 1000 draws know
    # their mean density to 0.06 / √1000.
    a, b = 1 + 300, 0.01 + ratios.log().sum()
    law = (a / b).log() - fresh.log() - (a + 1) * torch.log1p(fresh.log() / b)
    assert table.loc["exact", "predictive"] == pytest.approx(law.mean().item(), abs=0.006)
    error = law.std().item() / math.sqrt(300)
    assert table.loc["exact", "predictive_error"] == pytest.approx(error, rel=0.05)
    assert math.isnan(table.loc["exact", "predictive_gain"])
    gain = table.loc["wrong", "predictive"] - table.loc["exact", "predictive"]
    assert table.loc["wrong", "predictive_gain"] == pytest.approx(gain)
    assert gain < -3 * table.loc["wrong", "predictive_gain_error"] < 0
    points = found.points()
    assert points.loc["MAP", "predictive"] == pytest.approx(law.mean().item(), abs=0.01)
    assert "held-out log density" in repr(found)


def test_a_table_is_read_without_what_nobody_knows(truth: Posterior) -> None:
    text = repr(compare.methods({"exact": truth, "SVI": by_hand(normal())}))
    assert "held-out" not in text
    assert "k-hat" not in text
    known = by_hand(normal(), diagnostics={"pareto_k": -math.inf, "log_evidence_error": 0.012},
                    log_evidence=-12.3456)  # fmt: skip
    _, heading, first, second = repr(compare.methods({"exact": known, "SVI": truth})).splitlines()
    assert "k-hat" in heading
    assert "exact" in first.removeprefix("exact")
    assert "-12.346 ± 0.012" in first
    assert "n/a" in second


def test_speed_is_effective_draws_a_second(truth: Posterior) -> None:
    dear = by_hand(normal(), cost=Cost(2.0, 3.0, 77))
    table = compare.methods({"exact": truth, "dear": dear}).table("locs[0]")
    speed = table.loc["dear", "ess"] / 2.0
    assert table.loc["dear", "ess_per_cpu_second"] == speed
    assert math.isnan(table.loc["exact", "ess_per_cpu_second"]), "no cost is known"


def test_the_picture_of_accuracy_has_a_point_for_every_parameter(truth: Posterior) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    found = compare.methods({"exact": truth, "SVI": by_hand(normal()), "NUTS": by_hand(normal())})
    left, right = found.plot_accuracy()
    assert [text.get_text() for text in left.get_yticklabels()] == found.parameters
    names = [text.get_text() for text in right.get_legend().get_texts()]
    assert names == ["SVI", "NUTS"], "the reference is the line"
    with pytest.raises(ValueError, match="parameter must be one of"):
        found.plot_accuracy(["nothing"])
    plt.close("all")
