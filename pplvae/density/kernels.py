"""Kernels: bumps K(u) = g(|u|) / c of unit width that integrate to one in every dimension.

The compact ones live on the unit ball, r = |u| ≤ 1, and but for the cosine are all of one family:

    uniform 1, triangle 1 - r, epanechnikov 1 - r², biweight (1 - r²)², triweight (1 - r²)³,
    cubic (1 - r³)³, cosine cos(π r / 2), gaussian exp(-r²/2)

"cubic" is a word of the lecture; the one kernel of that name in the literature is the tricube, and
that is what it means here. "uniform" is the Parzen window. A radial kernel in D dimensions has

    c = ∫ g(|u|) du = D V_D ∫ g(r) r^(D-1) dr,   V_D = π^(D/2) / Γ(D/2 + 1),
    ∫ (1 - r^a)^b r^(q-1) dr = B(q/a, b + 1) / a,

a product kernel c = (2 ∫ g(r) dr)^D. Two kernels smooth alike where their widths stand as
(R / μ₂²)^(1 / (D + 4)), with R = ∫ K² and μ₂ = ∫ u₁² K: the canonical ratio.

Reference:
    Marron & Nolan (1988), Canonical kernels for density estimation,
    https://doi.org/10.1016/0167-7152(88)90050-8
    Cleveland (1979), Robust locally weighted regression and smoothing scatterplots (tricube),
    https://doi.org/10.1080/01621459.1979.10481038
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pplvae.validation import check_one_of

# A point that stands on the rim of a window is within it, whichever way the distance is rounded.
RIM = 1 + 2.0**-36


class Profile(ABC):
    """How a kernel falls off with the distance r in widths, from g(0) = 1."""

    compact = True  # whether it ends at r = 1

    @abstractmethod
    def __call__(self, squared: Tensor) -> Tensor:
        """Return g of squared distances r², any shape."""

    @abstractmethod
    def log_moment(self, order: int, power: int = 1) -> float:
        """Return log ∫ g(r)^power r^(order - 1) dr."""

    @abstractmethod
    def radii(self, num: int, dim: int, like: Tensor) -> Tensor:
        """Return draws of r with density g(r) r^(D-1), shape (num,), from the global generator."""

    def log(self, squared: Tensor) -> Tensor:
        """Return log g, -inf outside."""
        return self(squared).log()


@dataclass(frozen=True)
class Power(Profile):
    """(1 - r^a)^b for r ≤ 1.

    Attributes:
        a: The power of the radius, 1, 2 or 3.
        b: The power of the whole; 0 for a window.
    """

    a: int
    b: int

    def __call__(self, squared: Tensor) -> Tensor:
        """Return g of squared distances r², any shape."""
        if self.b == 0:
            return (squared <= RIM).to(squared)
        power = {1: torch.sqrt, 2: lambda s: s, 3: lambda s: s * s.sqrt()}[self.a](squared)
        return (1 - power).clamp_(min=0).pow_(self.b)

    def log_moment(self, order: int, power: int = 1) -> float:
        """Return log ∫ g(r)^power r^(order - 1) dr."""
        p, q = order / self.a, self.b * power + 1
        return math.lgamma(p) + math.lgamma(q) - math.lgamma(p + q) - math.log(self.a)

    def radii(self, num: int, dim: int, like: Tensor) -> Tensor:
        """Return draws of r: r^a has the law Beta(D/a, b + 1)."""
        law = torch.distributions.Beta(
            like.new_tensor(dim / self.a), like.new_tensor(self.b + 1.0)
        )
        return law.sample((num,)) ** (1 / self.a)

    @cached_property
    def polynomial(self) -> list[float]:
        """What multiplies the powers of r in g, lowest first."""
        out = [0.0] * (self.a * self.b + 1)
        for j in range(self.b + 1):
            out[self.a * j] = float((-1) ** j * math.comb(self.b, j))
        return out


@dataclass(frozen=True)
class Cosine(Profile):
    """cos(π r / 2) for r ≤ 1."""

    def __call__(self, squared: Tensor) -> Tensor:
        """Return g of squared distances r², any shape."""
        return (1 - squared.sqrt()).clamp_(min=0).mul_(0.5 * math.pi).sin_()  # exact at the rim

    def log_moment(self, order: int, power: int = 1) -> float:
        """Return log ∫ g(r)^power r^(order - 1) dr, by Gauss and Legendre's rule."""
        nodes, weights = np.polynomial.legendre.leggauss(order // 2 + 32)
        r = 0.5 * (nodes + 1)
        values = np.cos(0.5 * np.pi * r) ** power * r ** (order - 1)
        return float(np.log(0.5 * (weights @ values)))

    def radii(self, num: int, dim: int, like: Tensor) -> Tensor:
        """Return draws of r, taken from those of 1 - r² ≥ cos(π r / 2), at least 78 % of them."""
        found = like.new_empty(0)
        while len(found) < num:
            r = Power(2, 1).radii(2 * num + 16, dim, like)
            accepted = torch.rand_like(r) * (1 - r**2) < self(r**2)
            found = torch.cat([found, r[accepted]])
        return found[:num]


@dataclass(frozen=True)
class Gaussian(Profile):
    """exp(-r²/2)."""

    compact = False

    def __call__(self, squared: Tensor) -> Tensor:
        """Return g of squared distances r², any shape."""
        return self.log(squared).exp()

    def log(self, squared: Tensor) -> Tensor:
        """Return log g."""
        return -0.5 * squared

    def log_moment(self, order: int, power: int = 1) -> float:
        """Return log ∫ g(r)^power r^(order - 1) dr."""
        return math.lgamma(order / 2) + 0.5 * order * math.log(2 / power) - math.log(2)

    def radii(self, num: int, dim: int, like: Tensor) -> Tensor:
        """Return draws of r: r² / 2 has the law Gamma(D/2)."""
        law = torch.distributions.Gamma(like.new_tensor(dim / 2), like.new_tensor(1.0))
        return (2 * law.sample((num,))).sqrt()


@dataclass(frozen=True)
class Kernel:
    """A kernel in any number of dimensions.

    Attributes:
        profile: How it falls off.
        product: Whether it is a product over the coordinates rather than a function of |u|.
    """

    profile: Profile
    product: bool = False

    def log_integral(self, dim: int, power: int = 1) -> float:
        """Return log ∫ g^power du over D dimensions."""
        if self.product:
            return dim * (math.log(2) + self.profile.log_moment(1, power))
        return log_sphere(dim) + self.profile.log_moment(dim, power)

    def roughness(self, dim: int) -> float:
        """Return R = ∫ K²."""
        return math.exp(self.log_integral(dim, 2) - 2 * self.log_integral(dim))

    def variance(self, dim: int) -> float:
        """Return μ₂ = ∫ u₁² K, the square of the standard deviation along each axis."""
        dim = 1 if self.product else dim
        return math.exp(self.profile.log_moment(dim + 2) - self.profile.log_moment(dim)) / dim

    def canonical_ratio(self, dim: int) -> float:
        """Return the width that smooths as a Gaussian of width one does."""
        log_roughness = self.log_integral(dim, 2) - 2 * self.log_integral(dim)
        log_gaussian = -0.5 * dim * math.log(4 * math.pi)
        log_ratio = log_roughness - 2 * math.log(self.variance(dim)) - log_gaussian
        return math.exp(log_ratio / (dim + 4))

    def draws(self, num: int, dim: int, like: Tensor) -> Tensor:
        """Return draws of u, shape (num, D), from the global generator."""
        if self.product:
            r = self.profile.radii(num * dim, 1, like).reshape(num, dim)
            return r * (2 * torch.randint_like(r, 2) - 1)
        direction = torch.randn(num, dim, dtype=like.dtype, device=like.device)
        r = self.profile.radii(num, dim, like)
        return r.unsqueeze(1) * direction / direction.norm(dim=1, keepdim=True)


PROFILES: dict[str, Profile] = {
    "uniform": Power(1, 0),
    "triangle": Power(1, 1),
    "epanechnikov": Power(2, 1),
    "biweight": Power(2, 2),
    "triweight": Power(2, 3),
    "cubic": Power(3, 3),
    "cosine": Cosine(),
    "gaussian": Gaussian(),
}


def named(name: str, *, product: bool = False) -> Kernel:
    """Return a kernel by its name, one of `PROFILES`.

    Raises:
        ValueError: If the name is unknown.
    """
    check_one_of("kernel", name, PROFILES)
    profile = PROFILES[name]
    # A product of Gaussians is a function of the distance, and quicker to sum as one.
    return Kernel(profile, product and profile.compact)


def log_sphere(dim: int) -> float:
    """Return the log of the surface D V_D of the unit ball."""
    return math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)
