"""Expectation-maximization for Gaussian mixtures.

Each step takes the responsibilities r_nk = p(k | x_n) of the mixture at hand as soft labels, and
then the mixture that is most likely under them, in closed form:

    N_k = Σ_n r_nk,   w_k = N_k / N,   loc_k = Σ_n r_nk x_n / N_k,
    cov_k = Σ_n r_nk (x_n − loc_k)(x_n − loc_k)ᵀ / N_k.

No step loses log-likelihood. The likelihood is unbounded, however: a component that closes in on
points without volume gains without end. A jitter on the diagonals stops it. As it moves cov_k off
the maximum, a step can then lose; such a step is not taken. With a conjugate prior instead the
same steps, with the prior's points added to the sums, climb the posterior and never lose.

`e_step` and `m_step` are these formulas as they stand, for one mixture. `fit` takes the same steps
by matrix products (`expectation`), for all starts at once and in longer strides (`climb`).

Reference:
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm;
    Bishop (2006), Pattern Recognition and Machine Learning, section 9.2; Biernacki, Celeux &
    Govaert (2003), Choosing starting values for the EM algorithm (short runs, then the best).
"""

import torch
from tqdm import tqdm

from pplvae.mixtures import beginnings
from pplvae.mixtures.blocks import Blocks
from pplvae.mixtures.climb import Climber
from pplvae.mixtures.covariances import FORMS, Full
from pplvae.mixtures.endings import EMFit, ending
from pplvae.mixtures.formulas import COVARIANCES, e_step, init, m_step
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.mixtures.paths import paths
from pplvae.mixtures.prior import NormalInverseWishart
from pplvae.mixtures.problem import Problem
from pplvae.mixtures.reading import Data, read
from pplvae.randomness import generator
from pplvae.validation import Array, check_in_range, check_one_of, check_whole

__all__ = ["COVARIANCES", "EMFit", "e_step", "fit", "init", "m_step"]


def fit(
    x: Array | Blocks,
    num_components: int,
    *,
    covariance: str = "full",
    max_steps: int = 1000,
    tolerance: float = 1e-7,
    jitter: float = 1e-6,
    prior: NormalInverseWishart | None = None,
    num_starts: int = 24,
    start: GaussianMixture | None = None,
    weights: Array | None = None,
    labels: Array | None = None,
    missing: str = "refuse",
    accelerate: bool = True,
    keep_path: bool = False,
    seed: int | None = None,
    progress: bool = True,
) -> EMFit:
    """Return the most likely Gaussian mixture that EM finds from several starts.

    Works in double precision on whitened points, so that neither place nor units of the data
    matter; the mixture comes back in the dtype and units of `x`. All starts take a few steps, and
    the best six, of few data all, are climbed to the end. Beyond 32,768 points they are climbed on
    a sample of so many, and the best (and one as good) from there to the end on all points. A
    component that collapses (it explains less than half a point, or its covariance is singular)
    begins anew at the point explained worst; after five times for each component, starved ones are
    left alone and singular ones are given up. A climb that ends with fewer degenerate components
    counts as better, whatever its likelihood. Memory: the points once more in double precision,
    and blocks of a few MB.

    Args:
        x: Data, shape (N, D), with N > K. Or what does not fit in memory: a memory map
            (`numpy.load(path, mmap_mode="r")`), an iterable of blocks of shape (B, D) that can be
            read again and again, or a function that returns one; each E-step reads it once.
        num_components: The number of components K.
        covariance: The form of the covariances: "full", each component its own; "tied", one for
            all; "diag", without correlations; "spherical", alike in all directions.
        max_steps: Most E-steps from each start, or one more where two belong to a stride.
        tolerance: Stop when less than this is left to gain, in nats per point, by Aitken's rule.
        jitter: Added to the diagonal of each covariance, as in `m_step`.
        prior: For the posterior mode instead of the maximum likelihood.
        num_starts: How many starts to climb from: k-means clusters, every other one with a
            common covariance.
        start: The one start to climb from instead.
        weights: How often each point counts, at least 0, shape (N,).
        labels: The component that each point is known to come from, −1 where unknown, shape (N,).
        missing: What to do about nan: "refuse", or "marginalise": exact EM with the missing
            coordinates integrated out, pattern by pattern.
        accelerate: Whether to take longer strides than EM's (`climb`).
        keep_path: Whether the fit holds the mixtures on the way, as for pictures.
        seed: Where the draws of the starts begin.
        progress: Whether to show a bar that counts the steps.

    Raises:
        ValueError: If there are not more points than components, all points are the same, they
            are singular even with the jitter, or an argument is outside its range.

    Warns:
        UserWarning: If components had to be given up.
    """
    check_one_of("covariance", covariance, COVARIANCES)
    check_whole("num_components", num_components, 1)
    check_whole("max_steps", max_steps, 1)
    check_in_range("tolerance", tolerance, 0)
    check_in_range("jitter", jitter, 0, 1e100)
    check_whole("num_starts", num_starts, 1)
    rng, form = generator(seed), FORMS[covariance]
    num_starts = num_starts if num_components > 1 else 1
    data = read(
        x, form, num_components, jitter=jitter, weights=weights, labels=labels, missing=missing,
        rng=rng,
    )  # fmt: skip
    problem = _problem(data, form, prior)
    with tqdm(desc="EM", unit=" steps", disable=not progress) as bar:
        climber = Climber(problem, keep=keep_path, on_step=bar.update)
        if start is not None:
            climbs = paths(beginnings.from_mixture(start, data, form, num_components))
            abandoned = []
        else:
            begun = beginnings.many(data, problem, num_components, num_starts, rng)
            climbs, abandoned = beginnings.best(data, problem, climber, begun)
        climber.run(climbs, max_steps=max_steps, tolerance=tolerance, accelerate=accelerate)
    return ending(climbs, data, problem, jitter=jitter, tolerance=tolerance, abandoned=abandoned)


def _problem(data: Data, form: Full, prior: NormalInverseWishart | None) -> Problem:
    eye = torch.eye(len(data.frame.center)).to(data.frame.scale)
    pooled = form.factor(form.reduce(eye) + data.ridge)[0]
    if prior is not None:
        if len(prior.loc) != len(eye):
            raise ValueError(f"prior must have {len(eye)} dimensions, got {len(prior.loc)}")
        if prior.concentration < 1:
            raise ValueError(
                f"prior.concentration must be at least 1 for a mode, got {prior.concentration}"
            )
        prior = prior.in_coordinates(*data.frame)
    return Problem(data.points, form, data.ridge, pooled, prior)
