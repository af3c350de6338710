"""Where climbs are, and how they came there."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Moments, Parameters


@dataclass
class Path:
    """One climb: where it is, and how it came there.

    Attributes:
        at: The mixture, as a batch of one.
        gone: Which components were given up, shape (K,).
        objectives: Log likelihood plus log prior up to a constant, in nats, at each place taken;
            they begin anew where a component does.
        log_likelihoods: Σ log p(z) there.
        places: The mixtures there, where they are kept.
        rates: ρ of each turn.
        num_steps: How many E-steps it took.
        num_reseeded: How many collapsed components began anew.
        converged: Whether less than the tolerance is left to gain.
        done: Whether it goes no further.
    """

    at: Parameters
    gone: Tensor
    objectives: list[float] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    places: list[Parameters] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    num_steps: int = 0
    num_reseeded: int = 0
    converged: bool = False
    done: bool = False

    def stop(self, *, converged: bool) -> None:
        """Go no further."""
        self.done, self.converged = True, converged


class State(NamedTuple):
    """A batch of R mixtures with what the E-step says of them."""

    parameters: Parameters
    objective: Tensor
    log_likelihood: Tensor
    moments: Moments

    def take(self, rows: Tensor) -> "State":
        """Return some of the mixtures."""
        return State(
            self.parameters.take(rows),
            self.objective[rows],
            self.log_likelihood[rows],
            self.moments.take(rows),
        )


def paths(start: Parameters) -> list[Path]:
    """Return a path from each of R starts."""
    num_starts, num_components = start.log_weights.shape
    gone = torch.zeros(num_components, dtype=torch.bool, device=start.locs.device)
    return [Path(start.take(slice(r, r + 1)), gone.clone()) for r in range(num_starts)]


def joined(batches: list[Parameters]) -> Parameters:
    """Return the mixtures of several batches as one batch."""
    return Parameters(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def replaced(state: State, rows: Tensor, by: State) -> State:
    """Return the states with those in `rows`, shape (R',), replaced by others."""
    parts = [(*state.parameters, *state[1:3], *state.moments) for state in (state, by)]
    whole = [own.index_copy(0, rows, new) for own, new in zip(*parts, strict=True)]
    return State(Parameters(*whole[:3]), whole[3], whole[4], Moments(*whole[5:]))
