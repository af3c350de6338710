"""What a Bayesian mixture costs: a step of SVI beside Pyro's textbook, and Gibbs beside NUTS.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/mixtures_bayes.py [--quick]

A step of SVI is one loss and its gradient for an AutoNormal guide on (N, D, K) = (1e5, 10, 10):
the model of `pplvae.mixtures` with the components summed out by its density, against the model of
Pyro's tutorial under TraceEnum_ELBO, and against torch's MixtureSameFamily. All three have the
same guide at the same draws, so the same loss. The ways run in turn; the table has medians of CPU
milliseconds. Memory is the largest resident size of a process of its own that makes three steps;
torch, Pyro and the data alone take 260 MB.

Gibbs and NUTS sample the same posterior (2-D, K = 3, N = 1000, the conjugate prior) from the same
starts; the table has the least bulk ESS of weights, locs and scale_trils for a CPU second, all
counted that the call does from EM's optimum on.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.ops.indexing import Vindex
from torch import Tensor

from pplvae.infer import Posterior
from pplvae.mixtures import GaussianMixture, em, gibbs, model, nuts
from pplvae.mixtures.columns import column_scales
from pplvae.mixtures.model import sites
from pplvae.mixtures.prior import NormalInverseWishart

Shape: TypeAlias = tuple[int, int, int]

SHAPE = 100_000, 10, 10
QUICK = 10_000, 10, 10


def textbook(
    x: Tensor, num_components: int, *, loc: Tensor, scale: Tensor, summed: bool = False
) -> None:
    """The tutorial's mixture, with the priors of `pplvae.mixtures.model`."""
    dim = x.shape[1]
    shape = torch.Size([num_components, dim])
    loc, scale = loc.expand(shape), scale.expand(shape)
    weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(num_components)))
    locs = pyro.sample("locs", dist.Normal(loc, scale).to_event(2))
    scales = pyro.sample("scales", dist.LogNormal(scale.log(), 1.0).to_event(2))
    law = dist.LKJCholesky(dim, x.new_ones(num_components)).to_event(1)
    trils = scales.unsqueeze(-1) * pyro.sample("correlation_trils", law)
    with pyro.plate("data", len(x)):
        if summed:
            normals = dist.MultivariateNormal(locs, scale_tril=trils)
            mixture = dist.MixtureSameFamily(dist.Categorical(weights), normals)
            pyro.sample("x", mixture, obs=x)
            return
        k = pyro.sample("assignment", dist.Categorical(weights), infer={"enumerate": "parallel"})
        normal = dist.MultivariateNormal(
            Vindex(locs)[..., k, :], scale_tril=Vindex(trils)[..., k, :, :]
        )
        pyro.sample("x", normal, obs=x)


def points(num: int, dim: int, num_components: int) -> Tensor:
    """Return points of a mixture with components two standard deviations apart or so."""
    torch.manual_seed(0)
    locs = 2.0 * torch.randn(num_components, dim)
    return locs[torch.randint(num_components, (num,))] + torch.randn(num, dim)


WAYS: dict[str, tuple[Callable[..., None], Callable[[], Any]]] = {
    "pplvae": (model, Trace_ELBO),
    "TraceEnum_ELBO, textbook": (textbook, partial(TraceEnum_ELBO, max_plate_nesting=1)),
    "MixtureSameFamily": (partial(textbook, summed=True), Trace_ELBO),
}


def step_of(name: str, shape: Shape) -> Callable[[], float]:
    """Return a step: its loss, after the gradient is taken; always at the same draws."""
    program, make = WAYS[name]
    elbo, x, num_components = make(), points(*shape), shape[2]
    program = partial(program, loc=x.mean(dim=0), scale=column_scales(x))
    start = GaussianMixture(
        x.new_full((num_components,), 1 / num_components),
        x[:: len(x) // num_components][:num_components],
        x.std(dim=0).diag().repeat(num_components, 1, 1),
    )
    init = init_to_value(values=sites(start))
    guide: Any = AutoNormal(poutine.block(program, hide=["assignment"]), init_loc_fn=init)
    guide(x, num_components)  # sets it up: later draws are the same for all

    def run() -> float:
        pyro.set_rng_seed(1)
        with pyro.validation_enabled(False), poutine.trace(param_only=True) as capture:
            loss = elbo.differentiable_loss(program, guide, x, num_components)
        nodes: Any = capture.trace.nodes
        torch.autograd.grad(loss, [site["value"].unconstrained() for site in nodes.values()])
        return loss.item()

    return run


def memory(name: str, shape: Shape, num_steps: int) -> float:
    """Return the largest resident size in MB of a process that makes some steps."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import mixtures_bayes as b\n"
        f"print(b.resident({name!r}, {shape}, {num_steps}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def resident(name: str, shape: Shape, num_steps: int) -> float:
    """Return the largest resident size in MB of this process after some steps."""
    torch.set_default_dtype(torch.float64)
    step = step_of(name, shape)
    for _ in range(num_steps):
        step()
    # Not ru_maxrss, which a child takes over from its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def compare_steps(shape: Shape, num_rounds: int) -> None:
    """Print milliseconds, memory and loss of each way."""
    ways, times = {name: step_of(name, shape) for name in WAYS}, {}
    losses = {name: run() for name, run in ways.items()}  # and warm up
    for _ in range(num_rounds):
        for name, run in ways.items():
            begun = time.process_time()
            run()
            times.setdefault(name, []).append(1000 * (time.process_time() - begun))
    print(f"\nSVI, (N, D, K) = {shape}")
    print(f"{'':26}{'ms/step':>10}{'ratio':>8}{'MB':>8}  loss")
    own = statistics.median(times["pplvae"])
    for name, values in times.items():
        middle, most = statistics.median(values), memory(name, shape, 3)
        print(
            f"{name:26}{middle:10.1f}{middle / own:8.1f}{most:8.0f}"
            f"  {losses[name]:.10g} ({losses[name] / losses['pplvae'] - 1:+.0e})"
        )


def least_ess(posterior: Posterior) -> float:
    """Return the least bulk ESS of weights, locs and scale_trils."""
    ess = posterior.summary()["ess_bulk"].to_dict()
    sites = "weights", "locs", "scale_trils"
    return min(v for row, v in ess.items() if str(row).split("[")[0] in sites and v == v)


def compare_samplers(num_rounds: int, size: int) -> None:
    """Print ESS per CPU second of Gibbs and NUTS."""
    trils = torch.tensor([[[1.0, 0], [0.5, 0.8]], [[0.7, 0], [-0.3, 0.9]], [[1.3, 0], [0, 0.5]]])
    locs = torch.tensor([[0.0, 0], [3, 2], [-2, 3]])
    x = GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), locs, trils).sample(1000, seed=0).x
    prior = NormalInverseWishart.default(x, 3)
    start = em.fit(x, 3, seed=0, progress=False).mixture
    known: dict[str, Any] = {"prior": prior, "start": start, "pointwise": False, "progress": False}
    print("\nESS per CPU second, 2-D, K = 3, N = 1000")
    rates: dict[str, list[float]] = {"Gibbs": [], "NUTS": []}
    for seed in range(num_rounds):
        runs = {
            "Gibbs": gibbs.fit(x, 3, num_draws=10 * size, warmup_steps=size, seed=seed, **known),
            "NUTS": nuts.fit(
                x, 3, num_draws=size, warmup_steps=size // 2, num_chains=2, seed=seed, **known
            ),
        }
        for name, found in runs.items():
            ess = least_ess(found)
            rates[name].append(ess / found.cost.cpu_seconds)
            print(f"  {name:6} seed {seed}: ESS {ess:.0f} in {found.cost.cpu_seconds:.1f} s")
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(", ".join(f"{name} {value:.1f} / s" for name, value in middle.items()), end="")
    print(f", ratio {middle['Gibbs'] / middle['NUTS']:.1f}")


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, and fewer rounds")
    quick = parser.parse_args().quick
    torch.set_default_dtype(torch.float64)
    compare_steps(QUICK if quick else SHAPE, 3 if quick else 7)
    compare_samplers(1 if quick else 3, 200 if quick else 400)


if __name__ == "__main__":
    main()
