"""What a latent space has learned: its plane, its axes, the ways through it.

An even grid on the unit square, pushed through the inverse distribution functions of the prior's
axes, is a grid of equal prior probability in z; decoded, it shows the learned manifold. One axis
swept in the same way while the others stay shows what that axis means. And between the codes a, b
of two points lie the straight line and the arc,

    linear:     (1 − t) a + t b
    spherical:  [sin((1 − t) ω) a + sin(t ω) b] / sin ω,   ω the angle between a and b,

of which the second keeps to the lengths that a normal prior in many dimensions has: about √L,
where the middle of the line has only √(L / 2).

Reference:
    Kingma & Welling (2014), figure 4, https://arxiv.org/abs/1312.6114; White (2016), Sampling
    generative networks, https://arxiv.org/abs/1609.04468
"""

from collections.abc import Sequence

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pplvae import randomness
from pplvae.infer.program import sample_sites
from pplvae.networks import evaluating
from pplvae.vae.distributions import DiagonalGaussian
from pplvae.vae.model import VAE
from pplvae.validation import (
    Array,
    as_points,
    as_vector,
    check_one_of,
    check_whole,
)

PRIOR_DRAWS = 10_000  # a quantile of a prior without a formula, to about 0.01 of its spread


def grid(vae: VAE, num_steps: int = 20) -> Tensor:
    """Return p(x | z)'s mean on a grid of prior quantiles, shape (num_steps, num_steps, D).

    Rows run from high to low in the second latent axis, columns from low to high in the first, as
    in a plot of the latent plane.

    Args:
        vae: A VAE with latent_dim = 2.
        num_steps: Points along each axis.

    Raises:
        ValueError: If the latent space is not two-dimensional.
    """
    check_whole("num_steps", num_steps, 2)
    if vae.latent_dim != 2:
        raise ValueError(f"vae must have latent_dim 2 for a grid, got {vae.latent_dim}")
    z = prior_quantiles(vae, (torch.arange(num_steps) + 0.5) / num_steps)
    second, first = torch.meshgrid(z[:, 1].flip(0), z[:, 0], indexing="ij")
    return _decoded(vae, torch.stack([first, second], dim=-1))


def traverse(
    vae: VAE,
    x: Array | None = None,
    *,
    z: Array | None = None,
    axes: Sequence[int] | None = None,
    num_steps: int = 9,
    share: float = 0.95,
) -> Tensor:
    """Return p(x | z)'s mean along each latent axis, the others held, shape (A, num_steps, D).

    Args:
        vae: The VAE.
        x: The point whose code the other axes are held at, shape (D,).
        z: That code itself instead, shape (L,). Without both, the prior's medians.
        axes: Which A axes, from 0; all L where None.
        num_steps: Codes along each axis, at equally spaced quantiles of its prior.
        share: How much of the prior's probability lies between the first and the last.

    Raises:
        ValueError: If both `x` and `z` are given, or an axis, a size or a number is impossible.
    """
    check_whole("num_steps", num_steps, 2)
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    chosen = list(range(vae.latent_dim)) if axes is None else [*axes]
    if not chosen:
        raise ValueError("axes must name at least one axis, got none")
    for axis in chosen:
        check_whole("axes", axis, 0, vae.latent_dim - 1, context=f"for {vae.latent_dim} axes")
    steps = prior_quantiles(vae, 0.5 + share * torch.linspace(-0.5, 0.5, num_steps))
    codes = _held(vae, x, z).repeat(len(chosen), num_steps, 1)
    for row, axis in enumerate(chosen):
        codes[row, :, axis] = steps[:, axis]
    return _decoded(vae, codes)


def interpolate(
    vae: VAE, a: Array, b: Array, num_steps: int = 9, *, kind: str = "linear"
) -> Tensor:
    """Return p(x | z)'s mean on the way from the code of `a` to that of `b`.

    The first and the last are the reconstructions of `a` and `b`.

    Args:
        vae: The VAE.
        a: Points to start from, shape (N, D), or one, shape (D,).
        b: Points to arrive at, of the same shape.
        num_steps: Codes on each way, ends included.
        kind: "linear" or "spherical".

    Returns:
        Shape (N, num_steps, D), or (num_steps, D) between two points.

    Raises:
        ValueError: As `path`.
    """
    start, end = vae.encode(_rows(a, "a")), vae.encode(_rows(b, "b"))
    images = _decoded(vae, path(start, end, num_steps, kind=kind))
    return images[0] if torch.as_tensor(a).dim() == 1 else images


def path(a: Array, b: Array, num_steps: int = 9, *, kind: str = "linear") -> Tensor:
    """Return codes on the way from each code in `a` to that in `b`, shape (N, num_steps, L).

    Args:
        a: Codes, shape (N, L).
        b: Codes, shape (N, L).
        num_steps: How many, ends included.
        kind: "linear" or "spherical".

    Raises:
        ValueError: If the shapes differ, a word or a number is not allowed, or the way between
            opposite codes is asked for, which is no one arc.
    """
    check_one_of("kind", kind, ["linear", "spherical"])
    check_whole("num_steps", num_steps, 2)
    a, b = as_points(a, name="a")[:, None], as_points(b, name="b")[:, None]
    if a.shape != b.shape:
        shapes = [tuple(codes[:, 0].shape) for codes in (a, b)]
        raise ValueError(f"b must have shape {shapes[0]} as a has, got {shapes[1]}")
    t = torch.linspace(0.0, 1.0, num_steps, dtype=a.dtype, device=a.device)[:, None]
    if kind == "linear":
        return torch.lerp(a, b.to(a), t)
    angle = _angle(a, b)
    return _arc((1 - t), angle) * a + _arc(t, angle) * b


def prior_quantiles(vae: VAE, probs: Tensor) -> Tensor:
    """Return the quantiles of each axis of the prior, shape (len(probs), L).

    Exact for a diagonal normal; those of 10,000 draws, always the same, for any other.
    """
    law, draws = _prior(vae)
    probs = probs.to(torch.float64)
    if isinstance(law, DiagonalGaussian):
        unit = torch.special.ndtri(probs).to(draws)[:, None]
        return law.loc[:1] + law.stddev[:1] * unit
    return draws.sort(dim=0).values[(probs * (PRIOR_DRAWS - 1)).round().long()]


@torch.no_grad()
def _prior(vae: VAE) -> tuple[object, Tensor]:
    """Return the law of the code, None where it is made of others, and draws of it, (S, L)."""
    plate = pyro.plate("draws", PRIOR_DRAWS, dim=-1)
    with evaluating(vae), randomness.scope(0), plate, poutine.trace() as tracer:
        draws = vae.draw_latent()
    sites = list(sample_sites(tracer.trace).values())
    return sites[0]["fn"] if len(sites) == 1 else None, draws


def _held(vae: VAE, x: Array | None, z: Array | None) -> Tensor:
    """Return the code that a sweep leaves, shape (L,)."""
    if x is not None and z is not None:
        raise ValueError("x must be None where z is given, got both")
    if x is not None:
        return vae.encode(_rows(x, "x"))[0]
    if z is None:
        return prior_quantiles(vae, torch.tensor([0.5]))[0]
    code = vae.points(as_vector(z, name="z")[None], name="z")[0]
    if len(code) != vae.latent_dim:
        raise ValueError(f"z must hold {vae.latent_dim} numbers, got {len(code)}")
    return code


def _decoded(vae: VAE, codes: Tensor) -> Tensor:
    """Return p(x | z)'s mean, shape (…, D), for codes of shape (…, L)."""
    return vae.decode(codes.flatten(0, -2)).unflatten(0, codes.shape[:-1])


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the angle between vectors, shape (…, 1): exact also where it is small."""
    u, v = (torch.nn.functional.normalize(vector, dim=-1) for vector in (a, b))
    angle = 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))[..., None]
    if (angle > torch.pi - 1e-3).any():
        raise ValueError("kind must be linear between opposite codes, got 'spherical'")
    return angle


def _arc(t: Tensor, angle: Tensor) -> Tensor:
    """Return sin(t ω) / sin ω, and its limit t where ω is 0."""
    return torch.where(angle > 1e-6, (t * angle).sin() / angle.clamp(min=1e-6).sin(), t)


def _rows(point: Array, name: str) -> Tensor:
    """Return points, shape (N, D); a vector is one point of D numbers."""
    point = torch.as_tensor(point)
    return as_points(point[None] if point.dim() == 1 else point, name=name)
