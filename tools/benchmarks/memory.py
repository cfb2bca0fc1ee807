"""Memory for benchmarks: on huge pages, present, and told how much of it is."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUGE = 2 << 20
PAGE = mmap.PAGESIZE
ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only

_SMAPS = Path("/proc/self/smaps")
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_ON_HUGE = ("AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:")


def huge(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """A fresh array that starts on a huge page; untouched, so it takes no memory yet."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    region = mmap.mmap(-1, max(1, size) + HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if ADVICE is not None:
        region.madvise(ADVICE)
    raw = np.frombuffer(region, np.uint8)
    skip = -address(raw) % HUGE
    array: NDArray[Any] = raw[skip : skip + size].view(dtype).reshape(shape)
    return array


def map_file(path: Path, shape: tuple[int, ...], dtype: Any, offset: int) -> NDArray[Any]:
    """An array in a file, mapped read-only, by huge pages where the file system can."""
    with path.open("rb") as file:
        region = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if ADVICE is not None:
        region.madvise(ADVICE)
    count = int(np.prod(shape))
    return np.frombuffer(region, dtype, count, offset).reshape(shape)


def address(array: NDArray[Any]) -> int:
    """Where an array starts."""
    return int(array.ctypes.data)


def make_present(array: NDArray[Any]) -> None:
    """Bring all pages of an array in, and keep them where the system allows it.

    Some kernels take idle page cache away within seconds: a round would time the disk.
    """
    if not array.size:
        return
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    assert address(flat) == address(array), "a copy would be touched"
    # whole pages: a lock from within a huge page would split it
    start = address(flat) // PAGE * PAGE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mlock(ctypes.c_void_p(start), ctypes.c_size_t(address(flat) + flat.size - start))
    int(flat[::PAGE].sum(dtype=np.uint64))


def pages(array: NDArray[Any]) -> str:
    """What a report says of an array's pages."""
    share = on_huge_pages(address(array), array.nbytes)
    return "pages unknown" if share is None else f"{share:.0%} on huge pages"


def on_huge_pages(start: int, size: int) -> float | None:
    """Share of the resident bytes around a range that huge pages map; None if nobody tells."""
    resident = mapped = 0
    for low, high, fields in _mappings():
        if low < start + size and high > start:
            resident += fields.get("Rss:", 0)
            mapped += sum(fields.get(key, 0) for key in _ON_HUGE)
    return mapped / resident if resident else None


def _mappings() -> Iterator[tuple[int, int, dict[str, int]]]:
    if not _SMAPS.exists():
        return
    low, high, fields = 0, 0, dict[str, int]()
    for line in _SMAPS.read_text().splitlines():
        header = _HEADER.match(line)
        if header:
            yield low, high, fields
            low, high, fields = int(header[1], 16), int(header[2], 16), {}
        elif line.endswith(" kB"):
            key, value, _ = line.split()
            fields[key] = int(value)
    yield low, high, fields
