"""The ladder of evidence bounds that a guide gives, up to log p(x) itself.

With weights w_s = p(x, θ_s) / q(θ_s) of independent draws from a guide q, the importance-weighted
bound of K particles is

    IWAE_K = E log 1/K Σ_{k=1..K} w_k,   ELBO = IWAE_1 ≤ IWAE_2 ≤ … ≤ log p(x),

and for many particles log p(x) − IWAE_K ≈ Var(w) / (2 K p(x)²), where that variance exists. A
slow ladder says that q misses what matters, a quick one that importance weights can mend it.

All steps are estimated from the same draws, by the mean over all subsets of K of them: it is
unbiased and rises with K on any draws, as the bounds do. With log s = ∫ (e^-t − e^-ts) dt / t it
needs no sum over subsets, for the mean of Π exp(−t w_k) over them is an elementary symmetric
polynomial of the exp(−t w_s), up to a factor.

Reference:
    Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders,
    https://arxiv.org/abs/1509.00519; Domke & Sheldon (2018), https://arxiv.org/abs/1808.09034,
    for many particles; Hoeffding (1948), https://doi.org/10.1214/aoms/1177730196, for means over
    subsets
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pplvae.compare.weights import log_weights
from pplvae.infer import Posterior, exact
from pplvae.infer.program import Model, untouched
from pplvae.validation import check_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LADDER = (1, 2, 5, 10, 20, 50, 100)
MOST_GROUPS, LEAST_GROUPS = 50, 20  # 20 values know their own sd to 16 %, 50 to 10 %
STEP = 0.4  # of the trapezoidal rule in log t, which errs by about exp(−π² / STEP) = 2e-11
BELOW, ABOVE = -30.0, 3.7  # in log t, where the integrand has fallen below rounding


@dataclass(frozen=True)
class Bounds:
    """Lower bounds of log p(x) by one guide, in nats.

    Attributes:
        bounds: IWAE_K by its number of particles K, rising; K = 1 is the ELBO.
        errors: Their Monte Carlo standard errors. They share their draws: differences of bounds
            are surer than these say.
        log_evidence: The exact log p(x), or None where it is not known.
        num_draws: How many draws they come from.
    """

    bounds: dict[int, float]
    errors: dict[int, float]
    log_evidence: float | None
    num_draws: int

    def table(self) -> "pd.DataFrame":
        """Return one row for each K: bound, standard error, gap to log p(x) (nan if unknown)."""
        import pandas as pd

        exact = math.nan if self.log_evidence is None else self.log_evidence
        table = pd.DataFrame({"bound": self.bounds, "error": self.errors})
        table["gap"] = exact - table["bound"]
        return table.rename_axis("num_particles")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the ladder, with log p(x) as a line where it is known."""
        from pplvae.plots.bounds import bounds

        sizes, heights, errors = (
            np.array(list(values))
            for values in (self.bounds, self.bounds.values(), self.errors.values())
        )
        return bounds(sizes, heights, errors, exact=self.log_evidence, ax=ax)

    def __repr__(self) -> str:
        known = "unknown" if self.log_evidence is None else f"{self.log_evidence:.4f}"
        table = self.table().to_string(float_format=lambda value: f"{value:.4f}", na_rep="n/a")
        return f"Bounds by {self.num_draws} draws, log p(x) = {known}\n{table}"

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=lambda value: f"{value:.4f}", na_rep="n/a")


def bounds(
    model: Model,
    guide: Model | Posterior,
    *data: Any,
    num_particles: Sequence[int] = LADDER,
    num_draws: int = 10_000,
    log_evidence: float | None = None,
    seed: int | None = None,
) -> Bounds:
    """Return the bounds IWAE_K of log p(x) that a guide gives.

    The draws are cut into 20 to 50 groups. Each bound is the mean over the groups of its mean over
    all subsets of K draws in a group, its standard error that of the groups' mean.

    Args:
        model: A Pyro model. Its discrete sites that the guide leaves out are summed out.
        guide: A Pyro guide of the same arguments, as trained as it is: discrete sites are welcome.
            Or the posterior of an engine that knows the density of its draws, such as `svi.fit`.
        data: The model's arguments.
        num_particles: The numbers of particles K.
        num_draws: How many draws S to take from a guide; a posterior has its own.
        log_evidence: The exact log p(x) in nats; where None, it is asked of `exact.log_evidence`.
        seed: Start of the draws.

    Raises:
        ValueError: If a K is more than a twentieth of the draws, the guide leaves a continuous
            site of the model out, or it has no density of the model's sites (a point mass, sites
            of its own), or the posterior has no weights.
    """
    with untouched(seed):
        weights = _weights(model, guide, data, num_draws)
        if log_evidence is None:
            log_evidence = exact.log_evidence(model, *data)
    sizes, size = sorted(set(num_particles)), len(weights)
    if not sizes:
        raise ValueError("num_particles must hold at least 1 number, got none")
    for wanted in sizes:
        check_whole("num_particles", wanted, 1, size // LEAST_GROUPS, context=f"for {size} draws")
    found = _ladder(weights, sizes)
    errors = found.std(dim=0) / math.sqrt(len(found))
    # They rise but for rounding.
    return Bounds(
        bounds=dict(zip(sizes, found.mean(dim=0).cummax(dim=0).values.tolist(), strict=True)),
        errors=dict(zip(sizes, errors.tolist(), strict=True)),
        log_evidence=log_evidence,
        num_draws=size,
    )


def _ladder(log_weights: Tensor, sizes: list[int]) -> Tensor:
    """Return the estimates of each IWAE_K by each group of draws, shape (groups, bounds)."""
    num_groups = min(MOST_GROUPS, len(log_weights) // sizes[-1])
    groups = log_weights[: len(log_weights) // num_groups * num_groups].view(num_groups, -1)
    top = groups.amax(dim=1, keepdim=True).clamp(min=torch.finfo(groups.dtype).min)
    return top + _mean_log_means(groups - top, sizes)


def _mean_log_means(log_weights: Tensor, sizes: list[int]) -> Tensor:
    """Return the mean over all subsets of K columns of the log of their mean weight.

    Args:
        log_weights: At most 0, shape (G, m); −inf for a weight of 0.
        sizes: The K, rising, at most m.

    Returns:
        Shape (G, number of sizes); −inf where a subset has no weight at all.
    """
    empty = log_weights.isneginf()
    least = log_weights.masked_fill(empty, 0.0).min().item()
    log_t = torch.arange(
        BELOW - math.log(sizes[-1]), ABOVE - least + STEP, STEP, dtype=log_weights.dtype
    )
    total = torch.stack([_integrated(log_weights.exp(), t, sizes) for t in log_t.exp().split(32)])
    wanted = torch.tensor(sizes, dtype=log_weights.dtype)
    means = STEP * total.sum(dim=0) - wanted.log()
    return means.masked_fill(empty.sum(dim=1, keepdim=True) >= wanted, -math.inf)


def _integrated(weights: Tensor, t: Tensor, sizes: list[int]) -> Tensor:
    """Return Σ_t e^-t − (mean over all subsets of K columns of exp(−t Σ w)), shape (G, sizes).

    With e_k the mean of Π exp(−t w) over the subsets of k of the first s columns,

        e_k(s) = (1 − k/s) e_k(s − 1) + k/s exp(−t w_s) e_{k−1}(s − 1).
    """
    order = torch.arange(1, sizes[-1] + 1, dtype=weights.dtype)
    means = weights.new_zeros(len(weights), len(t), sizes[-1] + 1)
    means[..., 0] = 1.0
    for s, column in enumerate(weights.unbind(dim=1), start=1):
        factor = (-t * column.unsqueeze(1)).exp().unsqueeze(2)
        with_this = factor * means[..., :-1]
        means[..., 1:] = means[..., 1:].lerp(with_this, (order / s).clamp(max=1.0))
    return ((-t).exp().unsqueeze(1) - means[..., sizes]).sum(dim=1)


def _weights(
    model: Model, guide: Model | Posterior, data: tuple[Any, ...], num_draws: int
) -> Tensor:
    """Return log weights in nats, shape (S,)."""
    if isinstance(guide, Posterior):
        found = _weights_of(guide)
    elif callable(guide):
        check_whole("num_draws", num_draws, 1)
        found = log_weights(model, guide, data, num_draws)
    else:
        raise ValueError(f"guide must be a Pyro guide or a posterior, got {guide!r}")
    found = found.detach().cpu().double()
    bad = found.isnan() | found.isposinf()
    if bad.any():
        raise ValueError(f"log weights must be below infinity, got {int(bad.sum())} nan or inf")
    return found


def _weights_of(posterior: Posterior) -> Tensor:
    if "log_weight" not in posterior.sample_stats:
        raise ValueError(
            "guide must be a posterior whose draws have weights (sample_stats['log_weight']), "
            f"got {posterior.method}: the density of its draws is not known"
        )
    return posterior.sample_stats["log_weight"].reshape(-1)
