"""Judges of inference: methods side by side, and whether to believe them."""

from pplvae.compare.bounds import Bounds, bounds
from pplvae.compare.calibrate import Calibration, calibrate
from pplvae.compare.comparison import Comparison
from pplvae.compare.convergence import Convergence, convergence
from pplvae.compare.densities import densities
from pplvae.compare.gradients import GradientComparison, gradients
from pplvae.compare.held_out import DensityComparison
from pplvae.compare.methods import methods

__all__ = [
    "Bounds",
    "Calibration",
    "Comparison",
    "Convergence",
    "DensityComparison",
    "GradientComparison",
    "bounds",
    "calibrate",
    "convergence",
    "densities",
    "gradients",
    "methods",
]
