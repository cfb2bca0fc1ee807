"""Files behind a URL (`s3://…`), read by byte range through fsspec.

Every reader asks for what it needs, so large reads become one request each. Small ones (headers,
directories of archives, rows of many column shards) are served from blocks that all files of a
checkpoint share, so memory does not grow with their number. Connections do not survive a fork:
every process opens its own files.
"""

from __future__ import annotations

import errno
import functools
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError, CheckpointNotFoundError, SharkstoreError
from sharkstore.readers.files import CACHE_BYTES

U8 = NDArray[np.uint8]
# smaller reads fetch a whole block; of column shards each read asks a little of every file, so
# blocks are small and many
BLOCK_BYTES = 512 << 10
MOST_BLOCKS = CACHE_BYTES // BLOCK_BYTES
# some file systems hold a descriptor for each
MOST_OPEN = 128
# files that are asked for one by one, before the folder is listed
FEW = 8
# compares the ETag of each answer itself: not every server knows If-Match
S3_OPTIONS = {"local_expiry_check": True}


class RemoteFiles:
    """The files directly under a URL. Threads may share it, processes may not.

    Args:
        folder: `protocol://…`, or a chain of them (`simplecache::s3://…`); credentials and
            endpoint come from where the file system's library looks for them.

    Raises:
        CheckpointError: a library is missing, or the URL is none that it knows.
    """

    def __init__(self, folder: str) -> None:
        self.folder = shown(folder)
        self._system, root = _filesystem(folder)
        self._root = root.rstrip("/")
        self._open: OrderedDict[str, RemoteFile] = OrderedDict()
        self._found: dict[str, Mapping[str, Any]] = {}
        self._listed = False
        self._lock = threading.Lock()
        self.block = functools.lru_cache(MOST_BLOCKS)(self._block)

    def names(self) -> list[str]:
        """Files that lie directly in the folder, in order; asked for anew."""
        self._listed = True
        with reaching(self.folder):
            self._system.invalidate_cache(self._root)
            try:
                entries = self._system.ls(self._root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
        found = {
            entry["name"].rpartition("/")[2]: entry
            for entry in entries
            if entry["type"] == "file" and self._is_within(entry["name"])
        }
        self._found.update({name: entry for name, entry in found.items() if _etag(entry)})
        return sorted(found)

    def open(self, name: str) -> RemoteFile:
        """Open a file, or take the one that is open; the one used longest ago is let go."""
        with self._lock:
            file = self._open.get(name)
            if file is not None:
                self._open.move_to_end(name)
                return file
        file = RemoteFile(self, name, self._look(name)["size"])
        with self._lock:
            file = self._open.setdefault(name, file)
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return file

    def stamp(self, name: str) -> str:
        """Size and ETag, or time of the last change, as first seen; reads refuse another file.

        The size alone, where a server tells no more.
        """
        return _stamp(self._look(name))

    def place(self, name: str) -> str:
        """URL of a file, for messages."""
        return f"{self.folder}{'' if self.folder.endswith('/') else '/'}{name}"

    def handle(self, name: str) -> Any:
        """A file object, which fetches what is read from it and no more."""
        path = self._path(name)
        with reaching(self.place(name)):
            # a listing of earlier would hide that the file was changed since
            self._system.invalidate_cache(path)
            handle = self._system.open(path, "rb", cache_type="none")
            # those it compares with what it reads, where it does
            found = getattr(handle, "details", {})
            found = found if _etag(found) else self._system.info(path)
        if _stamp(self._look(name)) != _stamp(found):
            raise _changed(self.place(name))
        return handle

    def _look(self, name: str) -> Mapping[str, Any]:
        """What is known of a file: a request for each of the first, then one for all."""
        if name not in self._found and len(self._found) >= FEW and not self._listed:
            with suppress(CheckpointError):  # not everybody may list a folder
                self.names()
        if name not in self._found:
            path = self._path(name)
            with reaching(self.place(name)):
                self._system.invalidate_cache(path)
                found = self._system.info(path)
                if found["type"] != "file":
                    raise FileNotFoundError
            if found["size"] is None:
                raise CheckpointError("the server does not tell its size", where=self.place(name))
            self._found[name] = found
        return self._found[name]

    def _block(self, name: str, index: int) -> U8:
        file = self.open(name)
        start = index * BLOCK_BYTES
        return file.fetch(start, min(start + BLOCK_BYTES, file.size))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _is_within(self, path: str) -> bool:
        """False for the folder itself: a file, or a placeholder of it."""
        return path.rpartition("/")[0].strip("/") == self._root.strip("/")


class RemoteFile:
    """A file behind a URL."""

    def __init__(self, files: RemoteFiles, name: str, size: int) -> None:
        self.place = files.place(name)
        self.size = size
        self._files = files
        self._name = name
        self._handle: Any = None
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> U8:
        """Bytes from `start` to `stop`: one request, or blocks that were fetched before."""
        if stop - start >= BLOCK_BYTES:
            return self.fetch(start, stop)
        parts = []
        while start < stop:
            index, skip = divmod(start, BLOCK_BYTES)
            part = self._files.block(self._name, index)[skip : skip + stop - start]
            parts.append(part)
            start += len(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)

    def fetch(self, start: int, stop: int) -> U8:
        """Bytes from `start` to `stop`, in one request."""
        with self._lock, reaching(self.place):
            if self._handle is None:
                self._handle = self._files.handle(self._name)
                weakref.finalize(self, self._handle.close)
            self._handle.seek(start)
            got = self._handle.read(stop - start)
        if len(got) != stop - start:
            raise CheckpointError(
                "ends early: was it changed while it was read?",
                where=self.place,
                got=f"{len(got):,} bytes",
                expected=f"{stop - start:,}",
            )
        return np.frombuffer(got, np.uint8)


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """What file systems raise, in sharkstore's terms; they raise whatever their libraries do.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it can't be reached, or may not be read, or was changed.
    """
    try:
        yield
    except SharkstoreError:
        raise
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such file", where=place) from error
    except ImportError as error:
        raise _missing(place, error) from error
    except PermissionError as error:
        raise CheckpointError(
            f"access refused: {_said(error)}", where=place, remedy="are the credentials right?"
        ) from error
    except Exception as error:
        if getattr(error, "errno", None) == errno.EBUSY:
            raise _changed(place) from error
        raise CheckpointError(f"can't be read: {_said(error)}", where=place) from error


def shown(url: str) -> str:
    """A URL without user and password, for messages."""
    return re.sub(r"://[^/@]*@", "://", url)


def _filesystem(url: str) -> tuple[Any, str]:
    place = shown(url)
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise _missing(place, error) from error
    protocols = {part.partition("://")[0] for part in url.split("::")}
    options = {name: dict(S3_OPTIONS) for name in ("s3", "s3a") if name in protocols}
    with reaching(place):
        system, root = url_to_fs(url, **options)
        return system, root


def _missing(place: str, error: ImportError) -> CheckpointError:
    remedy = "pip install 'sharkstore[remote]'; other protocols need fsspec's library for them"
    return CheckpointError(f"can't be read: {_said(error)}", where=place, remedy=remedy)


def _changed(place: str) -> CheckpointError:
    return CheckpointError(
        "was changed while it was read", where=place, remedy="start again from what is there now"
    )


def _said(error: Exception) -> str:
    lines = shown(str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


def _etag(found: Mapping[str, Any]) -> str:
    """Some servers quote it in one answer and not in the next."""
    return str(found.get("ETag") or found.get("etag") or "").strip('"')


def _stamp(found: Mapping[str, Any]) -> str:
    times = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")
    mark = _etag(found) or next((found[key] for key in times if found.get(key)), "")
    return f"{found['size']}-{mark}"
