"""Stacked autoencoders: each learns the code of the one before, then all are tuned together.

With h_0 = x, the k-th autoencoder is trained alone on the codes h_{k−1} of the one before,

    h_k = a(W_k h_{k−1} + b_k),   ĥ_{k−1} = a(W'_k h_k + b'_k),   cost Σ_n ‖h_{k−1} − ĥ_{k−1}‖² / N

with a an activation, left out for the last code and for x̂. One inside the other they are an
autoencoder of x with K layers down and K up, which starts from what the layers have learned and is
tuned end to end. A single deep network can be trained at once today; whether the stack is better
is a matter of measurement, so the two are set side by side.

Reference:
    The notes' stacked autoencoder (three, one on top of the other) and its cost function
    1/n Σ [x − f(g(x))]²; Bengio, Lamblin, Popovici & Larochelle (2007), Greedy layer-wise training
    of deep networks
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from torch import Tensor, nn

from pplvae.autoencoders.builders import mlp
from pplvae.autoencoders.model import Autoencoder
from pplvae.autoencoders.settings import Options, Settings
from pplvae.autoencoders.training import (
    AutoencoderFit,
    Parts,
    fitted,
    split,
    train,
)
from pplvae.networks import sizes_of
from pplvae.validation import Array, as_points


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Attributes:
        name: Which.
        sizes: Of what it encodes and of its code.
        error: Its cost, the mean ‖h − ĥ‖² over the points judged, in squared units of its input.
        unexplained: The same as a share of the variance of its input.
        num_epochs: Passes over the data that it took.
        seconds: Its wall-clock time.
    """

    name: str
    sizes: tuple[int, int]
    error: float
    unexplained: float
    num_epochs: int
    seconds: float = field(compare=False)


@dataclass(frozen=True, eq=False, repr=False)
class StackedFit(AutoencoderFit):
    """A stack, tuned end to end; `history` is that of the tuning.

    Attributes:
        stages: Each layer, the stack before its tuning and after it, and the network that was
            trained at once where there is one.
        at_once: A network of the same size, trained from its first random weights for as many
            epochs as all parts of the stack have taken together, unless the same patience ends it
            before; None where it was not asked for.
    """

    stages: tuple[Stage, ...] = field(kw_only=True)
    at_once: AutoencoderFit | None = field(kw_only=True)

    def __repr__(self) -> str:
        rows = [f"{'':22}{'sizes':>12}{'cost':>12}{'% lost':>9}{'epochs':>8}{'seconds':>9}"]
        for stage in self.stages:
            sizes = "{} → {}".format(*stage.sizes)
            rows.append(
                f"{stage.name:22}{sizes:>12}{stage.error:>12.4g}{100 * stage.unexplained:>9.2f}"
                f"{stage.num_epochs:>8}{stage.seconds:>9.1f}"
            )
        return "\n".join([super().__repr__(), *rows])


def fit(
    x: Array,
    dims: Sequence[int],
    *,
    activation: str = "elu",
    at_once: bool = True,
    **options: Unpack[Options],
) -> StackedFit:
    """Train a stack of autoencoders, in the dtype and on the device of `x`.

    Args:
        x: Points, shape (N, D).
        dims: Sizes of the codes, first to last, at least two: (500, 200, 30) makes three
            autoencoders and a code of 30 numbers.
        activation: One of `networks.ACTIVATIONS`.
        at_once: Whether to train a network of the same size at once as well, to compare.
        **options: See `training.Settings`; each part has these epochs and this patience.

    Raises:
        ValueError: If an argument is impossible, or all points or all codes of a layer are the
            same.
        FloatingPointError: If the loss stops being finite.
    """
    x, dims = as_points(x, min_points=2).detach(), sizes_of("dims", dims)
    if len(dims) < 2:
        raise ValueError(f"dims must be at least 2 sizes of codes, got {dims}")
    settings = Settings(**options)
    settings = replace(settings, seed=settings.part("layer-1").seeded(x.device).seed)
    whole, single = (_network(x, dims, activation, settings.seed) for _ in range(2))
    parts = split(whole, x, settings)
    for autoencoder in (whole, single):
        autoencoder.standardize(parts.train)
    stages = _layer_by_layer(whole, parts, settings)
    stages.append(_stage("stack, not tuned", fitted(whole, parts, None)))
    tuned = train(whole, parts, settings.part("tuning"), description="tuning the stack")
    stages.append(_stage("stack, tuned", tuned))
    taken = sum(stage.num_epochs for stage in stages)
    other = _trained_at_once(single, parts, settings, taken) if at_once else None
    stages += [] if other is None else [_stage("trained at once", other)]
    return StackedFit(
        whole, tuned.error, tuned.unexplained, tuned.history, parts.held_out,
        stages=tuple(stages), at_once=other,
    )  # fmt: skip


def _network(x: Tensor, dims: list[int], activation: str, seed: int | None) -> Autoencoder:
    return mlp(
        x.shape[1], dims[-1], hidden_dims=dims[:-1], activation=activation, dtype=x.dtype,
        seed=seed,
    ).to(x.device)  # fmt: skip


def _layer_by_layer(whole: Autoencoder, parts: Parts, settings: Settings) -> list[Stage]:
    """Train the layers of a whole network in place, the outermost first."""
    stages = []
    for number, layer in enumerate(_layers(whole), 1):
        name = f"layer {number}"
        own = settings.part(f"layer-{number}")
        stages.append(_stage(name, train(layer, parts, own, description=f"training {name}")))
        held = layer.encode(parts.judge) if len(parts.judge) else parts.judge
        parts = replace(parts, train=layer.encode(parts.train), judge=held)
    return stages


def _layers(whole: Autoencoder) -> list[Autoencoder]:
    """Return the autoencoders that a whole one is made of, which share its weights."""
    down, up = [*whole.encoder.children()], [*whole.decoder.children()]
    linear = [layer for layer in down if isinstance(layer, nn.Linear)]
    layers = []
    for k, layer in enumerate(linear):
        last = len(up) - 1 - 2 * k
        encoder, decoder = down[2 * k : 2 * k + 2], up[last : last + 2]
        layers.append(
            Autoencoder(
                nn.Sequential(*encoder), nn.Sequential(*decoder), layer.in_features,
                layer.out_features,
            )
        )  # fmt: skip
    layers[0].center, layers[0].scale = whole.center, whole.scale
    return layers


def _stage(name: str, found: AutoencoderFit) -> Stage:
    model, history = found.autoencoder, found.history
    epochs, seconds = (0, 0.0) if history is None else (len(history.losses), history.seconds)
    sizes = model.data_dim, model.latent_dim
    return Stage(name, sizes, found.error, found.unexplained, epochs, seconds)


def _trained_at_once(
    single: Autoencoder, parts: Parts, settings: Settings, num_epochs: int
) -> AutoencoderFit:
    own = replace(settings.part("at-once"), num_epochs=num_epochs)
    return train(single, parts, own, description="training at once")
