import math
from collections.abc import Callable, Iterator

import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from pplvae import vae
from pplvae.plots.diagnosis import latent_dimensions, pareto_k
from pplvae.plots.style import COLORS
from pplvae.vae import VAE
from pplvae.vae.amortization import amortization_gap
from pplvae.vae.diagnosis import Diagnosis, diagnose
from pplvae.vae.hierarchical import HierarchicalVAE

SEED = 20  # another than that of the data, whose noise would come again


@pytest.fixture(autouse=True)
def _headless() -> Iterator[None]:
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def line(shift: float = 0.0, scale: float = 1.0) -> VAE:
    """With x | z ~ N(z, 1): z | x ~ N(x / 2, 1/2). The guide is that for shift 0 and scale 1."""
    encoder = nn.Linear(1, 2)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.5], [0.0]]))
        encoder.bias.copy_(torch.tensor([shift, math.log(scale * math.sqrt(0.5))]))
    return VAE(encoder, nn.Identity(), lambda z: dist.Normal(z, 1.0).to_event(1), latent_dim=1)


def points(num: int = 200) -> Tensor:
    return math.sqrt(2) * torch.randn(num, 1)


def look(model: VAE, x: Tensor, **options: int) -> Diagnosis:
    settings = {"num_steps": 30, "seed": SEED, "progress": False} | options
    return diagnose(model, x, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shift", "scale"), [(0.0, 1.0), (0.8, 1.0), (0.0, 2.0), (0.0, 0.4), (-0.5, 1.5)]
)
def test_the_amortization_gap_is_the_kl_to_the_posterior(shift: float, scale: float) -> None:
    # The posterior is a diagonal normal itself, so all of log p(x) − ELBO can be won back:
    # KL(N(m + shift, scale² / 2) ‖ N(m, 1/2)).
    found = amortization_gap(line(shift, scale), points(), seed=SEED, progress=False)
    exact = shift**2 + 0.5 * (scale**2 - 1) - math.log(scale)
    assert found.value == pytest.approx(exact, abs=5 * found.standard_error + 1e-9)
    assert found.standard_error < 0.03
    assert found.value == pytest.approx(found.per_point.mean().item())


def test_a_guide_that_is_the_posterior_has_nothing_to_gain() -> None:
    found = amortization_gap(line(), points(), seed=SEED, progress=False)
    # Adam makes steps even of rounding errors; they have shrunk in the end.
    torch.testing.assert_close(found.per_point, torch.zeros(200), atol=1e-3, rtol=0)


def test_both_bounds_are_taken_at_the_same_noise() -> None:
    # With x | z ~ N(z1 + z2, 1) the posterior has precision [[2, 1], [1, 2]] and mean x / 3 each;
    # the best diagonal normal has that mean and variance 1/2. The guide is it, and log w has an
    # sd of about 0.7: at noise of their own the bounds of a point would be 0.1 apart.
    encoder = nn.Linear(1, 4)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[1 / 3], [1 / 3], [0.0], [0.0]]))
        encoder.bias.copy_(0.5 * math.log(0.5) * torch.tensor([0.0, 0.0, 1.0, 1.0]))

    def total(z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1)

    model = VAE(encoder, nn.Identity(), total, 2)
    found = amortization_gap(model, math.sqrt(3) * torch.randn(100, 1), seed=SEED, progress=False)
    assert found.per_point.abs().max() < 0.05


def test_the_climb_has_its_gradient_where_the_caller_switched_gradients_off() -> None:
    x = points(50)
    model = line(shift=0.8)
    expected = amortization_gap(model, x, seed=SEED, progress=False)
    with torch.no_grad():
        found = amortization_gap(model, x, seed=SEED, progress=False)
        whole = look(model, x, num_samples=50, num_steps=100)
    torch.testing.assert_close(found.per_point, expected.per_point)
    assert whole.amortization.value == pytest.approx(0.64, abs=0.2)
    assert not found.per_point.requires_grad


def test_single_precision_does_not_walk_away_from_a_perfect_guide() -> None:
    found = amortization_gap(line().float(), points().float(), seed=SEED, progress=False)
    assert found.value == pytest.approx(0.0, abs=1e-3)


def test_other_guides_start_from_their_own_moments() -> None:
    def full(output: Tensor) -> dist.TorchDistribution:
        loc, log_scale = output.chunk(2, dim=-1)
        return dist.MultivariateNormal(loc, scale_tril=log_scale.exp().unsqueeze(-1))

    exact = line(shift=0.8)
    model = VAE(exact.encoder, exact.decoder, exact.likelihood, 1, posterior=full)
    found = amortization_gap(model, points(), seed=SEED, progress=False)
    assert found.value == pytest.approx(0.64, abs=5 * found.standard_error)


def test_a_guide_with_two_layers_may_beat_any_normal() -> None:
    # z2 ~ N(0, 1), z1 | z2 ~ N(z2, 1/4), x | z1 ~ N(z1, 1): a posteriori z1 and z2 go together,
    # which a diagonal normal cannot say. The guide is exact.
    layers = [nn.Linear(1, 2) for _ in range(3)]
    laws = [(1.25 / 2.25, 1.25 / 2.25), (1 / 1.25, 0.25 / 1.25), (1.0, 0.25)]
    for layer, (slope, variance) in zip(layers, laws, strict=True):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[slope], [0.0]]))
            layer.bias.copy_(torch.tensor([0.0, 0.5 * math.log(variance)]))
    model = HierarchicalVAE(
        layers[0], nn.Identity(), lambda z: dist.Normal(z, 1.0).to_event(1), (1, 1),
        upper_encoder=layers[1], upper_decoder=layers[2],
    )  # fmt: skip
    found = amortization_gap(model, 1.5 * torch.randn(200, 1), seed=SEED, progress=False)
    precision = torch.tensor([[5.0, -4.0], [-4.0, 5.0]])
    best = -0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    # Five standard errors, and what 200 steps leave to be gained.
    assert found.value == pytest.approx(best, abs=5 * found.standard_error + 0.02)
    assert found.standard_error < 0.02


def test_a_vae_that_is_right_has_no_failures() -> None:
    found = look(line(), points())
    assert found.failures() == []
    assert "no failures" in repr(found)
    assert (found.pareto_k == -math.inf).all()
    # ELBO by a closed KL and draws of log p(x | z): 100 of sd below 2, for each of 200 points.
    assert found.gap.mean().item() == pytest.approx(0.0, abs=0.07)
    assert len(found.collapsed) == 0


def test_a_guide_too_narrow_has_weights_with_a_heavy_tail() -> None:
    found = look(line(scale=0.5), points())
    # With s² = 1/4 of the posterior's, weights have a moment of order below 4/3: k = 3/4.
    assert found.pareto_k.mean().item() == pytest.approx(0.75, abs=0.1)
    assert any("k-hat is above 0.7" in said for said in found.failures())
    assert "k-hat above 0.7" in repr(found)


def test_an_encoder_that_is_off_is_told_to_train_longer() -> None:
    found = look(line(shift=1.0), points(), num_steps=100)
    # The gap and what can be won back are both shift² = 1 nat.
    assert found.gap.mean().item() == pytest.approx(1.0, abs=0.1)
    assert found.amortization.value == pytest.approx(1.0, abs=0.1)
    failures = found.failures()
    assert any("the encoder gives away" in said for said in failures)
    assert any("nats below log p(x)" in said for said in failures)


def test_collapse_is_found_where_the_decoder_ignores_the_code() -> None:
    torch.manual_seed(1)
    model = vae.mlp(6, 3, hidden_dims=(8,), seed=0)
    with torch.no_grad():
        for parameter in [*model.decoder.parameters(), *model.encoder.parameters()][-4:]:
            parameter.zero_()
        list(model.decoder.parameters())[-2].zero_()  # from the hidden layer to the pixels
        for parameter in model.encoder.parameters():
            parameter.zero_()  # q is the prior, as training would have it
    found = look(model, (torch.rand(60, 6) < 0.5).double(), num_samples=100)
    assert found.collapsed.tolist() == [0, 1, 2]
    assert found.failures() == [
        "posterior collapse: 3 of 3 latent dimensions say nothing of x; warm the KL weight up, "
        "or give free bits"
    ]
    assert found.terms.mutual_information == pytest.approx(0.0, abs=1e-9)


def test_dimensions_to_spare_are_no_collapse() -> None:
    encoder = nn.Linear(3, 6)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.zero_()
        encoder.weight[0, 0], encoder.bias[3] = 0.5, 0.5 * math.log(0.5)
        encoder.bias[5] = (
            0.25  # wider than the prior for all x: a KL of 0.07 nats that says nothing
        )

    def first_only(z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z * torch.tensor([1.0, 0.0, 0.0]), 1.0).to_event(1)

    x = torch.randn(200, 3) * torch.tensor([math.sqrt(2), 1.0, 1.0])
    found = look(VAE(encoder, nn.Identity(), first_only, 3), x)
    assert found.collapsed.tolist() == [1, 2]
    assert found.failures() == []


def test_the_worst_rows_are_those_of_the_points_far_away() -> None:
    x = torch.randn(50, 1)
    x[7], x[31] = 30.0, -20.0
    found = look(line(), x, num_samples=50)
    assert found.worst[:2].tolist() == [7, 31]
    assert len(found.worst) == 10
    assert "7, 31" in repr(found)
    some = look(line(), x, num_samples=50, num_points=20, num_worst=3)
    assert len(some.rows) == 20
    least = some.log_likelihood.per_point.argsort()[:3]
    assert some.worst.tolist() == some.rows[least].tolist()
    torch.testing.assert_close(
        some.log_likelihood.per_point,
        dist.Normal(0.0, math.sqrt(2)).log_prob(x[some.rows].squeeze(1)),
    )


def test_a_point_without_a_finite_likelihood_is_named() -> None:
    class Broken(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.where(z > 5, math.nan, z)

    model = line()
    model.decoder = Broken()
    x = points(20)
    x[3] = 100.0
    found = look(model, x, num_samples=40)
    assert any("infinite or nan for 1 of 20 points" in said for said in found.failures())
    assert found.worst[0] == 3


def test_grey_images_are_binarized_once_for_all_numbers() -> None:
    model = vae.mlp(6, 2, hidden_dims=(8,), likelihood=vae.Bernoulli("dynamic"), seed=0)
    with torch.no_grad():
        list(model.decoder.parameters())[-1].fill_(5.0)
    found = look(model, torch.rand(600, 6), num_points=600, num_samples=40, num_steps=1)
    # Drawn anew, a pixel would change the bound by 5 nats. Its gap to log p(x) is far smaller.
    assert found.gap.abs().max() < 2


def test_the_same_seed_gives_the_same_diagnosis() -> None:
    model, x = line(shift=0.5), points(30)
    before = torch.get_rng_state()
    one, two = (look(model, x, num_samples=40, num_points=10) for _ in range(2))
    assert repr(one) == repr(two)
    assert torch.equal(one.rows, two.rows)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("num_samples must be at least 1, got 0", lambda m, x: look(m, x, num_samples=0)),
        ("num_points must be at least 1, got 0", lambda m, x: look(m, x, num_points=0)),
        ("num_steps must be at least 1, got 0", lambda m, x: look(m, x, num_steps=0)),
        ("x must be binary", lambda m, x: look(vae.mlp(1, 2), x + 0.5)),
        ("learning_rate must be positive, got 0",
         lambda m, x: amortization_gap(m, x, learning_rate=0.0)),
    ],
)  # fmt: skip
def test_refuses_what_is_impossible(message: str, call: Callable[[VAE, Tensor], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call(line(), torch.zeros(5, 1))


def test_the_histogram_of_k_hat_counts_each_point_once() -> None:
    values = torch.tensor([0.1, 0.2, 0.69, 0.71, 3.0, -math.inf, math.inf, math.nan])
    ax = pareto_k(values)
    heights = {round(bar.get_x(), 2): bar.get_height() for bar in ax.patches}
    assert sum(heights.values()) == 7
    colors = {bar.get_facecolor()[:3] for bar in ax.patches if bar.get_x() > 0.69}
    assert colors == {plt.matplotlib.colors.to_rgb(COLORS["vermilion"])}
    assert sum(height for left, height in heights.items() if left > 0.69) == 3
    assert "42.9% above 0.7" in ax.texts[0].get_text()


def test_the_bars_of_the_latent_dimensions_fall_and_say_which_are_active() -> None:
    ax = latent_dimensions(torch.tensor([0.5, 0.0, 2.0]), torch.tensor([True, False, True]))
    bars = sorted(ax.patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == [2.0, 0.5, 0.0]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["2 active", "1 inactive"]
