import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pplvae.infer import families, guides
from pplvae.infer.program import inspect, untouched


def model(x: Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(2), 3.0).to_event(1))
    weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(3)))
    with pyro.plate("data", len(x)):
        effect = pyro.sample("effect", dist.Normal(loc.sum() + weights[0], scale))
        pyro.sample("x", dist.Normal(effect, 1.0), obs=x)


X = torch.linspace(-1.0, 2.0, 5, dtype=torch.float64)
NAMES = ["mean_field", "full_rank", "low_rank", "flow"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_model_s_shapes_supports_and_dtype(name: str, dtype: torch.dtype) -> None:
    x, laws = X.to(dtype), inspect(model, X).supports
    with untouched(0):
        program = inspect(model, x)
        _, guide = families.as_guide(model, name, program, None)
        draws, log_q = guides.draw(guide, (x,), program, 7, together=True)
    assert log_q.shape == (7,)
    assert log_q.isfinite().all()
    for site, shape in program.latent.items():
        assert draws[site].shape == (7, *shape)
        assert draws[site].dtype == dtype
        assert laws[site].check(draws[site]).all()


@pytest.mark.parametrize("name", NAMES)
def test_starts_where_it_is_told(name: str) -> None:
    start = {"scale": 0.4, "loc": [1.0, -2.0], "weights": [0.2, 0.3, 0.5], "effect": [0.5] * 5}
    with untouched(0):
        program = inspect(model, X)
        _, guide = families.as_guide(model, name, program, start)
        draws, _ = guides.draw(guide, (X,), program, 400, together=True)
    for site, value in start.items():
        # All start 0.1 wide in unconstrained space; a flow's nets add a little of their own.
        middle = draws[site].median(dim=0).values
        torch.testing.assert_close(middle, torch.tensor(value), rtol=0, atol=0.12)


@pytest.mark.parametrize("size", [1, 3])
def test_a_flow_s_density_integrates_to_one(size: int) -> None:
    def flat(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))

    with untouched(1):
        program = inspect(flat, X)
        _, guide = families.as_guide(flat, "flow", program, None)
        guides.parameters(guide, (X,))
        assert isinstance(guide, families.Flow)
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            guide.loc.zero_()
            law = guide.get_posterior()
            wide = dist.Normal(torch.zeros(size), 2.0 * guide.scale.max()).to_event(1)
            z = wide.sample((40_000,))
            weights = (law.log_prob(z) - wide.log_prob(z)).exp()
    error = weights.std() / 200
    assert abs(weights.mean() - 1) < 4 * error < 0.2


def test_the_inverse_of_a_flow_undoes_it_in_any_dtype() -> None:
    torch.set_default_dtype(torch.float32)
    with untouched(0):
        program = inspect(model, X)
        _, guide = families.as_guide(model, "flow", program, None)
        guides.parameters(guide, (X,))
        assert isinstance(guide, families.Flow)
        law = guide.get_posterior()
        draws = law.sample((3,))
        known, again = law.log_prob(draws), law.log_prob(draws.clone())
    assert again.dtype == torch.float64
    torch.testing.assert_close(again, known)


def test_keeps_the_draw_so_that_no_inverse_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    with untouched(0):
        program = inspect(model, X)
        _, guide = families.as_guide(model, "flow", program, None)
        guides.parameters(guide, (X,))
        monkeypatch.setattr(families._Bend, "_inverse", None)
        draws, _ = guides.draw(guide, (X,), program, 3, together=True)
    assert draws["loc"].shape == (3, 2)
