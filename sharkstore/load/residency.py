"""What of a store is in memory: told, read ahead, and kept within a budget.

Three things are told apart. Tables in RAM are this process's own, as are the row maps and
codebooks of tables that are read from files. `mapped` are pages of chunk files
in the page tables of this process, which are part of its RSS. `cached` are pages of the files in
the system's page cache: all processes share them, and the system takes them back when it needs
memory.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import ArgumentError, DtypeError
from sharkstore.format.layout import HUGE_PAGE
from sharkstore.load import pread
from sharkstore.load.io import MIB, Choice, Io
from sharkstore.load.table import Table, table_stats

U8 = NDArray[np.uint8]
Progress = Callable[[int], object]
# bytes read between two calls of a progress function
STEP = 32 * MIB
LARGEST = (1 << 63) - 1
# below it every few ids would have to be looked up on their own
SMALLEST_BUDGET = 32 * MIB


@dataclass(frozen=True, slots=True)
class Held:
    """How a store is held.

    Args:
        io: as it was asked for.
        choices: by table.
        max_resident: bytes; None for no limit.
        owned: the system tells what of its files is cached.
    """

    io: Io | Mapping[str, Io]
    choices: Mapping[str, Choice]
    max_resident: int | None
    budget: kernels.Budget | None
    owned: bool

    def closed(self) -> Held:
        """The same without the budget, which holds arrays."""
        return dataclasses.replace(self, budget=None)


def as_limit(given: int | None) -> int | None:
    """Bytes as they were given for `max_resident`.

    Raises:
        DtypeError: not an integer.
    """
    try:
        return None if given is None else min(operator.index(given), LARGEST)
    except TypeError as error:
        message = "max_resident must be an integer, in bytes"
        raise DtypeError(message, got=repr(given)) from error


def may_tell(folder: int) -> bool:
    """Whether the system tells which pages of a store are cached: to its owner only."""
    user = os.geteuid()
    return user in (0, os.fstat(folder).st_uid)


def told(tables: Mapping[str, Table], held: Held) -> dict[str, Any]:
    """The part of `Store.stats` that is about memory and lookups."""
    each = {name: _of_table(table, held) for name, table in tables.items()}
    tiers = [tier for table in each.values() for tier in table["tiers"]]
    sums = {key: _sum(tier[key] for tier in tiers) for key in ("ram", "mapped", "cached")}
    rss = _sum([sums["ram"], sums["mapped"]])
    dropped = 0 if held.budget is None else held.budget.dropped
    return {
        "resident": {"rss": rss, **sums, "limit": held.max_resident, "dropped": dropped},
        "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt,
        "tables": each,
    }


def _of_table(table: Table, held: Held) -> dict[str, Any]:
    choice = held.choices[table.name]
    tiers = list(_of_tiers(table, choice, owned=held.owned))
    return {**table_stats(table), "io": {"held": choice.io, "why": choice.why}, "tiers": tiers}


def _of_tiers(table: Table, choice: Choice, *, owned: bool) -> Iterator[dict[str, Any]]:
    for i, (tier, stored) in enumerate(zip(table.tiers, table.stored_rows, strict=False)):
        told: dict[str, Any] = {"encoding": tier.encoding.name, "rows": tier.rows}
        told["bytes"] = tier.array.data_bytes
        if choice.io == "ram":
            yield told | {"ram": stored.nbytes, "mapped": 0, "cached": 0}
        elif choice.io == "pread":
            cached = table.files[i].cached() if owned else -1
            yield told | {"ram": 0, "mapped": 0, "cached": cached if cached >= 0 else None}
        else:
            yield told | {"ram": 0} | _resident(stored, owned=owned)


def _resident(array: U8, *, owned: bool) -> dict[str, int | None]:
    """Bytes of a mapped array's pages, `mapped` and `cached`; None where it can't be told."""
    cached, mapped = kernels.resident(array) if array.nbytes else (0, 0)
    return {
        "mapped": mapped if mapped >= 0 else None,
        "cached": cached if owned and cached >= 0 else None,
    }


def _sum(parts: Iterable[int | None]) -> int | None:
    """The sum; None if a part can't be told."""
    numbers = list(parts)
    return None if None in numbers else sum(number for number in numbers if number is not None)


def watch(
    tables: Mapping[str, Table], choices: Mapping[str, Choice], max_resident: int | None
) -> kernels.Budget | None:
    """Begin to read cold rows ahead of their use, and to let go of rows beyond the budget.

    Raises:
        ArgumentError: what is held in any case leaves too little of the budget.
    """
    mapped = [table for name, table in tables.items() if choices[name].io == "mmap"]
    budget = None
    if max_resident is not None:
        droppable = sum(stored.nbytes for table in mapped for stored in table.stored_rows)
        read = sum(files.nbytes for table in tables.values() for files in table.files)
        held = sum(table.nbytes for table in tables.values()) - droppable - read
        if max_resident < held + SMALLEST_BUDGET:
            raise ArgumentError(
                "max_resident is too small",
                got=f"{max_resident:,}",
                expected=f">= {held + SMALLEST_BUDGET:,}: row maps, codebooks, tables in RAM, "
                f"and {SMALLEST_BUDGET // MIB} MiB",
            )
        budget = kernels.Budget(max_resident - held, _coldest_first(mapped))
    for table in mapped:
        if budget is not None or choices[table.name].watched:
            _follow(table)
            table.watch(budget)
    for table in tables.values():
        if table.files:
            table.watch(None)
    return budget


def _follow(table: Table) -> None:
    """Rows are asked for as they are needed; all of the row map is, soon."""
    for stored in table.stored_rows:
        if stored.nbytes:
            kernels.advise_pages(stored, "random")
    if table.rowmap is not None:
        kernels.advise_pages(table.rowmap, "willneed")


def _coldest_first(tables: Iterable[Table]) -> list[U8]:
    """Stored rows of all tables, those of the fewest bits a value first: they are the coldest."""
    rows = [
        (stored.shape[1] / table.dim, stored) for table in tables for stored in table.stored_rows
    ]
    return [stored for _, stored in sorted(rows, key=lambda one: one[0])]


def warm(
    tables: Iterable[Table],
    held: Held,
    tiers: Iterable[str] | None,
    progress: Progress | None,
) -> int:
    """Read mapped arrays into memory, in order and with the system's read-ahead.

    Args:
        tiers: names of the encodings to read; None for all, row maps and codebooks too.
        progress: called with the bytes of each step.

    Returns:
        Bytes of what was asked for.

    Raises:
        ArgumentError: tiers as one text, or of no table.
    """
    some, tables = None if tiers is None else frozenset(names("tiers", tiers)), list(tables)
    known = {tier.encoding.name for table in tables for tier in table.tiers}
    if tables and some is not None and (unknown := sorted(some - known, key=str)):
        there = ", ".join(sorted(known))
        raise ArgumentError("no table has such a tier", got=unknown[0], expected=there)
    read = 0
    for table in tables:
        choice = held.choices[table.name]
        for files in _files(table, some):
            read += files.nbytes
            pread.read_through(files, progress)
        for array in _arrays(table, some):
            read += array.nbytes
            if choice.io == "mmap" and array.nbytes:
                _read(array, progress, choice, only_cache=held.budget is not None)
            elif progress:
                progress(array.nbytes)
        whole = some is None or some >= {tier.encoding.name for tier in table.tiers}
        if whole and (held.budget is None or choice.io == "pread"):
            table.warmed()
    return read


def names(what: str, given: Iterable[str]) -> Iterable[str]:
    """Refuse one text, which would be taken letter by letter."""
    if isinstance(given, str):
        raise ArgumentError(f"{what} must be names, not one text", got=repr(given))
    return given


def _arrays(table: Table, tiers: frozenset[str] | None) -> Sequence[U8]:
    if tiers is None:
        return table.arrays
    pairs = zip(table.tiers, table.stored_rows, strict=False)
    return [stored for tier, stored in pairs if tier.encoding.name in tiers]


def _files(table: Table, tiers: frozenset[str] | None) -> list[kernels.ChunkFiles]:
    pairs = zip(table.tiers, table.files, strict=False)
    return [files for tier, files in pairs if tiers is None or tier.encoding.name in tiers]


def _clear_scattered(step: U8) -> None:
    """Let go of a few cached pages: a single one keeps its surroundings off a huge page."""
    cached, _ = kernels.resident(step)
    if len(step) >= HUGE_PAGE and 0 < cached < len(step) // 2:
        kernels.advise_pages(step, "pageout")


def _read(array: U8, progress: Progress | None, choice: Choice, *, only_cache: bool) -> None:
    """Read an array in steps; what counts in a budget is not mapped."""
    flat = array.reshape(-1)
    kernels.advise_pages(flat, "normal")
    try:
        for start in range(0, len(flat), STEP):
            step = flat[start : start + STEP]
            _clear_scattered(step)
            if only_cache:
                kernels.advise_pages(step, "willneed")
            else:
                kernels.populate(step)
            if progress:
                progress(len(step))
    finally:
        if choice.watched or only_cache:
            kernels.advise_pages(flat, "random")
