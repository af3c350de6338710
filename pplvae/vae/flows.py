"""The VAE as triangular flows: increasing maps that carry noise to codes and to data.

With r(x, z) = p(z) Normal(x; 0, I) and s(x, z) = q(x) Normal(z; 0, I), the data's density q(x)
unknown,

    p(x, z) = (T × Id)_# r,   q(x, z) = (Id × S)_# s,

where T(·, z), from noise to x, and S(x, ·), from noise to z, are increasing and, for normals,
affine: T(ε, z) = m(z) + s(z) ε. The density of what a map carries is that of the noise over its
Jacobian determinant. S bends more where it is a composition of autoregressive maps,

    T_i(z) = m_i(z_<i) + σ_i(z_<i) z_i,   log |det ∂T/∂z| = Σ_i log σ_i,

each triangular and increasing: one pass through a masked network carries all coordinates at once,
while the way back takes one pass for each.

Reference:
    Lecture 18, "VAE as Triangular Flow"; Kingma et al. (2016), Improved variational inference
    with inverse autoregressive flow, https://arxiv.org/abs/1606.04934; Papamakarios, Pavlakou &
    Murray (2017), Masked autoregressive flow, https://arxiv.org/abs/1705.07057
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import MultivariateNormal
from pyro.distributions.torch import TransformedDistribution  # pyright: ignore
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pplvae.vae.distributions import DiagonalGaussian, as_diagonal
from pplvae.validation import check_whole

if TYPE_CHECKING:
    from pplvae.vae.model import VAE

LIMIT = 3.0  # of |log σ| of one map
START = 0.1  # of the last layer's usual weights: a flow starts near the identity


class Masked(ConditionalAutoRegressiveNN):
    """The network of m_i and log σ_i, blind to z_i and what comes after it.

    Args:
        dim: The dimension L of z, at least 2.
        context_dim: Numbers that every coordinate may see; 0 for none.
        hidden_dims: Sizes of the hidden layers, each at least L.
        backwards: Whether coordinate L is the first, which sees no other.
    """

    def __init__(
        self, dim: int, context_dim: int, hidden_dims: Sequence[int], *, backwards: bool
    ) -> None:
        order = torch.arange(dim)
        super().__init__(
            dim, context_dim, [int(size) for size in hidden_dims],
            permutation=order.flip(0) if backwards else order,  # type: ignore[arg-type]
            nonlinearity=nn.ELU(),
        )  # fmt: skip
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.mul_(START)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return m and log σ, shapes (…, L), with |log σ| at most `LIMIT`."""
        mean, free = super().forward(x, x.new_zeros(0) if context is None else context)
        return mean, LIMIT * (free / LIMIT).tanh()


def masked(
    dim: int, *, num_layers: int, context_dim: int, hidden_dims: Sequence[int], reverse: bool
) -> nn.ModuleList:
    """Return the networks of a flow.

    Args:
        dim: The dimension L of z.
        num_layers: How many maps follow each other.
        context_dim: Numbers that every coordinate may see.
        hidden_dims: Sizes of the hidden layers of each network.
        reverse: Whether every second map takes the coordinates from last to first.

    Raises:
        ValueError: If L is less than 2, where an affine map of a normal is but a normal, or a
            layer is smaller than L.
    """
    check_whole("latent_dim", dim, 2, context="for a flow of affine maps")
    check_whole("num_layers", num_layers, 1)
    check_whole("context_dim", context_dim, 0)
    check_whole("the number of hidden_dims", len(hidden_dims), 1)
    for size in hidden_dims:
        check_whole("hidden_dims", size, dim, context=f"for {dim} latent dimensions")
    turns = [reverse and layer % 2 == 1 for layer in range(num_layers)]
    return nn.ModuleList(Masked(dim, context_dim, hidden_dims, backwards=t) for t in turns)


class Autoregressive(AffineAutoregressive):
    """One increasing triangular map, which remembers the last point it carried.

    It is made anew for each law: what it remembers is true for one context and for the weights
    of the moment.

    Args:
        network: Of m and log σ.
        context: What the network sees besides, shape (…, context_dim).
    """

    def __init__(self, network: Masked, context: Tensor | None = None) -> None:
        super().__init__(network if context is None else partial(network, context=context))
        self.network, self.context = network, context

    def anew(self) -> "Autoregressive":
        """Return the same map without its memory."""
        return Autoregressive(self.network, self.context)

    def carried(self, value: Tensor) -> bool:
        """Whether `value` itself is the last point that the map gave."""
        return value is self._cached_x_y[1]

    def _call(self, x: Tensor) -> Tensor:
        # Pyro's own clamps log σ behind the gradient's back; here it is in bounds, smoothly.
        mean, log_scale = self.arn(x)
        self._cached_log_scale = log_scale
        return torch.addcmul(mean, log_scale.exp(), x)

    def _inverse(self, y: Tensor) -> Tensor:
        # Pyro's own starts from zeros of torch's default dtype, not of y's.
        x, log_scale = torch.zeros_like(y), torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # each pass gets one more coordinate right
            mean, log_scale = self.arn(x)
            x = (y - mean) * (-log_scale).exp()
        self._cached_log_scale = log_scale
        return x


def push(law: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a law's map carries standard normal noise, and the log of the determinant.

    Args:
        law: A normal, or a flow of one, event shape (L,).
        noise: Shape (…, L), the leading axes those of the law or more.

    Returns:
        The point, shape (…, L), and log |det Jacobian|, shape (…).

    Raises:
        ValueError: If the law is no such one.
    """
    law = as_diagonal(law) or law
    if isinstance(law, DiagonalGaussian):
        point, ladj = law.loc + law.log_scale.exp() * noise, law.log_scale.sum(-1)
    elif isinstance(law, MultivariateNormal):
        factor = law.scale_tril
        point = law.loc + (factor @ noise.unsqueeze(-1)).squeeze(-1)
        ladj = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    elif isinstance(law, TransformedDistribution):
        return _push_through(law, noise)
    else:
        raise ValueError(
            "law must be a normal or a flow of one to be the image of normal noise under an "
            f"increasing map that is known, got {type(law).__name__}"
        )
    return point, ladj.expand(point.shape[:-1])


def _push_through(law: TransformedDistribution, noise: Tensor) -> tuple[Tensor, Tensor]:
    point, total = push(law.base_dist, noise)
    for transform in law.transforms:
        start, point = point, transform(point)
        total = total + transform.log_abs_det_jacobian(start, point)
    return point, total


def decoder_map(vae: "VAE", noise: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return T(ε, z), the point that the model makes of noise and a code.

        log p(x | z) = log Normal(ε; 0, I) − log |det ∂T/∂ε|

    Args:
        vae: A VAE with a Gaussian likelihood.
        noise: ε, shape (…, D).
        z: Codes, shape (…, L).

    Returns:
        x, shape (…, D), and log |det ∂T/∂ε|, shape (…).

    Raises:
        ValueError: If the likelihood is not Gaussian: no smooth map makes, say, binary data.
    """
    return push(vae.p(z), noise)


def encoder_map(vae: "VAE", x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return S(x, ε), the code that the guide makes of a point and noise.

        log q(z | x) = log Normal(ε; 0, I) − log |det ∂S/∂ε|

    Args:
        vae: A VAE whose guide is a normal or a flow of one.
        x: Points as `likelihood.prepare` gives them, shape (…, D).
        noise: ε, shape (…, L).

    Returns:
        z, shape (…, L), and log |det ∂S/∂ε|, shape (…).

    Raises:
        ValueError: If the guide is a law of another kind.
    """
    return push(vae.q(x), noise)


def prior_map(vae: "VAE", noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the code that the prior makes of noise: the noise itself where it is Normal(0, I).

    Args:
        vae: A VAE whose prior is a normal or a flow.
        noise: ε, shape (…, L).

    Returns:
        z, shape (…, L), and the log of the determinant, shape (…).

    Raises:
        ValueError: If the prior is a law of another kind, a mixture say.
    """
    return push(vae.prior(), noise)
