import math
from collections.abc import Callable
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, model
from pplvae.mixtures.covariances import FORMS, Full
from pplvae.mixtures.model import sites
from pplvae.mixtures.prior import NormalInverseWishart

SCATTER = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]]).double()


def clusters(dim: int) -> Tensor:
    return torch.cat([torch.randn(12, dim), 0.5 * torch.randn(8, dim) + 4.0])


def conjugate(dim: int) -> NormalInverseWishart:
    return NormalInverseWishart(torch.zeros(dim), torch.eye(dim) + 0.5, 0.5, dim + 3.0)


def latents(
    x: Tensor,
    num_components: int,
    prior: NormalInverseWishart | None = None,
    covariance: str = "full",
) -> dict[str, Tensor]:
    """One draw from the prior."""
    options = {"prior": prior, "covariance": covariance}
    trace = poutine.trace(model).get_trace(x, num_components, **options)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if name != "data"}


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("is_conjugate", [False, True])
def test_the_likelihood_is_the_mixture_s(dim: int, *, is_conjugate: bool) -> None:
    prior = conjugate(dim) if is_conjugate else None
    trace = poutine.trace(model).get_trace(x := clusters(dim), 3, prior=prior)
    trace.compute_log_prob()
    values = [trace.nodes[name]["value"] for name in ("weights", "locs", "scale_trils")]
    expected = GaussianMixture(*values).log_prob(x)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_summing_out_the_assignments_gives_the_marginalized_model(dim: int) -> None:
    x = clusters(dim)
    fixed = poutine.condition(model, data=latents(x, 3))
    enumerated = TraceEnum_ELBO(max_plate_nesting=1).loss(
        partial(fixed, enumerate_assignments=True), lambda *_: None, x, 3
    )
    assert enumerated == pytest.approx(Trace_ELBO().loss(fixed, lambda *_: None, x, 3), rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("covariance", em.COVARIANCES)
@pytest.mark.parametrize("is_conjugate", [False, True])
def test_both_forms_take_vectorized_particles(
    dim: int, covariance: str, *, is_conjugate: bool
) -> None:
    x, losses = clusters(dim), []
    prior = conjugate(dim) if is_conjugate else None
    program = partial(model, x, 3, prior=prior, covariance=covariance)
    guide = AutoNormal(program)
    guide()
    for elbo, enumerate_assignments in ((Trace_ELBO, False), (TraceEnum_ELBO, True)):
        pyro.set_rng_seed(1)  # the same particles
        ours = partial(program, enumerate_assignments=enumerate_assignments)
        bound = elbo(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        losses.append(bound.loss(ours, guide))
    pyro.clear_param_store()
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("enumerate_assignments", [False, True])
def test_trains_in_bare_pyro(enumerate_assignments: bool) -> None:
    x = clusters(2)
    ours = partial(model, x, 2, enumerate_assignments=enumerate_assignments)
    guide = AutoNormal(poutine.block(ours, hide=["assignment"]))
    elbo = TraceEnum_ELBO(max_plate_nesting=1) if enumerate_assignments else Trace_ELBO()
    svi = SVI(ours, guide, pyro.optim.Adam({"lr": 0.15}), elbo)
    losses = [svi.step() for _ in range(45)]
    pyro.clear_param_store()
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("enumerate_assignments", [False, True])
def test_nuts_takes_it(enumerate_assignments: bool) -> None:
    ours = partial(model, enumerate_assignments=enumerate_assignments)
    mcmc = MCMC(NUTS(ours, max_tree_depth=2), 4, warmup_steps=3, disable_progbar=True)
    mcmc.run(clusters(2), 2)
    draws = mcmc.get_samples()
    assert draws["locs"].shape == (4, 2, 2)
    torch.testing.assert_close(draws["weights"].sum(dim=1), torch.ones(4))


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("covariance", em.COVARIANCES)
@pytest.mark.parametrize("is_conjugate", [False, True])
def test_the_sites_of_a_mixture_make_that_mixture(
    dim: int, covariance: str, *, is_conjugate: bool
) -> None:
    x, prior = clusters(dim), conjugate(dim) if is_conjugate else None
    options = {"prior": prior, "covariance": covariance}
    mixture = em.m_step(x, torch.rand(len(x), 2).softmax(dim=1), covariance=covariance)
    values, drawn = sites(mixture, prior, covariance), latents(x, 2, prior, covariance)
    shapes = [{name: value.shape for name, value in own.items()} for own in (values, drawn)]
    assert shapes[0] == shapes[1]
    trace = poutine.trace(poutine.condition(model, values)).get_trace(x, 2, **options)
    torch.testing.assert_close(trace.nodes["scale_trils"]["value"], mixture.scale_trils)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], mixture.log_prob(x))


@pytest.mark.parametrize(
    ("covariance", "expected"),
    [
        ("tied", lambda w, covs: (w[:, None, None] * covs).sum(dim=0)),
        ("diag", lambda w, covs: covs[1].diagonal().diag()),
        ("spherical", lambda w, covs: covs[1].trace() / 3 * torch.eye(3)),
    ],
)
def test_the_sites_of_another_form_make_the_nearest_mixture(
    covariance: str, expected: Callable[[Tensor, Tensor], Tensor]
) -> None:
    x = clusters(3)
    mixture = em.m_step(x, torch.rand(len(x), 2).softmax(dim=1))
    for prior in (None, conjugate(3)):
        fixed = poutine.condition(model, sites(mixture, prior, covariance))
        trace = poutine.trace(fixed).get_trace(x, 2, prior=prior, covariance=covariance)
        tril = trace.nodes["scale_trils"]["value"][1]
        torch.testing.assert_close(tril @ tril.T, expected(mixture.weights, mixture.covs))


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_the_conjugate_prior_draws_covariances_of_its_law(covariance: str) -> None:
    """A wide inverse Wishart, restricted: its mean is a multiple of Ψ, or of its diagonal.

    E Σ is Ψ / (ν − D − 1), or of an inverse gamma with shape a and scale b it is b / (a − 1).
    """
    prior, x, dim = NormalInverseWishart(torch.zeros(3), SCATTER, 0.5, 12.0), clusters(3), 3
    model_ = partial(model, x[:2], 200, prior=prior, covariance=covariance)
    trils = torch.cat(
        [poutine.trace(model_).get_trace().nodes["scale_trils"]["value"] for _ in range(20)]
    )
    covs = (trils @ trils.mT)[:: 200 if covariance == "tied" else 1]
    means = {
        "full": SCATTER / (12 - dim - 1),
        "tied": SCATTER / (12 - dim - 1),
        "diag": SCATTER.diagonal().diag() / 2 / ((12 + dim - 1) / 2 - 1),
        "spherical": SCATTER.trace() / 2 / (dim * (12 + dim + 1) / 2 - 2) * torch.eye(dim),
    }
    error = covs.std(dim=0) / math.sqrt(len(covs))
    # Six numbers, by their own error: the twenty draws of the tied one have tails.
    assert ((covs.mean(dim=0) - means[covariance]).abs() <= 5 * error + 1e-12).all()


def test_a_sphere_s_prior_width_is_the_root_mean_square_of_the_columns() -> None:
    scale = torch.tensor([1.0, 7.0])
    trace = poutine.trace(model).get_trace(clusters(2), 3, covariance="spherical", scale=scale)
    fn = trace.nodes["scales"]["fn"]
    torch.testing.assert_close(fn.base_dist.loc.exp(), torch.full((3, 1), 5.0))


@pytest.mark.parametrize("covariance", em.COVARIANCES)
def test_the_sites_prior_is_the_one_that_em_climbs(covariance: str) -> None:
    """Of two mixtures, with |∂Σ / ∂ sites|: what differs is the log prior of EM's objective."""
    x, prior, form = clusters(2), conjugate(2), FORMS[covariance]
    start = em.m_step(x, torch.rand(len(x), 2).softmax(dim=1), covariance=covariance)
    other = em.m_step(x, torch.rand(len(x), 2).softmax(dim=1), covariance=covariance)
    values = []
    for mixture in (start, other):
        flat = sites(mixture, prior, covariance)
        hidden = poutine.block(poutine.condition(model, flat), hide=["x"])
        trace = poutine.trace(hidden).get_trace(x, 2, prior=prior, covariance=covariance)
        numbers = [flat[name] for name in ("pivots", "shears") if name in flat]
        log_volume = torch.zeros(())
        for k in range(len(flat["pivots"])):
            own = torch.cat([part[k] for part in numbers])
            slope = torch.autograd.functional.jacobian(
                partial(below, form, prior, len(flat["pivots"][k])), own
            )
            assert isinstance(slope, Tensor)
            log_volume = log_volume + torch.linalg.slogdet(slope).logabsdet
        fit = em.fit(
            x, 2, covariance=covariance, prior=prior, start=mixture, max_steps=1, jitter=0.0,
            accelerate=False, progress=False,
        )  # fmt: skip
        log_prior = fit.objectives[0] - fit.log_likelihoods[0]
        values.append(trace.log_prob_sum() - log_volume - log_prior)
    torch.testing.assert_close(values[0], values[1])


def below(form: Full, prior: NormalInverseWishart, num_pivots: int, flat: Tensor) -> Tensor:
    """The free numbers of the covariance that Bartlett's make."""
    root = form.factor(form.reduce(prior.scatter))[0]
    shears = flat[num_pivots:] if len(flat) > num_pivots else None
    scales = form.from_bartlett(root, flat[:num_pivots], shears, dim=2)
    if not form.linear:
        return scales.square()
    row, column = torch.tril_indices(2, 2)
    return (scales @ scales.mT)[row, column]


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_conjugate_sites_have_the_prior_s_density(dim: int) -> None:
    """Of w, loc and Σ, times |∂Σ / ∂(pivots, shears)|, by autograd."""
    x, prior = clusters(dim), conjugate(dim)
    values = latents(x, 2, prior)
    hidden = poutine.block(poutine.condition(model, values), hide=["x"])
    found = poutine.trace(hidden).get_trace(x, 2, prior=prior).log_prob_sum()
    row, column = torch.tril_indices(dim, dim)
    below = row > column

    def lower(flat: Tensor) -> Tensor:
        """The lower half of Σ of one component, from its pivots and shears end to end."""
        factor = flat.new_zeros(dim, dim)
        factor = factor.index_put((row[below], column[below]), flat[dim:])
        factor = factor + flat[:dim].sqrt().diag()
        root = torch.linalg.cholesky(prior.scatter) @ torch.linalg.inv(factor)
        return (root @ root.T)[row, column]

    trils, volume = [], torch.zeros(())
    for k in range(2):
        shears = values["shears"][k] if dim > 1 else torch.zeros(0)
        flat = torch.cat([values["pivots"][k], shears])
        slope = torch.autograd.functional.jacobian(lower, flat)
        assert isinstance(slope, Tensor)
        volume = volume + torch.linalg.slogdet(slope).logabsdet
        cov = torch.zeros(dim, dim)
        cov[row, column] = cov[column, row] = lower(flat)
        trils.append(torch.linalg.cholesky(cov))
    mixture = GaussianMixture(values["weights"], values["locs"], torch.stack(trils))
    assert found.item() == pytest.approx(prior.log_prob(mixture) + volume.item())


def test_refuses_a_prior_of_another_dimension() -> None:
    with pytest.raises(ValueError, match="prior must have 2 dimensions, got NormalInverseW"):
        model(clusters(2), 2, prior=conjugate(3))


def test_the_prior_follows_the_place_and_units_of_the_data() -> None:
    """In units c times smaller, p(locs, scales) loses K D log c for each of the two sites."""
    x, factor, shift = clusters(2), 1e-3, 50.0
    values = latents(x, 3)
    moved = {
        **values,
        "locs": values["locs"] * factor + shift,
        "scales": values["scales"] * factor,
    }
    here, there = (
        poutine.trace(poutine.block(poutine.condition(model, data=data), hide=["x"]))
        .get_trace(points, 3)
        .log_prob_sum()
        for data, points in ((values, x), (moved, x * factor + shift))
    )
    torch.testing.assert_close(there - here, torch.tensor(-2 * 3 * 2 * math.log(factor)))


def test_minibatches_estimate_the_whole_log_likelihood() -> None:
    x = clusters(1)
    fixed = poutine.condition(model, data=latents(x, 2))

    def value(**subsample: int) -> Tensor:
        return poutine.trace(fixed).get_trace(x, 2, **subsample).log_prob_sum()

    values = torch.stack([value(subsample_size=5) for _ in range(150)])
    error = values.std() / math.sqrt(150)
    assert abs(values.mean() - value()) < 5 * error


def test_a_constant_column_and_single_precision_are_taken() -> None:
    x = torch.cat([clusters(2), torch.full((20, 1), 0.1)], dim=1).float()
    trace = poutine.trace(model).get_trace(x, 2)
    assert trace.log_prob_sum().isfinite()
    assert trace.nodes["scale_trils"]["value"].dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(5, 2)}, "x must vary, got 5 times the same point"),
        ({"covariance": "round"}, r"covariance must be one of .*, got 'round'"),
        ({"num_components": 0}, "num_components must be at least 1, got 0"),
        ({"concentration": 0.0}, "concentration must be positive, got 0.0"),
        ({"scale": torch.tensor([1.0, -1.0])}, r"scale must be positive, got \[1.0, -1.0\]"),
        ({"scale_spread": -1.0}, "scale_spread must be positive, got -1.0"),
    ],
)
def test_refuses_an_impossible_prior(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**{"x": clusters(2), "num_components": 2, **changes})
