"""The score function: gradients of E_q f without a path through the draws.

    ∇ E_q f = E_q [(f − b) ∇ log q(θ) + ∇ f],   f = log p(x, θ) − log q(θ)

What Pyro's estimators need to be right about it: guides whose draws have lost their paths, models
that know the auxiliary sites of automatic guides, and an estimator of our own where discrete sites
are summed out.
"""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, ImproperUniform, TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pplvae.infer import guides
from pplvae.infer.evaluation import log_joint_in_plate
from pplvae.infer.program import Model, Program, sample_sites

MEMORY = 0.9  # of the running mean, per evaluation


class Score:
    """The log-trick for a model that sums out discrete sites.

        (f − b) ∇ log q(θ) + ∇ log p(x, θ),   f = log p(x, θ) − log q(θ)

    Pyro's own estimator weighs the score of a site by the costs in its plates only, and so loses
    the likelihood of data in others.
    """

    def __init__(
        self,
        model: Model,
        guide: Model,
        data: tuple[Any, ...],
        *,
        program: Program,
        size: int,
        gradient: str,
        in_plate: bool,
    ) -> None:
        self.model, self.data, self.program = model, data, program
        self.guide = LosePaths(baseline=False)(guide)
        self.blocks = [size] if in_plate else [1] * size
        self.uses_baseline, self.mean = gradient == "baseline", None

    def __call__(self) -> Tensor:
        """Return −ELBO on new draws, with the derivative that the log-trick gives it."""
        pairs = [self._weigh(size) for size in self.blocks]
        log_p, log_q = (torch.cat(terms) for terms in zip(*pairs, strict=True))
        f = (log_p - log_q).detach()
        baseline = self.mean if self.uses_baseline and self.mean is not None else 0.0
        self.mean = f.mean() if self.mean is None else MEMORY * self.mean + (1 - MEMORY) * f.mean()
        surrogate = ((f - baseline) * log_q + log_p).mean()
        return (surrogate - f.mean()).detach() - surrogate

    def _weigh(self, size: int) -> tuple[Tensor, Tensor]:
        draws, log_q = guides.draw_block(self.guide, self.data, self.program, size)
        return log_joint_in_plate(self.model, self.data, self.program, draws), log_q


def with_auxiliary(model: Model, guide: Model, data: tuple[Any, ...]) -> Model:
    """Return the model with a flat law for each auxiliary site of an automatic guide.

    Pyro weighs a score by log p − log q of the sites that model and guide share: without this the
    log q of auxiliary ones, and with it the gradient of the entropy, would be missing.
    """
    with torch.no_grad(), poutine.block():
        sites = sample_sites(poutine.trace(guide).get_trace(*data))
    extra = {name: site["fn"] for name, site in sites.items() if site["infer"].get("is_auxiliary")}

    def extended(*data: Any) -> None:
        for name, law in extra.items():
            flat = ImproperUniform(law.support, law.batch_shape, law.event_shape)
            pyro.sample(name, flat)
        model(*data)

    return extended if extra else model


class LosePaths(Messenger):
    """Takes the path away from the draws of a guide, so that only the score function is left."""

    def __init__(self, *, baseline: bool) -> None:
        super().__init__()
        self.baseline = baseline

    def _pyro_sample(self, msg: Any) -> None:
        law, fixed = msg["fn"], msg["is_observed"] or site_is_subsample(msg)
        if fixed or isinstance(guides.unwrapped(law), Delta):
            return
        if law.has_rsample:
            msg["fn"] = _Pathless(law)
        if self.baseline:
            msg["infer"] = msg["infer"] | {"baseline": {"use_decaying_avg_baseline": True}}


class _Pathless(TorchDistribution):
    """A law whose draws are numbers: nothing is known of how they came about."""

    has_rsample = False

    def __init__(self, law: Any) -> None:
        self.law = law
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.law.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Pathless":
        return _Pathless(self.law.expand(batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        # A copy, or a law with a cached inverse would take the noise behind the draw as given.
        return self.law.sample(sample_shape).clone()

    def log_prob(self, value: Tensor) -> Tensor:
        return self.law.log_prob(value)
