"""Expectation-maximization with belief propagation: the parts and their dimensions.

E-step: p(z_i = k | μ) =: r_ik by a few rounds of messages; M-step, with the Gamma(a, b) prior,

    d_k = (a + Σ_i r_ik) / (b + Σ_i r_ik log μ_i),

the mode of the posterior of log d. Without coherence w_k = Σ_i r_ik / N, drawn to 1 / K by one
point's worth of prior; with it all parts are alike a priori. Where the ties have cycles the
messages are not exact and a step may lose: the climb ends where the objective no longer changes.

What matters most is the start. log μ is averaged over ever wider neighborhoods, by a random walk
of t steps along the graph; its averages are split into K groups, of equal size or by k-means.
Each start climbs some steps, the best go on to the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.infer.em import Climb, climb
from pplvae.intrinsic_dimension.hidalgo.coherence import Propagation, Ties
from pplvae.intrinsic_dimension.hidalgo.mixture import SHARES

WALKS = 2, 8, 32, 128  # steps
FIRST, MOST, MOST_PLAIN = 6, 200, 2000  # steps from each start; of the best; without coherence
GOING_ON = 2  # starts
SWEEPS = 5  # of messages in an E-step; they go on from where they were
LEAST_GAIN = 1e-4  # nats
SURE = 0.9  # of a point's part at the start
LLOYD_STEPS = 20


@dataclass(frozen=True, eq=False)
class State:
    """The θ of EM: dimensions and weights, shapes (K,), and messages, shape (M, K)."""

    dimensions: Tensor
    weights: Tensor
    messages: Tensor


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What an E-step says.

    Attributes:
        own: log w_k f_k(μ_i) in nats, shape (N, K); w left out with coherence.
        messages: Shape (M, K).
        probabilities: r, shape (N, K).
        log_likelihood: log p(μ | d) in nats.
    """

    own: Tensor
    messages: Tensor
    probabilities: Tensor
    log_likelihood: float


class Steps:
    """The two steps on given log ratios.

    Args:
        log_ratios: log μ, shape (N,).
        propagation: Along the ties of the points, which may be none.
        num_parts: K.
        prior: Shape and rate of the Gamma prior of a dimension.
    """

    def __init__(
        self,
        log_ratios: Tensor,
        propagation: Propagation,
        num_parts: int,
        prior: tuple[float, float],
    ) -> None:
        self.log_ratios, self.propagation, self.num_parts = log_ratios, propagation, num_parts
        self._prior = prior
        self.coherent = len(propagation.ties.senders) > 0
        self._log_normalizer = propagation.log_normalizer(num_parts) if self.coherent else 0.0

    def expect(self, state: State) -> tuple[Beliefs, float]:
        """Return r, and log p(μ, log d, w) in nats up to a constant."""
        d, logs = state.dimensions, self.log_ratios.unsqueeze(1)
        own = d.log() - (d + 1) * logs
        own = own if self.coherent else own + state.weights.log()
        messages = self.propagation.sweep(own, state.messages, SWEEPS)
        found = self.propagation.log_sum(own, messages).item() - self._log_normalizer
        a, b = self._prior
        log_prior = (a * d.log() - b * d).sum()
        if not self.coherent:
            log_prior = log_prior + (SHARES - 1) * state.weights.log().sum()
        probabilities = (own + self.propagation.field(messages)).softmax(dim=1)
        return Beliefs(own, messages, probabilities, found), found + log_prior.item()

    def maximize(self, found: Beliefs) -> State:
        """Return the next θ."""
        return self.state(found.probabilities, found.messages)

    def state(self, probabilities: Tensor, messages: Tensor | None = None) -> State:
        """Return the best θ for points of these parts, with their messages where not given."""
        (a, b), counts = self._prior, probabilities.sum(dim=0)
        dimensions = (a + counts) / (b + self.log_ratios @ probabilities)
        weights = (counts + SHARES - 1) / (counts.sum() + self.num_parts * (SHARES - 1))
        if messages is None:
            messages = self.propagation.start(probabilities)
        return State(dimensions, weights, messages)

    def climb(self, start: State, max_steps: int) -> Climb[State, Beliefs]:
        """Return where the steps lead."""
        return climb(
            self.expect,
            self.maximize,
            start,
            max_steps=max_steps,
            least_gain=LEAST_GAIN,
            strict=False,
        )


def fit(steps: Steps, walk: Ties, *, progress: bool = True) -> Climb[State, Beliefs]:
    """Return the best climb from all starts, parts in order of dimension.

    Args:
        steps: The two steps.
        walk: Ties along which log μ is averaged for the starts.
        progress: Whether to show a bar that counts the starts.
    """
    begun = []
    first = list(starts(steps.log_ratios, walk, steps.num_parts))
    for probabilities in tqdm(first, desc="Hidalgo", unit=" starts", disable=not progress):
        begun.append(steps.climb(steps.state(probabilities), FIRST))
    begun.sort(key=lambda found: found.objectives[-1], reverse=True)
    most = MOST if steps.coherent else MOST_PLAIN
    ended = [steps.climb(found.parameters, most) for found in begun[:GOING_ON]]
    return _ordered(max(ended, key=lambda found: found.objectives[-1]))


def starts(log_ratios: Tensor, walk: Ties, num_parts: int) -> Iterator[Tensor]:
    """Yield labels to start from, shapes (N, K)."""
    if num_parts == 1:
        yield torch.ones_like(log_ratios).unsqueeze(1)
        return
    averages, taken = log_ratios, 0
    for num_steps in WALKS:
        averages, taken = _walked(averages, walk, num_steps - taken), num_steps
        for labels in (_equal(averages, num_parts), _clustered(averages, num_parts)):
            yield _soft(num_parts - 1 - labels, num_parts).to(log_ratios)


def _walked(values: Tensor, walk: Ties, num_steps: int) -> Tensor:
    """Return the averages of values (N,) after more steps of a lazy walk."""
    degrees = torch.ones_like(values).index_add(0, walk.receivers, torch.ones_like(walk.counts))
    for _ in range(num_steps):
        values = values.index_add(0, walk.receivers, values[walk.senders]) / degrees
    return values


def _equal(values: Tensor, num_parts: int) -> Tensor:
    """Return groups of equal size in order of value, shape (N,)."""
    return values.argsort().argsort() * num_parts // len(values)


def _clustered(values: Tensor, num_parts: int) -> Tensor:
    """Return groups by k-means of the logs, in order of value, shape (N,)."""
    logs = values.clamp(min=torch.finfo(values.dtype).tiny).log()
    middles = (torch.arange(num_parts).to(values) + 0.5) / num_parts
    centers = torch.quantile(logs[_spread(len(logs))], middles)
    for _ in range(LLOYD_STEPS):
        owners = _soft(_nearest(logs, centers), num_parts, 1.0).to(logs)
        counts = owners.sum(dim=0)
        centers = torch.where(counts > 0, logs @ owners / counts.clamp(min=1), centers)
    return _nearest(logs, centers)


def _nearest(values: Tensor, centers: Tensor) -> Tensor:
    return (values.unsqueeze(1) - centers).abs().argmin(dim=1)


def _spread(size: int, most: int = 10**6) -> Tensor:
    """Return at most so many evenly spread places: `torch.quantile` takes no more than 2²⁴."""
    return torch.linspace(0, size - 1, min(size, most), dtype=torch.float64).long()


def _soft(labels: Tensor, num_parts: int, sure: float = SURE) -> Tensor:
    hard = torch.nn.functional.one_hot(labels, num_parts).double()
    return sure * hard + (1 - sure) / num_parts


def _ordered(found: Climb[State, Beliefs]) -> Climb[State, Beliefs]:
    """Return the same with the parts in order of dimension."""
    state, said = found.parameters, found.expectations
    order = state.dimensions.argsort()
    state = State(state.dimensions[order], state.weights[order], state.messages[:, order])
    probabilities = said.probabilities[:, order]
    said = Beliefs(said.own[:, order], said.messages[:, order], probabilities, said.log_likelihood)
    return Climb(state, said, found.objectives, found.converged)
