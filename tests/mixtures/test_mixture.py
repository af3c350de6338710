import math
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pplvae.mixtures import GaussianMixture
from pplvae.mixtures.joint import MANY
from pplvae.mixtures.mixture import choose


def mixture(num_components: int = 3, dim: int = 3) -> GaussianMixture:
    """Unequal weights, places, and correlated covariances."""
    trils = torch.randn(num_components, dim, dim).tril(-1)
    trils = trils + torch.diag_embed(torch.rand(num_components, dim) + 0.5)
    weights = torch.rand(num_components) + 0.2
    return GaussianMixture(weights / weights.sum(), torch.randn(num_components, dim), trils)


def line(*components: tuple[float, float, float]) -> GaussianMixture:
    """Components (weight, mean, standard deviation) in one dimension."""
    weights, locs, scales = torch.tensor(components).T
    return GaussianMixture(weights, locs[:, None], scales[:, None, None])


def by_torch(ours: GaussianMixture) -> dist.MixtureSameFamily:
    components = dist.MultivariateNormal(ours.locs, scale_tril=ours.scale_trils)
    return dist.MixtureSameFamily(dist.Categorical(ours.weights), components)


# The density.


def test_agrees_with_torch() -> None:
    ours, x = mixture(), 2.0 * torch.randn(20, 3)
    torch.testing.assert_close(ours.log_prob(x), by_torch(ours).log_prob(x))


def test_integrates_to_one() -> None:
    grid = torch.linspace(-30, 30, 20001)
    mass = torch.trapezoid(mixture(4, 1).log_prob(grid).exp(), grid)
    assert mass.item() == pytest.approx(1.0, abs=1e-10)


def without_correlations(ours: GaussianMixture) -> GaussianMixture:
    diagonals = ours.scale_trils.diagonal(dim1=-2, dim2=-1)
    return GaussianMixture(ours.weights, ours.locs, diagonals.diag_embed())


def far_away(ours: GaussianMixture) -> GaussianMixture:
    return GaussianMixture(ours.weights, ours.locs + 1e8, ours.scale_trils)


def far_apart(ours: GaussianMixture) -> GaussianMixture:
    return GaussianMixture(ours.weights, 1000.0 * ours.locs, ours.scale_trils)


def one_narrow(ours: GaussianMixture) -> GaussianMixture:
    widths = torch.ones(ours.num_components).index_fill(0, torch.tensor([0]), 1e-4)
    return GaussianMixture(ours.weights, ours.locs, widths[:, None, None] * ours.scale_trils)


def one_never(ours: GaussianMixture) -> GaussianMixture:
    weights = ours.weights.index_fill(0, torch.tensor([0]), 0.0 if len(ours.weights) > 1 else 1.0)
    return GaussianMixture(weights / weights.sum(), ours.locs, ours.scale_trils)


def nearly_flat(ours: GaussianMixture) -> GaussianMixture:
    flat = torch.ones(ours.dim).index_fill(0, torch.tensor([ours.dim - 1]), 1e-9)
    return GaussianMixture(ours.weights, ours.locs * flat, ours.scale_trils * flat.unsqueeze(-1))


@pytest.mark.parametrize("num_components", [1, 5])
@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m, without_correlations, far_away, far_apart, one_narrow, one_never, nearly_flat,
    ],
)  # fmt: skip
def test_many_points_at_once_have_the_densities_of_few_at_a_time(
    num_components: int, dim: int, change: Callable[[GaussianMixture], GaussianMixture]
) -> None:
    ours = change(mixture(num_components, dim))
    many = MANY // (num_components * dim) + 1
    x = torch.cat([ours.sample(many, seed=0).x, 50.0 * torch.randn(1000, dim)])
    few = torch.cat([ours.log_prob(part) for part in x.split(1000)])
    torch.testing.assert_close(ours.log_prob(x), few, rtol=1e-12, atol=1e-12)
    some = x[:many]
    joint = torch.cat([ours.joint_log_prob(part) for part in some.split(1000)])
    torch.testing.assert_close(ours.joint_log_prob(some), joint, rtol=1e-11, atol=1e-12)
    rows = ours.responsibilities(some)
    torch.testing.assert_close(rows, joint.softmax(dim=1), rtol=0, atol=1e-11)
    assert (ours.predict(some) == rows.argmax(dim=1)).all()


def test_memory_is_that_of_blocks() -> None:
    """Of 300,000 points with 20 components: nothing larger than the points themselves."""
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, Tensor) else 0)
            return out

    ours, x = mixture(20, 2), torch.randn(300_000, 2)
    with Watch():
        ours.log_prob(x)
        ours.predict(x)
    assert largest <= x.numel()


@pytest.mark.parametrize("distance", [1.0, 1e6])
def test_responsibilities_sum_to_one_also_far_away(distance: float) -> None:
    ours, x = mixture(), distance * torch.randn(50, 3)
    responsibilities = ours.responsibilities(x)
    torch.testing.assert_close(responsibilities.sum(dim=1), torch.ones(50))
    assert (ours.predict(x) == responsibilities.argmax(dim=1)).all()


def test_a_point_beyond_squaring_has_no_density() -> None:
    x = torch.randn(30_000, 2)
    x[7:9] = 1e200 * torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    values = mixture(2, 2).log_prob(x)
    assert (values[7:9] == -math.inf).all()
    assert values.isfinite().sum() == 29_998


def test_responsibilities_are_the_rule_of_bayes() -> None:
    """Equal components at ±1 with unit variance: log odds are 2x + log(w_1 / w_0)."""
    ours = line((0.2, -1.0, 1.0), (0.8, 1.0, 1.0))
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


@pytest.mark.parametrize("num_points", [50, 30_000])
def test_gradients_of_the_density_flow_to_points_and_parameters(num_points: int) -> None:
    ours, x = mixture(2, 2), torch.randn(num_points, 2)
    parts = [part.clone().requires_grad_() for part in (ours.weights, ours.locs, x)]
    grads = [
        torch.autograd.grad(of(parts).sum(), parts)
        for of in (
            lambda p: GaussianMixture(p[0], p[1], ours.scale_trils).log_prob(p[2]),
            lambda p: torch.logsumexp(
                p[0].log()
                + dist.MultivariateNormal(p[1], scale_tril=ours.scale_trils).log_prob(
                    p[2].unsqueeze(1)
                ),
                dim=1,
            ),
        )
    ]
    torch.testing.assert_close(*grads)


def test_takes_arrays_and_keeps_single_precision() -> None:
    ours = GaussianMixture(
        np.ones(1, np.float32), np.zeros((1, 2), np.float32), np.eye(2, dtype=np.float32)[None]
    )
    x = np.zeros((3, 2))
    assert ours.log_prob(x).dtype == ours.sample(4).x.dtype == torch.float32
    assert ours.predict(x).dtype == torch.int64
    torch.testing.assert_close(ours.log_prob(x), torch.full((3,), -math.log(2 * math.pi)).float())


@pytest.mark.parametrize("num_points", [20, 20_000])
def test_single_precision_is_that_of_the_result_only(num_points: int) -> None:
    """At 1e3 standard deviations from the origin, where single precision would lose 0.1 nats."""
    exact = GaussianMixture(*(getattr(mixture(), name).float().double() for name in (
        "weights", "locs", "scale_trils",
    )))  # fmt: skip
    exact = GaussianMixture(exact.weights, (exact.locs + 1000).float().double(), exact.scale_trils)
    ours = GaussianMixture(exact.weights.float(), exact.locs.float(), exact.scale_trils.float())
    x = exact.sample(num_points, seed=0).x.float()
    values = exact.log_prob(x.double())
    torch.testing.assert_close(ours.log_prob(x).double(), values, rtol=1.2e-7, atol=0.0)
    torch.testing.assert_close(
        ours.responsibilities(x).double(), exact.responsibilities(x.double()), rtol=0, atol=1.2e-7
    )


# Draws.


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


# Marginals, conditionals, linear maps, moments.


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


def test_an_invertible_map_changes_the_density_by_its_volume() -> None:
    """p(A x + b) = p(x) / |det A|."""
    ours, x = mixture(3, 4), torch.randn(10, 4)
    matrix, shift = torch.randn(4, 4), torch.randn(4)
    mapped = ours.linear(matrix, shift).log_prob(x @ matrix.T + shift)
    torch.testing.assert_close(mapped, ours.log_prob(x) - matrix.det().abs().log())


def test_to_pick_coordinates_is_a_linear_map() -> None:
    ours, x = mixture(3, 4), torch.randn(10, 2)
    picked = ours.linear(torch.eye(4)[[3, 1]])
    torch.testing.assert_close(picked.log_prob(x), ours.marginal([3, 1]).log_prob(x))


def test_rows_of_a_map_may_differ_in_units() -> None:
    ours, units = mixture(2, 3), torch.tensor([1.0, 1e-20])
    mapped, x = ours.linear(units.unsqueeze(1) * torch.eye(3)[:2]), torch.randn(9, 2)
    expected = ours.marginal([0, 1]).log_prob(x) - units.log().sum()
    torch.testing.assert_close(mapped.log_prob(units * x), expected)


def test_two_maps_are_one() -> None:
    ours, first, second, x = mixture(2, 4), torch.randn(3, 4), torch.randn(2, 3), torch.randn(9, 2)
    noise = torch.tensor([[2.0, 0.3], [0.3, 0.5]])
    apart = ours.linear(first).linear(second, noise_cov=noise)
    torch.testing.assert_close(
        apart.log_prob(x), ours.linear(second @ first, noise_cov=noise).log_prob(x)
    )


def test_noise_convolves_the_density() -> None:
    """p(y) = ∫ p(x) Normal(y | x, 0.49) dx, by the trapezoid rule, which is exact to rounding."""
    ours, grid = mixture(3, 1), torch.linspace(-30, 30, 20001)
    for y in (-1.0, 0.4, 3.0):
        kernel = dist.Normal(grid, 0.7).log_prob(torch.tensor(y))
        integral = torch.trapezoid((ours.log_prob(grid) + kernel).exp(), grid)
        noisy = ours.linear(torch.eye(1), noise_cov=torch.tensor([[0.49]]))
        torch.testing.assert_close(noisy.log_prob(torch.tensor([y]))[0].exp(), integral)


def test_noise_gives_a_density_to_a_map_that_has_none() -> None:
    ours, matrix = mixture(2, 1), torch.tensor([[1.0], [2.0]])
    lifted = ours.linear(matrix, noise_cov=torch.eye(2))
    torch.testing.assert_close(lifted.covs, matrix @ ours.covs @ matrix.T + torch.eye(2))


def test_mean_and_covariance_are_the_integrals() -> None:
    ours = mixture(4, 1)
    grid = torch.linspace(-40, 40, 20001)
    density = ours.log_prob(grid).exp()
    mean = torch.trapezoid(density * grid, grid)
    torch.testing.assert_close(ours.mean[0], mean)
    variance = torch.trapezoid(density * (grid - mean).square(), grid)
    torch.testing.assert_close(ours.cov[0, 0], variance)


def test_moments_follow_linear_maps() -> None:
    ours, matrix, shift = mixture(3, 4), torch.randn(2, 4), torch.randn(2)
    mapped = ours.linear(matrix, shift)
    torch.testing.assert_close(mapped.mean, matrix @ ours.mean + shift)
    torch.testing.assert_close(mapped.cov, matrix @ ours.cov @ matrix.T)


# On a line.

WIDE = [(0.3, -2.0, 1.0), (0.5, 1.0, 0.5), (0.2, 4.0, 2.0)]


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("x", [-40.0, -9.0, -1.3, 0.0, 2.5, 30.0, 60.0])
def test_cdf_agrees_with_many_digits(x: float, upper: bool) -> None:
    """mpmath's normal with 50 digits; the tails reach 1e-317."""
    with mpmath.workdps(50):
        exact = mpmath.fsum(
            mpmath.mpf(w) * mpmath.ncdf((mpmath.mpf(x) - m) / s * (-1 if upper else 1))
            for w, m, s in WIDE
        )
    assert line(*WIDE).cdf(x, upper=upper).item() == pytest.approx(float(exact), rel=1e-12)


MIXTURES = [
    WIDE,
    [(1.0, 5.0, 1e-3)],
    [(0.5, 0.0, 1.0), (0.5, 0.1, 1e-6)],
    [(0.6, -1e4, 1.0), (0.4, 1e4, 3.0)],
    [(0.0, -50.0, 1.0), (1.0, 0.0, 1.0)],
    [(0.999999, 0.0, 1.0), (1e-6, 30.0, 0.1)],
]


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("components", MIXTURES)
def test_quantile_inverts_the_cdf(
    components: list[tuple[float, float, float]], upper: bool
) -> None:
    """To 1e-12 of the probability, plus what two roundings of the quantile itself move."""
    ours = line(*components)
    probs = torch.cat([torch.logspace(-290, -1, 80), torch.linspace(0.1, 0.5, 41)])
    x = ours.quantile(probs, upper=upper)
    rounding = 4.5e-16 * x.abs() * ours.log_prob(x).exp()
    assert ((ours.cdf(x, upper=upper) - probs).abs() <= 1e-12 * probs + rounding).all()
    assert ((-x if upper else x).diff() >= 0).all()


@pytest.mark.parametrize("components", MIXTURES)
def test_one_tail_is_the_rest_of_the_other(components: list[tuple[float, float, float]]) -> None:
    ours, probs = line(*components), 1 - torch.logspace(-15, -1, 40)
    assert torch.equal(ours.quantile(probs), ours.quantile(1 - probs, upper=True))
    assert torch.equal(ours.quantile(probs, upper=True), ours.quantile(1 - probs))


def test_a_quantile_in_a_gap_lies_in_the_gap() -> None:
    """Between components 200 standard deviations apart F is ½ in double precision."""
    assert -90 < line((0.5, -100.0, 1.0), (0.5, 100.0, 1.0)).quantile(0.5).item() < 90


def test_certainty_lies_at_infinity() -> None:
    ends = line(*WIDE).quantile([0.0, 1.0])
    assert ends.tolist() == [-math.inf, math.inf]
    assert line(*WIDE).quantile([0.0, 1.0], upper=True).tolist() == [math.inf, -math.inf]


def test_quantiles_keep_shape_and_dtype() -> None:
    single = GaussianMixture(torch.ones(1).float(), torch.ones(1, 1).float(),
                             torch.ones(1, 1, 1).float())  # fmt: skip
    assert single.quantile(torch.full((2, 3), 0.5)).shape == (2, 3)
    assert single.quantile(torch.zeros(0)).shape == (0,)
    assert single.quantile(0.5).dtype == single.cdf(0.5).dtype == torch.float32
    assert single.quantile(0.5).item() == 1.0


# On disk.


def test_what_was_saved_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    for ours in (mixture(), without_correlations(mixture(1, 1)), line((1.0, 0.0, 2.0))):
        ours.save(tmp_path / "new" / "mixture.safetensors")
        again = GaussianMixture.load(tmp_path / "new" / "mixture.safetensors")
        for name in ("weights", "locs", "scale_trils"):
            assert torch.equal(getattr(again, name), getattr(ours, name))
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["mixture.safetensors"]


def test_a_file_keeps_single_precision_and_takes_expanded_factors(tmp_path: Path) -> None:
    trils = torch.eye(2).float().expand(2, 2, 2)
    ours = GaussianMixture(torch.full((2,), 0.5).float(), torch.zeros(2, 2).float(), trils)
    ours.save(tmp_path / "mixture")
    assert GaussianMixture.load(tmp_path / "mixture").locs.dtype == torch.float32


def test_refuses_a_file_that_is_cut_off(tmp_path: Path) -> None:
    mixture().save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in (0, 7, 40, len(content) - 1):
        (tmp_path / "part").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"path must name a saved mixture, got .*part: "):
            GaussianMixture.load(tmp_path / "part")


def test_refuses_a_foreign_file(tmp_path: Path) -> None:
    save_file({"weights": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(
        ValueError, match=r"of format pplvae GaussianMixture 1, got .*a foreign safetensors"
    ):
        GaussianMixture.load(tmp_path / "foreign")
    save_file({"weights": torch.ones(1)}, tmp_path / "vae", metadata={"format": "pplvae VAE 2"})
    with pytest.raises(
        ValueError, match=r"of format pplvae GaussianMixture 1, got .*, pplvae VAE 2"
    ):
        GaussianMixture.load(tmp_path / "vae")
    parts = {
        "weights": torch.ones(1),
        "locs": torch.ones(1, 2),
        "scale_trils": -torch.eye(2)[None],
    }
    save_file(parts, tmp_path / "bent", metadata={"format": "pplvae GaussianMixture 1"})
    with pytest.raises(ValueError, match="bent: scale_trils must have positive diagonals"):
        GaussianMixture.load(tmp_path / "bent")
    with pytest.raises(ValueError, match="path must name a saved mixture"):
        GaussianMixture.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"must name a saved mixture, got .*nothing"):
        GaussianMixture.load(tmp_path / "nothing")


# Refusals.


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
        (lambda m: m.linear(torch.eye(2)), r"matrix must have shape \(M, 3\), got \(2, 2\)"),
        (lambda m: m.linear(torch.ones(3)), r"matrix must have shape \(M, 3\), got \(3,\)"),
        (
            lambda m: m.linear(torch.ones(2, 3)),
            r"matrix must have full row rank without noise, got rank 1 of shape \(2, 3\)",
        ),
        (lambda m: m.linear(torch.zeros(1, 3)), "full row rank without noise, got rank 0"),
        (lambda m: m.linear(torch.eye(3), torch.ones(2)), r"shift must have shape \(3,\)"),
        (
            lambda m: m.linear(torch.eye(3), noise_cov=torch.eye(2)),
            r"noise_cov must have shape \(3, 3\), got \(2, 2\)",
        ),
        (
            lambda m: m.linear(torch.eye(3), noise_cov=-torch.eye(3)),
            "noise_cov must be symmetric and positive definite",
        ),
        (lambda m: m.cdf(0.0), "must be on a line, got .* in 3 dimensions.*: take a marginal"),
        (lambda m: m.quantile(0.5), "must be on a line"),
        (lambda m: m.marginal([0]).quantile(1.5), r"probs must be in \[0, 1\], got 1.5"),
        (lambda m: m.marginal([0]).quantile([0.5, -0.1]), r"probs must be in \[0, 1\], got -0.1"),
        (lambda m: m.marginal([0]).cdf(math.nan), "x must be finite"),
    ],
)
def test_refuses_a_question_that_does_not_fit(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(mixture())
