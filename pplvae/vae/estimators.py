"""Which of Pyro's estimators would be silently wrong for a batch of points, and why.

A Pyro model does not know who runs it. The programs of a VAE look, where Pyro's validation is on,
which estimator called them, and refuse the ones whose number or gradient would not be what its
name says.

Reference:
    pyro-ppl 1.9: pyro/infer/renyi_elbo.py, reweighted_wake_sleep.py, importance.py,
    trace_mean_field_elbo.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pyro
from pyro.infer import (
    Importance,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.util import is_validation_enabled
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.subsample_messenger import SubsampleMessenger

PYRO = str(Path(pyro.__file__).parent)
SUMMING = (ReweightedWakeSleep, TraceTailAdaptive_ELBO, Importance)


def check_caller(num_points: int, *, scaled: bool, reparameterized: bool = True) -> None:
    """Refuse to run under an estimator that would be silently wrong.

    Args:
        num_points: Points in the batch.
        scaled: Whether the log densities are scaled up from a subsample.
        reparameterized: Whether the draws of the guide have a gradient.

    Raises:
        ValueError: Naming the estimator, what it does, and what to use instead.
    """
    if not is_validation_enabled():
        return
    for frame in _callers(sys._getframe(1)):
        caller = frame.f_locals.get("self")
        if frame.f_code.co_name == "vectorized_importance_weights" and num_points > 1:
            _refuse(
                "vectorized_importance_weights", "sums log weights over the points of a batch",
                "vae.bounds.log_likelihood",
            )  # fmt: skip
        if isinstance(caller, SUMMING) and num_points > 1:
            _refuse(
                type(caller).__name__, "sums log weights over the points of a batch",
                "vae.fit with vae.IWAE(K), or vae.bounds.log_likelihood",
            )  # fmt: skip
        if isinstance(caller, JitTraceMeanField_ELBO):
            _refuse("JitTraceMeanField_ELBO", "compiles anew in each step", "TraceMeanField_ELBO")
        if isinstance(caller, RenyiELBO):
            if scaled or any(map(_scales, _PYRO_STACK)):
                _refuse(
                    "RenyiELBO", "scales log weights before it averages the weights",
                    "it without a scale, and scale the loss",
                )  # fmt: skip
            if not reparameterized:
                _refuse("RenyiELBO", "has no gradient in draws without a path", "Trace_ELBO")


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield Pyro's own frames: to look into a caller's would keep what it deletes alive."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PYRO):
            yield frame
        frame = frame.f_back


def _scales(handler: object) -> bool:
    """Whether it scales log densities: a scale, or a plate with a part of its points."""
    if isinstance(handler, SubsampleMessenger):
        return handler.subsample_size != handler.size
    return isinstance(handler, ScaleMessenger)


def _refuse(name: str, what: str, instead: str) -> None:
    raise ValueError(f"the estimator must not be {name}, which {what}: use {instead}")
