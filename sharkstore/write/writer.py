"""Chunk files: filled in memory by one thread, written and made durable by another.

Encoding and the disk work at the same time, in two buffers; what a chunk says does not depend on
which of them is ahead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.checksum import crc32c
from sharkstore.errors import WriteError
from sharkstore.format.layout import HUGE_PAGE, TRAILER_BYTES
from sharkstore.write.files import reported, write_all

U8 = NDArray[np.uint8]
# one write of this size lets the file system lay out whole huge pages
WRITE_BYTES = 16 << 20
# what direct writes are multiples of, on every disk in use
DIRECT_BYTES = 4 << 10
# summed right after it was filled: with what it was made from it stays in a core's own cache
PART_BYTES = 256 << 10
BUFFERS = 2


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a chunk file: `data` is the filled part of `buffer`.

    Args:
        told: what errors call it.
        trailer: what ends the file after its last piece; None before.
    """

    path: str
    told: str
    buffer: U8
    data: U8
    first: bool
    trailer: bytes | None


class ChunkWriter:
    """Writes chunk files, one after the other. As a context manager: all are durable behind it.

    Args:
        largest: bytes of the largest chunk, trailer left out.

    Raises:
        WriteError: the disk is full or refuses; told by whatever is called next, and at the end.
    """

    def __init__(self, largest: int) -> None:
        self._free: queue.SimpleQueue[U8] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(kernels.huge_array(max(1, min(WRITE_BYTES, largest))))
        self._pieces: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._stopped = False
        self._file = -1
        self._thread = threading.Thread(target=self._write_pieces, name="chunks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._stopped = kind is not None
        self._pieces.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def chunk(self, path: str, chunk_bytes: int, told: str = "") -> Chunk:
        """A chunk file to fill; the one before must be closed.

        Args:
            chunk_bytes: of its rows, padding included.
            told: what errors call it, if not by its path.
        """
        return Chunk(self, path, chunk_bytes, told or path)

    def buffer(self) -> U8:
        """A buffer to fill, as soon as one was written."""
        taken = self._free.get()
        self._raise()
        return taken

    def write(self, piece: _Piece) -> None:
        """Hand a piece over; its buffer comes back in time."""
        self._pieces.put(piece)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _write_pieces(self) -> None:
        """What the other thread does: after an error, and when stopped, only hand buffers back."""
        while (piece := self._pieces.get()) is not None:
            if self._error is None and not self._stopped:
                try:
                    with reported(piece.told):
                        self._write(piece)
                except Exception as error:  # noqa: BLE001 - raised in the thread that fills
                    self._error = error
            self._free.put(piece.buffer)
        if self._file >= 0:
            os.close(self._file)

    def _write(self, piece: _Piece) -> None:
        if piece.first:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = os.open(piece.path, flags, 0o666)
        whole = len(piece.data) // DIRECT_BYTES * DIRECT_BYTES
        if whole >= HUGE_PAGE:
            write_directly(self._file, piece.data[:whole])
        else:
            write_all(self._file, piece.data[:whole])
        write_all(self._file, piece.data[whole:])
        if piece.trailer is None:
            return
        write_all(self._file, np.frombuffer(piece.trailer, np.uint8))
        os.fsync(self._file)
        if os.lseek(self._file, 0, os.SEEK_CUR) >= HUGE_PAGE and hasattr(os, "posix_fadvise"):
            # what was not written directly: dropped pages come back as huge ones when mapped
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        descriptor, self._file = self._file, -1
        os.close(descriptor)


def write_directly(descriptor: int, data: U8) -> None:
    """Write past the page cache where the system can: no copy, and the disk works at once.

    Args:
        data: whole pages in memory, to go to whole pages of the file.
    """
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    written = 0
    with contextlib.suppress(OSError):  # of a file system that can't; else the next write tells
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | getattr(os, "O_DIRECT", 0))
        while written < len(data):
            written += os.write(descriptor, data[written:].data)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    write_all(descriptor, data[written:])


class Chunk:
    """The bytes of one chunk file, put in from first to last; `ChunkWriter.chunk` makes it."""

    def __init__(self, writer: ChunkWriter, path: str, chunk_bytes: int, told: str) -> None:
        self._writer = writer
        self._path, self._told = path, told
        self._left = chunk_bytes
        self._buffer: U8 | None = None
        self._filled = 0
        self._first = True
        self._crc = 0

    def room(self, row_bytes: int) -> U8:
        """Room for the next rows, some at a time: uint8 (n, row bytes), to be filled in place."""
        free = self._free(row_bytes)
        rows = max(1, min(len(free), PART_BYTES) // row_bytes)
        return free[: rows * row_bytes].reshape(rows, row_bytes)

    def done(self, filled: int) -> None:
        """Take in what was filled of the room given: so many bytes."""
        assert self._buffer is not None
        if filled > self._left:
            raise WriteError("a chunk came out too long", where=self._told)
        part = self._buffer[self._filled : self._filled + filled]
        self._crc = crc32c(part, self._crc)
        self._filled += filled
        self._left -= filled

    def put(self, block: U8) -> None:
        """Take in a copy of some bytes."""
        flat = block.reshape(-1)
        while len(flat):
            size = min(len(flat), PART_BYTES)
            part = self._free(1)[:size]
            part[:] = flat[: len(part)]
            self.done(len(part))
            flat = flat[len(part) :]

    def close(self) -> int:
        """Pad the chunk with zeros and end it with its crc32c, which is returned."""
        while self._left:
            part = self._free(1)[: min(self._left, PART_BYTES)]
            part[:] = 0
            self.done(len(part))
        self._hand_over(self._crc.to_bytes(TRAILER_BYTES, "little"))
        return self._crc

    def _free(self, least: int) -> U8:
        """What is free of the buffer in use, at least so many bytes."""
        if self._buffer is not None and len(self._buffer) - self._filled < least:
            self._hand_over(None)
        if self._buffer is None:
            self._buffer = self._writer.buffer()
        return self._buffer[self._filled :]

    def _hand_over(self, trailer: bytes | None) -> None:
        buffer = self._writer.buffer() if self._buffer is None else self._buffer
        whole = self._filled
        self._buffer, self._filled = None, 0
        if trailer is None and whole > DIRECT_BYTES:
            # pieces end with a page; what is over begins the next one
            over = buffer[whole - whole % DIRECT_BYTES : whole]
            whole -= len(over)
            self._buffer, self._filled = self._writer.buffer(), len(over)
            self._buffer[: len(over)] = over
        path, told = self._path, self._told
        self._writer.write(_Piece(path, told, buffer, buffer[:whole], self._first, trailer))
        self._first = False
