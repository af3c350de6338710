"""Hidalgo's two calls: `fit` for a given number of parts, `select` to find it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pplvae.infer import Posterior, nuts, svi
from pplvae.infer.em import Climb
from pplvae.infer.posterior import Meter, provenance
from pplvae.intrinsic_dimension.hidalgo import em
from pplvae.intrinsic_dimension.hidalgo.coherence import Neighborhood, Propagation, ties
from pplvae.intrinsic_dimension.hidalgo.mixture import CONCENTRATION, RATE, model
from pplvae.intrinsic_dimension.hidalgo.result import Hidalgo, Selection
from pplvae.intrinsic_dimension.hidalgo.uncertainty import errors, responsibilities
from pplvae.neighbors import Data, NeighborGraph, as_graph
from pplvae.randomness import resolve
from pplvae.validation import check_in_range, check_one_of, check_positive, check_whole

ENGINES: dict[str, Callable[..., Posterior]] = {"svi": svi.fit, "nuts": nuts.fit}
# EM's end is near the posterior's middle: few steps find its width.
SETTINGS: dict[str, dict[str, Any]] = {"svi": {"num_steps": 400, "num_particles": 4}, "nuts": {}}
NEAREST = 3  # neighbors along which log μ is averaged for the starts
MOST_AVERAGED = 200  # draws in the probabilities of the parts
ALMOST_SURE = 0.999


def fit(
    x: Data,
    num_parts: int = 2,
    *,
    method: str = "em",
    num_coherent: int = 3,
    zeta: float = 0.8,
    concentration: float = CONCENTRATION,
    rate: float = RATE,
    seed: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Hidalgo:
    """Return the parts of a data set with their dimensions.

    A part that no points are found for keeps a weight near 0, and its dimension says nothing.

    Args:
        x: Points, shape (N, D), or a neighbor graph of `num_coherent` neighbors or more, at
            least 3.
        num_parts: K.
        method: "em" for the most likely dimensions; "svi" or "nuts" for draws of the posterior of
            `model`, with what neighbors say fixed at EM's end. Without coherence parts that are
            alike switch between draws, which are put in order of dimension.
        num_coherent: How many nearest neighbors q cohere with a point; 0 for none.
        zeta: The odds ζ : 1 − ζ at which a neighbor is of the same part rather than of another, in
            [½, 1); ½ for no coherence.
        concentration: Shape of the Gamma prior of each dimension.
        rate: Its rate.
        seed: Start of the draws; EM has none.
        progress: Whether to show a progress bar.
        settings: More for `infer.svi.fit` or `infer.nuts.fit`, such as `num_draws`.

    Raises:
        ValueError: If there are fewer points than parts or too few for their neighbors, all
            ratios are 1, or an argument is outside its range.
    """
    check_one_of("method", method, ("em", *ENGINES))
    check_whole("num_coherent", num_coherent, 0)
    check_in_range("zeta", zeta, 0.5, ALMOST_SURE)
    check_positive("concentration", concentration)
    check_positive("rate", rate)
    if method == "em" and settings:
        raise ValueError(f"settings must be none for em, got {sorted(settings)}")
    seed, prior, meter = resolve(seed), (concentration, rate), Meter()
    graph = as_graph(x, max(NEAREST, num_coherent), progress=progress)
    check_whole("num_parts", num_parts, 1, len(graph), context="for so many distinct points")
    if not graph.log_ratio.any():
        raise ValueError(f"x must have a ratio above 1, got {len(graph)} with r1 = r2")
    with torch.no_grad():
        propagation = Propagation(ties(graph, num_coherent if zeta > 0.5 else 0), zeta)
        steps = em.Steps(graph.log_ratio, propagation, num_parts, prior)
        climb = em.fit(steps, ties(graph, NEAREST), progress=progress)
    neighborhood = _neighborhood(steps, climb)
    if method == "em":
        posterior = _point(climb, meter, graph, seed)
    else:
        start = {"dimensions": climb.parameters.dimensions, "weights": climb.parameters.weights}
        posterior = ENGINES[method](
            _with(num_parts, neighborhood, zeta=zeta, prior=prior),
            graph.log_ratio.exp(),
            init=start,
            seed=seed,
            progress=progress,
            **{"pointwise": False, **SETTINGS[method], **settings},
        )
        posterior = _sorted(posterior) if neighborhood is None else posterior
    return _said(graph, posterior, climb, neighborhood, method=method, zeta=zeta, prior=prior)


def select(x: Data, most_parts: int = 4, *, progress: bool = True, **settings: Any) -> Selection:
    """Return how many parts the data have, by EM.

    The score of K parts is the log likelihood less BIC's toll, with f the factor by which shared
    neighbors inflate the variance of a ratio's score at K = 1:

        log p(μ | d, K) / f − K/2 log(N / f).

    With coherence p(μ | d, K) knows what walls between parts cost. It rests on Bethe's
    approximation and on ζ, and finds a part only if its ratios pay for its wall: a small or
    thinly different one is rather missed than a false one found. Without coherence weights count
    among the parameters, and BIC for mixtures is a rule of thumb.

    Args:
        x: Points, shape (N, D), or a neighbor graph.
        most_parts: The most parts to try.
        progress: Whether to show progress bars.
        settings: More for `fit`, but its `method`.

    Raises:
        ValueError: As `fit`.
    """
    check_whole("most_parts", most_parts, 1)
    width = max(NEAREST, settings.get("num_coherent", NEAREST))
    graph = as_graph(x, width, progress=progress)
    fits = [fit(graph, k, progress=progress, **settings) for k in range(1, most_parts + 1)]
    inflation = fits[0].inflations[0].item()
    toll = 0.5 * math.log(len(graph) / inflation)
    scores = [f.log_likelihood / inflation - _num_parameters(f) * toll for f in fits]
    best = max(range(most_parts), key=scores.__getitem__)
    return Selection(fits[best], torch.tensor(scores, dtype=torch.float64), fits)


def _num_parameters(found: Hidalgo) -> int:
    weights = found.num_parts - 1 if found.neighborhood is None else 0
    return found.num_parts + weights


def _neighborhood(steps: em.Steps, climb: Climb[em.State, em.Beliefs]) -> Neighborhood | None:
    if not steps.coherent:
        return None
    said, weights = climb.expectations, climb.parameters.weights
    return steps.propagation.neighborhood(said.own, said.messages, weights)


def _with(
    num_parts: int,
    neighborhood: Neighborhood | None,
    *,
    zeta: float,
    prior: tuple[float, float],
) -> Callable[[Tensor], None]:
    def parts_model(ratios: Tensor) -> None:
        model(ratios, num_parts, neighborhood, zeta=zeta, concentration=prior[0], rate=prior[1])

    return parts_model


def _point(
    climb: Climb[em.State, em.Beliefs], meter: Meter, graph: NeighborGraph, seed: int
) -> Posterior:
    """Return EM's answer as a posterior of one point."""
    state = climb.parameters
    found = {"dimensions": state.dimensions, "weights": state.weights}
    return Posterior(
        draws={name: value[None, None] for name, value in found.items()},
        trace=-torch.tensor(climb.objectives, dtype=torch.float64),
        cost=meter.read(),
        method="EM, belief propagation",
        observed={"ratios": graph.log_ratio.exp()},
        diagnostics={"converged": float(climb.converged)},
        provenance=provenance(seed, state.dimensions.dtype),
    )


def _sorted(posterior: Posterior) -> Posterior:
    """Return the posterior with the parts of each draw in order of dimension."""
    order = posterior.draws["dimensions"].argsort(dim=-1)
    moved = {n: posterior.draws[n].gather(-1, order) for n in ("dimensions", "weights")}
    return replace(posterior, draws=posterior.draws | moved)


def _said(
    graph: NeighborGraph,
    posterior: Posterior,
    climb: Climb[em.State, em.Beliefs],
    neighborhood: Neighborhood | None,
    *,
    method: str,
    zeta: float,
    prior: tuple[float, float],
) -> Hidalgo:
    """Return what a posterior says of the parts and of each point."""
    draws = {name: value.flatten(0, 1) for name, value in posterior.draws.items()}
    dimensions, weights = draws["dimensions"].mean(dim=0), draws["weights"].mean(dim=0)
    logs = graph.log_ratio
    evidence = logs.new_zeros(1, 1) if neighborhood is None else neighborhood.evidence(zeta)
    spread, inflations = errors(graph, dimensions, weights, evidence, prior=prior)
    if method != "em":
        spread = draws["dimensions"].log().std(dim=0)
    chosen = torch.linspace(0, len(draws["weights"]) - 1, MOST_AVERAGED).long().unique()
    each = zip(draws["dimensions"][chosen], draws["weights"][chosen], strict=True)
    shares = sum(responsibilities(logs, d, w, evidence) for d, w in each) / len(chosen)
    return Hidalgo(
        dimensions=dimensions,
        standard_errors=dimensions * spread * inflations.sqrt(),
        weights=weights,
        probabilities=torch.as_tensor(shares),
        log_likelihood=climb.expectations.log_likelihood,
        converged=climb.converged and bool(posterior.diagnostics.get("converged", 1.0)),
        inflations=inflations,
        method=method,
        posterior=posterior,
        neighborhood=neighborhood,
    )
