"""Rows that are read from chunk files as they are needed: nothing of them is mapped or held.

For tables whose rows must not count in a process's memory, and for files that may be cut short
under a reader: a page that is gone ends a process that has mapped it, and is an error here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import numpy as np

import sharkstore.kernels as kernels
from sharkstore.errors import CorruptStoreError
from sharkstore.format.layout import ArraySpec
from sharkstore.load.mapping import REMEDY, U8, Memory, chunk_paths, opening

# bytes read at a time by `read_through`
STEP = 4 << 20


def open_array(folder: int, spec: ArraySpec) -> kernels.ChunkFiles:
    """Open an array's chunk files, to be closed when the last holder lets go.

    Args:
        folder: descriptor of the store's folder.

    Raises:
        as `opening`.
    """
    sizes = spec.data_bytes if spec.chunks else 0, spec.chunk_bytes or 1, spec.file_bytes
    with opening(spec, "open"):
        return kernels.ChunkFiles(folder, chunk_paths(spec), *sizes)


def copy_array(folder: int, spec: ArraySpec, memory: Memory) -> U8:
    """An array's bytes in memory, read and not mapped: uint8 (rows, row bytes), read-only.

    Raises:
        as `open_array` and `read`.
    """
    files = open_array(folder, spec)
    return memory.fill(spec, lambda rows: read(files, 0, rows))


def read(files: kernels.ChunkFiles, at: int, out: U8) -> None:
    """Read bytes of an array from `at` on.

    Raises:
        CorruptStoreError: a chunk file can't be read, or is too short.
    """
    try:
        files.read(at, out.reshape(-1))
    except ValueError as error:
        refuse_unread(*error.args)


def read_through(files: kernels.ChunkFiles, progress: Callable[[int], object] | None) -> None:
    """Read an array into the page cache, in order.

    Args:
        progress: called with the bytes of each step.

    Raises:
        as `read`.
    """
    room = np.empty(min(STEP, files.nbytes), np.uint8)
    for at in range(0, files.nbytes, STEP):
        files.ask(at, 2 * STEP)  # what is next is read while this is
        step = room[: files.nbytes - at]
        read(files, at, step)
        if progress:
            progress(len(step))


def refuse_unread(path: bytes, code: int) -> NoReturn:
    """Refuse rows that could not be read.

    Args:
        path: of the chunk file, from the store's root; empty where memory was missing.
        code: as errno has it; 0 where the file ends before the row.

    Raises:
        CorruptStoreError: naming the chunk file, and so the table.
        MemoryError: no room for the rows.
    """
    if not path:
        raise MemoryError("no room for the rows of a lookup")
    what = f"can't read: {os.strerror(code)}" if code else "chunk file cut short while it is open"
    raise CorruptStoreError(what, where=os.fsdecode(path), remedy=REMEDY)
