"""Likelihoods of whole numbers 0 … L − 1, such as the 256 levels of a byte.

    Categorical:           log p(x | z) = Σ_d log softmax(f_d)[x_d]
    Discretized logistic:  log p(x | z) = Σ_d log [σ(a_d) − σ(b_d)],
                           a_d = (t_d + h − m_d) / s_d,   b_d = (t_d − h − m_d) / s_d

The first is the softmax(NN(z)) of the lecture, L numbers for each pixel: exact and dear. The
second needs two: it is the mass that a logistic law about m puts within half a level of t, which
is x on [−1, 1], with h = 1 / (L − 1) and all beyond an edge counted to the last level. From
σ(a) − σ(b) = σ(a) σ(−b) (1 − e^{b − a}) its logarithm is a sum of three, which neither cancel nor
underflow. Both are probabilities: −log p / (D log 2) is bits per dimension.

Reference:
    Salimans, Karpathy, Chen & Kingma (2017), PixelCNN++, https://arxiv.org/abs/1701.05517;
    van den Oord, Kalchbrenner & Kavukcuoglu (2016), https://arxiv.org/abs/1601.06759
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pplvae.vae.distributions import Independents, limited
from pplvae.vae.likelihoods import LIKELIHOODS, Likelihood
from pplvae.validation import check_whole

CHUNK = 2**20  # logits at once, 4 MiB in single precision


class Levels(Likelihood):
    """Whole numbers 0 … L − 1, which the encoder sees on [−1, 1].

    Args:
        num_levels: How many levels, L.
    """

    discrete = True

    def __init__(self, num_levels: int = 256) -> None:
        super().__init__()
        check_whole("num_levels", num_levels, 2)
        self.num_levels = int(num_levels)

    def as_input(self, x: Tensor) -> Tensor:
        """Return x on [−1, 1]."""
        return 2 * x / (self.num_levels - 1) - 1

    def check(self, x: Tensor) -> None:
        """Refuse what is not a level.

        Raises:
            ValueError: Naming the first number that is none.
        """
        last = self.num_levels - 1
        bad = x[(x != x.round()) | (x < 0) | (x > last)]
        if len(bad):
            raise ValueError(
                f"x must be whole numbers in [0, {last}] for {self.num_levels} levels, got "
                f"{bad[0].item():g}: give the raw bytes, as Dataset.x holds them"
            )

    def check_prepared(self, x: Tensor) -> None:
        """Refuse what is not a level, with a ValueError."""
        self.check(x)


class Categorical(Levels):
    """A probability for each level: softmax of the decoder's L numbers for each pixel.

    With `rank` the decoder gives only r numbers, which a table of L rows, shared by all pixels,
    turns into L; each pixel adds a bias to each level. For 784 pixels, 500 hidden units and r = 8
    that is 3 million weights instead of 100.

    Args:
        num_levels: How many levels, L.
        rank: How many numbers r the decoder gives for each pixel; all L where None.
        data_dim: The data's dimension D; needed with `rank`.

    Raises:
        ValueError: If `rank` is not in [1, L − 1], or comes without `data_dim`.
    """

    def __init__(
        self, num_levels: int = 256, *, rank: int | None = None, data_dim: int | None = None
    ) -> None:
        super().__init__(num_levels)
        self.rank = self.data_dim = self.embedding = self.bias = None
        if rank is not None:
            check_whole("rank", rank, 1, num_levels - 1)
            if data_dim is None:
                raise ValueError("data_dim must be given with rank, got None")
            check_whole("data_dim", data_dim, 1)
            self.rank, self.data_dim = int(rank), int(data_dim)
            self.embedding = nn.Parameter(_cosines(self.num_levels, self.rank))
            self.bias = nn.Parameter(torch.zeros(self.num_levels, self.data_dim))

    @property
    def outputs(self) -> int:
        """How many numbers the decoder must give for each number in x: r or L."""
        return self.rank or self.num_levels

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return p(x | z) of logits, shape (…, L D), or of features, shape (…, r D).

        Raises:
            ValueError: If that is not the D of the bias.
        """
        parts = self.blocks(output)
        if self.embedding is None or self.bias is None:
            return CategoricalLaw(parts)
        if parts.shape[-1] != self.data_dim:
            raise ValueError(
                f"data_dim must be the data's, {parts.shape[-1]}, got {self.data_dim}"
            )
        return CategoricalLaw(parts, (self.embedding, self.bias))

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this likelihood again."""
        return {"num_levels": self.num_levels, "rank": self.rank, "data_dim": self.data_dim}


class DiscretizedLogistic(Levels):
    """A logistic law, or a mixture of them, rounded to levels; a hundredth of a softmax's cost.

    Args:
        num_levels: How many levels, L.
        num_components: How many logistic laws M are mixed. The decoder gives M means and M
            log-scales for each number, on the scale where x spans [−1, 1], and M logits of the
            weights before them where M > 1.
    """

    def __init__(self, num_levels: int = 256, *, num_components: int = 1) -> None:
        super().__init__(num_levels)
        check_whole("num_components", num_components, 1)
        self.num_components = int(num_components)

    @property
    def outputs(self) -> int:
        """How many numbers the decoder must give for each number in x: 2, or 3 M."""
        return 2 if self.num_components == 1 else 3 * self.num_components

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return p(x | z) of the decoder's output, shape (…, outputs · D)."""
        return DiscretizedLogisticLaw(self.blocks(output), self.num_levels)

    def config(self) -> dict[str, Any]:
        """Return the keywords that build this likelihood again."""
        return {"num_levels": self.num_levels, "num_components": self.num_components}


LIKELIHOODS |= {"categorical": Categorical, "discretized_logistic": DiscretizedLogistic}


class LevelsLaw(Independents):
    """A law of levels 0…L − 1 for each pixel; a subclass sets `num_levels`, L."""

    num_levels: int

    @property
    def support(self) -> constraints.Constraint:
        """Where the law lives: the levels."""
        return constraints.independent(constraints.integer_interval(0, self.num_levels - 1), 1)


class CategoricalLaw(LevelsLaw):
    """Independent levels, from logits of shape (…, L, D).

    The log probabilities are worked out from at most `CHUNK` logits at once, and kept for the
    gradient is nothing of their size but the logits themselves; with a head not even those.

    Args:
        output: The logits, shape (…, L, D), or with a head features, shape (…, r, D).
        head: What turns features into logits, shape (L, r), and a bias to add, shape (L, D).
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    def __init__(
        self,
        output: Tensor,
        head: tuple[Tensor, ...] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.head = head
        self.num_levels = len(head[0]) if head else output.shape[-2]
        super().__init__(output, validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean level, shape (…, D)."""
        levels = torch.arange(self.num_levels, device=self.output.device).to(self.output)
        return self._each(lambda logits: levels @ logits.softmax(1))

    def nats(self, value: Tensor) -> Tensor:
        """Return log probability in nats, shape (…)."""
        batch = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        levels = value.expand(batch + self.event_shape).reshape(-1, *self.event_shape).long()
        nats: Any = _LogSoftmaxAt.apply(self.expand(batch)._rows(), levels, *self.head)
        return nats.sum(-1).reshape(batch)

    def draw(self) -> Tensor:
        """Return one draw for each of the batch, shape (…, D), by the Gumbel-max trick."""
        return self._each(
            lambda logits: (logits - torch.empty_like(logits).exponential_().log()).argmax(1)
        )

    def _rows(self) -> Tensor:
        return self.output.reshape(-1, *self.output.shape[-2:])

    def _each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a function of the logits of each number, (n, L, d) to (n, d), shape (…, D)."""
        rows = self._rows()
        found = rows.new_empty(len(rows), *self.event_shape)
        for at in _chunks(rows, self.head):
            found[at] = function(_logits(rows, at, self.head))
        return found.reshape(self._extended_shape())


class _LogSoftmaxAt(torch.autograd.Function):
    """log softmax(logits)[level] of each number, the logits made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, levels: Tensor, *head: Tensor) -> Tensor:
        """Return it, shape (N, D), of rows (N, L, D), or (N, r, D) with a head."""
        chosen, total = rows.new_empty(2, *levels.shape)
        for at in _chunks(rows, head):
            logits = _logits(rows, at, head)
            chosen[at] = logits.gather(1, levels[at].unsqueeze(1)).squeeze(1)
            total[at] = logits.logsumexp(1)
        ctx.save_for_backward(rows, levels, total, *head)
        return chosen - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients: that of the logits is the one-hot of the level less softmax."""
        rows, levels, total, *head = ctx.saved_tensors
        of_rows, of_head = torch.empty_like(rows), [torch.zeros_like(part) for part in head]
        for at in _chunks(rows, head):
            here, weight = (at[0], slice(None), at[1]), grad[at].unsqueeze(1)
            logits = _logits(rows, at, head)
            change = torch.empty_like(logits) if head else of_rows[here]
            torch.sub(logits, total[at].unsqueeze(1), out=change).exp_().mul_(-weight)
            change.scatter_add_(1, levels[at].unsqueeze(1), weight)
            if head:
                of_rows[here] = head[0].T @ change
                of_head[0] += (change @ rows[here].mT).sum(0)
                of_head[1][:, at[1]] += change.sum(0)
        return of_rows, None, *of_head


def _chunks(rows: Tensor, head: Sequence[Tensor]) -> Iterator[tuple[slice, slice]]:
    """Give the rows and the pixels to take at once, so that their logits are `CHUNK` at most."""
    num_levels, (count, _, data_dim) = len(head[0]) if head else rows.shape[1], rows.shape
    width = min(data_dim, max(1, CHUNK // num_levels))
    height = max(1, CHUNK // (num_levels * width))
    for top, left in itertools.product(range(0, count, height), range(0, data_dim, width)):
        yield slice(top, top + height), slice(left, left + width)


def _logits(rows: Tensor, at: tuple[slice, slice], head: Sequence[Tensor]) -> Tensor:
    """Return the logits of a chunk, shape (n, L, d)."""
    part = rows[at[0], :, at[1]]
    if not head:
        return part
    embedding, bias = head
    return torch.baddbmm(bias[:, at[1]], embedding.expand(len(part), -1, -1), part)


def _cosines(num_levels: int, rank: int) -> Tensor:
    """Return r waves over the levels, shape (L, r): orthogonal, and alike for levels nearby."""
    levels, waves = torch.arange(num_levels) + 0.5, torch.arange(1, rank + 1)
    return (math.pi / num_levels * levels.unsqueeze(1) * waves).cos()


class DiscretizedLogisticLaw(LevelsLaw):
    """Independent levels, from means and log-scales of logistic laws.

    Args:
        output: Means and log-scales, shape (…, 2, D), or for M laws the logits of their weights,
            their means and their log-scales, shape (…, 3 M, D).
        num_levels: How many levels, L.
        validate_args: Whether to check the arguments; Pyro's setting where None.
    """

    def __init__(
        self, output: Tensor, num_levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.num_levels = num_levels
        super().__init__(output, validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean level, shape (…, D): the sum over k ≥ 1 of the probability of at least k."""
        weights, center, rate = self._components()
        mean = torch.zeros_like(center)
        for level in range(1, self.num_levels):
            mean = mean + ((center - (level - 0.5)) * rate).sigmoid()
        return (weights.exp() * mean).sum(-2)

    def nats(self, value: Tensor) -> Tensor:
        """Return log probability in nats, shape (…)."""
        weights, center, rate = self._components()
        level = value.unsqueeze(-2)
        below = F.logsigmoid((level + 0.5 - center) * rate)
        above = F.logsigmoid((center - (level - 0.5)) * rate)
        inside = below + above + (-torch.expm1(-rate)).log()
        edges = torch.where(level == 0, below, above)
        inner = (level > 0) & (level < self.num_levels - 1)
        nats = torch.where(inner, inside, edges)
        return (weights + nats).logsumexp(-2).sum(-1)

    def draw(self) -> Tensor:
        """Return one draw for each of the batch, shape (…, D): logistic draws, rounded."""
        weights, center, rate = self._components()
        noise = torch.empty_like(weights).exponential_().log()
        chosen = (weights - noise).argmax(-2, keepdim=True)
        center, rate = (part.gather(-2, chosen).squeeze(-2) for part in (center, rate))
        x = center + torch.rand_like(center).logit() / rate
        return x.round().clamp(0, self.num_levels - 1)

    def _components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return log weights, means in levels and 1 / s in levels, each of shape (…, M, D).

        In levels the edges k ± ½ are exact numbers, so the probabilities sum to one as rounded.
        """
        if self.output.shape[-2] == 2:
            loc, log_scale = self.output.chunk(2, -2)
            weights = torch.zeros_like(loc)
        else:
            logits, loc, log_scale = self.output.chunk(3, -2)
            weights = logits.log_softmax(-2)
        half = 2 / (self.num_levels - 1)
        return weights, (loc + 1) / half, (-limited(log_scale)).exp() * half
