"""Hidalgo: data whose parts have different dimensions, and which point is of which part.

By TwoNN, log μ = log r₂/r₁ of a point is exponential with rate d. Where a data set has K parts
of dimensions d_k, a point is of part z with log μ ~ Exponential(d_z). One ratio says little of its
part, so the neighbors are asked too: a point's q nearest are of its own part with odds ζ : 1 − ζ,

    p(z) = 1/Z(ζ) Π_i ζ^n_i (1 − ζ)^(q − n_i),   n_i = neighbors j ∈ NN_q(i) with z_j = z_i,
    p(μ, z | d) = p(z) Π_i d_{z_i} μ_i^(−d_{z_i} − 1).

The product is that of Allegra et al., the normalizer is not. Theirs makes it a law of the graph
given z: row i is a set of q of the other N − 1 points, those of its own part with odds ζ, so that

    Z(ζ, N_k) = Σ_n C(N_k − 1, n) C(N − N_k, q − n) ζ^n (1 − ζ)^(q − n)

≈ C(N − 1, q) (w_k ζ + (1 − w_k)(1 − ζ))^q for w_k = N_k / N. As a likelihood of the graph it pays
for any cut: one manifold cut in halves by a plane gains q log 2ζ − log 2 nats a point, 0.72 for
q = 3 and ζ = 0.8, though d is the same on both sides. It cannot tell how many parts there are,
and moves the wall between parts of unequal size. Here the graph is given and Z(ζ) sums over z, a
Potts model: each neighbor in another part costs log ζ/(1 − ζ), 1.39 nats, and only ratios can
pay for it. No weights are in the prior then: `weights` are the shares of the points. Without
coherence (q = 0 or ζ = ½) there is no graph and they are the plain mixture's weights.

The sum over K^N labels is approximated by belief propagation (see `coherence`), exact where the
graph has no cycle. It gives each point's part, log p(μ | d) and thereby the number of parts.

Reference:
    Allegra, Facco, Denti, Laio & Mira (2020), Data segmentation based on the local intrinsic
    dimension, https://doi.org/10.1038/s41598-020-72222-0. Their law is sampled by Gibbs steps in
    aeon (`HidalgoSegmenter`) and in R's intRinsic.
"""

from pplvae.intrinsic_dimension.hidalgo.coherence import Neighborhood
from pplvae.intrinsic_dimension.hidalgo.mixture import model
from pplvae.intrinsic_dimension.hidalgo.result import Hidalgo, Selection
from pplvae.intrinsic_dimension.hidalgo.segment import fit, select

__all__ = ["Hidalgo", "Neighborhood", "Selection", "fit", "model", "select"]
