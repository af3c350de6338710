"""The one converter to ArviZ: NumPy arrays in, InferenceData (0.23) or DataTree (1.x) out.

This file sees neither torch nor Pyro, so that it serves both ArviZ versions by itself. ArviZ is
imported where it is used: the import takes seconds and announces itself with a warning.
"""

import re
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Groups = dict[str, dict[str, np.ndarray]]

LEAST_DRAWS = 30  # fewer have a tail of less than six, which the fit cannot take


def import_arviz() -> ModuleType:
    """Return ArviZ. The first import takes seconds, which belong to no method's cost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as az
    return az


def convert(groups: Groups, attributes: dict[str, Any]) -> Any:
    """Return ArviZ's container of `groups`, with `attributes` on the posterior.

    Args:
        groups: Arrays by group and name; posterior, log_likelihood and sample_stats have the
            leading axes (chain, draw), observed_data and constant_data have not.
        attributes: Plain numbers and strings.
    """
    az = import_arviz()
    with warnings.catch_warnings():
        # One chain of few draws is an honest result here; ArviZ takes it for a transposed array.
        warnings.filterwarnings("ignore", message="More chains|Found chain", category=UserWarning)
        tree = az.from_dict(groups) if _is_one(az) else az.from_dict(**groups)
    tree["posterior"].attrs.update(attributes)
    for name, value in groups.get("observed_data", {}).items():
        if not value.ndim:  # ArviZ gives it an axis
            tree["observed_data"][name] = tree["observed_data"][name].squeeze(drop=True)
    return tree


def write(groups: Groups, attributes: dict[str, Any], path: Path) -> None:
    """Write `groups` as netCDF."""
    convert(groups, attributes).to_netcdf(str(path), engine="h5netcdf")


def read(path: Path) -> tuple[Groups, dict[str, Any]]:
    """Return the groups and the posterior's attributes of a netCDF file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not netCDF with a posterior in it.
    """
    import h5netcdf

    if not path.exists():
        raise FileNotFoundError(f"path must name a netCDF file, got {path}, which does not exist")
    try:
        with h5netcdf.File(str(path), "r") as file:
            groups = {
                group: {n: _array(v) for n, v in members.variables.items() if not _axis(v)}
                for group, members in file.groups.items()
            }
            attributes = {n: _plain(v) for n, v in file.groups["posterior"].attrs.items()}
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"path must name netCDF with a posterior, got {path}: {error}") from error
    return groups, {n: v for n, v in attributes.items() if n not in _ARVIZ_ATTRIBUTES}


def summarize(posterior: dict[str, np.ndarray], prob: float) -> "pd.DataFrame":
    """Return mean, sd, central interval, ESS and R-hat of each scalar parameter, a row each."""
    import pandas as pd

    rows = {name: _row(draws, prob) for name, draws in scalars(posterior).items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def scalars(posterior: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return each scalar parameter's draws (chain, draw), named like `locs[0, 1]`."""
    return {
        name + (str(list(index)) if index else ""): draws[(..., *index)]
        for name, draws in posterior.items()
        for index in np.ndindex(draws.shape[2:])
    }


def diagnose(draws: np.ndarray) -> dict[str, float]:
    """Return bulk and tail ESS and R-hat of draws (chain, draw).

    R-hat is nan for one chain, and infinite for chains each stuck at a place of its own. All are
    nan for fewer than four draws in a chain.
    """
    if draws.shape[1] < 4:
        return dict.fromkeys(("ess_bulk", "ess_tail", "r_hat"), float("nan"))
    stats = _array_stats()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "ess_bulk": float(stats.ess(draws, method="bulk")),
            "ess_tail": float(stats.ess(draws, method="tail", prob=(0.05, 0.95))),
            "r_hat": _r_hat(stats, draws),
        }


def smooth(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Return Pareto-smoothed importance weights, as normalized logarithms, and their k.

    The largest of S weights are replaced by quantiles of the generalized Pareto law fitted to
    them; k is its shape: the weights have 1/k finite moments. What is estimated with them can be
    believed where k is below `threshold(S)`. Modes of p that no draw has met go unseen.

    Args:
        log_weight: log p(x, θ_s) − log q(θ_s) of draws from q, any shape; −inf outside the
            support of p.

    Returns:
        The logarithms of weights that sum to one, same shape; nan where the weights have no sum
        to divide by (one is infinite or nan, or all are zero). And k: −inf where all weights are
        equal but for rounding ("exact"); +inf where they have no sum, or few of many draws have
        all of it; nan where the tail is unknown, of fewer than 30 draws or of tied weights.

    Reference:
        Vehtari et al. (2024), Pareto smoothed importance sampling, JMLR 25(72),
        https://doi.org/10.48550/arXiv.1507.02646
    """
    flat = np.ravel(log_weight)
    positive = flat > -np.inf
    if not (flat < np.inf).all() or not positive.any():
        return np.full(np.shape(log_weight), np.nan), float("inf")
    smoothed, k = _normalized(flat), float("nan")
    if len(flat) > 1 and _are_equal(flat):
        k = float("-inf")
    elif positive.sum() >= LEAST_DRAWS:
        smoothed[positive], k = _smooth_tail(smoothed[positive])
    size = 1 / np.square(np.exp(smoothed)).sum()
    if np.isnan(k) and size < LEAST_DRAWS <= len(flat):
        k = float("inf")
    return smoothed.reshape(np.shape(log_weight)), k


def pareto_k(log_weight: np.ndarray) -> float:
    """Return k of importance weights log p(x, θ_s) − log q(θ_s), any shape; see `smooth`."""
    return smooth(log_weight)[1]


def threshold(num_draws: int) -> float:
    """Return the k up to which S draws can be believed: min(1 − 1 / log₁₀ S, 0.7)."""
    return min(1 - 1 / float(np.log10(num_draws)), 0.7) if num_draws > 1 else float("-inf")


def _r_hat(stats: Any, draws: np.ndarray) -> float:
    if len(draws) == 1:
        return float("nan")
    stuck = np.ptp(draws, axis=1).max() == 0 and np.ptp(draws) > 0
    return float("inf") if stuck else float(stats.rhat(draws))


def _row(draws: np.ndarray, prob: float) -> dict[str, float]:
    low, high = np.quantile(draws, [(1 - prob) / 2, (1 + prob) / 2])
    return {
        "mean": draws.mean(),
        "sd": draws.std(ddof=1) if draws.size > 1 else float("nan"),
        f"{50 * (1 - prob):g}%": low,
        f"{50 * (1 + prob):g}%": high,
    } | diagnose(draws)


def _normalized(log_weight: np.ndarray) -> np.ndarray:
    wide = log_weight.astype(np.float64)
    return wide - np.logaddexp.reduce(wide)


def _are_equal(log_weight: np.ndarray) -> bool:
    """Whether weights differ by no more than rounding does to sums of their logarithms' size."""
    size = max(np.abs(log_weight).max(), 1.0)
    return bool(np.isfinite(size)) and np.ptp(log_weight) <= 1e-6 + size * 128 * _eps(log_weight)


def _eps(array: np.ndarray) -> float:
    return float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0


def _smooth_tail(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Return ArviZ's smoothed weights and k; without a fit, the weights as they are and nan."""
    # 1.x takes the logarithms of the weights' inverses, which in LOO are the likelihoods.
    sign = -1 if _is_one(import_arviz()) else 1
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            smoothed, k = _array_stats().psislw(sign * log_weight)
        except ValueError:  # 1.x: all of the tail is tied
            return log_weight, float("nan")
    return (smoothed, float(k)) if np.isfinite(k) else (log_weight, float("nan"))


_ARVIZ_ATTRIBUTES = {
    "created_at", "creation_library", "creation_library_language", "creation_library_version",
    "arviz_version", "sample_dims",
}  # fmt: skip


def _axis(variable: Any) -> bool:
    """Whether a netCDF variable is a coordinate: one axis that bears its own name."""
    return tuple(variable.dimensions) == (variable.name.split("/")[-1],)


def _array(variable: Any) -> np.ndarray:
    """Return a netCDF variable's values; netCDF has no booleans, xarray leaves a note instead."""
    array = np.asarray(variable[...])
    return array.astype(bool) if variable.attrs.get("dtype") == "bool" else array


def _plain(value: Any) -> Any:
    return (
        value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    )


def _is_one(az: ModuleType) -> bool:
    version = re.match(r"\d+", az.__version__)
    return version is not None and int(version.group()) >= 1


def _array_stats() -> Any:
    """Return what has ArviZ's `ess`, `rhat` and `psislw` of plain arrays."""
    az = import_arviz()
    return import_module("arviz_stats.base").array_stats if _is_one(az) else az
