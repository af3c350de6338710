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


def convert(groups: Groups, attributes: dict[str, Any]) -> Any:
    """Return ArviZ's container of `groups`, with `attributes` on the posterior.

    Args:
        groups: Arrays by group and name; posterior, log_likelihood and sample_stats have the
            leading axes (chain, draw), observed_data and constant_data have not.
        attributes: Plain numbers and strings.
    """
    az = _arviz()
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

    R-hat is nan for one chain, and infinite for chains each stuck at a place of its own.
    """
    stats = _array_stats()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "ess_bulk": float(stats.ess(draws, method="bulk")),
            "ess_tail": float(stats.ess(draws, method="tail", prob=(0.05, 0.95))),
            "r_hat": _r_hat(stats, draws),
        }


def _r_hat(stats: Any, draws: np.ndarray) -> float:
    if len(draws) == 1:
        return float("nan")
    stuck = np.ptp(draws, axis=1).max() == 0 and np.ptp(draws) > 0
    return float("inf") if stuck else float(stats.rhat(draws))


def _row(draws: np.ndarray, prob: float) -> dict[str, float]:
    low, high = np.quantile(draws, [(1 - prob) / 2, (1 + prob) / 2])
    return {
        "mean": draws.mean(),
        "sd": draws.std(ddof=1),
        f"{50 * (1 - prob):g}%": low,
        f"{50 * (1 + prob):g}%": high,
    } | diagnose(draws)


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
    """Return what has ArviZ's `ess` and `rhat` of plain arrays (chain, draw)."""
    az = _arviz()
    return import_module("arviz_stats.base").array_stats if _is_one(az) else az


def _arviz() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as az
    return az
