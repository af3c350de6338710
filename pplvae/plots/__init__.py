"""Pictures: tensors and an Axes in, the Axes out. Matplotlib lives here only."""

from pplvae.plots.bounds import bounds
from pplvae.plots.calibration import calibration
from pplvae.plots.density import histogram
from pplvae.plots.diagnosis import latent_dimensions, pareto_k
from pplvae.plots.dimension import (
    danco_divergence,
    dimension_posterior,
    pareto_quantiles,
    spectrum,
    twonn_line,
)
from pplvae.plots.gradients import gradients
from pplvae.plots.images import manifold, mosaic, pairs
from pplvae.plots.inference import accuracy, convergence, posteriors
from pplvae.plots.latent import interpolation, traversals
from pplvae.plots.points import mixture, points
from pplvae.plots.scales import (
    dimension_estimates,
    dimension_parts,
    dimension_profile,
    local_dimension,
    scaling_line,
)
from pplvae.plots.style import COLORS, color_of, own_figures, panels, png
from pplvae.plots.training import bits_per_dimension, score, training

__all__ = [
    "COLORS", "accuracy", "bits_per_dimension", "bounds", "calibration", "color_of",
    "convergence", "danco_divergence", "dimension_estimates", "dimension_parts",
    "dimension_posterior", "dimension_profile", "gradients", "histogram", "interpolation",
    "latent_dimensions", "local_dimension", "manifold", "mixture", "mosaic", "own_figures",
    "pairs", "panels", "pareto_k", "pareto_quantiles", "png", "points", "posteriors",
    "scaling_line", "score", "spectrum", "training", "traversals", "twonn_line",
]  # fmt: skip
