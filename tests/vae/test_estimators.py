"""Pyro's own estimators on a VAE: right where they can be, refused where they would be wrong."""

import math
import weakref
from collections.abc import Callable, Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Importance,
    JitTrace_ELBO,
    JitTraceMeanField_ELBO,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.importance import vectorized_importance_weights
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn

from pplvae import vae
from pplvae.vae import VAE

SEVERAL = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    with pyro.get_param_store().scope():
        yield


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 1)


def unit_normal(loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def exact() -> VAE:
    """With x | z ~ N(z, 1) and z ~ N(0, 1), z | x ~ N(x / 2, 1/2) and x ~ N(0, 2)."""
    encoder = nn.Linear(1, 2)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.5], [0.0]]))
        encoder.bias.copy_(torch.tensor([0.0, 0.5 * math.log(0.5)]))
    return VAE(encoder, nn.Identity(), unit_normal, 1)


def log_evidence(x: Tensor) -> float:
    return dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum().item()


ESTIMATORS = [
    Trace_ELBO(),
    Trace_ELBO(**SEVERAL),
    Trace_ELBO(num_particles=3),
    TraceGraph_ELBO(),
    TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    RenyiELBO(alpha=0, **SEVERAL),
    RenyiELBO(alpha=0.5, **SEVERAL),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_every_bound_is_exact_where_the_guide_is(estimator: Trace_ELBO, x: Tensor) -> None:
    model = exact()
    assert -estimator.loss(model.model, model.guide, x) == pytest.approx(log_evidence(x))


@pytest.mark.parametrize(
    "estimator", [Trace_ELBO(), Trace_ELBO(**SEVERAL)], ids=["one", "several"]
)
def test_a_subsample_stands_for_all_points(estimator: Trace_ELBO, x: Tensor) -> None:
    model = exact()
    bound = -estimator.loss(model.model, model.guide, x, num_points=60)
    assert bound == pytest.approx(60 / 5 * log_evidence(x))


def test_a_closed_form_kl_of_a_subsample_is_scaled_too(x: Tensor) -> None:
    model = vae.mlp(1, 2, hidden_dims=(4,), likelihood="gaussian", seed=0)
    losses = []
    for num_points in (5, 60):
        torch.manual_seed(0)
        losses.append(TraceMeanField_ELBO().loss(model.model, model.guide, x, num_points))
    assert losses[1] == pytest.approx(60 / 5 * losses[0])


def test_refuses_a_batch_larger_than_the_data(x: Tensor) -> None:
    with pytest.raises(ValueError, match="num_points must be at least 5, got 3"):
        exact().model(x, num_points=3)


def test_refuses_a_plate_of_the_callers_at_the_datas_place(x: Tensor) -> None:
    with pytest.raises(ValueError, match="collide at dim=-1"), pyro.plate("mine", 5):
        exact().model(x)


def test_the_compiled_elbo_trains_too(x: Tensor) -> None:
    model = vae.mlp(1, 2, hidden_dims=(4,), likelihood="gaussian", seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), JitTrace_ELBO())
    with pytest.warns((DeprecationWarning, torch.jit.TracerWarning)):  # type: ignore[arg-type]
        svi.step(x)
    assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))


def test_predictive_draws_codes_and_new_points(x: Tensor) -> None:
    model = exact()
    for parallel in (False, True):
        drawn = Predictive(model.model, guide=model.guide, num_samples=4, parallel=parallel)(x)
        assert drawn["z"].shape == (4, 5, 1)
        assert torch.equal(drawn["x"][0].reshape(5, 1), x)
    new = Predictive(poutine.uncondition(model.model), num_samples=2000)(x)["x"]
    # x ~ N(0, 2): 10,000 draws, whose variance has a relative standard error of 0.014.
    assert new.var().item() == pytest.approx(2.0, rel=0.06)


def test_a_condition_on_the_code_holds(x: Tensor) -> None:
    model, z = exact(), torch.randn(5, 1)
    trace = poutine.trace(pyro.condition(model.model, data={"z": z})).get_trace(x)
    expected = unit_normal(z).log_prob(x) + unit_normal(torch.zeros(5, 1)).log_prob(z)
    assert trace.log_prob_sum().item() == pytest.approx(expected.sum().item())


def refused(run: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


def test_refuses_an_importance_weighted_bound_that_scales_its_weights(x: Tensor) -> None:
    model, renyi = exact(), RenyiELBO(**SEVERAL)
    message = "must not be RenyiELBO, which scales log weights before it averages the weights"
    refused(lambda: renyi.loss(model.model, model.guide, x, num_points=60), message)
    scaled = [poutine.scale(program, 0.5) for program in (model.model, model.guide)]
    refused(lambda: renyi.loss(*scaled, x), message)


def test_refuses_an_importance_weighted_bound_without_a_gradient(x: Tensor) -> None:
    class Draw(dist.Normal):
        has_rsample = False

    def pathless(output: Tensor) -> dist.TorchDistribution:
        return Draw(output[..., :1], 1.0).to_event(1)

    model = VAE(nn.Linear(1, 2), nn.Identity(), unit_normal, 1, posterior=pathless)
    message = "must not be RenyiELBO, which has no gradient in draws without a path"
    refused(lambda: RenyiELBO(**SEVERAL).loss(model.model, model.guide, x), message)
    Trace_ELBO().loss(model.model, model.guide, x)


def test_refuses_weights_summed_over_a_batch(x: Tensor) -> None:
    model, message = exact(), "which sums log weights over the points of a batch"
    refused(lambda: ReweightedWakeSleep(**SEVERAL).loss(model.model, model.guide, x), message)
    refused(
        lambda: vectorized_importance_weights(
            model.model, model.guide, x, num_samples=3, max_plate_nesting=1
        ),
        message,
    )
    weights, _, _ = vectorized_importance_weights(
        model.model, model.guide, x[:1], num_samples=3, max_plate_nesting=1
    )
    torch.testing.assert_close(weights, torch.full((3,), log_evidence(x[:1])))


def test_refuses_what_else_sums_weights_or_scales_them(x: Tensor) -> None:
    model = exact()
    adaptive = TraceTailAdaptive_ELBO(**SEVERAL)
    refused(
        lambda: adaptive.loss_and_grads(model.model, model.guide, x),
        "must not be TraceTailAdaptive_ELBO, which sums",
    )
    importance = Importance(model.model, model.guide, num_samples=3)
    refused(lambda: importance.run(x), "must not be Importance, which sums")
    renyi = RenyiELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)

    def part_of(program: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        def run(x: Tensor) -> None:
            with pyro.plate("outer", 1000, subsample_size=1, dim=-2):
                program(x)

        return run

    refused(
        lambda: renyi.loss(part_of(model.model), part_of(model.guide), x),
        "must not be RenyiELBO, which scales log weights",
    )


def test_looking_for_the_caller_keeps_nothing_alive(x: Tensor) -> None:
    class Big:
        pass

    def step() -> None:
        big = Big()
        Trace_ELBO().loss(model.model, model.guide, x)
        alive = weakref.ref(big)
        del big
        gone.append(alive() is None)

    gone: list[bool] = []

    model = exact()
    step()
    assert gone == [True]


def test_refuses_a_compiled_bound_that_compiles_each_step(x: Tensor) -> None:
    model = exact()
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), JitTraceMeanField_ELBO())
    refused(lambda: svi.step(x), "must not be JitTraceMeanField_ELBO, which compiles anew")


def test_trains_where_pyro_keeps_parameters_to_their_modules(x: Tensor) -> None:
    with pyro.settings.context(module_local_params=True):
        model = vae.mlp(1, 2, hidden_dims=(4,), likelihood="gaussian", seed=0)
        before = [p.detach().clone() for p in model.parameters()]
        SVI(model.model, model.guide, Adam({"lr": 0.01}), Trace_ELBO()).step(x)
        assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))
