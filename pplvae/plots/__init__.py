"""Pictures: tensors and an Axes in, the Axes out. Matplotlib lives here only."""

from pplvae.plots.autoencoders import code_sizes, codes, components, image_rows
from pplvae.plots.bounds import bounds
from pplvae.plots.calibration import calibration
from pplvae.plots.density import bandwidths, contours, held_out, histogram, typical
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
from pplvae.plots.mixtures import (
    mixture,
    mixture_animation,
    mixture_density,
    mixture_means,
    mixture_responsibilities,
    mixture_steps,
    mixture_uncertainty,
    selection,
)
from pplvae.plots.points import points
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
    "COLORS", "accuracy", "bandwidths", "bits_per_dimension", "bounds", "calibration",
    "code_sizes", "codes", "color_of", "components", "contours", "convergence", "danco_divergence",
    "dimension_estimates", "dimension_parts", "dimension_posterior", "dimension_profile",
    "gradients", "held_out", "histogram", "image_rows", "interpolation", "latent_dimensions",
    "local_dimension", "manifold", "mixture", "mixture_animation", "mixture_density",
    "mixture_means", "mixture_responsibilities", "mixture_steps", "mixture_uncertainty", "mosaic",
    "own_figures", "pairs", "panels", "pareto_k", "pareto_quantiles", "png", "points",
    "posteriors", "scaling_line", "score", "selection", "spectrum", "training", "traversals",
    "twonn_line", "typical",
]  # fmt: skip
