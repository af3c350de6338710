"""What a step of vae.fit costs beside plain torch, Pyro's tutorial and pythae, on one thread.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/vae_step.py [--rounds 20]

All train 784-400-20 (ReLU) on the same binary data with batches of 128 and Adam, float32. Each
round times every way in turn; the table shows medians over the rounds of CPU milliseconds and of
the ratio within a round. `fit` is `vae.fit` as it comes: dealing, clipping and bookkeeping are in
its time. The other loops deal their batches by indexing a tensor; pythae has its own loader. It
takes part where it can be imported (`pip install pythae`, or its folder in PYTHONPATH).
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # pyright: ignore
from torch import Tensor, nn

from pplvae import vae
from pplvae.vae import bounds
from pplvae.vae.levels import Categorical

D, HIDDEN, L, BATCH, STEPS, RATE = 784, 400, 20, 128, 100, 1e-3
LEVELS, FEATURES, FEW = 256, 64, 64  # categorical: levels, inputs of the head, batch
IMAGES, SAMPLES = 50, 1000  # log p(x)
# What is timed, against what, and how many times as long it may take.
BOUNDS = (
    ("fit", "torch, fused Adam", 1.20),
    ("fit", "torch, default Adam", 1.10),
    ("fit", "Pyro's VAE tutorial", 0.80),
    ("fit", "pythae's trainer", 0.90),
    ("fit, K = 10", "torch, K = 10", 1.10),
    ("Categorical", "dist.Categorical", 0.65),
    ("log_likelihood", "pythae's get_nll", 0.50),
)
LARGEST_SHARE = 0.6  # of the memory of dist.Categorical

Way = Callable[[], float]  # runs once and returns CPU seconds of one step


def data() -> Tensor:
    """Return binary points for `STEPS` batches, shape (N, D)."""
    return (torch.rand(STEPS * BATCH, D) < 0.2 * torch.rand(D)).float()


def timed(run: Callable[[], object], size: int) -> float:
    """Return the CPU seconds of each of `size` parts of a run."""
    start = time.process_time()
    run()
    return (time.process_time() - start) / size


def epoch(step: Callable[[Tensor], object], x: Tensor) -> Way:
    """Return the way that takes a step on each batch of an epoch."""

    def run() -> None:
        for rows in torch.randperm(len(x)).split(BATCH):
            step(x[rows])

    return lambda: timed(run, STEPS)


def fit(model: vae.VAE, x: Tensor, num_particles: int = 1) -> Way:
    """Return the way of vae.fit: its second epoch, the first one checks and warms up."""

    def run() -> float:
        ends: list[float] = []
        vae.fit(
            model, x, objective=vae.ELBO(num_particles), num_epochs=2, batch_size=BATCH,
            learning_rate=RATE, validation=x[:BATCH], patience=None, progress=False,
            callbacks=[lambda _: ends.append(time.process_time())],
        )  # fmt: skip
        return (ends[1] - ends[0]) / STEPS

    return run


def torch_loss(model: vae.VAE, x: Tensor, num_particles: int) -> Tensor:
    """Return −ELBO / B of the same networks with no Pyro, the KL by its formula."""
    loc, log_scale = model.encoder(x).chunk(2, -1)
    z = loc + log_scale.exp() * torch.randn(num_particles, *loc.shape)
    logits = model.decoder(z if num_particles > 1 else z[0])
    target = x.expand_as(logits)
    misfit = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / num_particles
    kl = 0.5 * ((2 * log_scale).exp() + loc.square() - 1 - 2 * log_scale).sum()
    return (misfit + kl) / len(x)


def by_torch(model: vae.VAE, x: Tensor, *, fused: bool, num_particles: int = 1) -> Way:
    """Return the way of plain torch."""
    model = copy.deepcopy(model)
    parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE, fused=fused or None)

    def step(batch: Tensor) -> None:
        optimizer.zero_grad()
        torch_loss(model, batch, num_particles).backward()
        optimizer.step()

    return epoch(step, x)


class Encoder(nn.Module):
    """The tutorial's, with a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.loc = nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, L)
        self.log_scale = nn.Linear(HIDDEN, L)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, shapes (B, L)."""
        hidden = self.hidden(x.reshape(-1, D)).relu()
        return self.loc(hidden), self.log_scale(hidden).exp()


class Decoder(nn.Module):
    """The tutorial's, with a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.pixels = nn.Linear(L, HIDDEN), nn.Linear(HIDDEN, D)

    def forward(self, z: Tensor) -> Tensor:
        """Return the probability of white, shape (B, D)."""
        return self.pixels(self.hidden(z).relu()).sigmoid()


def by_pyro(x: Tensor) -> Way:
    """Return the way of https://pyro.ai/examples/vae.html, Pyro's checks on as they come."""
    encoder, decoder = Encoder(), Decoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            zeros, ones = x.new_zeros(x.shape[0], L), x.new_ones(x.shape[0], L)
            z = pyro.sample("latent", dist.Normal(zeros, ones).to_event(1))
            law = dist.Bernoulli(decoder(z), validate_args=False).to_event(1)
            pyro.sample("obs", law, obs=x.reshape(-1, D))

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(*encoder(x)).to_event(1))

    return epoch(SVI(model, guide, Adam({"lr": RATE}), Trace_ELBO()).step, x)


def pythae_model() -> Any:
    """Return pythae's VAE with the tutorial's networks."""
    from pythae.models import VAE, VAEConfig  # pyright: ignore
    from pythae.models.base.base_utils import ModelOutput  # pyright: ignore
    from pythae.models.nn import BaseDecoder, BaseEncoder  # pyright: ignore

    class TheirEncoder(Encoder, BaseEncoder):
        def forward(self, x: Tensor) -> Any:
            hidden = self.hidden(x).relu()
            return ModelOutput(embedding=self.loc(hidden), log_covariance=self.log_scale(hidden))

    class TheirDecoder(Decoder, BaseDecoder):
        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=super().forward(z))

    config = VAEConfig(input_dim=(D,), latent_dim=L, reconstruction_loss="bce")
    return VAE(config, TheirEncoder(), TheirDecoder())


def by_pythae(model: Any, x: Tensor) -> Way:
    """Return the way of pythae's trainer: its loader, its step, its progress bar (not shown)."""
    from pythae.data.datasets import BaseDataset  # pyright: ignore
    from pythae.trainers import BaseTrainer, BaseTrainerConfig  # pyright: ignore

    logging.disable()
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, learning_rate=RATE,
        no_cuda=True,
    )  # fmt: skip
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=config)
    trainer.prepare_training()

    def run() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_step(epoch=1)

    return lambda: timed(run, STEPS)


def heads() -> dict[str, Callable[[], None]]:
    """Return a gradient of the 256-level head and its law, by ours and by Pyro's."""
    head, h = nn.Linear(FEATURES, LEVELS * D), torch.randn(FEW, FEATURES)
    x = torch.randint(LEVELS, (FEW, D)).float()
    ours = Categorical(LEVELS)

    def theirs(output: Tensor) -> Any:
        logits = output.unflatten(-1, (D, LEVELS))
        return dist.Categorical(logits=logits, validate_args=False).to_event(1)

    def gradient(law: Callable[[Tensor], Any]) -> None:
        head.zero_grad()
        (-law(head(h)).log_prob(x).sum()).backward()

    return {"Categorical": lambda: gradient(ours), "dist.Categorical": lambda: gradient(theirs)}


def peak(run: Callable[[], None]) -> float:
    """Return the most memory that a run takes above what there was before it, in MiB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name))


def log_p(model: vae.VAE, x: Tensor) -> Way:
    """Return the way of bounds.log_likelihood, errors and k-hat included."""
    run = lambda: bounds.log_likelihood(model, x, num_samples=SAMPLES, progress=False)  # noqa: E731
    return lambda: timed(run, len(x))


def log_p_by_pythae(model: Any, x: Tensor) -> Way:
    """Return the way of pythae's get_nll, spared the graph that it would keep."""
    run = torch.no_grad()(lambda: model.get_nll(x, n_samples=SAMPLES, batch_size=200))
    return lambda: timed(run, len(x))


def groups() -> Iterator[dict[str, Way]]:
    """Yield the ways that are to be compared, by name."""
    x, there = data(), importlib.util.find_spec("pythae") is not None
    model = vae.mlp(D, L, hidden_dims=(HIDDEN,), dtype=torch.float32, seed=0)
    theirs: Any = pythae_model() if there else None
    yield {
        "fit": fit(model, x),
        "torch, fused Adam": by_torch(model, x, fused=True),
        "torch, default Adam": by_torch(model, x, fused=False),
        "Pyro's VAE tutorial": by_pyro(x),
    } | ({"pythae's trainer": by_pythae(theirs, x)} if there else {})
    yield {
        "fit, K = 10": fit(model, x, num_particles=10),
        "torch, K = 10": by_torch(model, x, fused=True, num_particles=10),
    }
    yield {
        name: lambda run=run: min(timed(run, 1) for _ in range(3)) for name, run in heads().items()
    }
    if there:
        few, theirs = x[:IMAGES], theirs.eval()
        slow = log_p_by_pythae(theirs, few)
        yield {"log_likelihood": log_p(model, few), "pythae's get_nll": slow}


def measured(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each way in each round, the ways taken in turn after a warm-up."""
    for way in ways.values():
        way()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            spent[name].append(way())
    return spent


def report(spent: dict[str, list[float]]) -> None:
    """Print the comparisons that these times allow."""
    for ours, theirs, most in BOUNDS:
        if ours in spent and theirs in spent:
            pairs = zip(spent[ours], spent[theirs], strict=True)
            ratios = sorted(a / b for a, b in pairs)
            row(ours, theirs, [statistics.median(spent[name]) * 1e3 for name in (ours, theirs)],
                statistics.median(ratios), most)  # fmt: skip


def row(ours: str, theirs: str, values: list[float], ratio: float, most: float) -> None:
    """Print one line of the table."""
    verdict = "" if ratio <= most else "  over"
    columns = "".join(f"{value:9.2f}" for value in values)
    print(f"{ours:24}{theirs:22}{columns}{ratio:8.2f}{most:8.2f}{verdict}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="for a short run, 3")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    print(f"CPU ms a step (an image for log p), medians of {rounds} rounds")
    print(f"{'ours':24}{'theirs':22}{'ours':>9}{'theirs':>9}{'ratio':>8}{'bound':>8}")
    for ways in groups():
        report(measured(ways, rounds))
    memory = [peak(run) for run in heads().values()]
    row("Categorical, MiB", "dist.Categorical", memory, memory[0] / memory[1], LARGEST_SHARE)
    if importlib.util.find_spec("pythae") is None:
        print("pythae is not installed: its trainer and its get_nll were left out")


if __name__ == "__main__":
    main()
