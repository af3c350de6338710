"""Gaussian mixtures in the plane: who owns which point, how surely, and how EM got there."""

import math
import os
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pplvae.mixtures import GaussianMixture
from pplvae.mixtures.posterior import PredictiveDensity
from pplvae.mixtures.selection import MORE_IS_BETTER, Selection
from pplvae.plots.points import class_colors, dot_size, plane, write
from pplvae.plots.style import COLORS, array, axes, panels
from pplvae.storage import write_atomically
from pplvae.validation import Array, check_positive, check_whole

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes

SIZE = 4.6, 4.0  # inches
WIDTHS = 2.0  # standard deviations at which an ellipse is drawn
MASSES = 0.1, 0.3, 0.5, 0.7, 0.9, 0.99
SHADES = COLORS["orange"], COLORS["vermilion"], COLORS["black"]
MOST_WRITTEN = 12  # weights
GRID = 240  # places along each axis where a density is evaluated
UNITS = {"held_out": "held-out log density, nats per point",
         "loo": "leave-one-out log density, nats per point"}  # fmt: skip


def mixture(x: Array, mixture: GaussianMixture, *, ax: "Axes | None" = None) -> "Axes":
    """Draw points colored by component, and each component's ellipse of two standard deviations.

    The heavier a component, the thicker its ellipse; of up to twelve the weights are written too.

    Args:
        x: Points, shape (N, 2).
        mixture: A mixture in two dimensions.
        ax: Where to draw.
    """
    found, ax = plane(x), axes(ax, SIZE)
    colors = np.array(class_colors(mixture.num_components))
    ax.scatter(*found.T, s=dot_size(found), color=colors[array(mixture.predict(x))], alpha=0.45,
               linewidths=0)  # fmt: skip
    _ellipses(ax, mixture)
    _weights(ax, mixture)
    return ax


def mixture_responsibilities(
    x: Array, mixture: GaussianMixture, *, ax: "Axes | None" = None
) -> "Axes":
    """Draw points in the mean of the components' colors, weighted by p(k | x), and the ellipses.

    Args:
        x: Points, shape (N, 2).
        mixture: A mixture in two dimensions.
        ax: Where to draw.
    """
    found, ax = plane(x), axes(ax, SIZE)
    mixed = array(mixture.responsibilities(x)) @ np.array(class_colors(mixture.num_components))
    ax.scatter(*found.T, s=dot_size(found), color=mixed.clip(0, 1), alpha=0.8, linewidths=0)
    _ellipses(ax, mixture)
    return ax


def mixture_uncertainty(x: Array, mixture: GaussianMixture, *, ax: "Axes | None" = None) -> "Axes":
    """Draw points the darker and larger the less sure their component is: 1 − max_k p(k | x).

    Args:
        x: Points, shape (N, 2).
        mixture: A mixture in two dimensions.
        ax: Where to draw.
    """
    from matplotlib.colors import LinearSegmentedColormap

    found, ax = plane(x), axes(ax, (5.2, 4.0))
    unsure = 1 - array(mixture.responsibilities(x).amax(dim=1))
    most = max(1 - 1 / mixture.num_components, 1e-3)
    order = np.argsort(unsure)  # the unsure ones on top
    sizes = dot_size(found) * (0.6 + 2.4 * unsure[order] / most)
    shades = LinearSegmentedColormap.from_list("unsure", ["#D6D6D6", *SHADES])
    dots = ax.scatter(*found[order].T, s=sizes, c=unsure[order], cmap=shades, vmin=0, vmax=most,
                      linewidths=0)  # fmt: skip
    _ellipses(ax, mixture, color=COLORS["grey"])
    _bar(ax, dots, r"$1 - \max_k\, p(k\,|\,x)$")
    return ax


def mixture_density(
    mixture: GaussianMixture,
    x: Array | None = None,
    *,
    masses: Sequence[float] = MASSES,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the contours of the density that enclose the given masses, in the smallest regions.

    The level of a contour is a quantile of the density at the mixture's own draws (Hyndman 1996).

    Args:
        mixture: A mixture in two dimensions.
        x: Points to draw too, shape (N, 2).
        masses: Probabilities, each in (0, 1).
        ax: Where to draw.

    Raises:
        ValueError: If a mass is outside, or the mixture is not in two dimensions.
    """
    _check_plane(mixture)
    inside = sorted(masses)
    if not inside or not 0 < inside[0] <= inside[-1] < 1:
        raise ValueError(f"masses must be in (0, 1), got {list(masses)}")
    ax = axes(ax, (5.2, 4.0))
    if x is not None:
        found = plane(x)
        ax.scatter(*found.T, s=dot_size(found), color=COLORS["grey"], alpha=0.5, linewidths=0)
    draws = mixture.sample(40_000, seed=0).x
    heights = array(mixture.log_prob(draws))
    levels = np.quantile(heights, 1 - np.array(inside[::-1]))
    columns, rows, values = _on_grid(ax, mixture, array(draws)[heights > levels[0]])
    paler = levels[0] - 0.7 * (levels[-1] - levels[0]) - 1e-9  # the outermost is still seen
    lines = ax.contour(columns, rows, values, levels, cmap="Blues", vmin=paler, linewidths=1.3)
    names = {level: f"{100 * mass:g} %" for level, mass in zip(levels, inside[::-1], strict=True)}
    ax.clabel(lines, fmt=names, fontsize=8)
    return ax


def mixture_means(locs: Array, x: Array | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the posterior of the components' means: their draws, and where 95 % of each lie.

    The draws must be in one numbering of the components, as `MixturePosterior` has them. The
    ellipse is the normal one with the draws' mean and covariance.

    Args:
        locs: Draws of the means, shape (…, K, 2), as `posterior.draws["locs"]`.
        x: The data, to draw too, shape (N, 2).
        ax: Where to draw.

    Raises:
        ValueError: If they are not at least two draws in the plane.
    """
    draws = array(locs)
    if draws.ndim < 3 or draws.shape[-1] != 2 or draws[..., 0, 0].size < 2:
        raise ValueError(f"locs must be draws of shape (…, K, 2), got {draws.shape}")
    draws, ax = draws.reshape(-1, *draws.shape[-2:]), axes(ax, SIZE)
    if x is not None:
        found = plane(x)
        ax.scatter(*found.T, s=dot_size(found), color=COLORS["grey"], alpha=0.35, linewidths=0)
    shown = draws[np.linspace(0, len(draws) - 1, min(1000, len(draws))).astype(int)]
    radius = math.sqrt(-2 * math.log(0.05))
    for k, color in enumerate(class_colors(draws.shape[1])):
        ax.scatter(*shown[:, k].T, s=3, color=color, alpha=0.35, linewidths=0)
        variances, turn = np.linalg.eigh(np.cov(draws[:, k].T))
        root = turn * np.sqrt(variances.clip(0))
        _ellipse(ax, draws[:, k].mean(axis=0), radius * root, color, 1.2)
    return ax


def mixture_interval(
    x: Array,
    density: PredictiveDensity,
    data: Array | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the density along a line, how sure it is, and a histogram of the data.

    Args:
        x: Where it is evaluated, shape (N,) or (N, 1), rising.
        density: The density there, as `posterior.marginal([0]).density(x)`.
        data: The points, shape (M,) or (M, 1).
        ax: Where to draw.

    Raises:
        ValueError: If there are not as many places as densities.
    """
    places, ax = array(x).reshape(-1), axes(ax)
    if len(places) != len(density.density):
        raise ValueError(f"x must hold {len(density.density)} places, got {len(places)}")
    if data is not None:
        ax.hist(array(data).reshape(-1), "fd", density=True, color="#E3E3E3", label="data")
    low, middle, high = map(array, (density.low, density.density, density.high))
    name = f"{100 * density.prob:g} % interval"
    ax.fill_between(places, low, high, color=COLORS["blue"], alpha=0.3, linewidth=0, label=name)
    ax.plot(places, middle, color=COLORS["blue"], linewidth=1.5, label="posterior mean")
    ax.set(xlabel="x", ylabel="density", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def mixture_steps(
    x: Array,
    mixtures: Sequence[GaussianMixture],
    steps: Sequence[int] = (3, 5, 16),
    *,
    axes: "Sequence[Axes] | None" = None,
) -> "list[Axes]":
    """Draw some of EM's steps side by side: points in mixed colors, and the ellipses.

    Args:
        x: Points, shape (N, 2).
        mixtures: The start and the mixture after each step, as `em.fit(…, keep_path=True).path`.
        steps: Which to draw; 0 is the start.
        axes: One to draw on for each.

    Raises:
        ValueError: If there are not so many steps.
    """
    for step in steps:
        check_whole("steps", step, 0, len(mixtures) - 1, context=f"for {len(mixtures)} mixtures")
    chosen = list(axes or panels(len(steps), columns=len(steps), size=(3.2, 2.9)))
    for ax, step in zip(chosen, steps, strict=True):
        mixture_responsibilities(x, mixtures[step], ax=ax)
        ax.set_title(_named(step), fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    _same_view(chosen, plane(x))
    return chosen


def mixture_animation(
    x: Array,
    mixtures: Sequence[GaussianMixture],
    path: str | os.PathLike[str] | None = None,
    *,
    frames_per_second: float = 3.0,
    dots_per_inch: int = 110,
) -> "FuncAnimation":
    """Return EM's steps as an animation, one frame a mixture, and write it as a GIF.

    Args:
        x: Points, shape (N, 2).
        mixtures: The start and the mixture after each step, as `em.fit(…, keep_path=True).path`.
        path: Where to write the GIF, whole or not at all; nowhere where None.
        frames_per_second: The speed; the last frame stays for a second.
        dots_per_inch: Of the GIF.

    Raises:
        ValueError: If there is no mixture, a number is not positive, or the path does not end
            in ".gif".
    """
    from matplotlib.animation import FuncAnimation, PillowWriter

    check_positive("frames_per_second", frames_per_second)
    check_whole("the number of mixtures", len(mixtures), 1)
    if path is not None and Path(path).suffix != ".gif":
        raise ValueError(f"path must end in .gif, got {path}")
    ax, found = axes(None, SIZE), plane(x)
    figure = ax.get_figure(root=True)
    assert figure is not None

    def frame(step: int) -> list[Any]:
        ax.clear()
        mixture_responsibilities(x, mixtures[step], ax=ax)
        ax.set_title(_named(step), fontsize=10)
        _same_view([ax], found)
        return []

    last = len(mixtures) - 1
    order = [*range(len(mixtures)), *[last] * round(frames_per_second)]
    film = FuncAnimation(figure, frame, frames=order, interval=1000 / frames_per_second)
    if path is not None:
        writer = PillowWriter(fps=frames_per_second)  # pyright: ignore[reportArgumentType]
        write_atomically(
            Path(path), lambda name: film.save(name, writer=writer, dpi=dots_per_inch)
        )
    return film


def selection(
    selection: Selection, criterion: str | None = None, *, ax: "Axes | None" = None
) -> "Axes":
    """Draw a criterion against the number of components, a curve for each form of covariance.

    The best is ringed; degenerate fits, which are not taken, are hollow. A mean over the points
    has bars of one standard error of its difference from the best.

    Args:
        selection: What was compared.
        criterion: The first of those asked for, where None.
        ax: Where to draw.

    Raises:
        ValueError: If it was not asked for, or no candidate has it.
    """
    ranked = selection.ranked(criterion)
    name = selection.criteria[0] if criterion is None else criterion
    if not ranked:
        raise ValueError(f"selection must hold a candidate with {name}, got none")
    ax, best = axes(ax), ranked[0]
    forms = dict.fromkeys(own.covariance for own in ranked)
    looks = cycle(zip(("blue", "orange", "green", "purple"), "os^D", strict=True))
    for form, (color, marker) in zip(sorted(forms, key=_order), looks, strict=False):
        own = sorted((c for c in ranked if c.covariance == form), key=lambda c: c.num_components)
        numbers = np.array([c.num_components for c in own])
        values = np.array([c.scores[name].value for c in own])
        errors = np.array([c.scores[name].gap(best.scores[name])[1] for c in own])
        look: dict[str, Any] = {"color": COLORS[color], "marker": marker, "markersize": 5}
        ax.errorbar(numbers, values, errors if name in MORE_IS_BETTER else None, linewidth=1.5,
                    elinewidth=1, capsize=2, label=form, **look)  # fmt: skip
        hollow = np.array([not c.is_sound for c in own])
        ax.plot(numbers[hollow], values[hollow], linestyle="none", mfc="white", **look)
    ax.plot(best.num_components, best.scores[name].value, "o", markersize=13, mfc="none",
            color=COLORS["vermilion"], zorder=5)  # fmt: skip
    _whole(ax)
    ax.set(xlabel="number of components K", ylabel=UNITS.get(name, name.upper()))
    ax.legend(frameon=False, loc="lower right" if name in MORE_IS_BETTER else "upper right")
    return ax


def _order(form: str) -> int:
    return ["full", "tied", "diag", "spherical"].index(form)


def _whole(ax: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _named(step: int) -> str:
    return f"iteration {step}" if step else "start"


def _ellipses(ax: "Axes", mixture: GaussianMixture, color: str | None = None) -> None:
    """Draw the ellipses of two standard deviations, the thicker the heavier."""
    _check_plane(mixture)
    colors = class_colors(mixture.num_components)
    parts = (mixture.locs, mixture.scale_trils, _thickness(mixture.weights))
    for loc, tril, width, own in zip(*map(array, parts), colors, strict=True):
        _ellipse(ax, loc, WIDTHS * tril, color or own, width)


def _thickness(weights: Array) -> np.ndarray:
    """Return the widths of lines, in points: of a component with the mean weight, 1.6."""
    shares = array(weights)
    return (1.6 * np.sqrt(shares * len(shares))).clip(0.5, 4.0)


def _ellipse(ax: "Axes", loc: np.ndarray, root: np.ndarray, color: Any, width: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    places = loc[:, None] + root @ np.stack([np.cos(angle), np.sin(angle)])
    ax.plot(*places, color="white", linewidth=width + 1.4)
    ax.plot(*places, color=color, linewidth=width)


def _weights(ax: "Axes", mixture: GaussianMixture) -> None:
    if mixture.num_components > MOST_WRITTEN:
        return
    for loc, weight, color in zip(
        array(mixture.locs), array(mixture.weights), class_colors(mixture.num_components),
        strict=True,
    ):  # fmt: skip
        write(ax, loc, f"{weight:.2f}", np.array(color), size=10)


def _on_grid(
    ax: "Axes", mixture: GaussianMixture, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the log density is evaluated, and its values, shape (GRID, GRID)."""
    low, high = inside.min(axis=0), inside.max(axis=0)
    margin = 0.08 * (high - low)
    sides = [np.linspace(*ends, GRID) for ends in zip(low - margin, high + margin, strict=True)]
    columns, rows = np.meshgrid(*sides)
    places = torch.from_numpy(np.stack([columns.ravel(), rows.ravel()], axis=1)).to(mixture.locs)
    return columns, rows, array(mixture.log_prob(places)).reshape(GRID, GRID)


def _bar(ax: "Axes", dots: Any, label: str) -> None:
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(dots, ax=ax, shrink=0.8)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label(label)


def _same_view(chosen: "Iterable[Axes]", x: np.ndarray) -> None:
    """Show the points and a little more in all of them, whatever the ellipses do."""
    low, high = x.min(axis=0), x.max(axis=0)
    margin = 0.08 * np.where(high > low, high - low, 1.0)
    for ax in chosen:
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]),
               ylim=(low[1] - margin[1], high[1] + margin[1]))  # fmt: skip


def _check_plane(mixture: GaussianMixture) -> None:
    if mixture.dim != 2:
        raise ValueError(f"mixture must be in two dimensions, got {mixture}: take a marginal")
