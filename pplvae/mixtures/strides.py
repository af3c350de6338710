"""Longer strides than EM's: where two steps lead if they go on as they go.

From two steps θ0 → θ1 → θ2, with r = θ1 − θ0 and v = (θ2 − θ1) − r, SQUAREM guesses

    θ' = θ0 − 2 α r + α² v,   α = −|r| / |v|,

(α = −1 is θ2 itself) in coordinates without bounds: log weights, means, log widths.

Reference:
    Varadhan & Roland (2008), Simple and globally convergent methods for accelerating the
    convergence of any EM algorithm, https://doi.org/10.1111/j.1467-9469.2007.00585.x (scheme S3).
"""

import torch
from torch import Tensor

from pplvae.mixtures.covariances import Full, Parameters

LONGEST = 100.0  # of −α: further guesses are hardly ever taken


def guess(
    form: Full, start: Parameters, first: Parameters, second: Parameters
) -> tuple[Parameters, Tensor]:
    """Return θ', and the rate ρ of each path, shape (R,)."""
    zero, one, two = (_to_free(form, part) for part in (start, first, second))
    step = one - zero
    bend = two - 2 * one + zero
    lengths = [part.norm(dim=-1, keepdim=True) for part in (step, bend, two - one)]
    alpha = (lengths[0] / lengths[1]).nan_to_num(1.0).clamp(1.0, LONGEST)
    rates = (lengths[2] / lengths[0]).nan_to_num(0.0).clamp_max(1.0).squeeze(-1)
    return _from_free(form, zero + 2 * alpha * step + alpha**2 * bend, start), rates


def _to_free(form: Full, parameters: Parameters) -> Tensor:
    """Return each mixture as a vector without bounds, shape (R, all)."""
    parts = [parameters.log_weights, parameters.locs, form.to_free(parameters.scales)]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _from_free(form: Full, free: Tensor, like: Parameters) -> Parameters:
    sizes = [part[0].numel() for part in like]
    log_weights, locs, scales = (
        part.view_as(own) for part, own in zip(free.split(sizes, dim=1), like, strict=True)
    )
    return Parameters(log_weights.log_softmax(dim=-1), locs, form.from_free(scales))


def either(rows: Tensor, one: Parameters, other: Parameters) -> Parameters:
    """Return the mixtures `one` in some rows, shape (R,), and `other` elsewhere."""
    return Parameters(
        *(
            torch.where(rows.view(-1, *[1] * (a.dim() - 1)), a, b)
            for a, b in zip(one, other, strict=True)
        )
    )
