"""What a guide loses by one network for all points: the amortization gap.

    gap(x) = max_{m, s} ELBO(x; Normal(m, diag s²)) − ELBO(x; q(z | x))

An encoder gives every point its m and s in one pass. Climbing from there for one point alone shows
what that costs; the rest of log p(x) − ELBO is the price of the normal family. A guide richer than
a diagonal normal may do better than any, and the gap is then negative.

Reference:
    Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders,
    https://arxiv.org/abs/1801.03558; Roeder et al. (2017), https://arxiv.org/abs/1703.09194, for
    the gradient
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.networks import evaluating
from pplvae.vae import particles
from pplvae.vae.distributions import DiagonalGaussian
from pplvae.vae.information import diagonal, rows, standard_error
from pplvae.vae.model import VAE
from pplvae.validation import Array, check_positive, check_whole

Laws = dict[str, DiagonalGaussian]

NUM_DRAWS = 200  # for the moments of a guide that is no diagonal normal


@dataclass(frozen=True)
class AmortizationGap:
    """What the bound of N points gains by a diagonal normal made for each.

    Attributes:
        value: The mean gain, in nats per point.
        standard_error: Of that mean over the points and the draws, in nats per point.
        per_point: The gain of each point, in nats, shape (N,); below zero by noise, or where the
            guide is richer.
    """

    value: float
    standard_error: float
    per_point: Tensor = field(repr=False)


def amortization_gap(
    vae: VAE,
    x: Array,
    *,
    num_steps: int = 200,
    num_particles: int = 4,
    num_samples: int = 100,
    learning_rate: float = 0.03,
    seed: int | None = None,
    progress: bool = True,
) -> AmortizationGap:
    """Return how much better a diagonal normal optimized for each point does than the guide.

    All points are climbed at once, by Adam from the guide's own mean and standard deviation, with
    a step size that falls to zero. Both bounds are then taken at the same noise.

    Args:
        vae: The VAE; its weights stay as they are.
        x: Points, shape (N, D).
        num_steps: Steps for each point.
        num_particles: Draws of z in each step.
        num_samples: Draws of z for the bounds.
        learning_rate: The first step size, in units of z and of log s.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a number is not positive, or the likelihood cannot have produced `x`.
    """
    for name, number in [
        ("num_steps", num_steps), ("num_particles", num_particles), ("num_samples", num_samples),
    ]:  # fmt: skip
        check_whole(name, number, 1)
    check_positive("learning_rate", learning_rate)
    x = vae.points(x)
    vae.likelihood.check(x)
    blocks = x.split(max(1, rows(vae, x) // num_particles))
    with evaluating(vae), randomness.scope(seed) as seed:
        gains = []
        for block in tqdm(blocks, desc="amortization gap", disable=not progress, delay=3):
            batch = vae.likelihood.prepare(block)
            laws = _start(vae, batch)
            _climb(vae, batch, laws, num_steps, num_particles, learning_rate)
            gains.append(_gain(vae, batch, laws, num_samples, num_particles))
    per_point = torch.cat(gains)
    return AmortizationGap(per_point.mean().item(), standard_error(per_point), per_point)


@torch.no_grad()
def _start(vae: VAE, x: Tensor) -> Laws:
    """Return diagonal normals, shape (B, L), with the guide's mean and standard deviation."""
    parts = [_moments(vae, block) for block in x.split(max(1, rows(vae, x) // NUM_DRAWS))]
    return {
        name: DiagonalGaussian(
            torch.cat([part[name].loc for part in parts]),
            torch.cat([part[name].log_scale for part in parts]),
        )
        for name in parts[0]
    }


def _moments(vae: VAE, x: Tensor) -> Laws:
    """Return the guide's moments: its own where it is such a normal, otherwise of draws."""
    values, guides = particles.propose(vae, x, NUM_DRAWS)
    laws = {name: diagonal(law) for name, law in guides.items()}
    if len(laws) == 1:
        ((name, law),) = laws.items()
        if law is not None:
            return {name: DiagonalGaussian(law.loc[0], law.log_scale[0])}
    return {n: DiagonalGaussian(z.mean(0), z.std(0).log()) for n, z in values.items()}


@torch.enable_grad()
def _climb(
    vae: VAE, x: Tensor, laws: Laws, num_steps: int, num_particles: int, learning_rate: float
) -> None:
    """Move the laws, in place, up the ELBO."""
    parameters = [tensor for law in laws.values() for tensor in (law.loc, law.log_scale)]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        for tensor in parameters:
            tensor.requires_grad_()
        loss = -_log_weight(vae, x, laws, num_particles).mean(0).sum()
        slopes = torch.autograd.grad(loss, parameters)
        for tensor, slope in zip(parameters, slopes, strict=True):
            tensor.requires_grad_(False).grad = slope
        optimizer.step()


def _log_weight(vae: VAE, x: Tensor, laws: Laws, num_particles: int) -> Tensor:
    """Return log p(x, z) − log q(z), shape (K, B), with no slope but the path's."""
    values = {name: law.rsample(torch.Size([num_particles])) for name, law in laws.items()}
    fixed = {
        n: DiagonalGaussian(law.loc.detach(), law.log_scale.detach()) for n, law in laws.items()
    }
    log_q = particles.sum_of(fixed[name].log_prob(z) for name, z in values.items())
    return particles.log_joint(vae, x, values) - log_q


@torch.no_grad()
def _gain(vae: VAE, x: Tensor, laws: Laws, num_samples: int, num_particles: int) -> Tensor:
    """Return by how much the laws' ELBO is above the guide's, shape (B,)."""
    start = int(torch.randint(randomness.MAX_SEED, ()))
    sizes = [min(num_particles, num_samples - i) for i in range(0, num_samples, num_particles)]
    randomness.reseed(start)
    guide = torch.cat([particles.draw(vae, x, size).log_weight for size in sizes])
    randomness.reseed(start)
    return (torch.cat([_log_weight(vae, x, laws, size) for size in sizes]) - guide).mean(0)
