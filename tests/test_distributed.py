"""Two processes on one problem. Run as a script, this file is one of the two."""

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pplvae import distributed, vae
from pplvae.optimize import minibatches, minimize
from pplvae.randomness import generator


def train(start: float = 0.0, **options: Any) -> dict[str, list[float]]:
    """Fit a plane by least squares, a loss without noise."""
    x = torch.randn(24, 3, generator=generator(1), dtype=torch.float64)
    y = x.exp().sum(dim=1)
    w = torch.full((3,), start, dtype=torch.float64, requires_grad=True)
    settings = {"num_epochs": 10, "learning_rate": 0.1, "clip_norm": 5.0, "progress": False}
    history = minimize(
        lambda x, y: (x @ w - y).square().mean(), [w], minibatches(x, y, batch_size=8),
        validate=lambda: (x @ w - y).square().mean(), **settings | options,
    )  # fmt: skip
    return {"weights": w.tolist(), "losses": history.losses, "validation": history.validation}


def watched(*, num_rows: int, batch_size: int) -> tuple[list[list[int]], list[float]]:
    """Return the rows and the noise that this process meets in two epochs without a seed."""
    w, rows, noise = torch.zeros(1, requires_grad=True), [], []

    def loss(batch: Tensor) -> Tensor:
        rows.append(batch.tolist())
        noise.append(torch.rand(()).item())
        return w.sum()

    deal = minibatches(torch.arange(num_rows), batch_size=batch_size)
    minimize(loss, [w], deal, num_epochs=2, progress=False)
    return rows, noise


def train_unevenly() -> list[float]:
    """Train two parameters of which each process meets but one."""
    leaves = [torch.ones(2, requires_grad=True) for _ in range(2)]
    minimize(lambda: leaves[distributed.rank()].sum(), leaves, num_epochs=5, progress=False)
    return torch.cat(leaves).tolist()


def train_in_two_goes(checkpoint: Path) -> dict[str, list[float]]:
    calls = []

    def interrupt(progress: float) -> float:
        calls.append(progress)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return 1.0

    try:
        train(seed=0, checkpoint=checkpoint, checkpoint_seconds=0.0, schedule=interrupt)
    except KeyboardInterrupt:
        return train(seed=0, checkpoint=checkpoint)
    raise AssertionError("the run was to be interrupted")


def told() -> tuple[list[int], int]:
    """Let the first process, which alone has a callback, end the run after its second epoch."""
    w, heard = torch.zeros(1, requires_grad=True), list[int]()

    def ends(epoch: Any) -> bool:
        heard.append(epoch.number)
        return epoch.number == 1

    callbacks = [] if distributed.rank() else [ends]
    history = minimize(lambda: w.sum(), [w], num_epochs=5, callbacks=callbacks, progress=False)
    return heard, len(history.losses)


def train_vae(checkpoint: Path | None = None, *, last: int = 9) -> dict[str, Any]:
    """Train a VAE with batch norm, whose averages each process takes over its own rows."""
    torch.manual_seed(distributed.rank())
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model = vae.VAE(encoder, nn.Linear(2, 6), vae.Bernoulli("dynamic"), 2).double()
    x = torch.rand(61, 6, generator=generator(1), dtype=torch.float64)

    def interrupt(epoch: Any) -> None:
        if epoch.number == last:
            raise KeyboardInterrupt

    fit = vae.fit(
        model, x, objective="iwae", num_epochs=6, batch_size=20, learning_rate=0.01, seed=0,
        checkpoint=checkpoint, checkpoint_seconds=0.0, callbacks=[interrupt], progress=False,
    )  # fmt: skip
    found = {name: value.tolist() for name, value in model.state_dict().items()}
    history = fit.history
    return found | {
        "held out": fit.held_out.tolist(), "elbo": fit.elbo.value, "losses": history.losses,
        "validation": history.validation, "elbos": fit.elbos,
    }  # fmt: skip


def train_vae_in_two_goes(checkpoint: Path) -> dict[str, Any]:
    try:
        train_vae(checkpoint, last=2)
    except KeyboardInterrupt:
        return train_vae(checkpoint)
    raise AssertionError("the run was to be interrupted")


def writes(checkpoint: Path) -> bool:
    train(num_epochs=1, checkpoint=checkpoint)
    return checkpoint.exists()


def refused(**options: Any) -> str:
    try:
        minibatches(torch.zeros(4), **options)
    except ValueError as error:
        return str(error)
    return "nothing"


def work(rank: int, folder: Path) -> dict[str, Any]:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
    )
    mine = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T * (rank + 1)
    found = {
        "who": (distributed.rank(), distributed.world_size()),
        "sum": distributed.all_sum(mine),
        "first": distributed.from_first(mine),
        "mine": mine,
        "trained": train(start=float(rank), seed=0),
        "unseeded": train(),
        "watched": watched(num_rows=11, batch_size=4),
        "uneven": train_unevenly(),
        "resumed": train_in_two_goes(folder / "run"),
        "told": told(),
        "vae": train_vae(),
        "vae resumed": train_vae_in_two_goes(folder / "vae"),
        "wrote": writes(folder / f"by-{rank}"),
        "refused": refused(batch_size=1),
    }
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    commands = [[sys.executable, __file__, str(rank), str(folder)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / str(rank)) for rank in (0, 1)]


def test_alone_there_is_one_process_and_nothing_is_copied() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    x = torch.rand(3)
    assert distributed.all_sum(x) is x
    assert distributed.from_first(x) is x


def test_each_process_knows_its_number(ranks: list[dict[str, Any]]) -> None:
    assert [rank["who"] for rank in ranks] == [(0, 2), (1, 2)]


def test_sums_over_all_and_leaves_the_terms(ranks: list[dict[str, Any]]) -> None:
    for number, rank in enumerate(ranks):
        assert rank["sum"].tolist() == [[3.0, 9.0], [6.0, 12.0]]
        assert rank["first"].tolist() == [[1.0, 3.0], [2.0, 4.0]]
        assert rank["mine"].equal(rank["first"] * (number + 1))


def test_two_processes_train_to_the_weights_of_one(ranks: list[dict[str, Any]]) -> None:
    alone = train(seed=0)
    # Only the order of summation differs.
    for name, rank in product(alone, ranks):
        assert rank["trained"][name] == pytest.approx(alone[name], rel=1e-10)


def test_processes_agree_without_a_seed(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["unseeded"]["weights"] == ranks[1]["unseeded"]["weights"]
    assert ranks[0]["unseeded"]["losses"] == ranks[1]["unseeded"]["losses"]


def test_each_batch_is_dealt_in_equal_shares_of_different_rows(
    ranks: list[dict[str, Any]],
) -> None:
    ours, theirs = (rank["watched"][0] for rank in ranks)
    # 11 rows in batches of 4, 4 and 3, of which two processes can share 4, 4 and 2.
    assert [len(rows) for rows in ours] == [len(rows) for rows in theirs] == [2, 2, 1] * 2
    for epoch in (slice(0, 3), slice(3, 6)):
        assert len({row for rows in ours[epoch] + theirs[epoch] for row in rows}) == 10


def test_each_process_draws_its_own_noise(ranks: list[dict[str, Any]]) -> None:
    draws = ranks[0]["watched"][1] + ranks[1]["watched"][1]
    assert len(set(draws)) == len(draws) == 12


def test_a_parameter_that_only_one_process_meets_is_trained_on_both(
    ranks: list[dict[str, Any]],
) -> None:
    # Under a gradient that does not change Adam moves by the step size, here 5 times 1e-3.
    for rank in ranks:
        assert rank["uneven"] == pytest.approx([1 - 5e-3] * 4, rel=1e-6)


def test_an_interrupted_run_resumes_on_all_processes_to_the_same_bits(
    ranks: list[dict[str, Any]],
) -> None:
    # `trained` started rank 1 elsewhere: all start where rank 0 does.
    for rank in ranks:
        assert rank["resumed"] == rank["trained"]


def test_a_vae_is_the_same_on_all_processes(ranks: list[dict[str, Any]]) -> None:
    ours, theirs = (rank["vae"] for rank in ranks)
    assert ours == theirs
    # 55 rows to train on, in batches of 20, 20 and 15, of which the last is 7 rows for each.
    assert ours["encoder.1.num_batches_tracked"] == 6 * 3


def test_an_interrupted_vae_resumes_on_all_processes_to_the_same_bits(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        assert rank["vae resumed"] == rank["vae"]


def test_the_first_process_hears_of_the_epochs_and_ends_the_run_for_all(
    ranks: list[dict[str, Any]],
) -> None:
    assert [rank["told"] for rank in ranks] == [([0, 1], 2), ([], 2)]


def test_only_the_first_process_writes(ranks: list[dict[str, Any]]) -> None:
    assert [rank["wrote"] for rank in ranks] == [True, False]


def test_refuses_batches_smaller_than_the_number_of_processes(
    ranks: list[dict[str, Any]],
) -> None:
    assert {rank["refused"] for rank in ranks} == {"batch_size must be at least 2, got 1"}


if __name__ == "__main__":
    this, shared = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.save(work(this, shared), shared / str(this))
