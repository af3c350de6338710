import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pplvae.mixtures import GaussianMixture, model
from pplvae.mixtures.model import choose


def mixture(num_components: int = 3, dim: int = 3) -> GaussianMixture:
    """Unequal weights, places, and correlated covariances."""
    trils = torch.randn(num_components, dim, dim).tril(-1)
    trils = trils + torch.diag_embed(torch.rand(num_components, dim) + 0.5)
    weights = torch.rand(num_components) + 0.2
    return GaussianMixture(weights / weights.sum(), torch.randn(num_components, dim), trils)


def test_agrees_with_torch() -> None:
    ours = mixture()
    components = dist.MultivariateNormal(ours.locs, scale_tril=ours.scale_trils)
    theirs = dist.MixtureSameFamily(dist.Categorical(ours.weights), components)
    x = 2.0 * torch.randn(20, 3)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))


def test_integrates_to_one() -> None:
    grid = torch.linspace(-30, 30, 20001)
    mass = torch.trapezoid(mixture(4, 1).log_prob(grid).exp(), grid)
    assert mass.item() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("distance", [1.0, 1e6])
def test_responsibilities_sum_to_one_also_far_away(distance: float) -> None:
    ours, x = mixture(), distance * torch.randn(50, 3)
    responsibilities = ours.responsibilities(x)
    torch.testing.assert_close(responsibilities.sum(dim=1), torch.ones(50))
    assert (ours.predict(x) == responsibilities.argmax(dim=1)).all()


def test_responsibilities_are_the_rule_of_bayes() -> None:
    """Equal components at ±1 with unit variance: log odds are 2x + log(w_1 / w_0)."""
    ours = GaussianMixture(
        torch.tensor([0.2, 0.8]), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1)
    )
    x = torch.linspace(-3, 3, 7)
    expected = torch.sigmoid(2 * x + math.log(4.0))
    torch.testing.assert_close(ours.responsibilities(x)[:, 1], expected)


def test_a_far_origin_loses_nothing() -> None:
    near, x = mixture(), torch.randn(20, 3)
    # Multiples of 2^-20 stay exact when 2^27 = 1.3e8 is added: any difference is our own rounding.
    locs, x = ((t * 2**20).round() / 2**20 for t in (near.locs, x))
    near = GaussianMixture(near.weights, locs, near.scale_trils)
    far = GaussianMixture(near.weights, locs + 2.0**27, near.scale_trils)
    torch.testing.assert_close(far.log_prob(x + 2.0**27), near.log_prob(x), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("num_samples", [1, 2, 99])
def test_sample_gives_exactly_as_many_points(num_samples: int) -> None:
    x, labels = mixture().sample(num_samples, seed=0)
    assert x.shape == (num_samples, 3)
    assert labels.shape == (num_samples,)


def test_samples_have_each_component_s_moments() -> None:
    ours = mixture()
    x, labels = ours.sample(60_000, seed=1)
    for k in range(3):
        own = x[labels == k]
        share = len(own) / len(x)
        weight = ours.weights[k].item()
        assert abs(share - weight) < 5 * math.sqrt(weight * (1 - weight) / len(x))
        # Standardized, each of the 3 means has standard error n^-1/2, each of the 9 (co)variances
        # at most (2 / n)^1/2: 5 of them.
        whitened = torch.linalg.solve(ours.scale_trils[k], (own - ours.locs[k]).T)
        assert whitened.mean(dim=1).abs().max() < 5 / math.sqrt(len(own))
        assert (whitened.cov() - torch.eye(3)).abs().max() < 5 * math.sqrt(2 / len(own))


def test_a_component_owns_its_interval_without_the_upper_end() -> None:
    uniforms = torch.tensor([0.0, 0.5, 0.75, 1 - 2.0**-53])
    labels = choose(torch.tensor([0.0, 2.0, 1.0, 1.0, 0.0]), uniforms)
    assert labels.tolist() == [1, 2, 3, 3]  # never one without weight


def test_a_seed_gives_the_same_draws_and_leaves_the_global_generator() -> None:
    ours, state = mixture(), torch.get_rng_state()
    first, again, other = (ours.sample(20, seed=seed).x for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    assert (torch.get_rng_state() == state).all()


def test_marginal_is_the_joint_integrated() -> None:
    ours = mixture(3, 2)
    grid = torch.linspace(-30, 30, 12001)
    for x in (-1.0, 0.3, 2.0):
        points = torch.stack([grid, torch.full_like(grid, x)], dim=1)
        integral = torch.trapezoid(ours.log_prob(points).exp(), grid)
        torch.testing.assert_close(
            ours.marginal([1]).log_prob(torch.tensor([x])).exp(), integral.unsqueeze(0)
        )


def test_marginal_takes_its_coordinates_in_the_order_asked() -> None:
    ours, x = mixture(2, 4), torch.randn(10, 4)
    whole = ours.marginal([2, 0, 3, 1])
    torch.testing.assert_close(whole.log_prob(x[:, [2, 0, 3, 1]]), ours.log_prob(x))
    torch.testing.assert_close(ours.marginal([3, 1]).covs, ours.covs[:, [3, 1]][:, :, [3, 1]])


@pytest.mark.parametrize("dims", [[0], [2, 0], [3, 1, 2]])
def test_conditional_is_the_joint_over_the_marginal(dims: list[int]) -> None:
    ours, x = mixture(3, 4), torch.randn(10, 4)
    x[:, dims] = torch.randn(len(dims))
    rest = [d for d in range(4) if d not in dims]
    conditional = ours.conditional(dims, x[0, dims])
    expected = ours.log_prob(x) - ours.marginal(dims).log_prob(x[:, dims])
    torch.testing.assert_close(conditional.log_prob(x[:, rest]), expected)


def test_conditional_on_a_far_value_is_still_a_mixture() -> None:
    assert mixture().conditional([0], torch.tensor([1e6])).log_prob(torch.zeros(1, 2)).isfinite()


def test_makes_no_tensor_of_points_times_components_times_dimensions() -> None:
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, Tensor) else 0)
            return out

    ours, x = mixture(5, 6), torch.randn(400, 6)
    with Watch():
        ours.log_prob(x)
        ours.responsibilities(x)
        ours.sample(400)
    assert 400 * 5 <= largest <= 400 * 6


def test_takes_arrays_and_keeps_single_precision() -> None:
    ours = GaussianMixture(
        np.ones(1, np.float32), np.zeros((1, 2), np.float32), np.eye(2, dtype=np.float32)[None]
    )
    x = np.zeros((3, 2))
    assert ours.log_prob(x).dtype == ours.sample(4).x.dtype == torch.float32
    torch.testing.assert_close(ours.log_prob(x), torch.full((3,), -math.log(2 * math.pi)).float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.ones((1, 2))}, r"weights must have shape \(K,\), got \(1, 2\)"),
        ({"weights": np.array([0.5, 0.6])}, "weights must be at least 0 and sum to one, got"),
        ({"weights": np.array([1.5, -0.5])}, "weights must be at least 0 and sum to one, got"),
        ({"locs": np.zeros((3, 2))}, r"locs must have shape \(2, D\), got \(3, 2\)"),
        ({"locs": np.full((2, 2), np.nan)}, "locs must be finite, got 4 nan or inf"),
        ({"scale_trils": np.eye(2)}, r"scale_trils must have shape \(2, 2, 2\), got \(2, 2\)"),
        ({"scale_trils": np.ones((2, 2, 2))}, "scale_trils must be lower triangular"),
        ({"scale_trils": -np.stack([np.eye(2)] * 2)}, "must have positive diagonals, got -1.0"),
        ({"locs": np.zeros((2, 2), np.float32)}, "must share a dtype"),
    ],
)
def test_refuses_what_is_no_mixture(changes: dict[str, np.ndarray], message: str) -> None:
    right = {
        "weights": torch.tensor([0.5, 0.5]),
        "locs": torch.zeros(2, 2),
        "scale_trils": torch.eye(2).expand(2, 2, 2),
    }
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{**right, **changes})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.log_prob(torch.zeros(4, 2)), "x must have 3 columns, got 2"),
        (lambda m: m.sample(0), "num_samples must be at least 1, got 0"),
        (lambda m: m.marginal([3]), r"dims must be in \[0, 2\] for 3 dimensions, got 3"),
        (
            lambda m: m.marginal([1, 1]),
            r"dims must name some coordinates, each once, got \[1, 1\]",
        ),
        (lambda m: m.marginal([]), "dims must name some coordinates"),
        (
            lambda m: m.conditional([0], torch.zeros(2)),
            r"values must have shape \(1,\), got \(2,\)",
        ),
        (lambda m: m.conditional([0, 1, 2], torch.zeros(3)), "dims must leave a coordinate over"),
    ],
)
def test_refuses_a_question_that_does_not_fit(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(mixture())


# The Pyro model.


def clusters(dim: int) -> Tensor:
    return torch.cat([torch.randn(12, dim), 0.5 * torch.randn(8, dim) + 4.0])


def latents(x: Tensor, num_components: int) -> dict[str, Tensor]:
    """One draw from the prior."""
    trace = poutine.trace(model).get_trace(x, num_components)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if name != "data"}


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_likelihood_is_the_mixture_s(dim: int) -> None:
    trace = poutine.trace(model).get_trace(x := clusters(dim), 3)
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
def test_both_forms_take_vectorized_particles(dim: int) -> None:
    x, losses = clusters(dim), []
    guide = AutoNormal(partial(model, x, 3))
    guide()
    for elbo, enumerate_assignments in ((Trace_ELBO, False), (TraceEnum_ELBO, True)):
        pyro.set_rng_seed(1)  # the same particles
        ours = partial(model, x, 3, enumerate_assignments=enumerate_assignments)
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
