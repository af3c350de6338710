"""The improved plug-in rule of Sheather and Jones, by diffusion (Botev): no normal reference.

The best width for the squared error needs ‖p''‖², whose best pilot width needs ‖p'''‖², and so on;
Botev closes the chain at the seventh derivative by asking that the first width agree with itself.
A Gaussian kernel of variance t is heat flow for a time t: on a grid over an interval of length R,
with a_k the cosine coefficients of the binned sample, in units of R,

    ‖f^(s)‖² = ½ π^(2s) Σ_k k^(2s) a_k² exp(-k² π² t),
    t_s = ((1 + 2^(-s - 1/2)) / 3 · 2 (2s - 1)!! / (√(2π) N ‖f^(s+1)‖²))^(2 / (3 + 2s)),
    t = (2 N √π ‖f''(t_2)‖²)^(-2/5),   h = R √t.

R is the length of the grid, not of the data: the packages that mix them up come out too narrow.

Reference:
    Botev, Grotowski & Kroese (2010), Kernel density estimation via diffusion,
    https://doi.org/10.1214/10-AOS799
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pplvae.density import spread
from pplvae.validation import Array, as_points

_CELLS = 2**12
_MOST_CELLS = 2**20
_MARGIN = 0.1  # of the range, on either side
_FINE = 4  # cells in a width, at least
_LAST = 7  # derivative at which the chain is closed


def isj(data: Array, *, weights: Array | None = None) -> Tensor:
    """Return Botev's bandwidth for points on a line.

    Args:
        data: Points, shape (N,) or (N, 1), N ≥ 2.
        weights: Worth of each point, shape (N,).

    Returns:
        The standard deviation of a Gaussian kernel, shape (1,), in the units of the data.

    Raises:
        ValueError: If D is not 1, the data do not vary, or the equation has no solution, as for a
            few values repeated over and over.
    """
    data = as_points(data, name="data", min_points=2)
    if data.shape[1] != 1:
        raise ValueError(f"data must have one column for 'isj', got {data.shape[1]}")
    data, shares = spread.counted(data, weights)
    x = data[:, 0].double()
    spread.deviation(data, shares)
    size = min(len(x.unique()), spread.effective_size(shares, len(x)))
    extent = (x.max() - x.min()).item()
    length = (1 + 2 * _MARGIN) * extent
    places = (x - x.min() + _MARGIN * extent) / length
    cells = _CELLS
    while True:
        time = _smallest_root(_equation(_squared_coefficients(places, shares, cells), size))
        if math.sqrt(time) * cells >= _FINE or cells >= _MOST_CELLS:
            return data.new_tensor([math.sqrt(time) * length])
        cells *= 8  # a few far points have made the cells wider than the kernel


def _squared_coefficients(places: Tensor, shares: Tensor | None, cells: int) -> np.ndarray:
    """Return (a_k / 2)² of the cosines cos(π k u), k = 1, ..., of a sample u in [0, 1]."""
    index = (places * cells).long().clamp(max=cells - 1)
    counts = torch.bincount(index, shares, minlength=cells).double()
    mirrored = torch.cat([counts, counts.flip(0)]) / counts.sum()
    phase = torch.arange(cells, device=counts.device) * (math.pi / (2 * cells))
    spectrum = torch.fft.rfft(mirrored)[:cells] * torch.polar(torch.ones_like(phase), -phase)
    return (0.5 * spectrum.real[1:]).square().cpu().numpy()


def _equation(squares: np.ndarray, size: float) -> Callable[[float], float]:
    """Return t less what the chain makes of it; its smallest root is the answer."""
    k2 = np.arange(1, len(squares) + 1, dtype=np.float64) ** 2

    def norm(order: int, time: float) -> float:
        used = min(len(k2), 2 + int(math.sqrt(80 / (math.pi**2 * time))))  # beyond: exp(-80)
        powers = (np.pi**2 * k2[:used]) ** order
        return 2 * float(powers * squares[:used] @ np.exp(-k2[:used] * (np.pi**2 * time)))

    def equation(time: float) -> float:
        value = norm(_LAST, time)
        for s in range(_LAST - 1, 1, -1):
            odd = math.prod(range(1, 2 * s, 2)) / math.sqrt(2 * math.pi)
            constant = (1 + 0.5 ** (s + 0.5)) / 3
            if value == 0:  # a smooth guess leaves nothing: the root is beyond
                return -math.inf
            value = norm(s, (2 * constant * odd / (size * value)) ** (2 / (3 + 2 * s)))
        if value == 0:
            return -math.inf
        return time - (2 * size * math.sqrt(math.pi) * value) ** -0.4

    return equation


def _smallest_root(equation: Callable[[float], float]) -> float:
    """Return where the equation first turns positive, by steps and then by halving."""
    low, high = 0.0, 1e-14
    while equation(high) < 0:
        low, high = high, 1.5 * high
        if high > 0.1:
            raise ValueError(
                "data must have a bandwidth by 'isj', got none: are there only a few values?"
            )
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if equation(middle) < 0 else (low, middle)
    return high
