"""What is done of a conversion, so that the next run can take it up.

One line for each finished task: a checksum, its name, a tab, its result in JSON. A line that was
cut off by a crash, and what would follow it, counts as never written.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from sharkstore.checksum import crc32c
from sharkstore.write.files import (
    IDENTITY,
    JOURNAL,
    Destination,
    reported,
    sync_folder,
    write_all,
    write_document,
)

# names of what is kept: files, with their sizes
FILE = "file "
# folders of one run only
RUN = "run-"


class Journal:
    """The finished tasks of a conversion, and the folders in which it goes on.

    Args:
        place: its destination, locked.
        identity: what the result depends on, JSON; work for another one is not taken up. None:
            never take anything up.

    Attributes:
        folder: for files that are needed until the store is whole.
        scratch: for files that are needed during this run only.
        store: the folder that becomes the store.
        changed: what differed from an earlier run, whose work was removed therefore.

    Raises:
        WriteError: the disk is full or refuses.
    """

    def __init__(self, place: Destination, identity: Mapping[str, Any] | None) -> None:
        self.store, self.folder = place.store, place.work
        with reported(place.work):
            # first of all: processes that a killed run left behind can't write from then on
            for entry in os.scandir(place.work):
                if entry.name.startswith(RUN):
                    shutil.rmtree(entry.path)
            earlier = _earlier(place.work)
            self.changed: tuple[str, ...] = ()
            if identity is None or earlier != identity or not _is_whole(place.work):
                place.clear()
                self.changed = _changed(earlier, identity)
                write_document(os.path.join(place.work, IDENTITY), json.dumps(identity).encode())
            self.scratch = os.path.join(place.work, RUN + uuid.uuid4().hex)
            os.mkdir(self.scratch)
            path = os.path.join(place.work, JOURNAL)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._done, good = _read(path)
            os.ftruncate(self._file, good)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        os.close(self._file)

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._done[name])

    def add(self, name: str, result: Any) -> None:
        """Take in what a task came to, as JSON has it. What it wrote must be durable already."""
        text = json.dumps(result, separators=(",", ":")).encode()
        entry = b"%s\t%s" % (name.encode(), text)
        line = b"%08x %s\n" % (_crc(entry), entry)
        with reported(self.folder):
            write_all(self._file, np.frombuffer(line, np.uint8))
        self._done[name] = text

    def keep(self, path: str) -> None:
        """Take in a file of the folder, whole and durable: without it the rest is of no use."""
        name = FILE + os.path.relpath(path, self.folder)
        if name not in self._done:
            with reported(path):
                sync_folder(os.path.dirname(path))
                self.add(name, os.path.getsize(path))


def _read(path: str) -> tuple[dict[str, bytes], int]:
    """Results by name, as the file has them, of which there may be many; and its good bytes."""
    done, good = {}, 0
    with open(path, "rb") as file:
        for line in file:
            entry = line[9:-1]
            if not line.endswith(b"\n") or line[:8] != b"%08x" % _crc(entry):
                break
            name, _, text = entry.partition(b"\t")
            done[name.decode()] = text
            good += len(line)
    return done, good


def _is_whole(folder: str) -> bool:
    """Whether all files are there that finished tasks left for later ones."""
    try:
        done, _ = _read(os.path.join(folder, JOURNAL))
        return all(
            os.path.getsize(os.path.join(folder, name.removeprefix(FILE))) == int(size)
            for name, size in done.items()
            if name.startswith(FILE)
        )
    except OSError:
        return False


def _crc(text: bytes) -> int:
    return crc32c(np.frombuffer(text, np.uint8))


def _earlier(folder: str) -> Any:
    """What the work in a folder is for; None if nobody knows."""
    try:
        with open(os.path.join(folder, IDENTITY), "rb") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None


def _changed(earlier: Any, identity: Mapping[str, Any] | None) -> tuple[str, ...]:
    if not isinstance(earlier, dict) or identity is None:
        return ()
    return tuple(name for name, value in identity.items() if earlier.get(name) != value)
