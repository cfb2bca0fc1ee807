"""What stats files say, which nobody checked: numbers, arrays, and that they were meant."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError
from sharkstore.plan.stats import MOST, Stats

Path = str | os.PathLike[str]
# of the metadata: digest of the counts that a file took from an earlier one
COUNTS = "counts"


def number(stats: Stats, name: str) -> float | None:
    """A number of the metadata, such as `samples`; None if it isn't there, or is none."""
    return _number(stats.metadata.get(name))


def table_numbers(stats: Stats, name: str) -> dict[str, float]:
    """Numbers by table out of the metadata, such as `uses`; none where they make no sense."""
    try:
        found = json.loads(stats.metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    numbers = {t: _number(v) for t, v in found.items()} if isinstance(found, dict) else {}
    return {table: value for table, value in numbers.items() if value is not None}


def _number(value: object) -> float | None:
    try:
        made = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    if not 0 <= made < math.inf:
        return None
    return int(made) if made.is_integer() else made


def column(stats: Stats, key: str) -> NDArray[Any] | None:
    """An array of a file that nobody checked, if it is there: its dtype and shape make sense.

    Raises:
        StatsError: not numbers, or of a shape that no such array has.
    """
    found = stats.arrays.get(key)
    if found is None:
        return None
    kind = key.rpartition("/")[2]
    axes = 2 if kind == "metric" else 1
    if found.dtype.kind not in "fiu":
        raise StatsError(f"{key}: dtype {found.dtype}", where=stats.where, expected="numbers")
    one = key.startswith("fields/")
    fits = found.size == 1 if one else found.ndim == axes and len({*found.shape}) == 1
    if not fits:
        shapes = {"metric": "(dim, dim)", "mean": "(dim,)"}
        expected = "(1,)" if one else shapes.get(kind, "(rows,)")
        raise StatsError(
            f"{key}: wrong shape", where=stats.where, got=found.shape, expected=expected
        )
    return found


def checked(values: NDArray[Any], key: str, where: str, *, least: float, row: int = 0) -> None:
    """Refuse values below `least`, and what float32 can't hold; `row` is that of the first.

    Raises:
        StatsError: naming the row.
    """
    bad = np.flatnonzero(~((values >= least) & (values <= np.float64(MOST))).reshape(-1))
    if len(bad):
        expected = "not negative, and finite in float32" if least == 0 else "finite in float32"
        value = values.reshape(-1)[bad[0]]
        raise StatsError(f"{key}: row {row + bad[0]} is {value}", where=where, expected=expected)


def distinct(paths: Sequence[Path]) -> list[str]:
    """Input files, each given once.

    Raises:
        StatsError: none, or one twice: it would count twice.
    """
    if not paths:
        raise StatsError("no files")
    seen: set[str] = set()
    for path in map(os.fsdecode, paths):
        if (real := os.path.realpath(path)) in seen:
            raise StatsError("given twice, and would count twice", where=path)
        seen.add(real)
    return [os.fsdecode(path) for path in paths]


def _with_counts(key: str, stats: Stats) -> bool:
    """Whether an array or text says something of the samples that were counted."""
    kind = key.rpartition("/")[2]
    if kind in ("positive", "labelled"):  # counted with the rows, or measured later
        return stats.metadata.get("labelled") == stats.metadata.get("samples")
    return kind in ("count", "priority", "samples")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a merge.

    Args:
        files: open stats.
        shares: what each file's sums are multiplied by.
        exact: sums of integers stay integers.
        notes: what a person should know: message -> what it is about.
    """

    files: Sequence[Stats]
    shares: Sequence[float]
    exact: bool
    notes: dict[str, list[str]] = field(default_factory=dict)

    def having(self, key: str) -> list[tuple[Stats, float, NDArray[Any]]]:
        """The files that have an array, with their shares and the array."""
        found = [(stats, share, column(stats, key)) for stats, share in self.pairs(key)]
        return [(stats, share, array) for stats, share, array in found if array is not None]

    def pairs(self, key: str = "") -> Iterator[tuple[Stats, float]]:
        """Files with their shares, for an array or a text of the metadata.

        Of files that took their counts from one, only the first, where the key goes with counts.
        """
        seen: set[str] = set()
        for stats, share in zip(self.files, self.shares, strict=True):
            source = stats.metadata.get(COUNTS)
            if source is not None and source in seen and _with_counts(key, stats):
                self.note("counts out of one file are taken once", stats.where)
                continue
            seen |= {source} if source is not None else set()
            yield stats, share

    def note(self, message: str, about: str) -> None:
        """Remember what was assumed or left out, once for each thing it is about."""
        told = self.notes.setdefault(message, [])
        if about not in told:
            told.append(about)

    def told(self) -> tuple[str, ...]:
        """The notes as sentences."""
        return tuple(
            f"{message}: {', '.join(about[:4])}" + (", …" if len(about) > 4 else "")
            for message, about in self.notes.items()
        )
