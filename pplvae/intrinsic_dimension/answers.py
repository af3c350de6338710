"""All estimators asked, on one neighbor graph: what `summary` makes an answer of."""

from dataclasses import dataclass, replace

from pplvae.intrinsic_dimension import danco, parts, predictive, scales, spectrum, twonn
from pplvae.intrinsic_dimension.gamma import CalibratedPosterior, GammaPosterior
from pplvae.neighbors import NeighborGraph

NOISE = 1.5  # how many times the eighth neighbor's dimension the nearest one's is under noise
COPIES = 2.0  # how many times the nearest one's the eighth neighbor's is among near-copies
LEAST_P = 0.005  # of the predictive check, below which TwoNN's law does not hold


@dataclass(frozen=True, eq=False)
class Answers:
    """What the estimators say.

    Attributes:
        posterior: TwoNN's.
        calibrated: The same, calibrated.
        danco: DANCo's; None where only distances are known.
        adaptive: The dimension at each point's own scale.
        profile: The dimension against the scale, calibrated: for points of a ball it stays.
        check: Whether TwoNN's law holds.
        pca: The principal components; None where only distances are known.
        parts: Of different dimension; none where there is but one, or noise.
    """

    posterior: GammaPosterior
    calibrated: CalibratedPosterior
    danco: danco.Danco | None
    adaptive: scales.AdaptiveScale
    profile: scales.Profile
    check: predictive.PredictiveCheck
    pca: spectrum.Spectrum | None
    parts: tuple[parts.Part, ...]

    @property
    def near(self) -> float:
        """The dimension that the nearest neighbors mean."""
        return self.profile.dimensions[0].item()

    @property
    def far(self) -> float:
        """What the eighth mean, against the sixteenth."""
        return self.profile.dimensions[self.profile.neighbors == 8].item()

    @property
    def noisy(self) -> bool:
        """Whether the nearest neighbors are not to be believed."""
        # A closed surface bends, and looks higher from afar; its nearest neighbors keep their law.
        copies = self.far > COPIES * self.near and self.check.p_value <= LEAST_P
        return self.near > NOISE * self.far or copies


def ask(graph: NeighborGraph, seed: int | None) -> Answers:
    """Return what all estimators say of a graph of 16 neighbors or more.

    Args:
        graph: The neighbor graph.
        seed: Start of the draws of the predictive check, and of a choice of points.
    """
    calibrated, points = twonn.posterior(graph, calibrated=True), graph.points
    posterior = calibrated.uncalibrated
    found = Answers(
        posterior=posterior,
        calibrated=calibrated,
        danco=None if points is None else danco.estimate(graph),
        adaptive=scales.adaptive(graph),
        profile=scales.profile(graph, calibrated=True),
        check=predictive.check(graph, posterior, seed=seed),
        pca=None if points is None else spectrum.pca(points.double()),
        parts=(),
    )
    return found if found.noisy else replace(found, parts=parts.find(graph, seed=seed))
