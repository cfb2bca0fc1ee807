"""What a few seeds can tell: means, spreads, paired differences, rank agreement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Student's t, two-sided 95 %, for 1, 2, … degrees of freedom
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
MOST_SEEDS = len(T_95) + 1


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over seeds and their sample standard deviation (n - 1)."""

    mean: float
    std: float
    seeds: int

    @property
    def beyond_noise(self) -> bool:
        """Whether 0 lies outside the 95 % t-interval of the mean."""
        margin: float = T_95[self.seeds - 2] * self.std / self.seeds**0.5
        return abs(self.mean) > margin


def spread(values: Sequence[float]) -> Spread:
    """Of at least two values."""
    return Spread(statistics.fmean(values), statistics.stdev(values), len(values))


def paired(ours: Sequence[float], others: Sequence[float]) -> Spread:
    """Of the differences ours - other, seed by seed."""
    return spread([a - b for a, b in zip(ours, others, strict=True)])


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of ranks; equal values share their mean rank. NaN if all of one are equal."""
    x, y = (_ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1, lowest first."""
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(ties, dtype=np.float64) - (ties - 1) / 2)[place]
    return ranks
