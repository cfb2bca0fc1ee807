"""Cold rows: the first batches after the page cache was dropped, and memory within a limit."""

from __future__ import annotations

import mmap
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import sharkstore
from benchmarks.answering import spelled
from benchmarks.bars import Bar
from benchmarks.check import WrongAnswerError
from benchmarks.data import F32, I64, TABLE, Source, data_at, generate
from benchmarks.progress import steps
from benchmarks.timing import figure, quiet, ratios
from sharkstore import kernels

DIM, TIERS = 64, "f32"  # the same bytes in store and checkpoint
BATCH, FIRST = 4096, 4
AUTO, MAPPED = "sharkstore, io='auto'", "sharkstore, io='mmap'"
NORMAL, RANDOM = "numpy memmap", "numpy memmap, MADV_RANDOM"
# share of the store's bytes; batches after the first pages were let go of
LIMIT, LEAST_LIMIT, MORE = 1 / 8, 64 << 20, 8
GONE = 0.01  # share of a file that may still be cached

Gather = Callable[[I64, F32], object]


@dataclass(frozen=True, slots=True)
class Cold:
    """What was measured.

    Args:
        size: bytes of the store's rows.
        batches: seconds of each of the first batches, by round, by way.
        cached: largest share of a file that was still cached when a turn began.
        limit: `max_resident` of the store that was held within a limit.
        peak: most bytes of files that it had in the page tables of this process.
        dropped: bytes that it let go of.
    """

    size: int
    batches: dict[str, list[list[float]]]
    cached: float
    limit: int
    peak: int
    dropped: int

    def seconds(self, way: str, first: int) -> list[float]:
        """Of so many first batches together, by round."""
        return [sum(turn[:first]) for turn in self.batches[way]]


def run(size: int, rounds: int, folder: Path) -> Cold:
    """Look uniform ids up in a store of a size, whose pages are on disk only, in turns."""
    source = generate(folder, max(BATCH, size // (4 * DIM)), DIM)
    path = source.store(TIERS)
    rng = np.random.default_rng(0)
    batches: dict[str, list[list[float]]] = {way: [] for way in (AUTO, MAPPED, NORMAL, RANDOM)}
    cached = 0.0
    for _ in steps(range(rounds), "cold"):
        ids = rng.integers(0, source.rows, (FIRST, BATCH))
        for way, found in batches.items():
            drop(folder)
            share, seconds = _turn(way, path, source, ids)
            cached = max(cached, share)
            found.append(seconds)
    return Cold(source.rows * DIM * 4, batches, cached, *_limited(path, source))


def drop(folder: Path) -> None:
    """Take files out of the page cache that nobody has mapped."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _turn(way: str, path: Path, source: Source, ids: I64) -> tuple[float, list[float]]:
    """Share of the pages that was cached, and seconds; what it mapped ends with it."""
    with _opened(way, path, source) as (gather, pages):
        cached, _ = kernels.resident(pages.reshape(-1).view(np.uint8))
        return cached / pages.nbytes, _first(gather, ids, source, way)


@contextmanager
def _opened(way: str, path: Path, source: Source) -> Iterator[tuple[Gather, Any]]:
    """What gathers rows, and the pages that it gathers them from."""
    if way in (AUTO, MAPPED):
        with sharkstore.open(path, io="auto" if way == AUTO else "mmap") as store:
            table = store[TABLE]
            yield table.lookup, table.stored_rows[0]
        return
    with source.checkpoint.open("rb") as file:
        region = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if way == RANDOM:
        region.madvise(mmap.MADV_RANDOM)
    values = np.frombuffer(region, np.float32, source.rows * source.dim, data_at(1))
    values = values.reshape(source.rows, source.dim)
    # mode raise, the default, would gather into a buffer first
    yield lambda ids, out: values.take(ids, axis=0, out=out, mode="clip"), values


def _first(gather: Gather, ids: I64, source: Source, way: str) -> list[float]:
    """Seconds of the first batches; their rows are looked at afterwards."""
    outs = np.zeros((*ids.shape, source.dim), np.float32)
    found = []
    with quiet():
        for some, out in zip(ids, outs, strict=True):
            begin = time.perf_counter()
            gather(some, out)
            found.append(time.perf_counter() - begin)
    if not np.array_equal(outs, source.values()[ids]):
        raise WrongAnswerError(f"{way}: other rows than the checkpoint's")
    return found


class Peak:
    """The most bytes of files in this process's page tables, beyond those before."""

    def __enter__(self) -> Self:
        self._before, self.bytes, self._over = file_bytes(), 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.0005):
            self.bytes = max(self.bytes, file_bytes() - self._before)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watcher.join()


def file_bytes() -> int:
    """Bytes of mapped files that are part of this process's RSS."""
    found = re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def _limited(path: Path, source: Source) -> tuple[int, int, int]:
    """Limit, peak and bytes let go of, of lookups in a store that starts cold."""
    size = source.rows * DIM * 4
    limit = max(LEAST_LIMIT, int(size * LIMIT))
    most = MORE + size // (BATCH * mmap.PAGESIZE)  # nothing goes where all fits into the limit
    rng, out = np.random.default_rng(1), np.empty((BATCH, DIM), np.float32)
    drop(path)
    with sharkstore.open(path, max_resident=limit) as store, Peak() as peak:
        after = 0
        for _ in steps(range(most), "within a limit"):
            store[TABLE].lookup(rng.integers(0, source.rows, BATCH), out)
            after += bool(store.stats()["resident"]["dropped"])
            if after > MORE:
                break
        dropped = store.stats()["resident"]["dropped"]
    return limit, peak.bytes, dropped


def bars(found: Cold) -> list[Bar]:
    """Over the first batches, and of the limit."""
    ours = found.seconds(AUTO, FIRST)
    what = f"cold, {found.size / 1e9:.2g} GB, first {FIRST} batches of {BATCH:,}"
    compared = [
        Bar(f"{what}: {way} / ours", figure(ratios(found.seconds(way, FIRST), ours)).median, 5)
        for way in (NORMAL, RANDOM)
    ]
    return [*compared, Bar("peak of mapped rows", found.peak / found.limit, 1.1, "of max_resident")]


def text(found: Cold) -> str:
    """The table as markdown."""
    rounds = len(found.batches[AUTO])
    share = f"At most {found.cached:.1%} of a file was cached when a turn began."
    if found.cached > GONE:
        share = f"**{share} The page cache can't be dropped here: these figures are not cold.**"
    lines = [
        f"### Cold: {found.size / 1e9:.2g} GB of float32 rows × {DIM}, uniform ids",
        "",
        (
            f"The page cache was dropped before each turn; the first {FIRST} batches of {BATCH:,} "
            f"ids, one thread, medians of {rounds} rounds in turns, all with the same ids. {share} "
            "The memmap is of the checkpoint, which has the same bytes."
        ),
        "",
        f"| | first batch | / ours | first {FIRST} batches | / ours | ids a second |",
        "|---|---|---|---|---|---|",
    ]
    for way in found.batches:
        cells = [way]
        for first in (1, FIRST):
            seconds = found.seconds(way, first)
            ratio = figure(ratios(seconds, found.seconds(AUTO, first)))
            cells += [spelled(figure(seconds).median)]
            cells += [f"{ratio.median:.3g} ±{ratio.spread / 2:.0%}"]
        cells.append(f"{FIRST * BATCH / figure(found.seconds(way, FIRST)).median:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        (
            f"`max_resident` of {found.limit / 1e6:,.0f} MB: {found.peak / 1e6:,.0f} MB of files "
            "in this process's page tables at most; "
            f"{found.dropped / 1e6:,.0f} MB were let go of."
        ),
    ]
    return "\n".join(lines)


def document(found: Cold) -> dict[str, Any]:
    """The same for machines: seconds and bytes."""
    return {
        "size": found.size,
        "batch": BATCH,
        "seconds": found.batches,
        "cached": found.cached,
        "ratios": {
            way: figure(ratios(found.seconds(way, FIRST), found.seconds(AUTO, FIRST))).median
            for way in found.batches
        },
        "max_resident": found.limit,
        "peak": found.peak,
        "dropped": found.dropped,
    }
