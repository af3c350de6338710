"""The result of simulation-based calibration: ranks, and tests of their uniformity.

A rank r among L draws, moved at random within its cell, u = (r + U) / (L + 1) with U uniform on
[0, 1], is uniform on [0, 1] if the posterior is right. Each test sees something else of it:

    Kolmogorov–Smirnov    the largest |F(u) − u|: a shift,
    χ² of 20 bins         any unevenness,
    coverage              the share of u in [0.05, 0.95], 0.9 if right: spread,
    symmetry              whether u is as often high as low (Wilcoxon's signed-rank test of u − ½):
                          a bias of the average, and nothing of the spread.

Coverage is counted in ranks: quantiles of 199 draws by `np.quantile` cover 0.892, not 0.9.

Reference:
    Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
    calibration, https://arxiv.org/abs/1804.06788; symmetry, VSBC: Yao et al. (2018), Yes, but did
    it work?: Evaluating variational inference, https://arxiv.org/abs/1802.02538
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pplvae.infer import Cost
from pplvae.validation import as_vector, check_one_of, check_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BINS = 20  # of χ²; a twentieth is also what the 90 % interval leaves out at each end
ALPHA = 0.001  # how often each test fails a right posterior, all parameters taken together


@dataclass(frozen=True)
class Calibration:
    """Ranks of true parameters among draws from their posteriors.

    With 1000 simulations and one parameter a pass rules out a bias of 0.2 posterior sd (found in
    98 runs of 100; 0.1 sd in 25) and an sd wrong by 20 % (found always; 10 % in 72 of 100), and
    nothing finer. With 200 simulations the two are found in 17 and 76 runs of 100.

    Attributes:
        ranks: By scalar parameter, how many of the draws lie below the truth: whole numbers in
            [0, L], shape (M,).
        num_draws: The number of draws L from each posterior, one less than a multiple of 20.
        method: The engine.
        cost: What all fits together took.
        seed: Of the random numbers.
    """

    ranks: dict[str, Tensor] = field(repr=False)
    num_draws: int
    method: str = "unnamed"
    cost: Cost = field(default_factory=Cost)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ValueError("ranks must hold at least 1 parameter, got none")
        check_size(self.num_simulations, self.num_draws)
        for name, ranks in self.ranks.items():
            as_vector(ranks, name=f"ranks of {name}", min_size=self.num_simulations)

    @property
    def parameters(self) -> list[str]:
        """The names of the scalar parameters."""
        return list(self.ranks)

    @property
    def num_simulations(self) -> int:
        """The number of simulations M."""
        return len(next(iter(self.ranks.values())))

    @property
    def coverage_band(self) -> tuple[float, float]:
        """Where the coverage of right posteriors lies, all parameters', 999 times in 1000."""
        from scipy.stats import binom

        tail, size = self._alpha / 2, self.num_simulations
        low, high = binom.ppf([tail, 1 - tail], size, 1 - 2 / BINS)
        return float(low) / size, float(high) / size

    def table(self) -> "pd.DataFrame":
        """Return one row a scalar parameter.

        Columns: `mean_rank` as a fraction, ½ if right; `coverage` of the central 90 % interval;
        the p-values `ks_p`, `chi2_p` and `symmetry_p`.
        """
        import pandas as pd

        rows = {name: self._score(ranks) for name, ranks in self.ranks.items()}
        return pd.DataFrame.from_dict(rows, orient="index")

    def failures(self) -> list[str]:
        """Return what is wrong with each parameter, in plain words, and what to try.

        Each test fails right posteriors once in 1000 times, over all parameters.
        """
        found = []
        for name, ranks in self.ranks.items():
            score = self._score(ranks)
            said = [*self._spread(score), *self._shift(score)] or list(self._uneven(score))
            found += [f"{name}: {text}" for text in said]
        return found

    def plot(self, parameter: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw the ranks' distribution function less the uniform one, in its 95 % band.

        Args:
            parameter: A scalar parameter, the first one by default.
            ax: Where to draw.

        Raises:
            ValueError: If there is no such parameter.
        """
        from pplvae.plots.calibration import calibration

        parameter = parameter or self.parameters[0]
        check_one_of("parameter", parameter, self.parameters)
        ax = calibration(self.ranks[parameter], self.num_draws, ax=ax)
        ax.set_xlabel(f"rank of the true {parameter} among {self.num_draws} draws")
        return ax

    def __repr__(self) -> str:
        return f"{self._title()}\n{self.table().to_string(float_format=_short)}"

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{self.table().to_html(float_format=_short)}"

    def _title(self) -> str:
        low, high = self.coverage_band
        return (
            f"Calibration of {self.method}: {self.num_simulations} simulations, {self.num_draws} "
            f"draws each (right: coverage in {low:.3f}–{high:.3f}, p > {_short(self._alpha)})"
        )

    @property
    def _alpha(self) -> float:
        return ALPHA / len(self.ranks)

    def _score(self, ranks: Tensor) -> dict[str, float]:
        from scipy import stats

        rank, size = ranks.cpu().numpy().astype(int), self.num_draws + 1
        bins = rank // (size // BINS)
        u = (rank + np.random.default_rng(self.seed).random(len(rank))) / size
        # Not Yao's test of u against 1 − u: its two samples are not independent.
        symmetry: Any = stats.wilcoxon(u - 0.5)
        return {
            "mean_rank": float(u.mean()),
            "coverage": float(((bins > 0) & (bins < BINS - 1)).mean()),
            "ks_p": float(stats.kstest(u, "uniform").pvalue),
            "chi2_p": float(stats.chisquare(np.bincount(bins, minlength=BINS)).pvalue),
            "symmetry_p": float(symmetry.pvalue),
        }

    # Each check yields what is wrong, if anything.

    def _spread(self, score: dict[str, float]) -> Iterator[str]:
        low, high = self.coverage_band
        if low <= score["coverage"] <= high:
            return
        narrow = "narrow: take more steps, a richer guide, or NUTS; thin draws that are of chains"
        wide = "wide: take more steps, and see that model and fit have the same prior"
        yield (
            f"the 90 % interval holds the truth in {score['coverage']:.1%} of simulations (right: "
            f"{low:.1%} to {high:.1%}), so the posterior is too "
            + (narrow if score["coverage"] < low else wide)
        )

    def _shift(self, score: dict[str, float]) -> Iterator[str]:
        if score["symmetry_p"] >= self._alpha:
            return
        mean = score["mean_rank"]
        high, low = ("high", "low") if mean > 0.5 else ("low", "high")
        yield (
            f"ranks pile up {high} (mean {mean:.3f} of 1, right: 0.5, p = "
            f"{_short(score['symmetry_p'])}), so the posterior lies too {low} on average: take "
            "more steps or another start, and see that model and fit have the same prior"
        )

    def _uneven(self, score: dict[str, float]) -> Iterator[str]:
        p = min(score["ks_p"], score["chi2_p"])
        if p < self._alpha:
            yield (
                f"ranks are not uniform (p = {_short(p)}), though neither shifted nor of wrong "
                "coverage: look at .plot(); the posterior has another shape, or another mode"
            )


def check_size(num_simulations: int, num_draws: int) -> None:
    """Refuse too few simulations for χ², or draws whose ranks do not fill its bins evenly.

    Raises:
        ValueError: If either is so.
    """
    check_whole("num_simulations", num_simulations, 5 * BINS, context=f"for {BINS} bins of χ²")
    check_whole("num_draws", num_draws, BINS - 1)
    if (num_draws + 1) % BINS:
        raise ValueError(
            f"num_draws must be one less than a multiple of {BINS}, such as 199, got {num_draws}"
        )


def _short(value: Any) -> str:
    return f"{value:.3g}"
