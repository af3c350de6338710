import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pplvae import vae
from pplvae.vae import VAE, manifold

LOC = torch.tensor([5.0, -3.0], dtype=torch.float64)
SCALE = torch.tensor([2.0, 0.1], dtype=torch.float64)


def unit_normal(loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def transparent(latent_dim: int, prior: object = "standard_normal") -> VAE:
    """With x = z but for noise, codes can be read off the decoded points."""
    encoder = nn.Linear(latent_dim, 2 * latent_dim)
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(latent_dim).repeat(2, 1))
        encoder.bias.zero_()
    return VAE(encoder, nn.Identity(), unit_normal, latent_dim, prior=prior)  # type: ignore[arg-type]


def shifted() -> dist.TorchDistribution:
    return dist.Normal(LOC, SCALE).to_event(1)


def test_each_axis_is_swept_over_its_prior_and_the_others_stay() -> None:
    x = torch.tensor([0.3, -1.0, 7.0])
    swept = manifold.traverse(transparent(3), x, num_steps=5, share=0.9)
    assert swept.shape == (3, 5, 3)
    along = torch.special.ndtri(torch.tensor([0.05, 0.275, 0.5, 0.725, 0.95]))
    for axis in range(3):
        expected = x.repeat(5, 1)
        expected[:, axis] = along
        torch.testing.assert_close(swept[axis], expected)


def test_chosen_axes_are_swept_in_the_order_asked_for() -> None:
    model, x = transparent(2, shifted), torch.randn(2)
    both = manifold.traverse(model, x)
    assert torch.equal(manifold.traverse(model, x, axes=[1, 0]), both[[1, 0]])
    assert torch.equal(manifold.traverse(model, x, axes=[1]), both[[1]])


def test_a_sweep_starts_at_a_code_or_at_the_middle_of_the_prior() -> None:
    z = torch.tensor([4.0, 5.0])
    assert (manifold.traverse(transparent(2), z=z)[0, :, 1] == 5).all()
    assert (manifold.traverse(transparent(2))[0, :, 1] == 0).all()


def test_quantiles_are_those_of_whatever_prior_there_is() -> None:
    # At p = 0.025 of 10,000 draws a quantile errs by √(p (1 − p) / n) / φ(1.96) = 0.027 standard
    # deviations, at 1/80 by 0.034; four of those.
    model = transparent(2, shifted)
    swept = manifold.traverse(model, num_steps=3, share=0.95)
    standard = (torch.stack([swept[axis, :, axis] for axis in range(2)], 1) - LOC) / SCALE
    expected = torch.tensor([-1.96, 0.0, 1.96])[:, None].expand(3, 2)
    torch.testing.assert_close(standard, expected, rtol=0, atol=0.11)
    corner = (manifold.grid(model, 40)[0, -1] - LOC) / SCALE
    torch.testing.assert_close(corner, torch.full((2,), 2.24), rtol=0, atol=0.14)


def test_a_sweep_is_always_the_same_and_leaves_the_global_generator() -> None:
    model = transparent(2, shifted)
    before = torch.get_rng_state()
    assert torch.equal(manifold.traverse(model), manifold.traverse(model))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_the_way_goes_from_one_reconstruction_to_the_other(kind: str) -> None:
    model = vae.mlp(6, 3, likelihood="gaussian", hidden_dims=(8,), seed=0)
    a, b = torch.randn(5, 6), torch.randn(5, 6)
    ways = manifold.interpolate(model, a, b, 7, kind=kind)
    assert ways.shape == (5, 7, 6)
    torch.testing.assert_close(ways[:, 0], model.reconstruct(a))
    torch.testing.assert_close(ways[:, -1], model.reconstruct(b))
    one = manifold.interpolate(model, a[2], b[2], 7, kind=kind)
    torch.testing.assert_close(one, ways[2])


def test_the_straight_way_has_equal_steps() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    steps = manifold.path(a, b, 6).diff(dim=1)
    torch.testing.assert_close(steps, ((b - a) / 5)[:, None].expand(4, 5, 3))


def test_the_arc_keeps_the_length_and_turns_evenly() -> None:
    a, b = (nn.functional.normalize(torch.randn(50, 8), dim=-1) for _ in range(2))
    arc = manifold.path(3 * a, 3 * b, 9, kind="spherical")
    torch.testing.assert_close(arc.norm(dim=-1), torch.full((50, 9), 3.0))
    turned = (arc[:, 1:] * arc[:, :-1]).sum(-1) / 9
    torch.testing.assert_close(turned.acos(), (a * b).sum(-1).acos()[:, None].expand(50, 8) / 8)


def test_only_the_arc_stays_where_a_prior_of_many_dimensions_is() -> None:
    # |z| is √L give or take 1/√2; half way on the line it is √(L / 2).
    a, b = torch.randn(2, 200, 100).unbind()
    for kind, expected in (("spherical", 10.0), ("linear", math.sqrt(50))):
        middle = manifold.path(a, b, 3, kind=kind)[:, 1].norm(dim=-1).mean()
        assert middle == pytest.approx(expected, abs=0.25), "five standard errors, 0.7 / √200"


def test_the_arc_between_codes_in_line_is_the_line() -> None:
    a = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[2.0, 4.0], [1.0, 3.0], [1.0, 1.0 + 1e-9]])
    b[1] = 0.0  # no direction at all
    torch.testing.assert_close(manifold.path(a, b, 5, kind="spherical"), manifold.path(a, b, 5))


def test_refuses_what_makes_no_way() -> None:
    model, a = transparent(2), torch.tensor([[1.0, 2.0]])
    for arguments, said in [
        ({"kind": "curved"}, "kind must be one of linear, spherical, got 'curved'"),
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
    ]:
        with pytest.raises(ValueError, match=said):
            manifold.interpolate(model, a, a, **arguments)
    with pytest.raises(ValueError, match=r"b must have shape \(1, 2\) as a has, got \(3, 2\)"):
        manifold.interpolate(model, a, a.repeat(3, 1))
    with pytest.raises(ValueError, match="kind must be linear between opposite codes"):
        manifold.path(a, -2 * a, kind="spherical")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"axes": [0, 3]}, r"axes must be in \[0, 2\] for 3 axes, got 3"),
        ({"axes": []}, "axes must name at least one axis, got none"),
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
        ({"share": 1.0}, r"share must be in \(0, 1\), got 1.0"),
        ({"z": torch.zeros(4)}, "z must hold 3 numbers, got 4"),
        ({"x": torch.zeros(3), "z": torch.zeros(3)}, "x must be None where z is given, got both"),
    ],
)
def test_refuses_an_impossible_sweep(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        manifold.traverse(transparent(3), **arguments)  # type: ignore[arg-type]


def test_single_precision_on_its_way_stays_single() -> None:
    model = vae.mlp(6, 2, dtype=torch.float32, seed=0)
    x = (torch.rand(2, 6) < 0.5).float()
    assert manifold.traverse(model, x[0]).dtype == torch.float32
    assert manifold.interpolate(model, x[0], x[1], kind="spherical").dtype == torch.float32


def test_codes_of_two_layers_are_swept_over_what_the_upper_one_makes_of_them() -> None:
    model = vae.hierarchical(6, (2, 3), likelihood="gaussian", seed=0)
    last = [part for part in model.upper_decoder.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([5.0, -3.0, math.log(2.0), math.log(0.1)]))
    found = manifold.prior_quantiles(model, torch.tensor([0.025, 0.5, 0.975]))
    expected = LOC + SCALE * torch.tensor([-1.96, 0.0, 1.96])[:, None]
    torch.testing.assert_close((found - LOC) / SCALE, (expected - LOC) / SCALE, rtol=0, atol=0.11)
    assert manifold.traverse(model, num_steps=3).shape == (2, 3, 6)
