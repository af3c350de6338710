"""Feed-forward networks on rows of numbers: dense ones, and convolutional ones for images."""

from pplvae.networks.conv import conv_decoder, conv_encoder, output_size
from pplvae.networks.dense import ACTIVATIONS, Squash, mlp, sizes_of
from pplvae.networks.layers import Layer, Summary, same_layers, summary
from pplvae.networks.modes import evaluating, in_mode

__all__ = [
    "ACTIVATIONS", "Layer", "Squash", "Summary", "conv_decoder", "conv_encoder",
    "evaluating", "in_mode", "mlp", "output_size", "same_layers", "sizes_of", "summary",
]  # fmt: skip
