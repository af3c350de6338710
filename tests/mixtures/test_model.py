import math
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pplvae.mixtures import GaussianMixture, em, model
from pplvae.mixtures.model import sites
from pplvae.mixtures.prior import NormalInverseWishart


def clusters(dim: int) -> Tensor:
    return torch.cat([torch.randn(12, dim), 0.5 * torch.randn(8, dim) + 4.0])


def conjugate(dim: int) -> NormalInverseWishart:
    return NormalInverseWishart(torch.zeros(dim), torch.eye(dim) + 0.5, 0.5, dim + 3.0)


def latents(
    x: Tensor, num_components: int, prior: NormalInverseWishart | None = None
) -> dict[str, Tensor]:
    """One draw from the prior."""
    trace = poutine.trace(model).get_trace(x, num_components, prior=prior)
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
@pytest.mark.parametrize("is_conjugate", [False, True])
def test_both_forms_take_vectorized_particles(dim: int, *, is_conjugate: bool) -> None:
    x, losses = clusters(dim), []
    prior = conjugate(dim) if is_conjugate else None
    guide = AutoNormal(partial(model, x, 3, prior=prior))
    guide()
    for elbo, enumerate_assignments in ((Trace_ELBO, False), (TraceEnum_ELBO, True)):
        pyro.set_rng_seed(1)  # the same particles
        ours = partial(model, x, 3, prior=prior, enumerate_assignments=enumerate_assignments)
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
    svi = SVI(ours, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    losses = [svi.step() for _ in range(150)]
    pyro.clear_param_store()
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


@pytest.mark.parametrize("enumerate_assignments", [False, True])
def test_nuts_takes_it(enumerate_assignments: bool) -> None:
    ours = partial(model, enumerate_assignments=enumerate_assignments)
    mcmc = MCMC(NUTS(ours, max_tree_depth=3), 5, warmup_steps=5, disable_progbar=True)
    mcmc.run(clusters(2), 2)
    draws = mcmc.get_samples()
    assert draws["locs"].shape == (5, 2, 2)
    torch.testing.assert_close(draws["weights"].sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("is_conjugate", [False, True])
def test_the_sites_of_a_mixture_make_that_mixture(dim: int, *, is_conjugate: bool) -> None:
    x, prior = clusters(dim), conjugate(dim) if is_conjugate else None
    mixture = em.fit(x, 2, seed=0, progress=False).mixture
    values = sites(mixture, prior)
    assert set(values) == set(latents(x, 2, prior))
    trace = poutine.trace(poutine.condition(model, values)).get_trace(x, 2, prior=prior)
    torch.testing.assert_close(trace.nodes["scale_trils"]["value"], mixture.scale_trils)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], mixture.log_prob(x))


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

    values = torch.stack([value(subsample_size=5) for _ in range(400)])
    error = values.std() / math.sqrt(400)
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
        ({"num_components": 0}, "num_components must be at least 1, got 0"),
        ({"concentration": 0.0}, "concentration must be positive, got 0.0"),
        ({"scale": torch.tensor([1.0, -1.0])}, r"scale must be positive, got \[1.0, -1.0\]"),
        ({"scale_spread": -1.0}, "scale_spread must be positive, got -1.0"),
    ],
)
def test_refuses_an_impossible_prior(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**{"x": clusters(2), "num_components": 2, **changes})
