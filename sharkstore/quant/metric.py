"""Metrics: what errors of a table's rows cost, as symmetric matrices (dim, dim).

Everything is computed element by element in float64, so that it comes out the same on every
machine: no BLAS, no LAPACK.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# of the mean of the diagonal, added to it: directions that samples did not show still count
RIDGE = 1e-3
# above this many values, a root is that of the diagonal
WIDEST = 256


def cholesky(metric: NDArray[np.floating]) -> F32:
    """A root L of a metric: L Lᵀ is its symmetric part with RIDGE times its mean diagonal added.

    Args:
        metric: (dim, dim).

    Returns:
        float32 (dim, dim), lower triangular. Where there is none, or dim is above WIDEST, the root
        of the diagonal instead, float32 (dim,): a negative or non-finite value counts as zero, and
        a metric of zeros has a root of zeros.
    """
    ridged = _ridged(metric)
    lower = _factor(ridged) if len(ridged) <= WIDEST and np.isfinite(ridged).all() else None
    if lower is not None:
        return lower.astype(np.float32)
    return np.sqrt(_diagonal(ridged)).astype(np.float32)


def encoding_metric(metric: NDArray[np.floating]) -> F32 | None:
    """The metric that codes are chosen in: with the ridge, its mean diagonal in [1, 2).

    Scores of product quantisation are products of float32; the scale, a power of two, keeps them
    in its range and changes no choice.

    Args:
        metric: (dim, dim).

    Returns:
        float32 (dim, dim); None, for the identity, if the metric is zero or not finite.
    """
    ridged = _ridged(metric)
    mean = _mean(_diagonal(ridged))
    if not 0 < mean < np.inf:
        return None
    with np.errstate(over="ignore"):
        scaled = np.ldexp(ridged, 1 - int(np.frexp(mean)[1])).astype(np.float32)
    return scaled if np.isfinite(scaled).all() else None


def _ridged(metric: NDArray[np.floating]) -> F64:
    """The symmetric part, in float64, with the ridge."""
    with np.errstate(all="ignore"):
        wide = metric.astype(np.float64)
        wide = (wide + wide.T) / 2
    np.fill_diagonal(wide, np.diagonal(wide) + RIDGE * _mean(_diagonal(wide)))
    return wide


def _diagonal(metric: F64) -> F64:
    values = np.diagonal(metric)
    return np.where(np.isfinite(values) & (values > 0), values, 0)


def _mean(values: F64) -> float:
    """The mean, added from the first to the last."""
    with np.errstate(over="ignore"):
        return float(np.cumsum(values)[-1] / len(values))


def _factor(metric: F64) -> F64 | None:
    """The lower triangle L of L Lᵀ, by outer products; None if a pivot is not positive."""
    left, lower = metric.copy(), np.zeros_like(metric)
    for k in range(len(left)):
        pivot = left[k, k]
        if not pivot > 0:
            return None
        column = left[k:, k] / np.sqrt(pivot)
        lower[k:, k] = column
        left[k + 1 :, k + 1 :] -= column[1:, None] * column[None, 1:]
    return lower
