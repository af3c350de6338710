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
# # A tour of pplvae
#
# A table of numbers comes in. How many dimensions does it really have? What is its density? Which
# latent variables explain it? And can the inference that says so be trusted? Here the table is
# 1,797 small images of handwritten digits, 64 numbers each.

# %%
import os

import matplotlib.pyplot as plt
import torch

from pplvae import autoencoders, compare, data, infer, mixtures, plots, vae
from pplvae.density import histogram, kernel, neighbor, sweep
from pplvae.infer import exact, importance, laplace, nuts, svi
from pplvae.intrinsic_dimension import estimate, spectrum, twonn
from pplvae.mixtures import em
from pplvae.plots.mixtures import mixture_interval

SMOKE = bool(os.environ.get("PPLVAE_SMOKE"))  # a short run, to check that everything runs
torch.set_num_threads(1)  # on arrays this small a second thread costs more than it gives
plt.rcParams["figure.dpi"] = 110
quiet = {"seed": 0, "progress": False}

# %%
digits = data.digits().scaled()
plots.mosaic(digits.x[:60], digits.shape, columns=20)
digits

# %% [markdown]
# ## How many dimensions?
#
# A linear answer first: principal components, by SVD of the centered data. The spectrum falls
# without a step, so where one cuts it is a matter of taste.

# %%
x = digits.x.double()
pca = spectrum.pca(x, variance_fraction=0.95)
plots.spectrum(pca)
pca

# %% [markdown]
# TwoNN asks something else: how fast does the number of neighbors grow with the distance? The ratio
# $\mu = r_2 / r_1$ of the distances to a point's two nearest neighbors follows a Pareto law,
# $p(\mu \mid d) = d\,\mu^{-d-1}$, whatever the density. So $-\log(1 - F(\mu)) = d \log \mu$ is a line
# through the origin, and its slope is the dimension.

# %%
ratios = twonn.distance_ratios(x)
line = twonn.linear_fit(ratios)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
plots.twonn_line(line, ax=left)
plots.pareto_quantiles(ratios, line.dimension, ax=right)
twonn.maximum_likelihood(x, unbiased=True)

# %% [markdown]
# One estimator is one opinion. `estimate` asks several on the same neighbor graph, looks at how the
# dimension changes with the length scale, and says what speaks against its answer. Points share
# their neighbors, so the intervals are wider than those of independent ratios.

# %%
answer = estimate(x)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
plots.dimension_estimates(answer.estimates, ax=left)
plots.dimension_profile(answer.profile, adaptive=answer.adaptive, ax=right)
print(answer)

# %% [markdown]
# The Pareto likelihood is a Pyro model, `twonn.model`, and with its Gamma prior it is conjugate. So
# the posterior of $d$ is known exactly, and every inference method can be held against it.

# %%
steps = 100 if SMOKE else 800
posteriors = {
    "exact": exact.fit(twonn.model, ratios, seed=0),
    "SVI": svi.fit(twonn.model, ratios, init={"dimension": 5.0}, num_steps=steps, **quiet),
    "Laplace": laplace.fit(twonn.model, ratios, seed=0),
    "importance": importance.fit(twonn.model, ratios, seed=0),
    "MAP": infer.map.fit(twonn.model, ratios, seed=0),
    "NUTS": nuts.fit(
        twonn.model, ratios, init={"dimension": 5.0}, num_draws=20 if SMOKE else 400,
        warmup_steps=20 if SMOKE else 150, num_chains=2, **quiet,
    ),
}  # fmt: skip
comparison = compare.methods(posteriors, reference="exact")
comparison.plot("dimension").set_xlabel("intrinsic dimension d")
comparison

# %% [markdown]
# `failures()` says in plain words which method failed which check, and what to try. All of it goes
# to ArviZ as well.

# %%
print(comparison.failures() or "no method failed a check")
posteriors["NUTS"].to_arviz()

# %% [markdown]
# And is SVI right on average, not just here? Simulation-based calibration infers the dimension of
# many data sets drawn from the model: the true one must rank anywhere among the draws, equally often.
# The whole engine room is in `02_inference`.

# %%
calibration = compare.calibrate(
    twonn.model, ratios[:100], num_simulations=100 if SMOKE else 500, **quiet
)
calibration.plot()
calibration

# %% [markdown]
# ## What is their density?
#
# Along one direction: a histogram with its standard errors, $\sqrt{n} / (N w)$, under a kernel
# estimate. Its width is the lecture's: least $\Delta(h) = \mathrm{KL}(p \,\|\, p_h)$, by
# leave-one-out likelihood. Silverman's rule holds for one normal distribution and smooths these away.

# %%
components = pca.project(x, 10)
first = components[:, 0]
grid = torch.linspace(first.min().item(), first.max().item(), 300, dtype=x.dtype)
smooth = kernel.fit(first, "kl", progress=False).estimate(grid, progress=False)
curves = {
    "kernel, width by KL": (grid, smooth.density, smooth.error),
    "Silverman": (grid, kernel.log_density(grid, first).exp()),
}
ax = plots.histogram(histogram(first), curves=curves)
_ = ax.set_xlabel("principal component 1")

# %% [markdown]
# The lecture's line can be read in two ways. The divergence from the truth has a valley; the
# divergence between the estimates of two halves of the data falls for ever as $h$ grows, because wide
# kernels make any two samples look alike, and so picks nothing.

# %%
widths = sweep.bandwidths(first, **quiet)
plots.bandwidths(widths, first)[0].set_xlabel("principal component 1")
widths

# %% [markdown]
# In all 64 columns at once a kernel is hopeless, but the data do not fill them: with the dimension
# from TwoNN, and how sure that is, the distance to the 10th neighbor gives a density, and with it the
# most typical digits and the strangest. (`"pak"` in the place of 10 takes as many neighbors as each
# point can use.)

# %%
posterior = twonn.posterior(ratios)
dimension = posterior.dimension
found = neighbor.log_density(None, x, 10, posterior, unbiased=True, progress=False)
plots.typical(found.log_density, found.log_error, images=x, shape=digits.shape, num=8)
found

# %% [markdown]
# Parametric or non-parametric? Held-out points judge. A kernel follows any shape, but has less to go
# by with every axis; on ten of them it still holds its own here. Differences are taken point by point,
# which makes them far surer than the means themselves. The neighbors are no density, as their mass is
# infinite, and are not ranked.

# %%
epochs = 2 if SMOKE else 60
judged = compare.densities(components[:, :2], num_epochs=epochs, **quiet)
judged.plot()
judged

# %%
kernels, flow = (judged.estimates[name].log_density for name in ("kernel", "flow"))
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.0), layout="constrained")
for ax, (name, density) in zip(axes, {"kernel": kernels, "flow": flow}.items(), strict=True):
    plots.contours(density, components[:, :2], ax=ax)
    ax.set(xlabel="principal component 1", ylabel="principal component 2", title=name)

# %%
judged = compare.densities(components, num_epochs=epochs, **quiet)
judged.plot()
judged

# %% [markdown]
# ## Which clusters?
#
# A Gaussian mixture on the leading components by EM. The same model is a Pyro program; its
# posterior, here by Gibbs sampling, says how sure the clusters are.

# %%
fit = em.fit(components, 10, num_starts=1 if SMOKE else 5, **quiet)
ax = plots.mixture(components[:, :2], fit.mixture.marginal([0, 1]))
ax.set(xlabel="principal component 1", ylabel="principal component 2")
fit

# %%
bayes = mixtures.gibbs.fit(
    components, 10, start=fit.mixture, num_draws=20 if SMOKE else 300,
    warmup_steps=20 if SMOKE else 300, pointwise=False, **quiet,
)  # fmt: skip
ax = plots.mixture_means(bayes.draws["locs"][..., :2], components[:, :2])
ax.set(xlabel="principal component 1", ylabel="principal component 2")
bayes.summary().filter(like="weights", axis=0).round(3)

# %%
axis = torch.linspace(*components[:, 0].aminmax(), 300)
ax = mixture_interval(axis, bayes.marginal([0]).density(axis), components[:, 0])
ax.set_xlabel("principal component 1")

# %% [markdown]
# How EM gets there: on the plane of the first two components, five Gaussians after 3, 5 and 16
# steps, each point in the mean of its components' colors. `plots.mixture_animation` has all steps.

# %%
plane = components[:, :2]
steps = em.fit(
    plane, 5, start=em.init(plane, 5, seed=0), max_steps=16, accelerate=False, keep_path=True,
    **quiet,
)  # fmt: skip
for ax in plots.mixture_steps(plane, steps.path):
    ax.set(xlabel="principal component 1", ylabel="")
ax.figure.axes[0].set_ylabel("principal component 2")

# %% [markdown]
# At the end: which points it cannot tell apart, and the smallest regions with so much of the mass.

# %%
best = em.fit(plane, 5, **quiet).mixture
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.0), layout="constrained")
plots.mixture_uncertainty(plane, best, ax=axes[0])
plots.mixture_density(best, plane, ax=axes[1])
for ax in axes:
    ax.set(xlabel="principal component 1", ylabel="principal component 2")

# %% [markdown]
# How many, and of which form? Held-out density and BIC need not agree.

# %%
chosen = mixtures.selection.compare(
    components[:, :4], range(1, 4 if SMOKE else 13), ("full", "diag"), criteria=("bic", "icl"),
    **quiet,
)  # fmt: skip
plots.selection(chosen, "bic")
# %% [markdown]
# ## How much does a short code lose?
#
# PCA is the linear autoencoder; a stack of two can bend. Probabilistic PCA has an exact log p(x).

# %%
size = round(dimension)
plane = autoencoders.linear.fit(x, size).autoencoder
stack = autoencoders.stacked.fit(
    x, (100, size), at_once=False, num_epochs=2 if SMOKE else 60, **quiet
).autoencoder
rows = {"digits": x[:16], "PCA": plane.reconstruct(x[:16]), "stacked": stack.reconstruct(x[:16])}
plots.image_rows(rows, digits.shape)
print(f"lost by PCA {plane.error(x):.2f}, by the stack {stack.error(x):.2f} (squared, per digit)")

# %% [markdown]
# ## Which latent variables?
#
# A variational autoencoder with as many latent variables as TwoNN found dimensions. `model` and
# `guide` are Pyro programs; `fit` trains them by SVI.

# %%
model = vae.mlp(
    64, round(dimension), likelihood=vae.Bernoulli("dynamic"), dtype=torch.float32, seed=0
)
trained = vae.fit(model, x, num_epochs=2 if SMOKE else 200, **quiet)
plots.training(trained.history, unit="nats per image")
trained

# %%
shown = digits.x[trained.held_out[:20]]
figure, axes = plt.subplots(2, 1, figsize=(9.5, 3.0), layout="constrained")
plots.pairs(shown, model.reconstruct(shown), digits.shape, ax=axes[0])
axes[0].set_title("held-out digits over their reconstructions", fontsize=10)
plots.mosaic(model.sample(40, noise=False, seed=0), digits.shape, columns=20, ax=axes[1])
_ = axes[1].set_title("new ones", fontsize=10)

# %% [markdown]
# The ELBO is below $\log p(x)$ by as much as the guide misses. `diagnose` says by how much, whether the
# weighted draws that tell can be believed (k-hat), and what part of the code is in use;
# [the third notebook](03_vae.ipynb) goes on from here.

# %%
points = {"num_samples": 40, "num_points": 20, "num_steps": 5} if SMOKE else {"num_points": 150}
vae.diagnose(model, x[trained.held_out], **points, **quiet)

# %% [markdown]
# With two latent variables the learned manifold can be seen: an even grid on the unit square, pushed
# through the inverse normal distribution function and decoded.

# %%
flat = vae.mlp(64, 2, likelihood=vae.Bernoulli("dynamic"), dtype=torch.float32, seed=0)
vae.fit(flat, x, num_epochs=2 if SMOKE else 200, **quiet)
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.8), layout="constrained")
plots.manifold(vae.manifold.grid(flat, 18), digits.shape, limits=(0, 1), ax=left)
plots.points(flat.encode(x), digits.labels, centers=True, ax=right)
_ = right.set(xlabel="$z_1$", ylabel="$z_2$")
