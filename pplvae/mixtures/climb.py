"""EM for many mixtures at once, in steps that are made longer where EM creeps.

Near its end EM closes in on the maximum by the same factor in every step, close to 1 where
components overlap. From two steps θ0 → θ1 → θ2, with r = θ1 − θ0 and v = (θ2 − θ1) − r, SQUAREM
guesses where they lead,

    θ' = θ0 − 2 α r + α² v,   α = −|r| / |v|,

(α = −1 is θ2 itself) in coordinates without bounds: log weights, means, log widths. A guess that
is worse than θ1 is not taken, θ2 is. So no step loses, and each turn costs two E-steps.

A climb has converged once what is left to gain is below the tolerance, by Aitken's rule: gains
fall like ρ², where ρ = |θ2 − θ1| / |θ1 − θ0|, so after a gain g there is g ρ² / (1 − ρ²) to come.

Reference:
    Varadhan & Roland (2008), Simple and globally convergent methods for accelerating the
    convergence of any EM algorithm, https://doi.org/10.1111/j.1467-9469.2007.00585.x (scheme S3);
    McLachlan & Krishnan (2008), The EM algorithm and extensions, section 4.9 (Aitken).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Full, Moments, Parameters
from pplvae.mixtures.points import Points
from pplvae.mixtures.prior import NormalInverseWishart

LEAST_COUNT = 0.5  # points; a component with fewer has collapsed
MOST_RESEEDS = 5  # for each component, on average; then the data have no room for so many
LONGEST = 100.0  # of −α: further guesses are hardly ever taken
PATIENCE = 20  # turns whose slowest rate counts: a guess hides for a while how slow EM is
GONE = -1e30  # the log weight of a component that was given up


@dataclass(frozen=True)
class Problem:
    """What is climbed.

    Attributes:
        points: In their coordinates.
        form: Of the covariances.
        ridge: What is added to them, as the form has it, shape like one covariance.
        pooled: Scales of a component that begins anew, shape like one component's.
        prior: In the coordinates of the points; None for maximum likelihood.
    """

    points: Points
    form: Full
    ridge: Tensor
    pooled: Tensor
    prior: NormalInverseWishart | None = None

    def expect(self, parameters: Parameters) -> tuple[Tensor, Tensor, Moments]:
        """Return the objective and Σ log p(z), both (R,) in nats, and the moments."""
        log_likelihood, moments = self.points.expect(self.form, parameters)
        return log_likelihood + self.log_prior(parameters), log_likelihood, moments

    def log_prior(self, parameters: Parameters) -> Tensor | float:
        """Return the log prior in nats up to a constant, shape (R,)."""
        if self.prior is None:
            return 0.0
        form, prior, (log_weights, locs, scales) = self.form, self.prior, parameters
        num_components, dim = locs.shape[1:]
        squares = prior.strength * form.pool(form.outer(locs - prior.loc))
        squares = form.reduce(prior.scatter) + squares
        count = form.prior_count(prior.degrees, num_components, dim)
        wishart = count * 2 * form.log_det(scales, dim) + form.trace(scales, squares, dim)
        dirichlet = (prior.concentration - 1) * log_weights.clamp_min(GONE).sum(dim=-1)
        return dirichlet - 0.5 * wishart.sum(dim=-1)

    def maximize(self, moments: Moments) -> tuple[Parameters, Tensor]:
        """Return the M-step's answer, and which components are singular, shape (R, K)."""
        form, prior, dim = self.form, self.prior, moments.sums.shape[-1]
        counts = moments.counts.clamp_min(torch.finfo(moments.counts.dtype).tiny)
        offsets = moments.sums / counts.unsqueeze(-1)
        locs = moments.origins + offsets
        size = form.spread(counts)
        scatter = moments.squares - form.pool(size * form.outer(offsets))
        size = form.pool(size)
        weights = counts / self.points.mass
        if prior is not None:
            away, kappa = locs - prior.loc, prior.strength
            pull = counts * kappa / (counts + kappa)
            scatter = scatter + form.reduce(prior.scatter)
            scatter = scatter + form.pool(form.spread(pull) * form.outer(away))
            size = size + form.prior_count(prior.degrees, counts.shape[-1], dim)
            locs = prior.loc + away * (counts / (counts + kappa)).unsqueeze(-1)
            extra = prior.concentration - 1
            weights = (counts + extra) / (self.points.mass + counts.shape[-1] * extra)
        scales, singular = form.factor(scatter / size + self.ridge)
        return Parameters(weights.log(), locs, scales), singular.expand_as(counts)


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
        state = self._expect(_joined([path.at for path in paths]), [])
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
        guess, rates = self._guess(state.parameters, first.parameters, second)
        held = torch.tensor(fresh, device=rates.device) | singular.any(dim=-1)
        guess = _where(held, first.parameters, guess)
        last = self._expect(guess, paths)
        worse = ~(last.objective >= first.objective) & ~held
        if worse.any():
            rows = worse.nonzero().squeeze(-1)
            safe = self._expect(second.take(rows), [paths[row] for row in rows.tolist()])
            last = _replaced(last, rows, safe)
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

    def _guess(self, start: Parameters, first: Parameters, second: Parameters) -> tuple:
        """Return θ', and the rate ρ of each path, shape (R,)."""
        form = self._problem.form
        zero, one, two = (_to_free(form, part) for part in (start, first, second))
        step = one - zero
        bend = two - 2 * one + zero
        lengths = [part.norm(dim=-1, keepdim=True) for part in (step, bend, two - one)]
        alpha = (lengths[0] / lengths[1]).nan_to_num(1.0).clamp(1.0, LONGEST)
        rates = (lengths[2] / lengths[0]).nan_to_num(0.0).clamp_max(1.0).squeeze(-1)
        return _from_free(form, zero + 2 * alpha * step + alpha**2 * bend, start), rates


def _to_free(form: Full, parameters: Parameters) -> Tensor:
    """Return each mixture as a vector without bounds, shape (R, all)."""
    parts = [parameters.log_weights, parameters.locs, form.to_free(parameters.scales)]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _from_free(form: Full, free: Tensor, like: Parameters) -> Parameters:
    sizes = [part[0].numel() for part in like]
    log_weights, locs, scales = (
        part.view_as(own) for part, own in zip(free.split(sizes, dim=1), like, strict=True)
    )
    return Parameters(log_weights.log_softmax(dim=-1), locs, form.from_free(scales))


def _joined(batches: list[Parameters]) -> Parameters:
    return Parameters(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def _where(rows: Tensor, one: Parameters, other: Parameters) -> Parameters:
    """Return the mixtures `one` in some rows, shape (R,), and `other` elsewhere."""
    return Parameters(
        *(
            torch.where(rows.view(-1, *[1] * (a.dim() - 1)), a, b)
            for a, b in zip(one, other, strict=True)
        )
    )


def _replaced(state: State, rows: Tensor, by: State) -> State:
    """Return the states with those in `rows`, shape (R',), replaced by others."""
    parts = [(*state.parameters, *state[1:3], *state.moments) for state in (state, by)]
    whole = [own.index_copy(0, rows, new) for own, new in zip(*parts, strict=True)]
    return State(Parameters(*whole[:3]), whole[3], whole[4], Moments(*whole[5:]))
