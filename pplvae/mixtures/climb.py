"""EM for many mixtures at once, in steps that are made longer where EM creeps.

Near its end EM closes in on the maximum by the same factor in every step, close to 1 where
components overlap. After two steps SQUAREM guesses where they lead (`strides`). A guess that is
worse than the first step is not taken, the second step is. So no step loses, and each turn costs
two E-steps.

A climb has converged once what is left to gain is below the tolerance, by Aitken's rule: gains
fall like ρ², where ρ = |θ2 − θ1| / |θ1 − θ0|, so after a gain g there is g ρ² / (1 − ρ²) to come.

Reference:
    McLachlan & Krishnan (2008), The EM algorithm and extensions, section 4.9 (Aitken).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Parameters
from pplvae.mixtures.paths import Path, State, joined, replaced
from pplvae.mixtures.problem import GONE, Problem
from pplvae.mixtures.strides import either, guess

LEAST_COUNT = 0.5  # points; a component with fewer has collapsed
MOST_RESEEDS = 5  # for each component, on average; then the data have no room for so many
PATIENCE = 20  # turns whose slowest rate counts: a guess hides for a while how slow EM is


class Climber:
    """Goes up paths side by side: their E-steps share their matrix products.

    Args:
        problem: What is climbed.
        keep: Whether the paths hold the mixtures they pass.
        on_step: Called after each E-step of all.
    """

    def __init__(
        self, problem: Problem, *, keep: bool = False, on_step: Callable[[], Any] | None = None
    ) -> None:
        self._problem, self._keep, self._on_step = problem, keep, on_step
        self._least_count = LEAST_COUNT * problem.points.mass / problem.points.size

    @torch.no_grad()
    def run(
        self, paths: list[Path], *, max_steps: int, tolerance: float, accelerate: bool
    ) -> None:
        """Climb until each path has converged or has taken `max_steps` E-steps after its start.

        Converged is where less than the tolerance, in nats a point, is left to gain.
        """
        least_gain = tolerance * self._problem.points.mass
        state = self._expect(joined([path.at for path in paths]), [])
        for row, path in enumerate(paths):
            if not path.objectives:
                self._take(path, state, row)
        turn = self._long_turn if accelerate else self._turn
        while True:
            going = [not path.done and path.num_steps < max_steps for path in paths]
            if not any(going):
                return
            if not all(going):
                state = state.take(torch.tensor(going))
                paths = [path for path, goes in zip(paths, going, strict=True) if goes]
            state = turn(state, paths, least_gain)

    def _expect(self, parameters: Parameters, paths: list[Path]) -> State:
        state = State(parameters, *self._problem.expect(parameters))
        for path in paths:
            path.num_steps += 1
        if self._on_step:
            self._on_step()
        return state

    def _take(self, path: Path, state: State, row: int) -> None:
        path.at = state.parameters.take(slice(row, row + 1))
        path.objectives.append(float(state.objective[row]))
        path.log_likelihoods.append(float(state.log_likelihood[row]))
        if self._keep:
            path.places.append(path.at)

    def _turn(self, state: State, paths: list[Path], least_gain: float) -> State:
        """Take one EM step on each path; one that loses is not taken and ends it."""
        after, fresh = self._step(state, paths)
        for row, path in enumerate(paths):
            if path.done:
                continue
            gain = math.inf if fresh[row] else float(after.objective[row]) - path.objectives[-1]
            if gain >= 0:
                self._take(path, after, row)
            if not gain >= 0 or len(path.objectives) > 2:
                before = path.objectives[-2] - path.objectives[-3] if gain >= 0 else 0.0
                rate = gain / before if before > 0 else 0.0
                self._judge(path, gain, rate, least_gain)
        return after

    def _long_turn(self, state: State, paths: list[Path], least_gain: float) -> State:
        """Take two EM steps on each path, and go on to where they lead if that is no loss."""
        first, fresh = self._step(state, paths)
        second, singular = self._problem.maximize(first.moments)
        second = self._without_gone(second, paths)
        further, rates = guess(self._problem.form, state.parameters, first.parameters, second)
        held = torch.tensor(fresh, device=rates.device) | singular.any(dim=-1)
        further = either(held, first.parameters, further)
        last = self._expect(further, paths)
        worse = ~(last.objective >= first.objective) & ~held
        if worse.any():
            rows = worse.nonzero().squeeze(-1)
            safe = self._expect(second.take(rows), [paths[row] for row in rows.tolist()])
            last = replaced(last, rows, safe)
        for row, path in enumerate(paths):
            if path.done:
                continue
            gain = math.inf if fresh[row] else float(first.objective[row]) - path.objectives[-1]
            if not gain >= 0:
                self._judge(path, gain, 0.0, least_gain)
                continue
            self._take(path, first, row)
            path.rates.append(float(rates[row]))
            if not held[row]:
                onward = float(last.objective[row] - first.objective[row])
                if onward >= 0:
                    self._take(path, last, row)
                else:
                    gain = onward
            if not fresh[row]:
                self._judge(path, gain, max(path.rates[-PATIENCE:]) ** 2, least_gain)
        return last

    def _judge(self, path: Path, gain: float, rate: float, least_gain: float) -> None:
        """End a path on which a step has lost, or less than the least gain is left to gain."""
        if not gain >= 0:
            path.stop(converged=True)  # there the jitter, or rounding, is all that a step changes
        elif rate < 1 and gain * rate / (1 - rate) < least_gain:
            path.stop(converged=True)

    def _step(self, state: State, paths: list[Path]) -> tuple[State, list[bool]]:
        """Return the states after one EM step, and which paths have begun anew in it."""
        parameters, singular = self._problem.maximize(state.moments)
        parameters = self._without_gone(parameters, paths)
        starved = state.moments.counts < self._least_count
        if self._problem.prior is not None:
            starved = torch.zeros_like(starved)  # an empty component has the prior's shape
        fresh = [False] * len(paths)
        collapsed = singular | starved
        for row in collapsed.any(dim=-1).nonzero().flatten().tolist() if collapsed.any() else []:
            rest = ~paths[row].gone
            fresh[row] = self._mend(
                row, paths[row], state, parameters, singular[row] & rest, starved[row] & rest
            )
        return self._expect(parameters, paths), fresh

    def _mend(
        self,
        row: int,
        path: Path,
        state: State,
        parameters: Parameters,
        singular: Tensor,
        starved: Tensor,
    ) -> bool:
        """Let collapsed components begin anew, in place, or give them up; return whether any."""
        patient = path.num_reseeded < MOST_RESEEDS * len(singular)
        collapsed = singular | starved if patient else singular
        if not collapsed.any():
            return False
        log_weights, locs, scales = (part[row] for part in parameters)
        if patient and not self._problem.form.tied:
            num = int(collapsed.sum())
            before = state.parameters.take(slice(row, row + 1))
            worst = self._problem.points.worst(self._problem.form, before, num)
            locs[collapsed], scales[collapsed] = worst, self._problem.pooled
            log_weights[collapsed] = -math.log(len(log_weights))
            log_weights.copy_(log_weights.log_softmax(dim=0))
            path.num_reseeded += num
        elif self._problem.form.tied or int((~path.gone).sum()) == int(collapsed.sum()):
            path.stop(converged=False)
            parameters.locs[row], parameters.scales[row] = path.at.locs[0], path.at.scales[0]
            return False
        else:
            path.gone |= collapsed
            self._without_gone(parameters.take(slice(row, row + 1)), [path])
        path.objectives.clear()
        path.log_likelihoods.clear()
        return True

    def _without_gone(self, parameters: Parameters, paths: list[Path]) -> Parameters:
        """Take away, in place, the components that were given up."""
        for row, path in enumerate(paths):
            if path.gone.any():
                log_weights, locs, scales = (part[row] for part in parameters)
                locs[path.gone], scales[path.gone] = 0.0, self._problem.pooled
                log_weights[path.gone] = GONE
                log_weights.copy_(log_weights.log_softmax(dim=0))
        return parameters
