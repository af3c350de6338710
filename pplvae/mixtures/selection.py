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
    https://doi.org/10.1007/s11222-016-9696-4; Keribin (2000), Consistent estimation of the order
    of mixture models.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pplvae import randomness
from pplvae.infer.inference_data import smooth, threshold
from pplvae.mixtures import em, gibbs
from pplvae.mixtures.candidates import MORE_IS_BETTER, Candidate, Score, Selection
from pplvae.mixtures.covariances import FORMS
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.sparse import OverfittedMixture, overfitted
from pplvae.validation import Array, as_points, check_one_of, check_whole

__all__ = [
    "CRITERIA", "MORE_IS_BETTER", "Candidate", "OverfittedMixture", "Score", "Selection",
    "compare", "overfitted",
]  # fmt: skip

CRITERIA = ("aic", "bic", "icl", "held_out", "loo")
DRAWS, CHAINS, WARMUP = 500, 4, 300  # of Gibbs, for "loo"


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
            "loo" takes 4 × 500 draws of Gibbs for each.
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
        if fit.mixture.num_components != num:
            notes.append("loo: of all components only")
            return None
        try:
            posterior = gibbs.fit(
                self.x, num, covariance=fit.covariance, start=fit.mixture, num_draws=DRAWS,
                warmup_steps=WARMUP, num_chains=CHAINS, seed=self.seed, progress=False,
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
