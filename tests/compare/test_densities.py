import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pplvae import compare
from pplvae.compare import DensityComparison
from pplvae.density import kernel, neighbor
from pplvae.mixtures import em

QUICK = {"num_epochs": 3, "num_samples": 50, "seed": 0, "progress": False}


def normal(x: Tensor, loc: float = 0.0) -> Tensor:
    return Normal(loc, 1.0).log_prob(x).sum(1)


def two_moons(num: int) -> Tensor:
    angle = math.pi * torch.rand(num)
    upper = (torch.rand(num) < 0.5).to(angle)
    x = torch.stack([angle.cos() + upper, angle.sin() * (1 - 2 * upper) + 0.5 * upper], 1)
    return x + 0.1 * torch.randn(num, 2)


@pytest.fixture(scope="module")
def moons() -> DensityComparison:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    settings = QUICK | {"num_epochs": 15, "num_samples": 100}
    return compare.densities(two_moons(300), **settings)  # type: ignore[arg-type]


def test_a_wrong_mean_costs_half_its_square_known_by_the_differences() -> None:
    # log p - log q = δ²/2 - δ x on x ~ Normal(0, 1): mean δ²/2 = KL, standard deviation δ; the
    # log densities themselves vary by √½.
    delta, num = 0.2, 4000
    x, test = torch.randn(5, 1), torch.randn(num, 1)
    estimates = {"wrong": lambda points: normal(points, delta), "right": normal}
    found = compare.densities(x, estimates, held_out=test, **QUICK)  # type: ignore[arg-type]
    table = found.table()
    assert found.best == "right"
    own = -0.5 * math.log(2 * math.pi) - 0.5
    assert table.log_density["right"] == pytest.approx(own, abs=5 * math.sqrt(0.5 / num))
    assert table.error["right"] == pytest.approx(math.sqrt(0.5 / num), rel=0.15)
    assert table.gap["wrong"] == pytest.approx(-(delta**2) / 2, abs=5 * delta / math.sqrt(num))
    assert table.gap_error["wrong"] == pytest.approx(delta / math.sqrt(num), rel=0.06)
    assert table.gap["right"] == table.gap_error["right"] == 0
    assert set(table.kind) == {"given"}


def test_no_density_beats_the_truth_and_neighbors_estimate_what_it_gets() -> None:
    x, test = torch.randn(300, 2), torch.randn(1000, 2)
    named = {"truth": normal, "kernel": "kernel", "mixture": "mixture", "k-NN": "k-NN"}
    found = compare.densities(x, named, held_out=test, **QUICK)  # type: ignore[arg-type]
    table = found.table()
    assert found.best == "truth"
    # The mixture is the same law with 5 numbers fitted: KL 5 / 2N = 0.008, its sd 0.005. The
    # kernel's is larger.
    assert -0.03 < table.gap["mixture"] < 0
    assert -0.1 < table.gap["kernel"] < table.gap["mixture"]
    # Each ball says log p to √ψ'(10) = 0.32, and the 300 points make some 30 balls that share
    # none: 0.058, of which four, and a bias of 0.02.
    assert table.gap["k-NN"] == pytest.approx(0, abs=0.25)
    assert "k-NN" in repr(found)
    assert "mass is infinite, and not ranked" in repr(found)


def test_what_is_no_density_is_never_the_best() -> None:
    x, test = torch.randn(300, 1), torch.randn(300, 1)
    named = {"k-NN": "k-NN", "far off": lambda points: normal(points, 3.0)}
    found = compare.densities(x, named, held_out=test, **QUICK)  # type: ignore[arg-type]
    assert found.best == "far off"
    assert found.table().gap["k-NN"] > 3
    assert found.shown().loc["k-NN", "to the best"] == "not ranked"


def test_neighbors_are_unbiased_in_logs_and_found_in_columns_of_one_spread() -> None:
    x, test = (torch.randn(num, 2) * torch.tensor([1.0, 30.0]) for num in (80, 20))
    found = compare.densities(x, ["k-NN"], held_out=test, num_neighbors=4, **QUICK)  # type: ignore[arg-type]
    scale = x.std(0)
    expected = neighbor.log_density(test / scale, x / scale, 4, unbiased=True).log_density
    per_point = found.estimates["k-NN"].per_point
    assert per_point is not None
    torch.testing.assert_close(per_point, expected - scale.log().sum())


def test_all_six_on_one_split(moons: DensityComparison) -> None:
    table = moons.table()
    assert list(table.index) == ["histogram", "kernel", "k-NN", "mixture", "flow", "VAE"]
    assert (moons.num_train, moons.num_held_out) == (240, 60)
    assert table.kind.tolist() == ["non-parametric"] * 3 + ["parametric"] * 3
    assert table.log_density.drop("histogram").between(-4, 0).all()
    assert "weighted draws for each log p, unreliable (k-hat) for" in table.note["VAE"]
    assert "components by BIC" in table.note["mixture"]
    assert repr(moons).splitlines()[0] == "Densities of 60 held-out points, fitted to 240"
    assert "<table" in moons._repr_html_()


@pytest.mark.parametrize("name", ["kernel", "mixture", "flow", "VAE"])
def test_each_integrates_to_one(moons: DensityComparison, name: str) -> None:
    log_density = moons.estimates[name].log_density
    assert log_density is not None
    step = 0.2 if name == "VAE" else 0.1
    side = torch.arange(-5, 6, step)
    mass = log_density(torch.cartesian_prod(side, side)).exp().sum().item() * step**2
    # log p(x) of the VAE is a log mean of weights, whose mean is p(x): its noise averages out.
    assert mass == pytest.approx(1, abs=0.03 if name == "VAE" else 0.005)


def test_a_histogram_is_zero_somewhere_and_says_where() -> None:
    x, test = torch.randn(200, 1), torch.tensor([[0.0], [0.1], [50.0]])
    found = compare.densities(x, ["histogram"], held_out=test, **QUICK)  # type: ignore[arg-type]
    row = found.table().loc["histogram"]
    assert (row.log_density, row.zeros) == (-math.inf, 1)
    assert math.isnan(row.error)
    assert "density 0 at 1 of 3 points" in row.note


def test_units_shift_all_means_alike() -> None:
    x = two_moons(100)
    names = ("histogram", "kernel", "k-NN", "mixture", "flow", "VAE")
    here, there = (
        compare.densities(part, names, **QUICK).table().log_density  # type: ignore[arg-type]
        for part in (x, x * torch.tensor([100.0, 0.01]) + 7)
    )
    for name in names[1:]:  # of columns by 100 and 1 / 100: the determinant is 1
        assert there[name] == pytest.approx(here[name], abs=2e-3), name


def test_what_does_not_apply_is_a_row_that_says_so() -> None:
    x = torch.randn(60, 4)
    found = compare.densities(x, ["histogram", "kernel"], **QUICK)  # type: ignore[arg-type]
    assert found.table().note["histogram"] == "not here: a histogram takes 1 to 3 columns, got 4"
    assert found.shown().loc["histogram", "nats per point"] == "n/a"
    assert found.best == "kernel"
    line = compare.densities(x[:, :1], ["flow", "kernel"], **QUICK)  # type: ignore[arg-type]
    assert "an affine flow takes 2 columns or more" in line.table().note["flow"]
    flat = torch.cat([x, torch.ones(60, 1)], dim=1)
    names = ["kernel", "mixture", "flow"]
    constant = compare.densities(flat, names, **QUICK)  # type: ignore[arg-type]
    assert constant.table().note.str.contains("must vary in every column", regex=False).all()
    assert constant.table().gap.isna().all()
    with pytest.raises(ValueError, match="a density that could be fitted, got none"):
        _ = constant.best
    assert "n/a" in repr(constant)


def test_a_given_density_must_answer_for_every_point() -> None:
    x = torch.randn(30, 2)
    given = {
        "short": lambda points: normal(points)[1:],
        "nan": lambda points: 0 * points[:, 0] / 0,
    }
    found = compare.densities(x, given, held_out=x, **QUICK)  # type: ignore[arg-type]
    notes = found.table().note
    assert notes["short"] == "not here: short must give one number for each of 30, got (29,)"
    assert notes["nan"] == "not here: nan must give numbers below infinity, got 30 nan or inf"


def test_ready_estimates_of_the_house_are_taken() -> None:
    x, test = two_moons(100), two_moons(100)
    fit = em.fit(x, 3, seed=0, num_starts=2, progress=False).mixture
    named = {"mine": kernel.fit(x, "scott").log_density, "three": fit.log_prob}
    found = compare.densities(x, named, held_out=test.numpy(), **QUICK)  # type: ignore[arg-type]
    table = found.table()
    assert table.log_density["three"] == pytest.approx(fit.log_prob(test).mean().item())


def test_a_seed_repeats_all_and_leaves_the_global_state() -> None:
    x = two_moons(80)
    before = torch.get_rng_state()
    names = ("kernel", "mixture", "flow", "VAE")
    found, again = (
        compare.densities(x, names, **QUICK).table().log_density  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert found.tolist() == again.tolist()
    assert torch.equal(before, torch.get_rng_state())


def test_atoms_are_named() -> None:
    x = torch.randn(100, 2)
    assert not compare.densities(x, ["kernel"], **QUICK).notes  # type: ignore[arg-type]
    x[:30, 1] = 0.0
    (note,) = compare.densities(x, ["kernel"], held_out=x, **QUICK).notes  # type: ignore[arg-type]
    assert note.startswith("column 1 has one value in 30% of the rows")


def test_correlated_columns_are_no_trouble() -> None:
    law = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.99], [0.99, 1.0]]))
    x, test = law.sample((100,)), law.sample((400,))
    named = {"truth": law.log_prob, "mixture": "mixture"}
    found = compare.densities(x, named, held_out=test, **QUICK)  # type: ignore[arg-type]
    assert found.table().gap["mixture"] == pytest.approx(0, abs=0.1)


def test_the_plot_has_a_row_for_each(moons: DensityComparison) -> None:
    ax = moons.plot()
    assert [text.get_text() for text in ax.get_yticklabels()] == list(moons.estimates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimates": []}, "estimates must name at least 1, got none"),
        ({"estimates": ["kde"]}, "estimates must be one of VAE, flow, .* got 'kde'"),
        ({"held_out": 0.0}, "held_out must leave 2 points on each side of 20, got 0.0"),
        ({"held_out": 0.99}, "held_out must leave 2 points on each side of 20, got 0.99"),
        ({"held_out": torch.zeros(5, 3)}, "held_out and x must share D, got 3 and 2"),
        ({"estimates": {"mine": normal}}, "held_out must be points where a log density is given"),
        ({"num_neighbors": 0}, "num_neighbors must be at least 1, got 0"),
        ({"num_epochs": 1.5}, "num_epochs must be a whole number, got 1.5"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare.densities(torch.randn(20, 2), **(QUICK | arguments))
