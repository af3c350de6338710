"""The identity behind EM, in numbers.

With q(x) the data and any law q(z | x) of a latent z,

    KL(q(x, z) ‖ p(x, z)) = KL(q(x) ‖ p(x)) + E_q(x) KL(q(z | x) ‖ p(z | x)).

For N points both sides but the last term hold the same Σ_x q(x) log q(x) = −log N (in a continuum
it is infinite), which says nothing about p or z: it is left out.

Reference:
    Csiszár & Tusnády (1984), Information geometry and alternating minimization procedures;
    CS480 lecture 17.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Decomposition:
    """The three terms of the identity, in nats per point; `joint` = `marginal` + `conditional`.

    Attributes:
        joint: KL(q(x, z) ‖ p(x, z)), less Σ_x q(x) log q(x).
        marginal: KL(q(x) ‖ p(x)), less the same: −E log p(x).
        conditional: E KL(q(z | x) ‖ p(z | x)), at least 0.
    """

    joint: float
    marginal: float
    conditional: float


def decomposition(log_joint: Tensor, log_q: Tensor) -> Decomposition:
    """Return the three terms for a z of K values, each by a route of its own.

    Labels that Monte Carlo EM has drawn have their shares as q(z | x).

    Args:
        log_joint: log p(x_n, z) in nats, shape (N, K); −inf where impossible.
        log_q: log q(z | x_n) in nats, shape (N, K); −inf where never.

    Raises:
        ValueError: If the shapes differ, a number is nan, or a row of q does not sum to one.
    """
    _check_tables(log_joint, log_q)
    q, possible = log_q.exp(), log_q > -math.inf

    def expectation(log_p: Tensor) -> float:
        """E_q [log q − log p], where 0 log 0 = 0."""
        terms = torch.where(possible, q * (log_q - log_p), 0.0)
        return terms.sum(dim=-1).mean().item()

    return Decomposition(
        joint=expectation(log_joint),
        marginal=-log_joint.logsumexp(dim=-1).mean().item(),
        conditional=expectation(log_joint.log_softmax(dim=-1)),
    )


def decomposition_of_draws(log_joint: Tensor, log_q: Tensor) -> Decomposition:
    """Return the three terms for a continuous z, from S draws z_ns from q(z | x_n) for each point.

    The draws stand for q, each with the share 1/S, and for p with the shares of their importance
    weights w = p(x, z) / q(z | x). Then `joint` is −E log w, unbiased; `marginal` is −log of the
    mean weight, too high by about var(w) / 2S for relative weights w; and `conditional` is the KL
    divergence of equal shares from those of the weights. The identity holds for any S.

    Args:
        log_joint: log p(x_n, z_ns) in nats, shape (N, S).
        log_q: log q(z_ns | x_n) in nats, shape (N, S).

    Raises:
        ValueError: If the shapes differ or a number is nan.
    """
    _check_shapes(log_joint, log_q)
    equal = torch.full_like(log_q, -math.log(log_q.shape[-1]))
    return decomposition(log_joint - log_q + equal, equal)


def _check_tables(log_joint: Tensor, log_q: Tensor) -> None:
    _check_shapes(log_joint, log_q)
    for name, table in (("log_joint", log_joint), ("log_q", log_q)):
        if table.isnan().any():
            raise ValueError(f"{name} must be numbers, got {int(table.isnan().sum())} nan")
    sums = log_q.logsumexp(dim=-1).exp()
    worst = sums[(sums - 1).abs().argmax()].item()
    if abs(worst - 1) > 1e-4:
        raise ValueError(f"log_q must have rows that sum to one, got {worst:.6g}")


def _check_shapes(log_joint: Tensor, log_q: Tensor) -> None:
    if log_q.dim() != 2 or log_joint.shape != log_q.shape:
        got = f"{tuple(log_joint.shape)} and {tuple(log_q.shape)}"
        raise ValueError(f"log_joint and log_q must have one shape (N, K), got {got}")
