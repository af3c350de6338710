"""The one gradient loop of the house, its batches and its schedules."""

from pplvae.optimize.batches import Batch, Batches, from_loader, minibatches, one_batch, take
from pplvae.optimize.checkpoints import checkpoint_seed
from pplvae.optimize.loop import History, minimize
from pplvae.optimize.run import common_seed
from pplvae.optimize.schedules import Schedule, constant, cosine, cyclical, warmup

__all__ = [
    "Batch", "Batches", "History", "Schedule", "checkpoint_seed", "common_seed", "constant",
    "cosine", "cyclical", "from_loader", "minibatches", "minimize", "one_batch", "take", "warmup",
]  # fmt: skip
