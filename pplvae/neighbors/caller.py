"""Warnings that point at the line of the caller, however deep in the package they arise."""

import sys
import warnings

_OURS = {"pplvae", "torch"}  # torch: its decorators stand between our own frames


def warn(message: str) -> None:
    """Warn at the innermost line that is neither this package's nor torch's."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
