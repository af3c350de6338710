"""Stochastic gradients of an evidence bound, for any Pyro model and guide.

A bound is an expectation under the guide q_φ, so its gradient in φ must pass through the draws.
With z = g_φ(ε) and f = log p(x, z) − log q_φ(z) there are two ways:

    reparameterized   ∇ E_q f = E_ε ∇ f(g_φ(ε))
    score function    ∇ E_q f = E_q [(f − b) ∇ log q_φ(z) + ∇ f]      (E_q ∇ log q = 0)

The second, the log-trick, needs no path through z but varies far more. A baseline b, here a
running mean of f, leaves the expectation as it is and takes out most of the variance. The lecture
writes the log-trick as E_q [f ∇ log(f q)]: the same, where f > 0.

The bounds, with K draws z_k and w_k = p(x, z_k) / q(z_k):

    ELBO = E log w,   IWAE_K = E log 1/K Σ_k w_k,   Rényi: E log (1/K Σ_k w_k^(1−α)) / (1−α).

"mean_field" is the ELBO with the KL of each site in closed form where there is one.

Reference:
    Lecture 17 (CS480) and Lecture 5; Kingma & Welling (2014), https://arxiv.org/abs/1312.6114;
    Ranganath et al. (2014), Black box variational inference; Burda et al. (2016), Importance
    weighted autoencoders; Li & Turner (2016), Rényi divergence variational inference
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pplvae import randomness
from pplvae.infer import guides
from pplvae.infer.evaluation import log_joint_by_vmap
from pplvae.infer.program import Model, Program, inspect, sample_sites
from pplvae.infer.score import LosePaths, Score, with_auxiliary
from pplvae.validation import check_one_of, check_whole

OBJECTIVES = ("elbo", "mean_field", "iwae", "renyi")
GRADIENTS = ("reparameterized", "score", "baseline")
JITTED = (JitTrace_ELBO, JitTraceEnum_ELBO)

Loss: TypeAlias = Callable[[], Tensor]
Result = TypeVar("Result")


def loss(
    model: Model,
    guide: Model,
    data: tuple[Any, ...],
    *,
    objective: str = "elbo",
    gradient: str = "reparameterized",
    num_particles: int = 1,
    alpha: float = 0.5,
    jit: bool = False,
) -> Loss:
    """Return a function of no arguments whose value is −bound on new draws, in nats, shape ().

    Its derivative is the gradient estimate, in the parameters of the guide and the model.

    Args:
        model: A Pyro model; finite discrete sites that the guide leaves out are summed out.
        guide: A Pyro guide of the same arguments.
        data: Their arguments.
        objective: "elbo", "mean_field", "iwae" with K = `num_particles`, or "renyi".
        gradient: "reparameterized" takes the path through each site that has one, the score
            function elsewhere; "score" the score function everywhere; "baseline" the same with
            a running mean as the baseline. The last two are for the ELBO.
        num_particles: Draws from the guide.
        alpha: Rényi's α, not 1; 0 gives the IWAE.
        jit: Whether to compile the reparameterized ELBO, about twice as fast on small data; where
            the compiled one says something else, the plain one is used.

    Raises:
        ValueError: If an argument is impossible, or they do not go together.
    """
    check_one_of("objective", objective, OBJECTIVES)
    check_one_of("gradient", gradient, GRADIENTS)
    check_whole("num_particles", num_particles, 1)
    program = inspect(model, *data)
    summed, pathless = _sites(program, guide, data)
    _check_together(objective, gradient, alpha, summed, pathless)
    order = {"elbo": 1.0, "iwae": 0.0}.get(objective, alpha)
    together = guides.together(model, guide, data, program)
    by_vmap = num_particles > 1 and together.mapped and not pathless
    if by_vmap and gradient == "reparameterized" and objective != "mean_field":
        return checked_once(
            lambda: -_bound(_log_weights(model, guide, data, program, num_particles), order)
        )
    if gradient != "reparameterized" and summed:
        return checked_once(
            Score(
                model, guide, data, program=program, size=num_particles, gradient=gradient,
                in_plate=together.in_plate,
            )
        )  # fmt: skip
    leaves = [*guides.leaves(guide, data), *guides.leaves(model, data)]
    leaves = list({id(leaf): leaf for leaf in leaves}.values())
    # Pyro weighs the summed sites of particles in a plate in the default precision alone.
    fits = not summed or all(leaf.dtype == torch.get_default_dtype() for leaf in leaves)
    settings: dict[str, Any] = {
        "num_particles": num_particles,
        "max_plate_nesting": program.max_plate_nesting,
        "vectorize_particles": num_particles > 1 and together.in_plate and fits,
    }
    elbo = _estimator(objective, gradient, alpha, bool(summed))(**settings)
    if summed:
        model = config_enumerate(model)
    if gradient != "reparameterized":
        model = with_auxiliary(model, guide, data)
        guide = LosePaths(baseline=gradient == "baseline")(guide)
    plain = checked_once(lambda: _value(elbo, model, guide, data, leaves))
    if not jit or (objective, gradient) != ("elbo", "reparameterized"):
        return plain
    compiled = (JitTraceEnum_ELBO if summed else JitTrace_ELBO)(**settings)
    # The data become constants of the compiled program.
    held, holding = (partial(run, *data) for run in (model, guide))
    quick = checked_once(lambda: _value(compiled, held, holding, (), leaves))
    return quick if _agree(quick, plain, leaves) else plain


def _sites(program: Program, guide: Model, data: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """Return which of a model's sites are summed out, and which of the guide's have no path."""
    with torch.no_grad(), poutine.block():
        sites = sample_sites(poutine.trace(guide).get_trace(*data))
    summed = [name for name in program.enumerated if name not in sites]
    pathless = [
        name
        for name, site in sites.items()
        if not site["is_observed"] and not site["fn"].has_rsample
    ]
    return summed, pathless


def _check_together(
    objective: str, gradient: str, alpha: float, summed: list[str], pathless: list[str]
) -> None:
    if gradient != "reparameterized" and objective != "elbo":
        raise ValueError(
            f"gradient must be 'reparameterized' for objective {objective!r}, got {gradient!r}"
        )
    if summed and objective != "elbo":
        raise ValueError(
            f"objective must be 'elbo' for a model that sums out {summed}, got {objective!r}"
        )
    if pathless and objective != "elbo":
        raise ValueError(
            f"objective must be 'elbo' for a guide that draws {pathless}, which have no "
            f"reparameterized gradient, got {objective!r}"
        )
    if objective == "renyi" and alpha == 1:
        raise ValueError("alpha must not be 1 for 'renyi', got 1: that limit is 'elbo'")


def _estimator(objective: str, gradient: str, alpha: Any, summed: bool) -> Callable[..., ELBO]:
    """Return Pyro's class for it."""
    if summed:
        # A guide may draw some of the sites that could be summed out.
        return partial(TraceEnum_ELBO, strict_enumeration_warning=False)
    if gradient == "baseline":
        return TraceGraph_ELBO
    if objective in ("iwae", "renyi"):
        return partial(RenyiELBO, alpha=alpha if objective == "renyi" else 0)
    return TraceMeanField_ELBO if objective == "mean_field" else Trace_ELBO


def _log_weights(
    model: Model, guide: Model, data: tuple[Any, ...], program: Program, size: int
) -> Tensor:
    """Return log p(x, θ_k) − log q(θ_k), shape (K,), for draws that the model takes by vmap."""
    draws, log_q = guides.draw_block(guide, data, program, size)
    return log_joint_by_vmap(model, data, program, draws) - log_q


def _bound(log_weight: Tensor, order: float) -> Tensor:
    """Return Rényi's bound of that order: 1 is the ELBO, 0 the IWAE."""
    if order == 1:
        return log_weight.mean()
    rest = 1 - order
    return ((rest * log_weight).logsumexp(dim=0) - math.log(len(log_weight))) / rest


def _value(
    elbo: Any, model: Model, guide: Model, data: tuple[Any, ...], leaves: list[Tensor]
) -> Tensor:
    """Return −bound with the derivative that Pyro gives it in the leaves."""
    if hasattr(elbo, "differentiable_loss") and not isinstance(elbo, JITTED):
        return elbo.differentiable_loss(model, guide, *data)
    # Pyro leaves these gradients on the parameters: hand them on by a function linear in them.
    kept = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    value = elbo.loss_and_grads(model, guide, *data)
    slopes = [leaf.grad for leaf in leaves]
    for leaf, old in zip(leaves, kept, strict=True):
        leaf.grad = old
    moves = [(x * dx).sum() for x, dx in zip(leaves, slopes, strict=True) if dx is not None]
    line = torch.stack(moves).sum() if moves else leaves[0].new_zeros(())
    return value + line - line.detach()


def _agree(quick: Loss, plain: Loss, leaves: list[Tensor]) -> bool:
    """Whether a compiled loss has the value and slopes of the plain one, here and nearby."""
    kept = [leaf.detach().clone() for leaf in leaves]
    tolerance = torch.finfo(kept[0].dtype).eps ** 0.5
    try:
        _said(quick, leaves, 0)  # the first call compiles, and draws on its way
        for step in (0.0, 0.1, 1.0):
            with torch.no_grad():
                for leaf, old in zip(leaves, kept, strict=True):
                    leaf.copy_(old + step * torch.randn_like(old))
            expected, found = (_said(loss, leaves, round(10 * step)) for loss in (plain, quick))
            if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
                return False
    except Exception:  # a program is anyone's code; where the plain one is wrong it will say so
        return False
    finally:
        with torch.no_grad():
            for leaf, old in zip(leaves, kept, strict=True):
                leaf.copy_(old)
    return True


def _said(loss: Loss, leaves: list[Tensor], seed: int) -> Tensor:
    with randomness.scope(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit announces its end; programs have warned before
        value = loss()
    slopes = torch.autograd.grad(value, leaves, allow_unused=True)
    flat = [slope.reshape(-1) for slope in slopes if slope is not None]
    return torch.cat([value.detach().reshape(1), *flat])


def checked_once(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return a function that runs with Pyro's checks at its first call only.

    What Pyro can find wrong with a program it finds then.
    """
    checks = [is_validation_enabled()]

    def run(*data: Any) -> Result:
        if not checks:
            with pyro.validation_enabled(False):
                return function(*data)
        with pyro.validation_enabled(checks.pop()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found auxiliary vars in the model")  # ours
            return function(*data)

    return run
