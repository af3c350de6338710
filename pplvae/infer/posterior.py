"""The one result of every inference engine: draws, how sure, and what they cost."""

import math
import os
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pplvae.infer.evaluation import evaluate
from pplvae.infer.program import Draws, Model, inspect, num_draws
from pplvae.storage import write_atomically
from pplvae.validation import check_in_range

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cost:
    """What an inference took.

    Attributes:
        cpu_seconds: Processor time of this process, all threads, in seconds.
        wall_seconds: Elapsed time, in seconds.
        gradient_evaluations: How often the gradient of the log joint was taken.
    """

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    gradient_evaluations: int = 0


@dataclass(frozen=True)
class Posterior:
    """Draws from (an approximation of) p(θ | x), by one engine.

    Attributes:
        draws: Values of each site, shapes (C, S, …): chains, draws, the site's own axes.
        log_evidence: log p(x) in nats, or None where the engine gives none.
        trace: The engine's loss at each step, in nats; empty where it takes no steps. The losses
            of different engines cannot be compared.
        cost: What it took.
        method: The engine and its settings, in a few words.
        log_likelihood: log p(x_n | θ) in nats by observed site, shapes (C, S, N, …).
        observed: The data by observed site, shapes (N, …).
        sample_stats: Numbers about each draw, shapes (C, S): `lp`, the log joint; `diverging` and
            more by NUTS; for engines that know the density q of their draws `log_weight` =
            log p(x, θ) − log q(θ).
        diagnostics: What the engine knows of its own quality, by name: `pareto_k` (see
            `inference_data.pareto_k`), `log_evidence_error` (its Monte Carlo standard error, in
            nats), `importance_ess`, `converged`, `label_modes`.
        provenance: Seed, versions and dtype.
    """

    draws: Draws
    log_evidence: float | None = None
    trace: Tensor = field(default_factory=lambda: torch.zeros(0))
    cost: Cost = field(default_factory=Cost)
    method: str = "unnamed"
    log_likelihood: Draws = field(default_factory=dict)
    observed: Draws = field(default_factory=dict)
    sample_stats: Draws = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.draws:
            raise ValueError("draws must hold at least 1 site, got none")
        leading = {tuple(value.shape[:2]) for value in self.draws.values()}
        if len(leading) != 1 or len(next(iter(leading))) != 2:
            shapes = {name: tuple(value.shape) for name, value in self.draws.items()}
            raise ValueError(f"draws must share their axes (chain, draw), got {shapes}")

    @property
    def num_chains(self) -> int:
        """The number of chains C."""
        return next(iter(self.draws.values())).shape[0]

    @property
    def num_draws(self) -> int:
        """The number of draws S in each chain."""
        return next(iter(self.draws.values())).shape[1]

    @property
    def is_point(self) -> bool:
        """Whether this is one value of the sites, as from `map` or `em`, that says no spread."""
        return self.num_chains * self.num_draws == 1

    def __repr__(self) -> str:
        sites = ", ".join(f"{n} {tuple(v.shape[2:])}" for n, v in self.draws.items())
        return (
            f"Posterior({self.method}: {self.num_chains} chains × {self.num_draws} draws "
            f"of {sites}; {self.cost.cpu_seconds:.1f} CPU-s)"
        )

    def summary(self, prob: float = 0.95) -> "pd.DataFrame":
        """Return one row a parameter: mean, sd, central interval, ESS (bulk and tail), R-hat.

        Args:
            prob: Mass of the central interval, in [0, 1].

        Raises:
            ValueError: If the mass is outside.
        """
        check_in_range("prob", prob, 0, 1)
        from pplvae.infer.inference_data import summarize

        return summarize(self._groups()["posterior"], prob)

    def to_arviz(self) -> Any:
        """Return ArviZ's InferenceData (0.23) or DataTree (1.x).

        Groups: posterior, log_likelihood, observed_data and sample_stats, where there is one.
        """
        from pplvae.infer.inference_data import convert

        return convert(self._groups(), self._attributes())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write netCDF that plain ArviZ and `pplvae.infer.load` read.

        Raises:
            ValueError: If a site's name has a "/", which separates groups in netCDF.
        """
        from pplvae.infer.inference_data import write

        groups, attributes = self._groups(), self._attributes()
        for name in (name for values in groups.values() for name in values):
            if "/" in name:
                raise ValueError(f"sites must have names without '/' to be saved, got {name!r}")
        write_atomically(Path(path), lambda name: write(groups, attributes, name))

    def _groups(self) -> dict[str, dict[str, Any]]:
        groups = {
            "posterior": self.draws,
            "log_likelihood": self.log_likelihood,
            "observed_data": self.observed,
            "sample_stats": self.sample_stats,
            "constant_data": {"loss": self.trace} if len(self.trace) else {},
        }
        return {
            group: {name: value.detach().cpu().numpy() for name, value in values.items()}
            for group, values in groups.items()
            if values
        }

    def _attributes(self) -> dict[str, Any]:
        known = {} if self.log_evidence is None else {"log_evidence": self.log_evidence}
        said = {f"diagnostics_{name}": value for name, value in self.diagnostics.items()}
        return {"method": self.method, **vars(self.cost), **known, **said, **self.provenance}


def load(path: str | os.PathLike[str]) -> Posterior:
    """Return the posterior that `Posterior.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not netCDF with a posterior in it.
    """
    from pplvae.infer.inference_data import read

    groups, attributes = read(Path(path))
    tensors = {
        group: {name: torch.as_tensor(value) for name, value in values.items()}
        for group, values in groups.items()
    }
    said = {n: attributes.pop(n) for n in list(attributes) if n.startswith("diagnostics_")}
    cost = Cost(**{name: attributes.pop(name) for name in vars(Cost()) if name in attributes})
    return Posterior(
        draws=tensors["posterior"],
        log_evidence=attributes.pop("log_evidence", None),
        trace=tensors.get("constant_data", {}).get("loss", torch.zeros(0)),
        cost=cost,
        method=attributes.pop("method", "unnamed"),
        log_likelihood=tensors.get("log_likelihood", {}),
        observed=tensors.get("observed_data", {}),
        sample_stats=tensors.get("sample_stats", {}),
        diagnostics={name.removeprefix("diagnostics_"): value for name, value in said.items()},
        provenance=attributes,
    )


class Meter:
    """Counts what an engine spends."""

    def __init__(self) -> None:
        # torch imports its compiler with the first optimizer: a second that no engine is to pay.
        for module in ("torch._dynamo", "torch.fx.experimental.proxy_tensor"):
            import_module(module)
        self.cpu, self.wall = time.process_time(), time.perf_counter()
        self.gradients = 0

    def read(self) -> Cost:
        """Return the cost since the meter was made."""
        return Cost(
            time.process_time() - self.cpu, time.perf_counter() - self.wall, self.gradients
        )


def provenance(seed: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return what one needs to run an inference again: seed, versions and dtype."""
    import pyro

    import pplvae

    return {
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
        "pplvae_version": pplvae.__version__,
        "pyro_version": str(pyro.__version__),
        "torch_version": str(torch.__version__),
    }


def log_mean_error(log_weight: Tensor) -> float:
    """Return the standard error of log 1/S Σ_s w_s, for log weights of shape (S,), in nats.

    By the delta method: sd(w) / (mean(w) √S). Weights with a heavy tail make it too small.
    """
    weight = (log_weight - log_weight.max()).exp()
    return (weight.std() / weight.mean() / math.sqrt(len(weight))).item()


def from_independent_draws(
    model: Model,
    data: tuple[Any, ...],
    draws: Draws,
    log_q: Tensor | None,
    *,
    meter: Meter,
    pointwise: bool,
    seed: int,
    **rest: Any,
) -> Posterior:
    """Return the posterior of draws whose density q is known, as one chain.

    Each draw gets its log weight log p(x, θ) − log q(θ). Their mean estimates the evidence

        log p(x) ≈ log 1/S Σ_s p(x, θ_s) / q(θ_s)

    where the engine has not a better value.

    Args:
        model: The model.
        data: Its arguments.
        draws: Values of every latent site, shapes (S, …).
        log_q: Their log density under q, shape (S,); None where q has none, which leaves the draws
            without weights and the evidence unknown.
        meter: Running since the engine's start.
        pointwise: Whether to keep the S × N log-likelihoods.
        seed: For the provenance.
        rest: The other fields of `Posterior`.
    """
    found = evaluate(model, data, draws, pointwise=pointwise)
    program = inspect(model, *data)
    fields: dict[str, Any] = {"cost": meter.read()}
    stats: Draws = {"lp": found.log_joint.unsqueeze(0)}
    if log_q is not None:
        log_weight = found.log_joint - log_q
        stats["log_weight"] = log_weight.unsqueeze(0)
        fields["log_evidence"] = log_weight.logsumexp(dim=0).item() - math.log(num_draws(draws))
        if "log_evidence" not in rest:
            error = {"log_evidence_error": log_mean_error(log_weight)}
            rest["diagnostics"] = rest.get("diagnostics", {}) | error
    return Posterior(
        draws={name: value.unsqueeze(0) for name, value in (draws | found.deterministic).items()},
        log_likelihood={n: value.unsqueeze(0) for n, value in found.log_likelihood.items()},
        observed=program.observed,
        sample_stats=stats,
        provenance=provenance(seed, program.dtype),
        **fields | rest,
    )
