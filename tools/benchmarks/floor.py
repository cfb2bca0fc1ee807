"""The floor: the same bytes gathered with every address known, by a native function.

Every setting that could make it faster is tried, and the best one counts.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import memory
from benchmarks.data import F32, I64, Part, Work
from benchmarks.timing import Claim, Contender, Effort, Lane, best_of
from sharkstore.kernels import TableView, reference

SOURCE = Path(__file__).with_name("floor.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-std=c++17", "-shared", "-fPIC")
NAME, WITH_MAP = "floor", "floor with row map"
AHEAD = (64, 128)
CACHES = (1, 2)
LANES = 16  # values that vectors of every kind divide


class _Task(ctypes.Structure):
    _fields_ = (
        ("entries", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("rowmap", ctypes.c_void_p),
        ("block_bytes", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("ahead", ctypes.c_int64),
    )


def compiler() -> str:
    """The C++ compiler."""
    return os.environ.get("CXX", "c++")


def supports(view: TableView) -> bool:
    """Whether there is a floor for a table."""
    names = {tier.encoding.name for tier in view.tiers}
    return view.dim % LANES == 0 and names <= {"f32", "f16", "int8"}


@dataclass(frozen=True, slots=True)
class Setting:
    """How the floor gathers.

    Args:
        branching: on a row's tier; else it loads as much of every row.
        stream: answers go past the caches.
        ahead: rows between prefetch and use.
        cache: the level that they are prefetched into.
    """

    branching: bool
    stream: bool
    ahead: int
    cache: int

    def __str__(self) -> str:
        way = "a branch on the tier" if self.branching else "branch-free"
        stores = "streaming" if self.stream else "plain"
        return f"{way}, {stores} stores, {self.ahead} rows ahead into L{self.cache}"


class Floor:
    """The floor under a table's lookups.

    Args:
        folder: where the compiled library is kept.
    """

    def __init__(self, view: TableView, folder: Path, effort: Effort) -> None:
        self._view = view
        self._effort = effort
        self._libraries = {}
        for cache in CACHES:
            library = ctypes.CDLL(str(_build(view, folder, cache)))
            library.floor_run.restype = ctypes.c_uint64
            self._libraries[cache] = library

    def contenders(self, work: Work) -> list[Contender]:
        """The floor, and the floor with the row map's lines read, at their best settings."""
        settings = [Setting(*one) for one in product((True, False), (True, False), AHEAD, CACHES)]
        found = [self.contender(NAME, work, settings, mapped=False)]
        if self._view.rowmap is not None:
            found.append(self.contender(WITH_MAP, work, settings, mapped=True))
        return found

    def contender(
        self, name: str, work: Work, settings: Sequence[Setting], *, mapped: bool
    ) -> Contender:
        """The floor at the best of some settings; `mapped`: with the row map's lines read."""
        entries = [tuple(map(self._entries, part.ids)) for part in work.parts]

        def lanes(setting: Setting) -> tuple[Lane, ...]:
            both = zip(work.parts, entries, strict=True)
            return tuple(self._lane(part, own, setting, mapped=mapped) for part, own in both)

        variants = [
            Contender(name, lanes(setting), work.count, Claim("bytes"), str(setting))
            for setting in settings
        ]
        return best_of(variants, self._effort)

    def _entries(self, ids: I64) -> NDArray[np.uint64]:
        return entries_of(self._view, ids)

    def _lane(
        self, part: Part, entries: Sequence[NDArray[np.uint64]], setting: Setting, *, mapped: bool
    ) -> Lane:
        rowmap = self._view.rowmap if mapped else None
        tasks = [
            _Task(
                memory.address(own),
                memory.address(ids),
                None if rowmap is None else memory.address(rowmap),
                0 if rowmap is None else rowmap.shape[1],
                len(own),
                setting.ahead,
            )
            for own, ids in zip(entries, part.ids, strict=True)
        ]
        flags = (ctypes.c_int(setting.branching), ctypes.c_int(setting.stream))
        offsets = None if part.offsets is None else memory.address(part.offsets)
        rest = (ctypes.c_void_p(offsets), ctypes.c_int64(len(part.out)))
        out = ctypes.c_void_p(memory.address(part.out))
        calls = [
            partial(
                self._libraries[setting.cache].floor_run, ctypes.byref(task), *flags, *rest, out
            )
            for task in tasks
        ]
        kept = (part, entries, tasks)  # what the calls point at

        def run(index: int, _kept: object = kept) -> F32:
            calls[index]()
            return part.out

        return run


def entries_of(view: TableView, ids: I64) -> NDArray[np.uint64]:
    """Where each row lies, and its tier in the upper four bits."""
    tiers, slots = reference.resolve(view, ids)
    starts = np.array([memory.address(tier.data) for tier in view.tiers], np.uint64)
    widths = np.array([tier.data.shape[1] for tier in view.tiers], np.uint64)
    where = starts[tiers] + slots.astype(np.uint64) * widths[tiers]
    entries: NDArray[np.uint64] = where | tiers.astype(np.uint64) << np.uint64(60)
    return entries


def _build(view: TableView, folder: Path, cache: int) -> Path:
    """Compile the floor for a table, unless the same one is there."""
    rows = ",".join(str(tier.data.shape[1]) for tier in view.tiers)
    heads = ",".join(str(tier.encoding.header_bytes) for tier in view.tiers)
    defines = [f"-DDIM={view.dim}", f"-DROW_BYTES={rows}", f"-DHEAD_BYTES={heads}"]
    defines.append(f"-DCACHE={cache}")
    command = [compiler(), *FLAGS, *defines, str(SOURCE)]
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(command).encode()).hexdigest()[:16]
    library = folder / f"floor-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, "-o", str(library)], check=True)
    return library
