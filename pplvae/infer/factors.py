"""log p(x, z, θ) of a model at given θ as a sum of factors, tables over its discrete sites z.

Each site i gives a table log f_i over the values of those z that it depends on, times its plates:

    p(x, z, θ) = Π_i f_i(z),   log p(x, θ) = log Σ_z Π_i f_i(z).

The sum is carried out where z falls apart into pieces, so that a Markov chain of T sites with K
values takes T K² terms, not K^T. Its derivatives are the posterior:

    ∂ log p(x, θ) / ∂ log f_i(z) = p(z | x, θ),   the marginal of the z in the table.

A draw of z takes the sites in the model's order, each from its marginal given those before.

Reference:
    Darwiche (2003), A differential approach to inference in Bayesian networks,
    https://doi.org/10.1145/765568.765570; Obermeyer et al. (2019), Tensor variable elimination
    for plated factor graphs, https://arxiv.org/abs/1902.03210
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from pplvae.infer.program import Draws, Model, Program, sample_sites

Tables: TypeAlias = dict[str, Tensor]

DRAWS = "Ω"  # the symbol of an axis of draws; Pyro's own are Latin letters


@dataclass(frozen=True)
class Factors:
    """The factors of a model at given values of its continuous sites.

    Attributes:
        tables: log f_i in nats, by site; one axis for each letter of `axes`.
        axes: The symbols of each table's axes.
        plates: Those of the plates each site is in.
        symbols: That of each discrete site with several values, in the model's order.
    """

    tables: Tables
    axes: dict[str, str]
    plates: dict[str, frozenset[str]]
    symbols: dict[str, str]

    def log_sum(self) -> Tensor:
        """Return log Σ_z Π_i f_i(z) = log p(x, θ), shape ()."""
        return self._contract(self.tables)

    def marginals(self) -> Tables:
        """Return the posterior p(z | x, θ) over each table."""
        return self._slopes(self.tables)

    def shares(self, uniforms: Tables) -> Tables:
        """Return the shares of S independent draws from p(z | x, θ) over each table.

        Args:
            uniforms: As from `uniforms`; the draws are the same function of them at every θ.
        """
        num_draws = len(next(iter(uniforms.values())))
        tables = {name: t.expand(num_draws, *t.shape) for name, t in self.tables.items()}
        for name in self.symbols:
            chosen = self._choose(name, self._slopes(tables)[name], uniforms[name])
            tables[name] = tables[name].masked_fill(~chosen, -torch.inf)
        return {name: table.mean(dim=0) for name, table in self._slopes(tables).items()}

    def uniforms(self, num_draws: int) -> Tables:
        """Return a random number in [0, 1) for each draw of each element of the discrete sites."""
        return {
            name: self.tables[name].new_empty(num_draws, *self._plate_shape(name)).uniform_()
            for name in self.symbols
        }

    def expectation(self, q: Tables) -> Tensor:
        """Return E_q log p(x, z, θ), shape (), for a q over each table, where 0 · −∞ = 0."""
        terms = [q[n] * torch.where(q[n] > 0, t, 0.0) for n, t in self.tables.items()]
        return torch.stack([term.sum() for term in terms]).sum()

    def _plate_shape(self, name: str) -> list[int]:
        sizes = zip(self.axes[name], self.tables[name].shape, strict=True)
        return [size for symbol, size in sizes if symbol in self.plates[name]]

    def _choose(self, name: str, probs: Tensor, uniforms: Tensor) -> Tensor:
        """Return in which value of a site each uniform number falls, as a mask of its table."""
        axes = DRAWS + self.axes[name]
        own = axes.index(self.symbols[name])
        parents = [i for i, s in enumerate(axes) if i and s not in self.plates[name] and i != own]
        probs = probs.sum(dim=parents, keepdim=True) if parents else probs
        cumulated = probs.cumsum(dim=own)
        thresholds = uniforms.reshape(cumulated.select(own, 0).shape).unsqueeze(own)
        passed = thresholds * cumulated.narrow(own, -1, 1) >= cumulated
        index = passed.sum(dim=own, keepdim=True).clamp(max=probs.shape[own] - 1)
        return torch.zeros_like(probs, dtype=torch.bool).scatter(own, index, True)

    def _slopes(self, tables: Tables) -> Tables:
        leaves = {name: table.detach().clone().requires_grad_() for name, table in tables.items()}
        with torch.enable_grad():
            total = self._contract(leaves)
        slopes = torch.autograd.grad(total, list(leaves.values()))
        return dict(zip(leaves, slopes, strict=True))

    def _contract(self, tables: Tables) -> Tensor:
        """Return the log sum; over an axis of draws in front of the tables its total."""
        if not self.symbols:
            return torch.stack([table.sum() for table in tables.values()]).sum()
        tree: OrderedDict[frozenset[str], list[Any]] = OrderedDict()
        for name, table in tables.items():
            more = DRAWS if table.dim() > len(self.axes[name]) else ""
            packed: Any = table[...]  # Pyro marks the tensor itself
            packed._pyro_dims = more + self.axes[name]
            tree.setdefault(self.plates[name] | frozenset(more), []).append(packed)
        return contract_to_tensor(tree, set(self.symbols.values()))


def factors(model: Model, data: tuple[Any, ...], program: Program, values: Draws) -> Factors:
    """Return the factors of `model`.

    Args:
        model: A Pyro model.
        data: Its arguments.
        program: Its anatomy.
        values: A value of each continuous latent site.
    """
    conditioned: Callable[..., Any] = poutine.condition(model, values)
    if program.enumerated:
        depth = -1 - program.max_plate_nesting
        conditioned = poutine.enum(config_enumerate(conditioned), first_available_dim=depth)
    trace: Any = poutine.trace(conditioned).get_trace(*data)
    trace.compute_log_prob()
    sites = {n: s for n, s in sample_sites(trace).items() if not s["infer"].get("_deterministic")}
    if not program.enumerated:
        tables = {name: site["log_prob"].sum() for name, site in sites.items()}
        return Factors(tables, dict.fromkeys(sites, ""), dict.fromkeys(sites, frozenset()), {})
    trace.pack_tensors()
    tables = {name: site["packed"]["log_prob"] for name, site in sites.items()}
    axes = {name: table._pyro_dims for name, table in tables.items()}
    return Factors(
        tables,
        axes,
        {name: _plates(trace, site) for name, site in sites.items()},
        {name: s for name in program.enumerated if (s := _symbol(sites[name])) in axes[name]},
    )


def _plates(trace: Any, site: Any) -> frozenset[str]:
    frames = site["cond_indep_stack"]
    return frozenset(trace.plate_to_symbol[f.name] for f in frames if f.vectorized)


def _symbol(site: Any) -> str:
    return site["infer"]["_dim_to_symbol"][site["infer"]["_enumerate_dim"]]
