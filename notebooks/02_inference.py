# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Inference methods side by side, and whether to believe them
#
# One model, many engines: exact, EM, MAP, Laplace, SVI, importance sampling and NUTS. They answer in
# one type, `Posterior`, so they can be held against each other. This notebook does that for a model
# of one's own, and then asks each question that a careful reader would.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

from pplvae import compare, infer, plots
from pplvae.infer import (
    decomposition,
    decomposition_of_draws,
    em,
    exact,
    importance,
    laplace,
    least_absolute_deviations,
    nuts,
    svi,
)  # fmt: skip
from pplvae.intrinsic_dimension import twonn
from pplvae.mixtures import em as mixture_em

SMOKE = bool(os.environ.get("PPLVAE_SMOKE"))  # a short run, to check that everything runs
torch.set_num_threads(1)  # on arrays this small a second thread costs more than it gives
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
plt.rcParams["figure.dpi"] = 110
quiet = {"seed": 0, "progress": False}
steps, draws, warmup = (50, 40, 20) if SMOKE else (1000, 1000, 200)


# %% [markdown]
# ## A model of one's own
#
# Bayesian linear regression: three lines of Pyro. Nothing in it knows how it will be fitted.


# %%
def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("points", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


x = torch.stack([torch.ones(30), torch.linspace(0.0, 3.0, 30)], dim=1)
y = x @ torch.tensor([1.0, -0.7]) + 0.5 * torch.randn(30)

posteriors = {
    "exact": exact.fit(regression, x, y, seed=0),
    "SVI, full-rank": svi.fit(regression, x, y, num_steps=steps, **quiet),
    "SVI, mean-field": svi.fit(regression, x, y, guide="mean_field", num_steps=steps, **quiet),
    "Laplace": laplace.fit(regression, x, y, seed=0),
    "importance": importance.fit(regression, x, y, seed=0),
    "NUTS": nuts.fit(
        regression, x, y, num_draws=draws, warmup_steps=warmup, num_chains=2, **quiet
    ),
    "MAP": infer.map.fit(regression, x, y, seed=0),
    "EM": em.fit(regression, x, y, seed=0),
}
comparison = compare.methods(posteriors)
comparison

# %% [markdown]
# The model is linear and Gaussian, so `exact` needs no help. The mean-field guide has the means right
# and the spreads too small: intercept and slope are correlated, and it cannot say so. Point estimates
# stand in a table of their own: MAP has no spread, and no score would make it a posterior.

# %%
comparison.plot_accuracy()
print("\n".join(comparison.failures() or ["no method failed a check"]))

# %% [markdown]
# ## Where a guide cannot follow
#
# Eight schools, centered: the funnel between the spread $\tau$ and the schools' effects is the
# textbook trap. Nothing in the loss curve tells; k-hat, the tail index of the importance weights
# $p(x, \theta) / q(\theta)$, does. The reference is NUTS on the same model in coordinates without a
# funnel.

# %%
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(effects, errors):
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0)))
    with pyro.plate("schools", len(effects)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("effect", dist.Normal(theta, errors), obs=effects)


def without_funnel(effects, errors):
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0)))
    with pyro.plate("schools", len(effects)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("effect", dist.Normal(theta, errors), obs=effects)


sampled = nuts.fit(
    without_funnel, EFFECTS, ERRORS, num_draws=draws, warmup_steps=warmup, num_chains=2, **quiet
)
shared = {name: value for name, value in sampled.draws.items() if name != "z"}
guides = {
    f"SVI, {name.replace('_', '-')}": svi.fit(
        schools, EFFECTS, ERRORS, guide=name, num_steps=steps, **quiet
    )
    for name in ("mean_field", "full_rank", "flow")
}
funnel = compare.methods({"NUTS": replace(sampled, draws=shared), **guides}, reference="NUTS")
print("\n".join(funnel.failures()))
funnel

# %% [markdown]
# ## What k-hat cannot see
#
# A target with two modes. A normal guide settles on one of them and fits it perfectly, so its weights
# are even and k-hat is content. Restarts are not: they end at different places.


# %%
def two_modes(size):
    place = pyro.sample("place", dist.Normal(torch.tensor(0.0), 5.0))
    pyro.sample("size", dist.Normal(place.abs(), 0.3), obs=size)


restarts = [
    svi.fit(two_modes, torch.tensor(3.0), num_steps=steps, seed=seed, progress=False)
    for seed in range(6)
]
blind = compare.methods({"SVI": restarts}, reference="SVI")
print("\n".join(blind.failures()))
blind.table()[["pareto_k", "restarts_r_hat"]]

# %% [markdown]
# ## Is it right on average?
#
# Simulation-based calibration: draw parameters from the prior and data from the model, infer, and ask
# where the truth ranks among the posterior's draws. All ranks must be equally likely. A thousand data
# sets of a hundred TwoNN ratios each go through one run of SVI. A run that stops after 60 steps is
# caught.

# %%
ratios = dist.Pareto(torch.tensor(1.0), 3.0).sample((100,))
size = {"num_simulations": 100 if SMOKE else 1000}
good = compare.calibrate(twonn.model, ratios, **size, **quiet)
hasty = compare.calibrate(twonn.model, ratios, num_steps=60, **size, **quiet)
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
for axes, run, title in zip(panels, (good, hasty), ("1000 steps", "60 steps"), strict=True):
    run.plot(ax=axes)
    axes.set_title(title, loc="left", y=1.1)
print("\n".join(hasty.failures()))
good

# %% [markdown]
# ## Two ways to a gradient
#
# The gradient of $E_q f$ by the reparameterization trick, or by the log-trick
# $E_q[f \nabla \log q + \nabla f]$. Both are right on average; one evaluation of the second is off by
# orders of magnitude more, unless a baseline takes most of it out.

# %%
slopes = compare.gradients(
    twonn.model, "mean_field", ratios, num_evaluations=20 if SMOKE else 300, seed=0
)
slopes.plot()
slopes

# %% [markdown]
# ## How tight is the bound?
#
# $\mathrm{ELBO} \le \mathrm{IWAE}_K \le \log p(x)$. A guide that was stopped early leaves a gap, which
# more particles close; the exact evidence is known here.

# %%
early = svi.fit(twonn.model, ratios, num_steps=25, num_draws=10_000, **quiet)
ladder = compare.bounds(twonn.model, early, ratios)
ladder.plot()
ladder

# %% [markdown]
# ## What does accuracy cost?
#
# Each point is a run of its own. The dashed line is how well the reference itself is known.

# %%
curve = compare.convergence(
    {
        "SVI": lambda n, seed: svi.fit(regression, x, y, num_steps=n, seed=seed, progress=False),
        "NUTS": lambda n, seed: nuts.fit(
            regression, x, y, num_draws=n, warmup_steps=50, num_chains=1, seed=seed, progress=False
        ),
        "importance": lambda n, seed: importance.fit(regression, x, y, num_draws=n, seed=seed),
    },
    budgets={"SVI": [20, 100, 500], "NUTS": [20, 100, 500], "importance": [20, 200, 2000]}
    if not SMOKE
    else {"SVI": [20], "NUTS": [20], "importance": [20]},
    reference=posteriors["exact"],
    num_repeats=1 if SMOKE else 3,
    seed=0,
)
_ = curve.plot()

# %% [markdown]
# ## EM as inference
#
# EM alternates $q(z \mid x) = p_\theta(z \mid x)$ with the best $\theta$ for it. Both steps lower
#
# $$\mathrm{KL}(q(x, z) \,\|\, p(x, z)) = \mathrm{KL}(q(x) \,\|\, p(x))
#   + \mathrm{E}\,\mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x)).$$
#
# A Gaussian mixture shows it: between the steps the two terms on the right add up to the left.

# %%
points = torch.cat([torch.randn(150, 2), torch.randn(100, 2) * 0.6 + 3.0])
mixture, terms = mixture_em.init(points, 2, seed=0), []
for _ in range(12):
    q = mixture.responsibilities(points)
    mixture = mixture_em.m_step(points, q)
    terms.append(decomposition(mixture.joint_log_prob(points), q.log()))
figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axes.plot([t.joint for t in terms], "o-", color=plots.COLORS["black"], label="KL(q(x,z) ‖ p(x,z))")
axes.plot(
    [t.marginal for t in terms], "s--", color=plots.COLORS["vermilion"], label="KL(q(x) ‖ p(x))"
)
axes.set(xlabel="EM step", ylabel="nats per point, up to the entropy of q(x)")
axes.legend(frameon=False)
terms[0], terms[-1]

# %% [markdown]
# With a continuous $z$ the terms are averages over draws. Here $z \sim N(0, 1)$, $x \mid z \sim N(z, 1)$,
# and a $q$ that is a little too wide costs its divergence from $p(z \mid x) = N(x/2, 1/2)$.

# %%
z = dist.Normal(0.5 * points[:, :1], 0.9)
some = z.sample((4000,)).squeeze(-1).T
joint = dist.Normal(0.0, 1.0).log_prob(some) + dist.Normal(some, 1.0).log_prob(points[:, :1])
decomposition_of_draws(joint, dist.Normal(0.5 * points[:, :1], 0.9).log_prob(some))

# %% [markdown]
# The same driver runs any model with discrete sites, draws them instead (Monte Carlo EM), integrates
# continuous ones, and solves what has no probability in it at all. *The power of lifting*:
# $|t| = \tfrac12 \min_s [t^2/s^2 + s^2]$ turns least absolute deviations into a few least squares.

# %%
spoiled = y.clone()
spoiled[::6] += 6.0  # outliers
robust = least_absolute_deviations(x, spoiled)
squares = torch.linalg.lstsq(x, spoiled.unsqueeze(1)).solution.squeeze(1)
figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axes.plot(x[:, 1], spoiled, ".", color=plots.COLORS["grey"], label="data with outliers")
axes.plot(x[:, 1], x @ squares, color=plots.COLORS["orange"], label="least squares")
axes.plot(x[:, 1], x @ robust.weights, color=plots.COLORS["blue"], label="absolute deviations")
axes.set(xlabel="x", ylabel="y")
axes.legend(frameon=False)
robust

# %% [markdown]
# Everything above is a `Posterior`, and ArviZ reads them all.

# %%
posteriors["NUTS"].to_arviz()
