"""Metrics of tables, factored so that codes can be rounded in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.kernels import Factor

F64 = NDArray[np.float64]

# the mean of the diagonal times this is added to it: directions in which a metric says nothing
# are still held near
RIDGE = 1e-3
# rows of more values are measured by the diagonal: work for a row grows by the square
MOST_DIMS = 256
# the root that stands for a metric of zeros: codes as without a metric, and errors of no weight
NOTHING = 2.0**-40


def factor(metric: NDArray[np.floating[Any]], sub: int = 1) -> Factor:
    """R of P G Pᵀ = R Rᵀ, and an order P in which rounding loses little.

    Positions are given from the last to the first: to the dim, or `sub` dims of one code, that
    are least in what is left of the metric once those behind can make up for their errors; of
    equal ones to the last. Float64, elementwise: the same on every machine.

    A metric that is not positive, or of more than 256 dims, is taken by its diagonal.

    Args:
        metric: G, float32 or float64 (dim, dim), symmetric.

    Raises:
        ValueError: not a square of finite numbers.
    """
    if metric.ndim != 2 or metric.shape[0] != metric.shape[1] or not np.isfinite(metric).all():
        raise ValueError("a metric is a square of finite numbers")
    dim, whole = len(metric), ridged(metric)
    diagonal = whole.diagonal().copy()
    mean = mean_diagonal(metric)
    if not mean > 0:
        return Factor.of(np.arange(dim), np.full(dim, NOTHING, np.float32), sub)
    found = _eliminated(whole, sub, RIDGE * mean / 2) if dim <= MOST_DIMS else None
    if found is None:
        return Factor.of(np.arange(dim), np.sqrt(diagonal).astype(np.float32), sub)
    order, columns = found
    return Factor.of(order, columns[np.ix_(order, order)].astype(np.float32), sub)


def ridged(metric: NDArray[np.floating[Any]]) -> F64:
    """The symmetric part with its ridge, no value of the diagonal negative: float64 (dim, dim)."""
    whole = metric.astype(np.float64)
    whole = (whole + whole.T) * 0.5
    ridge = RIDGE * mean_diagonal(metric)
    np.fill_diagonal(whole, np.maximum(whole.diagonal(), 0.0) + ridge)
    return whole


def mean_diagonal(metric: NDArray[np.floating[Any]]) -> float:
    """The mean of what is not negative on the diagonal, added from the first to the last."""
    values = np.maximum(metric.diagonal(), 0.0).astype(np.float64)
    return float(np.add.accumulate(values)[-1]) / len(metric)


def _eliminated(left: F64, sub: int, least: float) -> tuple[NDArray[np.int64], F64] | None:
    """Order, and columns of the root by dims; None where a pivot is below `least`.

    Args:
        left: what is left of the metric (dim, dim); altered.
    """
    dim = len(left)
    columns = np.zeros_like(left)
    blocks = [range(first, min(first + sub, dim)) for first in range(0, dim, sub)]
    order: list[int] = []
    while blocks:
        diagonal = left.diagonal().tolist()
        traces = [math.fsum(diagonal[d] for d in block) for block in blocks]
        block = blocks.pop(max(i for i, trace in enumerate(traces) if trace == min(traces)))
        for d in reversed(block):
            pivot = left[d, d]
            if not pivot >= least:
                return None
            columns[:, d] = left[:, d] / np.sqrt(pivot)
            left -= left[:, d, None] * left[None, d] / pivot
            left[d] = left[:, d] = 0.0
            order.append(d)
    return np.array(order[::-1], np.int64), columns
