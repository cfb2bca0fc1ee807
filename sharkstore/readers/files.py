"""Files of a checkpoint, read by byte range.

Local files are mapped, a few at a time, and what was read is unmapped again: pages of mapped
files count as a process's memory, though they are the page cache's. `remote.py` has those behind
URLs.
"""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections import OrderedDict
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError, CheckpointNotFoundError

U8 = NDArray[np.uint8]
# bytes that are handed out before those handed out earlier are unmapped
WINDOW_BYTES = 32 << 20
# at most, of files behind URLs that are open
CACHE_BYTES = 64 << 20
# every mapping holds a file descriptor, and checkpoints have thousands of files
MOST_MAPPED = 64


class File(Protocol):
    """One file."""

    @property
    def place(self) -> str:
        """Path or URL, for messages."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, start: int, stop: int) -> U8:
        """Bytes from `start` to `stop`, which lie in the file; may be a view of a mapping.

        Raises:
            CheckpointError: they can't be read.
        """


class Files(Protocol):
    """The files of a checkpoint: all in one folder, named by their path in it."""

    @property
    def folder(self) -> str:
        """Path or URL, for messages."""

    def names(self) -> list[str]:
        """Files that lie directly in the folder, in order; none if there is no such folder."""

    def open(self, name: str) -> File:
        """Open a file, or take the one that is open.

        Raises:
            CheckpointNotFoundError: there is none.
            CheckpointError: it can't be read.
        """

    def stamp(self, name: str) -> str:
        """A text that is another one once the file was changed.

        Raises:
            CheckpointNotFoundError: there is none.
        """


class LocalFiles:
    """A folder of this machine. Threads may share it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._open: OrderedDict[str, LocalFile] = OrderedDict()
        self._lock = threading.Lock()
        self._handed: list[LocalFile] = []
        self._handed_bytes = 0

    def names(self) -> list[str]:
        """Files that lie directly in the folder, in order."""
        try:
            return sorted(entry.name for entry in os.scandir(self._path("")) if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(error, self.folder) from error

    def open(self, name: str) -> LocalFile:
        """Open a file, or take the one that is open; the one used longest ago is closed."""
        with self._lock:
            if name not in self._open:
                self._open[name] = LocalFile(self._path(name), self)
            if len(self._open) > MOST_MAPPED:
                self._open.popitem(last=False)
            self._open.move_to_end(name)
            return self._open[name]

    def stamp(self, name: str) -> str:
        """Size, and times of the last change: of its bytes, and of the file under this name."""
        try:
            found = os.stat(self._path(name))
        except OSError as error:
            raise _unreadable(error, self._path(name)) from error
        return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"

    def hand_out(self, file: LocalFile, nbytes: int) -> None:
        """Unmap what was handed out, once it is too much; then take in what comes next."""
        with self._lock:
            earlier: set[LocalFile] = set()
            if self._handed_bytes + nbytes > WINDOW_BYTES:
                earlier, self._handed_bytes = set(self._handed), 0
                self._handed = []
            self._handed.append(file)
            self._handed_bytes += nbytes
        for one in earlier:
            one.unmap()

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name) or "."


class LocalFile:
    """A mapped file."""

    def __init__(self, path: str, files: LocalFiles) -> None:
        self.place = path
        self._files = files
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise ValueError("a pipe or device, or a folder, and no file")
                self.size = found.st_size
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if self.size else None
        except (OSError, ValueError) as error:
            raise _unreadable(error, path) from error

    def read(self, start: int, stop: int) -> U8:
        """Bytes from `start` to `stop`: a view of the mapping."""
        if self._map is None:
            return np.empty(0, np.uint8)
        self._files.hand_out(self, stop - start)
        return np.frombuffer(self._map, np.uint8)[start:stop]

    def unmap(self) -> None:
        """Give the pages back; views stay good, and find them again in the page cache."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _without_waiting(path: str, flags: int) -> int:
    """Pipes wait for whoever writes to them, files don't."""
    return os.open(path, flags | os.O_NONBLOCK)


def open_files(folder: str) -> Files:
    """The files of a folder, or of what a URL names.

    Raises:
        CheckpointError: a library that the URL needs is missing, or refuses it.
    """
    if not is_url(folder):
        return LocalFiles(folder)
    from sharkstore.readers.remote import RemoteFiles

    return RemoteFiles(folder)


def is_url(place: str) -> bool:
    """Whether a place is not a path of this machine."""
    return "://" in place


def split_place(place: str) -> tuple[str, str]:
    """The folder and the name in it, of a path or a URL."""
    if not is_url(place):
        return os.path.split(place)
    folder, _, name = place.rpartition("/")
    return (f"{folder}/" if folder.endswith(":/") else folder), name


def _unreadable(
    error: OSError | ValueError, place: str
) -> CheckpointError | CheckpointNotFoundError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return CheckpointNotFoundError("no such file", where=place)
    return CheckpointError(f"can't be read: {error}", where=place)
