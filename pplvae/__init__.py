"""Find the structure of data: its dimension, its density, the latent variables behind it.

Everything probabilistic is an ordinary Pyro model and guide; everything non-parametric is a
plain function of tensors. Importing this package changes no setting of torch or Pyro.
"""

__version__ = "0.1.0"
