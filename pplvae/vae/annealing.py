"""Annealed importance sampling: log p(x) by chains that walk from the prior to p(z | x).

    log f_t(z) = (1 − β_t) log b(z) + β_t log p(x, z),   0 = β_0 < … < β_T = 1
    z_0 ~ b,   z_t ~ a transition that leaves f_t as it is, t < T,
    log w = Σ_t (β_t − β_{t−1}) [log p(x, z_{t−1}) − log b(z_{t−1})],   E w = p(x)

with b the prior or the guide. The transitions are Hamiltonian, all chains of all points at once.
The mean of w is p(x) for any number of temperatures and any step size that does not depend on the
chain itself: step sizes, one for each point and temperature, are found by a few chains of their
own, run first and thrown away. Its logarithm is on average too small, so the estimate is a
stochastic lower bound on log p(x), tight for many temperatures.

Reference:
    Neal (2001), https://doi.org/10.1023/A:1008923215028; Wu, Burda, Salakhutdinov & Grosse (2017),
    On the quantitative analysis of decoder-based generative models,
    https://arxiv.org/abs/1611.04273, for the temperatures and decoders
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pplvae.infer.program import sample_sites
from pplvae.vae import particles
from pplvae.vae.model import VAE
from pplvae.validation import check_one_of, check_positive, check_whole

Values = dict[str, Tensor]

ACCEPTANCE = 0.65  # what step sizes are made for
GAIN = 0.1  # how much of a miss of it one transition corrects, in the step size's logarithm


@dataclass(frozen=True)
class Annealing:
    """Annealed importance sampling as a proposal of `bounds.log_likelihood`.

    It runs the decoder, forward and back, `(num_temperatures − 1) · num_leapfrog` times for each
    chain: nothing is asked of where it would go from the last.
    Latent variables must take all real values.

    Args:
        num_temperatures: Temperatures T on the way.
        num_leapfrog: Leapfrog steps at each.
        start: The law b where chains begin, "prior" or "guide". The guide is nearer, the prior
            forgets no mode of p(z | x). A guide must have a gradient of log q at any z, which an
            inverse autoregressive flow refuses.
        step_size: The first step size, in units of z.
        num_pilots: Chains for each point that find the step sizes; 0 to keep the first.

    Raises:
        ValueError: If an argument is impossible.
    """

    num_temperatures: int = 200
    num_leapfrog: int = 10
    start: str = "prior"
    step_size: float = 0.1
    num_pilots: int = 4

    def __post_init__(self) -> None:
        check_whole("num_temperatures", self.num_temperatures, 1)
        check_whole("num_leapfrog", self.num_leapfrog, 1)
        check_whole("num_pilots", self.num_pilots, 0)
        check_one_of("start", self.start, ["prior", "guide"])
        check_positive("step_size", self.step_size)

    def __call__(self, vae: VAE, x: Tensor, num_samples: int) -> Tensor:
        """Return log weights in nats, shape (S, B), of S chains for each of B prepared points."""
        first = torch.full_like(x[:, 0], self.step_size)
        step_sizes = [first] * (self.num_temperatures - 1)
        if self.num_pilots:
            step_sizes = self._run(vae, x, self.num_pilots, step_sizes, adapt=True)[1]
        return self._run(vae, x, num_samples, step_sizes)[0]

    def _run(
        self,
        vae: VAE,
        x: Tensor,
        num_chains: int,
        step_sizes: list[Tensor],
        *,
        adapt: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the log weights of chains, shape (S, B), and the step sizes they took."""
        path = _Path(vae, x, self.start)
        state = path.at(path.begin(num_chains))
        betas, factor, taken = self._betas(), torch.ones_like(x[:, 0]), []
        log_weight = betas[1] * (state.joint - state.base)
        for step_size, beta, after in zip(step_sizes, betas[1:-1], betas[2:], strict=True):
            taken.append(step_size * factor)
            state, accepted = _transition(path, state, beta, taken[-1], self.num_leapfrog)
            if adapt:
                factor = factor * (GAIN * (accepted.mean(0) - ACCEPTANCE)).exp()
            log_weight = log_weight + (after - beta) * (state.joint - state.base)
        return log_weight, taken

    def _betas(self) -> list[float]:
        """Return all of β from 0 to 1, close to each other near the ends."""
        even = torch.linspace(-4, 4, self.num_temperatures + 1, dtype=torch.float64).sigmoid()
        return ((even - even[0]) / (even[-1] - even[0])).tolist()


@dataclass(frozen=True)
class _State:
    """Where chains are, and what f is made of there."""

    values: Values
    base: Tensor
    joint: Tensor
    base_slope: Values
    joint_slope: Values

    def log_density(self, beta: float) -> Tensor:
        return (1 - beta) * self.base + beta * self.joint

    def slope(self, beta: float, name: str) -> Tensor:
        return (1 - beta) * self.base_slope[name] + beta * self.joint_slope[name]


@dataclass(frozen=True)
class _Path:
    """The laws between b(z) and p(x, z), for a batch of points."""

    vae: VAE
    x: Tensor
    start: str

    def begin(self, num_chains: int) -> Values:
        """Return draws from b, shapes (S, B, L)."""
        if self.start == "guide":
            return particles.propose(self.vae, self.x, num_chains)[0]
        return draw_prior(self.vae, self.x, num_chains)[0]

    @torch.enable_grad()
    def at(self, values: Values) -> _State:
        """Return log b and log p(x, z), shapes (S, B), and their slopes."""
        values = {name: value.detach().requires_grad_() for name, value in values.items()}
        prior, likelihood = particles.log_prior_and_likelihood(self.vae, self.x, values)
        joint = prior + likelihood
        base = prior
        if self.start == "guide":
            base = particles.log_guide(self.vae, self.x, values)
        base_slope, joint_slope = (_slope(law, values) for law in (base, joint))
        values = {name: value.detach() for name, value in values.items()}
        return _State(values, base.detach(), joint.detach(), base_slope, joint_slope)


def draw_prior(vae: VAE, x: Tensor, num_samples: int) -> tuple[Values, Tensor]:
    """Return draws of the latent sites from the prior, (S, B, L), and log p(x | z), (S, B).

    Args:
        vae: The VAE.
        x: Points as `likelihood.prepare` gives them, shape (B, D).
        num_samples: Draws S for each point.
    """
    with pyro.validation_enabled(False), pyro.plate("particles", num_samples, dim=-2):
        sites = sample_sites(poutine.trace(vae.joint).get_trace(x))
        observed = sites.pop("x")
        log_likelihood = observed["fn"].log_prob(observed["value"])
    return {name: site["value"] for name, site in sites.items()}, log_likelihood


def _slope(log_density: Tensor, values: Values) -> Values:
    slopes = torch.autograd.grad(
        log_density.sum(), list(values.values()), retain_graph=True, materialize_grads=True
    )
    return dict(zip(values, slopes, strict=True))


def _transition(
    path: _Path, state: _State, beta: float, step_size: Tensor, num_leapfrog: int
) -> tuple[_State, Tensor]:
    """Return the chains after a Hamiltonian transition, and how likely each moved, (S, B)."""
    start = {name: torch.randn_like(value) for name, value in state.values.items()}
    end, momentum = state, start
    for _ in range(num_leapfrog):
        momentum = _kick(momentum, end, beta, step_size)
        end = path.at(
            {n: z + step_size.unsqueeze(-1) * momentum[n] for n, z in end.values.items()}
        )
        momentum = _kick(momentum, end, beta, step_size)
    gain = end.log_density(beta) - _kinetic(momentum) - state.log_density(beta) + _kinetic(start)
    accepted = gain.clamp(max=0).exp().nan_to_num(0.0)
    return _choose(torch.rand_like(accepted) < accepted, end, state), accepted


def _kick(momentum: Values, state: _State, beta: float, step_size: Tensor) -> Values:
    half = 0.5 * step_size.unsqueeze(-1)
    return {name: p + half * state.slope(beta, name) for name, p in momentum.items()}


def _kinetic(momentum: Values) -> Tensor:
    """Return ½ |p|² of all sites together, shape (S, B)."""
    return reduce(add, (0.5 * p.square().sum(-1) for p in momentum.values()))


def _choose(moved: Tensor, new: _State, old: _State) -> _State:
    """Return the new state where chains moved and the old one where not."""

    def sites(one: Values, other: Values) -> Values:
        return {n: torch.where(moved.unsqueeze(-1), one[n], other[n]) for n in one}

    return _State(
        sites(new.values, old.values),
        torch.where(moved, new.base, old.base),
        torch.where(moved, new.joint, old.joint),
        sites(new.base_slope, old.base_slope),
        sites(new.joint_slope, old.joint_slope),
    )
