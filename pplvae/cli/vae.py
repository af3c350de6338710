"""`pplvae vae train | evaluate | sample`: one set of flags, the keywords of `pplvae.vae`."""

from pathlib import Path
from typing import Annotated

import typer

from pplvae.cli.train import train
from pplvae.cli.voice import (
    DATA,
    Device,
    FastMatmul,
    Progress,
    Seed,
    device_named,
    matrix_products,
    numbers,
    refusing,
)

app = typer.Typer(no_args_is_help=True, help="Train, judge and sample variational autoencoders.")
app.command()(train)

File = Annotated[Path, typer.Option("--vae", help="The file that `train` wrote.")]
Low = Annotated[
    float | None,
    typer.Option(
        help="Number in DATA that the VAE has as 0; from numbers.json beside it if not given."
    ),
]
High = Annotated[float | None, typer.Option(help="Number that it has as 1.")]


@app.command()
def evaluate(
    data: Annotated[str, typer.Argument(help=DATA)],
    file: File,
    num_samples: Annotated[
        int | None,
        typer.Option(help="Draws of z for log p(x) of each point: 1000, or 16 chains of ais."),
    ] = None,
    proposal: Annotated[str, typer.Option(help="Their law: guide, prior or ais.")] = "guide",
    rows: Annotated[
        Path | None, typer.Option(help="Judge these rows only, as held_out.npy of `train`.")
    ] = None,
    num_points: Annotated[
        int | None, typer.Option(help="Judge only so many points, chosen at random.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
    low: Low = None,
    high: High = None,
    fast_matmul: FastMatmul = False,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Progress = True,
) -> None:
    """Say how well a VAE explains DATA: bounds on log p(x), and what its code holds.

    Images are brought to the range that the VAE models as those that it was trained on were.
    """
    with refusing():
        from pplvae import vae
        from pplvae.cli import judgment, units
        from pplvae.data import load
        from pplvae.storage import write_atomically

        ends, place = units.given(low, high), device_named(device)
        model, stored = vae.load(file).to(place), load(data)
        model.points(stored.x)  # refuses other columns before their range is looked at
        ends = ends or units.of_training(file, stored, model.likelihood)
        dataset = units.as_modeled(stored, model.likelihood, ends, seed)
        with matrix_products(place, fast=fast_matmul):
            found = judgment.judge(
                model, judgment.chosen(dataset, rows, num_points, seed), proposal=proposal,
                num_samples=num_samples, seed=seed, progress=progress,
            )  # fmt: skip
        if out is not None:
            write_atomically(out, lambda path: path.write_text(found.json()))
    typer.echo(f"{found}")


@app.command()
def sample(
    file: File,
    out: Annotated[Path, typer.Option(help="A .png picture, or a .npy array (n, D).")],
    data: Annotated[
        str | None, typer.Argument(help="Data whose images have the shape of the picture's.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Of an image, as 28,28 or 3,32,32, where there is no DATA.")
    ] = None,
    num_samples: Annotated[int, typer.Option(help="How many.")] = 100,
    columns: Annotated[int, typer.Option(help="Images in a row of the picture.")] = 10,
    noise: Annotated[
        bool, typer.Option(help="Draw x from p(x | z); its mean given z otherwise.")
    ] = False,
    low: Low = None,
    high: High = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Draw new points from a VAE: z from the prior, then x.

    An array has the units of the data that the VAE was trained on, where these are known.
    """
    with refusing():
        import numpy as np

        from pplvae import plots, vae
        from pplvae.cli import choices, units
        from pplvae.data import load
        from pplvae.storage import write_atomically
        from pplvae.validation import check_one_of

        check_one_of("out", out.suffix, [".png", ".npy"])
        ends = units.given(low, high) or units.kept(file).get("units")
        model = vae.load(file).to(device_named(device))
        size = load(data).shape if data else numbers("shape", shape or "")
        size = tuple(size or (model.recipe or {}).get("shape", ()))
        if out.suffix == ".png" and not size:
            raise ValueError("shape must be given for a picture, or DATA of that shape, got none")
        x = model.sample(num_samples, noise=noise, seed=seed).cpu()
        if out.suffix == ".npy":
            stored = units.as_stored(x, ends).numpy()
            write_atomically(out, lambda path: np.save(path, stored))
        else:
            black_white = choices.limits(model.likelihood)
            with plots.own_figures():
                ax = plots.mosaic(x, size, columns=columns, limits=black_white)
                picture = plots.png(ax)
            write_atomically(out, lambda path: path.write_bytes(picture))
    typer.echo(f"{out}")
