import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pplvae.infer.compiled import compile_energy, value_and_slopes
from pplvae.mixtures import fisher
from pplvae.mixtures.distribution import MixtureOfNormals

Parameters = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(params=["whitened", "product"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways to compute it, whatever the number of points."""
    if request.param == "product":
        monkeypatch.setattr(fisher, "SMALL", 0)
    return request.param


def parameters(num_components: int = 3, dim: int = 2, batch: tuple[int, ...] = ()) -> Parameters:
    trils = torch.randn(*batch, num_components, dim, dim).tril(-1)
    trils = trils + torch.diag_embed(torch.rand(*batch, num_components, dim) + 0.5)
    weights = torch.rand(*batch, num_components) + 0.2
    locs = torch.randn(*batch, num_components, dim)
    return weights / weights.sum(dim=-1, keepdim=True), locs, trils


def textbook(weights: Tensor, locs: Tensor, trils: Tensor) -> Any:
    normals = dist.MultivariateNormal(locs, scale_tril=trils)
    return dist.MixtureSameFamily(dist.Categorical(weights), normals)


def free(function: Callable[[Parameters], Tensor]) -> Callable[..., Tensor]:
    """The same function of numbers without bounds: the weights' logarithms up to a constant."""

    def of(logits: Tensor, locs: Tensor, trils: Tensor) -> Tensor:
        return function((logits.softmax(dim=-1), locs, trils))

    return of


def leaves(found: Parameters) -> Parameters:
    weights, locs, trils = (part.clone().requires_grad_() for part in found)
    return weights, locs, trils


@pytest.mark.parametrize(
    ("batch", "points"),
    [
        ((), (7,)),
        ((), ()),
        ((4, 1), (7,)),  # particles
        ((4, 1), (5, 1, 7)),  # particles of a model in a plate
        ((2, 1, 3, 1), (5, 1, 6)),
        ((3,), (3,)),  # each mixture its own points
    ],
)
@pytest.mark.usefixtures("way")
def test_is_torch_s_mixture_with_its_slopes(
    batch: tuple[int, ...], points: tuple[int, ...]
) -> None:
    logits, locs, trils = parameters(3, 2, batch)
    at, x = leaves((logits.log(), locs, trils)), 2.0 * torch.randn(*points, 2)
    ours, theirs = (
        free(lambda own, law=law: law(*own).log_prob(x))(*at)
        for law in (MixtureOfNormals, textbook)
    )
    torch.testing.assert_close(ours, theirs)
    # One weight for all points, as in a bound, and weights of their own.
    for grad in (torch.full_like(ours, 3.0), torch.randn_like(ours)):
        slopes = torch.autograd.grad(ours, at, grad, retain_graph=True)
        expected = torch.autograd.grad(theirs, at, grad, retain_graph=True)
        torch.testing.assert_close(slopes, expected)


@pytest.mark.usefixtures("way")
def test_the_slopes_are_those_of_differences() -> None:
    x, at = torch.randn(3, 2), leaves(parameters(2, 2, (2, 1)))
    law = free(lambda own: MixtureOfNormals(*own, validate_args=False).log_prob(x))
    assert torch.autograd.gradcheck(law, at)
    assert torch.autograd.gradcheck(lambda *own: law(*own).sum(dim=1), at)
    assert torch.autograd.gradgradcheck(lambda *own: law(*own).sum(), at)


def test_the_slope_in_x_is_the_score() -> None:
    mixture, x = MixtureOfNormals(*parameters()), torch.randn(5, 2, requires_grad=True)
    assert torch.autograd.gradcheck(mixture.log_prob, x)
    single = MixtureOfNormals(torch.ones(1), torch.ones(1, 2), 2 * torch.eye(2).unsqueeze(0))
    (score,) = torch.autograd.grad(single.log_prob(x).sum(), x)
    torch.testing.assert_close(score, (1 - x.detach()) / 4)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [1.0, 1e-7])
def test_offsets_and_narrow_components_cost_no_digits(width: float) -> None:
    """At 1e8 and with components apart by 1e7 of their sds: (|loc| / σ)² is 1e14 and more."""
    weights, locs, trils = parameters()
    # Multiples of 2^-20 stay exact when 2^27 = 1.3e8 is added.
    locs = (locs * 2**20).round() / 2**20
    x = locs[torch.randint(3, (40,))] + width * torch.randn(40, 2)
    x = (x * 2**20).round() / 2**20
    near, far = (leaves((weights, locs + offset, width * trils)) for offset in (0.0, 2.0**27))
    expected = textbook(*near).log_prob(x)
    found = MixtureOfNormals(*far).log_prob(x + 2.0**27)
    torch.testing.assert_close(found, expected)
    slopes = torch.autograd.grad(found.sum(), far[1:])
    torch.testing.assert_close(slopes, torch.autograd.grad(expected.sum(), near[1:]))


@pytest.mark.usefixtures("way")
def test_single_precision_is_computed_in_double() -> None:
    """The error is the rounding of the result: two or three units in the last place of it."""
    own = [part.float() for part in parameters(3, 2)]
    x = 1000.0 + torch.randn(500, 2, dtype=torch.float32)
    own[1] += 1000.0
    found = MixtureOfNormals(*own).log_prob(x)
    expected = textbook(*(part.double() for part in own)).log_prob(x.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-7, atol=1e-7)
    trained = [part.requires_grad_() for part in own]
    slopes = torch.autograd.grad(MixtureOfNormals(*trained).log_prob(x).sum(), trained)
    assert all(slope.dtype == torch.float32 for slope in slopes)


def test_a_component_without_weight_has_no_say_and_no_slope() -> None:
    own = leaves((torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1, 1)))
    found = MixtureOfNormals(*own).log_prob(torch.randn(4, 1).detach())
    slopes = torch.autograd.grad(found.sum(), own)
    assert all(slope.isfinite().all() for slope in slopes)
    assert slopes[1][1].item() == pytest.approx(0.0, abs=1e-300)


class Watch(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation has made."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return out


def test_memory_does_not_grow_with_the_components() -> None:
    """N numbers, and a block's monomials: of P = 28 and K = 20, 2^14 points at most."""
    num, own = 60_000, leaves(parameters(20, 6))
    x = torch.randn(num, 6)
    log_weights = own[0].log().unsqueeze(0)
    with Watch() as watch:
        found = torch.ops.pplvae.mixture.default(
            log_weights, own[1].unsqueeze(0), own[2].unsqueeze(0), x, True
        )
    assert found[0].shape == (1, num)
    assert watch.largest <= 28 * 2**14 < num * 20


def test_in_pyro_it_is_what_torch_s_is() -> None:
    """Subsampled, scaled, with particles in a plate: the same losses and slopes."""
    x = torch.randn(60, 2)

    def program(law: Callable[..., Any]) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        locs = pyro.sample("locs", dist.Normal(torch.zeros(2, 2), 3.0).to_event(2))
        trils = torch.eye(2).expand(2, 2, 2)
        with pyro.plate("data", 60, subsample_size=20) as index, poutine.scale(scale=0.5):
            pyro.sample("x", law(weights, locs, trils), obs=x[index])

    guide: Any = AutoNormal(partial(program, textbook))
    guide()
    found = []
    for law in (MixtureOfNormals, textbook):
        pyro.set_rng_seed(3)
        elbo = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        loss = elbo.differentiable_loss(partial(program, law), guide)
        found.append((loss, *torch.autograd.grad(loss, list(guide.parameters()))))
    pyro.clear_param_store()
    torch.testing.assert_close(*found)


@pytest.mark.usefixtures("way")
def test_a_record_of_it_chooses_its_way_anew() -> None:
    """Compiled where the product serves, it is right where only the residuals do."""
    x, (weights, locs, trils) = torch.randn(50, 2), parameters()

    def energy(locs: Tensor, width: Tensor) -> Tensor:
        law = MixtureOfNormals(weights, locs, width * trils, validate_args=False)
        return -law.log_prob(x).sum()

    points = [(locs + shift, torch.tensor(1.0)) for shift in (0.0, 0.3)]
    compiled = compile_energy(energy, points)
    assert compiled is not None, "it must bear recording"
    for width in (1.0, 1e-6):
        at = locs, torch.tensor(width)
        torch.testing.assert_close(value_and_slopes(compiled, at), value_and_slopes(energy, at))


def test_bears_torch_jit_and_functorch() -> None:
    x, own = torch.randn(30, 2), parameters(3, 2, (4,))

    def total(locs: Tensor, trils: Tensor) -> Tensor:
        return MixtureOfNormals(own[0][0], locs, trils, validate_args=False).log_prob(x).sum()

    each = [total(own[1][s], own[2][s]) for s in range(4)]
    torch.testing.assert_close(torch.func.vmap(total)(*own[1:]), torch.stack(each))
    slopes = torch.func.vmap(torch.func.grad(total))(*own[1:])
    at = own[1][2].clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(at, own[2][2]), at)
    torch.testing.assert_close(slopes[2], expected)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of its jit
        # Its own check is without gradients, where no slopes are kept: another graph. Pyro's jit
        # goes without, too.
        traced: Any = torch.jit.trace(total, (at, own[2][2]), check_trace=False)
    moved = (at + 0.5).detach().requires_grad_()
    found, plain = (f(moved, own[2][2]) for f in (traced, total))
    torch.testing.assert_close(found, plain)
    pair = (torch.autograd.grad(value, moved) for value in (found, plain))
    torch.testing.assert_close(*pair)


def test_points_may_be_mapped_too() -> None:
    own, x = parameters(), torch.randn(4, 6, 2)
    mixture = MixtureOfNormals(*own, validate_args=False)
    torch.testing.assert_close(torch.func.vmap(mixture.log_prob)(x), mixture.log_prob(x))


def test_samples_have_its_mean_and_variance() -> None:
    mixture = MixtureOfNormals(*parameters(3, 2, (2,)))
    x = mixture.sample((100_000,))
    assert x.shape == (100_000, 2, 2)
    error = (mixture.variance / len(x)).sqrt()
    assert ((x.mean(dim=0) - mixture.mean).abs() < 5 * error).all()
    # A variance's standard error is (m4 − σ⁴)^½ / √N
    fourth = (x - mixture.mean).pow(4).mean(dim=0)
    error = (fourth - mixture.variance.square()).sqrt() / math.sqrt(len(x))
    assert ((x.var(dim=0) - mixture.variance).abs() < 5 * error).all()


def test_samples_fill_its_density() -> None:
    """In one dimension, by the distribution function at the points (Kolmogorov's statistic)."""
    weights, locs, trils = parameters(3, 1)
    x = MixtureOfNormals(weights, locs, trils).sample((20_000,)).squeeze(-1).sort().values
    normals = torch.distributions.Normal(locs.squeeze(-1), trils.squeeze(-1).squeeze(-1))
    cdf = (weights * normals.cdf(x.unsqueeze(-1))).sum(dim=-1)
    steps = torch.arange(1, len(x) + 1) / len(x)
    # sqrt(N) times the statistic exceeds 2.5 with probability 7e-6
    assert (cdf - steps).abs().max() * math.sqrt(len(x)) < 2.5


def test_expanding_copies_nothing_and_draws_apart() -> None:
    own = parameters()
    wide = MixtureOfNormals(*own).expand([5, 4])
    assert wide.locs is own[1]
    assert wide.batch_shape == (5, 4)
    assert wide.sample().shape == (5, 4, 2)
    assert wide.mean.shape == (5, 4, 2)
    x = torch.randn(4, 2)
    torch.testing.assert_close(wide.log_prob(x)[3], MixtureOfNormals(*own).log_prob(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, torch.ones(2) / 2), r"must have shapes \(…, K\), \(…, K, D\) and .*, got \(2,\), \("),
        ((1, torch.zeros(3)), "must have shapes"),
        ((2, torch.eye(3).expand(3, 3, 3)), "must have shapes"),
        ((0, torch.ones(3)), "parameter weights"),
        ((2, -torch.eye(2).expand(3, 2, 2)), "parameter scale_trils"),
    ],
)
def test_refuses_what_is_no_mixture(change: tuple[int, Tensor], message: str) -> None:
    own = list(parameters())
    own[change[0]] = change[1]
    with pytest.raises(ValueError, match=message):
        MixtureOfNormals(*own)
