"""Files of a store under way: documents, the lock, and the step that makes it appear."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import (
    CheckpointError,
    DestinationError,
    SharkstoreError,
    WorkerError,
    WriteError,
)
from sharkstore.format.layout import ROOT_DOCUMENT
from sharkstore.format.validate import check

AT_FDCWD = -100
RENAME_EXCHANGE = 2
ASIDE = ".old"
# in the folder of work: what its result depends on
IDENTITY = "identity.json"
JOURNAL = "journal"


def is_outside(error: BaseException) -> bool:
    """Whether a run was ended by what its inputs are not to blame for, so that its work can go on.

    A signal, lost workers, a full disk, a network that is down.
    """
    if isinstance(error, WriteError | CheckpointError):
        return isinstance(error.__cause__, OSError)
    return isinstance(error, KeyboardInterrupt | SystemExit | WorkerError)


def write_all(descriptor: int, data: NDArray[np.uint8]) -> None:
    """Write all bytes of a contiguous array to an open file."""
    view = data.data
    while view:
        view = view[os.write(descriptor, view) :]


def write_document(path: str, raw: bytes) -> None:
    """Write a small file, durably.

    Raises:
        WriteError: the disk is full or refuses.
    """
    with reported(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def reported(path: str) -> Iterator[None]:
    """Turn what the system says of a failed write into a WriteError."""
    try:
        yield
    except SharkstoreError:
        raise
    except OSError as error:
        remedy = "free some room" if error.errno == errno.ENOSPC else ""
        raise WriteError(f"can't write: {error.strerror}", where=path, remedy=remedy) from error


class Destination:
    """A store under way beside its destination, in `.<name>.partial`, locked while written.

    As a context manager: takes the lock, and removes what is under way when it is left, unless
    the run was ended from outside: what it did is taken up by the next one then.

    Attributes:
        partial: folder of what is under way.
        store: folder in it that becomes the store.
        work: folder in it for what is needed until then.

    Raises:
        DestinationError: something is at the destination, or another conversion writes it.
        WriteError: the place can't be written.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.path = os.path.abspath(path)
        self.overwrite = overwrite
        parent, name = os.path.split(self.path)
        self.partial = os.path.join(parent, f".{name}.partial")
        self.store = os.path.join(self.partial, "store")
        self.work = os.path.join(self.partial, "work")
        self._lock_path = os.path.join(parent, f".{name}.lock")
        self._lock = -1

    def check(self) -> None:
        """Refuse a destination that must not be replaced."""
        if not os.path.lexists(self.path):
            return
        if not self.overwrite:
            raise DestinationError("exists", where=self.path, remedy="--overwrite replaces a store")
        if not _is_replaceable(self.path):
            remedy = "only a store or an empty folder is ever replaced, and no other files with it"
            raise DestinationError("not a store", where=self.path, remedy=remedy)

    def __enter__(self) -> Self:
        self.check()
        parent = os.path.dirname(self.path)
        if not os.path.isdir(parent):
            raise WriteError("no such folder", where=parent, remedy="make it first")
        with reported(self.path):
            self._lock = _lock(self._lock_path, self.path)
        try:
            with reported(self.path):
                self._put_back()
                os.makedirs(self.store, exist_ok=True)
                os.makedirs(self.work, exist_ok=True)
        except BaseException:
            self._leave(stopped=True)
            raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._leave(stopped=error is not None and is_outside(error) and self._begun())

    def _begun(self) -> bool:
        """Whether anything was done that another run could take up."""
        try:
            return os.path.getsize(os.path.join(self.work, JOURNAL)) > 0
        except OSError:
            return False

    def _leave(self, *, stopped: bool) -> None:
        if not stopped:
            with contextlib.suppress(OSError):
                self._forget()
            shutil.rmtree(self.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(self._lock_path)
        os.close(self._lock)

    def _put_back(self) -> None:
        """Put a store back that a run was about to replace when it was killed."""
        aside = self.partial + ASIDE
        if os.path.isdir(aside) and not os.path.lexists(self.path):
            os.rename(aside, self.path)  # killed between two renames of `_exchange`
            self.check()
        shutil.rmtree(aside, ignore_errors=True)

    def clear(self) -> None:
        """Remove what is under way.

        Raises:
            WriteError: it can't be removed.
        """
        with reported(self.partial):
            self._forget()
            for folder in (self.work, self.store):
                shutil.rmtree(folder, ignore_errors=True)
                os.mkdir(folder)

    def _forget(self) -> None:
        """Let nobody take up what is under way, of which parts will be missing in a moment."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.work, IDENTITY))

    def commit(self) -> None:
        """Make the store appear at the destination, in one step."""
        self.check()
        with reported(self.path):
            self._forget()
            shutil.rmtree(self.work)
            _sync_folders(self.store)
            if os.path.lexists(self.path):
                _exchange(self.store, self.path)
            else:
                os.rename(self.store, self.path)
            sync_folder(os.path.dirname(self.path))


def _is_replaceable(path: str) -> bool:
    """Whether a path is an empty folder, or a store with no other files in it."""
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    if not os.listdir(path):
        return True
    try:
        with open(os.path.join(path, ROOT_DOCUMENT), "rb") as file:
            document = json.load(file)
        metadata, _ = check(document)
    except (OSError, ValueError, RecursionError):
        return False
    if metadata is None:
        return False
    known = {f"{node}/{ROOT_DOCUMENT}" for node in document["consolidated_metadata"]["metadata"]}
    known.add(ROOT_DOCUMENT)
    for array in metadata.arrays:
        known.update(array.chunk_path(index) for index in range(array.chunks))
    return all(
        os.path.relpath(os.path.join(folder, name), path) in known
        for folder, _, names in os.walk(path)
        for name in names
    )


def _lock(lock_path: str, destination: str) -> int:
    """Take the lock file; it goes away with its holder's last step or process."""
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            message = "another conversion is writing this store"
            raise DestinationError(message, where=destination) from error
        # the file may have been removed by its last holder between open and lock
        with contextlib.suppress(FileNotFoundError):
            if os.stat(lock_path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _exchange(partial: str, path: str) -> None:
    """Swap the new store with the old one at `path`: in one step where the system can.

    Elsewhere there is a moment without a store, and a run killed then leaves the old one aside
    for the next to put back. What was there ends up under `partial`, which the caller removes.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    names = os.fsencode(partial), os.fsencode(path)
    if swap and swap(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return
    aside = os.path.dirname(partial) + ASIDE
    os.rename(path, aside)
    os.rename(partial, path)
    os.rename(aside, partial)


def _sync_folders(top: str) -> None:
    for folder, _, _ in os.walk(top):
        sync_folder(folder)


def sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
