"""The floor: the same bytes gathered with every address known, by a native function.

Every setting that could make it faster is tried, and the best one counts.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import memory
from benchmarks.data import I64, Part, Work
from benchmarks.timing import Claim, Contender, Effort, Lane, best_of
from sharkstore.kernels import TableView, reference

SOURCE = Path(__file__).with_name("floor.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-std=c++17", "-shared", "-fPIC")
NAME, WITH_MAP = "floor", "floor with row map"
AHEAD = (64, 96, 128, 192)
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
    constant = any(tier.encoding.name == "constant" for tier in view.tiers)
    return view.dim % LANES == 0 and not constant


class Floor:
    """The floor under a table's lookups.

    Args:
        folder: where the compiled library is kept.
    """

    def __init__(self, view: TableView, folder: Path, effort: Effort) -> None:
        self._view = view
        self._effort = effort
        self._library = ctypes.CDLL(str(_build(view, folder)))
        for function in (self._library.floor_lookup, self._library.floor_bags):
            function.restype = ctypes.c_uint64

    def contenders(self, work: Work) -> list[Contender]:
        """The floor, and the floor with the row map's lines read, at their best settings."""
        entries = [tuple(self._entries(ids) for ids in part.ids) for part in work.parts]
        found = [self._best(NAME, work, entries, mapped=False)]
        if self._view.rowmap is not None:
            found.append(self._best(WITH_MAP, work, entries, mapped=True))
        return found

    def _best(
        self, name: str, work: Work, entries: list[tuple[NDArray[np.uint64], ...]], *, mapped: bool
    ) -> Contender:
        variants = [
            Contender(
                name,
                tuple(
                    self._lane(part, own, ahead, stream=stream, mapped=mapped)
                    for part, own in zip(work.parts, entries, strict=True)
                ),
                work.count,
                Claim("bytes"),
                f"{'streaming' if stream else 'plain'} stores, {ahead} rows ahead",
            )
            for stream, ahead in product((True, False), AHEAD)
        ]
        return best_of(variants, self._effort)

    def _entries(self, ids: I64) -> NDArray[np.uint64]:
        """Where each row lies, and its tier in the upper four bits."""
        tiers, slots = reference.resolve(self._view, ids)
        starts = np.array([memory.address(tier.data) for tier in self._view.tiers], np.uint64)
        widths = np.array([tier.data.shape[1] for tier in self._view.tiers], np.uint64)
        where = starts[tiers] + slots.astype(np.uint64) * widths[tiers]
        entries: NDArray[np.uint64] = where | tiers.astype(np.uint64) << np.uint64(60)
        return entries

    def _lane(
        self,
        part: Part,
        entries: tuple[NDArray[np.uint64], ...],
        ahead: int,
        *,
        stream: bool,
        mapped: bool,
    ) -> Lane:
        rowmap = self._view.rowmap if mapped else None
        tasks = [
            _Task(
                memory.address(own),
                memory.address(ids),
                None if rowmap is None else memory.address(rowmap),
                0 if rowmap is None else rowmap.shape[1],
                len(own),
                ahead,
            )
            for own, ids in zip(entries, part.ids, strict=True)
        ]
        out = ctypes.c_void_p(memory.address(part.out))
        calls = [self._call(task, part, out, stream=stream) for task in tasks]
        kept = (entries, tasks)  # what the calls point at

        def run(index: int, _kept: object = kept) -> None:
            calls[index]()

        return run

    def _call(
        self, task: _Task, part: Part, out: ctypes.c_void_p, *, stream: bool
    ) -> Callable[[], object]:
        if part.offsets is None:
            return partial(self._library.floor_lookup, ctypes.byref(task), int(stream), out)
        offsets = ctypes.c_void_p(memory.address(part.offsets))
        count = ctypes.c_int64(len(part.out))
        function = self._library.floor_bags
        return partial(function, ctypes.byref(task), int(stream), offsets, count, out)


def _build(view: TableView, folder: Path) -> Path:
    """Compile the floor for a table, unless the same one is there."""
    rows = ",".join(str(tier.data.shape[1]) for tier in view.tiers)
    heads = ",".join(str(tier.encoding.header_bytes) for tier in view.tiers)
    defines = [f"-DDIM={view.dim}", f"-DROW_BYTES={rows}", f"-DHEAD_BYTES={heads}"]
    command = [compiler(), *FLAGS, *defines, str(SOURCE)]
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(command).encode()).hexdigest()[:16]
    library = folder / f"floor-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, "-o", str(library)], check=True)
    return library
