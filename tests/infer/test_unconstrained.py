import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import compiled
from pplvae.infer.compiled import value_and_slopes
from pplvae.infer.laplace import find_mode
from pplvae.infer.unconstrained import Potential
from pplvae.intrinsic_dimension import twonn


def rates() -> None:
    rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), 1.0))
    shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
    with pyro.plate("data", 10):
        pyro.sample("x", dist.Exponential(rate), obs=torch.full((10,), 0.5))
    pyro.factor("weight", shares[0].log())


def two_clusters(x: Tensor) -> None:
    locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(locs[..., k], 1.0), obs=x)


def a_covariance() -> None:
    rho = pyro.sample("rho", dist.Normal(torch.tensor(0.0), 0.3))
    eye = torch.eye(2)
    cov = eye + rho * (1 - eye)
    pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), cov), obs=torch.tensor([1.0, 0.5]))


def checked(x: Tensor) -> None:
    if not x.isfinite().all():
        raise ValueError
    loc = pyro.sample("loc", dist.Normal(x.mean().item(), 5.0))
    scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


X = torch.tensor([-1.0, 0.5, 2.0, 3.0], dtype=torch.float64)
MODELS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "Pareto": (twonn.model, (X.abs() + 1,)),
    "simplex": (rates, ()),
    "enumerated": (two_clusters, (X,)),
    "covariance": (a_covariance, ()),
    "checks its data": (checked, (X,)),
}


def value_and_slope(potential: Potential, flat: Tensor) -> tuple[Tensor, ...]:
    return value_and_slopes(lambda u: potential(potential.unflatten(u)), (flat,))


def around(potential: Potential, num: int = 6) -> Tensor:
    start = potential.flatten(potential.initial)
    return start + 2 * torch.randn(num, len(start), dtype=start.dtype)


def test_without_the_jacobian_the_least_is_the_mode_of_the_sites() -> None:
    potential = Potential(rates, (), jacobian=False)
    mode, _ = find_mode(potential, 200)
    sites, _ = potential.constrain(mode.unsqueeze(0))
    # Gamma(12, 1 + 5) has its mode at 11 / 6, Dirichlet(3, 3, 4) at (2, 2, 3) / 7.
    torch.testing.assert_close(sites["rate"], torch.tensor([11 / 6]))
    torch.testing.assert_close(sites["shares"], torch.tensor([[2.0, 2.0, 3.0]]) / 7)


def test_the_jacobian_is_the_difference() -> None:
    pyro.set_rng_seed(0)
    potential = Potential(rates, ())
    pyro.set_rng_seed(0)
    without = Potential(rates, (), jacobian=False)
    points = around(potential)
    for point, log_det in zip(points, potential.constrain(points)[1], strict=True):
        gap = without(without.unflatten(point)) - potential(potential.unflatten(point))
        torch.testing.assert_close(gap, log_det)


def test_it_is_minus_the_log_joint() -> None:
    potential = Potential(rates, (), jacobian=False)
    flat = around(potential, 1)
    sites = {name: value[0] for name, value in potential.constrain(flat)[0].items()}
    trace: Any = pyro.poutine.trace(pyro.poutine.condition(rates, sites)).get_trace()
    found = potential(potential.unflatten(flat[0]))
    torch.testing.assert_close(found, -trace.log_prob_sum())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("jacobian", [True, False])
def test_compiled_it_says_what_the_model_says(name: str, jacobian: bool) -> None:
    model, data = MODELS[name]
    with pyro.get_param_store().scope():
        potential = Potential(model, data, jacobian=jacobian)
        points = around(potential)
        if name == "covariance":
            points = points.clamp(-0.9, 0.9)
        expected = [value_and_slope(potential, point) for point in points]
        assert potential.compile()
        for point, said in zip(points, expected, strict=True):
            found = value_and_slope(potential, point)
            torch.testing.assert_close(found, said, rtol=1e-12, atol=1e-12)


def test_compiled_it_runs_no_python_of_the_model() -> None:
    runs = []

    def model() -> None:
        runs.append(1)
        pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))

    potential = Potential(model, ())
    potential.compile()
    before = len(runs)
    value_and_slope(potential, torch.zeros(1))
    assert len(runs) == before


def test_compiles_in_single_precision() -> None:
    data = (torch.tensor([1.5, 2.0, 4.0], dtype=torch.float32),)
    torch.set_default_dtype(torch.float32)
    potential = Potential(twonn.model, data)
    point = torch.tensor([0.7])
    expected = value_and_slope(potential, point)
    assert potential.compile()
    found = value_and_slope(potential, point)
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found, expected)


def branch(far: float) -> Callable[[], None]:
    def model() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
        pyro.factor("branch", -loc if loc > far else 3 * loc)

    return model


def hidden() -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
    pyro.factor("hidden", torch.as_tensor(loc.detach().numpy() ** 2) * loc)


def looked_at() -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
    pyro.factor("size", -torch.full((1 + int(loc.abs()),), 0.1) * loc)


def filled_in_place() -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
    pair = torch.zeros(2)
    pair[1] = loc
    pyro.factor("pair", pair.sum())


def noisy() -> None:
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 5.0))
    pyro.factor("noise", torch.randn(()) * loc)


NOT_RECORDED = {
    "branch": branch(0.0),
    "branch nobody comes to": branch(1e6),
    "number": looked_at,
    "numpy": hidden,
    "noise": noisy,
}


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_a_record_cannot_hold_is_run_as_it_is(name: str) -> None:
    potential = Potential(NOT_RECORDED[name], ())
    assert not potential.compile()
    assert not potential.compiled
    for start in (-2.0, 2.0):
        value, slope = value_and_slope(potential, torch.tensor([start]))
        assert value.isfinite()
        if name == "branch":
            log_prior = -0.5 * (start / 5) ** 2 - math.log(5 * math.sqrt(2 * math.pi))
            weight = -start if start > 0 else 3 * start
            assert value.item() == pytest.approx(-log_prior - weight)
            assert slope.item() == pytest.approx(start / 25 + (1 if start > 0 else -3))


def test_tensors_filled_in_place_are_not_taken_for_constants() -> None:
    potential = Potential(filled_in_place, ())
    potential.compile()
    for start in (-2.0, 2.0):
        _, slope = value_and_slope(potential, torch.tensor([start]))
        assert slope.item() == pytest.approx(start / 25 - 1)


def test_a_compiler_that_raises_is_not_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch.jit, "trace", fail)
    potential = Potential(rates, ())
    assert not potential.compile()
    assert value_and_slope(potential, potential.flatten(potential.initial))[0].isfinite()


def test_a_compiler_that_errs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = compiled._record

    def wrong(energy: Any, values: Any) -> Any:
        graph = right(energy, values)

        def run(*point: Tensor) -> tuple[Tensor, ...]:
            value, *slopes, failed = graph(*point)
            return value, *(slope * 1.001 for slope in slopes), failed

        return run

    monkeypatch.setattr(compiled, "_record", wrong)
    assert not Potential(rates, ()).compile()


def test_a_matrix_that_cannot_be_factored_is_an_error_still() -> None:
    potential = Potential(a_covariance, (), {"rho": 0.1})
    beyond = torch.tensor([1.5])  # [[1, 1.5], [1.5, 1]] is not positive definite
    with pytest.raises(RuntimeError) as said:
        value_and_slope(potential, beyond)
    start = torch.tensor([0.0])
    potential._graph = compiled.compile_energy(
        lambda rho: potential._run({"rho": rho}), [(start[0],), (start[0] + 0.5,)]
    )
    assert potential.compiled
    with pytest.raises(RuntimeError) as found:
        value_and_slope(potential, beyond)
    assert str(found.value) == str(said.value)


def test_counts_its_calls() -> None:
    potential = Potential(rates, ())
    assert potential.calls == 0
    potential(potential.initial)
    assert potential.calls == 1
    potential.compile()
    before = potential.calls
    # One to record, two at each point to compare.
    assert before == 2 + 2 * 7
    potential(potential.initial)
    assert potential.calls == before + 1


def test_a_graph_has_no_second_derivative() -> None:
    potential = Potential(rates, ())
    potential.compile()
    flat = potential.flatten(potential.initial).requires_grad_()
    (slope,) = torch.autograd.grad(potential(potential.unflatten(flat)), flat, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(slope.sum(), flat)
