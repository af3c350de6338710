"""Are the values on a grid? Whole numbers, gray levels, rounded decimals.

Nearest neighbors on a grid are never nearer than a step, where estimators for continuous data look
for ever nearer ones. A column is on a grid where the gaps between its values are whole multiples
of the least one, and where few steps span it: numbers of a computer are all on some fine grid.
"""

import torch
from torch import Tensor

MOST_PLACES = 1024  # on a grid worth naming
LEAST_ROWS, MOST_ROWS, MOST_VALUES = 64, 2048, 2**22  # that are looked at
MOST_ROOM = 0.25  # between numbers that could be other than whole
ROOM = 0.05  # of a step, by which a gap may miss a whole multiple


def steps(points: Tensor) -> Tensor | None:
    """Return the step of each column that varies, where all of them are on grids, else None.

    Whole numbers have steps of 1 or more, however many places they span; but not numbers so large
    that their dtype holds no others.

    Args:
        points: Shape (N, D).
    """
    num_rows = min(max(LEAST_ROWS, MOST_VALUES // points.shape[1]), MOST_ROWS)
    some = points[:: -(-len(points) // num_rows)].double()
    some = some[:, some.amin(dim=0) < some.amax(dim=0)]
    if not some.shape[1]:
        return None
    gaps = some.sort(dim=0).values.diff(dim=0)
    found = gaps.where(gaps > 0, torch.inf).amin(dim=0)
    room = torch.finfo(points.dtype).eps * points.abs().max().item()  # between such numbers
    if room <= MOST_ROOM and (points == points.round()).all():
        return found
    multiples = gaps / found
    whole = ((multiples - multiples.round()).abs() <= ROOM).all(dim=0)
    few = gaps.sum(dim=0) <= (MOST_PLACES - 0.5) * found
    return found if (whole & few).all() else None
