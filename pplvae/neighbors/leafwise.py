"""Each point's neighbors among the others, leaf by leaf.

A point's neighbors in its own leaf are near already. Their distances, computed as |a - b| from the
original rows, set its reach: no other leaf matters whose box is beyond, and in those that do, no
point whose product bounds it from beyond. The few others' distances are computed in turn, and draw
the reach in. What is left out was bounded from below, rounding included, so the answer is that of
a full sort in float64.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pplvae.neighbors.leaves import Leaves
from pplvae.neighbors.plan import plan
from pplvae.neighbors.question import Neighbors, Question
from pplvae.neighbors.selection import below, lowest, nearest, nearest_of_pairs

_SLICE = 1024  # points that look at a leaf at a time: what they see stays in a core's cache
_GAPS = 2**26  # distances between leaves and points that are held at a time
_ENOUGH = 2**15  # pairs that are worth computing distances for
_FIRST = 0.25  # of the square of the reach: the leaves within are looked at first


def search(question: Question, *, progress: bool) -> Neighbors:
    """Search for the points' neighbors among themselves."""
    bar = tqdm(desc="neighbors", disable=not progress, delay=3)
    parts = []
    with bar, _workers() as (num_workers, map_):
        [leaves] = map_(_laid_out, [question])
        bar.total = len(leaves.rows)
        factors = list(map_(leaves.factors, range(leaves.num)))
        most = min(_GAPS // len(leaves.rows), leaves.num // 4) // num_workers
        batches = torch.arange(leaves.num).split(max(1, most))
        for part in map_(partial(_found, question, leaves, factors), batches):
            parts.append(part)
            bar.update(len(part.distances))
    distances, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    places = leaves.real.nonzero().squeeze(1)
    places = places[leaves.rows[places].argsort()]
    return Neighbors(distances[places], indices[places])


@contextmanager
def _workers() -> Iterator[tuple[int, Callable[..., Any]]]:
    """Give how many threads torch may use, and a `map` over as many, each with its own work.

    Torch would share out each of many small operations, and wait for the last thread every time.
    """
    num = torch.get_num_threads()
    if num == 1:
        yield 1, map
        return
    pool, all_here = ThreadPoolExecutor(num), Barrier(num)

    def work_alone(_: int) -> None:
        torch.get_num_threads()  # before this, a thread would still take up torch's number
        torch.set_num_threads(1)
        all_here.wait()

    try:
        try:
            list(pool.map(work_alone, range(num)))
        except BaseException:
            all_here.abort()  # those that wait would wait for ever
            raise
        finally:  # torch would give one to all threads that start from now on, too
            torch.set_num_threads(num)
        yield num, pool.map
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _laid_out(question: Question) -> Leaves:
    return Leaves(question, plan(question))


def _found(question: Question, leaves: Leaves, factors: list[Tensor], batch: Tensor) -> Neighbors:
    """Return the nearest points to each place of some leaves."""
    seekers = _Seekers(question, leaves, factors, batch)
    for leaf in batch.tolist():
        seekers.start(leaf)
    seekers.look_around()
    return Neighbors(seekers.distances, seekers.indices)


class _Seekers:
    """The places of some leaves, and the nearest points to each that were found so far.

    `reach` is the square of the k-th distance, rounded up; it is below all for those who have
    nothing to look for: points with k copies in their leaf, and those at their second place. Pairs
    seen within reach are gathered until they are worth computing distances.
    """

    def __init__(
        self, question: Question, leaves: Leaves, factors: list[Tensor], batch: Tensor
    ) -> None:
        self.question, self.leaves, self.factors, self.batch = question, leaves, factors, batch
        self.places = torch.cat([leaves.places(leaf) for leaf in batch.tolist()])
        self.rows = leaves.rows[self.places]
        shape = (len(self.places), question.num_neighbors)
        self.distances = torch.empty(shape, dtype=torch.float64)
        self.indices = torch.empty(shape, dtype=torch.int64)
        self.reach = torch.empty(shape[:1], dtype=leaves.dtype)
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.num_pairs = 0
        # The fresh pages of a new tensor would cost as much as the product that goes in.
        self.room = torch.empty(_SLICE * leaves.width, dtype=leaves.dtype)

    def start(self, leaf: int) -> None:
        """Find the neighbors in a leaf of its own points."""
        places, num = self.leaves.places(leaf), self.question.num_neighbors
        rows, who = self.leaves.rows[places], places - self.places[0]
        bounds = self.leaves.seen(leaf, places) @ self.factors[leaf].T
        bounds.fill_diagonal_(torch.inf)
        values, columns = lowest(bounds, num)
        distances = self.question.distances(rows.repeat_interleave(num), rows[columns].flatten())
        distances = distances.view_as(values).masked_fill(values.isinf(), torch.inf)
        self.distances[who], self.indices[who] = nearest(distances, rows[columns], num)
        self._draw_in(who)
        done = (self.distances[who, -1] == 0) | ~self.leaves.real[places]
        self.reach[who[done]] = -torch.inf
        self._pick(bounds.scatter_(1, columns, torch.inf).T, who, leaf)

    def look_around(self) -> None:
        """Look at the other leaves within reach, the nearest first."""
        gaps = self.leaves.gaps(self.places)
        gaps[self.batch.repeat_interleave(self.leaves.width), torch.arange(gaps.shape[1])] = (
            torch.inf
        )
        for share in (_FIRST, 1):
            self._settle()
            within = gaps < share * self.reach
            for leaf in within.any(dim=1).nonzero().flatten().tolist():
                self._look(leaf, within[leaf].nonzero().squeeze(1))
            gaps.masked_fill_(within, torch.inf)
        self._settle()

    def _look(self, leaf: int, who: Tensor) -> None:
        for part in who.split(_SLICE):
            seen = self.leaves.seen(leaf, self.places[part])
            room = self.room[: self.leaves.width * len(part)].view(-1, len(part))
            self._pick(torch.mm(self.factors[leaf], seen.T, out=room), part, leaf)

    def _pick(self, bounds: Tensor, who: Tensor, leaf: int) -> None:
        """Pick the points of a leaf that are within reach, by bounds of shape (m, B)."""
        place, seeker = below(bounds, self.reach[who])
        self.pairs.append((who[seeker], self.leaves.rows[self.leaves.places(leaf)][place]))
        self.num_pairs += len(seeker)
        if self.num_pairs > _ENOUGH:
            self._settle()

    def _settle(self) -> None:
        """Compute the distances of the pairs, and keep the nearest of each."""
        if not self.num_pairs:
            return
        seekers, indices = (torch.cat(part) for part in zip(*self.pairs, strict=True))
        self.pairs, self.num_pairs = [], 0
        distances = self.question.distances(self.rows[seekers], indices)
        nearer = distances <= self.distances[seekers, -1]
        who, row = seekers[nearer].unique(return_inverse=True)
        num = self.question.num_neighbors
        self.distances[who], self.indices[who] = nearest_of_pairs(
            torch.cat([torch.arange(len(who)).repeat_interleave(num), row]),
            torch.cat([self.indices[who].flatten(), indices[nearer]]),
            torch.cat([self.distances[who].flatten(), distances[nearer]]),
            num,
        )
        self._draw_in(who)

    def _draw_in(self, who: Tensor) -> None:
        reach = self.distances[who, -1].square().to(self.reach.dtype)
        self.reach[who] = reach.nextafter(reach.new_tensor(torch.inf))
