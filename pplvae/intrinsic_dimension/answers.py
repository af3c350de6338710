"""All estimators asked, on one neighbor graph: what `summary` makes an answer of."""

from dataclasses import dataclass

from pplvae.intrinsic_dimension import danco, gride, parts, predictive, scales, spectrum, twonn
from pplvae.intrinsic_dimension.gamma import CalibratedPosterior, GammaPosterior
from pplvae.neighbors import NeighborGraph

NOISE = 1.5  # how many times the eighth neighbor's dimension the nearest one's is under noise


@dataclass(frozen=True, eq=False)
class Answers:
    """What the estimators say.

    Attributes:
        posterior: TwoNN's.
        calibrated: The same, calibrated.
        danco: DANCo's; None where only distances are known.
        adaptive: The dimension at each point's own scale.
        profile: The dimension against the scale.
        check: Whether TwoNN's law holds.
        pca: The principal components; None where only distances are known.
        near: The dimension that the nearest neighbors mean, calibrated.
        far: What the eighth mean, against the sixteenth.
        parts: Of different dimension; none where there is but one, or noise.
    """

    posterior: GammaPosterior
    calibrated: CalibratedPosterior
    danco: danco.Danco | None
    adaptive: scales.AdaptiveScale
    profile: scales.Profile
    check: predictive.PredictiveCheck
    pca: spectrum.Spectrum | None
    near: float
    far: float
    parts: tuple[parts.Part, ...]

    @property
    def noisy(self) -> bool:
        """Whether the nearest neighbors are not to be believed."""
        return _noisy(self.near, self.far)


def ask(graph: NeighborGraph, seed: int | None) -> Answers:
    """Return what all estimators say of a graph of 16 neighbors or more.

    Args:
        graph: The neighbor graph.
        seed: Start of the draws of the predictive check, and of a choice of points.
    """
    posterior, points = twonn.posterior(graph), graph.points
    near, far = (
        gride.maximum_likelihood(graph, n1=n1, n2=2 * n1, inflation=1.0, calibrated=True)
        for n1 in (1, 8)
    )
    noisy = _noisy(near.dimension, far.dimension)
    return Answers(
        posterior=posterior,
        calibrated=twonn.posterior(graph, calibrated=True),
        danco=None if points is None else danco.estimate(graph),
        adaptive=scales.adaptive(graph),
        profile=scales.profile(graph),
        check=predictive.check(graph, posterior, seed=seed),
        pca=None if points is None else spectrum.pca(points.double()),
        near=near.dimension,
        far=far.dimension,
        parts=() if noisy else parts.find(graph, seed=seed),
    )


def _noisy(near: float, far: float) -> bool:
    return max(near, far) > NOISE * min(near, far)
