"""Counts of an earlier stats file, in place of a counting pass."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError
from sharkstore.importance.totals import Totals
from sharkstore.plan.stats import Stats
from sharkstore.stats.agree import check_agreement
from sharkstore.stats.file import Path, open_stats, spans
from sharkstore.stats.inputs import checked, column, number
from sharkstore.stats.rows import RowCounts, Weights

WEIGHTS = ("alpha_positive", "alpha_negative", "beta")


class Earlier:
    """An earlier stats file.

    Raises:
        StatsError: no stats file, or one that makes no sense.
    """

    def __init__(self, path: Path) -> None:
        self._stats = open_stats(path)
        check_agreement([self._stats])

    def weights(self, given: dict[str, float | None]) -> Weights:
        """The weights of its priorities, where it has some.

        Raises:
            StatsError: others were given: priorities under different ones don't compare.
        """
        has = any(key.endswith("/priority") for key in self._stats.arrays)
        told = {name: number(self._stats, name) for name in WEIGHTS if has}
        for name, value in told.items():
            if value is not None and given[name] not in (None, value):
                remedy = "leave it out, or count anew"
                where = self._stats.where
                raise StatsError(name, where=where, got=given[name], expected=value, remedy=remedy)
        return weights_of(given | {n: float(v) for n, v in told.items() if v is not None})

    def fill(self, totals: Totals) -> None:
        """Take its counts over.

        Raises:
            StatsError: no counts of a table, of another number of rows, or that are none.
        """
        digest = hashlib.sha256()
        for name, table in totals.tables.items():
            table.counted = _counts(self._stats, name, table.rows)
            digest.update(table.counted.ids.tobytes())
            digest.update(table.counted.count.tobytes())
        totals.counted = number(self._stats, "samples") or 0
        if self._in_all(totals, "positive"):
            totals.counted_labelled = number(self._stats, "labelled") or 0
        totals.counted_priority = self._in_all(totals, "priority")
        totals.counts_from = f"sha256:{digest.hexdigest()}"

    def _in_all(self, totals: Totals, kind: str) -> bool:
        return all(f"tables/{name}/{kind}" in self._stats.arrays for name in totals.tables)


def weights_of(given: dict[str, float | None]) -> Weights:
    """Weights, with their defaults where none is given.

    Raises:
        StatsError: out of range.
    """
    return Weights(**{name: value for name, value in given.items() if value is not None})


def _counts(stats: Stats, name: str, rows: int) -> RowCounts:
    count = _column(stats, f"tables/{name}/count", rows)
    if count is None:
        raise StatsError(f"no counts of table {name!r}", where=stats.where)
    found = RowCounts()
    found.ids = np.concatenate(
        [np.flatnonzero(count[start:stop]) + start for start, stop in spans(rows)] or [found.ids]
    )
    found.count = np.array(count[found.ids])
    positive = _column(stats, f"tables/{name}/positive", rows)
    found.positive = np.zeros_like(found.count) if positive is None else positive[found.ids]
    priority = _column(stats, f"tables/{name}/priority", rows)
    priority = count if priority is None else priority
    found.priority = priority[found.ids].astype(np.float64)
    found.periods = 1
    return found


def _column(stats: Stats, key: str, rows: int) -> NDArray[np.int64] | None:
    found = column(stats, key)
    if found is None:
        return None
    if len(found) != rows:
        raise StatsError(f"{key}: wrong length", where=stats.where, got=len(found), expected=rows)
    for start, stop in spans(rows):
        checked(found[start:stop], key, stats.where, least=0, row=start)
    return found
