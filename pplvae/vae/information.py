"""What a code holds: the parts of a VAE's bound, and the latent dimensions that are in use.

For N points, each as likely as the others, and q(z) = 1/N Σ_n q(z | x_n), the KL of the bound is

    1/N Σ_n KL(q(z | x_n) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z)):

what a code tells of which point it is of, at most log N nats, and how far the codes of all points
together are from the prior. A latent dimension is active if Var_x(E_q[z | x]) > 0.01: its mean
then moves with x.

Reference:
    Hoffman & Johnson (2016), ELBO surgery,
    http://approximateinference.org/accepted/HoffmanJohnson2016.pdf; Burda et al. (2016),
    https://arxiv.org/abs/1509.00519, for active units
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence
from tqdm import tqdm

from pplvae import randomness
from pplvae.networks import evaluating
from pplvae.vae import particles
from pplvae.vae.distributions import DiagonalGaussian, as_diagonal, kl_by_dimension
from pplvae.vae.hierarchical import DrawnFirst
from pplvae.vae.model import VAE
from pplvae.vae.particles import Particles
from pplvae.vae.priors import Mixture
from pplvae.validation import Array, check_whole

MEMORY = 2**21  # numbers of a tensor held at once; a network's other layers come on top
LEAST_VARIANCE = 0.01  # of an active dimension's mean over x, as Burda et al. have it


@dataclass(frozen=True)
class Terms:
    """The parts of the ELBO of N points, in nats per point.

    Latent dimensions come in the order in which the guide draws its sites.

    Attributes:
        reconstruction: E_q log p(x | z).
        kl: KL(q(z | x) ‖ p(z)), the price of the code.
        mutual_information: I_q(x; z) between a code and which of the N points it is of; it cannot
            exceed log N and comes close to it where no two points share codes, so it is then
            smaller than that with a fresh point of the same law.
        mutual_information_error: Its standard error.
        aggregate_kl: KL(q(z) ‖ p(z)) = kl − mutual_information, too large by as much.
        kl_per_dimension: KL of each latent dimension, shape (L,); nan where the laws of z do not
            factor into dimensions, as those of flows and mixtures.
        active: Which latent dimensions are active, shape (L,).
        code_variance: Var_x(E_q[z | x]) of each, shape (L,).
    """

    reconstruction: float
    kl: float
    mutual_information: float
    mutual_information_error: float
    aggregate_kl: float
    kl_per_dimension: Tensor = field(repr=False)
    active: Tensor = field(repr=False)
    code_variance: Tensor = field(repr=False)

    @property
    def num_active(self) -> int:
        """How many latent dimensions are active."""
        return int(self.active.sum())


@torch.no_grad()
def terms(
    vae: VAE,
    x: Array,
    *,
    num_samples: int = 10,
    num_points: int = 1000,
    seed: int | None = None,
    progress: bool = True,
) -> Terms:
    """Return the parts of the ELBO, and which latent dimensions are in use.

    Codes of `num_points` points, taken at random, are judged against the mixture of all N: the
    mutual information is unbiased but for the noise that its error says. What grows with N is
    the time, not the memory.

    Args:
        vae: The VAE.
        x: Points, shape (N, D).
        num_samples: Draws of z for each point.
        num_points: Points whose codes are judged against all, at most.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a number is impossible, or the likelihood cannot have produced `x`.
    """
    check_whole("num_samples", num_samples, 2)
    check_whole("num_points", num_points, 1)
    x = vae.points(x)
    vae.likelihood.check(x)
    with evaluating(vae), randomness.scope(seed):
        x = vae.likelihood.prepare(x)
        parts = [_parts(block, num_samples) for block in _draws(vae, x, num_samples)]
        reconstruction, kl, by_dimension, first, second = (
            torch.cat(part) for part in zip(*parts, strict=True)
        )
        told = _told(vae, x, x[torch.randperm(len(x))[:num_points]], progress)
    variance = _covariance(first, second)
    return Terms(
        reconstruction=reconstruction.mean().item(),
        kl=kl.mean().item(),
        mutual_information=told.mean().item(),
        mutual_information_error=standard_error(told),
        aggregate_kl=(kl.mean() - told.mean()).item(),
        kl_per_dimension=by_dimension.mean(0),
        active=variance > LEAST_VARIANCE,
        code_variance=variance,
    )


def rows(vae: VAE, x: Tensor) -> int:
    """Return for how many draws of z, of all points together, there is memory at once."""
    return max(1, MEMORY // widest(vae, x))


@torch.no_grad()
def widest(vae: VAE, x: Tensor) -> int:
    """Return the numbers of the largest tensor that one draw of z for one point needs.

    One point goes through the networks: each layer's output counts, what the likelihood takes,
    and the mixture of a prior.
    """
    with evaluating(vae), randomness.scope(0), _widths(vae.modules()) as seen:
        draws = particles.draw(vae, vae.likelihood.prepare(x[:1]))
    mixtures = [law for law in draws.priors.values() if isinstance(law, Mixture)]
    seen += [len(law.logits) * law.event_shape[-1] for law in mixtures]
    return max(x.shape[1] * vae.likelihood.outputs, *seen, 1)


@contextmanager
def _widths(layers: Iterable[nn.Module]) -> Iterator[list[int]]:
    """Collect how many numbers a row each layer gives that runs in the block."""
    seen = list[int]()

    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor) and len(output.shape) > 1:
            seen.append(output.numel() // max(1, len(output)))

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def standard_error(values: Tensor) -> float:
    """Return that of the mean of values of shape (N,); nan for one."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def kl_of(draws: Particles) -> Tensor:
    """Return KL(q(z | x) ‖ p(z)), shape (B,): by a formula, or the mean over the draws.

    For several latent sites no formula holds: each law is that at another site's draw.
    """
    if len(draws.guides) == 1:
        (q,), (p,) = draws.guides.values(), draws.priors.values()
        try:
            return kl_divergence(q, p)[0]
        except NotImplementedError:
            pass
    return (draws.log_q - draws.log_prior).mean(0)


def diagonal(law: TorchDistribution) -> DiagonalGaussian | None:
    """Return a law of independent normals as such, or None where it is another."""
    return as_diagonal(law.law if isinstance(law, DrawnFirst) else law)


def mean_of(law: TorchDistribution, values: Tensor) -> Tensor:
    """Return the mean of q, by a formula or else the draws themselves, shape (K, B, L)."""
    try:
        return law.mean.expand(values.shape)
    except NotImplementedError:
        return values


def _draws(vae: VAE, x: Tensor, num_samples: int) -> Iterator[Particles]:
    for block in x.split(max(1, rows(vae, x) // num_samples)):
        yield particles.draw(vae, block, num_samples)


def _parts(draws: Particles, num_samples: int) -> tuple[Tensor, ...]:
    """Return reconstruction and KL, (B,), KL by dimension and two means of the code, (B, L)."""
    names, half = list(draws.guides), num_samples // 2
    means = [mean_of(draws.guides[name], draws.values[name]) for name in names]
    mean = torch.cat(means, dim=-1)
    by_dimension = [_by_dimension(draws, name) for name in names]
    return (
        draws.log_likelihood.mean(0), kl_of(draws), torch.cat(by_dimension, dim=-1),
        mean[:half].mean(0), mean[half:].mean(0),
    )  # fmt: skip


def _by_dimension(draws: Particles, name: str) -> Tensor:
    """Return the KL of each dimension of a site, shape (B, L)."""
    q, p, z = diagonal(draws.guides[name]), diagonal(draws.priors[name]), draws.values[name]
    if q is None or p is None:
        return torch.full_like(z[0], math.nan)
    if len(draws.guides) == 1:
        return kl_by_dimension(q, p)[0]
    return (_log_normal(q, z) - _log_normal(p, z)).mean(0)


def _log_normal(law: DiagonalGaussian, z: Tensor) -> Tensor:
    """Return log density but for ½ log 2π, by dimension."""
    return -0.5 * ((z - law.loc) * (-law.log_scale).exp()).square() - law.log_scale


def _told(vae: VAE, x: Tensor, chosen: Tensor, progress: bool) -> Tensor:
    """Return log q(z | x_n) / q(z) at a draw for each chosen point, in nats, shape (n,)."""
    codes = [particles.propose(vae, part)[0] for part in chosen.split(rows(vae, chosen))]
    values = {name: torch.cat([code[name] for code in codes], dim=1) for name in codes[0]}
    own = particles.log_guide(vae, chosen, values)[0]
    mixture = torch.full_like(own, -math.inf)
    size = max(1, MEMORY // (len(chosen) * _pair_width(vae, chosen, values)))
    size = min(size, rows(vae, x))
    for block in tqdm(x.split(size), desc="mutual information", disable=not progress, delay=3):
        paired = {n: z[0].unsqueeze(1).expand(-1, len(block), -1) for n, z in values.items()}
        mixture = torch.logaddexp(mixture, particles.log_guide(vae, block, paired).logsumexp(1))
    return own - mixture + math.log(len(x))


def _pair_width(vae: VAE, x: Tensor, values: dict[str, Tensor]) -> int:
    """Return the numbers that log q of one point's code given one other point needs."""
    once = set(vae.encoder.modules())  # for a point, whatever codes are judged
    with _widths(layer for layer in vae.modules() if layer not in once) as seen:
        particles.log_guide(vae, x[:1], {name: z[:, :1] for name, z in values.items()})
    return max(sum(z.shape[-1] for z in values.values()), *seen, 1)


def _covariance(first: Tensor, second: Tensor) -> Tensor:
    """Return the covariance over points of two estimates of each mean, shape (L,).

    That of independent draws: their noise adds nothing to it, as it would to a variance.
    """
    if len(first) < 2:
        return torch.full_like(first[0], math.nan)
    apart = (first - first.mean(0)) * (second - second.mean(0))
    return apart.sum(0) / (len(first) - 1)
