"""Files of a store, opened below one folder descriptor.

A store may be exchanged for a new one while it is opened. A descriptor stays with the folder
that it was opened on, so documents and chunks are always of the same store.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, NoReturn, TypeVar

from sharkstore.errors import CorruptStoreError, FormatError, StoreNotFoundError
from sharkstore.format.layout import ROOT_DOCUMENT

T = TypeVar("T")


@contextlib.contextmanager
def open_folder(root: str) -> Iterator[int]:
    """A descriptor of the store's folder.

    Raises:
        StoreNotFoundError: nothing there.
        FormatError: a file.
    """
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError as error:
        message = "not a store: a file, so there is no zarr.json in it"
        raise FormatError(message, where=root) from error
    except FileNotFoundError as error:
        raise StoreNotFoundError("no such store", where=root) from error
    except (OSError, ValueError) as error:
        raise StoreNotFoundError(f"can't be opened: {error}", where=root) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_current(root: str, read: Callable[[int], T]) -> T:
    """Read below the folder of a path; again, if it was exchanged for another meanwhile.

    Args:
        read: given the folder's descriptor.

    Raises:
        StoreNotFoundError: nothing there.
        FormatError, CorruptStoreError: as `read`.
    """
    while True:
        with open_folder(root) as folder:
            try:
                return read(folder)
            except (CorruptStoreError, FormatError):
                if is_current(root, folder):
                    raise


def is_current(root: str, folder: int) -> bool:
    """Whether a path still leads to the folder of this descriptor, or nowhere."""
    try:
        return os.path.samestat(os.stat(root), os.fstat(folder))
    except OSError:
        return True


def open_regular(folder: int, path: str) -> IO[bytes]:
    """Open a regular file below a folder for reading.

    Raises:
        OSError: it is missing, or something else; a pipe does not block.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file", path)
    return open(descriptor, "rb")


def read_document(folder: int, root: str, path: str = ROOT_DOCUMENT) -> tuple[bytes, object]:
    """A document below a store's folder, as bytes and as JSON.

    Raises:
        FormatError: it is missing, or not JSON.
    """
    try:
        with open_regular(folder, path) as file:
            raw = file.read()
    except FileNotFoundError as error:
        raise FormatError(f"not a store: no {path} in it", where=root) from error
    except OSError as error:
        raise FormatError(f"not a store: {path}: {error.strerror}", where=root) from error
    try:
        return raw, json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = f"{path} is not JSON: {error}"
        raise FormatError(message, where=root, remedy="copy or convert again") from error


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
