"""The four forms of a mixture's covariances, and the monomials by which each one sees a point.

A Gaussian's log density is linear in monomials F(z) of the point, so that for all components and
points at once

    log w_k p(z_n | k) = Σ_p T_kp F_p(z_n) = (T F)_kn,   F(z) = (1, z_i, z_i z_j),

with Λ = (L Lᵀ)⁻¹ and T_k = (log w_k − log |L| − D/2 log 2π − ½ locᵀ Λ loc, Λ loc, −½ Λ): one
matrix product. A second one, r Fᵀ with the responsibilities r, sums all that the M-step needs: the
counts, Σ r z and Σ r z zᵀ. Fewer monomials do for the simpler forms:

    full       L_k any            1, z_i, z_i z_j with i ≤ j
    tied       L_k = L            1, z_i: zᵀ Λ z is the same for all k, and Σ z zᵀ for all steps
    diag       L_k = diag(σ_k)    1, z_i, z_i²
    spherical  L_k = σ_k I        1, z_i, |z|²

A conjugate prior has each covariance inverse-Wishart (ν, Ψ), restricted to the form: its density
|Σ|^(−(ν + D + 1)/2) exp(−½ tr Ψ Σ⁻¹) on the covariances of the form only. With Ψ = C Cᵀ that is
Bartlett's L = C B⁻¹ of independent numbers, B lower triangular with

    full, tied   B_ii² ~ ChiSquared(ν − D + i),   B_ij ~ Normal(0, 1) for i > j
    diag         B_ii² ~ ChiSquared(ν + D − 1),   σ_i² = Ψ_ii / B_ii²: inverse gamma
    spherical    b² ~ ChiSquared(D (ν + D + 1) − 2),   σ² = tr Ψ / b²
"""

from pplvae.mixtures.axes import Diagonal, Spherical
from pplvae.mixtures.batches import Moments, Parameters
from pplvae.mixtures.ellipsoids import Full, Tied

__all__ = ["FORMS", "Diagonal", "Full", "Moments", "Parameters", "Spherical", "Tied"]

FORMS = {form.name: form for form in (Full(), Tied(), Diagonal(), Spherical())}
