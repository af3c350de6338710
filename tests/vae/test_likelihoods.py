import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn

from pplvae import vae
from pplvae.vae import VAE, levels, likelihoods
from pplvae.vae.distributions import Independents
from pplvae.vae.levels import Categorical, DiscretizedLogistic
from pplvae.vae.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian, Likelihood

LEVELS = 7
LAWS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous": ContinuousBernoulli,
    "fixed": lambda: Gaussian(0.5),
    "shared": lambda: Gaussian(start=0.5),
    "predicted": lambda: Gaussian(predicted=True),
    "categorical": lambda: Categorical(LEVELS),
    "factored": lambda: factored(3),
    "logistic": lambda: DiscretizedLogistic(LEVELS),
    "mixture": lambda: DiscretizedLogistic(LEVELS, num_components=3),
}
DISCRETE = ["bernoulli", "categorical", "factored", "logistic", "mixture"]
DENSITIES = sorted(LAWS.keys() - set(DISCRETE))
every_law = pytest.mark.parametrize("name", LAWS)


def factored(data_dim: int, num_levels: int = LEVELS, rank: int = 2) -> Categorical:
    law = Categorical(num_levels, rank=rank, data_dim=data_dim)
    assert law.bias is not None
    nn.init.normal_(law.bias)
    return law


def values(name: str) -> Tensor:
    """All levels of a discrete law, or a fine grid over where a density lives."""
    if name in DISCRETE:
        return torch.arange(2.0 if name == "bernoulli" else LEVELS)
    # Trapezoids: of error 1e-7 on the unit interval, and of none for a normal law cut far out.
    return torch.linspace(0, 1, 4001) if name == "continuous" else torch.linspace(-40, 40, 8001)


def one_number(name: str, spread: float = 1.0) -> tuple[Likelihood, Any]:
    """A likelihood, and the law it gives one number for some output of a decoder."""
    law = LAWS[name]() if name != "factored" else factored(1)
    return law, law(spread * torch.randn(law.outputs))


# --- what the laws say ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_sum_to_one_over_the_levels(name: str) -> None:
    for spread in (0.1, 3.0, 30.0):
        likelihood, law = one_number(name, spread)
        total = law.log_prob(values(name).unsqueeze(-1)).exp().sum()
        torch.testing.assert_close(total, torch.tensor(1.0))
        assert likelihood.discrete


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_integrate_to_one(name: str) -> None:
    likelihood, law = one_number(name)
    x = values(name)
    total = torch.trapezoid(law.log_prob(x.unsqueeze(-1)).exp(), x)
    torch.testing.assert_close(total, torch.tensor(1.0), atol=1e-6, rtol=0)
    assert not likelihood.discrete


@every_law
def test_draws_have_the_law_that_log_prob_says(name: str) -> None:
    law, x = one_number(name)[1], values(name)
    probs = law.log_prob(x.unsqueeze(-1)).exp()
    weights = probs if name in DISCRETE else probs * (x[1] - x[0])
    draws = law.sample(torch.Size([40_000])).squeeze(-1)
    for power in (1, 2, 3):
        moment, square = ((weights * x**k).sum() for k in (power, 2 * power))
        error = ((square - moment**2) / 40_000).sqrt()
        # Five standard errors of a mean; the ends of the grid of a density err by less than 1e-3.
        assert (draws**power).mean().item() == pytest.approx(
            moment.item(), abs=5 * error.item() + 1e-3
        )
    torch.testing.assert_close(law.mean.squeeze(), (weights * x).sum(), atol=1e-3, rtol=1e-3)
    if name in DISCRETE:
        found = (draws.unsqueeze(-1) == x).double().mean(0)
        assert (found - probs).abs().max() < 5 * 0.5 / 40_000**0.5


@every_law
def test_many_draws_of_the_codes_are_weighed_at_once(name: str) -> None:
    likelihood = LAWS[name]()
    output = torch.randn(4, 5, 3 * likelihood.outputs)
    law = likelihood(output)
    x = law.sample()[0]
    assert (law.batch_shape, law.event_shape, x.shape) == ((4, 5), (3,), (5, 3))
    assert law.mean.shape == (4, 5, 3)
    assert law.sample(torch.Size([2])).shape == (2, 4, 5, 3)
    one_by_one = torch.stack([likelihood(part).log_prob(x) for part in output])
    torch.testing.assert_close(law.log_prob(x), one_by_one)
    larger = likelihood(output[0]).expand(torch.Size([4, 5]))
    torch.testing.assert_close(larger.log_prob(x)[3], one_by_one[0])
    alone = likelihood(output[0, 0])
    torch.testing.assert_close(alone.log_prob(x), likelihood(output[0, :1]).log_prob(x))


@every_law
def test_no_output_of_a_decoder_makes_it_infinite_in_single_precision(name: str) -> None:
    likelihood = LAWS[name]().float()
    signs = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4])] * min(likelihood.outputs, 4))
    parts = signs.float().view(len(signs), -1)
    output = parts.repeat(1, 9)[:, : likelihood.outputs].repeat_interleave(3, 1).requires_grad_()
    x = values(name).float()[[0, len(values(name)) // 2, -1]]
    log_prob = likelihood(output).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.dtype == torch.float32
    assert log_prob.isfinite().all()
    assert all(p.grad.isfinite().all() for p in likelihood.parameters() if p.grad is not None)
    assert output.grad is not None
    assert output.grad.isfinite().all()


@every_law
def test_single_precision_says_what_double_says(name: str) -> None:
    likelihood, x = LAWS[name](), values(name)[-2].double().expand(3)
    output = 3 * torch.randn(50, 3 * likelihood.outputs)
    double = likelihood(output).log_prob(x)
    found = likelihood.float()(output.float()).log_prob(x.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), double, rtol=1e-4, atol=1e-4)


# --- Bernoulli and its grey brother --------------------------------------------------------------


def test_bernoulli_is_that_of_torch_and_never_saturates() -> None:
    logits, x = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).double()
    exact = dist.Bernoulli(logits=logits).to_event(1).log_prob(x)
    torch.testing.assert_close(Bernoulli()(logits).log_prob(x), exact)
    wrong = torch.tensor([1000.0], dtype=torch.float32, requires_grad=True)
    nats = Bernoulli()(wrong).log_prob(torch.zeros(1))
    nats.backward()
    assert (nats.item(), wrong.grad) == (-1000.0, torch.tensor([-1.0]))


def test_the_continuous_bernoulli_is_that_of_torch_where_that_is_exact() -> None:
    logits, x = torch.linspace(0.1, 6.0, 40), torch.rand(40)
    for sign in (-1, 1):
        exact = dist.ContinuousBernoulli(logits=sign * logits)
        law = ContinuousBernoulli()(sign * logits)
        torch.testing.assert_close(law.log_prob(x), exact.log_prob(x).sum(-1))
        torch.testing.assert_close(law.mean, exact.mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_continuous_bernoulli_is_exact_about_a_half_and_far_from_it(
    dtype: torch.dtype,
) -> None:
    def close(one: Tensor, two: Tensor) -> None:
        torch.testing.assert_close(one, two.to(dtype))

    near = torch.tensor([[0.0], [1e-12], [1e-3], [-1e-3]], dtype=dtype, requires_grad=True)
    law = ContinuousBernoulli()(near)
    # log p = ℓ (x − ½) − ℓ² / 24 and mean = ½ + ℓ / 12, up to ℓ⁴ and ℓ³.
    log_prob = law.log_prob(torch.tensor([0.75], dtype=dtype))
    close(log_prob.detach(), (0.25 * near - near**2 / 24).detach().squeeze(-1))
    close(law.mean.detach(), 0.5 + near.detach() / 12)
    (slope,) = torch.autograd.grad(log_prob.sum(), near)
    close(slope, 0.25 - near.detach() / 12)
    # p = ℓ e^{−ℓ (1 − x)}, up to e^{−ℓ}.
    far = torch.tensor([[50.0], [1e4]], dtype=dtype)
    x = torch.tensor([0.75], dtype=dtype)
    close(ContinuousBernoulli()(far).log_prob(x), (far.log() - far * 0.25).squeeze(-1))
    close(ContinuousBernoulli()(-far).log_prob(1 - x), (far.log() - far * 0.25).squeeze(-1))
    close(ContinuousBernoulli()(far).mean, 1 - 1 / far)


def test_the_series_of_the_continuous_bernoulli_joins_the_formula() -> None:
    ends = torch.tensor([[0.2 - 1e-9], [0.2 + 1e-9]], requires_grad=True)
    law = ContinuousBernoulli()(ends)
    for number in (law.mean, law.log_prob(torch.tensor([0.3]))):
        (slope,) = torch.autograd.grad(number.sum(), ends)
        # The first term left out is u¹⁰ / 467775 with u = 0.1, or of that order.
        torch.testing.assert_close(number[0], number[1], atol=1e-9, rtol=0)
        torch.testing.assert_close(slope[0], slope[1], atol=1e-9, rtol=0)


def test_at_a_logit_of_zero_the_continuous_bernoulli_is_uniform() -> None:
    draws = ContinuousBernoulli()(torch.zeros(1)).sample(torch.Size([10_000]))
    found = (draws <= torch.linspace(0, 1, 11)).double().mean(0)
    # Five standard errors of a share, at most ½ / √10000 each.
    torch.testing.assert_close(found, torch.linspace(0, 1, 11), atol=0.025, rtol=0)


def test_fixed_binarization_is_the_same_every_time_and_dynamic_is_not() -> None:
    grey = torch.rand(50, 6)
    assert torch.equal(Bernoulli("fixed").prepare(grey), (grey >= 0.5).double())
    assert torch.equal(Bernoulli().prepare(grey), grey)
    dynamic = [Bernoulli("dynamic").prepare(grey) for _ in range(2)]
    assert not torch.equal(*dynamic)
    ends = torch.tensor([[0.0, 1.0]]).expand(1000, 2)
    for way in ("dynamic", "fixed"):
        assert torch.equal(Bernoulli(way).prepare(ends), ends)


# --- Gaussian ------------------------------------------------------------------------------------


def test_the_lectures_squared_error_is_a_gaussian() -> None:
    output, x, c = torch.randn(4, 3), torch.randn(4, 3), 0.3
    found = Gaussian.squared_error(c)(output).log_prob(x)
    constant = 1.5 * torch.tensor(torch.pi * c).log()
    torch.testing.assert_close(found, -(x - output).square().sum(-1) / c - constant)


def test_every_gaussian_is_that_of_torch() -> None:
    loc, log_ratio, x = torch.randn(3, 5, 4)
    for likelihood, output, scale in [
        (Gaussian(0.7), loc, 0.7),
        (Gaussian(start=2.0), loc, 2.0),
        (
            Gaussian(start=2.0, predicted=True),
            torch.cat([loc, log_ratio], -1),
            2 * log_ratio.exp(),
        ),
    ]:
        exact = dist.Normal(loc, scale).to_event(1)
        law = likelihood(output)
        torch.testing.assert_close(law.log_prob(x), exact.log_prob(x))
        torch.testing.assert_close(law.stddev, exact.stddev)
        torch.testing.assert_close(
            law.expand(torch.Size([2, 5])).log_prob(x)[1], exact.log_prob(x)
        )


def test_a_learned_scale_finds_the_noise_and_never_vanishes() -> None:
    likelihood, x = Gaussian(start=3.0), 0.2 * torch.randn(500, 2)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (-likelihood(torch.zeros(500, 2)).log_prob(x).sum()).backward()
        optimizer.step()
    found = likelihood(x).stddev[0, 0].detach()
    torch.testing.assert_close(found, x.square().mean().sqrt())
    with torch.no_grad():
        likelihood.log_scale.fill_(-50.0)
    assert likelihood(x).stddev.min().item() == pytest.approx(3 / 1000)
    assert not any(p.requires_grad for p in Gaussian(0.5).parameters())
    assert Gaussian(1e-5)(x).stddev.min().item() == pytest.approx(1e-5)


@pytest.mark.parametrize("start", [1e-6, 1e-4, 1.0, 1e6])
def test_a_learned_scale_begins_at_its_start_and_moves_in_any_units(start: float) -> None:
    likelihood, x = Gaussian(start=start), 2 * start * torch.randn(500, 2)
    assert likelihood(x).stddev[0, 0].item() == pytest.approx(start, rel=1e-12)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood(torch.zeros(500, 2)).log_prob(x).sum()).backward()
        optimizer.step()
    found = likelihood(x).stddev[0, 0].item()
    assert found == pytest.approx(x.square().mean().sqrt().item(), rel=1e-6)
    with torch.no_grad():
        likelihood.log_scale.fill_(math.log(start) - 12)  # deep below the floor
    optimizer.zero_grad()
    (-likelihood(torch.zeros(500, 2)).log_prob(x).sum()).backward()
    # −dlog p/dσ = 1000 / σ − Σ x² / σ³, and dσ/d log s = s² / σ.
    s = start * math.exp(-12)
    sigma = math.hypot(s, 1e-3 * start)
    slope = (1000 / sigma - x.square().sum().item() / sigma**3) * s**2 / sigma
    assert likelihood.log_scale.grad.item() == pytest.approx(slope, rel=1e-9)  # type: ignore[union-attr]


def test_a_fixed_scale_is_the_number_that_was_given_in_double_precision() -> None:
    with_float = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        likelihood = Gaussian(0.3)
    finally:
        torch.set_default_dtype(with_float)
    model = VAE(nn.Linear(3, 2).double(), nn.Linear(1, 3).double(), likelihood, 1)
    scale = model.p(torch.zeros(2, 1)).stddev
    assert scale.dtype == torch.float64
    assert scale[0, 0].item() == pytest.approx(0.3, rel=1e-15)
    assert not list(likelihood.state_dict())


# --- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3 * LEVELS, 40 * LEVELS, 2**20])
def test_in_chunks_the_categorical_is_the_cross_entropy(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks of one number, of part of a row, of some rows, and of all.
    monkeypatch.setattr(levels, "CHUNK", chunk)
    sizes, make = [], levels._logits

    def watched(*arguments: Any) -> Tensor:
        sizes.append((made := make(*arguments)).numel())
        return made

    monkeypatch.setattr(levels, "_logits", watched)
    output = torch.randn(6, LEVELS * 10, requires_grad=True)
    x, weight = torch.randint(0, LEVELS, (6, 10)), torch.randn(6)
    logits = output.unflatten(-1, (LEVELS, 10))
    exact = -F.cross_entropy(logits, x, reduction="none").sum(-1)
    found = Categorical(LEVELS)(output).log_prob(x.double())
    torch.testing.assert_close(found, exact)
    slopes = [torch.autograd.grad((weight * nats).sum(), output) for nats in (found, exact)]
    torch.testing.assert_close(*slopes)
    mean = torch.arange(LEVELS).double() @ logits.softmax(1)
    torch.testing.assert_close(Categorical(LEVELS)(output).mean, mean)
    assert max(sizes) <= max(chunk, LEVELS)


@pytest.mark.parametrize("chunk", [4 * LEVELS, 2**20])
def test_the_factored_head_is_a_softmax_of_a_shared_table(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "CHUNK", chunk)
    head, output = factored(10), torch.randn(2, 3, 2 * 10, requires_grad=True)
    x = torch.randint(0, LEVELS, (3, 10)).double()
    inputs = [output, head.embedding, head.bias]
    logits = torch.einsum("lr,knrd->kndl", head.embedding, output.unflatten(-1, (2, 10)))
    exact = dist.Categorical(logits=logits + head.bias.T).to_event(1).log_prob(x)  # type: ignore[union-attr]
    found = head(output).log_prob(x)
    torch.testing.assert_close(found, exact)
    weight = torch.randn(2, 3)
    slopes = [torch.autograd.grad((weight * nats).sum(), inputs) for nats in (found, exact)]  # type: ignore[arg-type]
    torch.testing.assert_close(*slopes)


def peak_bytes(run: Callable[[], None]) -> int:
    """Most memory that torch has allocated at once during a call."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as watch:
        run()
    assert watch.profiler is not None
    events = watch.profiler.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return int(torch.tensor([size for _, size in memory]).cumsum(0).max())


def test_the_categorical_keeps_nothing_of_the_size_of_its_logits() -> None:
    num_levels, data_dim = 256, 784
    x = torch.randint(0, num_levels, (32, data_dim))
    output = torch.randn(32, num_levels * data_dim, dtype=torch.float32, requires_grad=True)
    size = output.nbytes

    def whole() -> None:
        logits = output.unflatten(-1, (num_levels, data_dim))
        F.cross_entropy(logits, x, reduction="sum").backward()

    def chunked() -> None:
        Categorical(num_levels)(output).log_prob(x).sum().backward()

    few = torch.randn(32, 4 * data_dim, dtype=torch.float32, requires_grad=True)
    head = Categorical(num_levels, rank=4, data_dim=data_dim).float()

    def with_head() -> None:
        head(few).log_prob(x).sum().backward()

    peaks = [peak_bytes(run) for run in (whole, chunked, with_head)]
    # The gradient of the logits cannot be done without where they are given: 1, and three chunks
    # of a 1/6 each. Of all at once: their logarithms, two gradients.
    assert peaks[0] > 2.5 * size
    assert peaks[1] < 1.6 * size
    assert peaks[2] < 0.8 * size


def test_the_factored_head_has_few_weights() -> None:
    law = Categorical(256, rank=8, data_dim=784)
    assert law.outputs == 8
    assert sum(p.numel() for p in law.parameters()) == 256 * 8 + 256 * 784
    assert law.embedding is not None
    gram = law.embedding.T @ law.embedding  # waves of one length, at right angles
    torch.testing.assert_close(gram, 128 * torch.eye(8))


def test_the_discretized_logistic_is_a_difference_of_two_logistic_functions() -> None:
    loc, log_scale = torch.randn(2, 20)
    x = torch.arange(256.0).unsqueeze(-1).expand(-1, 20)
    law = DiscretizedLogistic()(torch.cat([loc, log_scale]))
    low, high = (2 * (x + side) / 255 - 1 for side in (-0.5, 0.5))
    cdf = [((edge - loc) * (-log_scale).exp()).sigmoid() for edge in (low, high)]
    mass = torch.where(x == 255, 1.0, cdf[1]) - torch.where(x == 0, 0.0, cdf[0])
    torch.testing.assert_close(law.log_prob(x), mass.log().sum(-1), rtol=1e-6, atol=1e-6)


def test_in_the_tails_the_discretized_logistic_is_not_cut() -> None:
    # Far from the mean the mass of a level is that of the law's exponential tail: with a mean of
    # −1 and a scale of 2/255 · ½, level k has log-mass −2 (k − ½) + log(1 − e^{−2}).
    scale = torch.tensor(1 / 255, dtype=torch.float32).log()
    output = torch.stack([torch.tensor(-1.0, dtype=torch.float32), scale]).requires_grad_()
    x = torch.tensor([[200.0], [254.0]], dtype=torch.float32)
    log_prob = DiscretizedLogistic()(output).log_prob(x)
    exact = -2 * (x.squeeze() - 0.5) + torch.tensor(-2.0).expm1().neg().log().float()
    torch.testing.assert_close(log_prob, exact, rtol=1e-5, atol=0)
    log_prob.sum().backward()
    assert output.grad is not None
    # Where a probability is cut at 1e-12, the gradient is zero and a far mean never moves.
    assert output.grad[0] == pytest.approx(2 * 255, rel=1e-4)


def test_a_mixture_of_logistic_laws_is_their_mean() -> None:
    weights, loc, log_scale = torch.randn(3, 3, 4)
    x = torch.randint(0, LEVELS, (5, 4)).double()
    mixture = DiscretizedLogistic(LEVELS, num_components=3)
    found = mixture(torch.cat([weights, loc, log_scale]).flatten()).log_prob(x)
    parts = torch.stack([loc, log_scale]).unsqueeze(2)  # mean and scale, law, a row, number
    alone = DiscretizedLogistic(LEVELS)
    each = torch.stack(
        [alone(parts[..., d].permute(1, 2, 0)).log_prob(x[:, d : d + 1]) for d in range(4)], -1
    )
    torch.testing.assert_close(
        found, (each + weights.log_softmax(0).unsqueeze(1)).logsumexp(0).sum(-1)
    )


def test_the_encoder_sees_levels_on_a_scale_that_suits_it() -> None:
    x = torch.tensor([0.0, 127.5, 255.0])
    for law in (Categorical(), DiscretizedLogistic()):
        assert law.as_input(x).tolist() == [-1.0, 0.0, 1.0]
    assert torch.equal(Bernoulli().as_input(x), x)


# --- in a VAE ------------------------------------------------------------------------------------


def rows(name: str) -> Tensor:
    """Data with one latent cause: all numbers of a row are low, or all are high."""
    low, high = values(name)[0], values(name)[-1]
    if name in ("fixed", "shared", "predicted"):
        low, high = torch.tensor(-2.0), torch.tensor(2.0)
    return torch.where(torch.rand(200, 1) < 0.5, low, high).expand(200, 3).contiguous()


@every_law
def test_a_vae_with_it_trains_saves_and_loads(name: str, tmp_path: Path) -> None:
    x = rows(name)
    model = vae.mlp(3, 1, hidden_dims=(16,), likelihood=LAWS[name](), seed=0)
    before = vae.bounds.elbo(model, x, seed=0).value
    after = vae.fit(
        model, x, num_epochs=8, batch_size=16, learning_rate=0.02, seed=0, progress=False
    )
    assert after.elbo.value > before + 0.5
    model.save(tmp_path / "vae")
    loaded = vae.load(tmp_path / "vae")
    assert loaded.likelihood.config() == model.likelihood.config()
    assert torch.equal(loaded.sample(5, seed=0), model.sample(5, seed=0))
    loaded.likelihood.check(model.sample(5, seed=0))


@every_law
def test_a_bare_pyro_svi_trains_it_with_validation_on(name: str) -> None:
    x = rows(name)
    model = vae.mlp(3, 1, hidden_dims=(16,), likelihood=LAWS[name](), seed=0)
    start = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    svi = SVI(model.model, model.guide, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(3):
        svi.step(x)
    after = [p for p in model.parameters() if p.requires_grad]
    assert all((p != q).any() for p, q in zip(start, after, strict=True))
    pyro.clear_param_store()


@every_law
def test_it_can_be_named(name: str) -> None:
    likelihood = LAWS[name]()
    (known,) = [key for key, kind in likelihoods.LIKELIHOODS.items() if kind is type(likelihood)]
    assert type(likelihoods.named(known)) is type(likelihood)
    again = likelihoods.LIKELIHOODS[known](**likelihood.config())
    assert again.config() == likelihood.config()
    assert again.outputs == likelihood.outputs


class Poisson(Likelihood):
    """Counts, from the logarithm of their rate."""

    discrete = True

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(output.exp()).to_event(1)

    def as_input(self, x: Tensor) -> Tensor:
        return x.log1p()


def test_a_likelihood_of_your_own_is_one_small_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(likelihoods.LIKELIHOODS, "poisson", Poisson)
    rates = torch.tensor([1.0, 20.0])[torch.randint(0, 2, (300, 1))].expand(300, 4)
    x = torch.poisson(rates)
    model = vae.mlp(4, 1, hidden_dims=(16,), likelihood="poisson", seed=0)
    fit = vae.fit(model, x, num_epochs=60, learning_rate=0.02, seed=0, progress=False)
    # With the cause known: its own log 2, and what the counts cost at their rates. Blind to it,
    # a row costs the entropy of a wide mixture, more than 5 nats above.
    best = dist.Poisson(rates).to_event(1).log_prob(x).mean().item() - 0.69
    assert best - 1.0 < fit.elbo.value < best + 0.5
    model.save(tmp_path / "vae")
    assert torch.equal(vae.load(tmp_path / "vae").encode(x), model.encode(x))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (Bernoulli(), 0.5, r"x must be binary .*'dynamic'.*'fixed'.*ContinuousBernoulli"),
        (Bernoulli("fixed"), 3.0, r"x must be in \[0, 1\] to be binarized, got values"),
        (ContinuousBernoulli(), -1.0, r"x must be in \[0, 1\] for a continuous Bernoulli"),
        (Categorical(), 0.5, r"x must be whole numbers in \[0, 255\] for 256 levels, got 0.5"),
        (DiscretizedLogistic(8), 9.0, r"x must be whole numbers in \[0, 7\] for 8 levels, got 9"),
        (DiscretizedLogistic(8), -1.0, "x must be whole numbers .* got -1"),
    ],
)  # fmt: skip
def test_refuses_data_it_cannot_have_produced(
    likelihood: Likelihood, x: float, message: str
) -> None:
    data = torch.tensor([[0.0, 1.0, x]])
    with pytest.raises(ValueError, match=message):
        likelihood.check(data)
    with pytest.raises(ValueError, match="x must be"):
        likelihood.check_prepared(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bernoulli("static"), "binarize must be one of dynamic, fixed, got 'static'"),
        (lambda: Gaussian(-1.0), "scale must be positive, got -1"),
        (lambda: Gaussian(start=0), "start must be positive, got 0"),
        (lambda: Gaussian(0.5, predicted=True), "scale must be None where it is predicted, got"),
        (lambda: Gaussian.squared_error(0), "c must be positive, got 0"),
        (lambda: Categorical(1), "num_levels must be at least 2, got 1"),
        (lambda: Categorical(rank=8), "data_dim must be given with rank, got None"),
        (lambda: Categorical(4, rank=4, data_dim=2), r"rank must be in \[1, 3\], got 4"),
        (
            lambda: DiscretizedLogistic(num_components=0),
            "num_components must be at least 1, got 0",
        ),
    ],
)
def test_refuses_options_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda o: dist.Bernoulli(o.sigmoid()).to_event(1), r"law must be built from logits, got"),
        (lambda o: dist.Binomial(5, o.sigmoid()).to_event(1), r"give Binomial\(logits=output\)"),
        (lambda o: dist.Bernoulli(logits=o), r"event shape \(D,\), got Bernoulli with \(\)"),
        (lambda o: dist.Normal(o, 1.0).to_event(2), r"event shape \(D,\), got Independent with"),
    ],
)  # fmt: skip
def test_refuses_a_function_whose_law_would_be_silently_wrong(
    law: Callable[[Tensor], Any], message: str
) -> None:
    model = VAE(nn.Linear(6, 4), nn.Linear(2, 6), law, 2)
    with pytest.raises(ValueError, match=message):
        model.p(torch.randn(5, 2))


def test_takes_a_function_that_gives_logits() -> None:
    law = likelihoods.Given(lambda o: dist.Bernoulli(logits=o).to_event(1))
    output, x = torch.randn(2, 3), torch.ones(2, 3)
    torch.testing.assert_close(law(output).log_prob(x), Bernoulli()(output).log_prob(x))


@pytest.mark.parametrize("objective", [vae.ELBO(), vae.IWAE(3)])
def test_a_function_refuses_what_its_law_cannot_produce(objective: Any) -> None:
    def law(output: Tensor) -> Any:
        return dist.Bernoulli(logits=output).to_event(1)

    model, grey = vae.mlp(3, 1, likelihood=law), torch.rand(20, 3)  # type: ignore[arg-type]
    message = r"x must be in the support of the likelihood's Bernoulli, .*Boolean.* binarize"
    with pytest.raises(ValueError, match=message):
        vae.fit(model, grey, objective=objective, num_epochs=1, progress=False)
    with pyro.validation_enabled(False):
        for bound in (vae.bounds.elbo, vae.bounds.iwae):
            with pytest.raises(ValueError, match=message):
                bound(model, grey, num_samples=2)
        with pytest.raises(ValueError, match=message):
            model.p(torch.zeros(1, 1)).expand(torch.Size([4, 20])).log_prob(grey)
    vae.fit(model, grey.round(), objective=objective, num_epochs=1, progress=False)


def test_a_function_whose_law_can_produce_anything_gives_that_law_itself() -> None:
    class Silent(dist.TorchDistribution):
        def __init__(self, size: int) -> None:
            super().__init__(event_shape=torch.Size([size]), validate_args=False)

    normal, silent = dist.Normal(torch.zeros(3), 1.0).to_event(1), Silent(3)
    for law in (normal, silent):
        assert likelihoods.Given(lambda _, law=law: law)(torch.zeros(3)) is law
    poisson = likelihoods.Given(lambda o: dist.Poisson(o.exp()).to_event(1))(torch.zeros(3))
    with pytest.raises(ValueError, match="likelihood's Poisson"):
        poisson.log_prob(torch.tensor([1.0, -1.0, 2.0]))


def test_refuses_an_output_or_data_of_another_size() -> None:
    with pytest.raises(ValueError, match="decoder must give 256 numbers for each in x, got 784"):
        Categorical()(torch.zeros(5, 784))
    with pytest.raises(ValueError, match="data_dim must be the data's, 5, got 10"):
        factored(10)(torch.zeros(4, 2 * 5))
    with pytest.raises(ValueError, match="x must have 3 columns, got 1"):
        Bernoulli()(torch.zeros(5, 3)).log_prob(torch.zeros(5, 1))
    with pytest.raises(ValueError, match="x must have 1 columns, got 3"):
        Bernoulli()(torch.zeros(5, 1)).log_prob(torch.zeros(5, 3))


@pytest.mark.parametrize("name", sorted(LAWS.keys() - {"fixed", "shared", "predicted"}))
def test_validation_refuses_what_is_not_in_the_support(name: str) -> None:
    _, law = one_number(name)
    assert isinstance(law, Independents)
    with pytest.raises(ValueError, match="support"):
        law.log_prob(torch.tensor([-0.5]))
    with pytest.raises(ValueError, match="nan"):
        type(law)(torch.full_like(law.output, torch.nan))
