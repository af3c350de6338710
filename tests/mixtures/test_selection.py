import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, gibbs, selection, sparse
from pplvae.mixtures.prior import NormalInverseWishart

FORMS = ("spherical", "diag", "tied", "full")


def clusters(num_points: int, dim: int = 2, apart: float = 8.0) -> Tensor:
    """Two round clusters of the same size, `apart` standard deviations from each other."""
    centers = apart * (torch.arange(num_points) % 2)
    return torch.randn(num_points, dim) + centers.unsqueeze(-1)


def compare(x: Tensor, *args: object, **options: object) -> selection.Selection:
    return selection.compare(x, *args, **{"seed": 0, "progress": False, **options})


def iris() -> Tensor:
    from sklearn.datasets import load_iris

    return torch.from_numpy(load_iris().data)


def test_free_parameters_are_those_of_the_reference() -> None:
    table = compare(clusters(50, 5), [2], FORMS).table()
    assert dict(zip(table.covariance, table.num_parameters, strict=True)) == {
        "spherical": 13, "diag": 21, "tied": 26, "full": 41,
    }  # fmt: skip


def test_one_component_on_a_line_is_the_same_in_all_forms() -> None:
    table = compare(torch.randn(40, 1), [1], FORMS, criteria=("bic", "aic", "icl")).table()
    for name in ("bic", "aic", "icl", "log_likelihood"):
        assert np.ptp(table[name]) == pytest.approx(0.0, abs=1e-9)


def test_a_wider_form_never_fits_worse() -> None:
    values = compare(iris(), [2], FORMS).table().set_index("covariance").log_likelihood
    assert values["spherical"] < values["diag"] < values["full"]
    assert values["tied"] < values["full"]


def test_iris_has_two_gaussians_by_bic() -> None:
    """The optima of scikit-learn, best of 20 starts (reference, section 7)."""
    found = compare(iris(), range(1, 4))
    assert found.table().bic.tolist() == pytest.approx([829.978, 574.018, 580.839], abs=2e-3)
    assert found.best().mixture.num_components == 2
    assert "bic takes 2 full" in repr(found)


def test_one_gaussian_has_the_closed_forms() -> None:
    x = torch.randn(30, 3) @ torch.randn(3, 3)
    row = compare(x, [1]).table().iloc[0]
    # The most likely covariance, with the jitter of 1e-6 of each column's variance, which costs
    # about N (1e-6)² nats.
    log_likelihood = (
        dist.MultivariateNormal(x.mean(dim=0), x.T.cov(correction=0)).log_prob(x).sum().item()
    )
    assert row.log_likelihood == pytest.approx(log_likelihood, abs=1e-6)
    assert row.aic == pytest.approx(-2 * log_likelihood + 2 * 9, abs=1e-5)
    assert row.bic == pytest.approx(-2 * log_likelihood + 9 * math.log(30), abs=1e-5)
    assert row.icl == row.bic, "one component overlaps with no other"


def test_icl_is_charged_for_overlap() -> None:
    x = clusters(200, apart=2.0)
    found = compare(x, [2]).candidates[0]
    fit = found.fit
    assert fit is not None
    entropy = sum(
        -r * math.log(r) for r in fit.mixture.responsibilities(x).flatten().tolist() if r > 0
    )
    charge = found.scores["icl"].value - found.scores["bic"].value
    assert charge == pytest.approx(2 * entropy, rel=1e-9)
    assert 0 < charge <= 2 * 200 * math.log(2)


def test_held_out_densities_are_of_points_not_seen() -> None:
    """One Gaussian, each point a fold: its density under the moments of all the others."""
    x = torch.randn(25, 2)
    found = compare(x, [1], criteria=("held_out",), num_folds=25).candidates[0].scores["held_out"]
    for n in range(25):
        others = torch.cat([x[:n], x[n + 1 :]])
        normal = dist.MultivariateNormal(others.mean(dim=0), others.T.cov(correction=0))
        assert found.pointwise is not None
        # The jitter moves a variance by 1e-6 of itself.
        torch.testing.assert_close(found.pointwise[n], normal.log_prob(x[n]), rtol=0, atol=2e-5)
    assert found.value == pytest.approx(found.pointwise.mean().item())


def test_folds_share_all_points_evenly() -> None:
    x = torch.arange(23.0).unsqueeze(1)
    whole = compare(x, [1], criteria=("held_out",), num_folds=4).candidates[0].scores["held_out"]
    assert whole.pointwise is not None
    assert whole.pointwise.shape == (23,)
    assert whole.pointwise.isfinite().all()


def exact_leave_one_out(x: Tensor, form: str) -> Tensor:
    """log p(x_n | the others) of one Gaussian under the default prior: Student's t, shape (N,).

    A covariance on D free parameters a side: Σ is inverse Wishart; diagonal, each variance is
    inverse gamma with shape (ν + D − 1) / 2; spherical, the one with (D (ν + D + 1) − 2) / 2.
    """
    prior, dim = NormalInverseWishart.default(x, 1), x.shape[1]
    values = []
    for n in range(len(x)):
        others = torch.cat([x[:n], x[n + 1 :]])
        count, mean = len(others), others.mean(dim=0)
        strength, nu = prior.strength + count, prior.degrees + count
        loc = (prior.strength * prior.loc + count * mean) / strength
        away = mean - prior.loc
        scatter = prior.scatter + count * others.T.cov(correction=0)
        scatter = scatter + prior.strength * count / strength * torch.outer(away, away)
        scatter = scatter * (strength + 1) / strength
        if form in ("full", "tied"):
            degrees = nu - dim + 1
            scale = torch.linalg.cholesky(scatter / degrees)
            values.append(dist.MultivariateStudentT(degrees, loc, scale).log_prob(x[n]))
        elif form == "diag":
            degrees = nu + dim - 1
            scale = (scatter.diagonal() / degrees).sqrt()
            values.append(dist.StudentT(degrees, loc, scale).log_prob(x[n]).sum())
        else:
            degrees = dim * (nu + dim + 1) - 2
            scale = (scatter.trace() / degrees).sqrt() * torch.eye(dim)
            values.append(dist.MultivariateStudentT(degrees, loc, scale).log_prob(x[n]))
    return torch.stack(values)


@pytest.mark.parametrize(
    "form", ["full", "diag", "spherical", pytest.param("tied", marks=pytest.mark.slow)]
)
def test_loo_is_the_exact_predictive_density_of_one_gaussian(form: str) -> None:
    """In closed form Student's t; 2000 smoothed draws err by 0.01 nats for most points."""
    x = torch.randn(40, 2) * torch.tensor([1.0, 2.0])
    found = compare(x, [1], (form,), criteria=("loo",)).candidates[0].scores["loo"]
    exact = exact_leave_one_out(x, form)
    assert found.pointwise is not None
    errors = found.pointwise - exact
    assert errors.abs().median() < 0.02
    # The mean's error: 40 such, hardly correlated; the tail point or two weigh most.
    assert found.value == pytest.approx(exact.mean().item(), abs=0.02)


@pytest.mark.slow
def test_loo_agrees_with_arviz() -> None:
    x = clusters(80)
    found = compare(x, [2], criteria=("loo",)).candidates[0]
    fit = found.fit
    assert fit is not None
    posterior = gibbs.fit(x, 2, start=fit.mixture, num_draws=500, warmup_steps=300, num_chains=4,
                          seed=0, progress=False)  # fmt: skip
    import arviz as az

    theirs = az.loo(posterior.to_arviz())
    assert 80 * found.scores["loo"].value == pytest.approx(theirs.iloc[0], abs=0.05)


def test_the_error_of_a_difference_is_that_of_the_same_points() -> None:
    found = compare(clusters(120), [1, 2], criteria=("held_out",), num_folds=3)
    first, second = found.candidates
    values = [own.scores["held_out"].pointwise for own in (first, second)]
    assert values[0] is not None
    assert values[1] is not None
    gaps = values[0] - values[1]
    table = found.table()
    assert table.held_out_gap.tolist() == pytest.approx([gaps.mean().item(), 0.0])
    assert table.held_out_gap_se.tolist() == pytest.approx(
        [gaps.std().item() / math.sqrt(120), 0.0]
    )
    assert table.held_out_se[1] == pytest.approx(values[1].std().item() / math.sqrt(120))
    assert found.best().mixture.num_components == 2


def test_what_cannot_be_fitted_says_so_and_ends_nothing() -> None:
    found = compare(torch.randn(6, 2), [1, 2, 6, 50], ("full", "diag"), criteria=("bic", "aic"))
    table = found.table()
    assert len(table) == 8
    failed = table[table.num_components >= 6]
    assert failed.bic.isna().all()
    assert failed.note.str.contains("x must hold at least").all()
    assert found.best("aic").mixture.num_components <= 2
    with pytest.raises(ValueError, match="candidates must be at least one that fits, got none: x"):
        compare(torch.randn(5, 2), [9]).best()
    with pytest.raises(ValueError, match="must vary"):
        compare(torch.ones(5, 2), [1]).best()


def test_a_fold_that_cannot_be_fitted_says_so() -> None:
    found = compare(torch.randn(6, 1), [1, 5], criteria=("held_out",), num_folds=3)
    assert "held_out" not in found.candidates[1].scores
    assert "fold 1: x must hold at least 6 points, got 4" in found.candidates[1].note
    assert math.isnan(found.table().held_out_gap[1])
    assert found.best().mixture.num_components == 1


def test_a_degenerate_fit_is_taken_only_where_there_is_no_other() -> None:
    """Ten times the same three points: a component on each has all the likelihood one likes."""
    x = torch.randn(3, 2).repeat(10, 1)
    found = compare(x, [1, 3])
    degenerate = found.candidates[1]
    assert not degenerate.is_sound
    assert "degenerate" in degenerate.note
    assert degenerate.scores["bic"].value < found.candidates[0].scores["bic"].value
    assert found.best().mixture.num_components == 1
    assert compare(x, [3]).best().mixture.num_components == 3


def test_what_em_warns_of_is_said_in_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = em.fit

    def warned(*args: object, **options: object) -> em.EMFit:
        warnings.warn("1 of 2 components were given up", stacklevel=2)
        return fit(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(selection.em, "fit", warned)
    found = compare(clusters(30), [1])
    assert found.candidates[0].note == "1 of 2 components were given up"
    assert found.best() is found.candidates[0].fit


def test_loo_needs_all_components_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = em.fit(clusters(30), 2, num_starts=1, seed=0, progress=False)
    monkeypatch.setattr(selection.em, "fit", lambda *_, **__: pair)
    found = compare(clusters(30), [3], criteria=("bic", "loo"))
    assert "loo: of all components only" in found.candidates[0].note
    assert math.isnan(found.table().loo[0])
    assert found.best("bic") is not None


def test_a_seed_gives_the_same_selection_and_leaves_the_global_generator() -> None:
    x, state = clusters(60), torch.get_rng_state()
    first, again, other = (
        compare(x, [1], criteria=("held_out",), num_folds=3, seed=seed).table()
        for seed in (3, 3, 4)
    )
    assert first.equals(again)
    assert (first.held_out != other.held_out).all(), "other folds"
    assert (torch.get_rng_state() == state).all()


def test_single_precision_data_are_taken() -> None:
    found = compare(clusters(60).float(), [1, 2], criteria=("bic", "held_out"), num_folds=2)
    assert found.best().mixture.locs.dtype == torch.float32
    assert found.best().mixture.num_components == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": [0]}, "num_components must be at least 1, got 0"),
        ({"num_components": []}, "num_components, covariances and criteria must name something"),
        ({"covariances": ("oval",)}, "covariances must be one of diag, full, .*, got 'oval'"),
        ({"criteria": ("luck",)}, "criteria must be one of aic, bic, .*, got 'luck'"),
        ({"criteria": ("held_out",), "num_folds": 1}, r"num_folds must be in \[2, 30\] for 30"),
        ({"x": torch.full((4, 2), math.nan)}, "x must be finite"),
    ],
)
def test_refuses_what_is_no_question(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(**{"x": clusters(30), **options})  # pyright: ignore[reportArgumentType]


def test_refuses_a_criterion_that_was_not_asked_for() -> None:
    with pytest.raises(ValueError, match="criterion must be one of bic, got 'aic'"):
        compare(clusters(30), [1], criteria=("bic",)).best("aic")


# The overfitted mixture.


def overfitted(x: Tensor, **options: object) -> selection.OverfittedMixture:
    quick = {"num_draws": 150, "warmup_steps": 150, "num_chains": 2, "seed": 0, "progress": False}
    return selection.overfitted(x, 5, **{**quick, **options})  # pyright: ignore


@pytest.mark.parametrize("num", [1, 2])
def test_components_not_needed_empty_out(num: int) -> None:
    x = clusters(200, apart=10.0) if num == 2 else torch.randn(200, 2)
    found = overfitted(x)
    assert found.num_components == num
    assert found.probs[num - 1] > 0.8
    assert found.probs.sum().item() == pytest.approx(1.0)
    assert found.num_occupied.shape == (2, 150)
    assert f"{num} of 5 components hold points" in repr(found)


def test_a_dense_prior_keeps_more_of_them() -> None:
    x = torch.randn(100, 2)
    sparse, dense = (overfitted(x, concentration=c).num_occupied.double() for c in (0.01, 1.0))
    assert dense.mean() > sparse.mean() + 0.5


def test_a_component_holds_points_as_often_as_its_labels_fall_there() -> None:
    """Two equal components but for their weights: empty with probability 0.98^50 = 0.364."""
    single = gibbs.fit(torch.randn(20, 1), 2, num_draws=1, warmup_steps=0, num_chains=1, seed=0,
                       progress=False, pointwise=False)  # fmt: skip
    count = 4000
    draws = {
        "weights": torch.tensor([0.98, 0.02]).expand(1, count, 2),
        "locs": torch.zeros(1, count, 2, 1),
        "scale_trils": torch.ones(1, count, 2, 1, 1),
    }
    posterior = replace(single, draws=draws)
    found = sparse._num_occupied(posterior, torch.randn(50, 1), torch.Generator())
    share = (found == 1).double().mean().item()
    assert abs(share - 0.98**50) < 5 * math.sqrt(0.364 * 0.636 / count)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: overfitted(x[:4]), "x must hold at least 6 points, got 4"),
        (lambda x: selection.overfitted(x, 1), "most must be at least 2, got 1"),
        (lambda x: overfitted(x, concentration=0.0), "concentration must be positive, got 0.0"),
        (lambda x: overfitted(x, concentration=2.0), r"concentration must be in \[0, 1\], got 2"),
    ],
)
def test_refuses_an_impossible_overfit(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(clusters(30))


def test_an_overfitted_posterior_is_a_mixture_s() -> None:
    assert isinstance(overfitted(torch.randn(30, 2)).posterior.mixture, GaussianMixture)
