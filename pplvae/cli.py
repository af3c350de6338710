"""The command line: flags in, one public call each, a few lines out."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the structure of data: its dimension, its density, the latent variables behind it.",
)


@app.callback()
def _commands() -> None:
    pass


@app.command()
def report(
    data: Annotated[
        str,
        typer.Argument(
            help="digits, mnist:DIR, frey:FILE, cifar10:DIR (mnist:DIR:test for the test images), "
            "manifold:NAME, or a .npy, .npz, .csv or .parquet file."
        ),
    ] = "digits",
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
    device: Annotated[
        str, typer.Option(help="Where networks train: auto takes CUDA where there is one.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Start of all random draws.")] = 0,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Find the structure of DATA and write it down as one HTML page."""
    from pplvae.data import load
    from pplvae.report import build

    try:
        done = build(
            load(data), out, latent_dim=latent_dim, num_components=num_components,
            likelihood=likelihood, num_epochs=num_epochs, standardize=standardize,
            device=_device(device), seed=seed, progress=progress,
        )  # fmt: skip
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"pplvae: {error}", err=True)
        raise typer.Exit(2) from error
    for section in done.sections:
        typer.echo(f"{section.title}\n  {section.answer}")
    typer.echo(f"\n{done.page}")
    if done.failures:
        raise typer.Exit(1)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be one that torch has here, got {name!r}") from error
    return name


def main() -> None:
    """Run the command line."""
    app()
