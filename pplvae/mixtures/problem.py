"""What EM climbs: the likelihood of the points, or the posterior under the conjugate prior.

The E-step gives the objective and the moments, the M-step the mixture that they make most likely.
With the prior's κ points at m, its scatter Ψ and its α − 1 points of each component added,

    loc_k = (κ m + N_k x̄_k) / (κ + N_k),   w_k = (N_k + α − 1) / (N + K (α − 1)),
    Σ_k = (Ψ + S_k + κ N_k / (κ + N_k) (x̄_k − m)(x̄_k − m)ᵀ) / (N_k + ν + D + 2),

with S_k the scatter about the component's own mean x̄_k: the mode, as no step can then lose.

Reference:
    Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and model-based
    clustering, https://doi.org/10.1007/s00357-007-0004-5
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Full, Moments, Parameters
from pplvae.mixtures.points import Points
from pplvae.mixtures.prior import NormalInverseWishart

GONE = -1e100  # the log weight of a component that was given up


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
