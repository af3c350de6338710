"""How fast each method nears the reference: error against cost, every point a run of its own.

A method is run with growing budgets (steps, draws), each several times from other seeds. The error
of a run is the root mean square, over the P scalar parameters, of its means' standardized errors

    rms² = 1/P Σ_p ((m'_p − m_p) / s_p)²,

with m and s the reference's means and sds; over repeats the squares are averaged. The reference
is known itself only up to √(1/P Σ_p 1/n_p) for n_p effective draws: below this floor a curve says
nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pplvae import randomness
from pplvae.compare.scores import arrays, described, most_effective
from pplvae.infer import Posterior
from pplvae.infer.inference_data import scalars
from pplvae.validation import Array, as_tensor, check_positive, check_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Moments: TypeAlias = tuple[Mapping[str, Array], Mapping[str, Array]]
Engine: TypeAlias = Callable[[int, int], Posterior]


@dataclass(frozen=True)
class Run:
    """One run: the method, its budget and seed, its error in reference sds, and its cost."""

    method: str
    budget: int
    seed: int
    error: float
    cpu_seconds: float
    gradients: int


@dataclass(frozen=True, repr=False)
class Convergence:
    """Error against cost.

    Attributes:
        runs: Every run, method by method, budget by budget.
        floor: The rms Monte Carlo error of the reference's own means, in its sds; 0 where they
            were given.
    """

    runs: list[Run]
    floor: float

    def table(self) -> "pd.DataFrame":
        """Return one row a method and budget.

        `error` is the rms over parameters and repeats, `worst` the largest of a repeat; CPU
        seconds are medians, for a first run also pays for imports; gradients are means.
        """
        import pandas as pd

        groups: dict[tuple[str, int], list[Run]] = {}
        for run in self.runs:
            groups.setdefault((run.method, run.budget), []).append(run)
        return pd.DataFrame([
            {
                "method": method,
                "budget": budget,
                "repeats": len(runs),
                "cpu_seconds": float(np.median([run.cpu_seconds for run in runs])),
                "gradients": float(np.mean([run.gradients for run in runs])),
                "error": math.sqrt(np.mean([run.error**2 for run in runs])),
                "worst": max(run.error for run in runs),
            }
            for (method, budget), runs in groups.items()
        ])  # fmt: skip

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw error against CPU seconds, both in logs, a curve for each method."""
        from pplvae.plots.inference import convergence as draw

        curves = {
            str(method): (rows["cpu_seconds"].to_numpy(), rows["error"].to_numpy())
            for method, rows in self.table().groupby("method", sort=False)
        }
        return draw(curves, floor=self.floor, ax=ax)

    def __repr__(self) -> str:
        table = self.table().to_string(index=False, float_format="{:.3g}".format)
        return f"Convergence, the reference sure to {self.floor:.2g} of its sds\n{table}"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, float_format="{:.3g}".format)


def convergence(
    engines: Mapping[str, Engine],
    *,
    budgets: Mapping[str, Sequence[int]],
    reference: Posterior | Moments,
    num_repeats: int = 3,
    seed: int | None = None,
) -> Convergence:
    """Run each method with each of its budgets and return errors against costs.

    Repeat r of every method and budget starts from the same seed.

    Args:
        engines: By method, a function of a budget and a seed, such as
            `lambda budget, seed: svi.fit(model, x, num_steps=budget, seed=seed)`.
        budgets: By method, its budgets, each at least 1.
        reference: The posterior to believe; or its means and its sds, each by site.
        num_repeats: Runs with each budget.
        seed: Start of the random draws.

    Raises:
        ValueError: If methods and budgets do not match, or the parameters of a run are not the
            reference's.
    """
    if not engines or set(engines) != set(budgets):
        raise ValueError(f"budgets must be given for {sorted(engines)}, got {sorted(budgets)}")
    check_whole("num_repeats", num_repeats, 1)
    for method, sizes in budgets.items():
        if not sizes:
            raise ValueError(f"budgets of {method} must hold at least 1 number, got none")
        for size in sizes:
            check_whole(f"budgets of {method}", size, 1)
    seed = randomness.resolve(seed)
    seeds = [randomness.derive(seed, repeat) for repeat in range(num_repeats)]
    standard, floor = _standard(reference)
    return Convergence(
        [
            _run(method, (budget, start), engines[method], standard)
            for method, sizes in budgets.items()
            for budget in sizes
            for start in seeds
        ],
        floor,
    )


def _run(
    method: str,
    how: tuple[int, int],
    engine: Engine,
    standard: dict[str, tuple[float, float]],
) -> Run:
    posterior = engine(*how)
    draws = arrays(posterior, method)
    missing = [name for name in standard if name not in draws]
    if missing:
        raise ValueError(f"{method} must have the reference's parameters, got no {missing}")
    errors = [(draws[name].mean() - mean) / sd for name, (mean, sd) in standard.items()]
    return Run(
        method, *how, float(np.sqrt(np.mean(np.square(errors)))),
        posterior.cost.cpu_seconds, posterior.cost.gradient_evaluations,
    )  # fmt: skip


def _standard(reference: Posterior | Moments) -> tuple[dict[str, tuple[float, float]], float]:
    """Return mean and sd of each scalar parameter that varies, and how unsure the means are."""
    if not isinstance(reference, Posterior):
        means, sds = (_scalars(values) for values in reference)
        if means.keys() != sds.keys():
            raise ValueError(
                f"reference must have the same parameters in means and sds, got {sorted(means)} "
                f"and {sorted(sds)}"
            )
        for name, sd in sds.items():
            check_positive(f"the sd of {name} in reference", sd)
        return {name: (means[name], sds[name]) for name in means}, 0.0
    if reference.is_point:
        raise ValueError("reference must have a spread, got a point")
    draws = arrays(reference, "the reference")
    most = most_effective(reference)
    found = {name: described(v, most) for name, v in draws.items() if np.ptp(v) > 0}
    if not found:
        raise ValueError("reference must vary, got constant draws")
    floor = math.sqrt(np.mean([1 / each["ess"] for each in found.values()]))
    return {name: (each["mean"], each["sd"]) for name, each in found.items()}, floor


def _scalars(values: Mapping[str, Array]) -> dict[str, float]:
    tensors = {name: as_tensor(value, name=f"reference {name}") for name, value in values.items()}
    single = {name: value.detach().cpu().double().numpy() for name, value in tensors.items()}
    found = scalars({name: value[None, None] for name, value in single.items()})
    return {name: value.item() for name, value in found.items()}
