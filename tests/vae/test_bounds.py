import math
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pplvae import vae
from pplvae.infer import inference_data
from pplvae.vae import VAE, bounds, information
from pplvae.vae.amortization import amortization_gap
from pplvae.vae.distributions import DiagonalGaussian
from pplvae.vae.hierarchical import HierarchicalVAE
from pplvae.vae.weights import pareto_k, weigh

WEIGHT = torch.tensor([[1.0, 0.4], [-0.5, 1.0], [0.3, 0.8]], dtype=torch.float64)
SEED = 20  # another than that of the data, whose noise would come again
BIAS = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)


class Linear:
    """x | z ~ N(W z + b, σ² I) with D = 3, L = 2, where all is known.

    The guide's mean is the posterior's plus `shift`. Its standard deviations, times `scale`, are
    those of the best diagonal normal: 1 / √P_ll for the posterior's precision P.
    """

    def __init__(self, sigma: float = 0.5, *, shift: float = 0.0, scale: float = 1.0) -> None:
        self.sigma, self.shift, self.scale = sigma, shift, scale
        self.precision = torch.eye(2) + WEIGHT.T @ WEIGHT / sigma**2
        self.gain = torch.linalg.solve(self.precision, WEIGHT.T / sigma**2)
        encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)
        with torch.no_grad():
            decoder.weight.copy_(WEIGHT)
            decoder.bias.copy_(BIAS)
            encoder.weight.copy_(torch.cat([self.gain, torch.zeros(2, 3)]))
            log_scale = math.log(scale) - 0.5 * self.precision.diagonal().log()
            encoder.bias.copy_(torch.cat([shift - self.gain @ BIAS, log_scale]))
        self.vae = VAE(encoder, decoder, self.law, 2)
        self.evidence = dist.MultivariateNormal(BIAS, WEIGHT @ WEIGHT.T + sigma**2 * torch.eye(3))

    def law(self, loc: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, self.sigma).to_event(1)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateNormal((x - BIAS) @ self.gain.T, precision_matrix=self.precision)

    def gap(self) -> float:
        """KL(q ‖ p(z | x)), the same for all x."""
        variance = self.scale**2 / self.precision.diagonal()
        shift = torch.full((2,), self.shift)
        twice = (
            (self.precision.diagonal() * variance).sum() - 2 + shift @ self.precision @ shift
            - torch.logdet(self.precision) - variance.log().sum()
        )  # fmt: skip
        return 0.5 * twice.item()


def line(shift: float = 0.0, scale: float = 1.0) -> VAE:
    """With x | z ~ N(z, 1): z | x ~ N(x / 2, 1/2). The guide is that for shift 0 and scale 1."""
    encoder = nn.Linear(1, 2)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.5], [0.0]]))
        encoder.bias.copy_(torch.tensor([shift, math.log(scale * math.sqrt(0.5))]))
    return VAE(encoder, nn.Identity(), lambda z: dist.Normal(z, 1.0).to_event(1), latent_dim=1)


def log_evidence(x: Tensor) -> Tensor:
    """Of the line, shape (N,): x ~ N(0, 2)."""
    return dist.Normal(0.0, torch.tensor(2.0).sqrt()).log_prob(x.squeeze(1))


def ladder() -> HierarchicalVAE:
    """z2 ~ N(0, 1), z1 | z2 ~ N(z2 / 2, 1), x | z1 ~ N(z1, 1), and the exact guide.

    So x ~ N(0, 9/4), z1 | x ~ N(5/9 x, 5/9) and z2 | z1 ~ N(2/5 z1, 4/5).
    """

    def affine(slope: float, variance: float) -> nn.Linear:
        layer = nn.Linear(1, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[slope], [0.0]]))
            layer.bias.copy_(torch.tensor([0.0, 0.5 * math.log(variance)]))
        return layer

    return HierarchicalVAE(
        affine(5 / 9, 5 / 9), nn.Identity(), lambda z: dist.Normal(z, 1.0).to_event(1), (1, 1),
        upper_encoder=affine(0.4, 0.8), upper_decoder=affine(0.5, 1.0),
    )  # fmt: skip


def quiet(model: VAE, x: Tensor, **options: object) -> bounds.LogLikelihood:
    settings = {"seed": SEED, "progress": False} | options
    return bounds.log_likelihood(model, x, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5)])
def test_log_evidence_is_the_elbo_plus_the_kl_to_the_posterior(shift: float, scale: float) -> None:
    world = Linear(shift=shift, scale=scale)
    x = world.evidence.sample((40,))
    exact = world.evidence.log_prob(x)
    found = bounds.elbo(world.vae, x, num_samples=4000, seed=SEED)
    # log p(x | z) has an sd below 8 for these guides: five of 8 / √160000 and of 8 / √4000.
    assert found.value == pytest.approx(exact.mean().item() - world.gap(), abs=0.1)
    torch.testing.assert_close(found.per_point, exact - world.gap(), atol=0.65, rtol=0)
    gap = bounds.gap(world.vae, x, world.posterior, num_samples=4000, seed=SEED)
    # log q − log p(z | x) has an sd below 3.
    torch.testing.assert_close(gap, torch.full_like(exact, world.gap()), atol=0.24, rtol=0)
    assert gap.mean().item() == pytest.approx(world.gap(), abs=0.038)
    assert found.value == pytest.approx(found.reconstruction - found.kl)


def test_the_gap_is_exact_where_its_kl_has_a_formula() -> None:
    model, x = line(scale=2.0), torch.randn(20, 1)
    posterior = line()
    gap = bounds.gap(model, x, posterior.q)
    # KL(N(m, 4 s²) ‖ N(m, s²)) = ½ (4 − 1) − log 2
    torch.testing.assert_close(gap, torch.full((20,), 1.5 - math.log(2)))


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_the_importance_weighted_bound_is_its_integral(num_samples: int) -> None:
    model, x = line(shift=0.4, scale=0.8), torch.tensor([[1.0]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = 0.5 + 0.4 + 0.8 * math.sqrt(0.5) * torch.tensor(nodes).unsqueeze(-1)
    q = dist.Normal(torch.tensor(0.9), 0.8 * math.sqrt(0.5))
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    log_w = (joint - q.log_prob(z)).squeeze(1)
    probs = torch.tensor(weights) / math.sqrt(2 * math.pi)
    grid = torch.cartesian_prod(*[torch.arange(60)] * num_samples).reshape(-1, num_samples)
    values = log_w[grid].logsumexp(1) - math.log(num_samples)
    exact = (probs[grid].prod(1) * values).sum().item()
    found = bounds.iwae(
        model, x.expand(40_000, 1), num_samples=num_samples, seed=SEED, progress=False
    )
    assert found.value == pytest.approx(exact, abs=5 * found.standard_error)
    assert found.standard_error < 0.005


def test_the_importance_weighted_bound_rises_to_the_evidence() -> None:
    world = Linear(scale=1.5)
    x = world.evidence.sample((2000,))
    ladder = [
        bounds.iwae(world.vae, x, num_samples=k, seed=k, progress=False).value for k in (1, 5, 50)
    ]
    # Steps of the ladder are 0.3 nats and more, noise of each is below 0.02.
    assert ladder == sorted(ladder)
    assert ladder[-1] < world.evidence.log_prob(x).mean().item() + 0.02


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_log_evidence_and_its_error_are_right_on_an_easy_model(proposal: str) -> None:
    world = Linear(sigma=1.5)
    x = world.evidence.sample((400,))
    found = quiet(world.vae, x, num_samples=2000, proposal=proposal)
    misses = (found.per_point - world.evidence.log_prob(x)) / found.monte_carlo_error
    # The mean square of 400 standard normals is 1 ± √(2/400) = 0.07: five of those.
    assert misses.square().mean().item() == pytest.approx(1.0, abs=0.35)
    assert misses.mean().item() == pytest.approx(0.0, abs=0.3)
    assert found.pareto_k.median() < 0.5
    assert found.value == pytest.approx(found.per_point.mean().item())


def test_the_prior_fails_where_noise_is_small_and_says_so() -> None:
    world = Linear(sigma=0.01)
    x = world.evidence.sample((50,))
    exact = world.evidence.log_prob(x).mean().item()
    prior = quiet(world.vae, x, num_samples=1000, proposal="prior")
    assert prior.value < exact - 1
    assert prior.effective_sample_size.median() < 3
    assert prior.unreliable == 1.0
    # The gap is that of the correlation between the two: 0.0 nats lost to the noise.
    guide = quiet(world.vae, x, num_samples=1000)
    assert guide.value == pytest.approx(exact, abs=0.01)
    assert guide.unreliable == 0.0


@pytest.mark.parametrize("make", [line, ladder])
def test_a_guide_that_is_the_posterior_leaves_no_error(make: Callable[[], VAE]) -> None:
    model, x = make(), torch.randn(20, 1)
    variance = 2.0 if make is line else 2.25
    exact = dist.Normal(0.0, math.sqrt(variance)).log_prob(x.squeeze(1))
    found = quiet(model, x, num_samples=100)
    torch.testing.assert_close(found.per_point, exact)
    assert (found.monte_carlo_error < 1e-6).all()
    torch.testing.assert_close(found.effective_sample_size, torch.full((20,), 100.0))
    assert (found.pareto_k == -math.inf).all()
    assert found.unreliable == 0.0
    assert bounds.iwae(model, x, num_samples=3, progress=False).value == pytest.approx(
        exact.mean().item()
    )


def test_two_layers_have_an_elbo_without_any_formula() -> None:
    # Each draw of log p(x, z) − log q(z | x) is log p(x): a closed form per layer would miss it.
    x = torch.randn(20, 1)
    found = bounds.elbo(ladder(), x, num_samples=3, seed=SEED)
    torch.testing.assert_close(found.per_point, dist.Normal(0.0, 1.5).log_prob(x.squeeze(1)))


def test_blocks_change_nothing_but_the_draws() -> None:
    world, x = line(), torch.randn(30, 1)
    whole = quiet(world, x, num_samples=50)
    options = {"num_samples": 50, "batch_size": 7, "memory": 12}
    torch.testing.assert_close(quiet(world, x, **options).per_point, whole.per_point)
    inexact = Linear()
    y = inexact.evidence.sample((60,))
    one = quiet(inexact.vae, y, num_samples=300)
    two = quiet(inexact.vae, y, num_samples=300, batch_size=9, memory=2000)
    error = (one.monte_carlo_error.square() + two.monte_carlo_error.square()).sqrt()
    assert ((one.per_point - two.per_point) / error).abs().max() < 5


@pytest.mark.parametrize("num_samples", [5, 100])
def test_no_more_is_decoded_at_once_than_memory_allows(num_samples: int) -> None:
    world, seen = Linear(), []
    world.vae.decoder.register_forward_hook(lambda *call: seen.append(call[2].numel()))
    x = world.evidence.sample((20,))
    # The widest layer is the encoder's, of 4 numbers: 30 draws of the decoder's 3 at once. One
    # draw of one point measures that.
    quiet(world.vae, x, num_samples=num_samples, memory=120)
    assert max(seen) == 90
    assert sum(seen) == (20 * num_samples + 1) * 3


def largest(model: VAE, call: Callable[[], object]) -> int:
    """Return the numbers of the largest tensor that a layer or a mixture gave in a call."""
    seen = list[int]()
    hooks = [
        part.register_forward_hook(
            lambda *call: seen.append(call[2].numel()) if isinstance(call[2], Tensor) else None
        )
        for part in model.modules()
    ]
    each = DiagonalGaussian.log_prob

    def noted(law: DiagonalGaussian, value: Tensor) -> Tensor:
        found = each(law, value)
        seen.append(found.numel() * value.shape[-1])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiagonalGaussian, "log_prob", noted)
        call()
    for hook in hooks:
        hook.remove()
    return max(seen)


def wide() -> VAE:
    return vae.mlp(2, 2, hidden_dims=(500,), likelihood="gaussian", dtype=torch.float64, seed=0)


def crowded() -> VAE:
    prior = vae.priors.VampPrior(2, 100, data=torch.randn(100, 2))
    return vae.mlp(
        2, 2, hidden_dims=(5,), likelihood="gaussian", prior=prior, dtype=torch.float64, seed=0
    )


def tower() -> VAE:
    return vae.hierarchical(
        2, (2, 2), hidden_dims=(90,), likelihood="gaussian", dtype=torch.float64, seed=0
    )


def images() -> VAE:
    # 5 channels of 4 × 4 places from 8 × 8 pixels: 80 numbers against 64.
    return vae.conv((8, 8), 2, channels=(5,), likelihood="gaussian", dtype=torch.float64, seed=0)


@pytest.mark.parametrize("make", [wide, crowded, tower, images])
def test_memory_is_for_the_widest_thing_that_a_draw_needs(
    make: Callable[[], VAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(information, "MEMORY", 20_000)
    model = make()
    x = torch.randn(20, 64 if make is images else 2)
    quick = {"seed": SEED, "progress": False}
    calls: list[Callable[[], object]] = [
        lambda: quiet(model, x, num_samples=60, memory=20_000),
        lambda: bounds.elbo(model, x, num_samples=20, seed=SEED),
        lambda: bounds.terms(model, x, **quick),  # type: ignore[arg-type]
        lambda: bounds.terms(model, x.repeat(5, 1), num_points=1, **quick),  # type: ignore[arg-type]
        lambda: amortization_gap(model, x, num_steps=2, num_samples=8, **quick),  # type: ignore[arg-type]
    ]
    for call in calls:
        assert largest(model, call) <= 20_000


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_global_ones() -> None:
    world = Linear()
    x = world.evidence.sample((10,))
    before = torch.get_rng_state()
    one, two = (quiet(world.vae, x, num_samples=40, seed=3) for _ in range(2))
    other = quiet(world.vae, x, num_samples=40, seed=4)
    bounds.terms(world.vae, x, seed=3, progress=False)
    assert torch.equal(one.per_point, two.per_point)
    assert not torch.equal(one.per_point, other.per_point)
    assert torch.equal(before, torch.get_rng_state())


def test_bits_per_dimension_are_a_code_length_of_what_is_discrete() -> None:
    # An untrained decoder of zeros: each of 6 pixels takes one bit, whatever the code.
    binary = VAE(nn.Linear(6, 4), nn.Linear(2, 6), vae.Bernoulli(), 2)
    with torch.no_grad():
        for parameter in binary.parameters():
            parameter.zero_()
    x = (torch.rand(30, 6) < 0.5).double()
    assert bounds.elbo(binary, x).bits_per_dimension == pytest.approx(1.0)
    assert quiet(binary, x, num_samples=5).bits_per_dimension == pytest.approx(1.0)
    assert bounds.iwae(binary, x, progress=False).bits_per_dimension == pytest.approx(1.0)
    assert "1 bits per dimension" in repr(quiet(binary, x, num_samples=50))
    assert math.isnan(bounds.elbo(line(), torch.zeros(3, 1)).bits_per_dimension)
    assert "bits" not in repr(quiet(line(), torch.zeros(3, 1), num_samples=50))


def test_what_weights_say_is_what_their_formulas_say() -> None:
    log_weight = torch.randn(200, 3)
    w, found = log_weight.exp(), weigh(log_weight)
    torch.testing.assert_close(found.log_mean, w.mean(0).log())
    torch.testing.assert_close(found.error, w.std(0) / w.mean(0) / math.sqrt(200))
    torch.testing.assert_close(found.effective_sample_size, w.sum(0) ** 2 / w.square().sum(0))
    # Weights of any size do as well.
    torch.testing.assert_close(weigh(log_weight - 1e4).error, found.error)


def odd_weights(size: int) -> Tensor:
    """Heavy, light, tied, equal, zero, underflowing and impossible weights, shape (S, 10)."""
    heavy, light = 4 * torch.randn(size), 0.2 * torch.randn(size)
    tied = heavy.clone()
    tied[heavy > heavy.median()] = heavy.median()
    zeros = torch.where(torch.arange(size) % 3 == 0, -math.inf, light)
    few, huge, unknown = torch.full((3, size), -math.inf)
    few[:2], huge[0], unknown[-1] = 0.0, math.inf, math.nan
    return torch.stack(
        [
            heavy,
            light,
            tied,
            torch.full((size,), -3.0),
            zeros,
            few,
            huge,
            unknown,
            300 * heavy,
            heavy.round(),
        ],
        dim=1,
    )


@pytest.mark.parametrize("size", [1, 2, 20, 30, 47, 400])
def test_k_hat_of_all_points_is_that_of_each(size: int) -> None:
    log_weight = odd_weights(size)
    each = [inference_data.pareto_k(column.numpy()) for column in log_weight.T]
    torch.testing.assert_close(
        pareto_k(log_weight), torch.tensor(each), equal_nan=True, atol=1e-8, rtol=1e-8
    )


def test_the_parts_of_the_bound_have_their_closed_forms() -> None:
    x = math.sqrt(2) * torch.randn(4000, 1)
    found = bounds.terms(line(), x, num_points=2000, seed=SEED, progress=False)
    # With x ~ N(0, 2) the codes of all points are the prior, and I(x; z) = ½ log (1 / ½). The KL
    # is ½ (½ + x²/4 − 1 + log 2), of sd 0.35 over x: five of 0.35 / √4000.
    assert found.kl == pytest.approx(0.5 * math.log(2), abs=0.028)
    told = 0.5 * math.log(2)
    assert found.mutual_information == pytest.approx(told, abs=5 * found.mutual_information_error)
    assert found.mutual_information_error < 0.02
    assert found.kl == pytest.approx(found.mutual_information + found.aggregate_kl)
    # E log p(x | z) = −½ log 2π − ½ (x²/4 + ½), of sd 0.35 over x.
    expected = -0.5 * math.log(2 * math.pi) - 0.5
    assert found.reconstruction == pytest.approx(expected, abs=0.035)
    torch.testing.assert_close(found.kl_per_dimension, torch.tensor([found.kl]))


def test_codes_apart_tell_which_point_they_are_of() -> None:
    x = 100.0 * torch.arange(50.0).unsqueeze(1)
    found = bounds.terms(line(), x, seed=SEED, progress=False)
    assert found.mutual_information == pytest.approx(math.log(50))


def test_the_codes_of_some_points_are_judged_against_those_of_all() -> None:
    x = 100.0 * torch.arange(50.0).unsqueeze(1)
    some = bounds.terms(line(), x, num_points=5, seed=SEED, progress=False)
    assert some.mutual_information == pytest.approx(math.log(50))


def test_dimensions_that_the_encoder_leaves_alone_are_inactive() -> None:
    encoder = nn.Linear(3, 6)
    with torch.no_grad():
        encoder.bias.zero_()
        encoder.weight.zero_()
        # Standard deviations of the mean over x: 0.2, 0.05 and none. Burda's limit is 0.1.
        encoder.weight[0, 0], encoder.weight[1, 1] = 0.2, 0.05
    law = lambda z: dist.Normal(z, 1.0).to_event(1)  # noqa: E731
    x = torch.randn(500, 3)
    found = bounds.terms(VAE(encoder, nn.Identity(), law, 3), x, seed=SEED, progress=False)
    assert found.active.tolist() == [True, False, False]
    assert found.num_active == 1
    means = x * torch.tensor([0.2, 0.05, 0.0])
    torch.testing.assert_close(found.code_variance, means.var(0))
    torch.testing.assert_close(found.kl_per_dimension, 0.5 * means.square().mean(0))


def test_noise_from_the_layer_below_makes_no_dimension_active() -> None:
    model = ladder()
    with torch.no_grad():
        model.encoder.weight.zero_()  # z1 is noise of variance 5/9, and z2's mean follows z1
    found = bounds.terms(model, torch.randn(4000, 1), num_samples=4, seed=SEED, progress=False)
    # The mean of z2 over two draws varies by 0.4² · 5/9 / 2 = 0.044 for no reason; the covariance
    # of two such means errs by 0.044 / √4000 = 0.0007.
    assert found.code_variance[1].item() == pytest.approx(0.0, abs=0.0035)
    assert not found.active.any()


def test_the_kl_of_two_layers_is_split_between_their_dimensions() -> None:
    found = bounds.terms(ladder(), 1.5 * torch.randn(500, 1), seed=SEED, progress=False)
    assert found.kl_per_dimension.shape == (2,)
    assert found.kl == pytest.approx(found.kl_per_dimension.sum().item())


def test_laws_that_do_not_factor_have_no_kl_by_dimension() -> None:
    def full(output: Tensor) -> dist.TorchDistribution:
        loc, log_scale = output.chunk(2, dim=-1)
        return dist.MultivariateNormal(loc, scale_tril=log_scale.exp().unsqueeze(-1))

    exact = line()
    model = VAE(exact.encoder, exact.decoder, exact.likelihood, 1, posterior=full)
    found = bounds.terms(model, torch.randn(50, 1), seed=SEED, progress=False)
    assert found.kl_per_dimension.isnan().all()
    assert found.active.all()
    # Pyro's own independent normals are diagonal ones all the same.
    own = VAE(
        exact.encoder, exact.decoder, exact.likelihood, 1,
        prior=lambda: dist.Normal(torch.zeros(1), 1.0).to_event(1),
    )  # fmt: skip
    assert bounds.terms(own, torch.randn(50, 1), progress=False).kl_per_dimension.isfinite().all()


def test_codes_of_a_flow_are_judged_by_its_slow_way() -> None:
    flow = vae.mlp(6, 2, hidden_dims=(8,), posterior="iaf", dtype=torch.float64, seed=0)
    x = (torch.rand(30, 6) < 0.5).double()
    found = bounds.terms(flow, x, num_samples=200, seed=SEED, progress=False)
    # KL = I + KL(q(z) ‖ p(z)), and neither is negative; q(z) by hand, at draws of its own:
    law = flow.q(x)
    with torch.no_grad():
        z = law.sample(torch.Size([300]))
        own = law.log_prob(z)
        pairs = law.log_prob_slowly(z.reshape(-1, 1, 2).expand(-1, 30, -1))  # type: ignore[attr-defined]
        told = own - pairs.logsumexp(1).reshape(300, 30) + math.log(30)
    error = math.hypot(found.mutual_information_error, told.std().item() / math.sqrt(9000))
    assert found.mutual_information == pytest.approx(told.mean().item(), abs=5 * error)
    assert found.code_variance.shape == (2,)


def test_single_precision_stays_single() -> None:
    model, x = vae.mlp(6, 2, dtype=torch.float32, seed=0), torch.ones(5, 6)
    found = quiet(model, x, num_samples=40)
    assert found.per_point.dtype == found.pareto_k.dtype == torch.float32
    assert bounds.terms(model, x, progress=False).kl_per_dimension.dtype == torch.float32


def test_a_proposal_may_be_a_function() -> None:
    model, x = line(), torch.zeros(4, 1)
    found = quiet(model, x, num_samples=6, proposal=lambda _, y, size: y.new_ones(size, len(y)))
    assert found.per_point.tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("proposal must be one of ais, guide, prior, got 'nuts'",
         lambda m, x: quiet(m, x, proposal="nuts")),
        ("num_samples must be at least 1, got 0", lambda m, x: quiet(m, x, num_samples=0)),
        ("memory must be a whole number, got 1.5", lambda m, x: quiet(m, x, memory=1.5)),
        ("batch_size must be at least 1, got 0", lambda m, x: quiet(m, x, batch_size=0)),
        ("num_samples must be at least 1, got 0", lambda m, x: bounds.iwae(m, x, num_samples=0)),
        ("num_samples must be at least 2, got 1", lambda m, x: bounds.terms(m, x, num_samples=1)),
        ("num_points must be at least 1, got 0", lambda m, x: bounds.terms(m, x, num_points=0)),
        ("num_samples must be at least 1, got 0",
         lambda m, x: bounds.gap(m, x, m.q, num_samples=0)),
        ("x must be binary", lambda m, x: quiet(vae.mlp(1, 2), x + 0.5)),
        ("x must be binary", lambda m, x: bounds.terms(vae.mlp(1, 2), x + 0.5)),
    ],
)  # fmt: skip
def test_refuses_what_is_impossible(message: str, call: Callable[[VAE, Tensor], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call(line(), torch.zeros(5, 1))
