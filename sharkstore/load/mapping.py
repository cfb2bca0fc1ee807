"""Arrays of a store, mapped: every array one range of addresses, whatever its chunk files.

Spec: "For implementers: reading".
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CorruptStoreError, OpenFilesError
from sharkstore.format.layout import HUGE_PAGE, ArraySpec
from sharkstore.kernels import huge_array, map_chunks

U8 = NDArray[np.uint8]
# bytes behind the last row that kernels may read
READ_PAST_END = 64
CACHE_LINE = 64
# addresses that are asked for at a time, for small arrays; memory is taken as they fill
ROOM = 8 << 20
REMEDY = "the store was copied in part; copy or convert it again"


def map_array(folder: int, spec: ArraySpec) -> U8:
    """Map an array's chunk files; no data page is touched.

    Args:
        folder: descriptor of the store's folder.

    Returns:
        uint8 (rows, row bytes), read-only; unmapped when the last view of it is gone.

    Raises:
        CorruptStoreError: a chunk file is missing, or has another size than it must have.
    """
    shape = (spec.rows, spec.row_bytes)
    if not spec.chunks:
        nothing = np.empty(shape, np.uint8)
        nothing.flags.writeable = False
        return nothing
    with opening(spec, "map"):
        mapped = map_chunks(folder, chunk_paths(spec), spec.chunk_bytes, spec.file_bytes)
    return mapped[: spec.data_bytes].reshape(shape)


def chunk_paths(spec: ArraySpec) -> list[bytes]:
    """Paths of an array's chunk files, from the store's root."""
    return [spec.chunk_path(index).encode() for index in range(spec.chunks)]


@contextlib.contextmanager
def opening(spec: ArraySpec, what: str) -> Iterator[None]:
    """Chunk files that can't be opened, told as errors of the store; `what` is done with them.

    Raises:
        CorruptStoreError: a chunk file is missing, or has another size than it must have.
        OpenFilesError: more files than the system lets a process have open.
    """
    try:
        yield
    except FileNotFoundError as error:
        where = str(error.filename)
        raise CorruptStoreError("chunk file missing", where=where, remedy=REMEDY) from error
    except ValueError as error:
        path, got = error.args
        raise CorruptStoreError(
            "chunk file of wrong size" if got >= 0 else "not a regular file",
            where=os.fsdecode(path),
            got=f"{got:,} bytes" if got >= 0 else None,
            expected=f"{spec.file_bytes:,}" if got >= 0 else None,
            remedy=REMEDY,
        ) from error
    except OSError as error:
        where = os.fsdecode(error.filename or spec.path)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _refuse_files(where, error)
        raise CorruptStoreError(f"can't {what}: {error.strerror}", where=where) from error


def _refuse_files(where: str, error: OSError) -> NoReturn:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise OpenFilesError(
        "too many open files; io='pread' keeps each chunk file open",
        where=where,
        expected=f"fewer than {limit:,} in this process",
        remedy="raise the limit with `ulimit -n`, or read fewer tables so",
    ) from error


class Memory:
    """Room for copies of arrays: small ones lie one behind the other on huge pages.

    Args:
        size: bytes that will be asked for, about.
    """

    def __init__(self, size: int) -> None:
        self._step = min(max(size, 1), ROOM) if size >= HUGE_PAGE else 0
        self._left: U8 = np.zeros(0, np.uint8)

    def copy_array(self, folder: int, spec: ArraySpec) -> U8:
        """What `map_array` gives, in memory of this process.

        Raises:
            CorruptStoreError: as `map_array`.
        """
        return self.fill(spec, lambda rows: np.copyto(rows, map_array(folder, spec)))

    def fill(self, spec: ArraySpec, write: Callable[[U8], object]) -> U8:
        """An array of memory, read-only after `write` wrote uint8 (rows, row bytes) to it."""
        rows = self._take(spec.data_bytes + READ_PAST_END)[: spec.data_bytes]
        rows = rows.reshape(spec.rows, spec.row_bytes)
        write(rows)
        rows.flags.writeable = False
        return rows

    def _take(self, size: int) -> U8:
        if size >= HUGE_PAGE:
            return huge_array(size)
        if not self._step:
            return np.zeros(size, np.uint8)
        room = -(-size // CACHE_LINE) * CACHE_LINE
        if room > len(self._left):
            self._left = huge_array(max(self._step, room))
        taken, self._left = self._left[:size], self._left[room:]
        return taken
