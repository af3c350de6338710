"""Neighbor coherence: the sum over all labelings z, by belief propagation.

Points are tied where one is among the q nearest of the other, and more so where each is: a tie of
c = 1 or 2 costs c log ζ/(1 − ζ) nats if it joins two parts. A point hears from each neighbor j
what j's other neighbors and its own ratio say of its part, c_j(k), by the message

    m_j(k) = Σ_l ψ(k, l) c_j(l) = 1 − (1 − ψ)(1 − c_j(k)),   ψ(k, k) = 1, ψ(k, l) = ((1 − ζ)/ζ)^c,

so that p(z_i = k | what all others say) ∝ Π_j m_j(k) =: exp h_ik, and with its own ratio
p(z_i = k | μ) ∝ f_k(μ_i) exp h_ik. Where the messages have settled, Bethe's sum

    log Σ_z ≈ Σ_i log Σ_k f_k(μ_i) exp h_ik − Σ_(ij) log Σ_kl c_i(k) ψ(k, l) c_j(l)

is that of log Σ_z Π_i f_{z_i}(μ_i) Π ψ; less the same with f = 1, the log of Z, it is
log p(μ | d). All of this is exact where the ties have no cycle. Where they have, messages go
around and come back: the labels get too sure of themselves, at the walls between parts most.

Reference:
    Yedidia, Freeman & Weiss (2005), Constructing free-energy approximations and generalized
    belief propagation algorithms, https://doi.org/10.1109/TIT.2005.850085
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.neighbors import NeighborGraph

DAMPING = 0.5  # of a message's log: undamped ones swing between two states
MOST_SWEEPS = 300  # over a prior, which settles slowly near ζ where order sets in
SETTLED = 1e-6  # nats
BROKEN = 0.01  # above 1 / K, where a prior has chosen one of its K equal states


@dataclass(frozen=True, eq=False)
class Ties:
    """The pairs of neighbors, each once in either direction; M in all.

    Attributes:
        senders: Point each message comes from, shape (M,).
        receivers: Point it goes to, shape (M,).
        reverse: Place of the message that goes the other way, shape (M,).
        counts: 2 where each is among the q nearest of the other, else 1, shape (M,).
        num_points: N.
    """

    senders: Tensor
    receivers: Tensor
    reverse: Tensor
    counts: Tensor
    num_points: int


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """What the neighbors of each point say of its part, its own ratio left out.

    Attributes:
        opinions: Of the sender of each message on its own part, the receiver's say left out,
            shape (M, K), rows summing to one.
        receivers: Point each goes to, shape (M,).
        counts: How often the two are neighbors, 1 or 2, shape (M,).
        weights: The shares of the parts among all points, shape (K,).
        num_points: N.
    """

    opinions: Tensor
    receivers: Tensor
    counts: Tensor
    weights: Tensor
    num_points: int

    def evidence(self, zeta: float | Tensor) -> Tensor:
        """Return log p(z_i = k | the others) − log w_k, in nats, shape (…, N, K).

        By Bayes' rule it is what the neighbors add, as a likelihood, to the prior weights w.

        Args:
            zeta: ζ in (0, 1); or several, shape (…).
        """
        zeta = torch.as_tensor(zeta).to(self.opinions)
        costs = torch.logit(zeta)[..., None, None] * self.counts.unsqueeze(-1)
        heard = gathered(message(self.opinions, costs), self.receivers, self.num_points)
        return heard.log_softmax(dim=-1) - self.weights.log()


def ties(graph: NeighborGraph, num_coherent: int) -> Ties:
    """Return the ties between each point and its nearest `num_coherent`, which may be 0."""
    size = len(graph)
    found = graph.indices[:, :num_coherent]
    one = torch.arange(size, device=found.device).unsqueeze(1).expand_as(found).reshape(-1)
    other = found.reshape(-1)
    both = torch.cat([one * size + other, other * size + one])
    pairs, counts = both.unique(return_counts=True)
    senders, receivers = pairs // size, pairs % size
    reverse = torch.searchsorted(pairs, receivers * size + senders)
    return Ties(senders, receivers, reverse, counts.to(graph.distances), size)


def message(opinions: Tensor, costs: Tensor) -> Tensor:
    """Return log Σ_l ψ(k, l) c(l), shape (…, M, K), for c (M, K) and costs −log ψ (…, M, 1)."""
    return torch.log1p(torch.expm1(costs) * opinions) - costs


def gathered(messages: Tensor, receivers: Tensor, num_points: int) -> Tensor:
    """Return the field h, the sum of the log messages to each point, shape (…, N, K)."""
    empty = messages.new_zeros(*messages.shape[:-2], num_points, messages.shape[-1])
    return empty.index_add(-2, receivers, messages)


class Propagation:
    """Belief propagation along ties.

    Args:
        ties: The pairs.
        zeta: ζ in [½, 1).
    """

    def __init__(self, ties: Ties, zeta: float) -> None:
        self.ties, self.zeta = ties, zeta
        self._costs = (math.log(zeta) - math.log1p(-zeta)) * ties.counts.unsqueeze(-1)

    def start(self, probabilities: Tensor) -> Tensor:
        """Return the messages of points of these parts, shape (M, K), for (N, K)."""
        return message(probabilities[self.ties.senders], self._costs)

    def field(self, messages: Tensor) -> Tensor:
        """Return h, shape (N, K)."""
        return gathered(messages, self.ties.receivers, self.ties.num_points)

    def opinions(self, own: Tensor, messages: Tensor) -> Tensor:
        """Return log c, shape (M, K); `own` is log f_k(μ_i), shape (N, K)."""
        joint = own + self.field(messages)
        return (joint[self.ties.senders] - messages[self.ties.reverse]).log_softmax(dim=1)

    def sweep(self, own: Tensor, messages: Tensor, num_sweeps: int) -> Tensor:
        """Return the messages after so many rounds, or fewer where they settle."""
        for _ in range(num_sweeps):
            found = message(self.opinions(own, messages).exp(), self._costs)
            change = (found - messages).abs().max().item() if len(found) else 0.0
            if change < SETTLED:
                break
            messages = DAMPING * messages + (1 - DAMPING) * found
        return messages

    def log_sum(self, own: Tensor, messages: Tensor) -> Tensor:
        """Return Bethe's log Σ_z Π_i f_{z_i} Π ψ, in nats, shape ()."""
        points = (own + self.field(messages)).logsumexp(dim=1).sum()
        pairs = (self.opinions(own, messages) + messages[self.ties.reverse]).logsumexp(dim=1)
        return points - pairs.sum() / 2

    def log_normalizer(self, num_parts: int) -> float:
        """Return log Σ_z Π ψ, the log of Z up to the number of ties, in nats.

        Where coherence is strong nearly all points of a connected piece are of one part, any of
        the K: Bethe's sum is that of one such state, and log K is added for each piece.
        """
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        size, pairs = self.ties.num_points, (self.ties.senders, self.ties.receivers)
        own = self._costs.new_zeros(size, num_parts)
        aligned = own.clone()
        aligned[:, 0] = 1.0
        messages = self.sweep(own, self.start(aligned), MOST_SWEEPS)
        chosen = self.field(messages).softmax(dim=1).amax(dim=1) > 1 / num_parts + BROKEN
        rows, columns = (part.cpu().numpy() for part in pairs)
        joined = csr_array((rows >= 0, (rows, columns)), shape=(size, size))
        pieces = torch.as_tensor(connected_components(joined, directed=False)[1])
        num_ordered = len(pieces[chosen.cpu()].unique())
        return self.log_sum(own, messages).item() + num_ordered * math.log(num_parts)

    def neighborhood(self, own: Tensor, messages: Tensor, weights: Tensor) -> Neighborhood:
        """Return what neighbors say of each point, its own ratio left out."""
        opinions = self.opinions(own, messages).exp()
        found = self.ties
        return Neighborhood(opinions, found.receivers, found.counts, weights, found.num_points)
