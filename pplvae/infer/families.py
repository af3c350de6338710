"""The library's guides, each made for any model: normals in unconstrained space, and a flow.

    mean_field   θ = T⁻¹(loc + scale ε), site by site
    full_rank    one normal over all sites, by its Cholesky factor
    low_rank     its covariance of low rank plus a diagonal
    flow         θ = T⁻¹(loc + scale F(ε)), F a composition of inverse autoregressive maps; on one
                 number, which has nothing to regress on, a monotone spline

with T the bijection of a site's support onto the reals.

Reference:
    Kucukelbir et al. (2017), https://jmlr.org/papers/v18/16-107.html; Kingma et al. (2016),
    Improved variational inference with inverse autoregressive flow,
    https://arxiv.org/abs/1606.04934; Dolatabadi et al. (2020), Invertible generative modeling
    using linear rational splines
"""

import math
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Normal, constraints, transforms
from pyro.distributions.torch import TransformedDistribution  # pyright: ignore
from pyro.infer.autoguide import guides as autoguides
from pyro.nn import AutoRegressiveNN, PyroParam
from torch import Tensor, nn
from torch.distributions import AffineTransform, biject_to

from pplvae.infer.program import Model, Program
from pplvae.infer.unconstrained import init_strategy
from pplvae.validation import check_one_of

START_SCALE = 0.1
NUM_BINS, BOUND = 8, 4.0  # of the spline, which is the identity beyond 4 standard deviations


class SiteWise(autoguides.AutoNormal):
    """A normal for each number of each site, sampled as a law of the site itself.

    Pyro's mean-field guides sample elsewhere and set the site to a point mass with a Jacobian.
    The closed-form KL of `TraceMeanField_ELBO` leaves that Jacobian out, so that its bound is off
    by E log |dθ/du| (1.1 nats where θ is about 3); of a law of the site it is right.
    """

    def forward(self, *data: Any) -> dict[str, Tensor]:
        """Sample each site once; the arguments are the model's."""
        if self.prototype_trace is None:
            self._setup_prototype(*data)
        plates, trace, found = self._create_plates(*data), self.prototype_trace, {}
        assert trace is not None
        for name, site in trace.iter_stochastic_nodes():
            with ExitStack() as stack:
                for frame in site.get("cond_indep_stack", ()):
                    stack.enter_context(plates[frame.name])
                found[name] = pyro.sample(name, self._law(name, site))
        return found

    def _law(self, name: str, site: Any) -> Any:
        loc, scale = self._get_loc_and_scale(name)
        normal = Normal(loc, scale).to_event(self._event_dims[name])
        support = site["fn"].support
        if getattr(support, "base_constraint", support) is constraints.real:
            return normal
        # The cache gives log q the u that θ came from, exactly.
        return TransformedDistribution(normal, [biject_to(support).with_cache(1)])


class Flow(autoguides.AutoContinuous):
    """A normal bent by two inverse autoregressive maps, then moved and scaled as mean field is."""

    loc: Tensor
    scale: Any

    def _setup_prototype(self, *data: Any) -> None:
        super()._setup_prototype(*data)
        start = self._init_loc()
        self.loc = nn.Parameter(start)
        self.scale = PyroParam(torch.full_like(start, START_SCALE), constraints.softplus_positive)
        self.bends = nn.ModuleList(_bends(len(start))).to(start)

    def get_posterior(self, *data: Any) -> Any:
        """Return the law of all sites' numbers end to end, in unconstrained space."""
        normal = Normal(torch.zeros_like(self.loc), torch.ones_like(self.loc)).to_event(1)
        place = AffineTransform(self.loc, self.scale, event_dim=1, cache_size=1)
        if len(self.bends) == 1:
            return TransformedDistribution(normal, [self.bends[0], place])
        # Each remembers the draw it last made, so that its inverse is at hand: none serves twice.
        backwards = torch.arange(len(self.loc), device=self.loc.device).flip(0)
        turn, turn_back = transforms.Permute(backwards), transforms.Permute(backwards)
        bends = [self.bends[0], turn, self.bends[1], turn_back]
        return TransformedDistribution(normal, [*bends, place])


def _bends(size: int) -> list[Any]:
    if size == 1:
        return [_straight(transforms.Spline(1, count_bins=NUM_BINS, bound=BOUND))]
    return [_Bend(AutoRegressiveNN(size, [max(16, 2 * size)])) for _ in range(2)]


def _straight(spline: Any) -> Any:
    """Make a spline the identity, which Pyro begins at random."""
    with torch.no_grad():
        for parameter in spline.parameters():
            parameter.zero_()
        spline.unnormalized_derivatives.fill_(math.log(math.e - 1))  # softplus gives 1
    return spline


class _Bend(transforms.AffineAutoregressive):
    """An inverse autoregressive map with an inverse in the dtype of its argument."""

    def _inverse(self, y: Tensor) -> Tensor:
        x, log_scale = torch.zeros_like(y), torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # the map is triangular: each pass gets one more number right
            mean, log_scale = self.arn(x)
            log_scale = log_scale.clamp(self.log_scale_min_clip, self.log_scale_max_clip)
            x = (y - mean) * (-log_scale).exp()
        self._cached_log_scale = log_scale
        return x


GUIDES: dict[str, type[autoguides.AutoGuide]] = {
    "mean_field": SiteWise,
    "full_rank": autoguides.AutoMultivariateNormal,
    "low_rank": autoguides.AutoLowRankMultivariateNormal,
    "flow": Flow,
}


def as_guide(
    model: Model, guide: str | Model, program: Program, init: dict[str, Any] | None
) -> tuple[str, Model]:
    """Return the name of a guide and the guide, made for the model where only named.

    Raises:
        ValueError: If there is no guide of that name, or `init` is given for a guide of one's own.
    """
    if isinstance(guide, str):
        check_one_of("guide", guide, GUIDES)
        _forget(GUIDES[guide].__name__)
        continuous = poutine.block(model, hide=list(program.enumerated))
        made: Any = GUIDES[guide]
        return guide.replace("_", "-"), made(continuous, init_loc_fn=init_strategy(init, program))
    if init is not None:
        raise ValueError(f"init must be None with a guide of your own, got {init}")
    return "own guide", guide


def _forget(guide: str) -> None:
    """Drop what another guide of this class has left: Pyro names their parameters alike."""
    store = pyro.get_param_store()
    for name in [name for name in store if name.startswith(f"{guide}.")]:
        del store[name]
