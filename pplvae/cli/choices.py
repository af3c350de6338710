"""From flags to the objects they name: laws, networks, an objective."""

import math
from typing import Any

from pplvae import randomness
from pplvae.cli.units import as_modeled, range_of
from pplvae.data import Dataset
from pplvae.optimize import Schedule, constant, cosine, cyclical
from pplvae.vae import ELBO, IWAE, VAE, Objective
from pplvae.vae.builders import BUILDERS, linear
from pplvae.vae.levels import Categorical, DiscretizedLogistic, Levels
from pplvae.vae.likelihoods import LIKELIHOODS, Bernoulli, Gaussian, Likelihood
from pplvae.vae.posteriors import POSTERIORS, Posterior
from pplvae.vae.priors import PRIORS, MixtureOfGaussians, Prior, VampPrior
from pplvae.validation import check_in_range, check_one_of, check_whole

OWN_FLAGS = {
    "mlp": {"hidden_dims", "activation", "squash"},
    "linear": set[str](),
    "conv": {"hidden_dims", "activation", "channels"},
    "hierarchical": {"hidden_dims", "activation"},
}
TINY = 1e-6  # the share of a training that is none
SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine}


def likelihood(name: str | None, dataset: Dataset, **flags: Any) -> Likelihood:
    """Return the likelihood that flags describe.

    Args:
        name: One of `LIKELIHOODS`; where None, "bernoulli" of images, "gaussian" of tables.
        dataset: The data as they were stored; where a Gaussian's scale starts.
        **flags: `binarize`, `scale`, `num_levels`, `rank` and `logistics`, None where not given.

    Raises:
        ValueError: If there is no such likelihood, or a flag is another one's.
    """
    name = name or ("bernoulli" if dataset.is_image else "gaussian")
    check_one_of("likelihood", name, LIKELIHOODS)
    law = LIKELIHOODS[name]
    allowed = {
        Bernoulli: {"binarize"}, Gaussian: {"scale"}, Categorical: {"num_levels", "rank"},
        DiscretizedLogistic: {"num_levels", "logistics"},
    }.get(law, set())  # fmt: skip
    given = {flag: value for flag, value in flags.items() if value is not None}
    for flag in given.keys() - allowed:
        raise ValueError(f"{flag} must be left out for likelihood {name!r}, got {given[flag]}")
    if law is Bernoulli:
        kind = given.get("binarize", "dynamic")
        check_one_of("binarize", kind, ["dynamic", "fixed", "once"])
        return Bernoulli(None if kind == "once" else kind)
    if law is Gaussian:
        units = range_of(dataset, Gaussian())
        return _gaussian(given.get("scale", "learned"), as_modeled(dataset, Gaussian(), units))
    if law is Categorical and "rank" in given:
        given["data_dim"] = dataset.x.shape[1]
    if "logistics" in given:
        given["num_components"] = given.pop("logistics")
    return law(**given)


def _gaussian(scale: str, dataset: Dataset) -> Gaussian:
    if scale in ("learned", "predicted"):
        spread = dataset.x.std().item() if len(dataset) > 1 else 1.0
        return Gaussian(start=max(spread, 0.01), predicted=scale == "predicted")
    try:
        return Gaussian(float(scale))
    except ValueError:
        rule = "learned, predicted or a positive number"
        raise ValueError(f"scale must be {rule}, got {scale!r}") from None


def limits(law: Likelihood) -> tuple[float, float]:
    """Return the values of a pixel that is black and of one that is white."""
    return (0.0, law.num_levels - 1.0) if isinstance(law, Levels) else (0.0, 1.0)


def prior(name: str, latent_dim: int, dataset: Dataset, num_components: int | None) -> Prior:
    """Return the prior of that name; a VampPrior's pseudo-inputs start at rows of the data."""
    check_one_of("prior", name, PRIORS)
    size: dict[str, Any] = {} if num_components is None else {"num_components": num_components}
    if size and PRIORS[name] not in (MixtureOfGaussians, VampPrior):
        raise ValueError(
            f"prior_components must be left out for prior {name!r}, got {num_components}"
        )
    if PRIORS[name] is VampPrior:
        return VampPrior(latent_dim, data=dataset.x, **size)
    return PRIORS[name](latent_dim, **size)


def posterior(name: str, latent_dim: int) -> Posterior:
    """Return the posterior of that name."""
    check_one_of("posterior", name, POSTERIORS)
    return POSTERIORS[name].sized(latent_dim)


def built(
    builder: str, dataset: Dataset, latent_dims: list[int], law: Likelihood, **flags: Any
) -> VAE:
    """Return the VAE of a builder.

    Args:
        builder: "mlp", "linear", "conv" or "hierarchical".
        dataset: The data as they are modeled.
        latent_dims: The latent dimension L; for "hierarchical" L1 and L2.
        law: The likelihood.
        **flags: `prior`, `prior_components`, `posterior`, and `seed`; and the builder's own
            `hidden_dims`, `channels`, `activation` and `squash`, None where not given.

    Raises:
        ValueError: If a flag is unknown, impossible, or another builder's.
    """
    builders = {**BUILDERS, "linear": linear}
    check_one_of("builder", builder, builders)
    given, seed = _own(builder, flags), flags["seed"]
    layers = 2 if builder == "hierarchical" else 1
    if len(latent_dims) != layers:
        rule = "two numbers, L1,L2," if layers == 2 else "one number"
        raise ValueError(f"latent_dim must be {rule} for builder {builder!r}, got {latent_dims}")
    for size in latent_dims:
        check_whole("latent_dim", size, 1)
    if builder == "conv" and not dataset.is_image:
        raise ValueError(f"builder must be another for points of {dataset.shape}, got 'conv'")
    with randomness.scope(seed):
        z_prior = prior(flags["prior"], latent_dims[-1], dataset, flags["prior_components"])
        z_posterior = posterior(flags["posterior"], latent_dims[0])
    return builders[builder](
        dataset.shape if builder == "conv" else math.prod(dataset.shape),
        latent_dims if layers == 2 else latent_dims[0],
        likelihood=law, prior=z_prior, posterior=z_posterior, seed=seed, **given,
    )  # fmt: skip


def _own(builder: str, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the builder's own keywords, or refuse one that is another's."""
    names = set[str]().union(*OWN_FLAGS.values())
    given = {name: flags[name] for name in names if flags[name] is not None}
    for name in sorted(given.keys() - OWN_FLAGS[builder]):
        raise ValueError(f"{name} must be left out for builder {builder!r}, got {given[name]}")
    return given


def objective(name: str, **flags: Any) -> Objective:
    """Return the objective that flags describe.

    Args:
        name: "elbo" or "iwae".
        **flags: Keywords of `ELBO` or `IWAE`, None where not given; `kl_warmup`, the share of each
            of `kl_cycles` in which the weight of the KL rises from 0.

    Raises:
        ValueError: If there is no such objective, or a flag is impossible or another one's.
    """
    check_one_of("objective", name, ["elbo", "iwae"])
    given = {flag: value for flag, value in flags.items() if value is not None}
    if name == "iwae":
        for flag in given.keys() - {"num_particles", "gradient"}:
            raise ValueError(f"{flag} must be left out for objective 'iwae', got {given[flag]}")
        return IWAE(**given)
    rise, cycles = given.pop("kl_warmup", None), given.pop("kl_cycles", None)
    if rise is None and cycles is not None:
        raise ValueError(f"kl_cycles must come with kl_warmup, got {cycles} alone")
    if rise is not None:
        check_in_range("kl_warmup", rise, 0.0, 1.0)
        weight, shape = given.get("kl_weight", 1.0), cyclical(cycles or 1, max(rise, TINY))
        given["kl_weight"] = lambda progress: weight * shape(progress)
    return ELBO(**given)
