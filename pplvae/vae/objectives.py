"""What a VAE is trained to make large: bounds on log p(x), and their gradients.

With K draws z_k from q(z | x) and w_k = p(x, z_k) / q(z_k | x),

    ELBO     = E 1/K Σ_k log w_k = E_q log p(x | z) − KL(q(z | x) ‖ p(z))
    IWAE_K   = E log 1/K Σ_k w_k,   ELBO = IWAE_1 ≤ IWAE_K ≤ log p(x)

A weighted ELBO is E_q log p(x | z) − β max(KL, λ): β < 1 early on, or λ > 0 nats that a dimension
has for free, keep the code from collapsing onto the prior. It is no bound on log p(x) for β < 1,
so the true one is reported beside it.

The gradient goes through z = g(ε, φ), and there is a choice of what to leave out or to weigh:

    reparameterized   d/dφ log w,  of all φ that log w holds
    stl               without ∂/∂φ log q_φ(z) at fixed z, whose mean is 0: no noise left where
                      q(z | x) = p(z | x) ("sticking the landing"; for the ELBO)
    dreg              Σ_k w̃_k² (∂ log w_k / ∂z_k) dz_k/dφ for the guide, Σ_k w̃_k ∂/∂θ log w_k for
                      the model, w̃_k = w_k / Σ_j w_j: doubly reparameterized (for the IWAE), whose
                      signal does not fade as K grows
    score             E_q [(f − b) ∇ log q(z)], f = log w, the lecture's log-trick, with b = 0
    baseline          the same with b the mean of f over the point's other draws, or for one draw
                      over the batch's other points: known without z, so it leaves the mean alone

Reference:
    Burda et al. (2016), https://arxiv.org/abs/1509.00519; Roeder et al. (2017),
    https://arxiv.org/abs/1703.09194 (stl); Tucker et al. (2019), https://arxiv.org/abs/1810.04152
    (dreg); Kingma et al. (2016), https://arxiv.org/abs/1606.04934 (free bits); Lectures 5, 17
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
from pyro.distributions import TorchDistribution
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.modules.dropout import _DropoutNd as Dropout

from pplvae.infer.program import sample_sites
from pplvae.optimize import Schedule
from pplvae.vae import particles
from pplvae.vae.distributions import DiagonalGaussian, kl_by_dimension
from pplvae.vae.model import VAE
from pplvae.vae.particles import Particles
from pplvae.validation import check_in_range, check_one_of, check_whole

Laws: TypeAlias = dict[str, TorchDistribution]


@dataclass(frozen=True)
class Objective:
    """A bound and the estimator of its gradient; a subclass has `estimate`."""

    def estimate(self, vae: VAE, x: Tensor, progress: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return −objective to differentiate, and the true bound, both summed over the batch.

        Args:
            vae: The VAE, in the mode it is in.
            x: Points as `likelihood.prepare` gives them, shape (B, D).
            progress: Of the training, in [0, 1], for what changes on the way.

        Returns:
            Two numbers in nats, shape (); the second has no gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} must define estimate")

    def __call__(self, vae: VAE, x: Tensor, progress: float = 1.0) -> Tensor:
        """Return −objective summed over the batch, in nats, shape (), with its gradient."""
        return self.estimate(vae, x, progress)[0]

    def judged(self) -> "Objective":
        """Return the bound that weights are chosen by: the true one."""
        return self

    @property
    def is_elbo(self) -> bool:
        """Whether what is trained is the ELBO, which must otherwise stand beside it."""
        raise NotImplementedError(f"{type(self).__name__} must define is_elbo")


@dataclass(frozen=True)
class ELBO(Objective):
    """The evidence lower bound.

    Args:
        num_particles: Draws K of z for each point.
        kl: "sampled", or "analytic" where there is one latent site and a formula.
        kl_weight: β ≥ 0, or a schedule of it over the training (`optimize.warmup(0.1)`).
        free_bits: λ ≥ 0, nats of the mean KL of each latent dimension that cost as much as none;
            of the whole latent site, λ L, where its dimensions have no KL each.
        gradient: "reparameterized", "stl", "score" or "baseline".

    Raises:
        ValueError: If an argument is impossible, or they do not go together.
    """

    GRADIENTS: ClassVar = ("reparameterized", "stl", "score", "baseline")

    num_particles: int = 1
    kl: str = "sampled"
    kl_weight: float | Schedule = 1.0
    free_bits: float = 0.0
    gradient: str = "reparameterized"

    def __post_init__(self) -> None:
        check_whole("num_particles", self.num_particles, 1)
        check_one_of("kl", self.kl, ["sampled", "analytic"])
        check_one_of("gradient", self.gradient, self.GRADIENTS)
        check_in_range("free_bits", self.free_bits, 0.0)
        if not callable(self.kl_weight):
            check_in_range("kl_weight", self.kl_weight, 0.0)
        if self.gradient != "reparameterized" and (self.kl == "analytic" or not self.is_elbo):
            raise ValueError(
                "gradient must be 'reparameterized' for an analytic or weighted KL, got "
                f"{self.gradient!r}"
            )

    @property
    def is_elbo(self) -> bool:
        """Whether there is neither a weight nor a floor."""
        return self.kl_weight == 1.0 and self.free_bits == 0

    def judged(self) -> "ELBO":
        """Return the ELBO without weights."""
        return replace(self, kl_weight=1.0, free_bits=0.0, gradient="reparameterized")

    def estimate(self, vae: VAE, x: Tensor, progress: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return −objective and the ELBO, both summed over the batch; see `Objective`."""
        if self.gradient in ("score", "baseline"):
            return _score(vae, x, self.num_particles, baseline=self.gradient == "baseline")
        if self.gradient == "stl":
            return self._path_only(vae, x)
        if self.kl == "sampled" and self.is_elbo:
            loss = _trace_elbo(self.num_particles)(vae.joint, vae.recognition, x)
            return loss, -loss.detach()
        return self._weighted(vae, x, progress)

    def _weighted(self, vae: VAE, x: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        draws = particles.draw(vae, x, self.num_particles)
        _check_paths(draws.guides, self)
        weight = self.kl_weight(progress) if callable(self.kl_weight) else self.kl_weight
        check_in_range("kl_weight", weight, 0.0)
        reconstruction = draws.log_likelihood.mean(0).sum()
        kl = self._kl(draws).sum()
        price = weight * (self._floored(draws) if self.free_bits else kl)
        return price - reconstruction, (reconstruction - kl).detach()

    def _path_only(self, vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
        draws = particles.draw(vae, x, self.num_particles)
        _check_paths(draws.guides, self)
        _check_one_pass(vae, draws.guides)
        log_weight = draws.log_weight + _score_removed(vae, x, draws.values, draws.guides)
        loss = -log_weight.mean(0).sum()
        return loss, -loss.detach()

    def _kl(self, draws: Particles) -> Tensor:
        """Return the KL of each point, shape (B,)."""
        if self.kl == "sampled":
            return (draws.log_q - draws.log_prior).mean(0)
        q, p = _only(draws)
        try:
            return kl_divergence(q, p).mean(0)
        except NotImplementedError:
            raise ValueError(
                f"kl must be 'sampled' for {type(q).__name__} against {type(p).__name__}, which "
                "have no formula, got 'analytic'"
            ) from None

    def _floored(self, draws: Particles) -> Tensor:
        """Return the batch's KL, each dimension's mean at least λ, shape ()."""
        size = draws.log_q.shape[-1]
        pairs = [(draws.guides[name], draws.priors[name]) for name in draws.values]
        if len(pairs) == 1 and all(isinstance(law, DiagonalGaussian) for law in pairs[0]):
            groups = kl_by_dimension(*pairs[0]).mean((0, 1))  # type: ignore[arg-type]
            return size * groups.clamp(min=self.free_bits).sum()
        dims = sum(value.shape[-1] for value in draws.values.values())
        return size * self._kl(draws).mean().clamp(min=self.free_bits * dims)


@dataclass(frozen=True)
class IWAE(Objective):
    """The importance-weighted bound.

    Args:
        num_particles: Draws K of z for each point.
        gradient: "reparameterized" or "dreg".

    Raises:
        ValueError: If an argument is impossible.
    """

    GRADIENTS: ClassVar = ("reparameterized", "dreg")

    num_particles: int = 10
    gradient: str = "reparameterized"

    def __post_init__(self) -> None:
        check_whole("num_particles", self.num_particles, 1)
        check_one_of("gradient", self.gradient, self.GRADIENTS)

    @property
    def is_elbo(self) -> bool:
        """Whether K = 1."""
        return self.num_particles == 1

    def judged(self) -> "IWAE":
        """Return the bound with its plain gradient."""
        return replace(self, gradient="reparameterized")

    def estimate(self, vae: VAE, x: Tensor, progress: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return −IWAE_K and the ELBO on the same draws, both summed over the batch."""
        if self.gradient == "dreg":
            return self._doubly(vae, x)
        draws = particles.draw(vae, x, self.num_particles)
        _check_paths(draws.guides, self)
        log_weight = draws.log_weight
        return -_iwae(log_weight).sum(), log_weight.detach().mean(0).sum()

    def _doubly(self, vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
        values, laws = particles.propose(vae, x, self.num_particles)
        _check_paths(laws, self)
        _check_one_pass(vae, laws)
        shares: list[Tensor] = []  # w̃, known by the time the slopes pass through z
        hooked = {name: value.view_as(value) for name, value in values.items()}
        for value in hooked.values():
            if value.requires_grad:
                value.register_hook(lambda slope: slope * shares[0].unsqueeze(-1))
        log_q = _log_guide(vae, x, hooked, laws) - _score_removed(vae, x, values, laws)
        log_weight = particles.log_joint(vae, x, hooked) - log_q
        shares.append(log_weight.detach().softmax(0))
        bound = _iwae(log_weight.detach()).sum()
        surrogate = (shares[0] * log_weight).sum()
        return surrogate.detach() - surrogate - bound, log_weight.detach().mean(0).sum()


OBJECTIVES: dict[str, Callable[[], Objective]] = {"elbo": ELBO, "iwae": IWAE}


def as_objective(objective: str | Objective) -> Objective:
    """Return an objective, or the one of that name with its defaults.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(objective, Objective):
        return objective
    check_one_of("objective", objective, OBJECTIVES)
    return OBJECTIVES[objective]()


class _PathwiseELBO(Trace_ELBO):
    """Trace_ELBO where all draws have a path: its surrogate is then the loss itself.

    Pyro's own asks for four numbers on the way, for which a GPU must be waited for.
    """

    def differentiable_loss(self, model: Any, guide: Any, *args: Any) -> Tensor:
        """Return −ELBO with its gradient, shape ()."""
        loss = torch.zeros(())
        for model_trace, guide_trace in self._get_traces(model, guide, args, {}):
            drawn = sample_sites(guide_trace).values()
            if not all(site["fn"].has_rsample for site in drawn):
                return super().differentiable_loss(model, guide, *args)
            loss = guide_trace.log_prob_sum() - model_trace.log_prob_sum()
        return loss / self.num_particles


def _trace_elbo(num_particles: int) -> Callable[..., Tensor]:
    several = num_particles > 1
    return _PathwiseELBO(
        num_particles=num_particles, vectorize_particles=several, max_plate_nesting=1
    ).differentiable_loss


def _iwae(log_weight: Tensor) -> Tensor:
    """Return log 1/K Σ_k w_k, shape (B,)."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def _only(draws: Particles) -> tuple[TorchDistribution, TorchDistribution]:
    """Return q and p of the one latent site."""
    names = list(draws.values)
    if len(names) > 1:
        raise ValueError(f"kl must be 'sampled' for several latent sites {names}, got 'analytic'")
    return draws.guides[names[0]], draws.priors[names[0]]


def _score(vae: VAE, x: Tensor, size: int, *, baseline: bool) -> tuple[Tensor, Tensor]:
    # One pass of the guide: dropout must not draw z from one q and score it under another.
    values, laws = particles.propose(vae, x, size, paths=False)
    log_q = particles.sum_of(law.log_prob(values[name]) for name, law in laws.items())
    log_p = particles.log_joint(vae, x, values)
    log_weight = (log_p - log_q).detach()
    signal = log_weight - _others(log_weight) if baseline else log_weight
    bound = log_weight.mean(0).sum()
    surrogate = (log_p + signal * log_q).mean(0).sum()
    return surrogate.detach() - surrogate - bound, bound


def _others(values: Tensor) -> Tensor:
    """Return the mean of a point's other draws; of the other points where there is one draw.

    Zeros where there are no others: also known without z.
    """
    num_particles, num_points = values.shape
    axis, size = (0, num_particles) if num_particles > 1 else (1, num_points)
    if size < 2:
        return torch.zeros_like(values)
    return (values.sum(axis, keepdim=True) - values) / (size - 1)


def _check_paths(laws: Laws, objective: Objective) -> None:
    """Refuse draws without a path, whose gradient would be silently wrong or zero."""
    pathless = [name for name, law in laws.items() if not law.has_rsample]
    if pathless:
        raise ValueError(
            f"objective must be ELBO(gradient='score') or 'baseline' for a posterior without "
            f"rsample, of {pathless}, got {objective}"
        )


def _check_one_pass(vae: VAE, laws: Laws) -> None:
    """Refuse a guide of several sites, which is run twice, with dropout, which differs then."""
    parts = [part for module in vae.guide_parts() for part in module.modules()]
    if len(laws) > 1 and any(isinstance(p, Dropout) and p.training and p.p for p in parts):
        raise ValueError(
            "gradient must be 'reparameterized' for several latent sites and dropout in the "
            "guide, whose score would be taken under another mask, got 'stl' or 'dreg'"
        )


def _score_removed(vae: VAE, x: Tensor, values: dict[str, Tensor], laws: Laws) -> Tensor:
    """Return zeros, shape (K, B), whose slope is that of log q in its parameters at fixed z."""
    fixed = {name: value.detach() for name, value in values.items()}
    score = _log_guide(vae, x, fixed, laws)
    return score - score.detach()


def _log_guide(vae: VAE, x: Tensor, values: dict[str, Tensor], laws: Laws) -> Tensor:
    """Return log q at these values, shape (K, B)."""
    if len(laws) > 1:  # the law of one site hangs on the value of another
        return particles.log_guide(vae, x, values)
    ((name, law),) = laws.items()
    return law.log_prob(values[name])
