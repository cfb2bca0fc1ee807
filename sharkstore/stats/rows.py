"""How often rows are used, and how positively: sparse, so memory follows the rows touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

# Uses that wait before they are sorted into the rest: some times the rows there are, and of many
# rows as many, so that each use is sorted about twice however many there come to be.
FOLD, MANY = 1 << 16, 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """The constants of a row's priority (SHARK, arXiv 2308.09395, F-Quantization).

    After each period, from the row's uses c⁺ with a positive label and c⁻ with another,
    `priority ← (1 − β) · priority + β · (α⁺ c⁺ + α⁻ c⁻)`. The paper leaves the constants and
    the start open: here the first period's sum is the first priority, whatever β.

    Raises:
        StatsError: a weight is negative or not finite, or β isn't within (0, 1].
    """

    alpha_positive: float = 1.0
    alpha_negative: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha_positive", "alpha_negative"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise StatsError(f"{name} is a weight", got=value, expected="0 or more")
        if not 0 < self.beta <= 1:
            raise StatsError("beta is a share", got=self.beta, expected="above 0, at most 1")


class RowCounts:
    """Uses, positive uses and priority of the rows of one table.

    Attributes:
        ids: int64 (n,), ascending: rows used in the periods that have ended.
        count, positive: int64 (n,): their uses, and those with a positive label; float where
            they come from stats that fade.
        priority: float64 (n,).
        periods: how many have ended.
    """

    def __init__(self) -> None:
        self.ids: I64 = np.empty(0, np.int64)
        self.count, self.positive = self.ids.copy(), self.ids.copy()
        self.priority: F64 = np.empty(0, np.float64)
        self.periods = 0
        # uses of the period under way: keys 2 · id + (1 if positive), how often each, and
        # keys not yet sorted in
        self._keys, self._times = self.ids.copy(), self.ids.copy()
        self._waiting: list[I64] = []
        self._waits = 0

    def add(self, ids: NDArray[np.integer], positive: NDArray[np.bool_] | None = None) -> None:
        """Count one use of each id, int (n,), none negative; `positive` is bool (n,)."""
        keys = ids.astype(np.int64) << 1
        if positive is not None:
            keys |= positive
        self._waiting.append(keys)
        self._waits += len(keys)
        if self._waits >= max(FOLD, min(8 * len(self._keys), MANY), len(self._keys)):
            self._fold()

    def _fold(self) -> None:
        if self._waits:
            waiting = np.concatenate(self._waiting)
            self._waiting, self._waits = [], 0
            keys, times = _counted(waiting)
            del waiting
            self._keys, (self._times,) = _union((self._keys, keys), [(self._times, times)])

    def end_period(self, weights: Weights) -> None:
        """Move the uses since the last period's end into counts and priorities."""
        self._fold()
        keys, times = self._keys, self._times
        self._keys, self._times = np.empty(0, np.int64), np.empty(0, np.int64)
        owner = keys >> 1
        first = _starts(owner)
        ids, count = owner[first], _sums(times, first)
        del owner
        positive = _sums(times * (keys & 1), first)
        del keys, times, first
        worth = weights.alpha_positive * positive + weights.alpha_negative * (count - positive)
        if self.periods:
            worth *= weights.beta
            self.priority = self.priority * (1 - weights.beta)
        self.ids, (self.count, self.positive, self.priority) = _union(
            (self.ids, ids),
            [(self.count, count), (self.positive, positive), (self.priority, worth)],
        )
        self.periods += 1

    def ended(self, weights: Weights) -> RowCounts:
        """A copy whose last period has ended; itself if nothing came since."""
        self._fold()
        if not len(self._keys) and self.periods:
            return self
        copy = RowCounts.of(self.state())
        copy.end_period(weights)
        return copy

    def uses(self) -> int:
        """All uses so far."""
        return int(self.count.sum()) + int(self._times.sum()) + self._waits

    def join(self, other: RowCounts) -> None:
        """Add what another process counted in the same periods.

        Raises:
            StatsError: it has ended another number of periods.
        """
        if other.periods != self.periods:
            raise StatsError("periods differ", got=other.periods, expected=self.periods)
        self._fold()
        other._fold()
        self._keys, (self._times,) = _union(
            (self._keys, other._keys), [(self._times, other._times)]
        )
        self.ids, (self.count, self.positive, self.priority) = _union(
            (self.ids, other.ids),
            [
                (self.count, other.count),
                (self.positive, other.positive),
                (self.priority, other.priority),
            ],
        )

    def block(self, start: int, stop: int) -> tuple[I64, I64, F64]:
        """Count, positive and priority of the rows start to stop, of the periods ended."""
        low, high = np.searchsorted(self.ids, [start, stop])
        places = self.ids[low:high] - start
        count: I64 = np.zeros(stop - start, self.count.dtype)
        positive: I64 = np.zeros(stop - start, self.positive.dtype)
        priority: F64 = np.zeros(stop - start, self.priority.dtype)
        count[places], positive[places] = self.count[low:high], self.positive[low:high]
        priority[places] = self.priority[low:high]
        return count, positive, priority

    def state(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays, to be saved."""
        self._fold()
        return {
            "ids": self.ids,
            "count": self.count,
            "positive": self.positive,
            "priority": self.priority,
            "keys": self._keys,
            "times": self._times,
            "periods": np.array([self.periods], np.int64),
        }

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """What `state` gave."""
        made = cls()
        made.ids, made.count, made.positive = state["ids"], state["count"], state["positive"]
        made.priority, made.periods = state["priority"], int(state["periods"][0])
        made._keys, made._times = state["keys"], state["times"]
        return made


def _counted(keys: I64) -> tuple[I64, I64]:
    """The different keys, ascending, and how often each is there; `keys` is sorted in place."""
    if keys.max() < 4 * len(keys):
        times = np.bincount(keys)  # several times as fast as sorting, and no more memory
        found = np.flatnonzero(times)
        return found, times[found].astype(np.int64, copy=False)
    keys.sort()
    first = _starts(keys)
    return keys[first], np.diff(first, append=len(keys))


def _starts(ascending: I64) -> NDArray[np.intp]:
    """Where runs of equal values start."""
    starts = np.ones(len(ascending), np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=starts[1:])
    return np.flatnonzero(starts)


def _sums(values: NDArray[Any], starts: NDArray[np.intp]) -> NDArray[Any]:
    """Sums of the runs that start there."""
    if len(starts) == len(values):  # reduceat wants a run
        return values
    sums: NDArray[Any] = np.add.reduceat(values, starts)
    return sums


def _union(
    keys: tuple[I64, I64], values: list[tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[I64, list[NDArray[Any]]]:
    """Two ascending lists of keys in one, values of equal keys added up."""
    for side in (0, 1):
        if not len(keys[1 - side]):
            return keys[side], [pair[side] for pair in values]
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")  # two runs: linear
    joined = joined[order]
    first = _starts(joined)
    return joined[first], [_sums(np.concatenate(pair)[order], first) for pair in values]
