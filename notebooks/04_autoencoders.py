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
# # Short codes: from PCA to the stacked, the denoising and the convolutional autoencoder
#
# An autoencoder gives each point a code $z = E(x)$ of $L$ numbers and makes the point again from it,
# $\hat x = D(z)$, with the least squared error. Nothing is random and there is no $p(x)$: it is the
# baseline that a VAE has to be worth its trouble against. The data are 1,797 handwritten digits of
# 8 × 8 pixels.

# %%
import os

import matplotlib.pyplot as plt
import torch

from pplvae import autoencoders, data, networks, optimize, plots, vae
from pplvae.autoencoders import convolutional, denoising, linear, probabilistic, stacked

SMOKE = bool(os.environ.get("PPLVAE_SMOKE"))  # a short run, to check that everything runs
torch.set_num_threads(1)  # on arrays this small a second thread costs more than it gives
plt.rcParams["figure.dpi"] = 110
EPOCHS = 2 if SMOKE else 60
quiet = {"seed": 0, "progress": False}

digits = data.digits().scaled()
order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
train, test = digits.subset(order[300:]), digits.subset(order[:300])


def error(model, x=test.x):
    """Return the mean of ‖x − x̂‖² over points that no model was trained on."""
    return (x - model.reconstruct(x).to(x)).square().sum(dim=1).mean().item()


# %% [markdown]
# ## Linear: it is PCA
#
# With $X = U \Sigma V^\top$ centered, no linear $E$ and $D$ lose less than $E = V_L^\top$, $D = V_L$:
# the error is the sum of the squares of the singular values left out. Gradient descent finds the same
# subspace, not the same axes. How far two subspaces are apart is said by their principal angles.

# %%
x = train.x.double()
closed = linear.fit(x, 8)
descended = linear.fit(x, 8, method="gradient", tied=True, **quiet)
angles = autoencoders.principal_angles(closed.directions, descended.directions)
print(f"lost per digit: {closed.error:.6f} in closed form, {descended.error:.6f} by descent")
print(f"largest angle between the two subspaces: {angles.max():.1e} rad")
_ = plots.components(closed.directions, digits.shape, columns=8)

# %% [markdown]
# Probabilistic PCA puts a normal law on it, $x = W z + m + \sigma \varepsilon$, with an exact
# $\log p(x)$. It is what a VAE of linear maps can reach at best, and a check on VAEs: the bound of the
# trained one should be at the line.

# %%
ppca = probabilistic.fit(x, 2)
plain = vae.linear(64, 2, seed=0, dtype=torch.float64)
settings = {"learning_rate": 0.01, "batch_size": 256, "schedule": optimize.cosine}
fit = vae.fit(plain, x, num_epochs=2 if SMOKE else 300, validation=0.0, **settings, **quiet)
exact = ppca.log_prob(x).mean()
print(f"exact log p(x) of PPCA {exact:.3f}, ELBO of the linear VAE {fit.elbo.value:.3f} nats")

# %% [markdown]
# ## Stacked: bent maps, one on the code of the other
#
# Each autoencoder is trained on the code of the one before, then all are tuned end to end. Today a deep
# network can be trained at once as well; the table has both, with the cost of each part.

# %%
size = 8
options = {"num_epochs": EPOCHS, "learning_rate": 3e-3, **quiet}
stack = stacked.fit(train.x, (128, 32, size), **options)
stack

# %%
flat = stacked.fit(train.x, (128, 32, 2), at_once=False, **options)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
plots.codes(linear.fit(train.x, 2).encode(test.x), test.labels, ax=left)
plots.codes(flat.encode(test.x), test.labels, ax=right)
left.set_title("two numbers by PCA", fontsize=10)
_ = right.set_title("two numbers by the stack", fontsize=10)

# %% [markdown]
# What does each of the two numbers do? Each row sweeps one of them through the codes of the data, the
# other at its median.

# %%
swept = autoencoders.traverse(flat.autoencoder, train.x)
_ = plots.traversals(swept, digits.shape, limits=(0, 1))

# %% [markdown]
# ## Convolutional: windows that look the same everywhere
#
# A window of $F$ pixels, moved by $S$ over a width $W$ with $P$ zeros at either end, stops at
# $W' = (W - F + 2P)/S + 1$ places. Where that is not a whole number, pixels would be lost, and it is
# refused. The table is printed before the training starts.

# %%
print(networks.output_size(8, 4, stride=2, padding=1), "places along 8 pixels")
try:
    networks.output_size(8, 3, stride=2, padding=1)
except ValueError as refused:
    print(refused)
windows = convolutional.fit(train.x, digits.shape, size, channels=(16, 32), **options)
windows.autoencoder.summary()

# %% [markdown]
# ## Which code is best, and how long need it be?
#
# The VAE has the layers of the stack; its reconstruction is the mean of $p(x \mid z)$ at the mean of
# its guide. It pays for a code that can be drawn from.

# %%
sizes = (2, 8) if SMOKE else (2, 4, 8, 16)
errors = {name: {} for name in ("PCA", "linear", "stacked", "convolutional", "VAE")}
for size in sizes:
    model = vae.mlp(64, size, hidden_dims=(128, 32), likelihood=vae.Gaussian(start=0.2), seed=0)
    vae.fit(model, train.x, schedule=optimize.cosine, **options | {"num_epochs": 3 * EPOCHS})
    errors["VAE"][size] = error(model)
    errors["PCA"][size] = error(linear.fit(train.x, size))
    tied = linear.fit(train.x, size, method="gradient", tied=True, num_epochs=1000, **quiet)
    errors["linear"][size] = error(tied)
    deep = stacked.fit(train.x, (128, 32, size), at_once=False, **options)
    errors["stacked"][size] = error(deep)
    seen = convolutional.fit(train.x, digits.shape, size, channels=(16, 32), **options)
    errors["convolutional"][size] = error(seen)
_ = plots.code_sizes(errors, unit="‖x − x̂‖² per held-out digit")

# %%
rows = {"held out": test.x[:14]}
rows |= {"PCA": linear.fit(train.x, 8).reconstruct(test.x[:14])}
rows |= {"stacked": stack.reconstruct(test.x[:14])}
rows |= {"convolutional": windows.reconstruct(test.x[:14])}
_ = plots.image_rows(rows, digits.shape, limits=(0, 1))

# %% [markdown]
# ## Denoising
#
# Noise is put on the input, drawn anew each time, and the clean digit is asked for. The same network
# trained without noise denoises a little, by what its code cannot hold; the gain in PSNR says how much
# is learned besides. The digits are held out, the noise has $\sigma = 0.5$ on pixels in $[0, 1]$.

# %%
cleaned = denoising.fit(train.x, 32, noise=denoising.Gaussian(0.5), num_epochs=EPOCHS, **quiet)
noisy = denoising.corrupt(test.x[:14], denoising.Gaussian(0.5), seed=0)
rows = {"noisy": noisy, "trained without": cleaned.plain.reconstruct(noisy)}
rows |= {"denoised": cleaned.reconstruct(noisy), "truth": test.x[:14]}
plots.image_rows(rows, digits.shape, limits=(0, 1))
cleaned
