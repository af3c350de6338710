"""Where the Bayesian fits of a mixture begin: a mixture that is given, or EM's optimum."""

from torch import Tensor

from pplvae.mixtures import em
from pplvae.mixtures.beginnings import check_start
from pplvae.mixtures.mixture import GaussianMixture


def given_or_found(
    start: GaussianMixture | None,
    x: Tensor,
    num_components: int,
    covariance: str,
    *,
    seed: int | None,
    progress: bool,
) -> GaussianMixture:
    """Return the start that is given, or the mixture that EM finds for points (N, D).

    Raises:
        ValueError: If the start is no such mixture, or the data have no room for so many
            components.
    """
    if start is not None:
        check_start(start, num_components, x.shape[1])
        return start
    found = em.fit(x, num_components, covariance=covariance, seed=seed, progress=progress)
    if found.num_pruned:
        most = found.mixture.num_components
        raise ValueError(f"num_components must be at most {most} here, got {num_components}")
    return found.mixture
