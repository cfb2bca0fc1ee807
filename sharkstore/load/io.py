"""Which tables of a store are copied into memory, which are mapped, and which are read."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sharkstore.errors import ArgumentError
from sharkstore.format.metadata import TableMetadata
from sharkstore.load import arguments

Io = Literal["auto", "mmap", "ram", "pread"]
KNOWN = ("auto", "mmap", "ram", "pread")
MIB = 1 << 20
# Small tables are as fast mapped; copied, they are there for good, and no page of them is waited
# for. Copies are each process's own and take time to make: so few bytes of them.
SMALL_TABLE = 1 * MIB
SMALL_TABLES = 16 * MIB


@dataclass(frozen=True, slots=True)
class Choice:
    """How a table is held.

    Args:
        io: `ram`, `mmap` or `pread`.
        watched: cold rows are read ahead of their use; else the system reads as it sees fit.
        why: for people.
    """

    io: Literal["mmap", "ram", "pread"]
    watched: bool
    why: str


def choose(
    tables: Sequence[TableMetadata], io: Io | Mapping[str, Io], max_resident: int | None = None
) -> dict[str, Choice]:
    """How each table is held, by name.

    Args:
        io: of all tables; or by name or pattern, of which the name itself goes first, then the
            first pattern that fits, then `auto`.

    Raises:
        ArgumentError: another io, or a name or pattern of no table.
    """
    asked = wanted(tables, io)
    room = SMALL_TABLES if max_resident is None else min(SMALL_TABLES, max_resident // 4)
    chosen = {}
    for table in sorted(tables, key=lambda one: (one.nbytes, one.name)):
        how = asked[table.name]
        if how != "auto":
            chosen[table.name] = Choice(how, watched=how == "pread", why="asked for")
        elif table.nbytes > SMALL_TABLE:
            why = f"larger than {SMALL_TABLE // MIB} MiB"
            chosen[table.name] = Choice("mmap", watched=True, why=why)
        elif table.nbytes > room:
            why = "small tables in memory are as many as may be"
            chosen[table.name] = Choice("mmap", watched=True, why=why)
        else:
            room -= table.nbytes
            why = f"not larger than {SMALL_TABLE // MIB} MiB"
            chosen[table.name] = Choice("ram", watched=False, why=why)
    return chosen


def wanted(tables: Sequence[TableMetadata], io: Io | Mapping[str, Io]) -> dict[str, Io]:
    """What the caller asks for, by table.

    Raises:
        ArgumentError: as `choose`.
    """
    if not isinstance(io, Mapping):
        arguments.check_choice("io", io, KNOWN)
        return {table.name: io for table in tables}
    names = [table.name for table in tables]
    found: dict[str, Io] = {}
    for pattern, how in io.items():
        arguments.check_choice("io", how, KNOWN)
        if not isinstance(pattern, str):
            raise ArgumentError("io by table needs names", got=repr(pattern))
        fitting = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not fitting and pattern != "*":
            raise ArgumentError(f"io names {pattern!r}, which no table fits")
        for name in fitting:
            found.setdefault(name, how)
    return {name: io.get(name) or found.get(name, "auto") for name in names}
