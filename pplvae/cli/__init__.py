"""The command line: flags in, one public call each, a few lines out."""

import typer

from pplvae.cli import report, vae

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the structure of data: its dimension, its density, the latent variables behind it.",
)
app.command()(report.report)
app.add_typer(vae.app, name="vae")


def main() -> None:
    """Run the command line."""
    app()
