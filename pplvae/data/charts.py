"""Charts: the maps behind the manifolds, each from (N, k) parameters to (N, D) points.

The parameters u are uniform in [0, 1] unless a chart says that they are standard normal, z. M2 to
M13 are the benchmark's own recipes, as its generator writes them.

Reference:
    Hein & Audibert (2005), Intrinsic dimensionality estimation of submanifolds in R^d,
    https://doi.org/10.1145/1102351.1102388
    Campadelli, Casiraghi, Ceruti & Rozza (2015), Intrinsic dimension estimation: relevant
    techniques and a benchmark framework, https://doi.org/10.1155/2015/759567
"""

import math

import torch
from torch import Tensor

TURN = 2 * math.pi


def identity(u: Tensor) -> Tensor:
    """Return the parameters themselves: the cube, and of standard normal ones the Gaussian."""
    return u


def sphere(z: Tensor) -> Tensor:
    """Return z / |z|, uniform on the unit sphere for standard normal z."""
    return z / z.norm(dim=1, keepdim=True)


def ball(z: Tensor) -> Tensor:
    """Return all but two coordinates of z / |z|, uniform in the unit ball (Archimedes)."""
    return sphere(z)[:, :-2]


def torus(u: Tensor) -> Tensor:
    """Return (cos, sin) of 2 pi u_i: the flat torus in R^(2 d), without edge or curvature."""
    return torch.cat([(TURN * u).cos(), (TURN * u).sin()], dim=1)


def paraboloid(u: Tensor) -> Tensor:
    """Return (p, |p|^2) with p = 2 u - 1."""
    p = 2 * u - 1
    return torch.cat([p, p.square().sum(dim=1, keepdim=True)], dim=1)


def helix(u: Tensor) -> Tensor:
    """Return (cos 3 t, sin 3 t, t / 2) with t = 2 pi u: three turns of a curve in space."""
    t = TURN * u[:, 0]
    return torch.stack([(3 * t).cos(), (3 * t).sin(), t / 2], dim=1)


def swiss_roll(u: Tensor) -> Tensor:
    """Return (t cos t, 21 v, t sin t) with t = 1.5 pi (1 + 2 u), as scikit-learn does."""
    t, height = 1.5 * math.pi * (1 + 2 * u[:, 0]), 21 * u[:, 1]
    return torch.stack([t * t.cos(), height, t * t.sin()], dim=1)


def s_curve(u: Tensor) -> Tensor:
    """Return (sin t, 2 v, sign(t) (cos t - 1)) with t = 3 pi (u - 1/2), as scikit-learn does."""
    t = 3 * math.pi * (u[:, 0] - 0.5)
    return torch.stack([t.sin(), 2 * u[:, 1], t.sign() * (t.cos() - 1)], dim=1)


def moebius(u: Tensor) -> Tensor:
    """Return a band one unit wide with half a twist."""
    return _band(u, twists=0.5)


def m2(u: Tensor) -> Tensor:
    """Return an affine 3-space in R^5."""
    p0, p1, p2 = (4 * u).unbind(dim=1)
    return torch.stack(
        [
            1.2 * p0 - 0.5 * p1 + 3,
            0.5 * p0 + 0.9 * p2 - 1,
            -0.5 * p0 - 0.2 * p1 + p2,
            0.4 * p0 - 0.9 * p1 - 0.1 * p2,
            1.1 * p0 - 0.3 * p2 + 8,
        ],
        dim=1,
    )


def m3(u: Tensor) -> Tensor:
    """Return a concentrated figure of dimension 4 in R^6, easily taken for one of dimension 3."""
    p0, p1, p2, p3 = u.unbind(dim=1)
    return torch.stack(
        [
            p1.square() * (TURN * p0).cos(),
            p2.square() * (TURN * p0).sin(),
            p1 + p2 + (p1 - p3).square(),
            p1 - 2 * p2 + (p0 - p3).square(),
            -p1 - 2 * p2 + (p2 - p3).square(),
            p0.square() - p1.square() + p2.square() - p3.square(),
        ],
        dim=1,
    )


def m4(u: Tensor) -> Tensor:
    """Return u_(i+1 mod d) (cos, sin)(2 pi u_i) for each i: a nonlinear figure in R^(2 d)."""
    radius, angle = u.roll(-1, dims=1), TURN * u
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2).flatten(1)


def m6(u: Tensor) -> Tensor:
    """Return the figure of `m4` three times over, in R^(6 d)."""
    return m4(u).repeat(1, 3)


def m5(u: Tensor) -> Tensor:
    """Return (r sin f, r cos f, f) with r = 2 pi u_0 - pi, f = 2 pi u_1: a surface, a helicoid."""
    r, f = TURN * u[:, 0] - math.pi, TURN * u[:, 1]
    return torch.stack([r * f.sin(), r * f.cos(), f], dim=1)


def m7(u: Tensor) -> Tensor:
    """Return (f sin 2.5 f, r, f cos 2.5 f) with r, f as in `m5`: a Swiss roll from its center."""
    r, f = TURN * u[:, 0] - math.pi, TURN * u[:, 1]
    return torch.stack([f * (2.5 * f).sin(), r, f * (2.5 * f).cos()], dim=1)


def m9(u: Tensor) -> Tensor:
    """Return 5 u - 2.5."""
    return 5 * u - 2.5


def m10(u: Tensor) -> Tensor:
    """Return u and a column of zeros: a cube in one dimension more."""
    return torch.nn.functional.pad(u, (0, 1))


def m11(u: Tensor) -> Tensor:
    """Return a band one unit wide, twisted ten times by half a turn."""
    return _band(u, twists=5.0)


def m13(u: Tensor) -> Tensor:
    """Return (f / 2 pi + sum_(k=1..j) sin(k f)) / (j + 1) for j = 0..12, with f = 2 pi u."""
    steps = torch.arange(13).to(u)
    waves = torch.where(steps == 0, u, (steps * TURN * u).sin())
    return waves.cumsum(dim=1) / (steps + 1)


def _band(u: Tensor, *, twists: float) -> Tensor:
    """Return a band around the unit circle that turns about its middle line `twists` times."""
    f, half_width = TURN * u[:, 0], u[:, 1] - 0.5
    radius = 1 + half_width * (twists * f).cos()
    return torch.stack(
        [radius * f.cos(), radius * f.sin(), half_width * (twists * f).sin()], dim=1
    )
