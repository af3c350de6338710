"""`pplvae report`: the whole story of a data set as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from pplvae.cli.voice import DATA, Device, Progress, Seed, device_named, refusing


def report(
    data: Annotated[str, typer.Argument(help=DATA)] = "digits",
    out: Annotated[Path, typer.Option(help="Folder to write the page to.")] = Path("report"),
    latent_dim: Annotated[
        int | None,
        typer.Option(help="Latent size of the VAE; the estimated dimension if not given."),
    ] = None,
    num_components: Annotated[
        int | None, typer.Option(help="Components of the mixture; by BIC if not given.")
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(help="Of the VAE: bernoulli or gaussian; by the data if not given."),
    ] = None,
    num_epochs: Annotated[
        int | None, typer.Option(help="Most epochs of the VAE's training.")
    ] = None,
    standardize: Annotated[
        bool, typer.Option(help="Bring a table's columns to mean 0 and standard deviation 1.")
    ] = True,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Progress = True,
) -> None:
    """Find the structure of DATA and write it down as one HTML page."""
    from pplvae.data import load
    from pplvae.report import build

    with refusing():
        done = build(
            load(data), out, latent_dim=latent_dim, num_components=num_components,
            likelihood=likelihood, num_epochs=num_epochs, standardize=standardize,
            device=device_named(device), seed=seed, progress=progress,
        )  # fmt: skip
    for section in done.sections:
        typer.echo(f"{section.title}\n  {section.answer}")
    typer.echo(f"\n{done.page}")
    if done.failures:
        raise typer.Exit(1)
