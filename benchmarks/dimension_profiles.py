"""The dimension of MNIST and of the Frey faces by length scale: DANCo, TwoNN and Gride together.

    .venv/bin/python benchmarks/dimension_profiles.py DATA_DIR --out DIR [--what mnist frey]

DATA_DIR holds mnist/ and frey/frey_rawface.mat. TwoNN and DANCo read random subsets of N, N/2,
N/4, … points, up to eight of each size without common points; Gride reads all points, and
neighbors 1 and 2, 2 and 4, 4 and 8, …. Leaving out every other point moves the nearest neighbors
as far off as the next two were, so each line of the table is about one length scale, in gray
levels (0 to 255) and Euclidean distance over all pixels. The length is the mean of r₁ and r₂ in a
subset (of DANCo too, though it reads eleven neighbors), and of r_n and r_2n for Gride. Beside each
estimate is its standard error, where it has one: DANCo's is from the spread over the subsets.

What the smallest subsets and the farthest neighbors say is bounded by the edge: TwoNN and Gride
fall because points of many dimensions are all edge from so far, which DANCo and the calibrated
profile correct for. Agreement down the table would be a
dimension of the data; a fall is said as "no plateau".
"""

import argparse
import math
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from pplvae import data, neighbors, plots
from pplvae.data import Dataset
from pplvae.intrinsic_dimension import danco, scales
from pplvae.intrinsic_dimension.danco import Danco
from pplvae.intrinsic_dimension.scales import Plateau, Profile
from pplvae.storage import write_atomically

WIDTH = 256  # of the neighbor graph, so that Gride's scales are as far apart as N/2, …, N/128
DATA: dict[str, Callable[[Path], Dataset]] = {
    "mnist": lambda root: data.mnist(root / "mnist"),
    "frey": lambda root: data.frey_faces(root / "frey" / "frey_rawface.mat"),
}


def of_angles(x: Tensor) -> Danco:
    """Return DANCo's estimate of points, shape (N, D)."""
    return danco.estimate(x, progress=False)


def profiles(x: Tensor) -> dict[str, Profile]:
    """Return the profile by each estimator."""
    graph = neighbors.graph(x, min(WIDTH, len(x) // 4))
    return {
        "DANCo": scales.profile(graph, of_angles, seed=0),
        "TwoNN": scales.profile(graph, "decimation", seed=0),
        "Gride": scales.profile(graph),
        "Gride, calibrated": scales.profile(graph, calibrated=True),
    }


def table(found: dict[str, Profile]) -> None:
    """Print one line for each size of subset, and what each profile says."""
    print("\n| points | r₁, r₂ | DANCo | TwoNN | n₁, n₂ | r_n₁, r_n₂ | Gride | calibrated |")
    print("|---|---|---|---|---|---|---|---|")
    by_size, by_rank = found["TwoNN"], found["Gride"]
    for i, j in zip_longest(range(len(by_size.scales)), range(len(by_rank.scales))):
        decimated, doubled = ["–"] * 4, ["–"] * 4
        if i is not None:
            decimated = [str(by_size.sizes[i].item()), f"{by_size.scales[i]:.0f}",
                         said(found["DANCo"], i), said(by_size, i)]  # fmt: skip
        if j is not None:
            n1 = int(by_rank.neighbors[j])
            both = by_rank, found["Gride, calibrated"]
            doubled = [
                f"{n1}, {2 * n1}",
                f"{by_rank.scales[j]:.0f}",
                *(said(it, j) for it in both),
            ]
        print(f"| {' | '.join(decimated + doubled)} |")
    for name, profile in found.items():
        print(f"{name}: {'; '.join(map(flat, profile.plateaus)) or 'no plateau'}")


def said(profile: Profile, i: int) -> str:
    """Return the estimate at one scale with its standard error."""
    error = profile.standard_errors[i].item()
    return f"{profile.dimensions[i]:.2f}{'' if math.isnan(error) else f' ± {error:.2f}'}"


def flat(plateau: Plateau) -> str:
    """Return a plateau in words."""
    low, high = plateau.scales
    d = f"{plateau.dimension:.1f} ± {plateau.standard_error:.1f}"
    return f"plateau at {d} from {low:.0f} to {high:.0f}"


def main() -> None:
    """Print the tables and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="where pictures go")
    parser.add_argument("--what", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--points", type=int, help="use so many only, for a short run")
    given = parser.parse_args()
    for name in given.what:
        images = DATA[name](given.data)
        x = images.x[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        found = profiles(x[: given.points])
        print(f"\n{images.name}")
        table(found)
        ax = plots.dimension_profile(found)
        ax.set(xlabel="distance between images, gray levels")
        png = plots.png(ax)
        write_atomically(
            given.out / f"{name}-dimension.png", lambda file, png=png: file.write_bytes(png)
        )


if __name__ == "__main__":
    main()
