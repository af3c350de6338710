"""The conjugate prior of a Gaussian mixture: Dirichlet weights, normal–inverse-Wishart components.

    w ~ Dirichlet(α),   Σ_k ~ InverseWishart(ν, Ψ),   loc_k | Σ_k ~ Normal(m, Σ_k / κ),

which acts like κ points at m and ν points of scatter Ψ seen beforehand. It keeps every covariance
open, so that the posterior mode exists where the likelihood has no maximum, and its conditional
posteriors are of the same family, so that Gibbs sampling is exact. Where the covariances have a
simpler form the density is the same one, restricted to that form.

Reference:
    Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and model-based
    clustering, https://doi.org/10.1007/s00357-007-0004-5; its defaults are those of `default`.
    Gelman et al. (2013), Bayesian Data Analysis, section 3.6.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.mixtures.columns import column_scales
from pplvae.mixtures.mixture import GaussianMixture
from pplvae.validation import Array, as_points, as_tensor, check_positive, check_whole


@dataclass(frozen=True, eq=False)
class NormalInverseWishart:
    """Prior of the weights, means and covariances.

    Attributes:
        loc: Prior mean m of the means, shape (D,).
        scatter: Ψ, shape (D, D), positive definite; the mean of Σ is Ψ / (ν − D − 1).
        strength: κ, how many points the prior of a mean counts for.
        degrees: ν > D − 1, how many points the prior of a covariance counts for.
        concentration: α of the symmetric Dirichlet.

    Raises:
        ValueError: If the shapes do not fit, Ψ is not positive definite, or a number is outside
            its range.
    """

    loc: Tensor
    scatter: Tensor
    strength: float = 0.01
    degrees: float = 0.0
    concentration: float = 1.0

    def __post_init__(self) -> None:
        loc, scatter = as_tensor(self.loc, name="loc"), as_tensor(self.scatter, name="scatter")
        if loc.dim() != 1 or scatter.shape != (len(loc), len(loc)):
            shapes = f"{tuple(loc.shape)} and {tuple(scatter.shape)}"
            raise ValueError(f"loc and scatter must have shapes (D,) and (D, D), got {shapes}")
        symmetric = torch.allclose(scatter, scatter.mT)
        if not symmetric or torch.linalg.cholesky_ex(scatter).info.any():
            raise ValueError("scatter must be symmetric and positive definite")
        check_positive("strength", self.strength)
        check_positive("concentration", self.concentration)
        degrees = self.degrees or len(loc) + 2.0
        if not len(loc) - 1 < degrees < math.inf:
            raise ValueError(f"degrees must be above {len(loc) - 1} and finite, got {degrees}")
        for name, value in (("loc", loc), ("scatter", scatter), ("degrees", degrees)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"NormalInverseWishart({len(self.loc)} dimensions, strength {self.strength:g}, "
            f"degrees {self.degrees:g}, concentration {self.concentration:g})"
        )

    @classmethod
    def default(cls, x: Array, num_components: int) -> "NormalInverseWishart":
        """Return a weak prior in the units of the data.

        m is their mean, κ = 0.01, ν = D + 2, Ψ their covariance / K^(2/D): a K-th of their volume.

        Raises:
            ValueError: If x has fewer than two distinct points.
        """
        check_whole("num_components", num_components, 1)
        x = as_points(x, min_points=2).double()
        dim = x.shape[1]
        cov = x.T.cov(correction=0).reshape(dim, dim)
        # A column that is constant, or follows from others, must not close the prior.
        cov = cov + 1e-6 * column_scales(x).square().diag()
        return cls(x.mean(dim=0), cov / num_components ** (2 / dim))

    def check_dim(self, dim: int) -> None:
        """Refuse to be the prior of points in another number of dimensions.

        Raises:
            ValueError: If `dim` is not its own.
        """
        if len(self.loc) != dim:
            raise ValueError(f"prior must have {dim} dimensions, got {self}")

    def in_coordinates(self, center: Tensor, scale: Tensor) -> "NormalInverseWishart":
        """Return the prior of z = scale⁻¹ (x − center), with `scale` lower triangular (D, D)."""
        loc = torch.linalg.solve_triangular(scale, (self.loc - center).unsqueeze(-1), upper=False)
        half = torch.linalg.solve_triangular(scale, self.scatter, upper=False)
        scatter = torch.linalg.solve_triangular(scale, half.mT, upper=False)
        return NormalInverseWishart(
            loc.squeeze(-1),
            (scatter + scatter.mT) / 2,
            self.strength,
            self.degrees,
            self.concentration,
        )

    def log_prob(self, mixture: GaussianMixture) -> float:
        """Return log p(w, loc, Σ) in nats, a density with respect to w, loc and Σ_1 … Σ_K.

        A covariance that is tied counts once for each component here, once in all in EM.

        Raises:
            ValueError: If the mixture has another dimension.
        """
        num_components, dim = mixture.locs.shape
        if dim != len(self.loc):
            raise ValueError(f"mixture must have {len(self.loc)} dimensions, got {dim}")
        nu, half = self.degrees, 0.5 * self.degrees
        weights = torch.distributions.Dirichlet(
            mixture.weights.new_full((num_components,), self.concentration), validate_args=False
        )
        trils = mixture.scale_trils
        log_det = 2 * trils.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)  # log |Σ|
        spread = torch.linalg.solve_triangular(trils, self.scatter.to(trils), upper=False)
        spread = torch.linalg.solve_triangular(trils, spread.mT, upper=False)
        trace = spread.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        log_normalizer = half * (torch.logdet(self.scatter.double()) - dim * math.log(2))
        log_normalizer = log_normalizer - torch.special.multigammaln(
            torch.tensor(half, dtype=torch.float64), dim
        )
        wishart = log_normalizer - 0.5 * (nu + dim + 1) * log_det - 0.5 * trace
        means = torch.distributions.MultivariateNormal(
            self.loc.to(trils), scale_tril=trils / self.strength**0.5
        ).log_prob(mixture.locs)
        total = (wishart + means).sum()
        if num_components > 1:
            total = total + weights.log_prob(mixture.weights)
        return float(total)
