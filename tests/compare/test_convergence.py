import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from pplvae.compare.convergence import convergence
from pplvae.infer import Cost, Posterior, laplace, svi

CALLS = []


def sampler(budget: int, seed: int) -> Posterior:
    """Independent draws of the very posterior: two parameters, sds 1 and 10, means 0 and 50."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(1, budget, 2, generator=rng)
    CALLS.append((budget, seed))
    return Posterior(
        {"locs": z * torch.tensor([1.0, 10.0]) + torch.tensor([0.0, 50.0])},
        cost=Cost(0.01 * budget, 0.0, 2 * budget),
    )


MOMENTS = {"locs": torch.tensor([0.0, 50.0])}, {"locs": torch.tensor([1.0, 10.0])}


def test_the_error_of_a_sampler_falls_as_the_root_of_its_draws() -> None:
    found = convergence(
        {"sampler": sampler}, budgets={"sampler": [10, 1000]}, reference=MOMENTS, num_repeats=50,
        seed=0,
    )  # fmt: skip
    table = found.table().set_index("budget")
    for budget in (10, 1000):
        # 2 parameters × 50 repeats: an rms of 100 normals is known to 7 %, three times that is
        # allowed.
        error = table.loc[budget, "error"] * math.sqrt(budget)
        assert error == pytest.approx(1.0, rel=0.21)
        assert table.loc[budget, "cpu_seconds"] == pytest.approx(0.01 * budget)
        assert table.loc[budget, "gradients"] == 2 * budget
        assert table.loc[budget, "repeats"] == 50
        assert table.loc[budget, "worst"] > table.loc[budget, "error"]
    assert found.floor == 0.0


def test_every_point_is_a_run_and_repeats_share_their_seeds() -> None:
    CALLS.clear()
    engines, budgets = {"a": sampler, "b": sampler}, {"a": [5, 9], "b": [7]}
    found = convergence(engines, budgets=budgets, reference=MOMENTS, num_repeats=3, seed=4)
    assert len(CALLS) == len(found.runs) == 9
    assert [(run.budget, run.seed) for run in found.runs] == CALLS
    starts = {budget: [seed for b, seed in CALLS if b == budget] for budget in (5, 9, 7)}
    assert starts[5] == starts[9] == starts[7]
    assert len(set(starts[5])) == 3
    again = convergence(engines, budgets=budgets, reference=MOMENTS, num_repeats=3, seed=4)
    assert again == found
    assert "Convergence, the reference sure to 0 of its sds" in repr(found)
    assert "<table" in found._repr_html_()


def test_a_reference_of_draws_has_a_floor() -> None:
    reference = sampler(2500, 99)
    found = convergence(
        {"sampler": sampler}, budgets={"sampler": [100]}, reference=reference, seed=0
    )
    # 1 / √2500, by an effective size that is estimated
    assert found.floor == pytest.approx(0.02, rel=0.15)
    itself = convergence(
        {"same": lambda budget, seed: reference}, budgets={"same": [1]}, reference=reference
    )
    assert [run.error for run in itself.runs] == [0.0, 0.0, 0.0]


def normal(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def test_real_engines_near_the_closed_form() -> None:
    x = torch.randn(20) + 3.0
    precision = 20 + 1 / 100
    reference = {"loc": x.sum() / precision}, {"loc": torch.tensor(precision).rsqrt()}
    found = convergence(
        {
            "SVI": lambda budget, seed: svi.fit(
                normal, x, num_steps=budget, num_draws=1000, seed=seed, pointwise=False,
                init={"loc": torch.tensor(0.0)}, progress=False,
            ),
            "Laplace": lambda budget, seed: laplace.fit(
                normal, x, num_draws=budget, seed=seed, pointwise=False
            ),
        },
        budgets={"SVI": [3, 200], "Laplace": [2000]},
        reference=reference,
        num_repeats=2,
        seed=0,
    )  # fmt: skip
    error = found.table().set_index(["method", "budget"])["error"]
    # Three steps of at most 0.05 leave the guide more than 2 / 0.22 sds away.
    assert error["SVI", 3] > 5
    # Adam's last steps and 1000 draws; Laplace is exact here, but for 1 / √2000.
    assert error["SVI", 200] < 0.4
    assert error["Laplace", 2000] < 4 / math.sqrt(2000)
    assert (found.table()["cpu_seconds"] > 0).all()


def test_the_picture_has_a_curve_for_every_method_and_the_floor() -> None:
    plt.switch_backend("Agg")
    found = convergence(
        {"NUTS": sampler, "SVI": sampler}, budgets={"NUTS": [10, 100], "SVI": [50]},
        reference=sampler(1000, 7), seed=0,
    )  # fmt: skip
    ax = found.plot()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [line.get_label() for line in ax.lines] == ["NUTS", "SVI", "reference's own error"]
    assert list(ax.lines[0].get_xdata()) == pytest.approx([0.1, 1.0])
    assert ax.lines[2].get_ydata()[0] == found.floor
    plt.close("all")


def test_refuses_what_cannot_be_run() -> None:
    one = {"a": sampler}
    with pytest.raises(ValueError, match=r"budgets must be given for \['a'\], got \['b'\]"):
        convergence(one, budgets={"b": [1]}, reference=MOMENTS)
    with pytest.raises(ValueError, match="budgets of a must be at least 1, got 0"):
        convergence(one, budgets={"a": [0]}, reference=MOMENTS)
    with pytest.raises(ValueError, match="budgets of a must hold at least 1 number, got none"):
        convergence(one, budgets={"a": []}, reference=MOMENTS)
    with pytest.raises(ValueError, match="num_repeats must be at least 1, got 0"):
        convergence(one, budgets={"a": [5]}, reference=MOMENTS, num_repeats=0)
    with pytest.raises(ValueError, match="reference must have a spread, got a point"):
        convergence(one, budgets={"a": [5]}, reference=sampler(1, 0))
    zero = {"b": torch.tensor(1.0)}, {"b": torch.tensor(0.0)}
    with pytest.raises(ValueError, match=r"the sd of b in reference must be positive, got 0\.0"):
        convergence(one, budgets={"a": [5]}, reference=zero)
    with pytest.raises(ValueError, match=r"same parameters in means and sds, got \['b'\] and"):
        convergence(one, budgets={"a": [5]}, reference=(zero[0], MOMENTS[1]))
    ones = {"b": torch.tensor(1.0)}, {"b": torch.tensor(1.0)}
    with pytest.raises(
        ValueError, match=r"a must have the reference's parameters, got no \['b'\]"
    ):
        convergence(one, budgets={"a": [5]}, reference=ones)
