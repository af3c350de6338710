"""How many components, and of which form: criteria side by side, and a prior that decides.

More components always fit better, so the likelihood is charged for its P free parameters, or asked
about points that the fit has not seen. With log L of N points at EM's optimum:

    AIC = −2 log L + 2 P
    BIC = −2 log L + P log N                                 twice −log evidence, to O(1)
    ICL = BIC + 2 E,   E = −Σ_n Σ_k r_nk log r_nk ≥ 0        charged for clusters that overlap

of which the least is best (mclust has all three with the opposite sign, and in ICL counts each
point for its most probable component only). In nats for a point, of which the most is best:

    held_out    log p(x_n | the other folds), the mean over all points of a k-fold split
    loo         log p(x_n | all other points), by Pareto-smoothed importance sampling from Gibbs

A mixture is no regular model, so AIC and BIC are rules of thumb, though BIC finds the number in
the long run where the parameters are bounded (Keribin 2000). It counts the Gaussians that the
density takes, ICL rather the clusters that one would draw. `overfitted` asks the posterior itself:
too many components with a Dirichlet prior of small concentration, under which those not needed
empty out.

Reference:
    Akaike (1974), https://doi.org/10.1109/TAC.1974.1100705; Schwarz (1978),
    https://doi.org/10.1214/aos/1176344136; Biernacki, Celeux & Govaert (2000),
    https://doi.org/10.1109/34.865189; Vehtari, Gelman & Gabry (2017),
    https://doi.org/10.1007/s11222-016-9696-4; Rousseau & Mengersen (2011),
    https://doi.org/10.1111/j.1467-9868.2011.00781.x; Malsiner-Walli, Frühwirth-Schnatter & Grün
    (2016), https://doi.org/10.1007/s11222-014-9500-2.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.infer.inference_data import smooth, threshold
from pplvae.mixtures import em, gibbs
from pplvae.mixtures.covariances import FORMS
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.posterior import MixturePosterior
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.validation import (
    Array,
    as_points,
    check_in_range,
    check_one_of,
    check_positive,
    check_whole,
)

if TYPE_CHECKING:
    import pandas as pd

CRITERIA = ("aic", "bic", "icl", "held_out", "loo")
MORE_IS_BETTER = ("held_out", "loo")
DRAWS, CHAINS, WARMUP = 500, 4, 300  # of Gibbs, for "loo"
BLOCK = 2**22  # numbers held at once where labels are drawn


class Score(NamedTuple):
    """A criterion's value, and what it is the mean of, shape (N,), where it is a mean."""

    value: float
    pointwise: Tensor | None = None

    def gap(self, best: "Score") -> tuple[float, float]:
        """Return how far this mean is above the best one, and the standard error of that."""
        if self.pointwise is None or best.pointwise is None:
            return math.nan, math.nan
        return _mean_and_error(self.pointwise - best.pointwise)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One number of components with one form of covariance.

    Attributes:
        covariance: The form.
        num_components: The number K asked for.
        fit: EM's, to all points; None where it failed.
        scores: By criterion, those that could be had.
        note: What is wrong, if anything.
    """

    covariance: str
    num_components: int
    fit: em.EMFit | None
    scores: dict[str, Score]
    note: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether there is a fit, and no component of it has closed in on points."""
        return self.fit is not None and not self.fit.num_degenerate


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """Fits to the same points, by form of covariance and number of components.

    Attributes:
        candidates: One for each pair, in the order asked.
        criteria: Those asked for.
        num_points: N.
    """

    candidates: tuple[Candidate, ...]
    criteria: tuple[str, ...]
    num_points: int

    def ranked(self, criterion: str | None = None) -> list[Candidate]:
        """Return the candidates that have a score, best first; degenerate fits after all others.

        Args:
            criterion: One of those asked for; the first of them where None.

        Raises:
            ValueError: If it was not asked for.
        """
        name = self.criteria[0] if criterion is None else criterion
        check_one_of("criterion", name, self.criteria)
        sign = -1 if name in MORE_IS_BETTER else 1
        scored = [own for own in self.candidates if name in own.scores]
        return sorted(scored, key=lambda own: (not own.is_sound, sign * own.scores[name].value))

    def best(self, criterion: str | None = None) -> em.EMFit:
        """Return EM's fit of the candidate that a criterion takes.

        Args:
            criterion: As for `ranked`.

        Raises:
            ValueError: If it was not asked for, or no candidate has a score.
        """
        for candidate in self.ranked(criterion):
            if candidate.fit is not None:
                return candidate.fit
        notes = "; ".join(sorted({own.note for own in self.candidates}))
        raise ValueError(f"candidates must be at least one that fits, got none: {notes}")

    def table(self) -> "pd.DataFrame":
        """Return one row a candidate.

        Columns: covariance, num_components, log_likelihood (nats, in all), num_parameters,
        converged, num_degenerate, each criterion, and note. A criterion that is a mean over the
        points has three more: its standard error `_se`, how far it is above the best candidate's
        (0 or less), `_gap`, and the standard error of that difference, `_gap_se`, which is far
        smaller as the same points are hard for all. nan stands for what could not be had.
        """
        import pandas as pd

        tops = {name: self.ranked(name)[:1] for name in self.criteria}
        rows = []
        for own in self.candidates:
            row = {"covariance": own.covariance, "num_components": own.num_components}
            row |= _facts(own.fit)
            for name in self.criteria:
                row |= _columns(name, own, tops[name])
            rows.append(row | {"note": own.note})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        said = []
        for name in self.criteria:
            first = next(iter(self.ranked(name)), None)
            choice = f"{first.num_components} {first.covariance}" if first else "none"
            said.append(f"{name} takes {choice}")
        return (
            f"Selection({len(self.candidates)} candidates on {self.num_points} points: "
            f"{', '.join(said)})"
        )

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, float_format="{:.4g}".format)


@dataclass(frozen=True, eq=False, repr=False)
class OverfittedMixture:
    """How many components hold points, a posteriori, under a prior that empties the others.

    Attributes:
        probs: p(k components hold points | x) for k = 1 … most, shape (most,).
        num_occupied: That number in each draw, shape (C, S).
        posterior: The draws, with all components; most are empty.
    """

    probs: Tensor
    num_occupied: Tensor
    posterior: MixturePosterior

    @property
    def num_components(self) -> int:
        """The most probable number."""
        return int(self.probs.argmax()) + 1

    def __repr__(self) -> str:
        chains = ", ".join(f"{mean:.1f}" for mean in self.num_occupied.double().mean(dim=1))
        return (
            f"OverfittedMixture({self.num_components} of {len(self.probs)} components hold "
            f"points, with probability {self.probs.max():.2f}; by chain {chains})"
        )


def compare(
    x: Array,
    num_components: Iterable[int] = range(1, 7),
    covariances: Sequence[str] = ("full",),
    *,
    criteria: Sequence[str] = ("bic", "aic", "icl"),
    num_folds: int = 5,
    seed: int | None = None,
    progress: bool = True,
) -> Selection:
    """Return criteria of EM's fits, for each number of components and form of covariance.

    What cannot be fitted, has no volume, or had components given up is said in its row's note;
    no candidate ends the call.

    Args:
        x: Data, shape (N, D).
        num_components: The numbers K to try.
        covariances: The forms to try: "full", "tied", "diag", "spherical".
        criteria: Some of "aic", "bic", "icl", "held_out", "loo"; the first one is what
            `Selection.best` goes by. "held_out" fits each candidate once more for each fold;
            "loo" takes 4 × 500 draws of Gibbs for each K, of full covariances only.
        num_folds: Into how many parts the points are split at random for "held_out".
        seed: Start of the random draws: of EM's starts, the folds and Gibbs.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If an argument is impossible, or there is nothing to compare.
    """
    x, seed = as_points(x, min_points=2), randomness.resolve(seed)
    numbers = list(dict.fromkeys(num_components))
    forms, names = list(dict.fromkeys(covariances)), list(dict.fromkeys(criteria))
    for number in numbers:
        check_whole("num_components", number, 1)
    for name, given, known in (("covariances", forms, FORMS), ("criteria", names, CRITERIA)):
        for value in given:
            check_one_of(name, value, known)
    if not (numbers and forms and names):
        raise ValueError("num_components, covariances and criteria must name something")
    if "held_out" in names:
        check_whole("num_folds", num_folds, 2, len(x), context=f"for {len(x)} points")
    study = _Study(x, names, _folds(len(x), num_folds, seed), seed)
    pairs = [(form, number) for form in forms for number in numbers]
    bar = tqdm(pairs, desc="candidates", disable=not progress)
    return Selection(tuple(study.candidate(*pair) for pair in bar), tuple(names), len(x))


def overfitted(
    x: Array,
    most: int,
    *,
    concentration: float = 0.01,
    num_draws: int = 1000,
    warmup_steps: int = 1000,
    num_chains: int = 4,
    seed: int | None = None,
    progress: bool = True,
) -> OverfittedMixture:
    """Return how many of `most` components the data take, by Gibbs with a sparse Dirichlet prior.

    With a concentration below half the number of a component's free parameters, the posterior
    gives components beyond those needed no weight as N grows (Rousseau & Mengersen 2011); for the
    sample at hand it must be much smaller (Malsiner-Walli et al. 2016 take 0.01). Full
    covariances; the prior is `NormalInverseWishart.default` but for the concentration.

    Args:
        x: Data, shape (N, D), with N > most.
        most: Surely more components than needed.
        concentration: Of the weights' Dirichlet prior, below 1.
        num_draws: Sweeps kept in each chain.
        warmup_steps: Sweeps before them, in which components empty out.
        num_chains: Chains. Where they differ in `num_occupied`, none has seen the posterior.
        seed: Start of the draws.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are not more points than components, or an argument is impossible.
    """
    check_whole("most", most, 2)
    check_positive("concentration", concentration)
    check_in_range("concentration", concentration, 0, 1)
    x, seed = as_points(x, min_points=most + 1).double(), randomness.resolve(seed)
    prior = replace(NormalInverseWishart.default(x, most), concentration=concentration)
    posterior = gibbs.fit(
        x, most, prior=prior, start=em.init(x, most, seed=seed), num_draws=num_draws,
        warmup_steps=warmup_steps, num_chains=num_chains, pointwise=False, seed=seed,
        progress=progress,
    )  # fmt: skip
    occupied = _num_occupied(posterior, x, randomness.generator(seed, x.device))
    counts = occupied.flatten().bincount(minlength=most + 1)[1:]
    return OverfittedMixture(counts / counts.sum(), occupied, posterior)


def _num_occupied(posterior: MixturePosterior, x: Tensor, rng: torch.Generator) -> Tensor:
    """Return how many components hold points in each draw, shape (C, S): labels are drawn anew."""
    names = "weights", "locs", "scale_trils"
    parts = [posterior.draws[name].flatten(0, 1) for name in names]
    size = max(1, BLOCK // (parts[1][0].numel() * len(x)))
    found = []
    for weights, locs, trils in zip(*(part.split(size) for part in parts), strict=True):
        residuals = torch.linalg.solve_triangular(trils, x.T - locs.unsqueeze(-1), upper=False)
        heights = weights.log() - trils.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        log_odds = heights.unsqueeze(-1) - 0.5 * residuals.square().sum(dim=-2)
        gumbel = -torch.empty_like(log_odds).exponential_(generator=rng).log()
        labels = (log_odds + gumbel).argmax(dim=1)
        found.append(torch.zeros_like(weights).scatter_(1, labels, 1.0).sum(dim=1).long())
    return torch.cat(found).view(posterior.num_chains, posterior.num_draws)


class _Study(NamedTuple):
    """The points, what is asked of a candidate, the fold of each point, and the seed."""

    x: Tensor
    criteria: list[str]
    folds: Tensor
    seed: int

    def candidate(self, covariance: str, num_components: int) -> Candidate:
        notes: list[str] = []
        fit = self._fit(self.x, covariance, num_components, notes)
        if fit is None:
            return Candidate(covariance, num_components, None, {}, "; ".join(notes))
        if fit.num_degenerate:
            notes.append(f"{fit.num_degenerate} degenerate")
        if not fit.converged:
            notes.append("not converged")
        found = {name: self._score(name, fit, num_components, notes) for name in self.criteria}
        scores = {name: score for name, score in found.items() if score is not None}
        return Candidate(covariance, num_components, fit, scores, "; ".join(dict.fromkeys(notes)))

    def _fit(self, x: Tensor, covariance: str, num: int, notes: list[str]) -> em.EMFit | None:
        """Return EM's fit, or None; warnings and what failed go to the notes."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                fit = em.fit(x, num, covariance=covariance, seed=self.seed, progress=False)
            except (ValueError, RuntimeError) as error:
                notes.append(str(error))
                return None
        notes += [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
        return fit

    def _score(self, name: str, fit: em.EMFit, num: int, notes: list[str]) -> Score | None:
        if name == "held_out":
            return self._held_out(fit.covariance, num, notes)
        if name == "loo":
            return self._loo(fit, num, notes)
        penalty = 2 if name == "aic" else math.log(len(self.x))
        value = -2 * fit.log_likelihood + penalty * fit.num_parameters
        return Score(value + (2 * _entropy(fit.mixture, self.x) if name == "icl" else 0.0))

    def _held_out(self, covariance: str, num: int, notes: list[str]) -> Score | None:
        values = self.x.new_empty(len(self.x), dtype=torch.float64)
        for fold in range(int(self.folds.max()) + 1):
            out, said = self.folds == fold, []
            fit = self._fit(self.x[~out], covariance, num, said)
            notes += [f"fold {fold + 1}: {text}" for text in said]
            if fit is None:
                return None
            values[out] = fit.mixture.log_prob(self.x[out]).double()
        return Score(values.mean().item(), values)

    def _loo(self, fit: em.EMFit, num: int, notes: list[str]) -> Score | None:
        if fit.covariance != "full" or fit.mixture.num_components != num:
            notes.append("loo: of full covariances and all components only")
            return None
        try:
            posterior = gibbs.fit(
                self.x, num, start=fit.mixture, num_draws=DRAWS, warmup_steps=WARMUP,
                num_chains=CHAINS, seed=self.seed, progress=False,
            )  # fmt: skip
        except (ValueError, RuntimeError) as error:
            notes.append(f"loo: {error}")
            return None
        values, k = _leave_one_out(posterior.log_likelihood["x"])
        unsure = int((k > threshold(CHAINS * DRAWS)).sum())
        if unsure:
            notes.append(f"loo: {unsure} points with a large Pareto k")
        return Score(values.mean().item(), values)


def _leave_one_out(log_likelihood: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return log p(x_n | all other points) in nats and Pareto's k, shapes (N,).

    Draws are weighted by 1 / p(x_n | θ), smoothed. Takes log-likelihoods of shape (C, S, N).
    """
    rows = log_likelihood.flatten(0, 1).T.cpu().double().numpy()
    smoothed = [smooth(-row) for row in rows]
    values = [np.logaddexp.reduce(w + row) for (w, _), row in zip(smoothed, rows, strict=True)]
    return torch.tensor(np.array(values)), np.array([k for _, k in smoothed])


def _entropy(mixture: GaussianMixture, x: Tensor) -> float:
    """Return −Σ_n Σ_k r_nk log r_nk in nats."""
    r = mixture.responsibilities(x).double()
    return -torch.special.xlogy(r, r).sum().item()


def _folds(num_points: int, num_folds: int, seed: int) -> Tensor:
    """Return the fold of each point, shape (N,): sizes differ by at most one."""
    order = torch.randperm(num_points, generator=randomness.generator(seed))
    return order % num_folds


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def _facts(fit: em.EMFit | None) -> dict[str, object]:
    if fit is None:
        return {"log_likelihood": math.nan, "num_parameters": math.nan, "converged": False,
                "num_degenerate": 0}  # fmt: skip
    names = "log_likelihood", "num_parameters", "converged", "num_degenerate"
    return {name: getattr(fit, name) for name in names}


def _columns(name: str, own: Candidate, top: list[Candidate]) -> dict[str, float]:
    """Return the columns of a criterion."""
    score = own.scores.get(name, Score(math.nan))
    if name not in MORE_IS_BETTER:
        return {name: score.value}
    error = math.nan if score.pointwise is None else _mean_and_error(score.pointwise)[1]
    gap, gap_error = score.gap(top[0].scores[name]) if top else (math.nan, math.nan)
    return {
        name: score.value,
        f"{name}_se": error,
        f"{name}_gap": gap,
        f"{name}_gap_se": gap_error,
    }
