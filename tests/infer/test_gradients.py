import math
from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pplvae.infer import families, gradients, guides
from pplvae.infer.program import inspect, untouched
from pplvae.intrinsic_dimension import twonn

X = torch.tensor(1.2)
LOC, SCALE = 0.3, 0.9  # of the guide; the posterior is Normal(x/2, ½)


def model(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(LOC))
    scale = pyro.param("scale", torch.tensor(SCALE))
    pyro.sample("z", dist.Normal(loc, scale))


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    with untouched(0):
        yield


@pytest.fixture(scope="module")
def slopes() -> dict[str, Tensor]:
    """Gradient estimates of −bound in (loc, scale) by each estimator, shape (300, 2)."""
    torch.set_default_dtype(torch.float64)
    found = {}
    for gradient in ("reparameterized", "score", "baseline"):
        with untouched(0):
            guide(X)
            leaves = [pyro.param(name).unconstrained() for name in ("loc", "scale")]
            loss = gradients.loss(model, guide, (X,), gradient=gradient)
            some = [torch.stack(torch.autograd.grad(loss(), leaves)) for _ in range(300)]
            found[gradient] = torch.stack(some)
    return found


def expected() -> Tensor:
    """−∇ ELBO: the ELBO is −½ (m² + s²) − ½ ((x − m)² + s²) + log s + constants."""
    return torch.tensor([2 * LOC - X.item(), 2 * SCALE - 1 / SCALE])


@pytest.mark.parametrize("gradient", ["reparameterized", "score", "baseline"])
def test_every_estimator_is_unbiased(gradient: str, slopes: dict[str, Tensor]) -> None:
    found = slopes[gradient]
    error = found.std(dim=0) / math.sqrt(len(found))
    assert ((found.mean(dim=0) - expected()) / error).abs().max() < 4


def test_the_variance_of_a_reparameterized_gradient_is_the_one_of_theory(
    slopes: dict[str, Tensor],
) -> None:
    # d f / d loc = −2z + x + (z − m)/s²·0: with z = m + s ε, f' = x − 2m − 2 s ε + ε/s − ε/s.
    found = slopes["reparameterized"]
    assert found[:, 0].std().item() == pytest.approx(2 * SCALE, rel=0.16)  # 300 draws: 4 %


def test_a_baseline_takes_variance_out(slopes: dict[str, Tensor]) -> None:
    plain, based = slopes["score"], slopes["baseline"]
    assert (based.var(dim=0) < 0.8 * plain.var(dim=0)).all()


def test_the_value_is_the_bound() -> None:
    guide(X)
    elbo = (
        -0.5 * (LOC**2 + SCALE**2 + (X.item() - LOC) ** 2 + SCALE**2)
        - math.log(2 * math.pi) + math.log(SCALE) + 0.5 * math.log(2 * math.pi * math.e)
    )  # fmt: skip
    for options in (
        {},
        {"gradient": "score"},
        {"objective": "mean_field"},
        {"gradient": "baseline"},
    ):
        loss = gradients.loss(model, guide, (X,), num_particles=20, **options)  # pyright: ignore
        values = torch.stack([loss().detach() for _ in range(30)])
        assert -values.mean() == pytest.approx(elbo, abs=4 * values.std().item() / math.sqrt(30))


def test_more_particles_tighten_the_iwae_up_to_the_evidence() -> None:
    guide(X)
    evidence = dist.Normal(0.0, math.sqrt(2)).log_prob(X).item()
    bounds = []
    for k, num in ((1, 200), (5, 400), (50, 100)):
        loss = gradients.loss(model, guide, (X,), objective="iwae", num_particles=k)
        bounds.append(-torch.stack([loss().detach() for _ in range(num)]).mean().item())
    # The log mean of K weights has an sd of 0.7, 0.2 and 0.06 here, so that its means are known to
    # 0.05, 0.01 and 0.006 nat.
    assert bounds[0] < bounds[1] < bounds[2] < evidence + 0.01
    assert bounds[2] == pytest.approx(evidence, abs=0.02)


@pytest.mark.parametrize("name", ["mean_field", "full_rank", "flow"])
def test_the_log_trick_agrees_for_the_library_s_guides(name: str) -> None:
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((20,))
    program = inspect(twonn.model, ratios)
    _, made = families.as_guide(twonn.model, name, program, {"dimension": 3.0})
    leaves = guides.parameters(made, (ratios,))
    means, errors = [], []
    for gradient, k in (("reparameterized", 100), ("score", 400)):
        loss = gradients.loss(twonn.model, made, (ratios,), gradient=gradient, num_particles=k)
        found = torch.stack([slope(loss(), leaves) for _ in range(30)])
        means.append(found.mean(dim=0))
        errors.append(found.std(dim=0) / math.sqrt(30))
    gap = (means[0] - means[1]).abs()
    assert (gap <= 4.5 * torch.hypot(*errors) + 1e-9).all()


def slope(loss: Tensor, leaves: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    pairs = zip(found, leaves, strict=True)
    return torch.cat([(torch.zeros_like(x) if dx is None else dx).reshape(-1) for dx, x in pairs])


def test_a_closed_form_kl_needs_a_law_of_the_site_itself() -> None:
    """Pyro's own guide under its mean-field ELBO is off by the Jacobian, E log d."""
    ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((100,))
    start = {"dimension": torch.tensor(3.0)}
    theirs = AutoNormal(twonn.model, init_loc_fn=lambda site: start[site["name"]], init_scale=0.1)
    _, ours = families.as_guide(twonn.model, "mean_field", inspect(twonn.model, ratios), start)
    values = {}
    for name, run in (("theirs", theirs), ("ours", ours)):
        elbo = TraceMeanField_ELBO(
            num_particles=500, vectorize_particles=True, max_plate_nesting=1
        )
        values[name] = elbo.loss(twonn.model, run, ratios)
    # Both guides are Normal(log 3, 0.1) in log d; the draws' noise is 0.1·√(101)/√500 ≈ 0.05.
    assert values["theirs"] - values["ours"] == pytest.approx(math.log(3.0), abs=0.25)


def test_leaves_gradients_as_they_were() -> None:
    guide(X)
    leaf = pyro.param("loc").unconstrained()
    leaf.grad = torch.tensor(7.0)
    gradients.loss(model, guide, (X,), objective="iwae")()
    assert leaf.grad == 7.0


def test_refuses_what_does_not_go_together() -> None:
    guide(X)
    for options, said in (
        ({"objective": "evidence"}, "objective must be one of"),
        ({"gradient": "pathwise"}, "gradient must be one of"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        (
            {"objective": "iwae", "gradient": "score"},
            "must be 'reparameterized' for objective 'iwae'",
        ),
        ({"objective": "renyi", "alpha": 1}, "alpha must not be 1"),
    ):
        with pytest.raises(ValueError, match=said):
            gradients.loss(model, guide, (X,), **options)  # pyright: ignore

    def labeled(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        label = pyro.sample("label", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("x", dist.Normal(z + label, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"for a model that sums out \['label'\]"):
        gradients.loss(labeled, guide, (X,), objective="iwae")


@pytest.mark.parametrize("gradient", ["score", "baseline"])
def test_the_log_trick_sees_data_in_other_plates(gradient: str) -> None:
    """The components' plate and the points' are not nested, and the labels are summed out."""

    def mixture(y: Tensor) -> None:
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(torch.tensor(0.0), 3.0))
        with pyro.plate("points", len(y)):
            label = pyro.sample("label", dist.Categorical(torch.ones(2)))
            pyro.sample("y", dist.Normal(locs[label], 1.0), obs=y)

    y = torch.tensor([-2.0, -1.5, 2.0])
    program, means, errors = inspect(mixture, y), [], []
    _, made = families.as_guide(mixture, "mean_field", program, {"locs": [-1.0, 1.0]})
    leaves = guides.parameters(made, (y,))
    for kind, num in (("reparameterized", 40), (gradient, 100)):
        loss = gradients.loss(mixture, made, (y,), gradient=kind, num_particles=2)
        found = torch.stack([slope(loss(), leaves) for _ in range(num)])
        means.append(found.mean(dim=0))
        errors.append(found.std(dim=0) / math.sqrt(num))
    assert ((means[0] - means[1]).abs() < 4.5 * torch.hypot(*errors)).all()
    assert means[0].abs().max() > 20 * errors[0].max()


def test_a_guide_may_draw_the_labels_itself() -> None:
    def mixture(y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 3.0))
        with pyro.plate("points", len(y)):
            label = pyro.sample("label", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("y", dist.Normal(loc * (2 * label - 1), 1.0), obs=y)

    def drawn(y: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("place", torch.tensor(1.0)), 0.5))
        logits = pyro.param("logits", torch.zeros(len(y)))
        with pyro.plate("points", len(y)):
            pyro.sample("label", dist.Bernoulli(logits=logits))

    y, found = torch.tensor([-2.0, 1.5]), {}
    leaves = guides.parameters(drawn, (y,))
    for gradient in ("reparameterized", "score", "baseline"):  # a label has no path: all score it
        loss = gradients.loss(mixture, drawn, (y,), gradient=gradient, num_particles=8)
        some = torch.stack([slope(loss(), leaves) for _ in range(60)])
        found[gradient] = some.mean(dim=0), some.std(dim=0) / math.sqrt(60)
    for gradient in ("score", "baseline"):
        (mean, error), (known, slack) = found[gradient], found["reparameterized"]
        assert ((mean - known).abs() < 4.5 * torch.hypot(error, slack)).all()
    with pytest.raises(ValueError, match=r"must be 'elbo' for a guide that draws \['label'\]"):
        gradients.loss(mixture, drawn, (y,), objective="iwae")


def test_pyros_checks_run_at_the_first_call_only() -> None:
    seen: list[bool] = []
    run = gradients.checked_once(lambda: seen.append(is_validation_enabled()))
    run()
    run()
    assert seen == [True, False]
