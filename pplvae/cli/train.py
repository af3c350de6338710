"""`pplvae vae train`: the keywords of the builders, the objectives and `vae.fit` as flags."""

from pathlib import Path
from typing import Annotated

import typer

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


def train(
    data: Annotated[str, typer.Argument(help=DATA)],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("vae"),
    builder: Annotated[str, typer.Option(help="mlp, linear, conv or hierarchical.")] = "mlp",
    latent_dim: Annotated[
        str, typer.Option(help="Latent dimension L; L1,L2 of a hierarchical VAE.")
    ] = "20",
    hidden_dims: Annotated[
        str | None, typer.Option(help="Sizes of the encoder's hidden layers, as 200,200.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Channels of a conv encoder, as 32,64.")
    ] = None,
    activation: Annotated[str | None, typer.Option(help="tanh, relu, …")] = None,
    squash: Annotated[
        bool,
        typer.Option(help="Decoder means through a sigmoid into (0, 1), for gaussian images."),
    ] = False,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help="bernoulli (default for images), continuous_bernoulli, gaussian (for tables), "
            "categorical or discretized_logistic. All but the last two have images in [0, 1]."
        ),
    ] = None,
    binarize: Annotated[
        str | None,
        typer.Option(
            help="For bernoulli: dynamic draws pixels anew whenever they are seen (the default), "
            "once draws them once, fixed cuts them at ½."
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="For gaussian: learned (default), predicted or a number."),
    ] = None,
    num_levels: Annotated[int | None, typer.Option(help="For levels of pixels; 256.")] = None,
    rank: Annotated[
        int | None, typer.Option(help="For categorical: numbers that the decoder gives a pixel.")
    ] = None,
    logistics: Annotated[
        int | None, typer.Option(help="For discretized_logistic: laws mixed in a pixel.")
    ] = None,
    prior: Annotated[
        str, typer.Option(help="standard_normal, mixture, vamp or flow.")
    ] = "standard_normal",
    prior_components: Annotated[
        int | None, typer.Option(help="Of a mixture or vamp prior.")
    ] = None,
    posterior: Annotated[str, typer.Option(help="diagonal, full or iaf.")] = "diagonal",
    objective: Annotated[str, typer.Option(help="elbo or iwae.")] = "elbo",
    num_particles: Annotated[
        int | None, typer.Option(help="Draws of z for each point: 1 for elbo, 10 for iwae.")
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(help="reparameterized; stl, score, baseline (elbo); dreg (iwae)."),
    ] = None,
    kl: Annotated[str | None, typer.Option(help="sampled or analytic.")] = None,
    kl_weight: Annotated[float | None, typer.Option(help="Factor β on the KL.")] = None,
    kl_warmup: Annotated[
        float | None, typer.Option(help="Share of the training in which β rises from 0.")
    ] = None,
    kl_cycles: Annotated[int | None, typer.Option(help="How often it does.")] = None,
    free_bits: Annotated[
        float | None, typer.Option(help="Nats that each latent dimension has for free.")
    ] = None,
    num_epochs: Annotated[int, typer.Option(help="Most passes over the data.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Points in a batch.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Adam's step size.")] = 1e-3,
    schedule: Annotated[str, typer.Option(help="Of it: constant or cosine.")] = "constant",
    clip_norm: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 100.0,
    validation: Annotated[float, typer.Option(help="Fraction of the points to hold out.")] = 0.1,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better bound before it stops; 0 for all.")
    ] = 20,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to keep the state in, and to go on from.")
    ] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Least time between two writes of it.")
    ] = 60.0,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's event files.")
    ] = None,
    fast_matmul: FastMatmul = False,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Progress = True,
) -> None:
    """Train a VAE on DATA; write it, its history, numbers and pictures to a folder.

    Pictures of an earlier run in that folder are removed.
    """
    flags = dict(locals())
    with refusing():
        from pplvae import vae
        from pplvae.cli import choices, folder, units
        from pplvae.data import load
        from pplvae.optimize import logs
        from pplvae.validation import check_one_of

        check_one_of("schedule", schedule, choices.SCHEDULES)
        stored = load(data)
        law = choices.likelihood(
            likelihood, stored, binarize=binarize, scale=scale, num_levels=num_levels, rank=rank,
            logistics=logistics,
        )  # fmt: skip
        ends = units.range_of(stored, law)
        dataset = units.as_modeled(stored, law, ends, seed)
        model = choices.built(
            builder, dataset, numbers("latent_dim", latent_dim), law,
            hidden_dims=hidden_dims and numbers("hidden_dims", hidden_dims),
            channels=channels and numbers("channels", channels), activation=activation,
            squash=squash or None,
            prior=prior, prior_components=prior_components, posterior=posterior, seed=seed,
        )  # fmt: skip
        climbed = choices.objective(
            objective, num_particles=num_particles, gradient=gradient, kl=kl, kl_weight=kl_weight,
            kl_warmup=kl_warmup, kl_cycles=kl_cycles, free_bits=free_bits,
        )  # fmt: skip
        callbacks = [logs.csv(out / "history.csv")]
        place = device_named(device)
        with matrix_products(place, fast=fast_matmul):
            fit = vae.fit(
                model.float().to(place), dataset.x, objective=climbed,
                num_epochs=num_epochs, batch_size=batch_size, learning_rate=learning_rate,
                schedule=choices.SCHEDULES[schedule], clip_norm=clip_norm, validation=validation,
                patience=patience or None, checkpoint=checkpoint,
                checkpoint_seconds=checkpoint_seconds, seed=seed, progress=progress,
                callbacks=callbacks + ([logs.tensorboard(tensorboard)] if tensorboard else []),
            )  # fmt: skip
        folder.write(out, fit, dataset, objective=climbed, seed=seed, units=ends, flags=flags)
    typer.echo(folder.said(fit))
    typer.echo(f"\n{out}")
