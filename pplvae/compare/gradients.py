"""Stochastic gradients of the ELBO side by side: how much they vary, and what they cost.

With f(z) = log p(x, z) − log q_φ(z) and draws z = g_φ(ε) of a guide q_φ, the gradient of E_q f is

    reparameterized   E_ε ∇ f(g_φ(ε)),
    score             E_q [f ∇ log q_φ + ∇ f],            the lecture's log-trick,
    baseline          E_q [(f − b) ∇ log q_φ + ∇ f],      as E_q ∇ log q_φ = ∇ 1 = 0.

The log-trick is ∇ ∫ f q = ∫ (q ∇ f + f q ∇ log q). The slide of CS480 has E_q [f ∇ log(f q)]: as
f ∇ log f = ∇ f it is the same, where f > 0 and the logarithm exists; an f like this one may have
any sign, and the form above holds for all. Here ∇ f = −∇ log q_φ has mean 0 and is left out.

All three have the same mean, so that only two numbers matter: the variance v of one evaluation and
its cost c. To know the gradient to a given error takes a number of evaluations in proportion to
v, thus time in proportion to v c.

Reference:
    Lecture 17 (CS480) and Lecture 5 (28/10/2024); Kingma & Welling (2014),
    https://arxiv.org/abs/1312.6114; Ranganath et al. (2014), Black box variational inference,
    https://arxiv.org/abs/1401.0118
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor

from pplvae.infer import families, guides, svi
from pplvae.infer.gradients import GRADIENTS, Loss, loss
from pplvae.infer.program import Model, inspect, sample_sites, untouched
from pplvae.optimize import cosine, minimize
from pplvae.validation import check_one_of, check_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FALSE_ALARM = 0.001  # how often an unbiased estimator may be said to disagree
KURTOSIS = 41  # of a score-function gradient: its E squares are worth 2 E / (κ − 1) normal ones
WARM_UP = 100  # evaluations, after which 0.9^100 = 3e-5 of a running mean's start is left


@dataclass(frozen=True)
class GradientComparison:
    """Gradients of −ELBO in the P parameters of a guide, all at the same point.

    Attributes:
        means: Mean gradient by estimator, in nats per unit of each parameter, shapes (P,).
        variances: Variance of one evaluation by estimator, shapes (P,).
        milliseconds: CPU time of one evaluation by estimator.
        num_evaluations: How many evaluations E they come from.
        parameters: Shape of each unconstrained parameter, in the order of the P coordinates.
        left_out: Why an estimator is not there, by estimator.
    """

    means: dict[str, Tensor] = field(repr=False)
    variances: dict[str, Tensor] = field(repr=False)
    milliseconds: dict[str, float]
    num_evaluations: int
    parameters: dict[str, torch.Size]
    left_out: dict[str, str]

    @property
    def reference(self) -> str:
        """The estimator that the others are held against: the reparameterized where it exists."""
        return next(iter(self.means))

    def disagreement(self, estimator: str) -> Tensor:
        """Return how far each mean lies from the reference's, in standard errors, shape (P,).

        Among many coordinates the largest is large by chance: see `chance`.
        """
        ours, theirs = self.means[estimator], self.means[self.reference]
        difference = (ours - theirs).abs()
        both = self.variances[estimator] + self.variances[self.reference]
        # A gradient that does not vary is still rounded.
        rounding = 1e-6 * torch.maximum(ours.abs(), theirs.abs())
        errors = (both / self.num_evaluations).sqrt() + rounding
        return torch.where(difference > 0, difference / errors, 0.0)

    @property
    def chance(self) -> float:
        """The disagreement that the largest of P unbiased coordinates stays under, 999 in 1000."""
        from scipy.stats import t

        num_coordinates = len(self.means[self.reference])
        freedom = max(1.0, 2 * self.num_evaluations / (KURTOSIS - 1))
        return float(t.isf(FALSE_ALARM / (2 * num_coordinates), freedom))

    def table(self, parameter: str | None = None) -> "pd.DataFrame":
        """Return one row an estimator.

        Columns: `sd` and `variance` of an evaluation, summed over coordinates (the trace of the
        covariance, and its root), `cpu_ms` of an evaluation, `variance_cost` their product,
        `variance_ratio` and `variance_cost_ratio` to the reference, and `disagreement`, the
        largest over coordinates, in standard errors.

        Args:
            parameter: One parameter of the guide's; all of them where None.

        Raises:
            ValueError: If there is no such parameter.
        """
        import pandas as pd

        place = self._place(parameter)
        table = pd.DataFrame({"variance": {n: v[place].sum().item() for n, v in self._varied()}})
        table.insert(0, "sd", table["variance"] ** 0.5)
        table["cpu_ms"] = pd.Series(self.milliseconds)
        table["variance_cost"] = table["variance"] * table["cpu_ms"]
        for column in ("variance", "variance_cost"):
            table[f"{column}_ratio"] = table[column] / table[column][self.reference]
        table["disagreement"] = [self.disagreement(n)[place].max().item() for n in table.index]
        return table.rename_axis("estimator")

    def failures(self) -> list[str]:
        """Return which estimators do not agree with the reference, in plain words."""
        found = {name: self.disagreement(name).max(dim=0) for name in self.means}
        return [
            f"{name}: the mean gradient of {self._coordinate(int(worst.indices))} lies "
            f"{worst.values:.1f} standard errors from the {self.reference} one (by chance up to "
            f"{self.chance:.1f}): one of them is biased, or varies too wildly for "
            f"{self.num_evaluations} evaluations"
            for name, worst in found.items()
            if not worst.values <= self.chance
        ]

    def plot(self, parameter: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw the standard deviation of each coordinate by each estimator, and the cost.

        Raises:
            ValueError: If there is no such parameter.
        """
        from pplvae.plots.gradients import gradients

        place = self._place(parameter)
        sds = {name: variance[place].sqrt() for name, variance in self._varied()}
        return gradients(sds, self.milliseconds, ax=ax)

    def __repr__(self) -> str:
        table = self.table().to_string(float_format=lambda value: f"{value:.4g}")
        lacking = "".join(f"\nno {name}: {why}" for name, why in self.left_out.items())
        return (
            f"Gradients in {len(self.means[self.reference])} parameters by "
            f"{self.num_evaluations} evaluations\n{table}{lacking}"
        )

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=lambda value: f"{value:.4g}")

    def _varied(self) -> list[tuple[str, Tensor]]:
        return list(self.variances.items())

    def _place(self, parameter: str | None) -> slice:
        """Return where the coordinates of a parameter are."""
        if parameter is None:
            return slice(None)
        check_one_of("parameter", parameter, self.parameters)
        start = 0
        for name, shape in self.parameters.items():
            if name == parameter:
                break
            start += shape.numel()
        return slice(start, start + self.parameters[parameter].numel())

    def _coordinate(self, index: int) -> str:
        """Return the name of a coordinate, as `loc[2]`."""
        name = next(n for n in self.parameters if index in _range(self._place(n)))
        return f"{name}[{index - self._place(name).start}]"


def gradients(
    model: Model,
    guide: str | Model,
    *data: Any,
    num_particles: int = 1,
    num_evaluations: int = 400,
    num_steps: int = 500,
    seed: int | None = None,
) -> GradientComparison:
    """Return how estimators of the ELBO's gradient vary, at one point of a guide's parameters.

    A guide of which only the name is given is made for the model and fitted first: far from the
    optimum one learns little. Parameters and Pyro's store are left as they are.

    Args:
        model: A Pyro model.
        guide: A name as for `svi.fit`, or a Pyro guide, whose parameters are taken as they stand;
            with networks, as `vae.guide`, those of the networks.
        data: The arguments of model and guide.
        num_particles: Draws from the guide in one evaluation, whose gradients are averaged.
        num_evaluations: How many evaluations E to take of each estimator.
        num_steps: Steps of SVI before, for a guide of which the name is given.
        seed: Start of the draws.

    Returns:
        The estimators that exist: a guide with discrete sites has no reparameterized gradient.

    Raises:
        ValueError: If an argument is impossible, or the guide has no parameters.
    """
    check_whole("num_particles", num_particles, 1)
    check_whole("num_evaluations", num_evaluations, 2)
    check_whole("num_steps", num_steps, 0)
    means, variances, milliseconds, left_out = {}, {}, {}, {}
    with untouched(seed) as seed:
        run, leaves = _guide(model, guide, data, num_steps, seed)
        for name in GRADIENTS:
            try:
                _check_exists(name, run, data)
                estimate = loss(model, run, data, gradient=name, num_particles=num_particles)
            except ValueError as error:
                left_out[name] = str(error).splitlines()[0]  # Pyro adds the trace
                continue
            _measure(estimate, leaves, WARM_UP if name == "baseline" else 2)
            means[name], variances[name], milliseconds[name] = _measure(
                estimate, leaves, num_evaluations
            )
        parameters = {_name(leaf, i): leaf.shape for i, leaf in enumerate(leaves)}
    if not means:
        raise ValueError(f"guide must have a gradient by some estimator, got {left_out}")
    return GradientComparison(
        means, variances, milliseconds, num_evaluations, parameters, left_out
    )


def _guide(
    model: Model, guide: str | Model, data: tuple[Any, ...], num_steps: int, seed: int
) -> tuple[Model, list[Tensor]]:
    """Return a guide and its parameters; fitted where only its name is given."""
    program = inspect(model, *data)
    guides.own_store()
    _, run = families.as_guide(model, guide, program, None)
    leaves = guides.parameters(run, data)
    if isinstance(guide, str) and num_steps:
        minimize(
            loss(model, run, data, num_particles=10), leaves, num_epochs=num_steps,
            learning_rate=0.05, betas=svi.BETAS, schedule=cosine, seed=seed, progress=False,
        )  # fmt: skip
    return run, leaves


def _check_exists(gradient: str, guide: Model, data: tuple[Any, ...]) -> None:
    """Refuse the path through draws that have none."""
    with torch.no_grad(), poutine.block():
        sites = sample_sites(poutine.trace(guide).get_trace(*data))
    latent = {name: site["fn"] for name, site in sites.items() if not site["is_observed"]}
    pathless = [name for name, law in latent.items() if not law.has_rsample]
    if gradient == "reparameterized" and pathless:
        raise ValueError(f"a draw of {pathless} does not move smoothly with the parameters")
    if gradient != "reparameterized" and all(isinstance(law, Delta) for law in latent.values()):
        raise ValueError("a guide of point masses has no log density to differentiate")


def _measure(
    estimate: Loss, leaves: list[Tensor], num_evaluations: int
) -> tuple[Tensor, Tensor, float]:
    """Return the mean and variance of gradients, shapes (P,), and CPU milliseconds for each."""
    mean = torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=torch.float64)
    squares, seconds = torch.zeros_like(mean), 0.0
    for count in range(1, num_evaluations + 1):
        start = time.process_time()
        slopes = torch.autograd.grad(estimate(), leaves, allow_unused=True, materialize_grads=True)
        seconds += time.process_time() - start
        gradient = torch.cat([slope.detach().reshape(-1) for slope in slopes]).cpu().double()
        step = gradient - mean
        mean += step / count
        squares += step * (gradient - mean)
    return mean, squares / (num_evaluations - 1), 1000 * seconds / num_evaluations


def _name(leaf: Tensor, index: int) -> str:
    name = pyro.get_param_store().param_name(leaf)
    return f"parameter_{index}" if name is None else name.replace("$$$", ".")


def _range(place: slice) -> range:
    return range(place.start, place.stop)
