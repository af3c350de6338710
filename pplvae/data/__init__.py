"""Data to look at: classic image sets, the user's own tables, manifolds of known dimension.

data.digits()
data.load("mnist:DIR").split([0.9, 0.1], seed=0)
data.manifolds.sample("sphere", 1000, dimension=5)
"""

from pplvae.data import manifolds
from pplvae.data.dataset import Dataset
from pplvae.data.images import cifar10, digits, frey_faces, mnist
from pplvae.data.spec import load

__all__ = ["Dataset", "cifar10", "digits", "frey_faces", "load", "manifolds", "mnist"]
