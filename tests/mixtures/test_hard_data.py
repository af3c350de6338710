"""What a fit meets outside of textbooks: singular columns, odd containers, the other precision."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import Tensor

from pplvae.mixtures import (
    GaussianMixture,
    MixtureOfNormals,
    NormalInverseWishart,
    em,
    gibbs,
    nuts,
    selection,
    svi,
)

FORMS = ("full", "tied", "diag", "spherical")


@pytest.fixture
def ordinary_session() -> Iterator[None]:
    """The default precision of torch as users have it."""
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def two_clouds(num: int = 60, apart: float = 5.0) -> Tensor:
    shift = apart * torch.ones(2, dtype=torch.float64)
    x = torch.randn(2, num, 2, dtype=torch.float64)
    return torch.cat([x[0], x[1] + shift])


def fitted(x: Any, num: int = 2, **options: Any) -> em.EMFit:
    return em.fit(x, num, seed=0, progress=False, **options)


@pytest.mark.usefixtures("ordinary_session")
def test_an_ordinary_session_knows_labels() -> None:
    x = two_clouds()
    known = torch.full((len(x),), -1)
    known[0], known[-1] = 1, 0
    assert fitted(x, labels=known).mixture.predict(x)[:60].float().mean() > 0.95


@pytest.mark.usefixtures("ordinary_session")
def test_an_ordinary_session_keeps_all_digits() -> None:
    """The prior's normalizer against the formula in double precision; draws finer than float32."""
    x = two_clouds(20)
    prior = NormalInverseWishart(torch.zeros(2).double(), torch.eye(2).double(), degrees=1001.3)
    mixture = GaussianMixture(torch.ones(1).double(), x[:1], torch.eye(2).double()[None])
    found = prior.log_prob(mixture)
    torch.set_default_dtype(torch.float64)
    assert found == pytest.approx(prior.log_prob(mixture), abs=1e-9)
    torch.set_default_dtype(torch.float32)
    draws = MixtureOfNormals(mixture.weights, 0 * mixture.locs, mixture.scale_trils).sample((50,))
    assert (draws != draws.float().double()).any()


@pytest.mark.usefixtures("ordinary_session")
@pytest.mark.filterwarnings("ignore:.*")
def test_an_ordinary_session_takes_several_particles_of_enumerated_labels() -> None:
    found = svi.fit(
        two_clouds(), 2, enumerate_assignments=True, num_particles=2, num_steps=3, num_draws=5,
        progress=False,
    )  # fmt: skip
    assert found.draws["locs"].isfinite().all()


def iris_in_two_units() -> Tensor:
    x = torch.as_tensor(load_iris().data)
    return torch.cat([x, (x[:, 2:3] / 2.54 * 100).round() / 100], dim=1)


@pytest.mark.parametrize(
    ("x", "num"),
    [
        (iris_in_two_units(), 1),
        pytest.param(iris_in_two_units(), 3, marks=pytest.mark.slow),
        (torch.randn(150, 3, generator=torch.Generator().manual_seed(0)).round(), 4),
        (torch.randn(75, 2, generator=torch.Generator().manual_seed(0)).repeat(2, 1), 2),
    ],
)
def test_gaps_in_columns_that_follow_from_others_end_no_fit(x: Tensor, num: int) -> None:
    x = x.double().masked_fill(torch.rand(x.shape) < 0.2, torch.nan)
    found = fitted(x, num, missing="marginalise")
    steps = torch.tensor(found.objectives).diff()
    assert (steps >= -1e-6 * abs(found.objectives[-1])).all()


def test_gaps_that_are_written_otherwise_are_the_same() -> None:
    x = two_clouds()
    x[3, 0] = torch.nan
    there = fitted(x, missing="marginalise")
    array = x.numpy()
    masked = np.ma.masked_invalid(array)
    for other in (array[:, ::-1][:, ::-1], array.astype(">f8"), masked):
        found = fitted(other, missing="marginalise")
        assert found.log_likelihood == pytest.approx(there.log_likelihood, abs=1e-9)
    with pytest.raises(ValueError, match="x must be finite, got 1 nan"):
        fitted(masked)
    with pytest.raises(ValueError, match="x must be an array of numbers, got object"):
        fitted(array.astype(object), missing="marginalise")


def test_a_column_seen_with_no_weight_is_not_seen() -> None:
    x = torch.cat([two_clouds(), torch.full((120, 1), torch.nan)], dim=1)
    x[0, 2] = 1.0
    weights = torch.ones(120)
    weights[0] = 0.0
    with pytest.raises(ValueError, match=r"x must have a value in each column, got none in \[2\]"):
        fitted(x, weights=weights, missing="marginalise")


@pytest.mark.parametrize("prior", [None, NormalInverseWishart(torch.zeros(2), torch.eye(2))])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:.*given up")
def test_as_many_clusters_as_places_end_no_fit(
    form: str, prior: NormalInverseWishart | None
) -> None:
    """k-means leaves no volume within the clusters, and there is no jitter."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).repeat(5, 1)
    found = fitted(x, 3, covariance=form, jitter=0.0, prior=prior)
    assert found.mixture.log_prob(x).isfinite().all()
    if prior is not None:
        assert found.num_pruned == 0
        assert not found.num_degenerate


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("unit", [1e-150, 1e150])
def test_units_do_not_matter(form: str, unit: float) -> None:
    x = two_clouds()
    shift = x.numel() * np.log(unit)
    found = fitted(unit * x, covariance=form).log_likelihood + shift
    assert found == pytest.approx(fitted(x, covariance=form).log_likelihood, abs=1e-6)


@pytest.mark.parametrize("unit", [1e-160, 1e160])
@pytest.mark.parametrize("form", ["full", "diag"])
def test_units_whose_squares_are_no_numbers_are_refused(form: str, unit: float) -> None:
    x = unit * two_clouds()
    with pytest.raises(ValueError, match="standard deviations between 1e-153 and 1e153"):
        fitted(x, covariance=form)
    table = selection.compare(x, [1, 2], [form], progress=False)
    assert all("change their units" in candidate.note for candidate in table.candidates)


@pytest.mark.parametrize("engine", [svi, nuts, gibbs])
def test_an_engine_takes_the_start_and_prior_of_its_problem_only(engine: Any) -> None:
    x = two_clouds()
    other = GaussianMixture(torch.ones(3) / 3, torch.randn(3, 2), torch.eye(2).expand(3, 2, 2))
    with pytest.raises(ValueError, match="start must be a GaussianMixture of 2 components in 2 d"):
        engine.fit(x, 2, start=other, progress=False)
    with pytest.raises(ValueError, match="prior must have 2 dimensions"):
        engine.fit(x, 2, prior=NormalInverseWishart.default(x[:, :1], 2), progress=False)


def test_points_come_in_many_containers() -> None:
    x = two_clouds()
    pandas = pytest.importorskip("pandas")
    there = fitted(x).log_likelihood
    halves = x[:70], x[70:]
    for other in (
        x.tolist(), pandas.DataFrame(x.numpy()), list(halves), [half.tolist() for half in halves],
        [half.numpy() for half in halves], [[half] for half in halves],
    ):  # fmt: skip
        assert fitted(other).log_likelihood == pytest.approx(there, abs=1e-9)


@pytest.mark.parametrize("form", ["full", "tied"])
def test_blocks_that_do_not_come_again_are_told(form: str) -> None:
    x = two_clouds()
    once = iter([x[:70], x[70:]])
    with pytest.raises(ValueError, match=r"the same blocks .* got 120 points first and 0 later"):
        fitted(lambda: once, covariance=form)
    sizes = iter([120, 90, 90, 90])
    with pytest.raises(ValueError, match="got 120 points first and 90 later"):
        fitted(lambda: [x[: next(sizes)]], covariance=form)


def test_a_point_out_of_all_bounds_has_density_zero_and_no_component() -> None:
    law = MixtureOfNormals(
        torch.tensor([0.5, 0.5]), torch.zeros(2, 1), torch.ones(2, 1, 1), validate_args=False
    )
    assert law.log_prob(torch.tensor([[torch.inf], [1e200]])).isneginf().all()
    mixture, far = fitted(two_clouds()).mixture, torch.full((1, 2), 1e160)
    assert mixture.log_prob(far).isneginf().all()
    for ask in (mixture.responsibilities, mixture.predict, lambda x: em.e_step(mixture, x)):
        with pytest.raises(ValueError, match="within 1e150 standard deviations"):
            ask(far)


def test_weights_that_are_hardly_numbers_are_refused() -> None:
    x = two_clouds()
    plain = fitted(x).mixture
    light = fitted(x, weights=torch.full((len(x),), 1e-280)).mixture
    torch.testing.assert_close(light.locs, plain.locs, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="some above 1e-290"):
        fitted(x, weights=torch.full((len(x),), 1e-310))
