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
# # The variational autoencoder, and what its numbers say
#
# A VAE is a Pyro model $p(z)\,p(x \mid z)$ and a guide $q(z \mid x)$ over two networks. Training one
# takes a line. This notebook is about what comes after: what the bound says and hides, how far it is
# from $\log p(x)$, and what to change when it is too far. The data are 1,797 handwritten digits of
# 8 × 8 pixels.

# %%
import os

import matplotlib.pyplot as plt
import pyro
import torch
from pyro.infer import RenyiELBO, Trace_ELBO

from pplvae import data, optimize, plots, vae

SMOKE = bool(os.environ.get("PPLVAE_SMOKE"))  # a short run, to check that everything runs
torch.manual_seed(0)
torch.set_num_threads(1)  # on arrays this small a second thread costs more than it gives
plt.rcParams["figure.dpi"] = 110
quiet = {"seed": 0, "progress": False}
epochs, draws = (2, 40) if SMOKE else (200, 500)

digits = data.digits().scaled()
train, test = digits.split([0.8, 0.2], seed=0)
test

# %% [markdown]
# ## Build and train
#
# The pixels are grey, and a Bernoulli likelihood is one of zeros and ones. So each pixel is drawn
# anew, white with its grey value as the probability, every time it is seen: "dynamic binarization".


# %%
def build(latent_dim=20, **laws):
    return vae.mlp(
        64, latent_dim, hidden_dims=(200,), likelihood=vae.Bernoulli("dynamic"),
        dtype=torch.float32, seed=0, **laws,
    )  # fmt: skip


plain = build()
fit = vae.fit(plain, train.x, num_epochs=epochs, **quiet)
plots.training(fit.history, unit="nats per image")
fit

# %% [markdown]
# ## What the ELBO says
#
# $\mathrm{ELBO} = E_q \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, p(z))$: the reconstruction
# less the price of the code. The pixels are discrete, so it is a code length too, in bits per pixel.

# %%
bound = vae.bounds.elbo(plain, test.x, seed=0)
bound

# %% [markdown]
# The price comes apart further. What the code tells of the image is the mutual information, at most
# $\log N$; the rest is how far the codes of all images together are from the prior. Of the 20 latent
# dimensions about six carry nearly all of it. The usual count of "active units" is more generous: it
# takes all whose mean varies by more than 0.01 from image to image.

# %%
terms = vae.bounds.terms(plain, test.x, **quiet)
ax = plt.figure(figsize=(6.4, 2.6), layout="constrained").add_subplot()
per_dimension = terms.kl_per_dimension.sort(descending=True).values
ax.bar(range(1, 21), per_dimension, color=plots.COLORS["blue"])
ax.set(xlabel="latent dimension, most used first", ylabel="KL in nats", xticks=range(1, 21))
ax.spines[["top", "right"]].set_visible(False)
print(f"{terms.num_active} of 20 active")
terms

# %% [markdown]
# ## What it hides: log p(x), three ways
#
# The ELBO is below $\log p(x)$ by $\mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x))$, which nobody shows
# you. Weighted draws do:
#
# $$\log p(x) \approx \log \frac{1}{S} \sum_s \frac{p(x, z_s)}{q(z_s)},$$
#
# with $z_s$ from the guide, from the prior (the lecture's Monte Carlo), or at the end of chains that
# walk from the prior to $p(z \mid x)$ (annealed importance sampling). All of them are right in the
# limit; k-hat, the tail index of the weights, says which ones are there yet.

# %%
some = test.x[:100]
guide = vae.bounds.log_likelihood(plain, some, num_samples=draws, **quiet)
prior = vae.bounds.log_likelihood(plain, some, num_samples=draws, proposal="prior", **quiet)
chains = vae.bounds.log_likelihood(
    plain, some[:8] if SMOKE else some, proposal="ais", num_samples=2 if SMOKE else 8, **quiet
)
print(f"ELBO   {vae.bounds.elbo(plain, some, seed=0).value:.2f}")
for name, found in {"guide": guide, "prior": prior, "AIS": chains}.items():
    print(f"{name:6} {found}; {found.effective_sample_size.median():.1f} effective draws")

# %% [markdown]
# Hardly a code from the prior makes this image, so a few draws of hundreds carry the whole sum: the
# estimate is too low, and k-hat says so for nearly every image. The guide and AIS agree.
#
# Between the ELBO and $\log p(x)$ stands the ladder of importance-weighted bounds.

# %%
sizes = [1, 5, 50, draws]
ladder = [vae.bounds.iwae(plain, test.x, num_samples=size, **quiet) for size in sizes]
ax = plots.bounds(sizes, [r.value for r in ladder], [r.standard_error for r in ladder])
_ = ax.set_ylabel("bound in nats per image")

# %% [markdown]
# ## Climbing another bound
#
# Training can climb IWAE$_K$ itself. Its plain gradient for the encoder drowns in noise as $K$ grows;
# the doubly reparameterized one (DReG) does not. Or the KL may start with no weight, so that the
# decoder learns to use the code before it has to pay for it; then what is climbed is not a bound, and
# the true one stands beside it.

# %%
objectives = {
    "ELBO": "elbo",
    "KL warm-up": vae.ELBO(kl="analytic", kl_weight=optimize.warmup(0.3)),
    "IWAE, K = 10": vae.IWAE(10),
    "DReG, K = 10": vae.IWAE(10, gradient="dreg"),
}
fits = {"ELBO": fit}
for name, objective in objectives.items():
    if name not in fits:
        fits[name] = vae.fit(build(), train.x, objective=objective, num_epochs=epochs, **quiet)
plots.training(fits["KL warm-up"].history, unit="nats per image", objective="weighted ELBO")

# %% [markdown]
# ## Priors and posteriors
#
# The gap has two ends. A guide that bends (an inverse autoregressive flow) follows $p(z \mid x)$
# further than a diagonal normal. A prior that bends (a mixture; VampPrior, the average guide over
# learned pseudo-images) goes where the codes are.

# %%
laws = {
    "full normal guide": {"posterior": "full"},
    "IAF guide": {"posterior": "iaf"},
    "mixture prior": {"prior": "mixture"},
    "VampPrior": {"prior": vae.priors.VampPrior(20, 50, data=train.x)},
}
for name, law in laws.items():
    fits[name] = vae.fit(build(**law), train.x, num_epochs=epochs, **quiet)
judged = {
    name: vae.bounds.log_likelihood(f.vae, test.x, num_samples=draws, **quiet)
    for name, f in fits.items()
}
for name, found in judged.items():
    bound = vae.bounds.elbo(fits[name].vae, test.x, seed=0)
    gap = found.value - bound.value
    print(f"{name:18} ELBO {bound.value:.2f}  log p(x) {found.value:.2f}  gap {gap:.2f}")

# %% [markdown]
# The gap says how well the guide follows, $\log p(x)$ how good the model is, and the two do not go
# together: IWAE gives ELBO away to gain $\log p(x)$. Judged by its ELBO it would come last.

# %%
per_pixel = 64 * torch.log(torch.tensor(2.0)).item()
plots.bits_per_dimension(
    {
        name: (found.bits_per_dimension, found.standard_error / per_pixel)
        for name, found in judged.items()
    }
)

# %% [markdown]
# The bars are the spread over the test images, which all fits share. Their differences are known better
# than that, since the images are the same.

# %%
reference = judged["ELBO"].per_point
for name, found in judged.items():
    better = found.per_point - reference
    error = better.std().item() / len(better) ** 0.5
    print(f"{name:18} {better.mean():+.2f} ± {error:.2f} nats against the ELBO's")

# %% [markdown]
# ## Traps, refused
#
# Grey pixels have no Bernoulli likelihood: with Pyro's checks off the formula still gives a number, one
# that flatters, since the code has seen what the likelihood is of. Pyro's Rényi bound scales log weights before it averages the
# weights, so on a subsample it is the bound of nothing. Neither can happen silently.

# %%
binary = vae.mlp(64, 20, dtype=torch.float32, seed=0)
try:
    vae.fit(binary, train.x, num_epochs=1, **quiet)
except ValueError as error:
    print(error)

# %%
batch = plain.likelihood.prepare(train.x[:100].float())
with pyro.get_param_store().scope(), pyro.validation_enabled():
    print("Trace_ELBO", Trace_ELBO().loss(plain.model, plain.guide, batch, len(train)))
    try:
        RenyiELBO(alpha=0, num_particles=10, vectorize_particles=True, max_plate_nesting=1).loss(
            plain.model, plain.guide, batch, len(train)
        )
    except ValueError as error:
        print(error)

# %% [markdown]
# ## Looking
#
# Reconstructions first: blurred where the code does not say enough.

# %%
plots.pairs(test.x[:16], plain.reconstruct(test.x[:16]), digits.shape, limits=(0, 1))
_ = plots.mosaic(plain.sample(48, noise=False, seed=0), digits.shape, columns=16, limits=(0, 1))

# %% [markdown]
# One latent axis is swept over the prior's quantiles and the others stay where this image has them. Most
# axes of 20 do nothing, so the five most used are enough.

# %%
used = terms.kl_per_dimension.argsort(descending=True)[:5].tolist()
plots.traversals(
    vae.manifold.traverse(plain, test.x[0], axes=used), digits.shape,
    names=[f"$z_{{{axis + 1}}}$" for axis in used], limits=(0, 1),
)  # fmt: skip

# %% [markdown]
# From one digit to another, on the arc that keeps to the lengths of a normal prior.

# %%
ends = test.x[:4], test.x[4:8]
ways = vae.manifold.interpolate(plain, *ends, kind="spherical")
plots.interpolation(ways, digits.shape, ends=ends, limits=(0, 1))

# %% [markdown]
# With two latent variables the whole manifold can be seen: an even grid on the unit square, pushed
# through the inverse normal distribution function and decoded.

# %%
flat = build(2)
vae.fit(flat, train.x, num_epochs=epochs, **quiet)
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.8), layout="constrained")
plots.manifold(vae.manifold.grid(flat, 18), digits.shape, limits=(0, 1), ax=left)
plots.points(flat.encode(digits.x), digits.labels, centers=True, ax=right)
_ = right.set(xlabel="$z_1$", ylabel="$z_2$")

# %% [markdown]
# ## Is anything wrong with it?
#
# `diagnose` asks for each image: are the weights to be believed, how far is the bound from
# $\log p(x)$, and how much of that is the encoder's fault, since a guide made for this image alone
# would do better? And for the code: has a part of it collapsed? `failures()` says it in words.

# %%
small = {"num_samples": 50, "num_points": 20, "num_steps": 5} if SMOKE else {"num_points": 200}
diagnosis = vae.diagnose(plain, test.x, **small, **quiet)
print("\n".join(diagnosis.failures() or ["nothing is wrong"]))
diagnosis

# %% [markdown]
# The images that are explained worst, over their reconstructions: the strange ones.

# %%
worst = test.x[diagnosis.worst]
plots.pairs(worst, plain.reconstruct(worst), digits.shape, limits=(0, 1))
